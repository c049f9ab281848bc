"""Soft labels for stored completions: which lack them, scoring those, and the rows that say where they lie.

It generates nothing and opens no dataset. Completions made with labels need none of its scoring, but where another
teacher than their own is to label them too.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline import templates
from pipeline.engines import Engine, Request
from pipeline.label_journal import Labels
from pipeline.manifest import Shard
from pipeline.readings import Reading, told
from pipeline.records import SOFT_LABELS, label_id, labels_key
from pipeline.roles import Role
from pipeline.sampling import CAUSE_LENGTH, engine_seed
from pipeline.shards import as_table, column_sums, same_sums
from pipeline.soft_labels import Packer, SoftLabels, unpack
from pipeline.text import cut

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


@dataclass
class Figures:
    """What a call of `score` did. Seconds are of the engine at work, without its start."""

    had: int = 0
    scored: int = 0
    failed: int = 0
    unreadable: int = 0  # of those that failed: not in the tokens of who was to label them, whoever is asked again
    tokens: int = 0
    seconds: float = 0.0
    causes: Counter[str] = field(default_factory=Counter)

    def fail(self, cause: str) -> None:
        """Count a completion that could not be labelled."""
        self.failed += 1
        self.causes[cut(cause, CAUSE_LENGTH)] += 1

    @property
    def cause(self) -> str:
        """The commonest, where some failed."""
        return next((cause for cause, _ in self.causes.most_common(1)), "")

    def facts(self) -> dict[str, Any]:
        """Figures for the manifest."""
        return {
            "labels_captured_or_stored": self.had,
            "labels_scored_later": self.scored,
            "labels_failed": self.failed,
            "labels_unreadable": self.unreadable,
            "label_score_tokens_per_s": round(self.tokens / self.seconds, 1) if self.seconds else 0.0,
        }


def score(
    readings: Sequence[Reading],
    start: Callable[[Role, int], Engine],
    progress: Callable[[int, int, str], None],
    figures: Figures,
) -> None:
    """Label the completions of some readings that lack labels, or have fewer candidates a token than are asked for.

    The labelling teachers of all readings are one model, with one store. Nothing is generated: the engine reads prompt
    and completion, and says what it would have made of each token. start makes it from a role and a seed, and is called
    only if something is missing; the store is locked only where there is something to add, and then lock.Locked is
    raised where another process writes to it. What was done is added to `figures`.
    """
    empty: dict[str, int] = {}
    missing: list[set[str]] = []
    for reading in readings:
        # What two teachers of one model were asked with one prompt is one trace: the first of their readings has it.
        missing.append(_missing(reading, figures, empty).difference(*missing))
    if not empty and not any(missing):
        return
    store = readings[0].store
    with store.appending():
        for key, logprobs in empty.items():
            store.labels.append(key, Packer(logprobs).packed())  # no token, no logprobs
        if any(missing):
            _score(readings, missing, start, progress, figures)


def _score(
    readings: Sequence[Reading],
    missing: Sequence[set[str]],
    start: Callable[[Role, int], Engine],
    progress: Callable[[int, int, str], None],
    figures: Figures,
) -> None:
    """Have the engine score what is missing of each reading, by what its labels are filed under."""
    done, total = 0, sum(map(len, missing))
    progress(done, total, "starting the engine to score stored completions")
    first, store = readings[0].by.role, readings[0].store
    step = min(first.exec.max_num_batched_tokens or SCORE_STEP_TOKENS, SCORE_STEP_TOKENS)
    role = first.model_copy(update={"exec": first.exec.model_copy(update={"max_num_batched_tokens": step})})
    engine = start(role, engine_seed(chain.from_iterable(missing)))
    begun, before_s, note = time.monotonic(), figures.seconds, "scoring stored completions"
    progress(done, total, note)
    try:
        for completion in engine.stream(chain.from_iterable(map(_requests, readings, missing))):
            if completion.labels is None:
                figures.fail(completion.cause or "no labels")
            else:
                store.labels.append(completion.id, completion.labels)
                figures.scored += 1
                figures.tokens += completion.completion_tokens
            done += 1
            figures.seconds = before_s + time.monotonic() - begun
            progress(done, total, note)
    finally:
        engine.close()


def _missing(reading: Reading, figures: Figures, empty: dict[str, int]) -> set[str]:
    """What the labels are filed under that are to be scored; those that are there are counted.

    Those of completions without a token need no engine: they go to `empty`, with the candidates a token asked for.
    """
    missing: set[str] = set()
    for one in told(reading):
        if one.token_ids is None:
            figures.unreadable += 1
            figures.fail(f"the tokenizer of {reading.by.role.label} changes the text of the trace")
        elif one.k >= reading.by.logprobs:
            figures.had += 1
        elif not one.token_ids:
            empty[one.key] = reading.by.logprobs
            figures.had += 1
        else:
            missing.add(one.key)
    return missing


def _requests(reading: Reading, missing: set[str]) -> Iterator[Request]:
    by, left = reading.by, set(missing)
    for ask, row, messages, prompt in reading.heard():
        key = reading.key(row, prompt)
        if key in left:
            left.remove(key)
            yield Request(
                id=key,
                prompt=prompt,
                prompt_token_ids=templates.encode(by.tokenizer, prompt),
                messages=messages,
                sampling=by.sampling,
                max_tokens=by.max_tokens,
                sample=ask.sample,
                problem_text=ask.problem_text,
                logprobs=by.logprobs,
                score_ids=reading.tokens(row),
            )


def write(
    readings: Iterable[Reading],
    previous: Iterable[tuple[Shard, pa.Table]],
    keep: Callable[[Shard], None],
    put: Callable[[pa.Table], None],
) -> Counter[str]:
    """Hand on where the labels of stored completions lie: shards of before that say just that, then rows.

    Returns how many completions have labels of each teacher, by its label. None is read: what a row says of them is in
    a journal's heads.
    """
    rows: dict[str, dict[str, Any]] = {}
    for reading in readings:
        for one in told(reading):
            row_id = label_id(one.trace_id, one.key)
            if one.k and one.token_ids is not None and row_id not in rows:
                rows[row_id] = {
                    "id": row_id,
                    "teacher": reading.by.role.label,
                    "vocabulary": reading.vocabulary,
                    "token_hash": one.token_hash.hex(),
                    "k": one.k,
                    "tokens": len(one.token_ids),
                    "folder": reading.store.folder.name,
                    "check": reading.store.labels.check(one.key, one.token_hash),
                }
    count = Counter(row["teacher"] for row in rows.values())
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
        packed = labels.get(labels_key(row["id"]), token_hash, row["check"])
        if packed is None:
            raise ValueError(
                f"{root / row['folder']} lacks the soft labels that the dataset names for trace {row['id']}. Restore "
                f"that folder of the completion store, or delete the stage's folder and run generate again: "
                f"completions are kept, and labels that are missing are scored."
            )
        yield row, unpack(packed)
