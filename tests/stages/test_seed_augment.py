"""Seed's augmented prompts: what a teacher's variants become, and what is refused with which reason."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.records import PROBLEM, REJECT, content_id
from pipeline.roles import Student, Teacher
from pipeline.stage import Progress
from stages.seed import STAGE, Config
from tests.desk import DeskInputs, DeskOutput

PARAPHRASE = {"kind": "paraphrase"}
BACK = {"kind": "back_translation"}
HARDER = {"kind": "harder"}
SUMS = [(f"What is {number} + {number + 3}?", str(2 * number + 3)) for number in range(2, 8)]
EXAM = ("What is 90 + 93?", "183")


def tagged(text: str) -> str:
    return f"Here it is.\n<problem>{text}</problem>"


def reworded(text: str) -> str:
    """Another wording of one of SUMS."""
    numbers = text.removeprefix("What is ").removesuffix("?").split(" + ")
    return "Add up {} and {}, please.".format(*numbers)


def canned() -> dict[str, list[str]]:
    """A rewording of each of SUMS."""
    return {text: [tagged(reworded(text))] for text, _ in SUMS}


def desk(
    folder: Path,
    wishes: list[dict[str, Any]],
    answers: dict[str, list[str]],
    rows: list[tuple[str, str]] = SUMS,
    teacher: dict[str, Any] | None = None,
    **values: Any,
) -> tuple[Config, DeskInputs]:
    """Seed's config and inputs in a folder: a file of rows and one held-out question; `values` are the source's."""
    folder.mkdir(exist_ok=True)
    for name, some in (("own", rows), ("exam", [EXAM])):
        lines = [json.dumps({"text": text, "answer": answer}) + "\n" for text, answer in some]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    path = folder / "canned.jsonl"
    path.write_text("".join(json.dumps({"text": text, "completions": said}) + "\n" for text, said in answers.items()))
    sources = [
        {"kind": "file", "path": "own.jsonl", **values},
        {"kind": "file", "path": "exam.jsonl", "split": "eval"},
    ]
    asked = Teacher(model="canned.jsonl", engine="replay", **(teacher or {}))
    inputs = DeskInputs(folder, teacher=asked, student=Student(model="any"), models={"teacher": path})
    return Config.model_validate({"sources": sources, "augment": wishes}), inputs


def run(
    folder: Path,
    wishes: list[dict[str, Any]],
    answers: dict[str, list[str]],
    rows: list[tuple[str, str]] = SUMS,
    output: DeskOutput | None = None,
    **values: Any,
) -> DeskOutput:
    """Run seed on `desk`'s config and inputs."""
    config, inputs = desk(folder, wishes, answers, rows, **values)
    output = output or DeskOutput(folder)
    STAGE.run(config, inputs, output)
    return output


def billed(
    folder: Path, wishes: list[dict[str, Any]], rows: list[tuple[str, str]] = SUMS, **teacher: Any
) -> tuple[int, int, int, int, int | None]:
    """What the bill says: wanted, reused, missing, dropped, tokens. Whoever asks for an answer gets none."""
    config, inputs = desk(folder, wishes, {}, rows, teacher)
    assert STAGE.bill is not None
    bill = STAGE.bill(config, inputs, DeskOutput(folder))
    return bill.wanted, bill.reused, bill.missing, bill.dropped, bill.tokens


def variants(output: DeskOutput) -> list[dict[str, Any]]:
    return [row for row in output.rows("problems") if row["parent_id"] is not None]


def originals(output: DeskOutput) -> list[dict[str, Any]]:
    return [row for row in output.rows("problems") if row["parent_id"] is None]


def reasons(output: DeskOutput) -> Counter[str]:
    return Counter(row["reason"] for row in output.rows("rejects"))


