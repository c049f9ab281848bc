r"""Decontamination: planted items that are found, texts that are flagged for nothing, and time beside an 8-gram check.

Run: python -m tests.bench.decontaminate [--items 200] [--documents 200] [--words 4500] [--rounds 5]. Twenty made-up
benchmarks hold items of four kinds: stories with numbers, questions in LaTeX, questions shorter than eight words, and
sums in a template of a dozen words. Copies are planted verbatim, in other dress (case, white space, quotes, LaTeX as
plain text), wrapped to 28 columns, and within a long trace. False positives are counted over texts that share with
items what anybody writes: a frame with other content, a sum with other numbers, the instructions that every item of a
benchmark ends with, common identities, and stories with one number changed.

The method beside is the one that open-r1 and s1 published, written anew: lower case, white space squeezed, all runs
of eight words of a text as strings, a pass over the texts for each benchmark. Seconds are of CPU time over the same
traces. The last line is JSON; exit code 1 where a bar is missed.
"""

import argparse
import random
import re
import statistics
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from pipeline.similarity.ngrams import Overlap, Reference
from tests import bars
from tests.duplicates import Writer

BENCHMARKS = 20
RECALL_BARS = {"verbatim": 0.99, "other dress": 0.95, "re-wrapped": 0.95, "embedded": 0.95, "all of it": 0.95}
FALSE_BAR, MORE_BAR, FASTER_BAR = 0.005, 1.3, 5.0
ENDING = "Please reason step by step, and put your final answer within \\boxed{}."
FRAME = "State the final answer to the following arithmetic problem: {} ="
NAMES = ("Ana", "Ben", "Carla", "Dan", "Edith", "Finn", "Greta", "Hugo", "Ida", "Jonas", "Karl", "Lena", "Mia", "Nils")
THINGS = ("apples", "pears", "coins", "books", "stamps", "shells", "marbles", "tickets", "candles", "pencils")
IDENTITIES = (
    "(a + b)^2 = a^2 + 2ab + b^2",
    "a^2 - b^2 = (a - b)(a + b)",
    "\\sin^2 x + \\cos^2 x = 1",
    "x = \\frac{-b \\pm \\sqrt{b^2 - 4ac}}{2a}",
    "1 + 2 + \\dots + n = \\frac{n(n + 1)}{2}",
    "\\log(ab) = \\log a + \\log b",
)


