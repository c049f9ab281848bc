"""What share of a training set each kind of example is given, and what becomes of those that are left no room.

It judges no trace (`choosing.py` says which are good); how much a share comes to is in `blending.py`.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline import general
from pipeline.blending import Item, Kind, Short, Shortage, kind_shares, quotas, rounded, taken
from pipeline.choosing import Candidate
from pipeline.section import Section
from pipeline.sources import Candidate as Row


class Shares(Section):
    """How much of each kind there shall be."""

    later: ClassVar[frozenset[str]] = frozenset(
        {
            "domain_shares",
            "teacher_shares",
            "long_share",
            "long_tokens",
            "shares_by",
            "size",
            "short",
            "repeat_limit",
        }
    )

    domain_shares: dict[str, float] = {}  # domain -> its share of the examples, together 1; empty: as they come
    # Teacher's label -> its share of each domain, among those that answered it.
    teacher_shares: dict[str, float] = {}
    long_share: float | None = Field(None, ge=0, le=1)  # share of long traces in each domain and teacher; null: any
    long_tokens: int = Field(2048, ge=1)  # completion tokens from which on a trace is long
    shares_by: Literal["rows", "tokens"] = "rows"  # what shares and `size` count: examples, or their completion tokens
    size: int | None = Field(None, ge=1)  # how many there shall be where there are shares; null: as many as they allow
    # Where a kind runs short of its share of `size`: stop; take less of all, so that the shares hold; take its examples
    # again. Without a size the first two take what the scarcest kind allows.
    short: Short = "error"
    repeat_limit: int = Field(4, ge=1)  # short: repeat takes an example so many times at most

    @model_validator(mode="after")
    def _sums_to_one(self) -> "Shares":
        for name, shares in (("domain_shares", self.domain_shares), ("teacher_shares", self.teacher_shares)):
            # As this is written, .nan is refused too.
            if shares and not (all(each >= 0 for each in shares.values()) and abs(sum(shares.values()) - 1) <= 1e-6):
                raise ValueError(f"{name} are {shares}, which sum to {sum(shares.values()):g}; expected shares of 1")
        if self.size is not None and not self.blends:
            raise ValueError(
                f"size is {self.size}, and no kind has a share: give domain_shares, teacher_shares or long_share, or "
                f"leave size out"
            )
        if self.long_share is None and self.long_tokens != type(self).model_fields["long_tokens"].default:
            raise ValueError(f"long_tokens is {self.long_tokens}, and long_share is none: give it, or leave both out")
        return self

    @property
    def blends(self) -> bool:
        """Whether kinds of examples have shares."""
        return bool(self.domain_shares or self.teacher_shares) or self.long_share is not None

    @property
    def dimensions(self) -> tuple[dict[str, float], ...]:
        """The shares of each dimension of `kind_of`."""
        long = self.long_share or 0.0
        return self.domain_shares, self.teacher_shares, {"long": long, "short": 1 - long}

    def kind_of(self, one: Candidate, domain: str) -> Kind:
        """What a trace is in each dimension that has shares."""
        length = "long" if one.completion_tokens >= self.long_tokens else "short"
        return (
            domain if self.domain_shares else None,
            one.teacher if self.teacher_shares else None,
            length if self.long_share is not None else None,
        )

    def amount(self, one: Candidate) -> int:
        """What a trace counts for."""
        return one.completion_tokens if self.shares_by == "tokens" else 1


@dataclass(frozen=True)
class Decision:
    """What becomes of every trace, and of every row of the general set."""

    candidates: list[Candidate]  # with all reasons against them
    times: Mapping[str, int]  # id of an example -> how often it is taken
    blend: list[dict[str, Any]]  # of each kind: its share as asked for and as it came out


def blended(
    wishes: Shares,
    decided: list[Candidate],
    places: Mapping[str, int],
    domains: Mapping[str, str],
    rows: Sequence[Row] = (),
    validates: Callable[[str], bool] = lambda problem_id: False,
) -> Decision:
    """Add over_share or no_share to the passing traces that shares leave no room for, and say how often each other
    example is taken.

    `places` say which of a problem's traces come first (see `choosing.ranks`), `domains` go by problem id, `rows` are
    the general set's, `validates` says of a problem whether its examples are for validation, where none is repeated.
    Raises Shortage where the shares cannot be held.
    """
    passing = [one for one in decided if not one.reasons]
    once = {general.example_id(row): 1 for row in rows}
    if not wishes.blends:
        return Decision(decided, {**dict.fromkeys((one.id for one in passing), 1), **once}, [])
    items = [
        Item(one.id, wishes.kind_of(one, domains[one.problem_id]), wishes.amount(one), places[one.id])
        for one in passing
    ]
    if wishes.domain_shares:
        items += general_items(wishes, rows, {domains[one.problem_id] for one in passing})
    shares = kind_shares((item.kind for item in items), wishes.dimensions)
    quota = _quota(wishes, items, shares)
    quota = rounded(quota) if wishes.shares_by == "rows" else quota
    times = taken(items, quota, wishes.repeat_limit if wishes.short == "repeat" else 1)
    held = {one.id for one in passing if validates(one.problem_id)}
    held |= {general.example_id(row) for row in rows if validates(row.id)}
    times = Counter({key: 1 if key in held else count for key, count in times.items()})
    kinds = {item.id: item.kind for item in items}
    final = [
        one.without("over_share" if shares[kinds[one.id]] else "no_share")
        if one.id in kinds and one.id not in times
        else one
        for one in decided
    ]
    if not wishes.domain_shares:
        times.update(once)
    lacking = set(wishes.domain_shares) - {kind[0] for kind, share in shares.items() if share > 0}
    absent = {name: wishes.domain_shares[name] for name in sorted(lacking) if wishes.domain_shares[name] > 0}
    return Decision(final, times, blend_facts(items, shares, times, absent))


def _quota(wishes: Shares, items: Sequence[Item], shares: Mapping[Kind, float]) -> dict[Kind, float]:
    """How much of each kind is taken. Raises Shortage where that cannot be held."""
    available: Counter[Kind] = Counter()
    for item in items:
        available[item.kind] += item.amount
    missing: dict[Kind, float] = {
        (name, None, None): share for name, share in wishes.domain_shares.items() if share > 0
    }
    there = {kind[0] for kind, share in shares.items() if share > 0}
    asked = {kind: share for kind, share in missing.items() if kind[0] not in there and wishes.short == "error"}
    try:
        quota = quotas(available, {**shares, **asked}, wishes.size, wishes.short, wishes.repeat_limit)
    except Shortage as error:
        raise Shortage(
            f"mix cannot hold its shares, counted in {wishes.shares_by}: {error}. Lower size, change the shares, make "
            f"more traces, or set mix.short to take_less or repeat."
        ) from error
    if not all(quota.values()) and asked:
        raise Shortage(
            f"mix cannot hold its shares: nothing passed of {', '.join(str(kind[0]) for kind in asked)}, or nothing of "
            f"a teacher and length that have a share. Change the shares, or set mix.short to take_less or repeat."
        )
    return quota


def general_items(wishes: Shares, rows: Sequence[Row], domains: set[str]) -> list[Item]:
    """The general set's rows as items; their tokens are estimated as a quarter of their characters. Raises Shortage
    where a domain is one of `domains`, the traces'.
    """
    clash = domains & {row.domain for row in rows}
    if clash:
        raise Shortage(
            f"the domain {min(clash)!r} is one of traces and of mix.general too, so its share would be of both. Give "
            f"the general set a domain of its own (defaults.domain)."
        )
    by_tokens = wishes.shares_by == "tokens"
    return [
        Item(general.example_id(row), (row.domain, None, None), max(1, len(row.answer) // 4) if by_tokens else 1)
        for row in rows
    ]


def blend_facts(
    items: Sequence[Item], shares: Mapping[Kind, float], times: Mapping[str, int], absent: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Of each kind: what there was, what was taken (repeats counted), the share asked for and the share it has; at last
    the domains that have a share and no example of a kind with one.
    """
    there: Counter[Kind] = Counter()
    got: Counter[Kind] = Counter()
    for item in items:
        there[item.kind] += item.amount
        got[item.kind] += item.amount * times.get(item.id, 0)
    whole = sum(got.values()) or 1
    return [
        {
            "domain": kind[0],
            "teacher": kind[1],
            "length": kind[2],
            "available": there[kind],
            "taken": got[kind],
            "share_asked": round(shares[kind], 6),
            "share": round(got[kind] / whole, 6),
        }
        for kind in sorted(there, key=lambda kind: tuple(value or "" for value in kind))
    ] + [
        {"domain": name, "teacher": None, "length": None}
        | {"available": 0, "taken": 0, "share_asked": round(share, 6), "share": 0.0}
        for name, share in absent.items()
    ]
