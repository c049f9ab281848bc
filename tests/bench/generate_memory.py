"""The bars of what the asking process itself takes: memory by prompts asked, and CPU time by length of completions.

Run: python -m tests.bench.generate_memory [--prompts 10000 100000] [--rounds 3]. Memory: the peak resident set (VmHWM,
nothing taken off) of a process that asks so many problems once, through `sampling.complete` into a real store on the
disk, of an engine whose canned answers take no memory by number, nor do its problems; beside it, without a bar, that of
the whole stage, from the problems to sealed shards. CPU time: user and system, all threads of this process, from the
first prompt rendered to the store closed, for each completion token of real vLLM on a tiny random Llama, at completions
of 8,192 tokens over completions of 512; the engine's own process is not in it, and is shown beside. The last line is
JSON; exit code 1 where a bar is missed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import pyarrow as pa

from pipeline import templates
from pipeline.engines import start
from pipeline.engines.replay import Replay
from pipeline.orders import Order
from pipeline.roles import Role, Sampling, Teacher
from pipeline.sampling import complete
from pipeline.store import writing
from tests import bars, tiny, workload

ROOT = Path(__file__).resolve().parents[2]
MEMORY_BAR, CPU_BAR = 1.1, 1.15
ANSWER = "First take one, then add the other, which gives the sum that was asked for. " * 16  # 240 tokens
SHORT, LONG = 512, 8192
IN_FLIGHT = 16
COMPLETIONS = {"short": 64, "long": 16}


class Same(dict[str, list[str]]):
    """Canned answers that are the same for every problem."""

    def get(self, _key: str, _default: Any = None) -> list[str]:
        return [ANSWER]


def asked(prompts: int, traced: bool = False) -> dict[str, Any]:
    """Ask so many problems; returns this process's memory before and at its peak, in MB."""
    order = Order(
        role=Teacher(model="canned.jsonl", engine="replay"),
        weights="digest",
        problems=lambda: problems(range(prompts)),
        texts={"question": "{problem}\nReason step by step, and put your final answer within \\boxed{{}}."},
        tokenizer=None,
        sampling=Sampling(),
        samples=1,
        max_tokens=1000,
    )
    held: dict[str, Any] = {}

    def progress(done: int, total: int, note: str) -> None:
        if traced and done == total:  # all that grows with the prompts has grown by now, and none of it is freed yet
            held.update(allocations())

    before = memory_mb("VmRSS")
    if traced:
        tracemalloc.start()
    with tempfile.TemporaryDirectory() as folder, writing(Path(folder), order.weights) as store:
        figures, _ = complete([order], store, lambda seed: Replay(Same()), progress)
    assert figures.bought == prompts
    return {"prompts": prompts, "before_mb": before, "peak_mb": memory_mb("VmHWM"), **held}


def staged(prompts: int) -> dict[str, Any]:
    """Run the whole stage over so many problems; returns this process's peak memory in MB, and the seconds it took."""
    from pipeline.output import RunOutput
    from stages.generate import STAGE, Config, run
    from tests.desk import DeskInputs

    class Numbers(DeskInputs):
        """Problems that are made as they are read."""

        def batches(self, name: str, rows: int = 8192) -> Iterator[pa.Table]:
            for first in range(0, prompts, rows):
                some = problems(range(first, min(first + rows, prompts)))
                yield pa.Table.from_pylist([{**row, "split": "train"} for row in some])

    with tempfile.TemporaryDirectory() as folder, patch("pipeline.engines.replay.start", lambda *_: Replay(Same())):
        teacher = Teacher(model="canned.jsonl", engine="replay")
        inputs = Numbers(Path(folder), teacher=teacher, models={"teacher": Path("canned.jsonl")})
        output = RunOutput(STAGE, Path(folder) / "generate", None, lambda moment: None, lambda line: None)
        begun = time.monotonic()
        run(Config(samples=1), inputs, output)
        datasets, _ = output.seal()
        seconds = time.monotonic() - begun
    assert datasets["traces"].rows == prompts
    return {"prompts": prompts, "peak_mb": memory_mb("VmHWM"), "seconds": seconds}


def problems(numbers: Iterable[int]) -> Iterator[dict[str, str]]:
    for number in numbers:
        yield {"id": f"{number:032x}", "text": f"What is {number} + {number // 7}?", "task": "sum"}


def allocations() -> dict[str, Any]:
    """The MB that are held now, by the line that asked for them: the most of them."""
    sizes: Counter[str] = Counter()
    for line in tracemalloc.take_snapshot().statistics("lineno"):
        frame = line.traceback[0]
        sizes[f"{Path(frame.filename).name}:{frame.lineno}"] += line.size
    traced = tracemalloc.get_traced_memory()
    return {
        "held_mb": {place: round(size / 1e6, 2) for place, size in sizes.most_common(12)},
        "traced_mb": [round(size / 1e6, 2) for size in traced],
    }


