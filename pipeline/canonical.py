"""Canonical keys: a text that is equal for problems that are the same exercise, and the size of a space of them.

It draws no problems and rejects none (`sources/` does); near copies in other words are for `similarity/`.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pipeline import expression
from pipeline.text import final_answer, squeeze, words

NUMBERS_READ = 64  # of an answer, the last ones: a whole solution holds more, and ends with what it found

Metadata = Mapping[str, Any]


@dataclass(frozen=True)
class Reading:
    """What a reader takes a text for: the exercise by its key, and by how much a number misses its answer, with a sign
    that turns where the number passes it.
    """

    key: str
    miss: Callable[[Fraction], Fraction]


Reader = Callable[[str, Metadata], Reading | None]

# A run of digits, operators and parentheses; the bound keeps a line of dashes from costing its length squared.
_RUN = re.compile(r"[-+(\s]{0,20}\d[\d.\s+*/()-]*")
_INTEGER = re.compile(r"\d+")
# A number of an answer: whole, with its decimals, or a quotient of two.
_NUMBER = re.compile(r"(?<![\w.])-?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+|/\d+)?|\.\d+)")
_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}")
_GCD = re.compile(r"\b(?:gcd|gcf|hcf|(?:greatest|highest) common (?:divisor|factor))\b", re.IGNORECASE)
_LCM = re.compile(r"\b(?:lcm|(?:least|lowest|smallest) common multiple)\b", re.IGNORECASE)


def canonical_key(task: str, text: str, metadata: Metadata | None = None) -> str:
    """The key of a problem of a task: equal where operands that commute are swapped or a variable is renamed.

    `metadata` is what a generator says of its item, where there is one. Tasks without a reader in TASKS, and texts
    that their reader cannot read, get the generic key: the folded words in order, numbers and signs kept.
    """
    reader = TASKS.get(task)
    reading = None if reader is None else reader(text, metadata or {})
    return _generic(text) if reading is None else reading.key


def canonical_keys(task: str, text: str, metadata: Metadata | None = None, answer: str | None = None) -> frozenset[str]:
    """Every key that a problem goes by: two problems that share one are the same exercise.

    A task that is not in TASKS, such as a user's own, is read by every reader: a copy of a held-out item counts under
    any name. Keys do not name the task: 4 + 1 asked by two generators is one exercise. But a text that only mentions
    1/2 asks something else: what such a reader finds counts where `answer`, the reference answer, gives a number that
    solves it, or where nobody knows the answer (None).
    """
    if task in TASKS:
        return frozenset({_generic(text), canonical_key(task, text, metadata)})
    # Metadata of another task may use the same names for other things.
    read = (reader(text, {}) for reader in dict.fromkeys(TASKS.values()))
    found = [reading for reading in read if reading is not None]
    return frozenset({_generic(text), *(one.key for one in found if answer is None or _solves(answer, one))})


class Space:
    """How many different keys there are where some were drawn, repeats included: a lower bound in expectation.

    Chao's estimator (Chao 1984, "Nonparametric estimation of the number of classes in a population") in its
    bias-corrected form: seen + f1 (f1 - 1) / (2 (f2 + 1)), where f1 keys were seen once and f2 twice. Rare keys of an
    uneven generator are undercounted, so the estimate grows with the draws, up to what there is.
    """

    def __init__(self) -> None:
        self._times: Counter[str] = Counter()

    def add(self, keys: Iterable[str]) -> None:
        """Count more drawn keys."""
        self._times.update(keys)

    @property
    def drawn(self) -> int:
        """How many keys were drawn."""
        return self._times.total()

    @property
    def estimate(self) -> float:
        """The estimated number of different keys."""
        times = Counter(self._times.values())
        return len(self._times) + times[1] * (times[1] - 1) / (2 * (times[2] + 1))

    @property
    def covered(self) -> float:
        """The share of all further draws that would meet a key seen already (Good 1953): 1 - f1 / drawn."""
        once = sum(count == 1 for count in self._times.values())
        return 1 - once / self.drawn if self.drawn else 0.0


def draws_to_tell(space: int) -> int:
    """How many draws tell a space under `space` from a larger one where all its keys are as likely.

    About 200 pairs of equal keys are expected among them at that size (the birthday problem), which leaves the
    estimate a standard error of some 7 %.
    """
    return math.ceil(math.sqrt(2 * 200 * space))


def _generic(text: str) -> str:
    return "text " + " ".join(words(text))


def _solves(answer: str, reading: Reading) -> bool:
    """Whether one of an answer's numbers solves the exercise; decimals stand for all that is rounded to them."""
    if len(reading.key) > expression.LIMIT:
        return False  # nobody asks for so long a sum, and it would take long to work out
    for guess, margin in _guesses(final_answer(answer) or answer):
        try:
            if reading.miss(guess - margin) * reading.miss(guess + margin) <= 0:
                return True
        except (ValueError, ZeroDivisionError):  # a number too large for its type, or no solution at all
            continue
    return False


