"""Which traces become examples, and what is said of those that do not."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from pipeline.records import EXAMPLE, PROBLEM, RATING, REFERENCE, TRACE, VERDICT
from pipeline.roles import Student, Teacher
from pipeline.section import declared
from pipeline.shards import as_table
from pipeline.stage import StageError
from stages import mix
from stages.mix import FUNNEL, Config, funnel, in_validation, merged_reasons, run, sequence
from tests.candidates import trace
from tests.desk import DeskInputs, DeskOutput


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


def test_the_funnel_adds_up_and_its_last_row_is_what_was_kept() -> None:
    counts = {("verify", "wrong_answer"): 2, None: 1, ("filter", "truncated"): 1, ("filter", "too_long"): 3}
    rows = funnel(counts)
    assert [(row["stage"], row["reason"], row["traces"]) for row in rows] == [
        ("filter", "too_long", 3),
        ("filter", "truncated", 1),
        ("verify", "wrong_answer", 2),
        ("mix", "kept", 1),
    ]
    assert sum(row["traces"] for row in rows) == sum(counts.values())


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


def test_a_cut_off_trace_that_is_kept_says_so_and_its_reasoning_is_not_closed(tmp_path: Path) -> None:
    inputs = desk(tmp_path, {"t": Teacher(model="thinker", thinking=True)}, {"c"})
    rows = inputs.table("traces").to_pylist()
    rows[0]["finish"], rows[1] = "stop", {**rows[1], "finish": "length", "raw": "<think>add one and"}
    inputs._tables["traces"] = as_table(rows, TRACE)
    output = DeskOutput(tmp_path)
    run(Config(validation_share=0.0), inputs, output)
    found = {row["id"]: (row["finish"], row["completion"][0]["content"]) for row in output.rows("examples")}
    assert found["a"][0] == "stop"
    assert found["b"] == ("length", "<think>\nadd one and")


def test_nothing_left_is_an_error_that_names_the_commonest_reasons(tmp_path: Path) -> None:
    inputs = desk(tmp_path, {"t": Teacher(model="thinker", thinking=True)}, {"a", "b", "c"})
    with pytest.raises(StageError, match=r"None of 3 traces is left; the commonest reasons: wrong_answer \(3\)"):
        run(Config(), inputs, DeskOutput(tmp_path))


def test_a_missing_verdict_is_an_error(tmp_path: Path) -> None:
    inputs = desk(tmp_path, {"t": Teacher(model="thinker", thinking=True)}, set())
    inputs._tables["dedupe"] = inputs._tables["dedupe"].slice(1)
    with pytest.raises(StageError, match="Trace a has no verdict of dedupe"):
        run(Config(), inputs, DeskOutput(tmp_path))


def test_a_verdict_of_no_trace_is_an_error(tmp_path: Path) -> None:
    inputs = desk(tmp_path, {"t": Teacher(model="thinker", thinking=True)}, set())
    more = as_table([{**dict.fromkeys(VERDICT.names), **verdict("z")}], VERDICT)
    inputs._tables["filter"] = pa.concat_tables([inputs._tables["filter"], more])
    with pytest.raises(StageError, match=r"1 verdicts of filter are about traces that .* \(3 traces\)"):
        run(Config(), inputs, DeskOutput(tmp_path))


def test_without_verification_all_stay_but_those_without_an_answer() -> None:
    def verify(outcome: str, *reasons: str) -> dict[str, Any]:
        return {"verify": {"outcome": outcome, "reasons": list(reasons)}}

    assert merged_reasons(verify("fail", "wrong_answer"), verification=False) == ()
    assert merged_reasons(verify("undecided", "unverifiable"), verification=False) == ()
    assert merged_reasons(verify("undecided", "verifier_timeout"), verification=False) == ()
    for reason in ("answer_missing", "answer_unparseable", "generation_error"):
        assert merged_reasons(verify("fail", reason), verification=False) == (("verify", reason),)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"domain_shares": {"math": 0.5, "code": 0.4}}, "sum to 0.9; expected shares of 1"),
        ({"teacher_shares": {"one": 1.5, "two": -0.5}}, "expected shares of 1"),
        ({"domain_shares": {"math": float("nan"), "code": 0.5}}, "expected shares of 1"),
        ({"pass_rate_band": (0.8, 0.2)}, r"pass_rate_band is \[0.8, 0.2\]; expected"),
        ({"size": 10}, "size is 10, and no kind has a share"),
        ({"domain_shares": {"math": 1.0}, "long_tokens": 99}, "long_tokens is 99, and long_share is none"),
    ],
)
def test_impossible_wishes_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Config(**values)


def test_the_order_of_examples_is_by_ease_then_length() -> None:
    some = [
        trace(0, problem_id="hard", completion_tokens=5),
        trace(1, problem_id="hard", right=False),
        trace(2, problem_id="easy", completion_tokens=30),
        trace(3, problem_id="easy", completion_tokens=20),
    ]
    assert sequence(Config(), some) == {}
    for order, expected in (
        ("easy_first", ["t3", "t2", "t0"]),
        ("hard_first", ["t0", "t2", "t3"]),
        ("short_first", ["t0", "t3", "t2"]),
    ):
        places = sequence(Config(curriculum=order), some)
        assert places == {key: place / 3 for place, key in enumerate(expected)}


DOMAINS, TEACHERS = ("math", "code", "logic"), ("plain", "thinker")


def made_up(folder: Path, draw: random.Random) -> DeskInputs:
    """A random run: problems of three domains, traces of two teachers, verdicts of four judges."""
    empty = dict.fromkeys(PROBLEM.names, "")
    problems = [
        {**empty, "id": f"p{n}", "text": f"{n}?", "task": draw.choice("xy"), "domain": draw.choice(DOMAINS)}
        for n in range(draw.randrange(3, 12))
    ]
    traces = [
        {
            **dict.fromkeys(TRACE.names),
            "id": f"t{problem['id']}-{n}",
            "problem_id": problem["id"],
            "sample": n,
            "raw": f"{draw.random()} so \\boxed{{2}}",
            "completion_tokens": draw.randrange(1, 100),
            "teacher": draw.choice(TEACHERS),
            "weights": "w",
            "sampling": "{}",
        }
        for problem in problems
        for n in range(draw.randrange(1, 6))
    ]
    tables = {"problems": as_table(problems, PROBLEM), "traces": as_table(traces, TRACE)}
    slugs = {"filter": "truncated", "verify": "wrong_answer", "dedupe": "duplicate_near", "decontaminate": "overlap"}
    for stage, slug in slugs.items():
        rows = []
        for one in traces:
            row = {**dict.fromkeys(VERDICT.names), **verdict(one["id"], *([slug] if draw.random() < 0.2 else []))}
            siblings = [other["id"] for other in traces if other["problem_id"] == one["problem_id"]]
            rows.append(row | {"detail": json.dumps({"survivor": draw.choice(siblings)} if stage == "dedupe" else {})})
        tables[stage] = as_table(rows, VERDICT)
    inputs = DeskInputs(folder, tables, Teacher(model="plain"), Student(model="s", prompt="question"))
    inputs.more_teachers = {"t": Teacher(model="thinker")}
    return inputs


def wishes(draw: random.Random) -> Config:
    """A random mix."""
    split = draw.random()
    long = draw.choice([{}, {"long_share": 0.3, "long_tokens": 50}])
    return Config(
        verification=draw.choice(["on", "off"]),
        prefer=draw.choice(["first", "shortest", "diverse"]),
        traces_per_problem=draw.choice([None, 1, 2]),
        ensemble=draw.choice(["pool", "each", "best"]),
        pass_rate_band=draw.choice([None, (0.0, 0.9), (0.3, 1.0)]),
        domain_shares=draw.choice([{}, {"math": split, "code": 1 - split}]),
        teacher_shares=draw.choice([{}, {"plain": split, "thinker": 1 - split}]),
        **long,
        shares_by=draw.choice(["rows", "tokens"]),
        short=draw.choice(["take_less", "repeat"]),
        curriculum=draw.choice([None, "easy_first", "short_first"]),
        validation_share=draw.choice([0.0, 0.3]),
    )


def test_the_funnels_add_up_to_the_row_in_all_by_domain_by_teacher_and_by_task(tmp_path: Path) -> None:
    draw = random.Random(17)
    mixes = 0
    for _ in range(150):
        inputs, config, output = made_up(tmp_path, draw), wishes(draw), DeskOutput(tmp_path)
        try:
            run(config, inputs, output)
        except StageError as error:
            assert "is left" in str(error) or "shares" in str(error)  # noqa: PT017 - most runs end without one
            continue
        mixes += 1
        traces, problems = inputs.table("traces").to_pylist(), inputs.table("problems").to_pylist()
        domain = {row["id"]: row["domain"] for row in problems}
        task = {row["id"]: row["task"] for row in problems}
        groups = {
            "funnel_by_domain": Counter(domain[row["problem_id"]] for row in traces),
            "funnel_by_teacher": Counter(row["teacher"] for row in traces),
            "funnel_by_task": Counter(task[row["problem_id"]] for row in traces),
        }
        assert sum(row["traces"] for row in output.facts["funnel"]) == len(traces)
        for name, expected in groups.items():
            added = {group: sum(row["traces"] for row in rows) for group, rows in output.facts[name].items()}
            assert added == expected
            whole: Counter[tuple[str, str]] = Counter()
            for rows in output.facts[name].values():
                whole.update({(row["stage"], row["reason"]): row["traces"] for row in rows})
            assert whole == {(row["stage"], row["reason"]): row["traces"] for row in output.facts["funnel"]}
        fates = {row["id"]: row for row in output.rows("fates")}
        assert set(fates) == {row["id"] for row in traces}
        examples = output.rows("examples")
        assert {row["id"].partition("+")[0] for row in examples} == {key for key, row in fates.items() if row["kept"]}
        assert len({row["id"] for row in examples}) == len(examples)
        assert not any("+" in row["id"] for row in examples if row["split"] == "validation")
        assert sum(output.facts["examples"].values()) == len(examples)
        assert output.counts.total() == len(traces)
    assert mixes > 50


def test_repeats_stand_beside_their_first_with_ids_of_their_own(tmp_path: Path) -> None:
    inputs = desk(tmp_path, {"t": Teacher(model="thinker", thinking=True)}, {"c"})
    output = DeskOutput(tmp_path)
    config = Config(teacher_shares={"plain": 0.25, "thinker": 0.75}, short="repeat", validation_share=0.0)
    run(config, inputs, output)
    assert [row["id"] for row in output.rows("examples")] == ["a", "b", "b+1", "b+2"]
    assert {row["teacher"]: row["share"] for row in output.facts["blend"]} == {"plain": 0.25, "thinker": 0.75}


def test_the_share_that_is_reported_is_that_of_the_rows_where_validation_repeats_none(tmp_path: Path) -> None:
    inputs = desk(tmp_path, {"t": Teacher(model="thinker", thinking=True)}, {"c"})
    for share in (0.3, 0.6, 0.999):
        output = DeskOutput(tmp_path)
        run(
            Config(teacher_shares={"plain": 0.25, "thinker": 0.75}, short="repeat", validation_share=share),
            inputs,
            output,
        )
        rows = output.rows("examples")
        there = Counter(row["teacher"] for row in rows)
        assert {row["teacher"]: row["taken"] for row in output.facts["blend"]} == there
        assert not any("+" in row["id"] for row in rows if row["split"] == "validation")
    assert there == {"plain": 1, "thinker": 1}


@pytest.mark.parametrize("validates", [True, False])
def test_a_rewriting_is_repeated_where_its_parent_is_trained_on_and_there_alone(
    tmp_path: Path, validates: bool
) -> None:
    inputs = desk(tmp_path, {"t": Teacher(model="thinker", thinking=True)}, {"c"})
    names = [f"problem {number}" for number in range(100)]
    parent = next(name for name in names if in_validation(name, 0.5) is validates)
    own = next(name for name in names if in_validation(name, 0.5) is not validates)
    changes = {"problems": {"id": own, "parent_id": parent}, "traces": {"problem_id": own}}
    for name, schema in (("problems", PROBLEM), ("traces", TRACE)):
        rows = [row | changes[name] for row in inputs.table(name).to_pylist()]
        inputs._tables[name] = as_table(rows, schema)
    output = DeskOutput(tmp_path)
    run(Config(teacher_shares={"plain": 0.25, "thinker": 0.75}, short="repeat", validation_share=0.5), inputs, output)
    examples = output.rows("examples")
    assert {row["split"] for row in examples} == {"validation" if validates else "train"}
    assert [row["id"] for row in examples] == (["a", "b"] if validates else ["a", "b", "b+1", "b+2"])


def test_examples_say_where_in_the_order_asked_for_they_stand(tmp_path: Path) -> None:
    inputs = made_up(tmp_path, random.Random(4))
    output = DeskOutput(tmp_path)
    run(Config(curriculum="short_first"), inputs, output)
    tokens = {row["id"]: row["completion_tokens"] for row in inputs.table("traces").to_pylist()}
    ordered = sorted(output.rows("examples"), key=lambda row: row["place"])
    lengths = [tokens[row["id"]] for row in ordered]
    assert len(lengths) > 6
    assert lengths == sorted(lengths)
    assert [row["place"] for row in ordered] == [place / len(ordered) for place in range(len(ordered))]
    output = DeskOutput(tmp_path)
    run(Config(), inputs, output)
    assert {row["place"] for row in output.rows("examples")} == {None}


def test_the_judge_s_choice_needs_ratings_and_takes_the_best(tmp_path: Path) -> None:
    inputs = desk(tmp_path, {"t": Teacher(model="thinker", thinking=True)}, {"c"})
    config = Config(prefer="judge", traces_per_problem=1)
    with pytest.raises(StageError, match="verify has no rating of any trace"):
        run(config, inputs, DeskOutput(tmp_path))
    rows = [{"id": key, "score": score} for key, score in {"a": 1.0, "b": 7.0, "c": 9.0}.items()]
    inputs._tables["ratings"] = as_table(rows, RATING)
    output = DeskOutput(tmp_path)
    run(config, inputs, output)
    assert [row["id"] for row in output.rows("examples")] == ["b"]


def test_a_general_set_joins_the_traces_without_what_is_held_out(tmp_path: Path) -> None:
    inputs = desk(tmp_path, {"t": Teacher(model="thinker", thinking=True)}, {"c"})
    held_out = "Which of the seven bridges of the old town was built first, and by whom?"
    exam = "How many of the nine doors stay open when each guest shuts every second one?"
    rows = [
        {"text": "Write a line about rain.", "answer": "It falls.", "license": "MIT"},
        {"text": "Write a line about rain.", "answer": "It falls."},
        {"text": held_out, "answer": "The third."},
        {"text": "I was asked this:", "answer": exam},
        {"text": "Say hello.", "answer": ""},
        {"text": "Say hello.", "answer": "Hello."},
    ]
    (tmp_path / "general.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    problem = dict.fromkeys(PROBLEM.names, "") | {"id": "h", "text": held_out, "task": "towns", "split": "eval"}
    inputs._tables["held_out"] = as_table([problem], PROBLEM)
    item = {"id": "e", "benchmark": "exam", "item": "1", "text": exam}
    inputs._tables["references"] = as_table([item], REFERENCE)
    source = {"kind": "file", "path": "general.jsonl", "defaults": {"domain": "chat"}}
    output = DeskOutput(tmp_path)
    run(Config(general=[source], validation_share=0.0), inputs, output)
    made = [row for row in output.rows("examples") if row["domain"] == "chat"]
    assert [row["completion"][0]["content"] for row in made] == ["It falls.", "Hello."]
    assert {row["teacher"] for row in made} == {None}
    assert {row["place"] for row in made} == {None}
    assert output.facts["general"] == {
        "answer_missing": 1,
        "benchmark_overlap": 1,
        "duplicate": 1,
        "held_out_overlap": 1,
        "kept": 2,
    }
    shares = {"": 0.75, "chat": 0.25}
    output = DeskOutput(tmp_path)
    run(Config(general=[source], domain_shares=shares, short="repeat", validation_share=0.0), inputs, output)
    assert Counter(row["domain"] for row in output.rows("examples")) == {"": 6, "chat": 2}
    output = DeskOutput(tmp_path)
    run(Config(general=[source], curriculum="easy_first"), inputs, output)
    assert {row["domain"]: row["place"] for row in output.rows("examples") if row["domain"]} == {"chat": 0.75}
    same = {**source, "defaults": {"domain": ""}}
    with pytest.raises(StageError, match="the domain '' is one of traces and of mix"):
        run(Config(general=[same], domain_shares={"": 1.0}), inputs, DeskOutput(tmp_path))


def test_a_general_set_is_known_by_its_content(tmp_path: Path) -> None:
    config = Config(general=[{"kind": "file", "path": "general.jsonl"}])
    assert mix.STAGE.contents(config, tmp_path) == {"general.0": "missing"}
    assert mix.STAGE.contents(Config(), tmp_path) == {}
    assert declared(Config()).keys() == {
        "verification", "prefer", "traces_per_problem", "ensemble", "trace_format", "validation_share"
    }  # fmt: skip
