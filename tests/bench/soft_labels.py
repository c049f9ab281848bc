"""Soft labels of a real teacher through vLLM: bytes a token on the disk, what packing changes, and what capture costs.

Run: python -m tests.bench.soft_labels [--prompts 48] [--tokens 64 128 285] [--k 50] [--rounds 3] [--timed 128]. The
demo's teacher answers the repository's word problems at temperature 0.7, every completion of a turn to the same length.
Errors are of decoded labels against the float32 values that vLLM's sampler made, over k candidates and the tail as one
outcome more. Bytes are of the store's label journal and of the Parquet shard that names its labels, of all that both
hold. Decoding is timed on one thread, from packed bytes to arrays. Generating is timed with labels over without,
in turns that take turns; keeping the exact values beside is part of it. The last line is JSON; exit code 1 where a bar
is missed.
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
BYTES_BAR, KL_BAR, LOGPROB_BAR, TIME_BAR, DECODED_PER_S_BAR = 80.0, 1e-4, 0.51, 1.5, 20_000


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

    def __init__(self, prompts: int) -> None:
        from pipeline.engines import vllm
        from pipeline.engines.host import Place

        folder = models.fetch(MODEL, ROOT, lambda line: None)
        role = Role(model=MODEL, max_model_len=1024, exec={"max_num_seqs": 64, "kv_cache_gib": 2})
        self._tokenizer = templates.load_tokenizer(folder)
        self._engine = vllm.load(role, folder, 1, Place())
        lines = (ROOT / "data/problems/word_problems.jsonl").read_text(encoding="utf-8").splitlines()
        self._texts = [json.loads(lines[number % len(lines)])["text"] for number in range(prompts)]
        self._turn = 0

    def _requests(self, k: int, tokens: int) -> Iterator[Request]:
        self._turn += 1
        sampling = Sampling(temperature=0.7, top_p=1.0, min_tokens=tokens)
        for number, text in enumerate(self._texts):
            said = templates.conversation(ASKED, text)
            prompt, ids = templates.render(self._tokenizer, said), templates.prompt_ids(self._tokenizer, said)
            name = content_id(self._turn, number)
            yield Request(name, prompt, ids, said, sampling, tokens, 0, text, logprobs=k)

    def answers(self, k: int, tokens: int) -> tuple[list[Completion], float]:
        """The prompts answered in so many tokens with k candidates each, and the seconds a token that took."""
        asked = list(self._requests(k, tokens))
        begun = time.perf_counter()
        found = list(self._engine.stream(asked))
        return found, (time.perf_counter() - begun) / sum(each.completion_tokens for each in found)


def on_disk(found: list[Completion], folder: Path) -> tuple[float, float]:
    """Bytes a token of the labels in a journal, and of the shard that names them."""
    tokens = sum(each.completion_tokens for each in found)
    journal, rows = Labels(folder, writable=True), []
    for each in found:
        assert each.labels is not None
        journal.append(each.id, each.labels)
        said = head(each.labels)
        known = {"id": each.id, "teacher": MODEL, "vocabulary": "0" * 32, "token_hash": said.token_hash.hex()}
        rows.append({**known, "k": said.k, "tokens": said.tokens, "folder": "0" * 32, "check": said.check})
    journal.close()
    (path,) = folder.glob("labels-*.log")
    shard = write_shard(folder / "shard.parquet", as_table(rows, SOFT_LABELS), folder)
    return path.stat().st_size / tokens, shard.bytes / tokens


def decoded_per_s(found: list[Completion]) -> float:
    """Tokens decoded in a second of one processor, of the best of three turns."""
    packed = [each.labels for each in found if each.labels is not None]
    times = []
    for _ in range(3):
        begun = time.process_time()
        for each in packed:
            unpack(each)
        times.append(time.process_time() - begun)
    return sum(each.completion_tokens for each in found) / min(times)


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


def measured(bench: Bench, k: int, tokens: int) -> list[dict[str, Any]]:
    """The bars of one length."""
    found, _ = bench.answers(k, tokens)
    changed = errors(found)
    with tempfile.TemporaryDirectory() as folder:
        journal, shard = on_disk(found, Path(folder))
    speed = decoded_per_s(found)
    bars.show(
        f"{tokens} tokens a trace: {journal:.1f} bytes a token in the journal, {shard:.1f} in the shard; {changed}; "
        f"{speed:,.0f} tokens/s decoded"
    )
    about = {"k": k, "tokens_a_trace": tokens, "traces": len(found)}
    named = f"traces of {tokens}"
    total = round(journal + shard, 3)
    return [
        bars.below(
            f"soft label bytes a token, {named}",
            [total],
            BYTES_BAR,
            journal=round(journal, 2),
            shard=round(shard, 2),
            **about,
        ),
        {
            **bars.below(f"mean KL(exact || decoded), nats, {named}", [changed["kl_mean"]], KL_BAR, **about),
            "value": changed["kl_mean"],
            **changed,
        },
        bars.below(f"largest error of a logprob, nats, {named}", [changed["logprob_error_max"]], LOGPROB_BAR, **about),
        bars.above(f"tokens decoded in a second of one processor, {named}", [speed], DECODED_PER_S_BAR, **about),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 128, 285], help="of each completion")
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3, help="turns with and without labels")
    parser.add_argument("--timed", type=int, default=128, help="tokens of a completion in these turns")
    chosen = parser.parse_args()
    bench = Bench(chosen.prompts)
    capture.Packer = Recorder  # type: ignore[misc]
    found = [bar for tokens in chosen.tokens for bar in measured(bench, chosen.k, tokens)]
    ratios, without = [], []
    for number in range(chosen.rounds):
        turns = {k: bench.answers(k, chosen.timed)[1] for k in ((0, chosen.k) if number % 2 else (chosen.k, 0))}
        without.append(1 / turns[0])
        ratios.append(turns[chosen.k] / turns[0])
        bars.show(f"turn {number + 1}: {1 / turns[0]:.0f} tokens/s without labels, {1 / turns[chosen.k]:.0f} with")
    if ratios:
        speed = round(statistics.median(without), 1)
        named = "seconds a token with labels over without"
        found.append(bars.below(named, ratios, TIME_BAR, tokens_a_trace=chosen.timed, tokens_per_s_without=speed))
    return bars.end(*found)


if __name__ == "__main__":
    sys.exit(main())
