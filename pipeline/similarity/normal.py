"""The words that texts are compared by: case, white space, punctuation and LaTeX dress folded, numbers and signs kept.

It compares nothing itself.
"""

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.similarity.tokens import (
    DIGIT,
    IDEOGRAM,
    LETTER,
    SIGN,
    SPACE,
    Alphabet,
    Codes,
    Kinds,
    Tokens,
    between,
    code_points,
    tokens,
)
from pipeline.text import compatible

_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{([^{}]*)\}\s*\{([^{}]*)\}|(\d)\s*(\d))")
_FRACTION_DEPTH = 8  # nested fractions beyond this keep their innermost form; both sides of a comparison do
_COMMAND = re.compile(r"\\(?:(operatorname\*|[a-z]+)|(.)|$)", re.DOTALL)
_DIGITS_AHEAD = re.compile(r"\d{3}(?!\d)")
# LaTeX commands that are read otherwise than by their name; to nothing where they are mere dress.
_DRESSING = (
    "left", "right", "big", "bigl", "bigr", "bigg", "biggl", "biggr", "displaystyle", "limits", "text", "textbf",
    "textit", "mathrm", "mathbf", "mathit", "mathsf", "operatorname", "operatorname*", "boxed", "quad", "qquad",
)  # fmt: skip
_COMMANDS = {
    **dict.fromkeys(_DRESSING, " "),
    **dict.fromkeys(("cdot", "times", "ast"), " * "),
    **dict.fromkeys(("le", "leq"), " ≤ "),
    **dict.fromkeys(("ge", "geq"), " ≥ "),
    **dict.fromkeys(("ne", "neq"), " ≠ "),
    **{"div": " / ", "pm": " ± ", "sqrt": " √ ", "infty": " ∞ ", "circ": " ° ", "angle": " ∠ ", "triangle": " △ "},
    **{name: f" {unicodedata.lookup(f'GREEK SMALL LETTER {name.upper()}')} " for name in ("alpha", "beta", "gamma")},
    **{name: f" {unicodedata.lookup(f'GREEK SMALL LETTER {name.upper()}')} " for name in ("pi", "theta")},
}
_DRESS = frozenset(",;:!()[]\\")  # after a backslash: spaces and delimiters of formulas
_SIGNS = (("{,}", ","), ("<=", "≤"), (">=", "≥"), ("!=", "≠"))
_READ = np.arange(0x110000, dtype=np.uint32)  # what each code point is read as
for _written, _meant in (("×·∗⋅", "*"), ("÷⁄∕", "/"), ("−–", "-")):  # noqa: RUF001
    _READ[[ord(sign) for sign in _written]] = ord(_meant)
_READ_ASCII = _READ[:128].astype(np.uint8)
_KEPT_SIGNS = frozenset("()[]*/%-^")
_SCRIPTS_WITHOUT_SPACES = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


def _read(codes: Codes) -> Codes:
    """The code points as they are read, in an array that may be changed."""
    if codes.dtype == np.uint8:
        return _READ_ASCII[codes]
    return _READ[codes]


def normal(text: str) -> Tokens:
    r"""The words of a text with its LaTeX read as plain text and its punctuation dropped.

    \frac{1}{2}, $\dfrac12$ and 1/2 give 1 / 2; \left( gives (; 1,000 gives 1000. Signs that carry meaning in a formula
    stay words: operators, comparisons, brackets, percent.
    """
    return normal_each([text])


def normal_each(texts: Sequence[str]) -> Tokens:
    """The words of some texts as `normal` reads them, one text after the other: of many short ones much faster."""
    dressed = [_without_dress(compatible(text).casefold()) for text in texts]
    text_starts = np.cumsum([0, *(len(text) + 1 for text in dressed)])  # a line's end keeps them apart
    codes = _read(code_points("\n".join(dressed)))
    kinds = _NORMAL.kinds(codes)
    dropped = _numbers_joined(codes, kinds)
    _read_stars(codes, kinds)
    _read_hyphens(codes, kinds)
    marks = np.flatnonzero(codes == ord("!"))
    marks = marks[marks > 0]
    factorial = (kinds[marks - 1] == DIGIT) | (codes[marks - 1] == ord(")"))
    kinds[marks[factorial]] = SIGN
    if len(dropped):
        stays = np.ones(len(codes), dtype=bool)
        stays[dropped] = False
        codes, kinds = codes[stays], kinds[stays]
        text_starts -= np.searchsorted(dropped, text_starts)
    return tokens(codes, kinds, text_starts)


def normal_words(text: str) -> list[str]:
    """The words of `normal` as text."""
    return normal(text).words()


def is_number(word: str) -> bool:
    """Whether a word is a number in digits."""
    return word[:1].isdigit()


