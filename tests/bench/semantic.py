"""How well an embedding model tells the same problem in other words from another problem with the same numbers.

Run: python -m tests.bench.semantic MODEL [--max-tokens 512], MODEL as a recipe's `semantic.model`. The pairs below are
hand-written, short and about arithmetic: look at your own as well. Prints, for some thresholds, how many of either
kind lie at or above; the last line is JSON. There is no bar: where no threshold separates the two, the answers of
problems must.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

from pipeline.embedding import Embedder, Semantic, opened
from pipeline.similarity.meaning import numbers_of
from tests import bars

THRESHOLDS = (0.75, 0.8, 0.85, 0.9, 0.95)
SAME = (
    ("A train travels 60 miles in 2 hours. What is its average speed?",
     "What is the average speed of a train that covers 60 miles in 2 hours?"),
    ("Tom has 3 apples and buys 5 more. How many apples does he have?",
     "If Tom owns 3 apples and then purchases 5 additional ones, what is his total number of apples?"),
    ("Find the greatest common divisor of 12 and 18.", "What is the largest number that divides both 12 and 18?"),
    ("Solve for x: 2x + 3 = 11.", "Which x satisfies 2x + 3 = 11?"),
    ("What is the sum of 17 and 25?", "Add 17 to 25."),
    ("A rectangle is 4 cm wide and 9 cm long. What is its area?",
     "Compute the area of a rectangle of width 4 cm and length 9 cm."),
    ("Lena reads 20 pages a day for 7 days. How many pages does she read?",
     "How many pages does Lena get through if she reads 20 of them daily for 7 days?"),
    ("A shirt costs $40 and is reduced by 25%. What does it cost now?",
     "What is the price of a $40 shirt after a discount of 25%?"),
    ("How many days are there in 6 weeks?", "6 weeks are how many days?"),
    ("There were 30 birds in a tree and 12 flew away. How many are left?",
     "Out of 30 birds in a tree, 12 left. How many stayed?"),
    ("A bag holds 5 red and 3 blue balls. What is the probability of drawing a red one?",
     "From a bag with 5 red balls and 3 blue ones, one is drawn. How likely is it to be red?"),
    ("What is the remainder when 47 is divided by 6?", "Find 47 modulo 6."),
)  # fmt: skip
OTHER = (
    ("Tom has 3 apples and buys 5 more. How many apples does he have?",
     "Tom has 3 apples and sells 5 pears. How many apples does he have?"),
    ("Tom has 9 marbles and gives 4 to Ann. How many does Tom have?",
     "Tom has 9 marbles and gets 4 from Ann. How many does Tom have?"),
    ("Find the greatest common divisor of 12 and 18.", "Find the least common multiple of 12 and 18."),
    ("What is 17 plus 5?", "What is 17 minus 5?"),
    ("Solve for x: 2x + 3 = 11.", "Solve for x: 2x - 3 = 11."),
    ("Ann is 160 cm tall and Bob 150 cm. Who is taller?", "Ann is 160 cm tall and Bob 150 cm. Who is shorter?"),
    ("A rectangle is 4 cm wide and 9 cm long. What is its area?",
     "A rectangle is 4 cm wide and 9 cm long. What is its perimeter?"),
    ("A train travels 60 miles in 2 hours. What is its average speed?",
     "A car burns 60 litres in 2 hours. How much does it burn in an hour?"),
    ("A shirt costs $40 and is reduced by 25%. What does it cost now?",
     "A shirt costs $40 and is reduced by 25%. How much is saved?"),
    ("There were 30 birds in a tree and 12 flew away. How many are left?",
     "There were 30 birds in a tree and 12 more came. How many are there?"),
    ("A bag holds 5 red and 3 blue balls. What is the probability of drawing a red one?",
     "A bag holds 5 red and 3 blue balls. What is the probability of drawing a blue one?"),
    ("What is the remainder when 47 is divided by 6?", "What is the quotient when 47 is divided by 6?"),
)  # fmt: skip


def cosines(embedder: Embedder, pairs: tuple[tuple[str, str], ...]) -> list[float]:
    """Of each pair's two texts, in order. Raises AssertionError for a pair whose numbers alone tell it apart."""
    assert all(numbers_of(one) == numbers_of(other) for one, other in pairs)
    one, other = (embedder.of([pair[side] for pair in pairs]) for side in (0, 1))
    return [float(each) for each in (one * other).sum(axis=1)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a name in data/models.yaml, a hub id at a commit, or a folder")
    parser.add_argument("--max-tokens", type=int, default=512)
    chosen = parser.parse_args()
    semantic = Semantic(model=chosen.model, max_tokens=chosen.max_tokens)
    embedder = opened(semantic, Path.cwd(), bars.show)()
    found = {"same": cosines(embedder, SAME), "other": cosines(embedder, OTHER)}
    for kind, each in found.items():
        ordered = sorted(each)
        bars.show(f"{kind}: {ordered[0]:.3f} to {ordered[-1]:.3f}, median {statistics.median(ordered):.3f}")
    bars.show("\n| threshold | same, in other words | another problem |\n|---|---|---|")
    rows = []
    for threshold in THRESHOLDS:
        counts = {kind: sum(each >= threshold for each in values) for kind, values in found.items()}
        cells = [f"{counts[kind]} of {len(found[kind])}" for kind in found]
        bars.show(f"| {threshold} | {' | '.join(cells)} |")
        rows.append({"threshold": threshold, **counts})
    bars.show(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
