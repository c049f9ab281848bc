"""Seed: what becomes a problem, what is held out from what, and what is refused with which reason."""

import hashlib
import json
import os
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline import recipe
from pipeline.canonical import canonical_keys
from pipeline.records import PROBLEM, REJECT, content_id
from pipeline.roles import Judge, Peer, Role, Student, Teacher
from pipeline.stage import StageError
from pipeline.templates import worked_examples
from pipeline.text import fold
from stages import generate
from stages.seed import STAGE, Config, prompts, shown, source_digests
from tests.desk import ROOT, DeskInputs, DeskOutput

HELD_OUT = {
    "dev": {"seed": 2_000_000_001, "count_per_task": 16},
    "eval": {"seed": 3_000_000_001, "count_per_task": 16},
}
TASKS: dict[str, dict[str, Any]] = {
    "chain_sum": {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 2},
    "basic_arithmetic": {
        "min_terms": 2,
        "max_terms": 3,
        "min_digits": 1,
        "max_digits": 1,
        "allow_parentheses": False,
    },
    "simple_equations": {"min_terms": 2, "max_terms": 2, "min_value": 1, "max_value": 10},
    "gcd": {"max_value": 100},
}


def generator(task: str, count: int = 20, **values: Any) -> dict[str, Any]:
    return {"kind": "reasoning_gym", "task": task, "config": TASKS.get(task, {}), "count": count, **values}


def file(path: Path, rows: list[tuple[str, str]], **values: Any) -> dict[str, Any]:
    path.write_text("".join(json.dumps({"text": text, "answer": answer}) + "\n" for text, answer in rows))
    return {"kind": "file", "path": str(path), **values}


def run(
    folder: Path, sources: list[dict[str, Any]], held_out: dict[str, Any] | None = None, **teacher: Any
) -> DeskOutput:
    output = DeskOutput(folder)
    config = Config.model_validate({"sources": sources, "held_out": held_out or {}})
    inputs = DeskInputs(folder, teacher=Teacher(model="any", **teacher), student=Student(model="any"))
    STAGE.run(config, inputs, output)
    return output


def problems(output: DeskOutput, split: str) -> list[dict[str, Any]]:
    return [row for row in output.rows("problems") if row["split"] == split]


def reasons(output: DeskOutput, split: str = "train") -> Counter[str]:
    return Counter(row["reason"] for row in output.rows("rejects") if row["split"] == split)


def test_a_run_writes_whole_rows_with_unique_ids(tmp_path: Path) -> None:
    output = run(tmp_path, [generator(task) for task in TASKS], HELD_OUT)
    rows, rejects = output.rows("problems"), output.rows("rejects")
    assert Counter((row["task"], row["split"]) for row in rows) == {
        (task, split): count for task in TASKS for split, count in (("train", 20), ("dev", 16), ("eval", 16))
    }
    assert len({row["id"] for row in rows}) == len(rows)
    assert len({row["id"] for row in rejects}) == len(rejects)
    assert output.counts == Counter(row["reason"] for row in rejects)
    assert [table.schema for table in output.tables["problems"]] == [PROBLEM]
    assert [table.schema for table in output.tables["rejects"]] == [REJECT]
    for row in rows:
        assert row["id"] == content_id("problem", row["text"])
        assert (row["domain"], row["verifier"], row["license"]) == ("math", "reasoning_gym", "Apache-2.0")
        assert row["source"] == f"reasoning-gym {version('reasoning-gym')} {row['task']}"
        assert json.loads(row["verifier_data"])["entry"]["answer"] == row["answer"]
    facts = output.facts["sources"]
    assert [(fact["task"], fact["asked"]) for fact in facts] == [(task, 20) for task in TASKS]
    assert all(fact["drawn"] >= 20 and fact["estimated_space"] >= 520 for fact in facts)
    assert facts[0]["accepted"] == {"dev": 16, "eval": 16, "train": 20}


def test_a_run_repeats_itself(tmp_path: Path) -> None:
    first, second = (run(tmp_path, [generator("chain_sum")], HELD_OUT) for _ in range(2))
    assert first.rows("problems") == second.rows("problems")
    assert first.rows("rejects") == second.rows("rejects")


