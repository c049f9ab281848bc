"""Which traces of a problem are good, and which of the good ones come first.

It reads no verdicts (`stages/mix.py` does) and balances no kinds of examples (`blending.py` does).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.blending import unlike_first

# Which of a problem's traces come first: the earliest sample; the fewest tokens; each as unlike those before it as can
# be; the judge model's highest rating.
Prefer = Literal["first", "shortest", "diverse", "judge"]
Reasons = tuple[tuple[str, str], ...]
"""All that speaks against a trace: (stage, slug), in the funnel's order."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What the decision about a trace needs to know of it."""

    id: str
    problem_id: str
    sample: int
    completion_tokens: int
    reasons: Reasons
    survivor: str | None  # the trace it duplicates
    teacher: str = ""
    right: bool | None = None  # its answer; None: undecided
    rating: float | None = None  # the judge model's; None: it gave none, or was not asked for

    @property
    def good(self) -> bool:
        """Nothing speaks against it but that it repeats another trace."""
        return all(stage == "dedupe" for stage, _ in self.reasons)

    @property
    def first(self) -> tuple[str, str] | None:
        """The (stage, slug) that the funnel counts it under; None where it is kept."""
        return self.reasons[0] if self.reasons else None

    def without(self, reason: str) -> "Candidate":
        """The same, left out by `mix` for a reason."""
        return replace(self, reasons=(*self.reasons, ("mix", reason)))


def pass_rates(candidates: Iterable[Candidate]) -> dict[str, float | None]:
    """The share of right answers among the decided ones of each problem; None where none is decided."""
    outcomes: dict[str, Counter[bool | None]] = {}
    for one in candidates:
        outcomes.setdefault(one.problem_id, Counter())[one.right] += 1
    return {
        problem_id: found[True] / (found[True] + found[False]) if found[True] + found[False] else None
        for problem_id, found in outcomes.items()
    }


def in_band(candidates: Sequence[Candidate], band: tuple[float, float] | None) -> list[Candidate]:
    """Add too_hard, too_easy or pass_rate_unknown to the traces of problems whose pass rate is outside a band, its ends
    being within it.
    """
    if band is None:
        return list(candidates)
    reasons = {problem_id: _outside(rate, band) for problem_id, rate in pass_rates(candidates).items()}
    return [one.without(reason) if (reason := reasons[one.problem_id]) else one for one in candidates]


def _outside(rate: float | None, band: tuple[float, float]) -> str | None:
    if rate is None:
        return "pass_rate_unknown"
    return "too_hard" if rate < band[0] else "too_easy" if rate > band[1] else None


def revive(candidates: list[Candidate]) -> list[Candidate]:
    """Give a duplicate its place back where the trace it repeats was dropped for another reason: of all duplicates of
    a dropped trace that nothing else speaks against, the shortest (then the smallest id) loses its duplicate reasons.
    """
    dropped = {one.id for one in candidates if one.reasons}
    heirs: dict[str, Candidate] = {}
    duplicates = (one for one in candidates if one.reasons and one.good)
    for candidate in sorted(duplicates, key=lambda one: (one.completion_tokens, one.id)):
        if candidate.survivor in dropped:
            heirs.setdefault(candidate.survivor, candidate)
    revived = {heir.id for heir in heirs.values()}
    return [replace(one, reasons=(), survivor=None) if one.id in revived else one for one in candidates]


def hear_best(candidates: list[Candidate]) -> list[Candidate]:
    """Add weaker_teacher to the good traces whose teacher is not the best on their problem.

    The best has the highest share of right answers among its decided ones; of equals, the one whose good traces are
    shorter on average, then the first by name. A teacher without a good trace is not compared.
    """
    groups: dict[str, dict[str, list[Candidate]]] = {}
    for one in candidates:
        groups.setdefault(one.problem_id, {}).setdefault(one.teacher, []).append(one)
    best = {
        problem: min(teachers, key=lambda name: _rank(name, teachers[name])) for problem, teachers in groups.items()
    }
    return [
        one.without("weaker_teacher") if one.good and one.teacher != best[one.problem_id] else one for one in candidates
    ]


def _rank(teacher: str, traces: list[Candidate]) -> tuple[float, float, str]:
    decided = [one for one in traces if one.right is not None]
    share = sum(bool(one.right) for one in decided) / len(decided) if decided else 0.0
    lengths = [one.completion_tokens for one in traces if one.good]
    return (-share, sum(lengths) / len(lengths), teacher) if lengths else (1.0, 0.0, teacher)


def ranks(
    candidates: Iterable[Candidate], prefer: Prefer, each: bool = False, texts: Mapping[str, str] | None = None
) -> dict[str, int]:
    """The place of each passing trace among those of its problem (`each`: of its problem and teacher), 0 first.

    `texts` holds the raw text of the traces, by id; only `diverse` reads it. With `judge`, traces without a rating come
    after those that have one.
    """
    groups: dict[tuple[str, str], list[Candidate]] = {}
    for candidate in candidates:
        if not candidate.reasons:
            key = candidate.problem_id, candidate.teacher if each else ""
            groups.setdefault(key, []).append(candidate)
    found = {}
    for group in groups.values():
        group.sort(key=lambda one: _preference(one, prefer))
        ids = [one.id for one in group]
        if prefer == "diverse" and len(ids) > 1:
            known = texts or {}
            ids = unlike_first({key: known[key] for key in ids}, ids)
        found.update({key: place for place, key in enumerate(ids)})
    return found


def _preference(one: Candidate, prefer: Prefer) -> tuple[float, int, int, str]:
    by_rating = -(one.rating or 0.0) if prefer == "judge" else 0.0
    return by_rating, (0 if prefer == "first" else one.completion_tokens), one.sample, one.id


def over_cap(places: Mapping[str, int], cap: int | None) -> set[str]:
    """Ids of the traces whose places (see `ranks`) a cap leaves out."""
    return set() if cap is None else {key for key, place in places.items() if place >= cap}