def closes_operand(word: str) -> bool:
    """Whether an operand can end with a word: a number, a variable of one letter, a closing bracket."""
    return is_number(word) or word in (")", "]") or (len(word) == 1 and word.isalpha())


def opens_operand(word: str) -> bool:
    """Whether an operand can begin with a word: a number, a variable of one letter, an opening bracket, a minus."""
    return is_number(word) or word in ("(", "[", "-") or (len(word) == 1 and word.isalpha())


def numbers(text_words: Sequence[str]) -> tuple[str, ...]:
    """The numbers among words, in order, with their sign where the minus before them has no operand on its left."""
    found = []
    for index, word in enumerate(text_words):
        if is_number(word):
            minus = index > 0 and text_words[index - 1] == "-"
            operand = index > 1 and closes_operand(text_words[index - 2])
            found.append(f"-{word}" if minus and not operand else word)
    return tuple(found)


def _without_dress(text: str) -> str:
    if "\\" in text:
        text = _COMMAND.sub(_command, _plain_fractions(text))
        text = text.replace("^ ° ", " ").replace("^{ ° }", " ")  # degrees, whose sign is dropped elsewhere
    for written, read in _SIGNS:
        if written[0] in text:  # one character is looked for much faster than two
            text = text.replace(written, read)
    return text


def _command(match: re.Match[str]) -> str:
    name, sign = match[1], match[2]
    if name is not None:
        return _COMMANDS.get(name, f" {name} ")
    if sign is None or sign.isspace():
        return " "
    start, end = match.span()
    if sign == "," and match.string[start - 1 : start].isdecimal() and _DIGITS_AHEAD.match(match.string, end):
        return ""  # 1\,000 is 1000
    return " " if sign in _DRESS else f" {sign}"


def _plain_fractions(text: str) -> str:
    for _ in range(_FRACTION_DEPTH):
        text, count = _FRACTION.subn(_as_division, text)
        if not count:
            break
    return text


def _as_division(match: re.Match[str]) -> str:
    above, below = (match[1], match[2]) if match[1] is not None else (match[3], match[4])
    return f" {_operand(above)} / {_operand(below)} "


def _operand(part: str) -> str:
    part = part.strip()
    return part if part.isalnum() else f"({part})"


def _numbers_joined(codes: Codes, kinds: Kinds) -> npt.NDArray[np.int64]:
    """Make a point between digits a part of the number. Returns the commas to drop: 1,000 is 1000, and 25,15 is not."""
    points = np.flatnonzero(codes == ord("."))
    kinds[points[between(kinds, points, DIGIT)]] = DIGIT
    commas = np.flatnonzero(codes == ord(","))
    commas = commas[between(kinds, commas, DIGIT)]
    if not len(commas):
        return commas
    digit = np.append(_NORMAL.kinds(codes) == DIGIT, np.zeros(4, dtype=bool))
    thousands = digit[commas + 1] & digit[commas + 2] & digit[commas + 3] & ~digit[commas + 4]
    dropped: npt.NDArray[np.int64] = commas[thousands]
    return dropped


def _read_stars(codes: Codes, kinds: Kinds) -> None:
    """Read ** between words as ^, as programs write a power; other runs of stars are bold type."""
    stars = np.flatnonzero(codes == ord("*"))
    for run in np.split(stars, np.flatnonzero(np.diff(stars) != 1) + 1) if len(stars) > 1 else ():
        if len(run) < 2:
            continue
        power = len(run) == 2 and run[0] > 0 and run[1] + 1 < len(codes)
        power = power and all(kinds[place] in (LETTER, DIGIT, IDEOGRAM) for place in (run[0] - 1, run[1] + 1))
        kinds[run] = SPACE
        if power:
            codes[run[0]], kinds[run[0]] = ord("^"), SIGN


def _read_hyphens(codes: Codes, kinds: Kinds) -> None:
    """Drop the hyphen of well-known; a - b with one letter each is a difference."""
    hyphens = np.flatnonzero(codes == ord("-"))
    hyphens = hyphens[(hyphens > 1) & (hyphens < len(codes) - 2)]
    joins = np.ones(len(hyphens), dtype=bool)
    for offset in (-2, -1, 1, 2):
        joins &= kinds[hyphens + offset] == LETTER
    kinds[hyphens[joins]] = SPACE


def _normal_kind(sign: str) -> int:
    if sign.isspace() or sign == "~":
        return SPACE
    if _SCRIPTS_WITHOUT_SPACES.match(sign):
        return IDEOGRAM
    if sign.isdecimal():
        return DIGIT
    if sign.isalnum():
        return LETTER
    kind = unicodedata.category(sign)
    return SIGN if sign in _KEPT_SIGNS or kind == "Sm" or kind[0] not in "PSZC" else SPACE


_NORMAL = Alphabet(_normal_kind)
