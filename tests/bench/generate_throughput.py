"""The bars of generate's loop: completion tokens per second against vLLM's own `generate`, and against batches.

Run: python -m tests.bench.generate_throughput [--model FOLDER] [--requests 512] [--turns 2] [--barrier-turns 1].
Requests with log-normal lengths, in no order, 64 sequences in flight, the CPU build of vLLM. `ours` is
`sampling.complete` into a store on the disk, whole: prompts rendered, every completion durable as it ends, the store
closed. `raw` is one call of `LLM.generate` with all prompts, `barrier` a call for each 64 of them; both are handed
token ids and keep nothing. The engines have the same settings, each in a process of its own, and are started before
anything is timed. Arms take turns over the same requests, each turn has others, and no arm always goes first. The last
line is JSON; exit code 1 where a bar is missed.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pipeline import templates
from pipeline.engines import start, vllm
from pipeline.engines.host import Place
from pipeline.orders import Order, asks
from pipeline.roles import Role
from pipeline.sampling import complete
from pipeline.store import writing
from tests import bars, workload

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "data/models/smollm2-135m-instruct"
RAW_BAR, BARRIER_BAR = 0.98, 1.5
IN_FLIGHT = 64
LONGEST = 1024
WARM_UP = -1  # the turn that is not counted


def ours(engine: workload.Kept, orders: list[Order], folder: Path) -> float:
    """The seconds of asking for all of it, from the first prompt rendered to a store that is closed."""
    begun = time.perf_counter()
    with writing(folder, orders[0].weights) as store:
        figures, _ = complete(orders, store, lambda seed: engine, lambda *_: None)
    seconds = time.perf_counter() - begun
    expected = sum(order.max_tokens for order in orders)
    assert figures.completion_tokens == expected, f"{figures.completion_tokens} tokens, expected {expected}"
    return seconds


def raw_engine(connection: Connection, role: Role, model: Path, log: Path) -> None:
    """A process with vLLM as ours starts it: answers ([token ids], [limits], requests a call) with seconds."""
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    llm = vllm.load(role, model, 1, Place())._llm
    connection.send(None)
    while (job := connection.recv()) is not None:
        connection.send(raw_generate(llm, *job))


def raw_generate(llm: Any, prompts: list[list[int]], limits: list[int], step: int) -> float:
    """The seconds of LLM.generate over the prompts, `step` of them a call."""
    params = [vllm.sampling_params(workload.ENDLESS, limit) for limit in limits]
    llm.reset_prefix_cache()  # the other raw arm had the same prompts
    begun, tokens = time.perf_counter(), 0
    for first in range(0, len(prompts), step):
        some = [{"prompt_token_ids": ids} for ids in prompts[first : first + step]]
        for answer in llm.generate(some, params[first : first + step], use_tqdm=False):
            tokens += len(answer.outputs[0].token_ids)
    seconds = time.perf_counter() - begun
    assert tokens == sum(limits), f"{tokens} tokens, expected {sum(limits)}"
    return seconds


@contextmanager
def raw_process(role: Role, model: Path, log: Path) -> Iterator[Connection]:
    """The other process, up."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=raw_engine, args=(there, role, model, log))
    process.start()
    there.close()
    try:
        here.recv()
        yield here
        here.send(None)
    finally:
        process.join(10)
        process.kill()


def measure(model: Path, requests: int, mean_tokens: float, turns: int, barrier_turns: int) -> dict[str, list[float]]:
    """Completion tokens per second of each arm, turn by turn; the slow arm sits out after its last."""
    role = Role(model=str(model), max_model_len=2048, exec={"max_num_seqs": IN_FLIGHT})  # type: ignore[arg-type]
    tokenizer = templates.load_tokenizer(model)
    speeds: dict[str, list[float]] = {"ours": [], "raw": [], "barrier": []}
    with tempfile.TemporaryDirectory() as scratch, raw_process(role, model, Path(scratch) / "raw.log") as raw:
        hosted = start(role, model, 1, Path(scratch) / "ours.log")
        engine = workload.Kept(hosted)
        try:
            for turn in range(WARM_UP, turns):
                lengths = (
                    [16] * IN_FLIGHT
                    if turn == WARM_UP
                    else workload.heavy_tailed(requests, mean_tokens, LONGEST, seed=turn)
                )
                orders = workload.orders(role, "bench", tokenizer, lengths, seed=1000 + turn)
                prompts = [templates.prompt_ids(tokenizer, ask.messages) for order in orders for ask in asks(order)]
                seconds: dict[str, float] = {}
                arms = list(speeds) if turn < barrier_turns else ["ours", "raw"]
                for arm in arms if turn % 2 == 0 else arms[::-1]:
                    if arm == "ours":
                        seconds[arm] = ours(engine, orders, Path(scratch) / f"store-{turn}")
                    else:
                        raw.send((prompts, lengths, len(prompts) if arm == "raw" else IN_FLIGHT))
                        seconds[arm] = raw.recv()
                    bars.show(f"{arm}: {sum(lengths)} tokens in {seconds[arm]:.1f} s")
                if turn == WARM_UP:
                    continue
                for arm in arms:
                    speeds[arm].append(sum(lengths) / seconds[arm])
                line = "  ".join(f"{arm} {speeds[arm][-1]:.0f}" for arm in arms)
                bars.show(
                    f"turn {turn + 1}: {len(lengths)} requests, {sum(lengths)} tokens, longest {max(lengths)}; "
                    f"tokens/s {line}"
                )
        finally:
            hosted.close()
    return speeds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL, help="a folder with weights and tokenizer")
    parser.add_argument("--requests", type=int, default=512, help="of a turn")
    parser.add_argument("--mean-tokens", type=float, default=32, help="of a completion")
    parser.add_argument("--turns", type=int, default=2, help="of ours and raw, after a short one to warm up")
    parser.add_argument("--barrier-turns", type=int, default=1, help="of those with the slow arm too")
    chosen = parser.parse_args()
    speeds = measure(chosen.model, chosen.requests, chosen.mean_tokens, chosen.turns, chosen.barrier_turns)
    more = {
        "tokens_per_s": {arm: [round(value, 1) for value in values] for arm, values in speeds.items()},
        "requests": chosen.requests,
        "in_flight": IN_FLIGHT,
        "model": chosen.model.name,
    }

    def over(other: str) -> list[float]:
        return [mine / theirs for mine, theirs in zip(speeds["ours"], speeds[other], strict=False)]

    return bars.end(
        bars.above("completion tokens/s, ours over one call of LLM.generate", over("raw"), RAW_BAR, **more),
        bars.above(f"completion tokens/s, ours over batches of {IN_FLIGHT}", over("barrier"), BARRIER_BAR),
    )


if __name__ == "__main__":
    sys.exit(main())
