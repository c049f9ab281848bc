"""Soft labels of a real teacher through vLLM: bytes a token on the disk, what packing changes, and what capture costs.

Run: python -m tests.bench.soft_labels [--prompts 48] [--tokens 128] [--k 50] [--rounds 3]. The demo's teacher answers
the repository's word problems at temperature 0.7, every completion to the same length. Errors are of decoded labels
against the float32 values that vLLM's sampler made, over k candidates and the tail as one outcome more. Bytes are of
the store's label journal and of the Parquet shard, each by itself, of all that they hold. Time is seconds a token with
labels over without, of turns that take turns; keeping the exact values beside is part of it. The last line is JSON;
exit code 1 where a bar is missed.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import models, templates
from pipeline.engines import Completion, Request, capture
from pipeline.label_journal import Labels
from pipeline.records import SOFT_LABELS, content_id
from pipeline.roles import Role, Sampling
from pipeline.shards import as_table, write_shard
from pipeline.soft_labels import Packer, SoftLabels, head, masses_left, unpack
from tests import bars
from tests.pipeline.labels import kl

ROOT = Path(__file__).resolve().parents[2]
MODEL = "qwen2.5-coder-0.5b-instruct"
ASKED = "{problem}\n\nPlease reason step by step, and put your final answer within \\boxed{}."
BYTES_BAR, KL_BAR, LOGPROB_BAR, TIME_BAR = 80.0, 1e-4, 0.51, 1.5


class Recorder(Packer):
    """Packs, and keeps what it was given: the exact values by the hash of their tokens."""

    given: dict[bytes, SoftLabels] = {}

    def __init__(self, k: int) -> None:
        super().__init__(k)
        self._parts: list[tuple[Any, ...]] = []

    def add(self, *parts: Any) -> None:
        self._parts.append(tuple(np.array(part) for part in parts))
        super().add(*parts)

    def packed(self) -> bytes:
        sampled, own, ids, logprobs = (np.concatenate(each) for each in zip(*self._parts, strict=True))
        packed = super().packed()
        self.given[head(packed).token_hash] = SoftLabels(sampled, own, ids, logprobs, masses_left(logprobs))
        return packed


class Bench:
    """An engine in this process, and what it is asked."""

    def __init__(self, prompts: int, tokens: int) -> None:
        from pipeline.engines import vllm
        from pipeline.engines.host import Place

        folder = models.fetch(MODEL, ROOT, lambda line: None)
        role = Role(model=MODEL, max_model_len=1024, exec={"max_num_seqs": 64, "kv_cache_gib": 2})
        self._tokenizer = templates.load_tokenizer(folder)
        self._engine = vllm.load(role, folder, 1, Place())
        self._sampling = Sampling(temperature=0.7, top_p=1.0, min_tokens=tokens)
        lines = (ROOT / "data/problems/word_problems.jsonl").read_text(encoding="utf-8").splitlines()
        self._texts = [json.loads(lines[number % len(lines)])["text"] for number in range(prompts)]
        self._tokens = tokens
        self._turn = 0

    def _requests(self, k: int) -> Iterator[Request]:
        self._turn += 1
        for number, text in enumerate(self._texts):
            said = templates.conversation(ASKED, text)
            prompt, ids = templates.render(self._tokenizer, said), templates.prompt_ids(self._tokenizer, said)
            name = content_id(self._turn, number)
            yield Request(name, prompt, ids, said, self._sampling, self._tokens, 0, text, logprobs=k)

    def answers(self, k: int, count: int | None = None) -> tuple[list[Completion], float]:
        """The prompts (or the first of them) answered with k candidates a token, and the seconds a token that took."""
        asked = list(self._requests(k))[:count]
        begun = time.perf_counter()
        found = list(self._engine.stream(asked))
        return found, (time.perf_counter() - begun) / sum(each.completion_tokens for each in found)


def on_disk(found: list[Completion], folder: Path) -> tuple[float, float]:
    """Bytes a token of the labels in a journal and in a shard."""
    tokens = sum(each.completion_tokens for each in found)
    journal, rows = Labels(folder, writable=True), []
    for each in found:
        assert each.labels is not None
        journal.append(each.id, each.labels)
        said = head(each.labels)
        known = {"id": each.id, "teacher": MODEL, "vocabulary": "0" * 32, "token_hash": said.token_hash.hex()}
        rows.append({**known, "k": said.k, "tokens": said.tokens, "packed": each.labels})
    journal.close()
    (path,) = folder.glob("labels-*.log")
    shard = write_shard(folder / "shard.parquet", as_table(rows, SOFT_LABELS), folder)
    return path.stat().st_size / tokens, shard.bytes / tokens


def errors(found: list[Completion]) -> dict[str, float]:
    """What packing changed: KL(exact || decoded) a token in nats, and logprobs."""
    divergences, gaps, tails = [], [], []
    for each in found:
        assert each.labels is not None
        exact, decoded = Recorder.given[head(each.labels).token_hash], unpack(each.labels)
        order = [np.argsort(labels.ids, axis=1) for labels in (exact, decoded)]
        assert (np.take_along_axis(exact.ids, order[0], 1) == np.take_along_axis(decoded.ids, order[1], 1)).all()
        ours, theirs = (
            np.take_along_axis(labels.logprobs.astype(float), places, 1)
            for labels, places in zip((exact, decoded), order, strict=True)
        )
        divergences.append(kl(exact, decoded))
        gaps.append(np.abs(ours - theirs).max(axis=1))
        tails.append(np.abs(exact.tail - decoded.tail))
    divergence, gap = np.concatenate(divergences), np.concatenate(gaps)
    return {
        "kl_mean": float(divergence.mean()),
        "kl_max": float(divergence.max()),
        "logprob_error_max": float(gap.max()),
        "tail_error_max": float(np.concatenate(tails).max()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--tokens", type=int, default=128, help="of each completion")
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3, help="turns with and without labels, after one to warm up")
    chosen = parser.parse_args()
    bench = Bench(chosen.prompts, chosen.tokens)
    capture.Packer = Recorder  # type: ignore[misc]
    bench.answers(chosen.k, 4)
    ratios, without = [], []
    found: list[Completion] = []
    for number in range(chosen.rounds):
        turns = {}
        for k in (0, chosen.k) if number % 2 else (chosen.k, 0):
            answers, turns[k] = bench.answers(k)
            found = answers if k else found
        without.append(1 / turns[0])
        ratios.append(turns[chosen.k] / turns[0])
        bars.show(f"turn {number + 1}: {1 / turns[0]:.0f} tokens/s without labels, {1 / turns[chosen.k]:.0f} with")
    changed = errors(found)
    with tempfile.TemporaryDirectory() as folder:
        journal, shard = on_disk(found, Path(folder))
    tokens = sum(each.completion_tokens for each in found)
    bars.show(f"{tokens} tokens: {journal:.1f} bytes a token in the journal, {shard:.1f} in the shard; {changed}")
    about = {"k": chosen.k, "tokens": tokens, "tokens_a_trace": chosen.tokens}
    return bars.end(
        bars.below("soft label bytes a token, journal", [journal], BYTES_BAR, **about),
        bars.below("soft label bytes a token, shard", [shard], BYTES_BAR, **about),
        {
            **bars.below("mean KL(exact || decoded), nats", [changed["kl_mean"]], KL_BAR),
            "value": changed["kl_mean"],
            **changed,
        },
        bars.below("largest error of a logprob, nats", [changed["logprob_error_max"]], LOGPROB_BAR),
        bars.below(
            "seconds a token with labels over without",
            ratios,
            TIME_BAR,
            tokens_per_s_without=round(statistics.median(without), 1),
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