def test_more_training_problems_keep_the_earlier_ones_and_every_held_out_one(tmp_path: Path) -> None:
    few = run(tmp_path, [generator("chain_sum", 20), generator("gcd", 20)], HELD_OUT)
    many = run(tmp_path, [generator("chain_sum", 90), generator("gcd", 20)], HELD_OUT)
    for split in HELD_OUT:
        assert problems(few, split) == problems(many, split)
    ids = [row["id"] for row in problems(many, "train") if row["task"] == "chain_sum"]
    assert ids[:20] == [row["id"] for row in problems(few, "train") if row["task"] == "chain_sum"]
    assert len(ids) == 90


def test_no_training_problem_is_a_held_out_exercise(tmp_path: Path) -> None:
    output = run(tmp_path, [generator("chain_sum", 200), generator("gcd", 100)], HELD_OUT)
    held: dict[str, str] = {}
    for row in problems(output, "dev") + problems(output, "eval"):
        for key in canonical_keys(row["task"], row["text"]):
            assert held.setdefault(key, row["id"]) == row["id"]
    for row in problems(output, "train"):
        assert not canonical_keys(row["task"], row["text"]) & held.keys()
    assert reasons(output)["held_out_match"] > 0
    assert all("problem " in row["detail"] for row in output.rows("rejects") if row["reason"] == "held_out_match")


def test_a_worked_example_of_a_prompt_is_asked_in_no_split(tmp_path: Path) -> None:
    shown = ("What is 7 + 4 + 5 - 8?", "8")  # prompts/chain-sum.txt has 4 - 8 + 5 + 7
    clean = ("What is 7 + 4 + 5 - 9?", "7")
    sources = [
        file(tmp_path / "own.jsonl", [shown, ("What is 1 + 4 + 5 - 8?", "2")]),
        file(tmp_path / "exam.jsonl", [shown, clean], split="eval"),
    ]
    output = run(tmp_path, sources, task_prompts={"some_task": "chain-sum"})
    assert [row["text"] for row in problems(output, "eval")] == [clean[0]]
    assert {(row["split"], row["text"], row["reason"]) for row in output.rows("rejects")} == {
        (split, shown[0], "worked_example") for split in ("eval", "train")
    }
    assert {row["detail"] for row in output.rows("rejects")} == {"line 1; prompt chain-sum"}
    assert len(run(tmp_path, sources[1:]).rows("problems")) == 2


def test_worked_examples_of_further_teachers_count_and_those_of_no_teacher_do_not(tmp_path: Path) -> None:
    config = Config.model_validate({"sources": [file(tmp_path / "own.jsonl", [("What is 7 + 4 + 5 - 8?", "8")])]})
    inputs = DeskInputs(tmp_path, teacher=Teacher(model="any"), student=Student(model="any"))
    inputs.more_teachers["coder"] = Teacher(model="other", prompt="chain-sum")
    assert shown(inputs).keys() > shown(DeskInputs(tmp_path, teacher=inputs.teacher, student=inputs.student)).keys()
    apart: dict[str, Role] = {"judge": Judge(model="any"), "peer": Peer(model="any", prompt="decimal-sum")}
    roles = {**inputs.teachers, "student": inputs.student, **apart}
    assert prompts(config, roles) == ("question", "chain-sum")
    assert generate.names(None, roles) == ("question", "chain-sum")


def test_a_text_that_only_mentions_a_worked_example_is_asked(tmp_path: Path) -> None:
    rows = [("The sum 7 + 4 + 5 - 8 stands on the blackboard. How many numbers are in it?", "four")]
    output = run(tmp_path, [file(tmp_path / "own.jsonl", rows)], prompt="chain-sum")
    assert [row["text"] for row in problems(output, "train")] == [rows[0][0]]


def test_problems_whose_verifier_needs_no_answer_come_without_one(tmp_path: Path) -> None:
    (tmp_path / "open.jsonl").write_text(
        '{"text": "Why is the sky blue?"}\n{"text": "What is fair?", "answer": null}\n'
    )
    output = run(tmp_path, [{"kind": "file", "path": "open.jsonl", "defaults": {"verifier": "unverifiable"}}])
    assert [(row["answer"], row["verifier"]) for row in output.rows("problems")] == [("", "unverifiable")] * 2
    assert output.counts == {}


