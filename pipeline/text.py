"""Pure text: normal forms, words and the final answer of a completion. It knows nothing of think tags or verifiers."""

import difflib
import re
import textwrap
import unicodedata
from collections.abc import Iterable

_SPACE = re.compile(r"\s+")
_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+|[^\w\s]|_")

# NFKC turns 10² into 102, H₂ into H2 and 2½ into 21/2: the sign that a reader sees is put in before.
_RAISED = re.compile("[\u00b2\u00b3\u00b9\u2070\u2074-\u2079]+")
_LOWERED = re.compile("[\u2080-\u2089]+")
_VULGAR = re.compile("(?=[\u00bc-\u00be\u2150-\u215e])")
_SEEN_APART = re.compile("[\u00b2\u00b3\u00b9\u2070\u2074-\u2079\u2080-\u2089\u00bc-\u00be\u2150-\u215e]")

# Characters that a reader cannot see, or that turn the text around them: they are written out.
_HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")

_BRACES = re.compile(r"(?P<box>\\{1,4}boxed\s*\{)|(?P<open>\{)|(?P<close>\})|\\.", re.DOTALL)
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
# After the sign may come emphasis, and a display formula that begins on the next line.
_AFTER = r"(?:[\s*`]*(?:\$\$|\\\[)\s*\n)?[\s*`]*"
_SIGN = rf"[*_`]*\s*(?:\b(?:is|are)\b(?!\s+(?:not|in|based|found|obtained|computed|calculated)\b)[*\s]*:?|:|=){_AFTER}"
_ANSWER = re.compile(rf"\banswers?\b(?:\s+to\s[^\n.:]{{0,80}}?)?{_SIGN}", re.IGNORECASE)
# What of a sentence belongs to its sign: "**The final" before "answer is".
_LEAD = re.compile(r"[*_`]*(?:\b(?:the|my|our)\s+)?[*_`]*(?:\b(?:final|correct)\s+)?[*_`]*\Z", re.IGNORECASE)
_LEAD_LENGTH = 40
_DISPLAY_END = re.compile(r"\s*(?:\$\$|\\\])")
_RESULT = re.compile(rf"\bresult\b{_SIGN}", re.IGNORECASE)
# A full stop that ends a sentence, not one of a number or of a short title (Dr. Smith).
_SENTENCE = re.compile(r"(?:(?<=[\d$)}\]*%])|(?<=[^\W\d_]{4}))[.!?]\**\s+(?=[A-Z])")
_DOLLAR = re.compile(r"(?<!\\)\$")
_BRACKETS = {"\\(": "\\)", "\\[": "\\]"}
# A line that opens or closes a code block, with what an opening one says of its language.
_FENCE = re.compile(r"^[ \t]*(?P<fence>`{3,}|~{3,})[ \t]*(?P<info>[^`\n]*)$", re.MULTILINE)
_PYTHON = ("python", "python3", "py", "py3")


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant, or None where none is like it."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)), None)


def visible(text: object) -> str:
    """A text with hidden and direction-changing characters written out, as in [U+202E]."""
    plain = "" if text is None else str(text).replace("\r\n", "\n")
    return _HIDDEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", plain)


def cut(text: str, length: int) -> str:
    """A text for a message: as much of its beginning as fits into a length, whole words, with a sign that more was."""
    text = text.strip()
    return text if len(text) <= length else f"{text[: length - 1].rsplit(maxsplit=1)[0]}…"


def squeeze(text: str) -> str:
    """Unicode NFC, runs of white space as one space, ends trimmed. Case, numbers and signs stay."""
    return _SPACE.sub(" ", unicodedata.normalize("NFC", text)).strip()


def fold(text: str) -> str:
    """`squeeze` with compatibility forms (NFKC) and case folded: equal for texts a reader would call the same. Raised
    and lowered digits stay apart from the others (10² is 10^2).
    """
    return " ".join(compatible(text).casefold().split())


def words(text: str) -> list[str]:
    """Case-folded words, whole numbers and single signs, in order. Numbers are kept: 12 and 21 are different words."""
    return _WORD.findall(compatible(text).casefold())


def boxed(text: str) -> tuple[int, int] | None:
    r"""Where the content of the last complete, not empty \boxed{...} stands: (start, end) in characters; None without
    one. Of nested boxes it is the inner one.
    """
    found: tuple[int, int] | None = None
    if "boxed" not in text:
        return None
    open_boxes: list[int | None] = []  # where a box's content starts; None for other braces
    for token in _BRACES.finditer(text):
        if token["box"]:
            open_boxes.append(token.end())
        elif token["open"]:
            open_boxes.append(None)
        elif token["close"] and open_boxes:
            start = open_boxes.pop()
            later = start is not None and (found is None or start > found[0])
            if start is not None and later and text[start : token.start()].strip():
                found = (start, token.start())
    return found


def answer_span(text: str) -> tuple[int, int] | None:
    r"""Where the final answer of a completion stands, as (start, end) in characters: the last \boxed{...}, else the
    last <answer>...</answer>, else what follows the last "answer is" or "answer:" to the end of its sentence or line,
    else the same of "result". None where there is none of these, or nothing in it.
    """
    found = _answer(text)
    return None if found is None else found[0]


