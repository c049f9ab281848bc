"""The bar of soft labels: an optimizer step with k stored candidates over our own cross-entropy step, on one batch.

Run: python -m tests.bench.kd_step [--model FOLDER]. Both arms run the same student with the same optimizer, autocast
and clipping, in turns; targets are looked up in the mapped file at every step, as in a training. `whole` is a
cross-entropy whose logits stand in memory all at once: it says what chunks cost. Peak memory is that of a process of
its own for each arm, model and optimizer included (on a GPU what torch allocated). The last line is JSON; exit code 1
where the bar is missed.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.training.encode import IGNORED, Encoded
from tests import bars
from tests.bench.sft_throughput import MODEL, made_up, model_folder, student

BAR = 1.15
ARMS = ("sft", "soft_labels", "whole")


def write_targets(folder: Path, examples: list[Encoded], k: int, vocabulary: int) -> None:
    """Targets for every token but the last of each example, of random candidates with falling masses."""
    from pipeline.objectives.targets import Writer

    draw = np.random.default_rng(1)
    logprobs = np.sort(np.log(draw.dirichlet(np.full(k + 1, 0.1), 4096) + 1e-9).astype(np.float32), axis=1)[:, ::-1]
    with Writer(folder, k) as writer:
        for example in examples:
            count = len(example.completion)
            rows = draw.integers(0, len(logprobs), count)
            strides = draw.integers(1, vocabulary // k, count)[:, None]  # every candidate of a token is another one
            ids = (draw.integers(0, vocabulary, count)[:, None] + np.arange(k) * strides) % vocabulary
            covered = np.arange(count) < count - 1
            writer.add(example.id, example.completion, covered, ids, logprobs[rows, :k], np.exp(logprobs[rows, k]))
        writer.done({})


def whole_loss(network: Any, batch: Any) -> tuple[Any, int]:
    """The summed cross-entropy at the learnt positions, all logits at once."""
    import torch
    import torch.nn.functional as F

    learnt = batch["labels"][:, 1:] != IGNORED
    with torch.autocast(learnt.device.type, dtype=torch.bfloat16):
        hidden = network.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])[0][:, :-1]
        logits = network.lm_head(hidden[learnt])
    return F.cross_entropy(logits.float(), batch["labels"][:, 1:][learnt], reduction="sum"), int(learnt.sum())


def stepper(arm: str, network: Any, batch: Any, targets: Path) -> Callable[[], float]:
    """One optimizer step of an arm; returns its seconds."""
    import torch

    from pipeline import objectives

    if arm == "whole":
        loss_of = whole_loss
    else:
        shelved = objectives.load(arm)
        context = objectives.Context(network, None, torch.bfloat16, lambda role: targets, targets=targets)
        objective = shelved.make(shelved.Config(), context)

        def loss_of(network: Any, batch: Any) -> tuple[Any, int]:
            return objective.loss(network, batch, 0.5)[:2]

    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, weight_decay=0.0, fused=True)
    network.train()

    def step() -> float:
        start = time.perf_counter()
        total, positions = loss_of(network, batch)
        (total / positions).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return step


def ready(chosen: argparse.Namespace) -> tuple[Any, Any]:
    """A student and a batch, on the device."""
    import torch

    from pipeline import heap
    from pipeline.training.trainer import collate

    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    heap.keep()  # as the stage does
    device = "cuda" if torch.cuda.is_available() else "cpu"
    examples = batch_of(chosen)
    rows = [{"id": one.id, "input_ids": one.input_ids, "labels": one.labels} for one in examples]
    batch = {
        name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in collate(rows, 0).items()
    }
    return student(chosen.model, chosen.attention).to(device), batch


def batch_of(chosen: argparse.Namespace) -> list[Encoded]:
    return made_up(max(1, chosen.batch_tokens // 200), 49000, seed=1)


def peak_mib(chosen: argparse.Namespace, arm: str, targets: Path) -> int:
    """The most memory that three steps of an arm take, in a process of its own."""
    words = [sys.executable, "-m", "tests.bench.kd_step", "--arm", arm, "--targets", str(targets)]
    words += ["--batch-tokens", str(chosen.batch_tokens), "--attention", chosen.attention]
    words += ["--model", str(chosen.model)]
    words += ["--threads", str(chosen.threads)] if chosen.threads else []
    answer = subprocess.run(words, capture_output=True, text=True, check=True)
    return int(answer.stdout.split()[-1])


def alone(chosen: argparse.Namespace) -> int:
    """Three steps of one arm; prints the peak in MiB."""
    import torch

    network, batch = ready(chosen)
    step = stepper(chosen.arm, network, batch, chosen.targets)
    for _ in range(3):
        step()
    used = torch.cuda.max_memory_allocated() >> 20 if torch.cuda.is_available() else 0
    # The kernel's own mark: getrusage gives a process the peak of the one that started it.
    mark = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert mark
    bars.show(str(used or int(mark[1]) >> 10))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=model_folder, default=MODEL, help="a folder with a Llama-class model")
    parser.add_argument("--k", type=int, default=50, help="candidates a token")
    parser.add_argument("--rounds", type=int, default=7, help="steps of each arm, after one to warm up")
    parser.add_argument("--batch-tokens", type=int, default=1024)
    parser.add_argument("--attention", default="eager")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--arm", choices=ARMS, help="only this arm's peak memory")
    parser.add_argument("--targets", type=Path, help="with --arm: a folder of stored targets")
    chosen = parser.parse_args()
    if chosen.arm:
        return alone(chosen)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network, batch = ready(chosen)
        write_targets(folder, batch_of(chosen), chosen.k, network.config.vocab_size)
        arms = {arm: stepper(arm, network, batch, folder) for arm in ARMS}
        for step in arms.values():
            step()
        seconds: dict[str, list[float]] = {arm: [] for arm in ARMS}
        for turn in range(chosen.rounds):
            for arm in ARMS if turn % 2 == 0 else ARMS[::-1]:  # no arm always goes first
                seconds[arm].append(arms[arm]())
            bars.show(f"turn {turn + 1}: " + "  ".join(f"{arm} {took[-1]:.3f} s" for arm, took in seconds.items()))
        del network, arms
        peaks = {arm: peak_mib(chosen, arm, folder) for arm in ARMS}
    bars.show("peak memory: " + "  ".join(f"{arm} {peak} MiB" for arm, peak in peaks.items()))
    ratios = [soft / hard for soft, hard in zip(seconds["soft_labels"], seconds["sft"], strict=True)]
    over_whole = [ours / theirs for ours, theirs in zip(seconds["sft"], seconds["whole"], strict=True)]
    return bars.end(
        bars.below(
            f"soft-label step (k = {chosen.k}) over cross-entropy step",
            ratios,
            BAR,
            cross_entropy_over_whole_logits=round(statistics.median(over_whole), 3),
            learnt_tokens=int((batch["labels"] != IGNORED).sum()),
            peak_mib=peaks,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
