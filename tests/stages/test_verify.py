import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.records import PASS_RATE, PROBLEM, TRACE, VERDICT
from pipeline.roles import Teacher
from pipeline.section import declared
from pipeline.stage import StageError
from stages.verify import STAGE, Config, pass_rates, run
from tests.desk import DeskInputs, DeskOutput

CONFIG = Config.model_validate({"timeout_s": 60.0, "exec": {"workers": 1}})


def problems(rows: list[tuple[str, str, str, str]]) -> pa.Table:
    names = ("id", "answer", "verifier", "verifier_data")
    return _table([dict(zip(names, row, strict=True)) for row in rows], PROBLEM, names)


def traces(rows: list[tuple[str, str, str, str]]) -> pa.Table:
    names = ("id", "problem_id", "raw", "finish")
    made = [{**dict(zip(names, row, strict=True)), "teacher": "some"} for row in rows]
    return _table(made, TRACE, (*names, "teacher"))


def _table(rows: list[dict[str, Any]], schema: pa.Schema, names: tuple[str, ...]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=pa.schema([schema.field(name) for name in names]))


GYM = json.dumps({"task": "gcd", "entry": {"question": "", "answer": "12", "metadata": {}}})
PROBLEMS = problems(
    [
        ("p1", "5", "math", "{}"),
        ("p2", "Paris", "exact", "{}"),
        ("p3", "B", "choice", '{"choices": ["cat", "dog"]}'),
        ("p4", "12", "reasoning_gym", GYM),
        ("p5", "", "math", "{}"),
        ("p6", "7", "math", "{}"),
    ]
)
TRACES = traces(
    [
        ("t1", "p1", r"\boxed{x = 5}", "stop"),
        ("t2", "p1", r"\boxed{6}", "stop"),
        ("t3", "p1", "no idea", "stop"),
        ("t4", "p1", "", "error"),
        ("t5", "p2", "The answer is paris.", "stop"),
        ("t6", "p3", "Answer: dog", "stop"),
        ("t7", "p4", r"\boxed{12}", "stop"),
        ("t8", "p4", r"\boxed{123}", "length"),
        ("t9", "p5", r"\boxed{5}", "stop"),
    ]
)


def judged(tmp_path: Path, thinking: bool = False, table: pa.Table = TRACES) -> DeskOutput:
    output = DeskOutput(tmp_path)
    teacher = Teacher(model="some", thinking=thinking)
    run(CONFIG, DeskInputs(tmp_path, {"problems": PROBLEMS, "traces": table}, teacher=teacher), output)
    return output


def test_every_trace_gets_one_verdict(tmp_path: Path) -> None:
    output = judged(tmp_path)
    rows = {row["id"]: (row["outcome"], row["reasons"], row["score"]) for row in output.rows("verdicts")}
    assert rows == {
        "t1": ("pass", [], 1.0),
        "t2": ("fail", ["wrong_answer"], 0.0),
        "t3": ("fail", ["answer_missing"], 0.0),
        "t4": ("undecided", ["generation_error"], None),
        "t5": ("pass", [], 1.0),
        "t6": ("pass", [], 1.0),
        "t7": ("pass", [], 1.0),
        "t8": ("fail", ["wrong_answer"], 2 / 3),
        "t9": ("undecided", ["gold_unparseable"], None),
    }
    assert [table.schema for table in output.tables["verdicts"]] == [VERDICT]
    assert [table.schema for table in output.tables["pass_rates"]] == [PASS_RATE]


def test_a_problem_with_traces_gets_a_pass_rate_that_leaves_the_undecided_out(tmp_path: Path) -> None:
    rows = [tuple(row.values()) for row in judged(tmp_path).rows("pass_rates")]
    assert rows == [
        ("p1", 1, 2, 1, 1 / 3),
        ("p2", 1, 0, 0, 1.0),
        ("p3", 1, 0, 0, 1.0),
        ("p4", 1, 1, 0, 0.5),
        ("p5", 0, 0, 1, None),
    ]


def test_counts_and_facts_add_up(tmp_path: Path) -> None:
    output = judged(tmp_path)
    assert output.counts == {
        "pass": 4,
        "wrong_answer": 2,
        "answer_missing": 1,
        "generation_error": 1,
        "gold_unparseable": 1,
    }
    assert output.facts == {
        "right": 4,
        "wrong": 3,
        "undecided": 2,
        "problems": 5,
        "problems_solved": 4,
        "by_verifier": {
            "choice": {"pass": 1},
            "exact": {"pass": 1},
            "math": {"fail": 2, "pass": 1, "undecided": 2},
            "reasoning_gym": {"fail": 1, "pass": 1},
        },
    }
    assert output.moments[-1].done == 9


def test_a_thinking_teacher_answers_after_the_closing_tag(tmp_path: Path) -> None:
    table = traces(
        [
            ("t1", "p1", r"<think>\boxed{6}</think> \boxed{5}", "stop"),
            ("t2", "p1", r"<think>\boxed{5}", "length"),
        ]
    )
    rows = {row["id"]: row["reasons"] for row in judged(tmp_path, True, table).rows("verdicts")}
    assert rows == {"t1": [], "t2": ["answer_missing"]}


def test_many_traces_are_written_in_several_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.verify.ROWS", 100)
    table = traces([(f"t{n}", "p2", "Answer: Paris", "stop") for n in range(250)])
    output = judged(tmp_path, table=table)
    assert [table.num_rows for table in output.tables["verdicts"]] == [100, 100, 50]
    assert {row["id"] for row in output.rows("verdicts")} == {f"t{n}" for n in range(250)}


def test_no_traces_give_empty_datasets(tmp_path: Path) -> None:
    output = judged(tmp_path, table=TRACES.slice(0, 0))
    assert (output.rows("verdicts"), output.rows("pass_rates")) == ([], [])
    assert set(output.tables) == {"verdicts", "pass_rates"}


def test_an_unknown_verifier_is_one_clear_error(tmp_path: Path) -> None:
    tables = {"problems": problems([("p1", "5", "maths", "{}")]), "traces": TRACES}
    with pytest.raises(StageError, match="'maths', which does not exist: name one of choice, code"):
        run(CONFIG, DeskInputs(tmp_path, tables, teacher=Teacher(model="some")), DeskOutput(tmp_path))


def test_programs_are_refused_before_anything_is_judged_where_nothing_isolates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.verifiers.code.lacking", lambda: "no sandbox here. Install it")
    tables = {"problems": problems([("p1", "5", "math", "{}"), ("p2", "", "code", "{}")]), "traces": TRACES}
    output = DeskOutput(tmp_path)
    with pytest.raises(StageError, match=r"cannot be judged on this machine: no sandbox here\. Install it"):
        run(CONFIG, DeskInputs(tmp_path, tables, teacher=Teacher(model="some")), output)
    assert not output.tables
    judged(tmp_path)  # where no problem is a program, nothing is asked for


def test_a_trace_of_an_unknown_problem_is_one_clear_error(tmp_path: Path) -> None:
    table = traces([("t1", "p99", "Answer: 5", "stop")])
    with pytest.raises(StageError, match="trace t1 answers problem p99"):
        judged(tmp_path, table=table)


def test_a_rate_is_of_the_decided_traces() -> None:
    assert [row["pass_rate"] for row in pass_rates({"b": {"fail": 2}, "a": {"undecided": 1}})] == [None, 0.0]


def test_limits_are_declared_and_workers_are_not() -> None:
    assert declared(Config()) == {"timeout_s": 10.0, "memory_mib": 1024}
    assert STAGE.roles == {"teachers": ("thinking",)}
