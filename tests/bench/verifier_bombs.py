r"""The bars of the pool's limits: expressions that hang or swell sympy, judged as answers and as reference answers.

Run: python -m tests.bench.verifier_bombs [--timeout-s 1.0] [--memory-mib 256] [--lanes 2]. Each bomb is judged by a
warm worker of its own pool: the time is that from handing it over to its judgement, the memory the most that a worker's
resident set grew meanwhile, looked at every few milliseconds. A plain item before and after it must be judged right. A
bomb may be found right only where it says what the reference says; what becomes of it else (wrong, undecided) is shown.
The last line is JSON; exit code 1 where a bar is missed.
"""

import argparse
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import psutil

from pipeline.verifiers import Judgement
from pipeline.verifiers.pool import Item, Pool
from tests import bars

OVERTIME_BAR_S = 0.5
MEMORY_FACTOR = 2  # an allocation fails at twice the limit, which is when memory stops growing (`worker.within_memory`)
LOOK_S = 0.005
PLAIN = Item("math", "x = 5", "5")


def nested(opening: str, inner: str, closing: str, depth: int) -> str:
    return opening * depth + inner + closing * depth


# What each does to a naive judge stands in its name.
BOMBS = {
    "tower of powers": "10^{10^{10^{10}}}",
    "tower of nines": "9^{9^{9^{9}}}",
    "huge power": "2^{10^{12}}",
    "huge power of a sum": "(1+x)^{100000}",
    "power of a rational": r"\left(\frac{355}{113}\right)^{10^{9}}",
    "power minus power": "7^{7^{9}} - 7^{7^{9}} + 5",
    "remainder of a power": r"3^{10^{11}} \bmod 7",
    "negative tower": "2^{-10^{10^{10}}}",
    "factorial": "(10^{9})!",
    "factorial of a factorial": "((20)!)!",
    "ratio of factorials": r"\frac{(10^7)!}{(10^7-1)!}",
    "double factorial": "(10^8)!!",
    "binomial": r"\binom{10^{9}}{5 \cdot 10^{8}}",
    "nested radicals": nested(r"\sqrt{2+", "2", "}", 40),
    "many radicals": "+".join(rf"\sqrt{{{n}}}" for n in range(2, 60)),
    "radical equation": r"\sqrt{x+\sqrt{x+\sqrt{x+\sqrt{x+1}}}} = \sqrt[7]{x^5+\sqrt[3]{x}}",
    "cube roots": r"\sqrt[3]{2+\sqrt[5]{3+\sqrt[7]{5+\sqrt[11]{7+\sqrt[13]{11}}}}}",
    "deep braces": nested("{", "5", "}", 20_000),
    "deep parentheses": nested("(", "5", ")", 3_000),
    "deep fractions": nested(r"\frac{1}{1+", "1", "}", 400),
    "deep powers": nested("2^{", "2", "}", 300),
    "deep sines": nested(r"\sin(", "x", ")", 200),
    "deep boxes": nested(r"\boxed{", "5", "}", 2_000),
    "integral": r"\int_0^{\infty} \frac{\sin(x^7) \ln(x^3+1)}{x^5+e^{x}} dx",
    "indefinite integral": r"\int \frac{x^{17} e^{x^2} \sin x}{\sqrt{x^9+x+1}} dx",
    "double integral": r"\int_0^1 \int_0^1 \frac{x^y \sin(xy)}{1+x^3y^7} dx dy",
    "integral of a power": r"\int_0^1 (1+x+x^2+x^3)^{500} dx",
    "sum": r"\sum_{n=1}^{10^{12}} \frac{1}{n^3+n+1}",
    "sum of factorials": r"\sum_{n=1}^{100000} n!",
    "product": r"\prod_{n=1}^{10^{6}} (n^2+1)",
    "limit": r"\lim_{x \to 0} \frac{\sin(\tan(\sin x)) - \tan(\sin(\tan x))}{x^{37}}",
    "derivative": r"\frac{d^{60}}{dx^{60}} \frac{e^{\sin x}}{1+x^2}",
    "roots of a polynomial": "x^{17} + 3x^{11} - 7x^5 + 2x - 1 = 0",
    "expansion": "(a+b+c+d+e+f+g+h)^{40}",
    "expansion of two": "(x+y+z+1)^{60} - (x+y+z)^{60}",
    "trigonometric identity": r"\sin(x)^{40}+\cos(x)^{40}+\sin(17x)\cos(23x)\tan(31x)",
    "product of sines": "".join(rf"\sin({n}x)" for n in range(1, 40)),
    "large matrix": r"\begin{pmatrix}"
    + r"\\".join("&".join(f"x^{{{i * j}}}" for j in range(30)) for i in range(30))
    + r"\end{pmatrix}",
    "power of a matrix": r"\begin{pmatrix}x&y&1\\z&x&2\\1&y&z\end{pmatrix}^{200}",
    "inverse of a matrix": r"\begin{pmatrix}a&b&c&d\\e&f&g&h\\i&j&k&l\\m&n&o&p\end{pmatrix}^{-1}",
    "logarithm of a tower": r"\ln(10^{10^{10}} + 1)",
    "greatest common divisor": r"\gcd(10^{10^8}, 6^{10^8})",
    "long number": "9" * 200_000,
    "long decimal": "0." + "123456789" * 20_000,
    "long sum": "+".join(["1"] * 5_000),
    "long product of variables": "".join("abcdfghjk"[n % 9] for n in range(3_000)),
    "long set": r"\{" + ",".join(map(str, range(20_000))) + r"\}",
    "long union": r"\cup".join(f"({n},{n + 1})" for n in range(400)),
    "dollars that regular expressions go back over": "$" * 3_000 + "6x",
    "brackets that regular expressions go back over": r"\[ [ " * 3_000,
    "answers that regular expressions go back over": "answer: $1$ and " * 2_000,
    "spaces that regular expressions go back over": "5" + " " * 100_000 + "x",
    "commands that regular expressions go back over": r"\text{" * 3_000,
    "digits that regular expressions go back over": "1,234" * 5_000 + "x",
    "units that regular expressions go back over": "5 square " * 5_000,
}


