"""Rows of a stage made readable: problems, traces, verdicts with their traces, examples, scores. It prints nothing."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.run import Run
from pipeline.shards import read_shard
from pipeline.stage import StageError

MAIN = {"seed": "problems", "generate": "traces", "mix": "examples", "eval": "scores"}


@dataclass(frozen=True)
class Row:
    """A row to show: a title, short fields, and a long text."""

    title: str
    fields: dict[str, str]
    body: str


def rows(run: Run, stage: str, count: int, reason: str, problem: str) -> list[Row]:
    """The first `count` rows of a stage that match. Raises StageError where it has not run or has no rows to show."""
    datasets = _datasets(run, stage)
    dataset = MAIN.get(stage, "verdicts")
    if reason and stage in ("seed", "mix"):
        dataset = {"seed": "rejects", "mix": "fates"}[stage]
    if dataset not in datasets:
        raise StageError(f"Stage {stage} writes no rows to read; look into {run.stage_folder(stage)}.")
    traces = _lookup(run, "generate", "traces") if dataset in ("verdicts", "fates") else dict
    problems = _lookup(run, "seed", "problems")
    found = []
    for row in _rows(run, stage, dataset):
        trace = traces().get(row["id"], {})
        owner = row.get("problem_id") or trace.get("problem_id") or row["id"]
        if problem and not owner.startswith(problem):
            continue
        if reason and reason not in [
            row.get("reason"),
            row.get("outcome"),
            row.get("finish"),
            *(row.get("reasons") or []),
        ]:
            continue
        found.append(_row(stage, row, trace, problems().get(owner, {})))
        if len(found) == count:
            break
    return found


def _datasets(run: Run, stage: str) -> list[str]:
    manifest = run.manifest(stage)
    if manifest is None:
        raise StageError(f"Stage {stage} has not finished yet. Run it with --to {stage}.")
    return list(manifest.datasets)


def _rows(run: Run, stage: str, dataset: str) -> Iterator[dict[str, Any]]:
    manifest = run.manifest(stage)
    for shard in manifest.datasets[dataset].shards if manifest else ():
        yield from read_shard(run.stage_folder(stage), shard).to_pylist()


def _lookup(run: Run, stage: str, dataset: str) -> Callable[[], dict[str, dict[str, Any]]]:
    known: dict[str, dict[str, Any]] = {}

    def table() -> dict[str, dict[str, Any]]:
        if not known:
            known.update((row["id"], row) for row in _rows(run, stage, dataset))
        return known

    return table


def _row(stage: str, row: dict[str, Any], trace: dict[str, Any], problem: dict[str, Any]) -> Row:
    hidden = {
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
    fields = {"problem": problem["text"]} if problem and "text" not in row else {}
    if problem and "answer" not in row:
        fields["reference answer"] = problem["answer"]
    fields |= {key: _text(value) for key, value in row.items() if key not in hidden and value not in (None, [], "{}")}
    body = row.get("raw") or trace.get("raw") or row.get("text") or ""
    if row.get("completion"):
        body = "\n".join(f"[{turn['role']}]\n{turn['content']}" for turn in [*row["prompt"], *row["completion"]])
    return Row(f"{stage} {row['id'][:12]}", fields, body)


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