def test_a_paraphrase_keeps_all_but_the_words_and_names_its_parent(tmp_path: Path) -> None:
    output = run(tmp_path, [PARAPHRASE], canned(), defaults={"domain": "sums", "license": "CC0-1.0"})
    assert [table.schema for table in output.tables["problems"]] == [PROBLEM]
    assert {row["augmentation"] for row in originals(output)} == {None}
    parents = {row["id"]: row for row in originals(output) if row["split"] == "train"}
    assert {row["parent_id"] for row in variants(output)} == parents.keys()
    for row in variants(output):
        parent = parents[row["parent_id"]]
        text = reworded(parent["text"])
        assert row == {
            **parent,
            "id": content_id("problem", text),
            "text": text,
            "parent_id": parent["id"],
            "augmentation": "paraphrase",
        }
    assert output.facts["augment"] == [
        {"kind": "paraphrase", "parents": 6, "asked": 6, "accepted": 6, "unverifiable": 0}
    ]
    assert output.facts["sources"][0]["accepted"] == {"train": 6}, "a source is not credited with variants"
    assert reasons(output) == {}


def test_a_back_translation_is_what_came_back(tmp_path: Path) -> None:
    answers = {}
    for text, _ in SUMS:
        answers[text] = [tagged(f"Version 1: {text}"), tagged(f"Version 2: {text}")]
        answers[f"Version 1: {text}"] = [tagged(reworded(text))]
        answers[f"Version 2: {text}"] = [tagged(f"Please! {reworded(text)}")]
    output = run(tmp_path, [{**BACK, "samples": 2}], answers)
    found = {row["text"]: row["answer"] for row in variants(output)}
    assert found == {form.format(reworded(text)): answer for text, answer in SUMS for form in ("{}", "Please! {}")}
    assert {row["augmentation"] for row in variants(output)} == {"back_translation"}
    assert {name: facts["bought"] for name, facts in output.facts["generation"].items()} == {
        "rewritings": 12,
        "second steps": 12,
    }


def harder(text: str, *votes: str) -> dict[str, list[str]]:
    """Answers that make a harder problem of the first of SUMS, and attempts at it."""
    return {SUMS[0][0]: [tagged(text)], text: [f"Well.\nThe answer is \\boxed{{{vote}}}." for vote in votes]}


HARD = "What is half of 2 + 5, and then half of that?"


def test_a_harder_problem_gets_the_answer_that_most_attempts_agree_on(tmp_path: Path) -> None:
    output = run(tmp_path, [HARDER], harder(HARD, "1.75", "7/4", "3", "1.75", "2"), SUMS[:1])
    (row,) = variants(output)
    assert (row["text"], row["answer"], row["verifier"], row["split"]) == (HARD, "1.75", "math", "train")
    assert json.loads(row["verifier_data"]) == {"pseudo_gold": {"agreeing": 3, "votes": 5}}
    assert row["parent_id"] == content_id("problem", SUMS[0][0])
    assert row["augmentation"] == "harder"


@pytest.mark.parametrize(
    "votes",
    [
        ("1.75", "7/4", "3", "4", "2"),
        ("1.75", "1.75", "1.75}" + " and so on" * 60 + "{", "no", "3"),  # the third attempt is cut off
    ],
)
def test_a_harder_problem_without_a_majority_is_nobodys_to_verify(tmp_path: Path, votes: tuple[str, ...]) -> None:
    wish = {**HARDER, "vote_max_tokens": 40}
    output = run(tmp_path / "kept", [wish], harder(HARD, *votes), SUMS[:1])
    (row,) = variants(output)
    assert (row["text"], row["answer"], row["verifier"]) == (HARD, "", "unverifiable")
    assert json.loads(row["verifier_data"]) == {"agreeing": 2, "votes": 5}
    assert output.facts["augment"][0]["unverifiable"] == 1
    wish["without_majority"] = "reject"
    refused = run(tmp_path / "refused", [wish], harder(HARD, *votes), SUMS[:1])
    assert variants(refused) == []
    (reject,) = refused.rows("rejects")
    assert (reject["text"], reject["reason"]) == (HARD, "no_majority")
    assert reject["detail"].endswith("2 of 5 attempts agree")


def test_an_attempt_that_thinks_votes_with_what_follows(tmp_path: Path) -> None:
    answers = harder(HARD, "1.75")
    answers[HARD] = ["<think>\\boxed{1}</think>\\boxed{1.75}", "<think>\\boxed{1}", "\\boxed{1}"]
    wish = {**HARDER, "votes": 3, "without_majority": "reject"}
    output = run(tmp_path / "thinking", [wish], answers, SUMS[:1], teacher={"thinking": True})
    assert [row["detail"].rpartition("; ")[2] for row in output.rows("rejects")] == ["1 of 3 attempts agree"]