@dataclass
class Lane:
    """A pool of one worker, and what was seen of it."""

    pool: Pool
    overtime_s: dict[str, float] = field(default_factory=dict)
    growth_mib: dict[str, float] = field(default_factory=dict)
    outcomes: dict[str, Judgement] = field(default_factory=dict)
    harmed: list[str] = field(default_factory=list)


class Watch:
    """The most that the resident sets of this process's children grow while it is open, in MiB."""

    def __init__(self) -> None:
        self.growth_mib = 0.0
        self._over = threading.Event()

    def __enter__(self) -> "Watch":
        self._before = dict(resident())
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(LOOK_S):
            for pid, mib in resident():
                self.growth_mib = max(self.growth_mib, mib - self._before.get(pid, mib))


def resident() -> Iterator[tuple[int, float]]:
    for child in psutil.Process().children():
        try:
            yield child.pid, child.memory_info().rss / 2**20
        except psutil.Error:
            continue


def judged(pool: Pool, item: Item) -> Judgement:
    return next(judgement for _, judgement in pool.judge([item]))


def explode(lane: Lane, name: str, item: Item, timeout_s: float) -> None:
    """Judge one bomb, between two plain items."""
    if judged(lane.pool, PLAIN).outcome != "right":
        lane.harmed.append(f"before {name}")
    with Watch() as watch:
        begun = time.perf_counter()
        lane.outcomes[name] = judged(lane.pool, item)
        lane.overtime_s[name] = time.perf_counter() - begun - timeout_s
    lane.growth_mib[name] = watch.growth_mib
    if judged(lane.pool, PLAIN).outcome != "right":
        lane.harmed.append(f"after {name}")
    found = lane.outcomes[name]
    bars.show(f"{name}: {found.reason or found.outcome}, {lane.overtime_s[name] + timeout_s:.2f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timeout-s", type=float, default=1.0)
    parser.add_argument("--memory-mib", type=int, default=256)
    parser.add_argument("--lanes", type=int, default=2, help="bombs judged at once, each by a pool of its own")
    parser.add_argument("--only", default="", help="bombs whose names hold this")
    chosen = parser.parse_args()
    items = [
        (f"{name} as {place}", item)
        for name, bomb in BOMBS.items()
        for place, item in (("an answer", Item("math", bomb, "5")), ("a reference", Item("math", "5", bomb)))
        if chosen.only in name
    ]

    def drive(part: list[tuple[str, Item]]) -> Lane:
        with Pool(1, chosen.timeout_s, chosen.memory_mib) as pool:
            lane = Lane(pool)
            for name, item in part:
                explode(lane, name, item, chosen.timeout_s)
            return lane

    with ThreadPoolExecutor(chosen.lanes) as threads:
        lanes = list(threads.map(drive, [items[start :: chosen.lanes] for start in range(chosen.lanes)]))
    outcomes = {name: found for lane in lanes for name, found in lane.outcomes.items()}
    overtime = [value for lane in lanes for value in lane.overtime_s.values()]
    growth = [value for lane in lanes for value in lane.growth_mib.values()]
    became = Counter(found.reason or found.outcome for found in outcomes.values())
    told = {"became": dict(became.most_common()), "timeout_s": chosen.timeout_s, "memory_mib": chosen.memory_mib}
    right = [name for name, found in outcomes.items() if found.outcome == "right" and not equal_to_five(name)]
    return bars.end(
        bars.below_always("seconds beyond the limit until a bomb is judged", overtime, OVERTIME_BAR_S, **told),
        bars.below_always("MiB that a bomb adds to a worker", growth, MEMORY_FACTOR * chosen.memory_mib),
        bars.none("bombs judged right by accident", len(right), len(outcomes), names=right),
        bars.none("neighbours harmed", sum(len(lane.harmed) for lane in lanes), 2 * len(outcomes)),
    )


def equal_to_five(name: str) -> bool:
    """These say five, at length."""
    return name.startswith(("power minus power", "deep braces", "deep parentheses", "deep boxes"))


if __name__ == "__main__":
    sys.exit(main())
