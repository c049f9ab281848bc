"""The bars of sft: non-padding tokens per second beside TRL's own trainer, and beside a plain PyTorch loop.

Run: python -m tests.bench.sft_throughput [--run data/runs/demo] [--examples 64] [--rounds 3]. All arms train the same
weights on the same examples: AdamW at a constant rate, float32 weights with bfloat16 products, no recomputed
activations, gradients clipped, saving and evaluation off. `trainer` is the stage's, with its batches by length. `trl`
is SFTTrainer with its defaults otherwise, random batches of as many examples as ours have on average; `trl_grouped` the
same with train_sampling_strategy group_by_length. `plain` is a hand-written loop over our batches, its output head at
learnt positions only. Freed memory stays with the process in the trainer's arm, as in the stage (`pipeline.heap`), and
not in the others. Arms take turns, and no arm always goes first; every turn is one pass over the examples, and the
clock runs from the first step to the last. In the end every arm's loss on other examples of the same mix is measured.

Examples are those of a run's mix; without --run they are random tokens, as long as short sums with their reasoning are.
The last line is JSON; exit code 1 where a bar is missed.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from pipeline.training.encode import IGNORED, Encoded
from tests import bars

BARS = {"trl": 1.5, "trl_grouped": 1.1, "plain": 0.85}
LOSS_BAR = 0.05  # nats a token, that an arm's loss may be above the lowest
LEARNING_RATE = 1e-5
MODEL = "data/models/smollm2-135m-instruct"


def made_up(count: int, vocabulary: int, seed: int) -> list[Encoded]:
    """Examples of random tokens, as long as short sums with their reasoning are."""
    rng = random.Random(seed)

    def tokens(mean: float, deviation: float) -> list[int]:
        return [rng.randrange(5, vocabulary) for _ in range(max(8, round(rng.gauss(mean, deviation))))]

    return [Encoded(f"trace-{number}", (), "", tokens(80, 6), tokens(120, 40)) for number in range(count)]


def real(run: Path, model: Path, count: int) -> list[Encoded]:
    """So many examples of a run's mix, in the model's own chat template, drawn at random."""
    from pipeline.manifest import read_manifest
    from pipeline.shards import read_shards
    from pipeline.templates import load_tokenizer
    from pipeline.training.encode import encode

    manifest = read_manifest(run / "mix")
    if manifest is None:
        raise SystemExit(f"found no finished mix in {run}; expected one: run `make mix` first, or leave --run out")
    tables = read_shards(run / "mix", manifest.datasets["examples"].shards, ("id", "prompt", "completion"))
    rows = sorted((row for table in tables for row in table.to_pylist()), key=lambda row: str(row["id"]))
    fitting, _, _ = encode(load_tokenizer(model), random.Random(1).sample(rows, count), 2048)
    return fitting


def model_folder(text: str) -> Path:
    """An argument that names a model's folder."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"found no folder {text}; name a model's, or let `make distill` fetch it")
    return Path(text)


def student(folder: Path, attention: str) -> Any:
    from pipeline.training import model

    return model.load(folder, "float32", attention, None, 0, False)  # type: ignore[arg-type]


def plain_loop(network: Any, batches: list[Any]) -> Callable[[], float]:
    """A hand-written loop over the batches; calling it trains once through them and returns the seconds."""
    import torch
    import torch.nn.functional as F

    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)

    def loss_of(batch: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = network.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])[0][:, :-1]
            learnt = batch["labels"][:, 1:] != IGNORED
            return F.cross_entropy(network.lm_head(hidden[learnt]).float(), batch["labels"][:, 1:][learnt])

    def train() -> float:
        network.train()
        start = time.perf_counter()
        for batch in batches:
            loss_of(batch).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - start

    return train


def timed(trainer: Any, kept: bool) -> Callable[[], float]:
    """What trains once with a trainer of transformers and returns the seconds between its first step and its last."""
    from transformers import TrainerCallback

    from pipeline import heap

    class Clock(TrainerCallback):
        begun = ended = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.begun = time.perf_counter()

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.ended = time.perf_counter()

    clock = Clock()
    trainer.add_callback(clock)

    def train() -> float:
        with heap.kept() if kept else nullcontext():
            trainer.train()
        return clock.ended - clock.begun

    return train


