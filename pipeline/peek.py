"""Rows of a stage made readable: problems, traces, verdicts with their traces, examples, scores. It prints nothing."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.golds import PSEUDO, SUSPECTED
from pipeline.run import Run
from pipeline.shards import picked, read_shards
from pipeline.stage import StageError

MAIN = {"seed": "problems", "generate": "traces", "mix": "examples", "eval": "scores"}
# Reasons of verify that are of a problem, not of a trace.
PER_PROBLEM = {("verify", SUSPECTED), ("verify", PSEUDO)}
ROWS = 1024  # made Python's at once: a shard may hold many more than are asked for
_HIDDEN = {
    "id",
    "raw",
    "text",
    "token_ids",
    "prompt",
    "completion",
    "spans",
    "verifier_data",
    "sampling",
    "problem_id",
}


@dataclass(frozen=True)
class Row:
    """A row to show: a title, short fields, and a long text."""

    title: str
    fields: dict[str, str]
    body: str


def rows(run: Run, stage: str, count: int, reason: str, problem: str) -> list[Row]:
    """The first `count` rows of a stage that match. Raises StageError where it has not run or has no rows to show.

    Of traces and problems only those are read that the rows shown are about.
    """
    datasets = _datasets(run, stage)
    dataset = MAIN.get(stage, "verdicts")
    if reason and stage in ("seed", "mix"):
        dataset = {"seed": "rejects", "mix": "fates"}[stage]
    if (stage, reason) in PER_PROBLEM:
        dataset = "pass_rates"
    if dataset not in datasets:
        raise StageError(f"Stage {stage} writes no rows to read; look into {run.stage_folder(stage)}.")
    asked = _asked(run, dataset, problem)
    matching = (row for row in _rows(run, stage, dataset) if asked(row) and (not reason or reason in _reasons(row)))
    found = list(islice(matching, count))
    traces: dict[str, dict[str, Any]] = {}
    if dataset in ("verdicts", "fates"):
        wanted = {row["id"] for row in found}
        traces = picked(_tables(run, "generate", "traces", ("id", "problem_id", "raw")), wanted)
    owners = [_owner(row, traces) for row in found]
    problems = picked(_tables(run, "seed", "problems", ("id", "text", "answer")), set(owners))
    return [
        _row(stage, row, traces.get(row["id"], {}), problems.get(owner, {}))
        for row, owner in zip(found, owners, strict=True)
    ]


def _datasets(run: Run, stage: str) -> list[str]:
    manifest = run.manifest(stage)
    if manifest is None:
        raise StageError(f"Stage {stage} has not finished yet. Run it with --to {stage}.")
    return list(manifest.datasets)


def _tables(run: Run, stage: str, dataset: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    manifest = run.manifest(stage)
    shards = manifest.datasets[dataset].shards if manifest else ()
    return read_shards(run.stage_folder(stage), shards, columns)


def _rows(run: Run, stage: str, dataset: str) -> Iterator[dict[str, Any]]:
    for table in _tables(run, stage, dataset):
        for batch in table.to_batches(max_chunksize=ROWS):
            yield from batch.to_pylist()


def _asked(run: Run, dataset: str, problem: str) -> Callable[[dict[str, Any]], bool]:
    """Whether a row is of a problem whose id starts so. A verdict names its trace only."""
    if not problem:
        return lambda row: True
    if dataset != "verdicts":
        return lambda row: (row.get("problem_id") or row["id"]).startswith(problem)
    traces: set[str] = set()
    for table in _tables(run, "generate", "traces", ("id", "problem_id")):
        traces.update(table.filter(pc.starts_with(table.column("problem_id"), problem)).column("id").to_pylist())
    return lambda row: row["id"] in traces


def _reasons(row: dict[str, Any]) -> list[str | None]:
    kept = "kept" if row.get("kept") else None
    of_model = (
        f"{row['model']}_{row['outcome']}" if "model" in row and "outcome" in row else None
    )  # as eval counts them
    return [row.get("reason"), row.get("outcome"), row.get("finish"), kept, of_model, *(row.get("reasons") or [])]


def none_match(run: Run, stage: str, reason: str) -> str:
    """What to say where no row matches: with the reasons there are, where one was asked for."""
    manifest = run.manifest(stage)
    counts = manifest.counts if manifest else {}
    known = ", ".join(f"{name} ({count:,})" for name, count in counts.items() if count)
    return f"No rows match. The reasons here: {known}." if reason and known else "No rows match."


def _owner(row: dict[str, Any], traces: dict[str, dict[str, Any]]) -> str:
    """The id of the problem that a row is about."""
    trace = traces.get(row["id"], {})
    return str(row.get("problem_id") or trace.get("problem_id") or row["id"])


def _row(stage: str, row: dict[str, Any], trace: dict[str, Any], problem: dict[str, Any]) -> Row:
    fields = {"problem": problem["text"]} if problem and "text" not in row else {}
    if problem and "answer" not in row:
        fields["reference answer"] = problem["answer"]
    fields |= {key: _text(value) for key, value in row.items() if key not in _HIDDEN and value not in (None, [], "{}")}
    body = row.get("raw") or trace.get("raw") or row.get("text") or ""
    if row.get("completion"):
        body = "\n".join(f"[{turn['role']}]\n{turn['content']}" for turn in [*row["prompt"], *row["completion"]])
    return Row(f"{stage} {row['id'][:12]}", fields, body)


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
