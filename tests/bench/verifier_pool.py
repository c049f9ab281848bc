"""The bar of the warm pool: how many items of 10 ms it judges a second, beside a process forked for each item.

Run: python -m tests.bench.verifier_pool [--items 200] [--rounds 5] [--item-ms 10] [--parent math_verify torch].

An item keeps a core busy for so long, as a comparison does. A forked judge is what most projects do to be able to
kill one that hangs: a process for each item, forked from the program that trains or generates (so it has math-verify
and torch imported), waited for with a limit, its verdict read from a pipe. `one_at_a_time` is that as it is commonly
written, and has the bar; `side_by_side` keeps as many forks going as the pool has workers; `fresh` starts an
interpreter for each item, which is what a program with threads or a GPU has to do. Rounds of all are interleaved; the
pool is warm. The last line is JSON; exit code 1 where a bar is missed.
"""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

from pipeline.verifiers import Judgement, right, wrong
from pipeline.verifiers.pool import Item, Pool, processors
from tests import bars

BAR = 4.0
LIMIT_S = 10.0
BUSY = "tests.bench.verifier_pool:busy"


def busy(given: str, gold: str, data: dict[str, Any]) -> Judgement:
    """A verifier that computes for `given` milliseconds."""
    end = time.perf_counter() + float(given) / 1000
    while time.perf_counter() < end:
        pass
    return right() if gold == "5" else wrong()


def child(given: str, pipe: Connection) -> None:
    pipe.send(busy(given, "5", {}).outcome)
    pipe.close()


def forked(given: str, method: str = "fork") -> str:
    """One item in a process of its own, killed where it takes too long."""
    context: Any = multiprocessing.get_context(method)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(given, theirs))
    process.start()
    theirs.close()
    outcome = ours.recv() if ours.poll(LIMIT_S) else "undecided"
    process.join(0.5)
    if process.is_alive():
        process.kill()
        process.join()
    ours.close()
    return str(outcome)


def rate(judge: Callable[[int], list[str]], items: int) -> float:
    """Items a second; raises where one was not judged right."""
    begun = time.perf_counter()
    outcomes = judge(items)
    seconds = time.perf_counter() - begun
    if outcomes != ["right"] * items:
        raise RuntimeError(f"found {outcomes.count('right')} of {items} items right; expected all")
    return items / seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--item-ms", type=float, default=10.0)
    parser.add_argument("--parent", nargs="*", default=["math_verify", "torch"], help="modules that a fork begins with")
    chosen = parser.parse_args()
    for name in chosen.parent:
        import_module(name)
    given, workers = str(chosen.item_ms), processors()
    rates: dict[str, list[float]] = {"pool": [], "one_at_a_time": [], "side_by_side": [], "fresh": []}
    with Pool(workers, LIMIT_S, 1024) as pool, ThreadPoolExecutor(workers) as threads:

        def warm(items: int) -> list[str]:
            return [judgement.outcome for _, judgement in pool.judge([Item(BUSY, given, "5")] * items)]

        ways: dict[str, Callable[[int], list[str]]] = {
            "pool": warm,
            "one_at_a_time": lambda items: [forked(given) for _ in range(items)],
            "side_by_side": lambda items: list(threads.map(forked, [given] * items)),
            "fresh": lambda items: [forked(given, "spawn") for _ in range(items)],
        }
        warm(4 * workers)
        for number in range(chosen.rounds):
            for name, way in ways.items():
                rates[name].append(rate(way, chosen.items if name != "fresh" else max(1, chosen.items // 40)))
            last = ", ".join(f"{name} {found[-1]:.0f}" for name, found in rates.items())
            bars.show(f"round {number + 1}: {last} items/s")
    ratios = {
        name: [mine / theirs for mine, theirs in zip(rates["pool"], rates[name], strict=True)]
        for name in rates
        if name != "pool"
    }
    more = {f"times_{name}": [round(min(found), 2), round(max(found), 2)] for name, found in ratios.items()}
    return bars.end(bars.above("times as many items a second as a fork per item", ratios["one_at_a_time"], BAR, **more))


if __name__ == "__main__":
    sys.exit(main())
