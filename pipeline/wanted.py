"""What an attempt asks of each teacher, noted on the disk before a token is spent.

After a kill, a changed recipe still knows by it what the attempt had bought; while the attempt runs, what needs only
ids reads them here, and no prompt is rendered again for it. It asks nothing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

from pipeline.manifest import write_durably
from pipeline.orders import Order, Sample, asks
from pipeline.store import Store

FOLDER = "wanted"


def note(folder: Path, made: Mapping[str, Order]) -> dict[str, Order]:
    """Write down the samples of these orders, by name, in place of an earlier attempt's.

    Returns the orders as ones whose samples are read from there.
    """
    folder.mkdir(exist_ok=True)
    noted = {}
    for name, order in made.items():
        path = folder / f"{name}.txt"
        lines = (f"{ask.id} {ask.problem_id} {ask.sample}\n" for ask in asks(order))
        write_durably(path, chain([f"{order.weights}\n"], lines))
        noted[name] = replace(order, noted=partial(samples, path))
    for path in folder.iterdir():
        if path.stem not in made:
            path.unlink()
    return noted


def samples(path: Path) -> Iterator[Sample]:
    """The samples of one order, as `note` wrote them."""
    with open(path, encoding="utf-8") as file:
        next(file)
        for line in file:
            trace_id, problem_id, sample = line.split()
            yield Sample(trace_id, problem_id, int(sample))


def paid(folder: Path, root: Path) -> Iterator[str]:
    """The ids that an earlier attempt noted in this folder and has in its stores, which lie in `root`.

    Failed ones cost nothing and are left out; there are none where no attempt noted any.
    """
    for path in sorted(folder.glob("*.txt")):
        with open(path, encoding="utf-8") as file:
            store = Store(root, next(file).removesuffix("\n"))
        for sample in samples(path):
            entry = store.entry(sample.id)
            if entry is not None and entry.finish != "error":
                yield sample.id
