r"""An answer without its typography: maths delimiters, \text{...}, quotes, emphasis, a final full stop. It compares
nothing.
"""

import re

from pipeline.text import squeeze

_FONTS = "text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|mbox|operatorname|rm"
_COMMAND = re.compile(rf"\\(?:{_FONTS}|boxed)\s*\{{")
_WORDED = re.compile(rf"\\(?:{_FONTS})\s*\{{([^{{}}]*)\}}")
_SPACE = re.compile(r"\\[,;: ]|\\q?quad\b|(?<=[\d}])~")
_PAIRS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ('"', '"'), ("'", "'"), ("“", "”"))
# A formula in a text. Next to a digit or a space a dollar sign is one of money, as in "$5 and $6" (pandoc's rule).
_FORMULA = re.compile(
    r"(?<![\\$])(\$\$?)(?=[^\s$])((?:[^$\\]|\\.)++)(?<=\S)\1(?![\d$])|(?<!\\)\\\(((?:[^\\]|\\[^()])++)\\\)"
)
# Emphasis begins after no operand and ends before none: 2**3 is a power.
_EMPHASIS = re.compile(r"(?<![\w)}\]*\\])(\*{2,3})(?=[^\s*])((?:(?!\*\*).)+)(?<=[^\s*])\1(?![\w(*])")
# Of an answer that was taken out of its sentence one end may be missing: 5** apples, 3** and **5, x = **5.
_EMPHASIS_END = re.compile(
    r"(?:(?<=\d)\*{2,3}(?=[.,:;!?)\]}%°]|\s(?!\d)|$)|(?<=[^\s*\d])\*{2,3}(?=[\s.,:;!?)\]}%°]|$))"
)
_EMPHASIS_START = re.compile(r"(?<=\s)\*{2,3}(?=[^\s*])")
_EMPHASISED_VALUE = re.compile(r"(?<==\s)\*{2,3}(?=[^\s*])")
_NUMBER = re.compile(r"-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")


def plain(text: str) -> str:
    """The text inside whatever is wrapped around the whole of it, with one space for any white space, a hyphen for a
    minus sign and no emphasis. What else stands within stays as it is.
    """
    text = _unemphasised(squeeze(text).replace("\N{MINUS SIGN}", "-"))
    while (inner := _unwrapped(text)) != text:
        text = inner
    return text


def undelimited(text: str) -> str:
    r"""A text without the delimiters of the formulas in it: "$5$ cm" and "\(5\) cm" are "5 cm". "$5" is money."""
    return _FORMULA.sub(lambda match: match[2] or match[3], text)


def untypeset(text: str) -> str:
    r"""A text with the words of \text{...} and its like between spaces, and a space for each of LaTeX's own."""
    return _SPACE.sub(" ", _WORDED.sub(r" \1 ", text))


def numbers(text: str) -> list[str]:
    """The numbers of a text as written, in order."""
    return _NUMBER.findall(text)


def _unemphasised(text: str) -> str:
    if "**" not in text:
        return text
    text = _EMPHASISED_VALUE.sub("", _EMPHASIS.sub(r"\2", text))
    end = _EMPHASIS_END.search(text)
    if end is None:
        return text
    return text[: end.start()] + _EMPHASIS_END.sub("", _EMPHASIS_START.sub("", text[end.end() :]))


def _unwrapped(text: str) -> str:
    if text.endswith(".") and text.strip("."):
        return text.rstrip(". ")
    for opening, closing in _PAIRS:
        inner = text[len(opening) : -len(closing)]
        whole = text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing)
        if whole and opening not in inner and closing not in inner and not inner.endswith("\\"):
            return inner.strip()
    command = _COMMAND.match(text)
    if command is not None and _closes_at_the_end(text, command.end()):
        return text[command.end() : -1].strip()
    return text


def _closes_at_the_end(text: str, start: int) -> bool:
    depth = 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return position == len(text) - 1
    return False