class Items:
    """Draws items; each one as LaTeX, where it has any, and as plain text."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.writer = Writer(seed)

    def number(self, most: int = 99) -> int:
        return self.random.randint(2, most)

    def story(self) -> tuple[str, str]:
        one, other, thing = self.random.sample(NAMES, 2)[0], self.random.choice(NAMES), self.random.choice(THINGS)
        places = self.writer.words(8)
        text = (
            f"{one} lives in {places[0]} and keeps {self.number()} {thing} in the {places[1]} {places[2]}. Every "
            f"{places[3]} {other} brings {self.number()} more from {places[4]}, of which {self.number(9)} are "
            f"{places[5]} and cannot be used. After {self.number(30)} weeks they sell {self.number()} of the {thing} "
            f"for ${self.number()} each at the {places[6]} {places[7]}. How many {thing} are left, and how much money "
            f"do {one} and {other} have together?"
        )
        return text, text

    def formula(self) -> tuple[str, str]:
        a, b, c, d, e = (self.number() for _ in range(5))
        words = self.writer.words(6)
        named = f"the {words[0]} {words[1]} of the {words[2]} {words[3]}"
        latex = (
            rf"Let $x$ be a positive real number such that $\frac{{{a}}}{{{b}}} x^{{2}} + {c} \leq {d} \cdot x$ holds. "
            rf"Find {named} when $\left( x - {e} \right)$ is the {words[4]} {words[5]}."
        )
        plain = (
            f"Let x be a positive real number such that {a}/{b} x^2 + {c} <= {d} * x holds. "
            f"Find {named} when (x - {e}) is the {words[4]} {words[5]}."
        )
        return latex, plain

    def short(self) -> tuple[str, str]:
        words = self.writer.words(2)
        text = self.random.choice(
            [
                f"What is the capital of {words[0].capitalize()} {words[1].capitalize()}?",
                f"Who wrote the {words[0]} {words[1]}?",
                f"How many {words[0]} has a {words[1]}?",
            ]
        )
        return text, text

    def sum(self) -> tuple[str, str]:
        text = FRAME.format(f"{self.number()} + {self.number()} - {self.number()}")
        return text, text

    def benchmark(self, number: int, count: int) -> list[tuple[str, str]]:
        """Items of one benchmark: a quarter of each kind; in every fourth benchmark all end with one instruction."""
        kinds = (self.story, self.formula, self.short, self.sum)
        made = [kinds[at % len(kinds)]() for at in range(count)]
        if number % 4 == 3:
            made = [(f"{latex} {ENDING}", f"{plain} {ENDING}") for latex, plain in made]
        proof = f"Show that ${IDENTITIES[number % len(IDENTITIES)]}$ holds for all values for which both sides exist."
        return [*made, (proof, proof)]


def dressed(items: Items, plain: str) -> str:
    """Other case, other quotes and stops, other white space, no LaTeX."""
    text = re.sub(r"(?<=[a-z])([.?]) ", lambda match: items.random.choice([" ", f"{match[1]}\n", " — "]), plain)
    return items.random.choice([str.upper, str.lower, lambda one: f"“{one}”", lambda one: f"**{one}**"])(text)


def wrapped(text: str) -> str:
    """At most 28 characters a line."""
    return textwrap.fill(text, 28, break_long_words=False, break_on_hyphens=False)


def embedded(items: Items, text: str, words: int = 1500) -> str:
    """In the middle of a long trace."""
    around = items.writer.sentences(words)
    middle = items.random.randrange(len(around))
    return "\n".join([" ".join(around[:middle]), text, " ".join(around[middle:])])


FORMS: dict[str, Callable[[Items, str, str], str]] = {
    "verbatim": lambda items, latex, plain: latex,
    "other dress": lambda items, latex, plain: dressed(items, plain),
    "re-wrapped": lambda items, latex, plain: wrapped(latex),
    "embedded": lambda items, latex, plain: embedded(items, latex),
    "all of it": lambda items, latex, plain: embedded(items, wrapped(dressed(items, plain))),
}


def clean(items: Items, known: set[str], count: int) -> Iterable[tuple[str, str]]:
    """(kind, text) of texts that share with items what anybody writes, and are none of them."""
    for _ in range(count):
        frame = items.sum()[0]
        if frame not in known:
            yield "another sum in the frame", frame
            yield "another sum in a trace", embedded(items, f"{frame} {ENDING}", 300)
        yield "instructions", f"{' '.join(items.writer.sentences(40))} {ENDING}"
        identity = items.random.choice(IDENTITIES)
        yield "identity", embedded(items, f"We use that ${identity}$, which holds for all values.", 300)
        yield "two identities", f"Since {identity} and {items.random.choice(IDENTITIES)}, the claim follows at once."
        yield "another question", items.short()[0]


def other_numbers(items: Items, text: str) -> str:
    """The story with one number changed."""
    places = [match.span() for match in re.finditer(r"\d+", text)]
    start, end = items.random.choice(places)
    return f"{text[:start]}{int(text[start:end]) + items.number(9)}{text[end:]}"


def cpu_s(work: Callable[[], Any]) -> float:
    """Seconds of CPU time."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def runs_of_eight(text: str) -> set[str]:
    """All runs of eight words of a text in lower case, as strings."""
    words = " ".join(text.lower().strip().split()).split()
    return {" ".join(words[at : at + 8]) for at in range(len(words) - 7)}


def published(texts: list[str], benchmarks: list[list[str]]) -> list[set[int]]:
    """The method of open-r1: for each benchmark the texts that share a run of eight words with one of its items."""
    found = []
    for questions in benchmarks:
        known = {run for question in questions for run in runs_of_eight(question)}
        found.append({at for at, text in enumerate(texts) if True in {run in known for run in runs_of_eight(text)}})
    return found


