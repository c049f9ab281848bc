"""Which texts repeat a better one: candidates by signature, decided by their true Jaccard index and their numbers.

It does not know what makes a text better (its caller ranks them), and keeps no text.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.similarity.figures import Figures, agree, figures
from pipeline.similarity.minhash import Shingling, Signatures
from pipeline.similarity.tokens import Hashes, mix

_COMPARISONS = 256  # of one text at most: beyond that it has too little in common with each to be like one
_CACHED_BYTES = 16 << 20

Groups = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Repeat:
    """What a text repeats: the place of one that is kept, and their Jaccard index. Exact: word for word."""

    of: int
    jaccard: float
    exact: bool


def same(one: int, other: int) -> bool:
    """Of two places, that nothing beside the texts keeps them apart."""
    return True


def repeats(
    texts: Sequence[str],
    shingling: Shingling,
    groups: Sequence[int] | None = None,
    standing: int = 0,
    same_numbers: bool = False,
    may_repeat: Callable[[int, int], bool] = same,
) -> dict[int, Repeat]:
    """The texts that repeat another one, by their places; see `Finder`. The best come first."""
    finder = Finder(shingling, shingling.sign(texts), groups, standing, same_numbers, may_repeat)
    return finder.find(lambda place: texts[place])


class Finder:
    """Texts by their signatures, best first. A text is kept unless it repeats one that was kept before.

    It repeats one of its group where the words are the same, or where the sets of shingles have Jaccard >= threshold
    and no number was replaced by another (see `figures.agree`). So the order of rows is nothing beside the ranks,
    whatever repeats something names a text that is kept, and a chain of small steps does not swallow its far end.
    m equal texts cost m, and so do m texts that are all alike.
    """

    def __init__(
        self,
        shingling: Shingling,
        signatures: Signatures,
        groups: Sequence[int] | None = None,
        standing: int = 0,
        same_numbers: bool = False,
        may_repeat: Callable[[int, int], bool] = same,
    ) -> None:
        """`groups` says what each text belongs to; texts of different groups are not compared.

        The first `standing` texts are kept whatever they repeat. With `same_numbers` a text that leaves a number out or
        says it again repeats nothing. `may_repeat` is asked about two places, the better
        one first, before they are compared.
        """
        self._shingling = shingling
        self._signatures = signatures
        self._groups = np.zeros(len(signatures), dtype=np.int64) if groups is None else np.asarray(groups, np.int64)
        self._standing, self._same_numbers, self._may_repeat = standing, same_numbers, may_repeat
        self._copies: dict[int, int] = {}  # place -> the first with the same words
        self._rows = self._without_copies()
        self._near, self._starts, self._buckets = self._company()

    def wanted(self) -> list[int]:
        """The places whose text will be asked for, in order: those that share a band with another."""
        return [int(place) for place in self._near]

    def exact(self) -> dict[int, Repeat]:
        """The texts whose words, numbers and signs a better one has in the same order."""
        return {copy: Repeat(first, 1.0, True) for copy, first in self._copies.items()}

    def find(self, text_at: Callable[[int], str]) -> dict[int, Repeat]:
        """The texts that repeat another one, by place. `text_at` gives the text of a place that `wanted` names."""
        texts = _Texts(self._shingling, text_at)
        found: dict[int, Repeat] = {}
        shelf = _Shelf(self._signatures, self._same_numbers)
        for at, place in enumerate(self._near.tolist()):
            buckets = self._buckets[self._starts[at] : self._starts[at + 1]].tolist()
            candidates = shelf.candidates(place, buckets) if place >= self._standing else iter(())
            repeat = self._repeated(place, candidates, texts)
            if repeat is not None:
                found[place] = repeat
            else:
                shelf.put(place, buckets)
        for copy, first in self._copies.items():
            near = found.get(first)
            found[copy] = Repeat(near.of if near else first, near.jaccard if near else 1.0, True)
        return found

    def _repeated(self, place: int, candidates: Iterator[int], texts: "_Texts") -> Repeat | None:
        for other in candidates:
            if self._may_repeat(other, place):
                jaccard = texts.jaccard(other, place)
                if jaccard >= self._shingling.threshold and texts.numbers_agree(other, place):
                    return Repeat(other, jaccard, False)
        return None

    def _without_copies(self) -> npt.NDArray[np.int64]:
        """The places of texts whose words no better one of the group has; the others are noted as its copies."""
        digests = self._signatures["words"]
        own = mix(self._groups.astype(np.uint64))
        high, low = digests[:, 0] ^ own, digests[:, 1]
        order = np.lexsort((np.arange(len(own)), low, high))
        first = np.ones(len(order), dtype=bool)
        first[1:] = (high[order][1:] != high[order][:-1]) | (low[order][1:] != low[order][:-1])
        kept = first.copy()
        leaders: list[int] = []
        for at in np.flatnonzero(~first | np.append(~first[1:], False)).tolist():
            place = int(order[at])
            if first[at]:
                leaders = [place]
                continue
            leader = next((one for one in leaders if self._may_repeat(one, place)), None)
            if leader is None or place < self._standing:
                leaders.append(place)
                kept[at] = True
            else:
                self._copies[place] = leader
        return np.sort(order[kept])

    def _company(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """The places that share a band with another, in order; and of each the buckets it shares."""
        own = mix(self._groups[self._rows].astype(np.uint64))
        members: list[npt.NDArray[np.int32]] = []
        buckets: list[npt.NDArray[np.int32]] = []
        count = 0
        for band in range(self._signatures["bands"].shape[1] if len(self._rows) > 1 else 0):
            keys = self._signatures["bands"][self._rows, band] ^ own
            order = np.argsort(keys)
            equal = np.concatenate([[False], keys[order][1:] == keys[order][:-1], [False]])
            shared = equal[1:] | equal[:-1]
            opens = shared & ~equal[:-1]
            members.append(order[shared].astype(np.int32))
            buckets.append((count + np.cumsum(opens)[shared] - 1).astype(np.int32))
            count += int(opens.sum())
        if not members:
            return np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros(0, np.int32)
        member, bucket = np.concatenate(members), np.concatenate(buckets)
        members.clear()
        buckets.clear()
        order = np.argsort(member, kind="stable")
        member = member[order]
        first = np.flatnonzero(np.concatenate([np.ones(min(1, len(member)), dtype=bool), member[1:] != member[:-1]]))
        return self._rows[member[first]], np.append(first, len(member)), bucket[order]


class _Shelf:
    """The kept texts by bucket, and within a bucket by their numbers.

    Two texts with as many numbers, which are not the same numbers, have each a number that the other lacks, so they
    never meet: any count of problems made from one long template costs no comparison.
    """

    def __init__(self, signatures: Signatures, same_numbers: bool) -> None:
        self._numbers, self._counts = signatures["numbers"], signatures["count"]
        self._same_numbers = same_numbers
        self._equal: dict[tuple[int, int], list[int]] = defaultdict(list)  # (bucket, numbers) -> places
        self._others: dict[int, dict[int, list[int]]] = defaultdict(dict)  # bucket -> count of numbers -> places

    def put(self, place: int, buckets: Sequence[int]) -> None:
        """Keep a text."""
        numbers, count = int(self._numbers[place]), int(self._counts[place])
        for bucket in buckets:
            self._equal[bucket, numbers].append(place)
            self._others[bucket].setdefault(count, []).append(place)

    def candidates(self, place: int, buckets: Sequence[int]) -> Iterator[int]:
        """Kept texts to compare with: those that share the most bands first, then the best."""
        numbers, count = int(self._numbers[place]), int(self._counts[place])
        shared: dict[int, int] = defaultdict(int)
        for bucket in buckets:
            for other in self._equal.get((bucket, numbers), ())[:_COMPARISONS]:
                shared[other] += 1
            left = 0 if self._same_numbers else _COMPARISONS
            for other_count, places in self._others.get(bucket, {}).items():
                if other_count != count and left > 0:
                    for other in places[:left]:
                        shared[other] += 1
                    left -= len(places)
        ordered = sorted(shared, key=lambda other: (-shared[other], other))
        return iter(ordered[:_COMPARISONS])


class _Texts:
    """The shingles and numbers of texts that are compared; of the last ones used they are kept."""

    def __init__(self, shingling: Shingling, text_at: Callable[[int], str]) -> None:
        self._shingling, self._text_at = shingling, text_at
        self._shingles: OrderedDict[int, Hashes] = OrderedDict()
        self._bytes = 0
        self._figures: OrderedDict[int, Figures] = OrderedDict()

    def jaccard(self, one: int, other: int) -> float:
        """The true Jaccard index of two texts, or 0.0 where their sizes alone keep it below the threshold."""
        ours, theirs = self._of(one), self._of(other)
        if min(len(ours), len(theirs)) < self._shingling.threshold * max(len(ours), len(theirs)):
            return 0.0
        both = np.concatenate([ours, theirs])
        both.sort()
        common = int((both[1:] == both[:-1]).sum())
        return common / (len(both) - common)

    def numbers_agree(self, one: int, other: int) -> bool:
        """Whether neither text has another number in the place of one of the other's."""
        return agree(self._figures_of(one), self._figures_of(other))

    def _of(self, place: int) -> Hashes:
        known = self._shingles.get(place)
        if known is None:
            known = self._shingles[place] = self._shingling.shingles(self._text_at(place))
            self._bytes += known.nbytes
            while self._bytes > _CACHED_BYTES and len(self._shingles) > 2:
                self._bytes -= self._shingles.popitem(last=False)[1].nbytes
        else:
            self._shingles.move_to_end(place)
        return known

    def _figures_of(self, place: int) -> Figures:
        known = self._figures.get(place)
        if known is None:
            known = self._figures[place] = figures(self._text_at(place))
            if len(self._figures) > 64:
                self._figures.popitem(last=False)
        return known
