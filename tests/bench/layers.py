"""Which of a model's layers are missed least: one after another is left out, always the one without which the loss on
a run's traces is lowest.

Run: python -m tests.bench.layers [--run data/runs/demo] [--model data/models/qwen2.5-coder-0.5b-instruct] [--drop 4]
[--examples 8]. The loss is the mean cross-entropy of the completions, in nats a token, over so many training examples
of each task of the run's mix, in the model's ChatML. A line for each layer left out: the loss then, and the loss with
as many layers spaced evenly, as `student.layers: 20` takes them. The last line is a student's `layers`, as JSON.
ShortGPT (Men et al., arXiv 2403.03853) ranks layers once, by how little they turn the hidden states; this one reads the
loss itself, and anew after each layer: with 4 of Qwen2.5-0.5B's 24 left out, 90 forward passes.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.manifest import read_manifest
from pipeline.shards import read_shards
from pipeline.student import evenly
from pipeline.templates import load_tokenizer
from pipeline.training.encode import IGNORED, Encoded, encode
from tests import bars

ROOT = Path(__file__).resolve().parents[2]
CHATML = ROOT / "prompts" / "chat" / "chatml.jinja"


def examples(run: Path, model: Path, each: int) -> list[Encoded]:
    """The first `each` training examples of every task, by their ids."""
    manifest = read_manifest(run / "mix")
    if manifest is None:
        sys.exit(f"found no finished mix in {run}; expected a run's folder. Run one to mix first, or name it by --run")
    tables = read_shards(run / "mix", manifest.datasets["examples"].shards)
    rows = [row for table in tables for row in table.to_pylist() if row["split"] == "train"]
    by_task = itertools.groupby(sorted(rows, key=lambda row: (row["task"], row["id"])), key=lambda row: row["task"])
    chosen = [row for _, found in by_task for row in itertools.islice(found, each)]
    return encode(load_tokenizer(model, CHATML.read_text(encoding="utf-8")), chosen, 1 << 20)[0]


class Layers:
    """A model whose layers can be left out; loss(numbers) is its loss with these alone."""

    def __init__(self, model: Path, shown: Sequence[Encoded]) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        from pipeline.training.trainer import collate

        self._network: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self._layers = list(self._network.model.layers)
        self._batch = collate([{"id": one.id, "input_ids": one.input_ids, "labels": one.labels} for one in shown], 0)
        labels = self._batch["labels"][:, 1:]
        self._learnt = labels != IGNORED
        self._targets = labels[self._learnt]

    def __len__(self) -> int:
        return len(self._layers)

    def loss(self, numbers: Sequence[int]) -> float:
        import torch

        inner = self._network.model
        inner.layers = torch.nn.ModuleList([self._layers[number] for number in numbers])
        inner.config.num_hidden_layers = len(numbers)
        with torch.inference_mode():
            read = {name: self._batch[name] for name in ("input_ids", "attention_mask")}
            hidden = inner(**read, use_cache=False)[0][:, :-1]
            logits = self._network.lm_head(hidden[self._learnt])
            return float(torch.nn.functional.cross_entropy(logits, self._targets))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=ROOT / "data" / "runs" / "demo", help="whose mix has the traces")
    parser.add_argument("--model", type=Path, default=ROOT / "data" / "models" / "qwen2.5-coder-0.5b-instruct")
    parser.add_argument("--drop", type=int, default=4, help="how many layers to leave out")
    parser.add_argument("--examples", type=int, default=8, help="of each task")
    chosen = parser.parse_args()
    layers = Layers(chosen.model, examples(chosen.run, chosen.model, chosen.examples))
    kept = list(range(len(layers)))
    bars.show(f"{len(kept)} layers: {layers.loss(kept):.3f}")
    for _ in range(chosen.drop):
        loss, least = min((layers.loss([one for one in kept if one != number]), number) for number in kept)
        kept.remove(least)
        spaced = layers.loss(evenly(len(kept), len(layers)))
        bars.show(f"{len(kept)} layers, without {least}: {loss:.3f}; evenly spaced {spaced:.3f}")
    bars.show(json.dumps(kept))
    return 0


if __name__ == "__main__":
    sys.exit(main())
