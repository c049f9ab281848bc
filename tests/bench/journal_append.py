"""The bars of the one writer in front of all replicas: how many completions a second it makes durable.

Run: python -m tests.bench.journal_append [--rows 20000] [--long-rows 2000] [--turns 3]. Made-up traces with their ids
(tests/traces.py), of some 300 tokens and of some 4,000, are appended to a store on the disk, durable as ever: handed to
the system one by one, synced in the background, closed within the time. `whole` is `sampling.complete` with two
replicas that answer at once, each a process of its own: prompts rendered, requests and answers pickled, rows made and
appended. The limit is ten times what eight GPUs with 50 completions a second each would need; five times for `whole`,
whose replicas take part of the same cores here, and once for long rows, which no such GPUs write so fast. MB are of the
journal. The last line is JSON; exit code 1 where a bar is missed.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from pipeline.engines import Completion, Request
from pipeline.engines.host import Hosted, Place
from pipeline.orders import Order
from pipeline.records import content_id
from pipeline.roles import EngineExec, Role, Sampling
from pipeline.sampling import complete
from pipeline.store import partition, writing
from tests import bars, tiny, traces

NEEDED = 8 * 50.0  # completions a second
APPEND_BAR, WHOLE_BAR = 10 * NEEDED, 5 * NEEDED
MEAN_TOKENS, LONG_MEAN_TOKENS = 300, 4000
BODIES = 1000  # different texts, which the ids share in turn
SAMPLES = 4
REPLICAS = 2
WINDOW = 384  # as vLLM's own on a GPU


class AtOnce:
    """An engine that has its answers ready."""

    def __init__(self) -> None:
        self.figures = {"prompt_tokens": 0.0, "cached_prompt_tokens": 0.0}
        self.window = WINDOW
        self._bodies = cycle(list(traces.records(BODIES, mean_tokens=MEAN_TOKENS)))

    def stream(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        for request in requests:
            if request is not None:
                body = next(self._bodies)
                tokens = len(body["token_ids"])
                yield Completion(request.id, body["raw"], body["token_ids"], "stop", None, 60, tokens)


def load(role: Role, model: Path, seed: int, place: Place) -> AtOnce:
    """As `vllm.load`."""
    return AtOnce()


def appended(root: Path, count: int, mean_tokens: int) -> float:
    """The seconds of appending so many rows to a store, from its opening until it is closed."""
    bodies = cycle(list(traces.records(min(count, BODIES), mean_tokens=mean_tokens)))
    ids = [content_id("trace", number) for number in range(count)]
    begun = time.perf_counter()
    with writing(root, traces.WEIGHTS) as store:
        for trace_id in ids:
            store.append({**next(bodies), "id": trace_id})
    return time.perf_counter() - begun


def whole(root: Path, count: int) -> float:
    """The seconds of asking two replicas for so many rows, from the first prompt rendered to a store that is closed."""
    role = Role(model="m", exec=EngineExec(replicas=REPLICAS))
    problems = [
        {"id": f"{number:032x}", "text": f"What is {number} + {number}?", "task": "t"} for number in range(count)
    ]
    order = Order(
        role=role,
        weights=traces.WEIGHTS,
        problems=lambda: islice(problems, count // SAMPLES),
        texts={"question": "{problem}\n\nPlease reason step by step, and put your final answer within \\boxed{}."},
        tokenizer=tiny.tokenizer(),
        sampling=Sampling(),
        samples=SAMPLES,
        max_tokens=4096,
    )
    engine = Hosted("tests.bench.journal_append", role, root, 1, root / "engine.log")
    begun = time.perf_counter()
    with writing(root, traces.WEIGHTS) as store:
        figures, _ = complete([order], store, lambda seed: engine, lambda *_: None)
    assert figures.bought == count // SAMPLES * SAMPLES
    return time.perf_counter() - begun


def measured(kind: str, turns: int, count: int, mean_tokens: int) -> list[dict[str, Any]]:
    """Rows and MB a second of each turn."""
    found = []
    for _ in range(turns):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            seconds = whole(root, count) if kind == "whole" else appended(root, count, mean_tokens)
            size = sum(path.stat().st_size for path in partition(root, traces.WEIGHTS).glob("journal-*.log"))
        found.append({"rows_per_s": count / seconds, "mb_per_s": size / 1e6 / seconds, "bytes": size / count})
        bars.show(
            f"{kind}, some {mean_tokens:,} tokens a row: {found[-1]['rows_per_s']:,.0f} rows/s, "
            f"{found[-1]['mb_per_s']:,.0f} MB/s, {found[-1]['bytes']:,.0f} bytes a row"
        )
    return found


def bar(name: str, found: list[dict[str, Any]], limit: float) -> dict[str, Any]:
    rows = [turn["rows_per_s"] for turn in found]
    return bars.above(name, rows, limit, mb_per_s=round(max(turn["mb_per_s"] for turn in found), 1))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000, help="of some 300 tokens, appended in a turn")
    parser.add_argument("--long-rows", type=int, default=2_000, help="of some 4,000 tokens")
    parser.add_argument("--turns", type=int, default=3, help="of each kind")
    chosen = parser.parse_args()
    short = measured("appends", chosen.turns, chosen.rows, MEAN_TOKENS)
    long = measured("appends", chosen.turns, chosen.long_rows, LONG_MEAN_TOKENS)
    front = measured("whole", chosen.turns, chosen.rows, MEAN_TOKENS)
    return bars.end(
        bar("appended rows a second, some 300 tokens each", short, APPEND_BAR),
        bar("appended rows a second, some 4,000 tokens each", long, NEEDED),
        bar("rows a second asked for, answered and appended", front, WHOLE_BAR),
    )


if __name__ == "__main__":
    sys.exit(main())
