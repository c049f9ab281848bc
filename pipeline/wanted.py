"""What an attempt asks of each teacher, noted on the disk before a token is spent.

After a kill, a changed recipe still knows by it what the attempt had bought; while the attempt runs, what needs only
ids reads them here, and no prompt is rendered again for it. It asks nothing, and knows no store.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

from pipeline.manifest import write_durably
from pipeline.orders import Order, Sample, asks

FOLDER = "wanted"  # in the folder of what a killed stage resumes from


def note(folder: Path, made: Mapping[str, Order]) -> dict[str, Order]:
    """Write down the samples of these orders, by teacher, in place of an earlier attempt's.

    Returns the orders as ones whose samples are read from there.
    """
    folder.mkdir(exist_ok=True)
    noted = {}
    for teacher, order in made.items():
        path = folder / f"{teacher}.txt"
        lines = (f"{ask.id} {ask.problem_id} {ask.sample}\n" for ask in asks(order))
        write_durably(path, chain([f"{order.weights}\n"], lines))
        noted[teacher] = replace(order, noted=partial(samples, path))
    for path in folder.iterdir():
        if path.stem not in made:
            path.unlink()
    return noted


def samples(path: Path) -> Iterator[Sample]:
    """The samples of one teacher, as `note` wrote them."""
    with open(path, encoding="utf-8") as file:
        next(file)
        for line in file:
            trace_id, problem_id, sample = line.split()
            yield Sample(trace_id, problem_id, int(sample))


def earlier(folder: Path) -> Iterator[tuple[str, Iterator[Sample]]]:
    """The weights and the samples of each teacher of an attempt that did not end; nothing where there was none."""
    for path in sorted(folder.glob("*.txt")):
        with open(path, encoding="utf-8") as file:
            weights = next(file).removesuffix("\n")
        yield weights, samples(path)