def test_the_demo_holds_out_nothing_that_a_shipped_prompt_answers(tmp_path: Path) -> None:
    demo = recipe.load(ROOT / "pipeline/recipes/demo.yaml", ())
    config = demo.sections["seed"]
    assert isinstance(config, Config)
    few = [source.model_copy(update={"count": 1}) for source in config.sources]  # held-out blocks come first
    output = DeskOutput(tmp_path)
    inputs = DeskInputs(tmp_path, teacher=demo.teacher, student=demo.student)
    STAGE.run(config.model_copy(update={"sources": few}), inputs, output)
    held = [row for row in output.rows("problems") if row["split"] != "train"]
    assert Counter(row["split"] for row in held) == {"dev": 288, "eval": 288, "eval_again": 288}
    keys = {key for row in held for key in canonical_keys(row["task"], row["text"])}
    texts = {fold(row["text"]) for row in held}
    templates = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "prompts").glob("*.txt"))]
    examples = [question for template in templates for question, _ in worked_examples(template)]
    assert len(examples) >= 14
    for question in examples:
        assert fold(question) not in texts
        assert not canonical_keys("", question) & keys, question
    # The blocks did draw such an exercise, so that this test sees one that is let through.
    assert "worked_example" in {row["reason"] for row in output.rows("rejects")}


def test_a_task_with_too_few_different_problems_is_refused_with_the_numbers(tmp_path: Path) -> None:
    small = {"kind": "reasoning_gym", "task": "gcd", "config": {"max_value": 30}, "count": 160}
    with pytest.raises(
        StageError, match=r"'gcd' has about 4\d\d different .* and 192 are asked .*, 1920: .* at most 4\d$"
    ):
        run(tmp_path, [small], HELD_OUT)
    assert len(problems(run(tmp_path, [small | {"count": 30}]), "train")) == 30


def test_every_planted_copy_is_found_and_few_clean_problems_are_flagged(tmp_path: Path) -> None:
    demo = [generator(task, 10) for task in TASKS]
    held = run(tmp_path, demo, {name: block | {"count_per_task": 64} for name, block in HELD_OUT.items()})
    copies = {
        "as it is": str,
        "wrapped": lambda text: "\n  ".join(text.split()),
        "shouted": str.upper,
        "without its full stop": lambda text: text.rstrip(".= ") + " ",
        "led in": lambda text: f"Please help me with my homework. {text} Thank you!",
        "in print": lambda text: text.replace("-", "\u2212").replace("*", "\u00d7"),
    }
    planted = [
        (how, change(row["text"]), row["answer"])
        for row in problems(held, "dev") + problems(held, "eval")
        for how, change in copies.items()
    ]
    clean = [
        row for task in TASKS for row in problems(run(tmp_path, [generator(task, 150, seed=700_000_000)]), "train")
    ]
    rows = [(text, answer) for _, text, answer in planted]
    rows += [(row["text"], row["answer"]) for row in clean]
    output = run(
        tmp_path,
        [*demo, file(tmp_path / "own.jsonl", rows)],
        {name: block | {"count_per_task": 64} for name, block in HELD_OUT.items()},
    )
    found = {
        row["text"]: row["reason"]
        for row in output.rows("rejects")
        if row["source"] == "own.jsonl" and row["reason"] in ("held_out_match", "near_held_out")
    }
    assert [(how, text) for how, text, _ in planted if text not in found] == []
    # A clean problem is one that no held-out problem equals as an exercise: only n-grams can flag it wrongly.
    flagged = [row["text"] for row in clean if found.get(row["text"]) == "near_held_out"]
    assert len(flagged) < 0.05 * len(clean), flagged
    kept = {row["text"] for row in problems(output, "train")}
    lost = [row["text"] for row in clean if row["text"] not in kept | found.keys()]
    assert lost == []


def test_an_exercise_in_other_words_is_found_in_a_file(tmp_path: Path) -> None:
    held = problems(run(tmp_path, [generator("gcd", 10)], HELD_OUT), "eval")
    numbers = json.loads(held[0]["verifier_data"])["entry"]["metadata"]["numbers"]
    text = "Compute the greatest common factor of {} and {}, please.".format(*reversed(numbers))
    output = run(tmp_path, [generator("gcd", 10), file(tmp_path / "own.jsonl", [(text, held[0]["answer"])])], HELD_OUT)
    assert [row["reason"] for row in output.rows("rejects") if row["text"] == text] == ["held_out_match"]


