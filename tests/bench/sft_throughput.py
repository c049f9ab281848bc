"""The bar of sft: the trainer's non-padding tokens per second against a plain PyTorch loop over the same batches.

Run: python -m tests.bench.sft_throughput [--model FOLDER]. Both arms train the same model with the same optimizer,
autocast, clipping and batches, in turns; saving, evaluation and TensorBoard are off in both. The plain loop has the
trainer's best trick too (the output head at learnt positions only); `naive` is the loop without it. Freed memory stays
with the process in the trainer's arm, as in the stage (`pipeline.heap`), and not in the others. The last line is JSON;
exit code 1 where the bar is missed.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.training.encode import IGNORED, Encoded

BAR = 0.85


def made_up(count: int, vocabulary: int, seed: int) -> list[Encoded]:
    """Examples of random tokens, as long as short sums with their reasoning are."""
    rng = random.Random(seed)

    def tokens(mean: float, deviation: float) -> list[int]:
        return [rng.randrange(5, vocabulary) for _ in range(max(8, round(rng.gauss(mean, deviation))))]

    return [Encoded(f"trace-{number}", (), "", tokens(80, 6), tokens(120, 40)) for number in range(count)]


def student(folder: Path | None, attention: str) -> Any:
    """The model in a folder, or random weights in the shape of SmolLM2-135M."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from pipeline.training import model

    if folder is not None:
        return model.load(folder, "float32", attention, None, 0, False)  # type: ignore[arg-type]
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        use_cache=False,
    )
    shape._attn_implementation = attention
    return LlamaForCausalLM(shape)


def plain_loop(network: Any, batches: list[Any], select: bool) -> Callable[[], float]:
    """A hand-written loop over the batches; calling it trains once through them and returns the seconds."""
    import torch
    import torch.nn.functional as F

    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, weight_decay=0.0, fused=True)
    network.train()

    def loss_of(batch: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            if not select:
                logits = network(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
                labels = batch["labels"][:, 1:]
                return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED)
            hidden = network.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])[0][:, :-1]
            learnt = batch["labels"][:, 1:] != IGNORED
            return F.cross_entropy(network.lm_head(hidden[learnt]).float(), batch["labels"][:, 1:][learnt])

    def train() -> float:
        start = time.perf_counter()
        for batch in batches:
            loss_of(batch).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - start

    return train


def trainer_loop(network: Any, examples: list[Encoded], plan: list[list[int]], folder: Path) -> Callable[[], float]:
    """The stage's trainer over the same batches; calling it trains once through them and returns the seconds."""
    import torch
    from transformers import TrainerCallback
    from trl.trainer.sft_config import SFTConfig

    from pipeline import heap, objectives
    from pipeline.training import model, trainer
    from stages import sft
    from tests import tiny

    class Clock(TrainerCallback):
        begun = ended = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.begun = time.perf_counter()

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.ended = time.perf_counter()

    clock = Clock()
    settings = sft.arguments(sft.Config(learning_rate=1e-5), folder, len(plan), evaluated=False, on_gpu=False)
    model.quiet()
    objective = objectives.load("sft")
    context = objectives.Context(network, tiny.tokenizer(), torch.bfloat16, lambda role: folder)
    arm = trainer.PlannedTrainer(
        trainer.Plan(objective.make(objective.Config(), context), plan, [], 0, part_tokens=1 << 30),
        model=network,
        args=SFTConfig(**settings | {"save_strategy": "no"}),
        train_dataset=trainer.as_dataset(examples),
        processing_class=tiny.tokenizer(),
        callbacks=[clock],
    )

    def train() -> float:
        with heap.kept():  # as the stage does
            arm.train()
        return clock.ended - clock.begun

    return train


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a folder with a Llama-class model; default: random weights")
    parser.add_argument("--batches", type=int, default=4, help="batches of a turn")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each arm, after one to warm up")
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--attention", default="eager")
    parser.add_argument("--threads", type=int)
    chosen = parser.parse_args()

    import torch

    from pipeline.training.batches import epoch_batches
    from pipeline.training.trainer import collate

    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    examples = made_up(chosen.batches * chosen.batch_tokens // 200, 49000, seed=1)
    lengths = [example.length for example in examples]
    plan = epoch_batches(lengths, chosen.batch_tokens, seed=1, epoch=0, pool_batches=16)[: chosen.batches]
    rows = [{"id": one.id, "input_ids": one.input_ids, "labels": one.labels} for one in examples]
    tensors = [collate([rows[index] for index in batch], 0) for batch in plan]
    tokens = sum(lengths[index] for batch in plan for index in batch)

    with tempfile.TemporaryDirectory() as folder:
        arms = {
            "trainer": trainer_loop(student(chosen.model, chosen.attention), examples, plan, Path(folder)),
            "plain": plain_loop(student(chosen.model, chosen.attention), tensors, select=True),
            "naive": plain_loop(student(chosen.model, chosen.attention), tensors, select=False),
        }
        for arm in arms.values():
            arm()
        speeds: dict[str, list[float]] = {name: [] for name in arms}
        for turn in range(chosen.rounds):
            names = list(arms) if turn % 2 == 0 else list(arms)[::-1]  # no arm always goes first
            for name in names:
                speeds[name].append(tokens / arms[name]())
            line = "  ".join(f"{name} {values[-1]:.0f}" for name, values in speeds.items())
            sys.stdout.write(f"turn {turn + 1}: tokens/s {line}\n")
            sys.stdout.flush()
    ratios = [ours / theirs for ours, theirs in zip(speeds["trainer"], speeds["plain"], strict=True)]
    naive = [ours / theirs for ours, theirs in zip(speeds["trainer"], speeds["naive"], strict=True)]
    value = statistics.median(ratios)
    result = {
        "bar": "sft non-padding tokens/s, trainer over plain loop",
        "value": round(value, 3),
        "limit": BAR,
        "n": len(ratios),
        "spread": [round(min(ratios), 3), round(max(ratios), 3)],
        "over_naive_loop": round(statistics.median(naive), 3),
        "tokens_per_s": round(statistics.median(speeds["trainer"]), 1),
        "ok": value >= BAR,
    }
    sys.stdout.write(json.dumps(result) + "\n")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
