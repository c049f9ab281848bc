"""Made-up soft labels, and how far decoded ones are from the exact ones."""

import math
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.soft_labels import SoftLabels, masses_left


def made_up(tokens: int, k: int, vocabulary: int, peak: float = 4.0, seed: int = 1) -> SoftLabels:
    """Labels from random logits over a vocabulary: the higher the peak, the surer the model. A token in ten is sampled
    from outside the candidates where there is an outside."""
    draw = np.random.default_rng(seed)
    whole = max(vocabulary, k)
    seen = min(whole, max(2000, k))  # candidates come from so many tokens
    some = np.sort(draw.choice(whole, seen, replace=False))
    logits = draw.normal(0, 2, (tokens, seen))
    logits[np.arange(tokens), draw.integers(0, seen, tokens)] += peak * 2
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)) if tokens else logits
    order = np.argsort(-logprobs, axis=1)
    sorted_logprobs = np.take_along_axis(logprobs, order, axis=1)
    places = np.minimum(draw.geometric(0.6, tokens) - 1, k - 1)
    if k < seen:
        places = np.where(draw.random(tokens) < 0.1, draw.integers(k, seen, tokens), places)
    rows = np.arange(tokens)
    given = sorted_logprobs[:, :k].astype(np.float32)
    return SoftLabels(
        some[order[rows, places]].astype(np.int32),
        sorted_logprobs[rows, places].astype(np.float32),
        some[order[:, :k]].astype(np.int32),
        given,
        masses_left(given),
    )


def kl(exact: SoftLabels, decoded: SoftLabels) -> npt.NDArray[np.float64]:
    """KL(exact || decoded) of each token in nats, over its candidates and the tail as one outcome more."""
    by_id = [np.argsort(labels.ids, axis=1) for labels in (exact, decoded)]
    ours = np.take_along_axis(exact.logprobs.astype(float), by_id[0], axis=1)
    theirs = np.take_along_axis(decoded.logprobs.astype(float), by_id[1], axis=1)
    left = 1 - np.exp(ours).sum(axis=1)
    tail = np.where(left > 1e-6, left, 0.0)  # float32 knows no smaller rest of 1
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = np.where(np.exp(ours) > 0, np.exp(ours) * (ours - theirs), 0.0).sum(axis=1)
        rest = np.where(tail > 0, tail * (np.log(tail) - np.log(decoded.tail.astype(float))), 0.0)
    return np.asarray(inside + rest)


def plainly_unpacked(packed: bytes) -> list[tuple[int, dict[int, float], float]]:
    """Of each token its id, its candidates' masses and the tail: the format read a second time, number by number.

    It shares no line with `soft_labels`, `label_codec` and `label_model`, so that a mistake in both
    directions of theirs shows.
    """
    _, _, k, _, _, _ = struct.unpack_from("<2sBII16sI", packed)
    place, found = 31, []
    while place < len(packed):
        tokens, length = struct.unpack_from("<HI", packed, place)
        found += _Plain(packed[place + 6 : place + 6 + length], k).tokens(tokens)
        place += 6 + length
    return found