def test_rows_are_refused_with_their_reasons(tmp_path: Path) -> None:
    long = (
        "A train with {} cars leaves the old station by the river at noon, goes over a bridge and through two woods, "
        "and stops at every one of the small towns on its way to the sea. How many cars are there in all?"
    )
    near = long.format(8).replace("in all?", "together?")
    rows = [
        ("What is 2 + 2?", "4"),
        ("What is  2 + 2?", "4"),
        ("What is 3 + 3?", "6"),
        ("What is 3 + 3?", "7"),
        ("", "1"),
        ("What is 5 + 5?", " "),
        (long.format(8), "8"),
        (near, "8"),
        (long.format(9), "9"),
        (long.format(8).replace("in all?", "at sea?"), "none"),
        ("What is 1 + 1?", "2"),
    ]
    sources = [
        file(tmp_path / "own.jsonl", rows),
        file(tmp_path / "test.jsonl", [("What is 1+1?", "2"), ("What is 6 + 6?", "12")], split="eval"),
        file(tmp_path / "other.jsonl", [("what is 6 + 6?", "12"), ("What is 7 + 7?", "14")], split="quiz"),
    ]
    output = run(tmp_path, sources)
    assert reasons(output) == {
        "duplicate": 1,
        "conflicting_answer": 2,
        "text_empty": 1,
        "answer_missing": 1,
        "near_duplicate": 1,
        "held_out_match": 1,
    }
    assert len(problems(output, "train")) == 4
    assert [row["text"] for row in problems(output, "eval")] == ["What is 1+1?", "What is 6 + 6?"]
    assert [row["text"] for row in problems(output, "quiz")] == ["What is 7 + 7?"]
    assert reasons(output, "quiz") == {"held_out_match": 1}


def test_the_order_of_rows_decides_no_problem(tmp_path: Path) -> None:
    text = (
        "Ann packs 8 boxes of the very best apples from the garden behind the house, puts them on the cart beside the "
        "gate, and takes them to the market on the other side of the river. How many boxes does she {}?"
    )
    rows = [(text.format(word), "8") for word in ("take", "take with her", "bring", "really take", "sell there")]
    rows += [(f"What is {number} + 1?", str(number + 1)) for number in range(9)] + [("What is 1 + 1?", "3")]
    forth = run(tmp_path, [file(tmp_path / "own.jsonl", rows)])
    back = run(tmp_path, [file(tmp_path / "own.jsonl", rows[::-1])])
    assert sorted(row["id"] for row in problems(forth, "train")) == sorted(row["id"] for row in problems(back, "train"))
    assert reasons(forth) == reasons(back)
    assert reasons(forth)["near_duplicate"] > 0


def test_the_order_of_blocks_in_a_recipe_decides_nothing(tmp_path: Path) -> None:
    blocks = {name: block | {"count_per_task": 40} for name, block in HELD_OUT.items()}
    backwards = dict(reversed(blocks.items()))
    one, other = (run(tmp_path, [generator("chain_sum", 10)], held_out) for held_out in (blocks, backwards))
    assert reasons(one, "eval")["held_out_match"] > 0
    assert one.rows("problems") == other.rows("problems")


def test_held_out_rows_and_draws_are_held_out_from_each_other(tmp_path: Path) -> None:
    drawn = problems(run(tmp_path, [generator("chain_sum", 10)], HELD_OUT), "dev")
    fixed = file(tmp_path / "own.jsonl", [(drawn[0]["text"], drawn[0]["answer"])], split="quiz")
    output = run(tmp_path, [generator("chain_sum", 10), fixed], HELD_OUT)
    assert [row["text"] for row in problems(output, "quiz")] == [drawn[0]["text"]]
    redrawn = [row["id"] for row in problems(output, "dev")]
    assert len(redrawn) == 16
    assert redrawn[:15] == [row["id"] for row in drawn[1:]]


