"""How a training set is balanced: how much it takes of each kind of example, which ones, and how unlike they are.

It judges no example and knows no stage: it says which of those it is given are taken, and how often.
"""

import math
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.records import content_id
from pipeline.text import words

# What is done where there is less of a kind than its share asks for: nothing is made; all kinds give less, so that the
# shares hold; the examples of that kind are taken again.
Short = Literal["error", "take_less", "repeat"]
Kind = tuple[str | None, ...]
"""What an example is in each dimension that has shares; None in one that does not apply to it."""

_ROUNDING = 1e-6  # of an example or token: what shares such as .07 leave over in floating point
SHINGLE_WORDS = 3
SKETCH = 256  # hashes kept of a text


class Shortage(ValueError):
    """There are too few examples of a kind: the message names the kinds, what is asked and what there is."""


@dataclass(frozen=True)
class Item:
    """An example that may be taken."""

    id: str
    kind: Kind
    amount: int  # 1, or its tokens
    rank: int = 0  # among those of its problem; 0 is taken first


def kind_shares(kinds: Iterable[Kind], shares: Sequence[Mapping[str, float]]) -> dict[Kind, float]:
    """The share of each kind that there is, by `shares`, one mapping for each dimension.

    The first dimension's shares hold as they are. Each further one divides what those before it give, among the values
    that are there: where one teacher alone answered a domain, the domain is all that teacher's. A value without a share
    gets none, and neither does a kind that holds one.
    """
    there = sorted(set(kinds), key=lambda kind: tuple(value or "" for value in kind))
    found: dict[Kind, float] = {}
    for kind in there:
        share = 1.0
        for dimension, of in enumerate(shares):
            value = kind[dimension]
            if value is None:
                continue
            beside = {other[dimension] for other in there if other[:dimension] == kind[:dimension]}
            whole = 1.0 if dimension == 0 else sum(of.get(other, 0.0) for other in beside if other is not None)
            share *= of.get(value, 0.0) / whole if whole else 0.0
        found[kind] = share
    return found


def quotas(
    available: Mapping[Kind, int], shares: Mapping[Kind, float], size: int | None, short: Short, repeat_limit: int
) -> dict[Kind, float]:
    """How much of each kind is taken, in the unit of `available` (examples, or tokens).

    With a `size` that much is taken in all. Without one, as much as the scarcest kind allows; with `repeat`, as much as
    the most plentiful kind gives, the others repeated up to `repeat_limit` times. Raises Shortage where a kind runs
    short and `short` is error.
    """
    wanted = {kind: share for kind, share in shares.items() if share > 0}
    if not wanted:
        raise Shortage("no example is of a kind that has a share")
    reach = {kind: available.get(kind, 0) / share for kind, share in wanted.items()}
    scarcest = min(reach.values())
    if short == "repeat":
        total = min(max(reach.values()) if size is None else size, repeat_limit * scarcest)
    elif short == "take_less" or size is None:
        total = scarcest if size is None else min(size, scarcest)
    else:
        total = size
        needed = {kind: math.ceil(share * size - _ROUNDING) for kind, share in wanted.items()}
        lacking = [
            f"{named(kind)}: {available.get(kind, 0):,} of {needed[kind]:,}"
            for kind, share in wanted.items()
            if available.get(kind, 0) < share * size - _ROUNDING
        ]
        if lacking:
            raise Shortage(f"too few examples of {'; '.join(lacking)}")
    return {kind: share * total for kind, share in wanted.items()}


def rounded(quota: Mapping[Kind, float]) -> dict[Kind, float]:
    """Quotas of examples as whole numbers that sum to what they sum to, rounded (the method of largest remainders)."""
    whole = {kind: math.floor(amount + _ROUNDING) for kind, amount in quota.items()}
    left = math.floor(sum(quota.values()) + 0.5) - sum(whole.values())
    by_remainder = sorted(
        quota, key=lambda kind: (round(whole[kind] - quota[kind], 6), [value or "" for value in kind])
    )
    return {kind: float(whole[kind] + (kind in by_remainder[:left])) for kind in quota}


def named(kind: Kind) -> str:
    """A kind in words."""
    return " / ".join(value for value in kind if value is not None) or "any kind"


def taken(items: Iterable[Item], quota: Mapping[Kind, float], repeat_limit: int = 1) -> Counter[str]:
    """How often each example is taken: id -> times, those not taken left out.

    A kind's quota is filled with the best example of each problem first, then with the second ones, in an order that
    ids alone decide. One that does not fit is passed over; the last is taken where at least half of it still fits.
    """
    groups: dict[Kind, list[Item]] = defaultdict(list)
    for item in items:
        groups[item.kind].append(item)
    times: Counter[str] = Counter()
    for kind, group in groups.items():
        group.sort(key=lambda item: (item.rank, content_id("blend", item.id)))
        left = quota.get(kind, 0.0)
        for item in group * repeat_limit:
            if left <= _ROUNDING:
                break
            if item.amount <= 2 * left + _ROUNDING:
                times[item.id] += 1
                left -= item.amount
    return times


def unlike_first(texts: Mapping[str, str], first: Sequence[str]) -> list[str]:
    """The ids of `texts`, each as unlike all before it as can be (Gonzalez 1985, farthest first); the earliest in
    `first` stands first, and wins where two are equally unlike.

    Unlike is one minus the Jaccard index of the sets of three-word shingles, estimated from the 256 smallest hashes of
    each (bottom-k sketches, Cohen & Kaplan 2007); exact for texts of fewer shingles.
    """
    sketches = {key: sketch(texts[key]) for key in first}
    order, left = list(first[:1]), list(first[1:])
    nearest = {key: jaccard(sketches[key], sketches[order[0]]) for key in left}
    while left:
        best = min(left, key=lambda key: nearest[key])  # min keeps the earliest of equals
        order.append(best)
        left.remove(best)
        nearest = {key: max(nearest[key], jaccard(sketches[key], sketches[best])) for key in left}
    return order


def sketch(text: str) -> frozenset[int]:
    """The smallest hashes of a text's shingles."""
    found = words(text)
    shingles = {
        " ".join(found[start : start + SHINGLE_WORDS]) for start in range(max(1, len(found) - SHINGLE_WORDS + 1))
    }
    return frozenset(sorted({zlib.crc32(shingle.encode("utf-8", "surrogatepass")) for shingle in shingles})[:SKETCH])


def jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    """The estimated Jaccard index of the sets behind two sketches."""
    smallest = sorted(one | other)[:SKETCH]
    return sum(value in one and value in other for value in smallest) / len(smallest)