TALE = (
    "A train with 8 cars leaves the old station by the river at noon, goes over a bridge and through 2 woods, and "
    "stops at every one of the small towns on its way to the sea. How many cars are there in all?"
)


@pytest.mark.parametrize(
    ("said", "reason", "detail"),
    [
        ("Why not leave it as it is?", "variant_missing", ""),
        ("<problem> </problem>", "variant_missing", ""),
        (tagged(TALE.upper()), "same_text", ""),
        (tagged("A train has 8 cars and goes through 2 woods. Why are there 8 cars?"), "answer_leaked", "it says '8'"),
        (tagged("A train of 9 cars goes through 2 woods. How many cars?"), "numbers_changed", "lost: 8; new: 9"),
        (tagged(TALE.replace("in all", "together")), "near_duplicate", "Jaccard"),
        (tagged("What is 2 + 8?"), "held_out_match", "eval problem"),
        (tagged("What is 8 + 2 ?"), "held_out_match", "eval problem"),
        (tagged("A train goes past 8 and past 2. " + "On it goes. " * 200), "truncated", ""),
    ],
)
def test_a_variant_is_refused_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, reason: str, detail: str
) -> None:
    monkeypatch.setattr("tests.stages.test_seed_augment.EXAM", ("What is 2 + 8?", "10"))
    output = run(tmp_path, [{**PARAPHRASE, "max_tokens": 200}], {TALE: [said]}, [(TALE, "8")])
    assert variants(output) == []
    (row,) = output.rows("rejects")
    assert (row["reason"], row["split"], row["source"]) == (reason, "train", "own.jsonl")
    assert row["detail"].startswith(f"augment.0 (paraphrase) of problem {content_id('problem', TALE)}, sample 0")
    assert detail in row["detail"]
    assert output.counts == {reason: 1}
    assert len(originals(output)) == 2
    assert [table.schema for table in output.tables["rejects"]] == [REJECT]


def test_a_variant_that_holds_a_held_out_question_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.stages.test_seed_augment.EXAM", ("Name the capital of France.", "Paris"))
    row = ("Which city is it where the French parliament sits?", "Paris")
    output = run(tmp_path, [PARAPHRASE], {row[0]: [tagged("Please name the capital of France for me.")]}, [row])
    assert variants(output) == []
    assert reasons(output) == {"near_held_out": 1}


def test_a_variant_that_became_an_exercise_of_another_task_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.stages.test_seed_augment.EXAM", ("What is 2 + 8?", "10"))
    answers = {TALE: [tagged("What is 8 + 2 ?")]}
    output = run(tmp_path, [PARAPHRASE], answers, [(TALE, "8")], defaults={"task": "gcd"})
    assert reasons(output) == {"held_out_match": 1}


def test_a_choice_is_rewritten_only_where_its_options_are_known(tmp_path: Path) -> None:
    text = "Which is a bird? A) cat B) owl"
    answers = {text: [tagged("Name the bird. A) cat B) owl")]}
    path = tmp_path / "letters"
    letters = run(path, [PARAPHRASE], answers, [(text, "B")], defaults={"verifier": "choice"})
    assert letters.facts["augment"][0]["parents"] == 0
    assert variants(letters) == []


def test_a_failed_answer_is_refused_with_its_cause(tmp_path: Path) -> None:
    rows = [(f"What is {number} + 70?", str(number + 70)) for number in range(20)]
    answers = {text: [tagged(reworded(text))] for text, _ in rows[1:]}
    output = run(tmp_path, [PARAPHRASE], answers, rows)
    assert len(variants(output)) == 19
    (row,) = output.rows("rejects")
    assert row["reason"] == "generation_error"
    assert row["detail"].endswith("no canned answer")


