"""Which traces become examples, and what is said of those that do not."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.records import EXAMPLE, PROBLEM, TRACE, VERDICT
from pipeline.roles import Student, Teacher
from pipeline.shards import as_table
from pipeline.stage import StageError
from stages.mix import (
    FUNNEL,
    Candidate,
    Config,
    funnel,
    hear_best,
    in_validation,
    merged_reasons,
    over_cap,
    revive,
    run,
)
from tests.desk import DeskInputs, DeskOutput


def trace(number: int, teacher: str = "one", right: bool | None = True, **changes: Any) -> Candidate:
    values: dict[str, Any] = {
        "id": f"t{number}",
        "problem_id": "p",
        "sample": number,
        "completion_tokens": 10,
        "reasons": (),
        "survivor": None,
        "teacher": teacher,
        "right": right,
    }
    if right is False:
        values["reasons"] = (("verify", "wrong_answer"),)
    return Candidate(**values | changes)


def repeats(number: int, survivor: str, **changes: Any) -> Candidate:
    return trace(number, reasons=(("dedupe", "exact_duplicate"),), survivor=survivor, **changes)


def kept(candidates: list[Candidate]) -> list[str]:
    return [one.id for one in candidates if not one.reasons]


def test_reasons_come_in_the_funnels_order_and_all_of_them_stay() -> None:
    verdicts = {
        "verify": {"outcome": "fail", "reasons": ["wrong_answer"]},
        "filter": {"outcome": "fail", "reasons": ["truncated", "no_answer"]},
        "dedupe": {"outcome": "pass", "reasons": []},
        "decontaminate": {"outcome": "undecided", "reasons": []},
    }
    found = merged_reasons(verdicts, verification=True)
    assert found == (
        ("filter", "truncated"),
        ("filter", "no_answer"),
        ("verify", "wrong_answer"),
        ("decontaminate", "undecided"),
    )
    assert ("verify", "wrong_answer") not in merged_reasons(verdicts, verification=False)


def test_a_duplicate_takes_the_place_of_a_dropped_survivor_and_the_shortest_does() -> None:
    dropped = trace(0, right=False)
    heirs = [repeats(1, "t0", completion_tokens=12), repeats(2, "t0", completion_tokens=9)]
    assert kept(revive([dropped, *heirs])) == ["t2"]
    assert kept(revive([trace(0), *heirs])) == ["t0"]
    other = repeats(3, "t0", completion_tokens=1)
    worse = trace(3, reasons=(("filter", "truncated"), *other.reasons), survivor="t0", completion_tokens=1)
    assert kept(revive([dropped, *heirs, worse])) == ["t2"]


@pytest.mark.parametrize(
    ("prefer", "expected"), [("shortest", {"t0", "t2"}), ("first", {"t1", "t2"})], ids=["shortest", "first"]
)
def test_a_cap_leaves_out_the_rest_of_a_problems_passing_traces(prefer: str, expected: set[str]) -> None:
    lengths = {0: 30, 1: 10, 2: 20, 3: 5}
    some = [trace(number, completion_tokens=tokens) for number, tokens in lengths.items()]
    some[3] = trace(3, right=False, completion_tokens=5)
    left_out = over_cap(some, 1, prefer)
    assert left_out == expected
    assert over_cap(some, None, prefer) == set()
    assert over_cap([*some, trace(4, problem_id="other")], 3, prefer) == set()


def test_a_cap_may_count_for_each_teacher() -> None:
    some = [trace(0), trace(1), trace(2, "two"), trace(3, "two")]
    assert over_cap(some, 1, "first") == {"t1", "t2", "t3"}
    assert over_cap(some, 1, "first", each=True) == {"t1", "t3"}


def test_the_best_teacher_of_a_problem_is_the_one_most_often_right() -> None:
    weaker = [trace(0, "one"), trace(1, "one", right=False)]
    better = [trace(2, "two"), trace(3, "two", right=None, reasons=(("verify", "verifier_timeout"),))]
    assert kept(hear_best([*weaker, *better])) == ["t2"]
    assert hear_best([*weaker, *better])[0].reasons == (("mix", "weaker_teacher"),)


def test_of_equal_teachers_the_briefer_is_heard_and_one_without_a_good_trace_never() -> None:
    assert kept(hear_best([trace(0, "one", completion_tokens=30), trace(1, "two")])) == ["t1"]
    assert kept(hear_best([trace(0, "two"), trace(1, "one")])) == ["t1"]
    truncated = trace(0, "one", reasons=(("filter", "truncated"),))
    assert kept(hear_best([truncated, trace(1, "two"), trace(2, "two", right=False)])) == ["t1"]
    assert kept(hear_best([trace(0, "one"), trace(1, "two", problem_id="other")])) == ["t0", "t1"]


def test_a_trace_of_the_best_teacher_that_repeats_one_of_a_weaker_stays() -> None:
    weaker = [trace(0, "one"), trace(1, "one", right=False)]
    assert kept(revive(hear_best([*weaker, repeats(2, "t0", teacher="two")]))) == ["t2"]


def test_the_funnel_adds_up_and_its_last_row_is_what_was_kept() -> None:
    fates = [
        {"stage": "verify", "reason": "wrong_answer", "kept": False},
        {"stage": "filter", "reason": "truncated", "kept": False},
        {"stage": "verify", "reason": "wrong_answer", "kept": False},
        {"stage": None, "reason": None, "kept": True},
    ]
    rows = funnel(fates)
    assert [(row["stage"], row["reason"], row["traces"]) for row in rows] == [
        ("filter", "truncated", 1),
        ("verify", "wrong_answer", 2),
        ("mix", "kept", 1),
    ]
    assert sum(row["traces"] for row in rows) == len(fates)


def test_validation_is_a_share_of_problems_that_growing_does_not_move() -> None:
    small = {f"p{number}" for number in range(2000) if in_validation(f"p{number}", 0.1)}
    assert 150 < len(small) < 250
    assert small <= {f"p{number}" for number in range(2000) if in_validation(f"p{number}", 0.2)}


def verdict(trace_id: str, *reasons: str) -> dict[str, Any]:
    return {"id": trace_id, "outcome": "fail" if reasons else "pass", "reasons": list(reasons), "detail": "{}"}


def desk(folder: Path, teachers: dict[str, Teacher], wrong: set[str]) -> DeskInputs:
    problem = dict.fromkeys(PROBLEM.names, "") | {"id": "p", "text": "1+1?", "answer": "2", "license": "MIT"}
    raws = {"a": "two, so \\boxed{2}", "b": "<think>add</think>\\boxed{2}", "c": "\\boxed{3}"}
    empty = dict.fromkeys(TRACE.names)
    made = [
        {
            **empty,
            "id": key,
            "problem_id": "p",
            "sample": number,
            "raw": raw,
            "completion_tokens": 5,
            "teacher": "thinker" if "<think>" in raw else "plain",
            "weights": "w",
            "sampling": "{}",
        }
        for number, (key, raw) in enumerate(raws.items())
    ]
    tables = {"problems": as_table([problem], PROBLEM), "traces": as_table(made, TRACE)}
    for stage in FUNNEL[:-1]:
        bad = wrong if stage == "verify" else set()
        rows = [verdict(key, *(["wrong_answer"] if key in bad else [])) for key in raws]
        tables[stage] = as_table([{**dict.fromkeys(VERDICT.names), **row} for row in rows], VERDICT)
    main = Teacher(model="plain")
    inputs = DeskInputs(folder, tables, main, Student(model="s", prompt="question"))
    inputs.more_teachers = teachers
    return inputs


def test_examples_carry_their_lineage_and_each_teachers_own_form_of_thinking(tmp_path: Path) -> None:
    output = DeskOutput(tmp_path)
    run(Config(validation_share=0.0), desk(tmp_path, {"t": Teacher(model="thinker", thinking=True)}, {"c"}), output)
    rows = {row["id"]: row for row in output.rows("examples")}
    assert set(rows) == {"a", "b"}
    assert rows["b"]["completion"][0]["content"] == "<think>\nadd\n</think>\n\n\\boxed{2}"
    assert rows["a"]["completion"][0]["content"].startswith("<think>\ntwo")
    assert {row["teacher"] for row in rows.values()} == {"plain", "thinker"}
    assert {row["license"] for row in rows.values()} == {"MIT"}
    assert set(rows["a"]) == set(EXAMPLE.names)
    fates = {row["id"]: (row["kept"], row["reason"]) for row in output.rows("fates")}
    assert fates == {"a": (True, None), "b": (True, None), "c": (False, "wrong_answer")}
    assert output.facts["funnel"][-1] == {"stage": "mix", "reason": "kept", "traces": 2}
    assert json.loads(json.dumps(output.facts)) == output.facts


def test_nothing_left_is_an_error_that_names_the_commonest_reasons(tmp_path: Path) -> None:
    inputs = desk(tmp_path, {"t": Teacher(model="thinker", thinking=True)}, {"a", "b", "c"})
    with pytest.raises(StageError, match=r"None of 3 traces is left; the commonest reasons: wrong_answer \(3\)"):
        run(Config(), inputs, DeskOutput(tmp_path))


def test_a_missing_verdict_is_an_error(tmp_path: Path) -> None:
    inputs = desk(tmp_path, {"t": Teacher(model="thinker", thinking=True)}, set())
    inputs._tables["dedupe"] = inputs._tables["dedupe"].slice(1)
    with pytest.raises(StageError, match="Trace a has no verdict of dedupe"):
        run(Config(), inputs, DeskOutput(tmp_path))
