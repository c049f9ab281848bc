"""What a teacher's answer to a rewriting prompt is worth: the new problem in it, and what is wrong with that.

It asks no model, and does not know which problems there are already (`sources/selection.py` does).
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from pipeline.similarity.normal import normal_words, numbers
from pipeline.sources.candidate import Candidate
from pipeline.text import boxed, fold
from pipeline.think import split
from pipeline.verifiers.math import NUMBER_WORDS
from pipeline.verifiers.plain import plain

_OPENING = re.compile(r"<problem>", re.IGNORECASE)
_CLOSING = re.compile(r"</problem>", re.IGNORECASE)
_QUOTES = (('"', '"'), ("“", "”"), ("'", "'"), ("**", "**"), ("`", "`"))
# "one" is left out: it is a pronoun more often than a number.
_VALUES = {word: str(value) for value, word in enumerate(NUMBER_WORDS) if word != "one"}
# Shares and multiples change an answer as a number does: a third that became a quarter.
_SHARES = {
    "half": ("halves",),
    "third": ("thirds",),
    "quarter": ("quarters",),
    "twice": ("double", "doubled"),
    "thrice": ("triple", "tripled"),
}
_VALUES |= {form: name for name, others in _SHARES.items() for form in (name, *others)}
_TELLING = re.compile(r"\d|[^\W\d_]{3,}")  # a number or a word; a lone letter stands in any text


def rewritten(raw: str) -> str | None:
    """The problem that an answer holds: what follows its last <problem> tag, up to the closing one where there is one.

    Reasoning before the answer does not count, whichever model wrote it. None where there is no tag, or nothing in it.
    """
    parts = split(raw, thinking=True)
    if "think_unclosed" in parts.faults:
        return None
    said = raw if "think_missing" in parts.faults else raw[slice(*parts.answer)]
    openings = list(_OPENING.finditer(said))
    if not openings:
        return None
    inside = _CLOSING.split(said[openings[-1].end() :], maxsplit=1)[0]
    return _unquoted(inside.strip()) or None


def _unquoted(text: str) -> str:
    for opening, closing in _QUOTES:
        inner = text[len(opening) : -len(closing)]
        around = text.startswith(opening) and text.endswith(closing) and len(text) >= len(opening) + len(closing)
        if around and opening not in inner and closing not in inner:
            return inner.strip()
    return text


def flaw(parent: Candidate, text: str, keeps_answer: bool, keeps_numbers: bool = True) -> tuple[str, str] | None:
    """The reason against a rewriting of `parent`, as a slug, and its detail; None where nothing speaks against it.

    same_text: it says what the parent says, but for case and punctuation. answer_leaked: it gives an answer. Where the
    parent's answer is to be kept: numbers_changed (unless they may), and choices_changed for options that are gone or
    in another order.
    """
    if normal_words(text) == normal_words(parent.text):
        return "same_text", ""
    if boxed(text) is not None and boxed(parent.text) is None:
        return "answer_leaked", "it holds a boxed answer"
    if not keeps_answer:
        return None
    if _times(parent.answer, text) > _times(parent.answer, parent.text):
        return "answer_leaked", f"it says {parent.answer!r}"
    before, after = quantities(parent.text), quantities(text)
    if keeps_numbers and before != after:
        lost, new = before - after, after - before
        return "numbers_changed", f"lost: {_listed(lost)}; new: {_listed(new)}"
    choices = options(parent)
    if _in_order(choices, parent.text) and not _in_order(choices, text):
        return "choices_changed", f"expected, in this order: {', '.join(choices)}"
    return None


def quantities(text: str) -> Counter[str]:
    """How often a text gives each number, in digits or as a word: zero to twenty but for "one", a half, twice."""
    text_words = normal_words(text)
    return Counter([*numbers(text_words), *(_VALUES[word] for word in text_words if word in _VALUES)])


def options(problem: Candidate) -> list[str]:
    """The answer options that a problem's `verifier_data` lists, in order."""
    return [str(choice) for choice in json.loads(problem.verifier_data).get("choices", [])]


def _times(answer: str, text: str) -> int:
    """How often an answer stands in a text; 0 for one that any text may hold by chance."""
    wanted, found = normal_words(plain(answer)), normal_words(text)
    if not wanted or not _TELLING.search(answer):
        return 0
    return sum(found[place : place + len(wanted)] == wanted for place in range(len(found) - len(wanted) + 1))


def _listed(counted: Mapping[str, int]) -> str:
    return ", ".join(sorted(counted)) or "none"


def _in_order(choices: Sequence[str], text: str) -> bool:
    place, folded = 0, fold(text)
    for choice in map(fold, choices):
        place = folded.find(choice, place)
        if place < 0:
            return False
        place += len(choice)
    return True