def test_too_many_failed_answers_fail_the_stage(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 of 6 completions failed"):
        run(tmp_path, [PARAPHRASE], {text: said for text, said in canned().items() if text != SUMS[0][0]})


def test_no_variant_takes_an_originals_place(tmp_path: Path) -> None:
    rows = [*SUMS[:2], ("Add up 2 and 5, please.", "7"), ("Add up 3 and 6, please.", "10")]
    answers = canned() | {text: [tagged(f"{text} Do it.")] for text, _ in rows[2:]}
    output = run(tmp_path, [PARAPHRASE], answers, rows)
    assert {row["text"] for row in originals(output)} == {EXAM[0], *(text for text, _ in rows)}
    assert reasons(output) == {"duplicate": 1, "conflicting_answer": 1}
    assert {row["text"] for row in variants(output)} == {f"{text} Do it." for text, _ in rows[2:]}


def test_of_equal_variants_one_stays_and_of_contradicting_ones_none(tmp_path: Path) -> None:
    twins = run(tmp_path / "twins", [{**PARAPHRASE, "samples": 3}], canned())
    assert len(variants(twins)) == 6
    assert reasons(twins) == {"duplicate": 12}
    rows = [("Is 7 or 9 a prime?", "7"), ("Is 9 or 7 a square?", "9")]
    answers = {text: [tagged("Which is it, 7 or 9?")] for text, _ in rows}
    apart = run(tmp_path / "apart", [{**HARDER, "votes": 1}], answers | {"Which is it, 7 or 9?": ["\\boxed{7}"]}, rows)
    assert len(variants(apart)) == 1, "both have the answer that the teacher gives"
    assert reasons(apart) == {"duplicate": 1}


def test_paraphrases_that_became_one_text_with_two_answers_go(tmp_path: Path) -> None:
    rows = [("Of 7 and 9, name the prime.", "seven"), ("Of 9 and 7, name the square.", "nine")]
    answers = {text: [tagged("Which is it, 7 or 9?")] for text, _ in rows}
    output = run(tmp_path, [PARAPHRASE], answers, rows, defaults={"verifier": "exact"})
    assert variants(output) == []
    assert reasons(output) == {"conflicting_answer": 2}


def test_held_out_problems_are_never_rewritten(tmp_path: Path) -> None:
    output = run(tmp_path, [PARAPHRASE], canned() | {EXAM[0]: [tagged(reworded(EXAM[0]))]})
    assert output.facts["generation"]["rewritings"]["wanted"] == len(SUMS)
    assert {row["split"] for row in variants(output)} == {"train"}


def test_adding_problems_changes_nothing_about_which_are_rewritten(tmp_path: Path) -> None:
    rows = [(f"What is {number} + 70?", str(number + 70)) for number in range(100)]
    answers = {text: [tagged(reworded(text))] for text, _ in rows}
    wish = {**PARAPHRASE, "share": 0.3}
    few = {row["parent_id"] for row in variants(run(tmp_path / "few", [wish], answers, rows[:50]))}
    many = {row["parent_id"] for row in variants(run(tmp_path / "many", [wish], answers, rows))}
    assert few < many
    assert 15 <= len(many) <= 45
    first = {content_id("problem", text) for text, _ in rows[:50]}
    assert many & first == few
    other = run(tmp_path / "other", [{**wish, "seed": 1}], answers, rows)
    assert {row["parent_id"] for row in variants(other)} != many


def test_the_order_of_rows_decides_nothing(tmp_path: Path) -> None:
    answers = canned()
    answers[SUMS[1][0]] = answers[SUMS[0][0]] = [tagged("Add up the two numbers from 2 to 6 and 3 to 5.")]
    wishes = [{**HARDER, "votes": 1}, PARAPHRASE]
    answers["Add up the two numbers from 2 to 6 and 3 to 5."] = ["\\boxed{8}"]
    answers |= {reworded(text): [f"\\boxed{{{answer}}}"] for text, answer in SUMS}
    forth = run(tmp_path / "forth", wishes, answers)
    back = run(tmp_path / "back", wishes, answers, SUMS[::-1])
    assert len(variants(forth)) == 5
    for dataset in ("problems", "rejects"):
        rows = [sorted(output.rows(dataset), key=lambda row: str(row["id"])) for output in (forth, back)]
        assert rows[0] == rows[1]


class Interrupted(DeskOutput):
    """An Output that a person interrupts after some answers."""

    def progress(self, moment: Progress) -> None:
        if (moment.unit, moment.done) == ("second steps", 4):
            raise KeyboardInterrupt


def test_what_was_asked_before_a_kill_is_not_asked_again(tmp_path: Path) -> None:
    wish = {**HARDER, "votes": 3}
    answers = canned() | {reworded(text): [f"\\boxed{{{answer}}}"] for text, answer in SUMS}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, [wish], answers, output=Interrupted(tmp_path))
    output = run(tmp_path, [wish], answers)
    figures = output.facts["generation"]
    assert [(facts["wanted"], facts["reused"]) for facts in figures.values()] == [(6, 6), (18, 4)]
    assert variants(output) == variants(run(tmp_path / "unbroken", [wish], answers))
    again = run(tmp_path, [wish], answers)
    assert [facts["bought"] for facts in again.facts["generation"].values()] == [0, 0]
    assert again.rows("problems") == output.rows("problems")


