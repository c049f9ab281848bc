r"""An answer in the LaTeX that math-verify reads well: 1.5e3, √2, x², 2½, 3 million. It changes no meaning and parses
nothing.
"""

import re
import unicodedata

_HEDGE = re.compile(r"^(?:about|approximately|approx\.?|roughly|exactly|≈|~|\\approx|\\sim)\s*", re.IGNORECASE)
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:(?: |\\,|\\ |\{,\}|\\!,)\d{3})+(?!\d)")
_SCIENTIFIC = re.compile(r"(?<![A-Za-z\d])(\d+(?:\.\d+)?)[eE]([+-]?\d+)(?![A-Za-z\d])")
_ROOT = re.compile(r"√\s*(\d+(?:\.\d+)?|[A-Za-z])")
_RAISED = re.compile("[⁺⁻]?[⁰¹²³⁴-⁹]+")
_STARS = re.compile(r"(?<=[\w)}\]])\s?\*\*\s?(?=[\w({\\.+-])")
_SIGNED_POWER = re.compile(r"\^\s?([+-]\d+)")
_TEN = r"\s*10\s*(?:\^|\*\*|[⁺⁻⁰¹²³⁴-⁹])"  # to some power
_TIMES_TEN = re.compile(rf"(?<=\d)\s*[xX](?={_TEN})")
_VULGAR = re.compile("[¼-¾⅐-⅞]")
_MIXED = re.compile(r"(?<![\d./^_}])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.^])")
_SCALE = re.compile(r"(?<=[\d}])\s*\\?\s*(thousand|million|billion|trillion)s?\b", re.IGNORECASE)
FUNCTIONS = {"sin", "cos", "tan", "cot", "sec", "csc", "log", "exp", "sqrt", "arcsin", "arccos", "arctan", "infinity"}
_SCALES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_OR = re.compile(r"(?:,\s*)?\\(?:text|mathrm|mbox)\s*\{\s*(?:and|or)\s*\}|,\s*(?:and|or)\s+|\s+(?:and|or)\s+|;\s*")
_WORDED = re.compile(r"\\(?:text|mathrm|mbox)\s*\{\s*((?:thousand|million|billion|trillion)s?)\s*\}", re.IGNORECASE)
# Signs of the keyboard and of Unicode for what LaTeX has commands for.
_SIGNS = {
    "≤": r"\leq ", "≥": r"\geq ", "≠": r"\neq ", "∞": r"\infty ", "π": r"\pi ", "±": r"\pm ", "×": r"\times ",
    "·": r"\cdot ", "÷": r"\div ", "\u222a": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "\u211d": r"\mathbb{R}",
    "∅": r"\emptyset ", "–": "-", "\u2212": "-", "°": r"^\circ ", "<=": r"\leq ", ">=": r"\geq ", "!=": r"\neq ",
    r"\varnothing": r"\emptyset ", r"\{\}": r"\emptyset ",
}  # fmt: skip
_SIGN = re.compile("|".join(map(re.escape, _SIGNS)))
# Sums, differences, products and quotients of numbers, except a power of ten: 12 + 7 is a question, not its answer.
_UNFINISHED = re.compile(rf"[\d)}}]\s*(?:[-+÷]|\\div|(?:[*×·]|\\times|\\cdot)(?!{_TEN}))\s*[\d({{\\]")
_REASON = re.compile(r",?\s\(?(?:since|because)\s")


def spelled(answer: str) -> str:
    """The answer with no hedge before it, no spaces within numbers, and powers of ten, roots, mixed numbers, signs and
    lists ("3 and 5") written out."""
    answer = unhedged(answer)
    answer = _GROUPED.sub(lambda match: re.sub(r"\D", "", match[0]), answer)
    answer = scaled(_SCIENTIFIC.sub(r"\1 \\cdot 10^{\2}", answer))
    answer = _MIXED.sub(r"\1\\frac{\2}{\3}", answer)
    answer = _ROOT.sub(r"\\sqrt{\1}", answer)
    answer = _TIMES_TEN.sub(r" \\times ", answer)
    answer = _RAISED.sub(lambda match: "^{" + unicodedata.normalize("NFKC", match[0]) + "}", answer)
    answer = _SIGNED_POWER.sub(r"^{\1}", _STARS.sub("^", answer))
    answer = _VULGAR.sub(lambda match: _fraction(unicodedata.normalize("NFKC", match[0])), answer)
    return _SIGN.sub(lambda match: _SIGNS[match[0]], answer)


def scaled(answer: str) -> str:
    """The answer with powers of ten for the words thousand, million, billion and trillion after a number."""
    return _SCALE.sub(lambda match: rf" \cdot 10^{{{_SCALES[match[1].casefold()]}}}", _WORDED.sub(r" \1", answer))


def unfinished(answer: str) -> bool:
    """Whether every side of the answer leaves something to calculate: 12 + 7, 2 * 3, but not 1.5 * 10^3."""
    return all(_UNFINISHED.search(side) for side in answer.split("="))


def unexplained(answer: str) -> str:
    """The answer without the reason that follows a number in it: "6, since 2 + 4 = 6"."""
    reason = _REASON.search(answer)
    if reason is None or not any(sign.isdigit() for sign in answer[: reason.start()]):
        return answer
    return answer[: reason.start()]


def unhedged(answer: str) -> str:
    """The answer without "about" and its like before it."""
    return _HEDGE.sub("", answer)


def parts(answer: str) -> list[str]:
    """The items of a list of answers: "a, b and c", "3 or 5"; one where it is no list."""
    return [part.strip() for part in re.split(r",", _OR.sub(", ", answer)) if part.strip()]


def balanced(answer: str) -> bool:
    """Whether every brace that opens closes, and none closes before: no answer ends the box it is put in."""
    depth = 0
    for brace in re.findall(r"\\.|[{}]", answer, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(brace, 0)
        if depth < 0:
            return False
    return depth == 0


def _fraction(written: str) -> str:
    upper, _, lower = written.partition("\N{FRACTION SLASH}")
    return rf"\frac{{{upper}}}{{{lower}}}"