class _Plain:
    """A block's bytes, read with odds by name in place of numbered ones."""

    def __init__(self, content: bytes, k: int) -> None:
        self.k = k
        self.content = content + bytes(8)
        self.low, self.width, self.place = 0, 0xFFFFFFFF, 4
        self.code = int.from_bytes(self.content[:4], "big")
        self.odds: dict[Any, list[int]] = {}

    def part(self, skipped: int, width: int) -> None:
        self.code, self.width = self.code - skipped, width
        while self.width < 1 << 24:
            self.code = self.code << 8 | (self.content + bytes(self.place))[self.place]
            self.width <<= 8
            self.place += 1

    def bit(self, *contexts: Any) -> int:
        """At the mean of the odds of two contexts, or at those of one."""
        known = [self.odds.setdefault(context, [32768, 0]) for context in contexts]
        bound = (self.width >> 16) * (sum(odds for odds, _ in known) // len(known))
        bit = int(self.code < bound)
        self.part(0, bound) if bit else self.part(bound, self.width - bound)
        for one in known:
            rate = int(65536 / (one[1] + 1.6))
            one[0] += (65536 - one[0]) * rate >> 16 if bit else -(one[0] * rate >> 16)
            one[0] = min(max(one[0], 64), 65472)
            one[1] = min(one[1] + 1, 59)
        return bit

    def even(self, bits: int) -> int:
        if bits > 16:
            return self.even(16) << bits - 16 | self.even(bits - 16)
        width = self.width >> bits
        found = min(self.code // width, 2**bits - 1)
        self.part(found * width, width)
        return found

    def below(self, contexts: tuple[Any, ...], bits: int) -> int:
        digits = "1"
        while len(digits) <= min(bits, 2):
            digits += str(self.bit(*((context, bits, digits) for context in contexts)))
        if bits > 2:
            digits += f"{self.even(bits - 2):0{bits - 2}b}"
        return int(digits, 2) - 1

    def number(self, *contexts: Any, special: bool = False) -> int | None:
        bits = 0
        while bits < 31 and self.bit(*((context, bits) for context in contexts)):
            bits += 1
        return None if special and bits == 10 else self.below(contexts, bits)

    def wide(self, *contexts: Any) -> int:
        digits = ""
        while len(digits) < 5:
            digits += str(self.bit(*((context, "length", digits) for context in contexts)))
        return self.below(contexts, int(digits, 2))

    def signed(self, context: Any) -> int:
        coded = self.number(context)
        assert coded is not None
        return -(coded + 1) // 2 if coded % 2 else coded // 2

    def tokens(self, count: int) -> list[tuple[int, dict[int, float], float]]:
        rows: list[list[tuple[int, int]]] = []  # level and id of each token's candidates
        floors: list[int] = []
        tops: list[int] = []
        order: list[int] = []  # ids by falling count; one that draws level stands behind those that were there
        counts: dict[int, int] = {}
        made = []
        for token in range(count):
            told: dict[int, Any] = {}  # id -> the context of its height
            asked: set[int] = set()
            first = token - 1
            for number in range(min(4, token)):
                if not self.bit(("more", number)):
                    break
                model = token - 1 - self.wide("distance")
                first = model if number == 0 else first
                self.shared(rows[model], floors[model], min(number, 2), token, counts, asked, told)
                if len(told) == self.k:
                    break
            self.rest(order, told)
            top = self.bit(("top", tops[first] if token else 0))
            floor = (floors[first] if token else 320) + self.signed("floor")
            tail = floor - self.signed("tail")
            row = []
            for each, context in told.items():
                height = self.number(("height", context), special=True)
                row.append((-1 if height is None else floor - height, each))
            row.sort()
            self.remember(row, order, counts)
            rows.append(row)
            floors.append(floor)
            tops.append(top)
            made.append(self.masses(row, tail, top))
        return made

    def shared(
        self,
        row: list[tuple[int, int]],
        floor: int,
        kind: int,
        token: int,
        counts: dict[int, int],
        asked: set[int],
        told: dict[int, Any],
    ) -> None:
        tried = hits = 0
        for level, each in row:
            if each in asked or len(told) == self.k:
                continue
            asked.add(each)
            height = sum(floor - level >= bound for bound in (1, 2, 3, 5, 8, 13, 25, 70))
            rate = min((5 * hits + 2) // (tried + 1), 4) if tried > 3 else 4
            often = min(counts[each] * 8 // (token + 1), 7) if counts[each] > 1 else 0
            has = self.bit(("has", kind, height, rate), ("often", kind, height, often))
            tried, hits = tried + 1, hits + has
            if has:
                told[each] = height

    def rest(self, order: list[int], told: dict[int, Any]) -> None:
        """Candidates that some token before had, and those that none had."""
        left = self.k - len(told)
        if left and order:
            at = -1
            for _ in range(self.number(("count", left.bit_length())) or 0):
                at += 1 + self.wide(("step", (at + 1).bit_length()))
                told[order[at]] = "known"
        last = -1
        while len(told) < self.k:
            left = self.k - len(told)
            last += 1 + self.wide(("after", (last + 1).bit_length()), ("among", left.bit_length()))
            told[last] = "new"
            order.append(last)

    def remember(self, row: list[tuple[int, int]], order: list[int], counts: dict[int, int]) -> None:
        for _, each in row:
            count = counts.get(each, 0)
            if count:
                to = sum(other > count for other in counts.values())
                place = order.index(each)
                order[to], order[place] = order[place], order[to]
            counts[each] = count + 1

    def masses(self, row: list[tuple[int, int]], tail: int, top: int) -> tuple[int, dict[int, float], float]:
        rank = self.number(("rank", top))
        assert rank is not None
        sampled = row[rank][1] if rank < self.k else self.even(31)
        if rank == self.k:
            self.number("own")
        masses = {each: _mass(level) for level, each in row}
        left = _mass(tail)
        if top:
            masses[row[0][1]] = 1 - left - sum(masses[each] for _, each in row[1:])
            return sampled, masses, left
        total = sum(masses.values())
        if left <= 0.5 and total:
            return sampled, {each: mass * (1 - left) / total for each, mass in masses.items()}, left
        return sampled, masses, max(0.0, 1 - total)


def _mass(level: int) -> float:
    if level in (-1, 511):
        return 0.0
    if level < 318:
        return float((1 - (level + 0.5) / 320) ** 2)
    return math.exp(-(2 * math.log(160) + level + 0.5 - 318))