def test_a_text_with_another_answer_in_a_file_is_taken_from_neither(tmp_path: Path) -> None:
    drawn = problems(run(tmp_path, [generator("chain_sum", 10)]), "train")
    rows = [(drawn[0]["text"], "1000"), (drawn[1]["text"], drawn[1]["answer"])]
    output = run(tmp_path, [generator("chain_sum", 10), file(tmp_path / "own.jsonl", rows)])
    assert reasons(output) == {"conflicting_answer": 2, "duplicate": 1}
    texts = [row["text"] for row in problems(output, "train")]
    assert drawn[0]["text"] not in texts
    assert texts.count(drawn[1]["text"]) == 1


RIVER = "A barge carries 40 tons of gravel up the river each day and returns with 25 tons of sand to the old harbour."


def test_no_training_problem_repeats_a_benchmark(tmp_path: Path) -> None:
    (tmp_path / "bench.csv").write_text(f"q\n{RIVER}\nWhich river runs through Vienna?\n")
    rows = [(f"{RIVER} How many tons?", "65"), ("So, which river\nruns through Vienna?", "Danube"), ("What is 8?", "8")]
    rows.append((RIVER.replace("40", "45"), "70"))
    config = {
        "sources": [file(tmp_path / "rows.jsonl", rows)],
        "benchmarks": [{"name": "geo", "path": "bench.csv", "column": "q"}],
    }
    output = DeskOutput(tmp_path)
    inputs = DeskInputs(tmp_path, teacher=Teacher(model="any"), student=Student(model="any"))
    STAGE.run(Config.model_validate(config), inputs, output)
    assert reasons(output) == {"near_benchmark": 2}
    assert {row["text"] for row in output.rows("problems")} == {"What is 8?", RIVER.replace("40", "45")}
    details = sorted(row["detail"] for row in output.rows("rejects"))
    assert "geo problem line 3, whole 1.00: which river runs through vienna" in details[1]
    assert [(row["benchmark"], row["item"]) for row in output.rows("references")] == [
        ("geo", "line 2"),
        ("geo", "line 3"),
    ]
    assert output.facts["reference_items"] == {"geo": 2}


def test_a_benchmark_without_its_column_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "bench.csv").write_text("q\nWhich river runs through Vienna?\n")
    config = Config.model_validate(
        {"sources": [generator("gcd")], "benchmarks": [{"name": "geo", "path": "bench.csv", "column": "question"}]}
    )
    inputs = DeskInputs(tmp_path, teacher=Teacher(model="any"), student=Student(model="any"))
    with pytest.raises(StageError, match=r"benchmark 'geo': .*no column 'question'.*'q'"):
        STAGE.run(config, inputs, DeskOutput(tmp_path))
    before = source_digests(config, tmp_path)["benchmarks.geo"]
    (tmp_path / "bench.csv").write_text("q\nAnother?\n")
    assert source_digests(config, tmp_path)["benchmarks.geo"] != before


@pytest.mark.parametrize("survivor", ["smallest_id", "first_source", "shortest"])
def test_the_recipe_chooses_which_of_near_duplicates_stays(tmp_path: Path, survivor: str) -> None:
    tale = (
        "Every morning the old miller walks from the mill to the market with 3 sacks of flour on a small cart. His "
        "neighbour brings 4 baskets of bread on her way to school, and both of them rest beside the bridge until noon."
    )
    texts = {"long": f"{tale} How much is that altogether?", "short": f"{tale} How much is that?"}
    for order in (list(texts), list(texts)[::-1]):
        rows = [file(tmp_path / f"{at}.jsonl", [(texts[name], "9")]) for at, name in enumerate(order)]
        output = DeskOutput(tmp_path)
        inputs = DeskInputs(tmp_path, teacher=Teacher(model="any"), student=Student(model="any"))
        STAGE.run(Config.model_validate({"sources": rows, "near_duplicate_survivor": survivor}), inputs, output)
        (row,) = output.rows("problems")
        smallest = min(texts.values(), key=lambda text: content_id("problem", text))
        first = texts[order[0]]
        assert row["text"] == {"smallest_id": smallest, "first_source": first, "shortest": texts["short"]}[survivor]


