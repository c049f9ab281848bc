"""What peek shows: a verdict with its own trace and problem, and nothing read that is not shown."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import peek, shards
from pipeline.manifest import read_manifest
from pipeline.peek import none_match, rows
from tests import synthetic

MADE = synthetic.tables()
TRACES = {row["id"]: row for row in MADE["generate"]["traces"].to_pylist()}
PROBLEMS = {row["id"]: row for row in MADE["seed"]["problems"].to_pylist()}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = synthetic.write_run(tmp_path_factory.mktemp("runs") / "made-up", shards=3)
    return SimpleNamespace(manifest=lambda name: read_manifest(folder / name), stage_folder=lambda name: folder / name)


def verdicts(stage: str = "verify") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = MADE[stage]["verdicts"].to_pylist()
    return found


@pytest.mark.parametrize(("count", "reason"), [(3, ""), (1000, "wrong_answer"), (2, "fail")])
def test_a_verdict_stands_with_its_trace_and_problem(run: Any, count: int, reason: str) -> None:
    expected = [row for row in verdicts() if not reason or reason in (row["outcome"], *row["reasons"])][:count]
    assert expected
    for row, shown in zip(expected, rows(run, "verify", count, reason, ""), strict=True):
        trace = TRACES[row["id"]]
        problem = PROBLEMS[trace["problem_id"]]
        assert shown.title == f"verify {row['id'][:12]}"
        assert shown.body == trace["raw"]
        assert shown.fields["problem"] == problem["text"]
        assert shown.fields["reference answer"] == problem["answer"]
        assert shown.fields["outcome"] == row["outcome"]


def test_suspected_references_stand_with_what_the_traces_agree_on(run: Any) -> None:
    suspected = list(PROBLEMS.values())[:2]
    shown = rows(run, "verify", 10, "gold_suspected", "")
    assert [row.title for row in shown] == [f"verify {problem['id'][:12]}" for problem in suspected]
    for row, problem in zip(shown, suspected, strict=True):
        assert row.fields["problem"] == problem["text"]
        assert row.fields["reference answer"] == problem["answer"]
        assert (row.fields["agreed_answer"], row.fields["agreed_count"], row.fields["right"]) == ("41", "3", "0")


@pytest.mark.parametrize(
    ("stage", "reason", "column"),
    [
        ("verify", "", None),
        ("generate", "", "problem_id"),
        ("mix", "", "problem_id"),
        ("mix", "wrong_answer", "problem_id"),
        ("seed", "", "id"),
    ],
)
def test_the_rows_of_one_problem_are_found_by_the_start_of_its_id(
    run: Any, stage: str, reason: str, column: str | None
) -> None:
    dropped = {row["problem_id"] for row in MADE["mix"]["fates"].to_pylist() if "wrong_answer" in row["reasons"]}
    kept = {row["problem_id"] for row in MADE["mix"]["examples"].to_pylist()}
    problem = sorted(dropped & kept)[0]
    dataset = {"generate": "traces", "mix": "fates" if reason else "examples", "seed": "problems"}.get(
        stage, "verdicts"
    )
    made = MADE[stage][dataset].to_pylist()
    expected = [
        f"{stage} {row['id'][:12]}"
        for row in made
        if (row[column] if column else TRACES[row["id"]]["problem_id"]) == problem
        and (not reason or reason in row["reasons"])
    ]
    assert expected
    assert [row.title for row in rows(run, stage, 100, reason, problem[:20])] == expected


def test_of_traces_and_problems_only_what_is_shown_is_read(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, Sequence[str] | None]] = []
    real = shards.read_shard

    def watched(root: Path, shard: Any, columns: Sequence[str] | None = None) -> Any:
        read.append((root.name, columns))
        return real(root, shard, columns)

    monkeypatch.setattr(shards, "read_shard", watched)
    rows(run, "verify", 2, "", "")
    assert [name for name, _ in read].count("verify") == 1
    assert {columns for name, columns in read if name == "generate"} == {("id", "problem_id", "raw")}
    assert {columns for name, columns in read if name == "seed"} == {("id", "text", "answer")}


def test_the_reasons_that_eval_counts_are_those_of_its_rows() -> None:
    score = {"model": "teacher", "outcome": "fail", "reasons": ["wrong_answer"], "finish": "stop"}
    assert {"teacher_fail", "fail", "wrong_answer", "stop"} <= set(peek._reasons(score))
    assert "pass" in peek._reasons({"outcome": "pass", "reasons": []})


def test_where_no_row_matches_the_reasons_that_there_are_are_named(run: Any) -> None:
    assert rows(run, "verify", 3, "nope", "") == []
    counts = run.manifest("verify").counts
    assert (
        none_match(run, "verify", "nope")
        == "No rows match. The reasons here: " + ", ".join(f"{name} ({count})" for name, count in counts.items()) + "."
    )
    assert none_match(run, "verify", "") == "No rows match."