def ours(
    network: Any, examples: list[Encoded], plan: list[list[int]], folder: Path, on_gpu: bool, **options: Any
) -> Any:
    """The stage's trainer over planned batches; `options` are of `sft`, beside a constant rate."""
    import torch
    from trl.trainer.sft_config import SFTConfig

    from pipeline import objectives
    from pipeline.training import trainer
    from pipeline.training.settings import arguments
    from stages import sft
    from tests import tiny

    config = sft.Config(learning_rate=LEARNING_RATE, schedule="constant", warmup_share=0.0, **options)
    settings = arguments(config, folder, len(plan), evaluated=False, on_gpu=on_gpu)
    objective = objectives.load("sft")
    context = objectives.Context(network, tiny.tokenizer(), torch.bfloat16, lambda role: folder)
    return trainer.PlannedTrainer(
        trainer.Plan(objective.make(objective.Config(), context), plan, [], 0, part_tokens=1 << 30),
        model=network,
        args=SFTConfig(**settings | {"save_strategy": "no"}),
        train_dataset=trainer.as_dataset(examples),
        processing_class=tiny.tokenizer(),
    )


def trl(network: Any, examples: list[Encoded], size: int, strategy: str, folder: Path) -> Callable[[], float]:
    """TRL's trainer on the same tokens, in batches of so many examples."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from tests import tiny

    rows = [{"input_ids": one.input_ids, "labels": one.labels} for one in examples]
    made = SFTTrainer(
        model=network,
        args=SFTConfig(
            output_dir=str(folder),
            per_device_train_batch_size=size,
            train_sampling_strategy=strategy,
            num_train_epochs=1,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            bf16=True,
            use_cpu=True,
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tiny.tokenizer(),
    )
    return timed(made, kept=False)


def loss(network: Any, batches: list[Any]) -> float:
    """The mean loss per learnt token, in nats."""
    import torch
    import torch.nn.functional as F

    total, count = 0.0, 0
    network.eval()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        for batch in batches:
            logits = network(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
            labels = batch["labels"][:, 1:]
            total += float(
                F.cross_entropy(logits[labels != IGNORED].float(), labels[labels != IGNORED], reduction="sum")
            )
            count += int((labels != IGNORED).sum())
    return total / count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=model_folder, default=MODEL, help="a folder with a Llama-class model")
    parser.add_argument("--run", type=Path, help="a run's folder, whose mix has the examples")
    parser.add_argument("--examples", type=int, default=64, help="of a turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each arm, after one to warm up")
    parser.add_argument("--batch-tokens", type=int, default=1024, help="of our batches, padding included")
    parser.add_argument("--attention", default="eager")
    chosen = parser.parse_args()

    from pipeline.training import model
    from pipeline.training.batches import epoch_batches
    from pipeline.training.trainer import collate

    model.quiet()
    count = 2 * chosen.examples
    found = real(chosen.run, chosen.model, count) if chosen.run else made_up(count, 49000, seed=1)
    examples, others = found[: chosen.examples], found[chosen.examples :]
    lengths = [one.length for one in examples]
    plan = epoch_batches(lengths, chosen.batch_tokens, seed=1, epoch=0, pool_batches=16)

    def tensors(some: list[Encoded], batches: list[list[int]]) -> list[Any]:
        rows = [{"id": one.id, "input_ids": one.input_ids, "labels": one.labels} for one in some]
        return [collate([rows[index] for index in batch], 0) for batch in batches]

    size = round(len(examples) / len(plan))
    bars.show(f"{len(examples)} examples, {sum(lengths)} tokens, {len(plan)} batches of ours; TRL's of {size}")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        networks = {name: student(chosen.model, chosen.attention) for name in ("trainer", *BARS)}
        arms = {
            "trainer": timed(ours(networks["trainer"], examples, plan, folder / "trainer", on_gpu=False), kept=True),
            "trl": trl(networks["trl"], examples, size, "random", folder / "trl"),
            "trl_grouped": trl(networks["trl_grouped"], examples, size, "group_by_length", folder / "grouped"),
            "plain": plain_loop(networks["plain"], tensors(examples, plan)),
        }
        for arm in arms.values():
            arm()
        speeds: dict[str, list[float]] = {name: [] for name in arms}
        for turn in range(chosen.rounds):
            for name in list(arms) if turn % 2 == 0 else list(arms)[::-1]:
                speeds[name].append(sum(lengths) / arms[name]())
            line = "  ".join(f"{name} {values[-1]:.0f}" for name, values in speeds.items())
            bars.show(f"turn {turn + 1}: tokens/s {line}")
        held = tensors(others, [[index] for index in range(len(others))])
        losses = {name: loss(network, held) for name, network in networks.items()}
    bars.show(f"loss after {chosen.rounds + 1} passes: {losses}")
    ratios = {
        name: [mine / theirs for mine, theirs in zip(speeds["trainer"], speeds[name], strict=True)] for name in BARS
    }
    return bars.end(
        *(bars.above(f"non-padding tokens/s, sft over {name}", ratios[name], limit) for name, limit in BARS.items()),
        bars.below("loss of sft above the lowest, nats a token", [losses["trainer"] - min(losses.values())], LOSS_BAR),
    )


if __name__ == "__main__":
    sys.exit(main())