def test_bad_bytes_are_counted_and_kept(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_bytes(
        b'{"text": "What\xff?", "answer": "1"}\n{"text": "What is 1 + 1?", "answer": "2"}\n'
    )
    output = run(tmp_path, [{"kind": "file", "path": "own.jsonl"}])
    assert output.counts == {"not_utf8": 1}
    assert [(row["text"], row["detail"]) for row in output.rows("rejects")] == [
        ('{"text": "What\ufffd?", "answer": "1"}', "line 1; byte 15 of the row is 0xff")
    ]


def test_equal_rejects_of_two_sources_have_two_ids(tmp_path: Path) -> None:
    rows = [("", "1"), ("What is 1 + 1?", "2")]
    output = run(tmp_path, [file(tmp_path / "own.jsonl", rows)] * 2)
    assert reasons(output) == {"text_empty": 2, "duplicate": 1}
    assert len({row["id"] for row in output.rows("rejects")}) == 3


def test_a_broken_file_is_a_stage_error_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text('{"text": "x", "answer": "1"}\n{')
    with pytest.raises(StageError, match=r"own\.jsonl, line 2: not JSON"):
        run(tmp_path, [{"kind": "file", "path": "own.jsonl"}])


def test_a_run_without_any_problem_says_why(tmp_path: Path) -> None:
    with pytest.raises(
        StageError, match=r"no problem is left of 1 rows: \{'answer_missing': 1\}\. The first: .*line 1"
    ):
        run(tmp_path, [file(tmp_path / "own.jsonl", [("What is 1 + 1?", "")])])


def test_a_block_that_cannot_be_filled_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sources.selection.HELD_OUT_DRAWS", 1)
    with pytest.raises(StageError, match=r"held_out\.dev: 64 items of sources\.0 gave \d\d problems"):
        run(tmp_path, [generator("basic_arithmetic", 10)], {"dev": {"seed": 2_000_000_001, "count_per_task": 64}})


def test_a_shortage_of_training_problems_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sources.selection.TRAIN_DRAWS", 1)
    output = run(tmp_path, [generator("basic_arithmetic", 60)])
    fact = output.facts["sources"][0]
    assert (fact["asked"], fact["drawn"]) == (60, 60)
    assert 0 < fact["accepted"]["train"] < 60
    assert [line for line in output.lines if f"{fact['accepted']['train']} of 60 training problems" in line]


@pytest.mark.parametrize(
    ("sources", "held_out", "says"),
    [
        (
            [generator("gcd")],
            {"dev": {"seed": 900_000_000, "count_per_task": 1}},
            "keep seeds at least 1000000000 apart",
        ),
        (
            [generator("gcd")],
            {"dev": {"seed": 2_000_000_001, "count_per_task": 1}, "eval": {"seed": 2_900_000_001, "count_per_task": 1}},
            "held_out.dev .* and held_out.eval .* are 900000000 apart",
        ),
        ([generator("gcd")], {"train": {"seed": 2_000_000_001, "count_per_task": 1}}, "a block named 'train'"),
        ([generator("gcd"), generator("gcd", seed=500)], {}, "make them one source with count 40"),
        ([], {}, "at least 1 item"),
        ([{"kind": "files", "path": "a.csv"}], {}, "'reasoning_gym', 'file', 'hub'"),
        ([generator("gcd", counts=3)], {}, "counts"),
    ],
)
def test_a_config_that_cannot_be_right_is_refused(sources: list[Any], held_out: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Config.model_validate({"sources": sources, "held_out": held_out})


def test_contents_of_files_are_identity_and_paths_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config.model_validate({"sources": [{"kind": "file", "path": "own.jsonl"}, generator("gcd")]})
    assert source_digests(config, tmp_path)["sources.0"] == "missing"
    seen = []
    for content, name in (("a", "own.jsonl"), ("b", "own.jsonl"), ("b", "other.jsonl")):
        (tmp_path / name).write_text(content)
        named = Config.model_validate({"sources": [{"kind": "file", "path": name}, generator("gcd")]})
        seen.append(source_digests(named, tmp_path))
    assert seen[0] != seen[1] == seen[2]
    assert seen[0].keys() == {"sources.0", "reasoning-gym"}
    os.utime(tmp_path / "other.jsonl", (1, 1))
    first = source_digests(named, tmp_path)
    monkeypatch.setattr(hashlib, "file_digest", lambda file, kind: pytest.fail(f"read {file.name} again"))
    assert source_digests(named, tmp_path) == first == seen[2]
    assert STAGE.contents is source_digests
