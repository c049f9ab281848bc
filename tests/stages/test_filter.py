"""filter: a verdict per trace, with every rule it breaks."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.records import PROBLEM, TRACE, VERDICT
from pipeline.roles import Teacher
from pipeline.rules import RULES
from pipeline.shards import as_table
from pipeline.stage import StageError
from stages import filter as stage
from stages.filter import Config
from tests.desk import DeskInputs, DeskOutput


def trace(trace_id: str, raw: str | None, finish: str = "stop", tokens: int | None = 20) -> dict[str, Any]:
    row = dict.fromkeys(TRACE.names)
    return row | {
        "id": trace_id,
        "problem_id": "p",
        "raw": raw,
        "finish": finish,
        "completion_tokens": tokens,
        "teacher": "m",
    }


def run(folder: Path, config: Config, traces: list[dict[str, Any]], thinking: bool = False) -> DeskOutput:
    problem = dict.fromkeys(PROBLEM.names, "") | {"id": "p", "domain": "math"}
    tables = {"traces": as_table(traces, TRACE), "problems": as_table([problem], PROBLEM)}
    output = DeskOutput(folder)
    stage.run(config, DeskInputs(folder, tables, teacher=Teacher(model="m", thinking=thinking)), output)
    return output


TRACES = [
    trace("good", "2 + 2 = 4\n\\boxed{4}"),
    trace("bare", "2 + 2 = 4"),
    trace("looping", "```\n" + "8 - 7 = 1\n" * 20, "length", 200),
    trace("failed", None, "error", None),
]


def test_every_trace_gets_one_verdict_with_all_the_rules_it_breaks(tmp_path: Path) -> None:
    output = run(tmp_path, Config(), TRACES)
    assert [table.schema for table in output.tables["verdicts"]] == [VERDICT]
    rows = output.rows("verdicts")
    assert {row["id"]: (row["outcome"], row["reasons"]) for row in rows} == {
        "good": ("pass", []),
        "bare": ("fail", ["answer_missing"]),
        "looping": ("fail", ["truncated", "repetition", "answer_missing", "code_block"]),
        "failed": ("fail", ["generation_error", "answer_missing", "too_short"]),
    }
    assert json.loads(rows[2]["detail"])["truncated"] == {"tokens": 200}
    assert {name: count for name, count in output.counts.items() if count} == {
        "pass": 1,
        "generation_error": 1,
        "truncated": 1,
        "repetition": 1,
        "answer_missing": 3,
        "too_short": 1,
        "code_block": 1,
    }
    assert set(output.counts) == {"pass", *RULES}


def test_only_the_rules_asked_for_apply_and_the_table_gives_their_order(tmp_path: Path) -> None:
    rows = run(tmp_path, Config(rules=("answer_missing", "truncated")), TRACES).rows("verdicts")
    assert [row["reasons"] for row in rows] == [
        [],
        ["answer_missing"],
        ["truncated", "answer_missing"],
        ["answer_missing"],
    ]


def test_no_rules_let_everything_pass(tmp_path: Path) -> None:
    assert {row["outcome"] for row in run(tmp_path, Config(rules=()), TRACES).rows("verdicts")} == {"pass"}


def test_a_thinking_teacher_is_held_to_its_tags(tmp_path: Path) -> None:
    rows = run(tmp_path, Config(), [trace("a", "2 + 2 = 4\n\\boxed{4}")], thinking=True).rows("verdicts")
    assert rows[0]["reasons"] == ["think_missing", "answer_missing"]


def test_thresholds_come_from_the_recipe(tmp_path: Path) -> None:
    rows = run(tmp_path, Config(min_tokens=30, max_tokens=100), TRACES[:3]).rows("verdicts")
    assert ["too_short" in row["reasons"] for row in rows] == [True, True, False]
    assert ["too_long" in row["reasons"] for row in rows] == [False, False, True]


def test_an_unknown_rule_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValidationError, match="no rule 'trunkated'; did you mean 'truncated'"):
        Config(rules=("trunkated",))


def test_a_trace_of_no_known_problem_is_an_error(tmp_path: Path) -> None:
    stray = trace("t", "4") | {"problem_id": "q"}
    with pytest.raises(StageError, match="Trace t answers problem q, which seed/problems does not hold"):
        run(tmp_path, Config(), [stray])