def test_the_bill_counts_what_is_reused_missing_and_dropped(tmp_path: Path) -> None:
    wish = {**HARDER, "votes": 3}
    answers = canned() | {reworded(text): [f"\\boxed{{{answer}}}"] for text, answer in SUMS}
    assert billed(tmp_path, [wish]) == (6 + 18, 0, 24, 0, None)
    run(tmp_path, [wish], answers)
    assert billed(tmp_path, [wish]) == (24, 24, 0, 0, 0)
    assert billed(tmp_path, [{**wish, "votes": 4}])[:4] == (30, 24, 6, 0)
    assert billed(tmp_path, [{**wish, "samples": 2}])[:4] == (12 + 18 + 18, 24, 6 + 18, 0), "at most 18 new attempts"
    assert billed(tmp_path, [wish], SUMS[:2])[:4] == (8, 8, 0, 16)
    assert billed(tmp_path, [{**wish, "vote_sampling": {"temperature": 0.9}}])[:4] == (24, 6, 18, 18)
    *counts, tokens = billed(tmp_path, [wish], dtype="float16")
    assert counts == [24, 0, 24, 24]
    assert tokens
    assert billed(tmp_path, []) == (0, 0, 0, 0, 0)


def test_the_bill_of_a_translation_counts_the_way_back(tmp_path: Path) -> None:
    answers = {text: [tagged(f"Version: {text}")] for text, _ in SUMS}
    answers |= {f"Version: {text}": [tagged(reworded(text))] for text, _ in SUMS}
    assert billed(tmp_path, [BACK, PARAPHRASE]) == (6 + 6 + 6, 0, 18, 0, None)
    run(tmp_path, [BACK], answers)
    assert billed(tmp_path, [BACK, PARAPHRASE])[:4] == (18, 12, 6, 0)
    assert billed(tmp_path, [PARAPHRASE])[:4] == (6, 0, 6, 12)


def test_the_bill_knows_what_a_killed_run_had_bought(tmp_path: Path) -> None:
    wish = {**HARDER, "votes": 3}
    answers = canned() | {reworded(text): [f"\\boxed{{{answer}}}"] for text, answer in SUMS}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, [wish], answers, output=Interrupted(tmp_path))
    assert billed(tmp_path, [wish])[:4] == (24, 10, 14, 0)
    assert billed(tmp_path, [wish], dtype="float16")[:4] == (24, 0, 24, 10)


def test_the_teacher_is_asked_with_the_templates_and_without_its_system_message(tmp_path: Path) -> None:
    from pipeline.store import Store

    answers = {text: [tagged(f"En français : {text}")] for text, _ in SUMS}
    answers |= {f"En français : {text}": [tagged(reworded(text))] for text, _ in SUMS}
    run(tmp_path, [{**BACK, "language": "Swedish"}], answers, teacher={"system": "solve", "prompt": "solve"})
    store = Store(tmp_path / "store", "weights-of-teacher")
    asked = [json.loads(row["prompt"]) for row in store.rows(store.ids())]
    assert len(asked) == 12
    assert all(len(messages) == 1 for messages in asked)
    starts = Counter(messages[0]["content"].partition(".")[0] for messages in asked)
    assert starts == {
        "Translate the problem below into Swedish": 6,
        "Translate the problem below from Swedish into English": 6,
    }


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ({"kind": "rephrase"}, "'paraphrase', 'back_translation', 'harder'"),
        ({**HARDER, "agreement_share": 0.5}, "greater than 0.5"),
        ({**PARAPHRASE, "votes": 3}, "votes"),
        ({**PARAPHRASE, "share": 0}, "greater than 0"),
    ],
)
def test_a_wish_that_cannot_be_is_refused(wish: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Config.model_validate({"sources": [{"kind": "file", "path": "own.jsonl"}], "augment": [wish]})