def answer_mark(text: str) -> tuple[int, int] | None:
    r"""Where the final answer stands together with what marks it as one: \boxed{...}, <answer>...</answer>, or the
    words before it ("the final answer is") with the rest of the sentence. That part read alone has the same answer.
    """
    found = _answer(text)
    return None if found is None else found[1]


def _answer(text: str) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The spans of the final answer alone, and of it with its mark."""
    span = boxed(text)
    if span is not None:
        inner = _trimmed(text, *span)
        return None if inner is None else (inner, (text.rfind("\\boxed", 0, span[0]), span[1] + 1))
    closed = text.lower().rfind("</answer>")  # what opens after it never closes: a loop of tags costs one look each
    for match in reversed(list(_TAGGED.finditer(text, 0, closed + len("</answer>")))) if closed >= 0 else ():
        inner = _trimmed(text, *match.span(1))
        if inner is not None:
            return inner, match.span()
    for sign in (_ANSWER, _RESULT):
        for match in reversed(list(sign.finditer(text))):
            start, end = _sentence(text, match.end())
            inner = _trimmed(text, start, end)
            if inner is not None:
                lead = _LEAD.search(text, max(0, match.start() - _LEAD_LENGTH), match.start())
                closing = _DISPLAY_END.match(text, end) if match[0].rstrip().endswith(("$$", "\\[")) else None
                return inner, (lead.start() if lead else match.start(), closing.end() if closing else end)
    return None


def final_answer(text: str) -> str | None:
    """The final answer of a completion as written (see `answer_span`), or None."""
    span = answer_span(text)
    return None if span is None else text[span[0] : span[1]]


def code_span(text: str) -> tuple[int, int] | None:
    """Where the content of the last complete code block stands that says it is Python, else of the last one that names
    no language; (start, end) in characters, None without one.
    """
    found: dict[bool, tuple[int, int]] = {}  # by whether it says so
    opening: re.Match[str] | None = None
    for line in _FENCE.finditer(text):
        fence, info = line["fence"], line["info"].strip()
        if opening is None:
            opening = line
        elif not info and fence.startswith(opening["fence"]):
            language = (opening["info"].lower().split() or [""])[0]
            if language in ("", *_PYTHON):
                found[bool(language)] = (min(opening.end() + 1, line.start()), line.start())
            opening = None
    return found.get(True) or found.get(False)


def final_code(text: str) -> str | None:
    """The last complete Python code block of a completion (see `code_span`), without the indentation of a list around
    it; None without one that holds anything.
    """
    span = code_span(text)
    code = "" if span is None else textwrap.dedent(text[span[0] : span[1]])
    return code if code.strip() else None


def compatible(text: str) -> str:
    """Compatibility forms (NFKC) folded, with the sign that a reader sees before raised and lowered digits."""
    if text.isascii():
        return text
    if _SEEN_APART.search(text):
        text = _RAISED.sub(lambda match: "^" + match[0], _LOWERED.sub(lambda match: "_" + match[0], text))
        text = _VULGAR.sub(" ", text)
    return unicodedata.normalize("NFKC", text)


def _sentence(text: str, start: int) -> tuple[int, int]:
    """From `start` to the end of the sentence or of the line, whichever comes first."""
    newline = text.find("\n", start)
    end = len(text) if newline < 0 else newline
    stop = _SENTENCE.search(text, start, end)
    return (start, end) if stop is None else (start, stop.start() + 1)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int] | None:
    r"""A span without white space, emphasis, maths delimiters and a final full stop around it; None where nothing is
    left. Delimiters of two formulas ($5$ and $6$) stay.

    A trace that loops may end in a million dots, or brackets: no step that comes again and again copies the text.
    """
    left = {opening: text.count(opening, start, end) for opening in _BRACKETS}
    while start < end:
        inner = _trimmed_emphasis(text, start, end)
        if inner == (start, end):
            inner = _trimmed_maths(text, start, end, left)
        if inner == (start, end):
            return start, end
        start, end = inner
    return None


def _trimmed_emphasis(text: str, start: int, end: int) -> tuple[int, int]:
    """A span without white space and emphasis around it and full stops after it."""
    while start < end and (text[start].isspace() or text[start] in "*`"):
        start += 1
    while start < end and (text[end - 1].isspace() or text[end - 1] in "*`" or _full_stop(text, start, end)):
        end -= 1
    return start, end


def _full_stop(text: str, start: int, end: int) -> bool:
    return text[end - 1] == "." and end - start > 1 and not text.endswith("\\right.", start, end)


def _trimmed_maths(text: str, start: int, end: int, left: dict[str, int]) -> tuple[int, int]:
    r"""A span without one empty \boxed{} after it, or one pair of delimiters around it.

    `left` counts the opening brackets within the span; those taken away are taken off it.
    """
    if text.endswith("\\boxed{}", start, end):
        return start, end - len("\\boxed{}")
    if "$" in (text[start], text[end - 1]):
        part = text[start:end]
        inner = part.strip("$")
        if _DOLLAR.search(inner) is not None or inner.endswith("\\"):
            return start, end
        return start + len(part) - len(part.lstrip("$")), end - (len(part) - len(part.rstrip("$")))
    for opening, closing in _BRACKETS.items():
        if text.endswith(closing, start, end) and left[opening] <= 1:
            if text.startswith(opening, start, end):
                left[opening] -= 1
                return start + len(opening), end - len(closing)
            if not left[opening]:
                return start, end - len(closing)
    return start, end
