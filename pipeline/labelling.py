"""Soft labels for the completions of an order: which lack them, scoring those, and the rows that say where they lie.

It generates nothing and opens no dataset. Completions made with labels need none of its scoring.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline import templates
from pipeline.engines import Engine, Request
from pipeline.label_journal import Labels
from pipeline.manifest import Shard
from pipeline.orders import Order, answered, asks, completions
from pipeline.records import SOFT_LABELS
from pipeline.roles import Role
from pipeline.sampling import engine_seed
from pipeline.shards import as_table, column_sums, same_sums
from pipeline.soft_labels import Packer, SoftLabels, hash_tokens, unpack, vocabulary_fingerprint
from pipeline.store import Store

ENGINES = ("vllm",)
# Of one step of the engine that scores: it makes the logits of a whole vocabulary for each of them.
SCORE_STEP_TOKENS = 1024
TABLE_ROWS = 1 << 16


def allowed(role: Role, tokenizer: Any, logprobs: int) -> int:
    """The candidates a token that may be asked of a role's engine: as many as given. Raises ValueError for others."""
    if logprobs and role.engine not in ENGINES:
        raise ValueError(
            f"logprobs is {logprobs}, but engine {role.engine} returns no token ids with its logprobs, and strings "
            f"cannot be turned back into ids. Use engine vllm, or set logprobs to 0."
        )
    if logprobs and logprobs > len(tokenizer):
        raise ValueError(f"logprobs is {logprobs}, but the vocabulary has {len(tokenizer)} tokens; lower logprobs.")
    return logprobs


class Told(NamedTuple):
    """A stored completion to label, and how many candidates of its tokens are known (0: none)."""

    id: str
    token_ids: list[int]
    token_hash: bytes
    k: int


@dataclass
class Figures:
    """What a call of `score` did. Seconds are of the engine at work, without its start."""

    had: int = 0
    scored: int = 0
    failed: int = 0
    tokens: int = 0
    seconds: float = 0.0
    cause: str = ""  # the commonest, where some failed

    def facts(self) -> dict[str, Any]:
        """Figures for the manifest."""
        return {
            "labels_captured_or_stored": self.had,
            "labels_scored_later": self.scored,
            "labels_failed": self.failed,
            "label_score_tokens_per_s": round(self.tokens / self.seconds, 1) if self.seconds else 0.0,
        }


def told(order: Order, store: Store) -> Iterator[Told]:
    """The stored completions of an order that have token ids, each once, in the order of its samples."""
    seen: set[str] = set()
    for row in completions(order, store):
        key, token_ids = row["id"], row["token_ids"]
        if key not in seen and row["finish"] != "error" and token_ids is not None:
            seen.add(key)
            token_hash = hash_tokens(token_ids)
            yield Told(key, token_ids, token_hash, store.labels.k(key, token_hash))


def score(
    order: Order,
    store: Store,
    start: Callable[[Role, int], Engine],
    progress: Callable[[int, int, str], None],
    figures: Figures,
) -> None:
    """Label the order's stored completions that lack labels, or have fewer candidates a token than it asks for.

    Nothing is generated: the engine reads prompt and completion, and says what it would have made of each token. start
    makes it from a role and a seed, and is called only if something is missing. What was done is added to `figures`.
    """
    missing: set[str] = set()
    for one in told(order, store):
        if one.k >= order.logprobs:
            figures.had += 1
        elif not one.token_ids:
            store.labels.append(one.id, Packer(order.logprobs).packed())  # no token, no logprobs
            figures.had += 1
        else:
            missing.add(one.id)
    if not missing:
        return
    done, total = 0, len(missing)
    progress(done, total, "starting the engine to score stored completions")
    step = min(order.role.exec.max_num_batched_tokens or SCORE_STEP_TOKENS, SCORE_STEP_TOKENS)
    role = order.role.model_copy(update={"exec": order.role.exec.model_copy(update={"max_num_batched_tokens": step})})
    causes: Counter[str] = Counter()
    engine = start(role, engine_seed(missing))
    begun, before_s = time.monotonic(), figures.seconds
    try:
        for completion in engine.stream(_requests(order, store, missing)):
            if completion.labels is None:
                figures.failed += 1
                causes[(completion.cause or "no labels")[:200]] += 1
                figures.cause = causes.most_common(1)[0][0]
            else:
                store.labels.append(completion.id, completion.labels)
                figures.scored += 1
                figures.tokens += completion.completion_tokens
            done += 1
            figures.seconds = before_s + time.monotonic() - begun
            progress(done, total, "scoring stored completions")
    finally:
        engine.close()


def _requests(order: Order, store: Store, missing: set[str]) -> Iterator[Request]:
    left = set(missing)
    for ask, row in answered(order, store, asks(order)):
        if row["id"] in left:
            left.remove(row["id"])
            yield Request(
                id=row["id"],
                prompt=ask.prompt,
                prompt_token_ids=templates.prompt_ids(order.tokenizer, ask.messages),
                messages=ask.messages,
                sampling=order.sampling,
                max_tokens=order.max_tokens,
                sample=ask.sample,
                problem_text=ask.problem_text,
                logprobs=order.logprobs,
                score_ids=row["token_ids"],
            )


def write(
    made: Iterable[tuple[Order, Store]],
    previous: Iterable[tuple[Shard, pa.Table]],
    keep: Callable[[Shard], None],
    put: Callable[[pa.Table], None],
) -> int:
    """Hand on where the labels of stored completions lie: shards of before that say just that, then rows.

    Returns how many completions have labels. None is read: what a row says of them is in a journal's heads.
    """
    rows: dict[str, dict[str, Any]] = {}
    for order, store in made:
        vocabulary = vocabulary_fingerprint(order.tokenizer)
        for one in told(order, store):
            if one.k and one.id not in rows:
                rows[one.id] = {
                    "id": one.id,
                    "teacher": order.role.label,
                    "vocabulary": vocabulary,
                    "token_hash": one.token_hash.hex(),
                    "k": one.k,
                    "tokens": len(one.token_ids),
                    "folder": store.folder.name,
                    "check": store.labels.check(one.id, one.token_hash),
                }
    count = len(rows)
    for shard, table in previous:
        ids = table.column("id").to_pylist()
        if _unchanged(shard, [rows[trace_id] for trace_id in ids if trace_id in rows]):
            keep(shard)
            for trace_id in ids:
                del rows[trace_id]
    left = iter(rows.values())
    while some := list(islice(left, TABLE_ROWS)):
        put(as_table(some, SOFT_LABELS))
    return count


def _unchanged(shard: Shard, rows: Sequence[dict[str, Any]]) -> bool:
    """Whether a shard holds exactly these rows, by its column fingerprints."""
    return len(rows) == shard.rows and same_sums(shard, column_sums(as_table(rows, SOFT_LABELS)))


def read(root: Path, rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], SoftLabels]]:
    """Rows of the dataset, each with the labels that it stands for, from the completion store in `root`.

    Raises ValueError where the store lacks them, and where they are damaged.
    """
    folders: dict[str, Labels] = {}
    for row in rows:
        if row["folder"] not in folders:
            folders[row["folder"]] = Labels(root / row["folder"])
        labels = folders[row["folder"]]
        token_hash = bytes.fromhex(row["token_hash"])
        packed = labels.get(row["id"], token_hash, row["check"])
        if packed is None:
            raise ValueError(
                f"{root / row['folder']} lacks the soft labels that the dataset names for trace {row['id']}. Restore "
                f"that folder of the completion store, or delete the stage's folder and run generate again: "
                f"completions are kept, and labels that are missing are scored."
            )
        yield row, unpack(packed)
