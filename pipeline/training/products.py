"""In which dtype this processor makes matrix products faster: not every one that has instructions for bfloat16 gains by
them.

It looks at the CPU alone: a GPU computes as the recipe declares.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.manifest import write_durably

FILE = "products.json"  # beside the checkpoints: a training that goes on makes its products as it did
SIZES = (256, 768, 2048)  # rows, inner and outer width of the product that is timed: those of a small student
TURNS = 4  # of either dtype, by turns; the fastest counts
LEAST_GAIN = 1.15  # below, two timings of one machine differ by as much


@dataclass(frozen=True)
class Products:
    """How products are made. `gain` is the seconds in bfloat16 over those in float32; None where nothing was timed."""

    dtype: str
    gain: float | None = None

    def line(self, declared: str) -> str:
        """What a person should hear where it is not what was declared."""
        return f"products are made in {self.dtype}, {self.gain} times as fast here as in {declared} (sft.exec.upcast)"


def gain() -> float:
    """The seconds that torch takes on the CPU for a product in bfloat16, over those in float32: in one thread and by
    that thread's own clock, which stands still while other work has the processor.
    """
    import torch

    rows, inner, outer = SIZES
    pairs = [
        (torch.ones(rows, inner, dtype=dtype), torch.ones(outer, inner, dtype=dtype))
        for dtype in (torch.bfloat16, torch.float32)
    ]
    fastest = [float("inf"), float("inf")]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for turn in range(TURNS + 1):  # the first one builds the kernels
                for at, (left, right) in enumerate(pairs):
                    start = time.thread_time()
                    torch.nn.functional.linear(left, right)
                    if turn:
                        fastest[at] = min(fastest[at], time.thread_time() - start)
    finally:
        torch.set_num_threads(threads)
    return fastest[0] / fastest[1]


def chosen(declared: str, upcast: bool, place: Path, goes_on: bool) -> Products:
    """How a training makes products whose dtype is declared as "bfloat16" or "float32": in float32 where `upcast`
    allows it and this machine, without a GPU, is faster so; never in fewer bits than declared.

    place: the folder of the checkpoints, where the choice is kept. goes_on: from one of them, so as it was begun.
    """
    import torch

    kept = place / FILE
    if declared == "float32" or torch.cuda.is_available():
        return Products(declared)
    if goes_on:
        return Products(**json.loads(kept.read_text(encoding="utf-8"))) if kept.exists() else Products(declared)
    found = Products(declared)
    if upcast:
        times = round(gain(), 2)
        found = Products("float32" if times >= LEAST_GAIN else declared, times)
    write_durably(kept, json.dumps(asdict(found)) + "\n")
    return found
