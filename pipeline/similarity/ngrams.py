"""Which reference items (held-out problems, benchmark questions) stand in a text, by n-grams of words.

The rule. An n-gram in over `template_share` of the distinct items of its group, and in two of them at least, is
template text and counts for nothing; nor does one without a word and a number of two digits, which any text may have
that uses the same identity. An item whose words outside template text are fewer than 2n is short: one changed
word could touch each of its n-grams, so n-grams say nothing, and the item must stand in the text whole, word for word,
and not as a part of a longer formula; or be all of the text, where it asks nothing by itself: hardly a word, or without
a number three words ("Solve for x.") or a sentence that over `template_share` of its group's items say, two others at
least. Any other item is found where one stretch of the text holds at least `min_share` of its n-grams that count, and
no number of the item was replaced by another number: with other numbers it is another problem.

It does not know what the texts are, reads no files and drops nothing.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property
from itertools import accumulate
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.similarity.normal import closes_operand, normal, normal_each, numbers, opens_operand
from pipeline.similarity.tokens import IDEOGRAM, Hashes, Tokens, windows

Kind = Literal["ngram", "whole"]

_OPERATORS = frozenset("+-*/%^<>≤≥≠±")
_FUNCTIONS = frozenset(
    ("sin", "cos", "tan", "cot", "sec", "csc", "log", "exp", "lim", "max", "min", "gcd", "lcm", "det", "dots", "sum")
)
_BATCH_CHARACTERS = 1 << 16  # of texts that are read at once: few enough for the processor's cache
_OPENING = (3, 4)  # words that a short item is looked up by: all of one of three words, the first four of a longer one


@dataclass(frozen=True)
class Reference:
    """A text that must not be found. Its group (its task, or its benchmark) shares template text."""

    set_name: str
    item_id: str
    text: str
    group: str


@dataclass(frozen=True)
class Hit:
    """A reference item found in a text, at normal words start..end (see `normal_words`), which `span` spells out.

    `score` is the share of the item's n-grams that count which that stretch holds; 1.0 for a whole match.
    """

    set_name: str
    item_id: str
    kind: Kind
    span: str
    start: int
    end: int
    score: float


@dataclass(frozen=True)
class _Item:
    """One distinct text of a group, and all references that spell it."""

    references: tuple[Reference, ...]
    words: tuple[str, ...]
    grams: tuple[int, ...]  # the hash of each of its n-grams, in order
    counting: frozenset[int]  # those that are not template text; empty where it is short
    bare: bool  # asks nothing by itself (see above): only a text that is nothing else is a copy of it


class _Known:
    """Which of many hashes are among some: a table sorts out most of the others, a search the rest."""

    def __init__(self, hashes: Iterable[int]) -> None:
        self._sorted = np.sort(np.fromiter(hashes, dtype=np.uint64))
        bits = max(10, min(22, int(len(self._sorted) * 16).bit_length()))
        self._shift = np.uint64(64 - bits)
        self._table = np.zeros(1 << bits, dtype=bool)
        self._table[self._sorted >> self._shift] = True

    def places(self, hashes: Hashes) -> list[int]:
        """The places of the hashes that are known."""
        there = np.take(self._table, (hashes >> self._shift).astype(np.int64))
        maybe = np.flatnonzero(there)
        if not len(maybe):
            return []
        found = hashes[maybe]
        at = np.minimum(np.searchsorted(self._sorted, found), len(self._sorted) - 1)
        return [int(place) for place in maybe[self._sorted[at] == found]]


class _Node:
    """A word in the tree of short items."""

    __slots__ = ("item", "next")

    def __init__(self) -> None:
        self.next: dict[int, _Node] = {}
        self.item: list[int] = []


class Overlap:
    """An index of reference items; `find` asks it about one text. Built once, it does not change."""

    def __init__(
        self, items: Iterable[Reference], n: int = 8, template_share: float = 0.01, min_share: float = 0.5
    ) -> None:
        """Index the items. Raises ValueError for n below 2 or a share outside (0, 1].

        Groups are counted by distinct texts, so an item that is listed twice is no template. In a group of one
        nothing is template.
        """
        if n < 2 or not 0 < template_share <= 1 or not 0 < min_share <= 1:
            raise ValueError(
                f"n is {n}, template_share {template_share}, min_share {min_share}; expected n of at least 2, and "
                f"shares above 0 and at most 1"
            )
        self.n = n
        self._min_share = min_share
        self.unmatchable: tuple[Reference, ...] = ()  # items without a single word: nothing can be found of them
        self._items: list[_Item] = []
        self._places: dict[int, list[tuple[int, int]]] = defaultdict(list)  # n-gram -> (item, position in it)
        self._short = _Node()
        self._bare: dict[bytes, list[int]] = defaultdict(list)  # all words of an item -> item
        self._templates: dict[str, frozenset[int]] = {}
        openings: dict[int, set[int]] = {width: set() for width in _OPENING}
        for group, texts in self._grouped(items).items():
            grams = {key: windows(found.hashes, n) for key, (found, _) in texts.items()}
            self._templates[group] = _template(grams.values(), template_share)
            said_often = self._said_often([found for found, _ in texts.values()], template_share)
            for key, (found, references) in texts.items():
                often = key in said_often
                self._add(found, grams[key], tuple(references), self._templates[group], often, openings)
        self._grams = _Known(self._places)
        self._openings = {width: _Known(hashes) for width, hashes in openings.items()}

    def _grouped(self, items: Iterable[Reference]) -> dict[str, dict[bytes, tuple[Tokens, list[Reference]]]]:
        """The distinct texts of each group with the references that spell them."""
        groups: dict[str, dict[bytes, tuple[Tokens, list[Reference]]]] = {}
        for reference in items:
            found = normal(reference.text)
            texts = groups.setdefault(reference.group, {})
            texts.setdefault(found.hashes.tobytes(), (found, []))[1].append(reference)
        for texts in groups.values():
            self.unmatchable += tuple(texts.pop(b"", (None, []))[1])
        return groups

    def _said_often(self, texts: Sequence[Tokens], template_share: float) -> set[bytes]:
        """The texts of fewer than 2n words that over a share of a group's texts say, and two others at least."""
        found: set[bytes] = set()
        for width in {len(text.hashes) for text in texts if len(text.hashes) < 2 * self.n}:
            often = _template((windows(text.hashes, width) for text in texts), template_share, least=2)
            whole = (text.hashes for text in texts if len(text.hashes) == width)
            found |= {hashes.tobytes() for hashes in whole if int(windows(hashes, width)[0]) in often}
        return found

    def _add(
        self,
        found: Tokens,
        grams: Hashes,
        references: tuple[Reference, ...],
        template: frozenset[int],
        often: bool,
        openings: dict[int, set[int]],
    ) -> None:
        text_words, text_grams = tuple(found.words()), tuple(grams.tolist())
        in_template = [False] * len(text_words)
        for position, gram in enumerate(text_grams):
            if gram in template:
                in_template[position : position + self.n] = [True] * self.n
        wordy = any(len(word) > 1 and word.isalpha() for word in text_words)
        number = any(word.isdecimal() for word in text_words)
        vague = not number and (len(text_words) == 3 or often)
        bare = len(text_words) < 3 or not wordy or vague
        common = _common(found, self.n)
        for position in common:
            in_template[position : position + self.n] = [True] * self.n
        short = in_template.count(False) < 2 * self.n
        nothing = template.union(text_grams[position] for position in common)
        counting = frozenset() if short else frozenset(text_grams) - nothing
        index = len(self._items)
        self._items.append(_Item(references, text_words, text_grams, counting, bare))
        if not short:
            for position, gram in enumerate(text_grams):
                if gram in counting:
                    self._places[gram].append((index, position))
        elif bare:
            self._bare[found.hashes.tobytes()].append(index)
        else:
            node = self._short
            for word in found.hashes.tolist():
                node = node.next.setdefault(word, _Node())
            node.item.append(index)
            width = min(len(text_words), _OPENING[-1])
            openings[width].add(int(windows(found.hashes[:width], width)[0]))

    def find(self, text: str, group: str | None = None) -> list[Hit]:
        """The items that stand in the text, each once, in order of set and id.

        `group` is the text's own, where it has one: that group's template text then counts for no item. Items of
        every group are looked for, whatever it is.
        """
        text_words = _Words(normal(text))
        template = self._templates.get(group, frozenset()) if group is not None else frozenset()
        hits = [*self._find_bare(text_words), *self._find_short(text_words), *self._find_long(text_words, template)]
        return sorted(hits, key=lambda hit: (hit.set_name, hit.item_id))

    def suspects(self, texts: Sequence[str]) -> set[int]:
        """The places of the texts that may hold an item, at a fraction of the cost of `find`: it finds nothing in the
        others.
        """
        found: set[int] = set()
        start = 0
        while start < len(texts):
            end, characters = start + 1, len(texts[start])
            while end < len(texts) and characters + len(texts[end]) <= _BATCH_CHARACTERS:
                characters += len(texts[end])
                end += 1
            found.update(start + place for place in self._suspects(normal_each(texts[start:end])))
            start = end
        return found

    def _suspects(self, batch: Tokens) -> Iterator[int]:
        for width, known in ((self.n, self._grams), *self._openings.items()):
            # A window across two texts counts for the first: one suspect too many, never one too few.
            places = known.places(windows(batch.hashes, width))
            yield from (np.searchsorted(batch.bounds, places, side="right") - 1).tolist()
        for place in range(len(batch.bounds) - 1 if self._bare else 0):
            if batch.hashes[batch.bounds[place] : batch.bounds[place + 1]].tobytes() in self._bare:
                yield place

    def _find_bare(self, text_words: "_Words") -> Iterator[Hit]:
        """Items that the text is, and nothing else."""
        if self._bare:
            for index in self._bare.get(text_words.hashes.tobytes(), ()):
                yield from self._hits(index, "whole", text_words, 0, len(text_words.hashes), 1.0)

    def _find_short(self, text_words: "_Words") -> Iterator[Hit]:
        starts = {
            start
            for width, known in self._openings.items()
            for start in known.places(windows(text_words.hashes, width))
        }
        seen: set[int] = set()
        for start in sorted(starts):
            node, end = self._short, start
            hashes = text_words.hashes
            while end < len(hashes) and (following := node.next.get(int(hashes[end]))) is not None:
                node, end = following, end + 1
                for index in node.item:
                    if index not in seen and _stands_alone(text_words.spelled, start, end):
                        seen.add(index)
                        yield from self._hits(index, "whole", text_words, start, end, 1.0)

    def _find_long(self, text_words: "_Words", template: frozenset[int]) -> Iterator[Hit]:
        grams = windows(text_words.hashes, self.n)
        found: dict[int, list[tuple[int, int]]] = defaultdict(list)  # item -> (position in the text, in the item)
        for position in self._grams.places(grams):
            for index, place in self._places[int(grams[position])]:
                found[index].append((position, place))
        for index, places in found.items():
            item = self._items[index]
            if len(places) < self._min_share * (len(item.counting) - len(template)):
                continue
            counting, wanted = item.counting - template, self._min_share
            if len(counting) <= self.n:  # fewer than 2n words in a row have: too few for a share to say anything
                counting, wanted = item.counting, 1.0
            places = [place for place in places if item.grams[place[1]] in counting]
            if len(places) < wanted * len(counting):
                continue
            best = _best_stretch(places, len(item.words) + len(item.words) // 4 + self.n)
            score = len({item.grams[place] for _, place in best}) / len(counting)
            if score >= wanted and not _numbers_replaced(item.words, text_words.spelled, best, self.n):
                yield from self._hits(index, "ngram", text_words, best[0][0], best[-1][0] + self.n, score)

    def _hits(self, index: int, kind: Kind, text_words: "_Words", start: int, end: int, score: float) -> Iterator[Hit]:
        span = " ".join(text_words.spelled[start:end])
        for reference in self._items[index].references:
            yield Hit(reference.set_name, reference.item_id, kind, span, start, end, score)


class _Words:
    """The words of a text as hashes, and as text once they are asked for."""

    def __init__(self, found: Tokens) -> None:
        self._found = found
        self.hashes = found.hashes

    @cached_property
    def spelled(self) -> list[str]:
        """The words as text."""
        return self._found.words()


def _template(texts: Iterable[Hashes], template_share: float, least: int = 1) -> frozenset[int]:
    """The n-grams in over a share of the texts, and in more than so many of them."""
    each: list[npt.NDArray[np.uint64]] = [np.unique(grams) for grams in texts]
    if not each:
        return frozenset()
    grams, counts = np.unique(np.concatenate(each), return_counts=True)
    return frozenset(grams[counts > max(least, template_share * len(each))].tolist())


def _common(found: Tokens, n: int) -> list[int]:
    """Where n-grams begin that hold neither a word nor a number of two digits: parts of formulas that many know."""
    telling = [
        kind == IDEOGRAM or (len(word) > 1 and word.isdecimal()) or (len(word) > 2 and word not in _FUNCTIONS)
        for word, kind in zip(found.words(), found.kinds.tolist(), strict=True)
    ]
    before = [0, *accumulate(telling)]
    return [at for at in range(len(telling) - n + 1) if before[at + n] == before[at]]


def _stands_alone(text_words: Sequence[str], start: int, end: int) -> bool:
    """Whether the words start..end are not a part of a longer formula: "add 4 + 1" in "add 4 + 1 - 3" is.

    An operator joins only with an operand beyond it: the dash of a list's next line does not. A minus before a number
    always joins, for it may be the number's sign.
    """
    around = ["", "", *text_words, "", ""]
    far, before, first = around[start], around[start + 1], around[start + 2]
    last, after, beyond = around[end + 1], around[end + 2], around[end + 3]
    joined_before = opens_operand(first) and before in _OPERATORS and (before == "-" or closes_operand(far))
    joined_after = closes_operand(last) and after in _OPERATORS and opens_operand(beyond)
    return not joined_before and not joined_after


def _best_stretch(places: list[tuple[int, int]], width: int) -> list[tuple[int, int]]:
    """The places within `width` words of text that hold the most different n-grams of an item; the first of equals."""
    places = sorted(places)
    inside: Counter[int] = Counter()
    best, left = (0, 0, 0), 0
    for right, (position, place) in enumerate(places):
        inside[place] += 1
        while position - places[left][0] > width:
            gone = places[left][1]
            inside[gone] -= 1
            if not inside[gone]:
                del inside[gone]
            left += 1
        if len(inside) > best[0]:
            best = (len(inside), left, right + 1)
    return places[best[1] : best[2]]


def _numbers_replaced(
    item_words: Sequence[str], text_words: Sequence[str], places: Sequence[tuple[int, int]], n: int
) -> bool:
    """Whether the stretch has another number where the item has one. A number left out or written as a word is none."""
    slack = n + len(item_words) // 8
    start = max(0, places[0][0] - places[0][1] - slack)
    end = min(len(text_words), places[-1][0] + len(item_words) - places[-1][1] + slack)
    stretch = text_words[start:end]
    matcher = SequenceMatcher(None, item_words, stretch, autojunk=False)
    for tag, low, high, text_low, text_high in matcher.get_opcodes():
        outside = low == high and low in (0, len(item_words))
        if tag == "equal" or outside:
            continue
        # One word more on each side: a sign or a digit group beside a number that stayed changes the number.
        ours = numbers(item_words[max(0, low - 1) : high + 1])
        theirs = numbers(stretch[max(0, text_low - 1) : text_high + 1])
        if ours and theirs and ours != theirs:
            return True
    return False