def memory_mb(key: str) -> float:
    """This process's resident memory (VmRSS), or the most it ever was (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) * 1024 / 1e6


def memory(kind: str, sizes: list[int], rounds: int) -> list[dict[str, Any]]:
    """Each size in processes of its own, in turns."""
    found = []
    for _ in range(rounds):
        for size in sizes:
            command = [sys.executable, "-m", "tests.bench.generate_memory", f"--{kind}", str(size)]
            answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
            bars.show(answer.stdout.strip())
            found.append(json.loads(answer.stdout))
    return found


def processor(rounds: int) -> dict[str, list[dict[str, float]]]:
    """CPU time of this process and of the engine's, in microseconds a token, of short and long completions in turns."""
    found: dict[str, list[dict[str, float]]] = {"short": [], "long": []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = tiny.build(Path(scratch) / "tiny", positions=2 * LONG)
        role = Role(
            model="tiny",
            max_model_len=2 * LONG,
            exec={"max_num_seqs": IN_FLIGHT, "kv_cache_gib": 1},  # type: ignore[arg-type]
        )
        tokenizer = templates.load_tokenizer(folder)
        hosted = start(role, folder, 1, Path(scratch) / "engine.log")
        engine, others = workload.Kept(hosted), psutil.Process().children()
        try:
            for turn in range(-1, rounds):  # the first one warms up
                for name, length in {"short": SHORT, "long": LONG if turn >= 0 else 16}.items():
                    count = COMPLETIONS[name]
                    lengths = [length] * count
                    orders = workload.orders(role, "bench", tokenizer, lengths, seed=100 * turn + length)
                    begun = time.process_time(), engine_s(others)
                    with writing(Path(scratch) / f"{name}{turn}", "bench") as store:
                        figures, _ = complete(orders, store, lambda seed: engine, lambda *_: None)
                    ended = time.process_time(), engine_s(others)
                    assert figures.completion_tokens == sum(lengths)
                    if turn >= 0:
                        ours, theirs = ((ended[side] - begun[side]) * 1e6 / sum(lengths) for side in (0, 1))
                        found[name].append({"ours_us": ours, "engine_us": theirs})
                        bars.show(
                            f"{count} completions of {length} tokens: {ours:.2f} us a token here, {theirs:.1f} in the "
                            f"engine's process, {figures.tokens_per_s:,.0f} tokens/s"
                        )
        finally:
            hosted.close()
    return found


def engine_s(processes: list[psutil.Process]) -> float:
    """CPU seconds of the engine's processes."""
    times = [process.cpu_times() for process in processes]
    return sum(each.user + each.system for each in times)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, nargs=2, default=[10_000, 100_000], help="two sizes to compare")
    parser.add_argument("--rounds", type=int, default=3, help="of measuring memory")
    parser.add_argument("--cpu-rounds", type=int, default=2, help="of measuring CPU time")
    parser.add_argument("--trace", action="store_true", help="show which lines hold the memory, and measure nothing")
    parser.add_argument("--ask", type=int, help=argparse.SUPPRESS)  # a measuring process: ask so many
    parser.add_argument("--stage", type=int, help=argparse.SUPPRESS)  # likewise: run the whole stage
    chosen = parser.parse_args()
    if chosen.ask is not None or chosen.trace:
        bars.show(json.dumps(asked(chosen.ask or chosen.prompts[1], chosen.trace)))
        return 0
    if chosen.stage is not None:
        bars.show(json.dumps(staged(chosen.stage)))
        return 0
    small, large = chosen.prompts
    peaks = memory("ask", [small, large], chosen.rounds)
    whole = memory("stage", [small, large], 1)
    by_size = {size: [each["peak_mb"] for each in peaks if each["prompts"] == size] for size in (small, large)}
    times = processor(chosen.cpu_rounds)

    def ratio(name: str) -> list[float]:
        return [long[name] / short[name] for long, short in zip(times["long"], times["short"], strict=True)]

    return bars.end(
        bars.below(
            f"peak memory of the asking process, {large:,} prompts over {small:,}",
            [most / least for most, least in zip(by_size[large], by_size[small], strict=True)],
            MEMORY_BAR,
            mb={size: [round(value, 1) for value in values] for size, values in by_size.items()},
            whole_stage_mb={each["prompts"]: round(each["peak_mb"], 1) for each in whole},
        ),
        bars.below(
            f"CPU time a token of the asking process, completions of {LONG:,} tokens over {SHORT}",
            ratio("ours_us"),
            CPU_BAR,
            microseconds_a_token={name: [round(each["ours_us"], 2) for each in some] for name, some in times.items()},
            engine_over=[round(value, 2) for value in ratio("engine_us")],
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