def accuracy(items: Items, sets: list[list[tuple[str, str]]], overlap: Overlap) -> list[dict[str, Any]]:
    """Recall of every form, and the share of clean texts that are flagged."""
    made = []
    for form, make in FORMS.items():
        missed: Counter[str] = Counter()
        tried = eights = 0
        stride = 1 if form in ("verbatim", "re-wrapped") else 5  # all four kinds, in turn
        for number, pairs in enumerate(sets):
            for at, (latex, plain) in list(enumerate(pairs))[::stride]:
                text = make(items, latex, plain)
                tried += 1
                if (f"b{number}", str(at)) not in {(hit.set_name, hit.item_id) for hit in overlap.find(text)}:
                    missed[latex[:60]] += 1
                eights += bool(runs_of_eight(text) & runs_of_eight(latex))
        bars.show(f"{form}: {missed.total()} of {tried} missed {list(missed)[:3]}; runs of eight words find {eights}")
        bar = bars.above(f"recall, {form}", [1 - missed.total() / tried], RECALL_BARS[form])
        made.append(bar | {"n": tried})
    known = {latex for pairs in sets for latex, _ in pairs}
    flagged: Counter[str] = Counter()
    tried_of: Counter[str] = Counter()
    texts = [*clean(items, known, 300)]
    stories = [latex for pairs in sets for latex, _ in pairs if " lives in " in latex][:300]
    texts += [("a story with another number", other_numbers(items, story)) for story in stories]
    for kind, text in texts:
        tried_of[kind] += 1
        flagged[kind] += bool(overlap.find(text)) and text not in known
    bars.show(f"flagged of clean texts: {dict(flagged)} of {dict(tried_of)}")
    share = flagged.total() / tried_of.total()
    return [*made, bars.below("clean texts that are flagged, share", [share], FALSE_BAR) | {"n": tried_of.total()}]


def times(
    items: Items, sets: list[list[tuple[str, str]]], overlap: Overlap, documents: int, words: int, rounds: int
) -> list[dict[str, Any]]:
    """Seconds over the same traces with one and with all benchmarks, and of the published method."""
    texts = list(items.writer.traces(documents, words))
    questions = [[latex for latex, _ in pairs] for pairs in sets]
    one = Overlap([Reference("b0", str(at), text, "b0") for at, text in enumerate(questions[0])])
    more, faster, faster_one = [], [], []
    for _ in range(rounds):
        alone = cpu_s(lambda: [one.find(text) for text in texts])
        all_of_them = cpu_s(lambda: [overlap.find(text) for text in texts])
        theirs = cpu_s(lambda: published(texts, questions))
        theirs_one = cpu_s(lambda: published(texts, questions[:1]))
        more.append(all_of_them / alone)
        faster.append(theirs / all_of_them)
        faster_one.append(theirs_one / alone)
        bars.show(
            f"{documents} traces of {sum(map(len, texts)) // documents:,} characters: {1000 * alone / documents:.2f} "
            f"ms each with 1 benchmark, {1000 * all_of_them / documents:.2f} with {len(sets)}; the published method "
            f"{1000 * theirs_one / documents:.2f} and {1000 * theirs / documents:.2f}"
        )
    return [
        bars.below(f"seconds with {len(sets)} benchmarks over 1", more, MORE_BAR),
        bars.above(
            f"times faster than the published method, {len(sets)} benchmarks",
            faster,
            FASTER_BAR,
            with_one_benchmark=round(statistics.median(faster_one), 2),
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=200, help="of each of the twenty benchmarks")
    parser.add_argument("--documents", type=int, default=200, help="traces that are timed")
    parser.add_argument("--words", type=int, default=4500, help="mean length of a trace")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    items = Items(11)
    sets = [items.benchmark(number, chosen.items) for number in range(BENCHMARKS)]
    overlap = Overlap(
        Reference(f"b{number}", str(at), latex, f"b{number}")
        for number, pairs in enumerate(sets)
        for at, (latex, _) in enumerate(pairs)
    )
    made = accuracy(items, sets, overlap)
    made += times(items, sets, overlap, chosen.documents, chosen.words, chosen.rounds)
    return bars.end(*made)


if __name__ == "__main__":
    sys.exit(main())
