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
    problem = dict.fromkeys(PROBLEM.names, "") | {"id": "p", "domain": "math", "text": "What is 2 + 2, all in all?"}
    tables = {"traces": as_table(traces, TRACE), "problems": as_table([problem], PROBLEM)}
    tables["lengths"] = tables["traces"]
    output = DeskOutput(folder)
    stage.run(config, DeskInputs(folder, tables, teacher=Teacher(model="m", thinking=thinking)), output)
    return output


TRACES = [
    trace("good", "2 + 2 = 4\n\\boxed{4}"),
    trace("bare", "2 + 2 = 4"),
    trace("looping", "```\n" + "8 - 7 = 1\n" * 20, "length", 200),
    trace("failed", None, "error", None),
]

REPEATS = ["looping_tail", "repeated_ngrams", "repeated_lines"]


def test_every_trace_gets_one_verdict_with_all_the_rules_it_breaks(tmp_path: Path) -> None:
    output = run(tmp_path, Config(), TRACES)
    assert [table.schema for table in output.tables["verdicts"]] == [VERDICT]
    rows = output.rows("verdicts")
    assert {row["id"]: (row["outcome"], row["reasons"]) for row in rows} == {
        "good": ("pass", []),
        "bare": ("fail", ["answer_missing"]),
        "looping": ("fail", ["truncated", *REPEATS, "answer_missing", "code_block"]),
        "failed": ("fail", ["generation_error", "answer_missing", "too_short"]),
    }
    assert json.loads(rows[2]["detail"])["truncated"] == {"tokens": 200}
    assert {name: count for name, count in output.counts.items() if count} == {
        "pass": 1,
        "generation_error": 1,
        "truncated": 1,
        "looping_tail": 1,
        "repeated_ngrams": 1,
        "repeated_lines": 1,
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


def test_a_trace_is_compared_with_the_others_of_its_problem_that_ended_by_themselves(tmp_path: Path) -> None:
    lengths = {"a": 100, "b": 110, "c": 120, "d": 400, "e": 20}
    some = [trace(key, f"\\boxed{{{key}}}", tokens=tokens) for key, tokens in lengths.items()]
    cut = trace("cut", "4", "length", 10**6)
    config = Config(length_ratio=3.0, rules=("long_for_problem", "short_for_problem"))
    rows = {row["id"]: row for row in run(tmp_path, config, [*some, cut]).rows("verdicts")}
    assert {key: row["reasons"] for key, row in rows.items() if row["reasons"]} == {
        "d": ["long_for_problem"],
        "e": ["short_for_problem"],
        "cut": ["long_for_problem"],
    }
    # The median of the four others, without the trace itself.
    assert json.loads(rows["d"]["detail"]) == {"long_for_problem": {"tokens": 400, "others_median": 105.0}}
    few = run(tmp_path, config, [*some[:1], some[3], some[4]]).rows("verdicts")
    assert [row["reasons"] for row in few] == [[], [], []]


def test_the_lengths_of_others_are_read_only_where_they_count() -> None:
    reads = stage.STAGE.reads["lengths"]
    assert not reads.when(Config())
    assert reads.when(Config(length_ratio=3.0))


def test_a_repeated_prompt_is_told_from_the_problem(tmp_path: Path) -> None:
    task = "Think step by step and keep it as short as you can."
    problem = "What is 2 + 2, all in all?"
    some = [trace("a", f"{task}\n\\boxed{{4}}"), trace("b", f"{problem}\n\\boxed{{4}}")]
    rows = run(tmp_path, Config(), [row | {"prompt": f"{task}\n{problem}"} for row in some]).rows("verdicts")
    assert [row["reasons"] for row in rows] == [["prompt_leaked"], []]


def test_batches_smaller_than_the_traces_lose_and_mix_up_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "BATCH_TRACES", 4)
    monkeypatch.setattr(stage, "BATCH_CHARS", 30)
    some = [trace(f"t{n}", "4" * (n % 7) if n % 3 else "\\boxed{4}") for n in range(50)]
    rows = run(tmp_path, Config(rules=("answer_missing",)), some).rows("verdicts")
    assert [(row["id"], row["outcome"]) for row in rows] == [(f"t{n}", "fail" if n % 3 else "pass") for n in range(50)]


def test_an_unknown_rule_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValidationError, match="no rule 'trunkated'; did you mean 'truncated'"):
        Config(rules=("trunkated",))


def test_a_trace_of_no_known_problem_is_an_error(tmp_path: Path) -> None:
    stray = trace("t", "4") | {"problem_id": "q"}
    with pytest.raises(StageError, match="Trace t answers problem q, which seed/problems does not hold"):
        run(tmp_path, Config(), [stray])
