"""Answers of several attempts at a problem, counted: which of them are one answer, and which one is given most often.

It knows no right answer.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from pipeline.text import fold
from pipeline.verifiers.plain import plain
from pipeline.verifiers.pool import Item, Pool

AT_ONCE = 256  # ballots whose votes are compared at once
LONGEST = 500  # characters; a longer answer is another's equal by its text alone


@dataclass(frozen=True)
class Ballot:
    """The final answers of several attempts at a problem (None: an attempt without one), and how they compare."""

    votes: Sequence[str | None]
    verifier: str | None = "math"  # None: by their texts alone


@dataclass(frozen=True)
class Agreement:
    """The answer that most votes give, as it was written most often, and how many of them."""

    answer: str
    count: int


@dataclass(frozen=True)
class _Form:
    """Votes that differ in nothing but typography."""

    written: str  # as most of them are
    count: int
    key: str


def alike(ballots: Sequence[Ballot], pool: Pool) -> list[list[int | None]]:
    """For each vote of each ballot the number of its answer in that ballot; None for none.

    Votes are one answer where their texts are, typography aside, or where the verifier takes one for the other: 1/2
    and 0.5.
    """
    found: list[list[int | None]] = []
    for ballot, (forms, leaders) in zip(ballots, _tallied(ballots, pool), strict=True):
        numbers = {form.key: leader for form, leader in zip(forms, leaders, strict=True)}
        found.append([None if vote is None else numbers[normal(vote)] for vote in ballot.votes])
    return found


def agreements(ballots: Sequence[Ballot], pool: Pool) -> list[Agreement | None]:
    """The commonest answer of each ballot; None where nobody voted. Of equally common ones any may be given."""
    return [_commonest(forms, leaders) for forms, leaders in _tallied(ballots, pool)]


def _tallied(ballots: Sequence[Ballot], pool: Pool) -> Iterator[tuple[list[_Form], list[int]]]:
    """Of each ballot the forms of its votes, the commonest first, and for each the first form that is the same."""
    for start in range(0, len(ballots), AT_ONCE):
        some = ballots[start : start + AT_ONCE]
        tallies = [_forms(ballot.votes) for ballot in some]
        pairs = [
            (number, one, other)
            for number, (ballot, forms) in enumerate(zip(some, tallies, strict=True))
            for one, other in combinations(_short(forms) if ballot.verifier else (), 2)
        ]
        items = (
            Item(some[number].verifier or "", tallies[number][other].written, tallies[number][one].written)
            for number, one, other in pairs
        )
        equal: list[set[tuple[int, int]]] = [set() for _ in tallies]
        for index, judgement in pool.judge(items):
            if judgement.outcome == "right":
                number, one, other = pairs[index]
                equal[number].add((one, other))
        yield from ((forms, _leaders(len(forms), same)) for forms, same in zip(tallies, equal, strict=True))


def _short(forms: Sequence[_Form]) -> list[int]:
    return [place for place, form in enumerate(forms) if len(form.written) <= LONGEST]


def normal(vote: str) -> str:
    """The text of a vote without typography: equal for votes that are one by their texts."""
    return fold(plain(vote))


def _forms(votes: Sequence[str | None]) -> list[_Form]:
    written: dict[str, Counter[str]] = {}
    for vote in votes:
        if vote is not None:
            written.setdefault(normal(vote), Counter())[vote] += 1
    forms = [
        _Form(min(counts, key=lambda text: (-counts[text], len(text), text)), counts.total(), key)
        for key, counts in written.items()
    ]
    return sorted(forms, key=lambda form: (-form.count, form.written))


def _leaders(count: int, equal: set[tuple[int, int]]) -> list[int]:
    leaders: list[int] = []
    for place in range(count):
        leaders.append(next((one for one in dict.fromkeys(leaders) if (one, place) in equal), place))
    return leaders


def _commonest(forms: Sequence[_Form], leaders: Sequence[int]) -> Agreement | None:
    counts: dict[int, int] = {}
    for form, leader in zip(forms, leaders, strict=True):
        counts[leader] = counts.get(leader, 0) + form.count
    if not counts:
        return None
    best = max(counts, key=lambda place: (counts[place], -place))
    return Agreement(forms[best].written, counts[best])