def _guesses(answer: str) -> Iterator[tuple[Fraction, Fraction]]:
    """The numbers of an answer, each with half a unit of its last decimal; 0 for a whole number or a quotient."""
    written = _NUMBER.findall(_FRACTION.sub(r"\1/\2", expression.plain(answer)))
    for number in list(dict.fromkeys(written))[-NUMBERS_READ:]:
        decimals = len(number.partition(".")[2])
        try:
            yield Fraction(number.replace(",", "")), Fraction(1, 2 * 10**decimals) if decimals else Fraction(0)
        except (ValueError, ZeroDivisionError):  # more digits than int() accepts, or a quotient by 0
            continue


def _expression(text: str, metadata: Metadata) -> Reading | None:
    found = metadata.get("expression")
    if found is None:
        runs = [match.group().rstrip(" .(+-*/") for match in _RUN.finditer(expression.plain(squeeze(text)))]
        found = runs[0] if len(runs) == 1 else ""
    tree = expression.parse(str(found))
    if tree is None or expression.names(tree) or expression.numbers(tree) < 2:
        return None
    return Reading("expression " + expression.normal(tree), lambda guess: expression.value(tree) - guess)


def _equation(text: str, metadata: Metadata) -> Reading | None:
    found = metadata.get("equation", squeeze(text).rpartition(":")[2].rstrip(" ."))
    sides = [side for part in str(found).split("=") if (side := expression.parse(part)) is not None]
    if len(sides) != 2 or str(found).count("=") != 1:
        return None
    variables = expression.names(*sides)
    if len(variables) != 1:
        return None
    (variable,) = variables

    def miss(guess: Fraction) -> Fraction:
        left, right = (expression.value(side, {variable: guess}) for side in sides)
        return left - right

    return Reading("equation " + " = ".join(sorted(expression.normal(side, {variable: "x"}) for side in sides)), miss)


def _numbers(
    name: str, asked: re.Pattern[str], value: Callable[..., int], text: str, metadata: Metadata
) -> Reading | None:
    found = metadata.get("numbers")
    if found is None:
        found = _INTEGER.findall(text) if asked.search(text) else []
    if len(found) < 2:
        return None
    # As text: a file may hold more digits than int() accepts.
    plain = [str(number).lstrip("0") or "0" for number in found]
    key = f"{name} " + " ".join(sorted(plain, key=lambda number: (len(number), number)))
    return Reading(key, lambda guess: value(*map(int, plain)) - guess)


def _gcd(text: str, metadata: Metadata) -> Reading | None:
    return _numbers("gcd", _GCD, math.gcd, text, metadata)


def _lcm(text: str, metadata: Metadata) -> Reading | None:
    return _numbers("lcm", _LCM, math.lcm, text, metadata)


# Tasks whose items are equal under more than white space and case.
TASKS: dict[str, Reader] = {
    "chain_sum": _expression,
    "decimal_chain_sum": _expression,
    "basic_arithmetic": _expression,
    "products": _expression,
    "simple_equations": _equation,
    "gcd": _gcd,
    "lcm": _lcm,
}
