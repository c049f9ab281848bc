"""The words that texts are compared by: case, white space, punctuation and LaTeX dress folded, numbers and signs kept.

It compares nothing itself.
"""

import re
import unicodedata
from collections.abc import Sequence

from pipeline.text import words

_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{([^{}]*)\}\s*\{([^{}]*)\}|(\d)\s*(\d))")
_FRACTION_DEPTH = 8  # nested fractions beyond this keep their innermost form; both sides of a comparison do
# In this order: each pattern may rely on the ones before it.
_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|limits)(?![a-zA-Z])", " "),
        (r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|mathsf|operatorname|boxed)\*?(?=\s*\{)", " "),
        (r"\\(?:cdot|times|ast)(?![a-zA-Z])|[×·∗⋅]", " * "),
        (r"\\div(?![a-zA-Z])|[÷⁄∕]", " / "),  # noqa: RUF001
        (r"\\leq?(?![a-zA-Z])|<=", " ≤ "),
        (r"\\geq?(?![a-zA-Z])|>=", " ≥ "),
        (r"\\neq?(?![a-zA-Z])|!=", " ≠ "),
        (r"[−–—]", "-"),
        (r"\{,\}", ","),
        (r"(?<=\d)\\,(?=\d{3}(?!\d))", ""),
        (r"\\[,;:!\s()\[\]\\]|[$~]", " "),
        (r"[\\{}]", " "),
        (r"(?<=\w)\*\*(?=\w)", "^"),  # power as programs write it; elsewhere ** is bold type
        (r"\*\*", " "),
        (r"(?<=\d),(?=\d{3}(?!\d))", ""),  # 1,000 is 1000
        (r"(?<=\d),(?=\d)", " "),
        (r"(?<=[\d)])!", " factorial "),
        (r"(?<=[^\W\d_]{2})-(?=[^\W\d_]{2})", " "),  # well-known; a - b with one letter each is a difference
        (r"([\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])", r" \1 "),  # scripts without spaces: a sign is a word
    )
)
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_KEPT_SIGNS = frozenset("()[]*/%-^")


def normal_words(text: str) -> list[str]:
    r"""The words (see `pipeline.text.words`) of a text with its LaTeX read as plain text and its punctuation dropped.

    \frac{1}{2}, $\dfrac12$ and 1/2 give 1 / 2; \left( gives (; 1,000 gives 1000. Signs that carry meaning in a formula
    stay words: operators, comparisons, brackets, percent.
    """
    text = _SUPERSCRIPT.sub(lambda match: "^" + unicodedata.normalize("NFKC", match[0]), text)
    if "\\" in text:
        text = _plain_fractions(text)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return [word for word in words(text) if word.isalnum() or word[0].isalnum() or _is_meaningful(word)]


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


def _is_meaningful(sign: str) -> bool:
    kind = unicodedata.category(sign[0])
    return sign in _KEPT_SIGNS or kind == "Sm" or kind[0] not in "PSZC"
