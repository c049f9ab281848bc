"""Which reference items (held-out problems, benchmark questions) stand in a text, by n-grams of words.

The rule. An n-gram in over `template_share` of the distinct items of its group, and in two of them at least, is
template text and counts for nothing. An item whose words outside template text are fewer than 2n is short: one changed
word could touch each of its n-grams, so n-grams say nothing, and the item must stand in the text whole, word for word,
and not as a part of a longer formula. Any other item is found where one stretch of the text holds at least `min_share`
of its n-grams that count, and no number of the item was replaced by another number: with other numbers it is another
problem.

It does not know what the texts are, reads no files and drops nothing.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

from pipeline.similarity.normal import closes_operand, normal_words, numbers, opens_operand

Kind = Literal["ngram", "whole"]
Ngram = tuple[str, ...]

_OPERATORS = frozenset("+-*/%^<>≤≥≠±")


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
    counting: frozenset[Ngram]  # its n-grams that are not template text; empty where it is short
    bare: bool  # no question in words, or hardly a word: only a text that is nothing else is a copy of it


class _Node:
    """A word in the tree of short items."""

    __slots__ = ("item", "next")

    def __init__(self) -> None:
        self.next: dict[str, _Node] = {}
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
        self._places: dict[Ngram, list[tuple[int, int]]] = defaultdict(list)  # n-gram -> (item, position in it)
        self._short = _Node()
        self._templates: dict[str, frozenset[Ngram]] = {}
        groups: dict[str, dict[tuple[str, ...], list[Reference]]] = {}
        for reference in items:
            groups.setdefault(reference.group, {}).setdefault(tuple(normal_words(reference.text)), []).append(reference)
        for group, texts in groups.items():
            self.unmatchable += tuple(texts.pop((), ()))
            self._templates[group] = _template(texts, n, template_share)
            for text_words, references in texts.items():
                self._add(text_words, tuple(references), self._templates[group])

    def _add(self, text_words: tuple[str, ...], references: tuple[Reference, ...], template: frozenset[Ngram]) -> None:
        grams = _ngrams(text_words, self.n)
        in_template = [False] * len(text_words)
        for position, gram in enumerate(grams):
            if gram in template:
                in_template[position : position + self.n] = [True] * self.n
        short = in_template.count(False) < 2 * self.n
        bare = len(text_words) < 3 or not any(len(word) > 1 and word.isalpha() for word in text_words)
        counting = frozenset() if short else frozenset(grams) - template
        index = len(self._items)
        self._items.append(_Item(references, text_words, counting, bare))
        if short:
            node = self._short
            for word in text_words:
                node = node.next.setdefault(word, _Node())
            node.item.append(index)
        else:
            for position, gram in enumerate(grams):
                if gram in counting:
                    self._places[gram].append((index, position))

    def find(self, text: str, group: str | None = None) -> list[Hit]:
        """The items that stand in the text, each once, in order of set and id.

        `group` is the text's own, where it has one: that group's template text then counts for no item. Items of
        every group are looked for, whatever it is.
        """
        text_words = normal_words(text)
        template = self._templates.get(group, frozenset()) if group is not None else frozenset()
        hits = [*self._find_short(text_words), *self._find_long(text_words, template)]
        return sorted(hits, key=lambda hit: (hit.set_name, hit.item_id))

    def _find_short(self, text_words: Sequence[str]) -> Iterator[Hit]:
        seen: set[int] = set()
        for start in range(len(text_words)):
            node, end = self._short, start
            while end < len(text_words) and (following := node.next.get(text_words[end])) is not None:
                node, end = following, end + 1
                whole = start == 0 and end == len(text_words)
                for index in node.item:
                    fits = whole or (not self._items[index].bare and _stands_alone(text_words, start, end))
                    if fits and index not in seen:
                        seen.add(index)
                        yield from self._hits(index, "whole", text_words, start, end, 1.0)

    def _find_long(self, text_words: Sequence[str], template: frozenset[Ngram]) -> Iterator[Hit]:
        found: dict[int, list[tuple[int, int]]] = defaultdict(list)  # item -> (position in the text, in the item)
        for position, gram in enumerate(_ngrams(text_words, self.n)):
            for index, place in self._places.get(gram, ()):
                found[index].append((position, place))
        for index, places in found.items():
            item = self._items[index]
            counting, wanted = item.counting - template, self._min_share
            if len(counting) <= self.n:  # fewer than 2n words in a row have: too few for a share to say anything
                counting, wanted = item.counting, 1.0
            places = [place for place in places if item.words[place[1] : place[1] + self.n] in counting]
            if len(places) < wanted * len(counting):
                continue
            best = _best_stretch(places, len(item.words) + len(item.words) // 4 + self.n)
            score = len({item.words[place : place + self.n] for _, place in best}) / len(counting)
            if score >= wanted and not _numbers_replaced(item.words, text_words, best, self.n):
                yield from self._hits(index, "ngram", text_words, best[0][0], best[-1][0] + self.n, score)

    def _hits(
        self, index: int, kind: Kind, text_words: Sequence[str], start: int, end: int, score: float
    ) -> Iterator[Hit]:
        span = " ".join(text_words[start:end])
        for reference in self._items[index].references:
            yield Hit(reference.set_name, reference.item_id, kind, span, start, end, score)


def _ngrams(text_words: Sequence[str], n: int) -> list[Ngram]:
    return [tuple(text_words[start : start + n]) for start in range(len(text_words) - n + 1)]


def _template(texts: Iterable[tuple[str, ...]], n: int, template_share: float) -> frozenset[Ngram]:
    counts: Counter[Ngram] = Counter()
    total = 0
    for text_words in texts:
        total += 1
        counts.update(set(_ngrams(text_words, n)))
    limit = max(1.0, template_share * total)
    return frozenset(gram for gram, count in counts.items() if count > limit)


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
