"""Who is asked what, that nothing is asked twice, and what the figures say of canned answers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import stages.eval
from pipeline import engines, orders
from pipeline.engines.replay import Replay
from pipeline.manifest import Artifact, File, Manifest
from pipeline.opinions import DECOYS, Question
from pipeline.records import PROBLEM, SCORE
from pipeline.roles import Judge, Student, Teacher
from pipeline.shards import as_table
from pipeline.stage import StageError
from pipeline.verifiers.pool import Pool
from stages.eval import AS_TEACHER, STAGE, Config, _speed, base_roles, run
from tests import synthetic
from tests.desk import DeskInputs, DeskOutput

OPEN, CLOSE = "<th" + "ink>", "</th" + "ink>"
# Answers by model folder and question: question i is answered rightly where the pattern has a 1; - gives no answer,
# ~ a wrong one first, then the right one in two spellings.
PATTERNS = {"teacher": "11111110", "base": "1000000-", "checkpoint": "11110000"}


def problem(number: int, split: str = "eval") -> dict[str, Any]:
    return {
        "id": f"{number:032x}",
        "text": f"What is {number} + 1?",
        "answer": str(number + 1),
        "domain": "arithmetic",
        "task": "even" if number % 2 == 0 else "odd",
        "verifier": "exact",
        "verifier_data": "{}",
        "source": "made up",
        "license": "Apache-2.0",
        "split": split,
    }


class Bench(DeskInputs):
    """Inputs whose prompt templates are made up."""

    def prompt(self, name: str) -> str:
        return f"[{name}] {{problem}}"


class Fake:
    """Starts engines that answer from PATTERNS, and counts what they were asked."""

    def __init__(self, patterns: dict[str, str]) -> None:
        self.patterns = patterns
        self.asked: list[tuple[str, str, int]] = []  # folder, user message, sample
        self.started: list[str] = []

    def start(self, role: Any, model: Path | None, seed: int, log: Path | None = None) -> Any:
        assert model is not None
        self.started.append(model.name)
        return Canned(self, model.name)


class Canned(Replay):
    def __init__(self, fake: Fake, name: str) -> None:
        super().__init__({})
        self.fake, self.name = fake, name

    def stream(self, requests: Any) -> Iterator[Any]:
        for request in requests:
            self.fake.asked.append((self.name, request.messages[-1]["content"], request.sample))
            number = int(request.problem_text.split()[2])
            mark = self.fake.patterns[self.name][number]
            right = mark == "1" or (mark == "x" and "[examples]" in request.messages[-1]["content"])
            answer = str(number + 1 if right else 0)
            if mark == "~":  # one wrong answer, then the right one written in two ways
                answer = ("0", f"{number + 1}.0", f"{2 * number + 2}/2")[request.sample]
            text = "I do not know" if mark == "-" else f"The answer is {answer}"
            if mark in "pu":  # right without a tag, and in reasoning that was not closed
                text = f"{OPEN if mark == 'u' else ''}The answer is {number + 1}"
            elif self.name not in ("teacher", "base"):
                text = f"{OPEN}\nThe answer is 77\n{CLOSE}\n\n{text}"
            self._answers = {request.problem_text: [text]}
            yield self._answer(request)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    made = Fake(dict(PATTERNS))
    monkeypatch.setattr(engines, "start", made.start)
    monkeypatch.setattr(orders, "open_tokenizer", lambda role, model, texts: None)
    return made


def inputs(tmp_path: Path, verifier: str = "exact", **student: Any) -> Bench:
    mix = synthetic.manifest("mix").model_copy(
        update={"identity": synthetic.manifest("mix").identity.model_copy(update={"config": {"trace_format": "think"}})}
    )
    manifests: dict[str, Manifest] = {"mix": mix, "checkpoint": synthetic.manifest("sft")}
    for name in PATTERNS:
        (tmp_path / name).mkdir(exist_ok=True)
    asked = [*map(problem, range(8)), problem(8, "train")]
    return Bench(
        tmp_path,
        tables={"problems": as_table([row | {"verifier": verifier} for row in asked], PROBLEM)},
        teacher=Teacher(model="big", engine="vllm"),
        student=Student(**{"model": "small", "engine": "vllm", **student}),
        folders={"checkpoint": tmp_path / "checkpoint"},
        models={"teacher": tmp_path / "teacher", "student": tmp_path / "base"},
        manifests=manifests,
    )


def test_all_models_answer_the_same_held_out_questions(tmp_path: Path, fake: Fake) -> None:
    output = DeskOutput(tmp_path)
    run(Config(exec={"workers": 1}), inputs(tmp_path), output)
    rows = output.rows("scores")
    assert len(rows) == len({row["id"] for row in rows}) == 24
    assert set(rows[0]) == set(SCORE.names)
    assert {row["split"] for row in rows} == {"eval"}
    for model, folder in (("teacher", "teacher"), ("base", "base"), ("student", "checkpoint")):
        right = {int(row["problem_id"], 16) for row in rows if row["model"] == model and row["outcome"] == "pass"}
        assert right == {place for place, mark in enumerate(PATTERNS[folder]) if mark == "1"}, model
    assert output.counts["student_pass"] == 4


def test_the_facts_are_what_the_answers_say(tmp_path: Path, fake: Fake) -> None:
    output = DeskOutput(tmp_path)
    run(Config(exec={"workers": 1}), inputs(tmp_path), output)
    facts = json.loads(json.dumps(output.facts))
    assert {name: row["pass_at_1"] for name, row in facts["models"].items()} == {
        "teacher": 7 / 8,
        "base": 1 / 8,
        "student": 4 / 8,
    }
    assert facts["paired"]["student_minus_base"]["difference"] == 3 / 8
    assert facts["gap_recovered"]["value"] == pytest.approx(3 / 6)
    assert facts["models"]["base"]["no_answer_share"] == 1 / 8
    assert facts["models"]["student"]["weights"] == "digest-of-checkpoint"
    assert facts["models"]["student"]["tasks"]["even"]["pass_at_1"] == 2 / 4
    assert facts["questions"] == 8


@pytest.mark.parametrize(
    ("trace_format", "thinking", "right"),
    [("think", [False], 4), ("plain", [True, True], 4), ("plain", [True, False], 6), ("plain", [False], 8)],
)
def test_what_stands_in_a_students_tags_is_no_answer_where_its_teachers_wrote_them(
    tmp_path: Path, fake: Fake, trace_format: str, thinking: list[bool], right: int
) -> None:
    fake.patterns["checkpoint"] = "u1p1u1p1"
    asked, output = inputs(tmp_path), DeskOutput(tmp_path)
    roles = {f"teacher-{place}": {"thinking": thinks} for place, thinks in enumerate(thinking)}
    config = {"config": {"trace_format": trace_format}, "roles": {"student": {"prompt": "question"}, **roles}}
    mix = asked._manifests["mix"]
    asked._manifests["mix"] = mix.model_copy(update={"identity": mix.identity.model_copy(update=config)})
    run(Config(exec={"workers": 1}), asked, output)
    assert output.facts["models"]["student"]["pass_at_1"] == right / 8


@pytest.mark.parametrize(("bought", "reused", "told"), [(288, 0, 5.0), (288, 14, 5.0), (280, 15, None), (0, 9, None)])
def test_a_speed_is_told_where_nearly_all_answers_were_made_now(bought: int, reused: int, told: float | None) -> None:
    assert _speed({"bought": bought, "reused": reused, "tokens_per_s": 5.0}) == told


def test_the_better_base_prompt_counts_and_both_are_reported(tmp_path: Path, fake: Fake) -> None:
    fake.patterns["base"] = "1x0x0000"
    output = DeskOutput(tmp_path)
    run(Config(base_prompts=("examples", "question"), exec={"workers": 1}), inputs(tmp_path), output)
    facts = output.facts
    assert {name: row["pass_at_1"] for name, row in facts["base_prompts"].items()} == {
        "question": 1 / 8,
        "examples": 3 / 8,
    }
    assert facts["base_prompt"] == facts["models"]["base"]["prompt"] == "examples"
    assert facts["paired"]["student_minus_base"]["difference"] == pytest.approx(1 / 8)
    assert {prompt.split("]")[0] for name, prompt, _ in fake.asked if name == "checkpoint"} == {"[question"}


def test_a_classification_is_told_class_by_class(tmp_path: Path, fake: Fake) -> None:
    given = inputs(tmp_path)
    rows = [
        {**problem(number), "verifier": "label", "verifier_data": json.dumps({"synonyms": {"right": [number + 1]}})}
        | {"answer": "right"}
        for number in range(8)
    ]
    given._tables["problems"] = as_table(rows, PROBLEM)
    output = DeskOutput(tmp_path)
    run(Config(exec={"workers": 1}), given, output)
    student = output.facts["models"]["student"]
    assert student["classes"] == {"right": {"answers": 8, "precision": 1.0, "recall": 0.5, "f1": 2 * 4 / (8 + 4)}}
    assert student["macro_f1"] == student["classes"]["right"]["f1"]
    assert any("right (8 answers): precision 1.000, recall 0.500, F1 0.667" in line for line in output.lines)


def test_without_labels_a_wrong_class_is_a_false_alarm_of_another(tmp_path: Path, fake: Fake) -> None:
    given = inputs(tmp_path)
    rows = [{**problem(number), "task": "one", "verifier": "label"} for number in range(8)]
    for row in rows[6:]:
        row["answer"] = "0"  # what each model says wherever it is wrong
    given._tables["problems"] = as_table(rows, PROBLEM)
    output = DeskOutput(tmp_path)
    run(Config(exec={"workers": 1}), given, output)
    found = output.facts["models"]["student"]["classes"]["0"]
    assert found == {"answers": 2, "precision": 2 / 4, "recall": 1.0, "f1": 2 * 2 / (4 + 2)}


def test_nothing_is_asked_twice(tmp_path: Path, fake: Fake) -> None:
    run(Config(exec={"workers": 1}), inputs(tmp_path), DeskOutput(tmp_path))
    assert len(fake.asked) == 24
    again = DeskOutput(tmp_path)
    run(Config(exec={"workers": 1}), inputs(tmp_path), again)
    assert (len(fake.asked), len(fake.started)) == (24, 3)
    assert again.facts["models"]["student"]["pass_at_1"] == 4 / 8

    other = inputs(tmp_path)
    sft = other.manifest("checkpoint")
    artifact = sft.artifacts["checkpoint"].model_copy(update={"fingerprint": "digest-of-another"})
    other._manifests["checkpoint"] = sft.model_copy(update={"artifacts": {"checkpoint": artifact}})
    run(Config(exec={"workers": 1}), other, DeskOutput(tmp_path))
    assert fake.started[3:] == ["checkpoint"]

    run(Config(samples=2, exec={"workers": 1}), other, DeskOutput(tmp_path))
    assert {sample for _, _, sample in fake.asked[32:]} == {1}
    assert len(fake.asked) == 32 + 24


def test_all_models_are_judged_in_one_pool(tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[Any, ...]] = []

    class Counted(Pool):
        def __init__(self, *limits: Any) -> None:
            opened.append(limits)
            super().__init__(*limits)

    monkeypatch.setattr(stages.eval, "Pool", Counted)
    run(Config(exec={"workers": 1}, timeout_s=7, memory_mib=512), inputs(tmp_path), DeskOutput(tmp_path))
    assert opened == [(1, 7.0, 512)]


def test_several_samples_give_consensus_and_pass_at_k(tmp_path: Path, fake: Fake) -> None:
    output = DeskOutput(tmp_path)
    run(Config(samples=3, exec={"workers": 1}), inputs(tmp_path), output)
    student = output.facts["models"]["student"]
    assert student["answers"] == 24
    assert student["cons_at_k"] == {"3": 0.5}
    assert student["pass_at_k"] == {"3": 0.5}


@pytest.mark.parametrize(("verifier", "agreed"), [("math", 0.5), ("exact", 0.0)])
def test_answers_that_math_takes_for_one_are_one_vote(tmp_path: Path, fake: Fake, verifier: str, agreed: float) -> None:
    fake.patterns["checkpoint"] = "~~~~0000"
    output = DeskOutput(tmp_path)
    run(Config(samples=3, exec={"workers": 1}), inputs(tmp_path, verifier), output)
    assert output.facts["models"]["student"]["cons_at_k"] == {"3": agreed}


def test_exports_with_fewer_bits_are_examined_beside_the_student(tmp_path: Path, fake: Fake) -> None:
    fake.patterns |= {"int8": "11100000", "int4": "1000000-"}
    asked = inputs(tmp_path)
    files = []
    for form, size in (("bfloat16", 9), ("int8", 5), ("int4", 3)):
        (tmp_path / "models" / form).mkdir(parents=True)
        (tmp_path / "models" / form / "model.safetensors").write_bytes(b"x" * size)
        files.append(File(path=f"models/{form}/model.safetensors", bytes=size, sha256=form))
    (tmp_path / "checkpoint" / "model.safetensors").write_bytes(b"x" * 9)
    export = synthetic.manifest("export")
    identity = export.identity.model_copy(update={"config": {"weights": ["bfloat16", "int8", "int4"]}})
    artifacts = {"models": Artifact(files=files, fingerprint="all")}
    asked._manifests["exports"] = export.model_copy(update={"identity": identity, "artifacts": artifacts})
    asked._folders["exports"] = tmp_path / "models"
    output = DeskOutput(tmp_path)
    run(Config(exec={"workers": 1}), asked, output)
    facts = json.loads(json.dumps(output.facts))
    assert [(row["model"], row["weight_bytes"], row["pass_at_1"]) for row in facts["exports"]] == [
        ("student", 9, 4 / 8),
        ("student_int8", 5, 3 / 8),
        ("student_int4", 3, 1 / 8),
    ]
    assert facts["exports"][1]["difference"]["difference"] == pytest.approx(-1 / 8)
    assert all(row["tokens_per_s"] > 0 for row in facts["exports"])
    assert facts["models"]["student_int8"]["pass_at_1"] == 3 / 8

    artifacts = {"models": Artifact(files=files[:2], fingerprint="fewer")}
    identity = identity.model_copy(update={"config": {"weights": ["bfloat16", "int8"]}})
    asked._manifests["exports"] = export.model_copy(update={"identity": identity, "artifacts": artifacts})
    count = len(fake.asked)
    again = DeskOutput(tmp_path)
    run(Config(exec={"workers": 1}), asked, again)
    assert len(fake.asked) == count, "a format that is gone asks nothing of the others"
    assert [row["tokens_per_s"] for row in again.facts["exports"]] == [None, None]


def test_free_answers_of_all_models_are_put_to_the_judge_model_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    question, gold = "When?", "Westphalia, 1648"
    said = {
        "teacher": "Answer: in Westphalia 1648",
        "base": "Answer: in Osnabrück",
        "checkpoint": f"{OPEN}\nHm.\n{CLOSE}\n\nAnswer: Westphalia 1648",
    }
    opinions = {"in Westphalia 1648": "SAME", "Westphalia 1648": "SAME", "in Osnabrück": "DIFFERENT"}
    opinions |= dict.fromkeys(DECOYS, "DIFFERENT")
    answers = {name: {question: [text]} for name, text in said.items()}
    answers["judge"] = {
        text: [f"VERDICT: {opinion}"]
        for given, opinion in opinions.items()
        for text in Question(question, gold, given).orders
    }
    started = []

    def start(role: Any, model: Path, seed: int, log: Path | None = None) -> Replay:
        started.append(model.name)
        return Replay(answers[model.name])

    monkeypatch.setattr(engines, "start", start)
    monkeypatch.setattr(orders, "open_tokenizer", lambda role, model, texts: None)
    asked = inputs(tmp_path)
    row = {**problem(0), "text": question, "answer": gold, "verifier": "judge"}
    asked._tables["problems"] = as_table([row], PROBLEM)
    output = DeskOutput(tmp_path)
    asked.judge, asked._models["judge"] = Judge(model="judge", engine="vllm"), tmp_path / "judge"
    run(Config(exec={"workers": 1}), asked, output)
    assert {row["model"]: row["outcome"] for row in output.rows("scores")} == {
        "teacher": "pass",
        "base": "fail",
        "student": "pass",
    }
    assert started == ["teacher", "base", "checkpoint", "judge"]
    assert output.facts["opinions"]["bought"] == 2 * len(opinions)
    assert output.counts == {"teacher_pass": 1, "base_fail": 1, "student_pass": 1}


def test_an_empty_block_is_an_error_that_names_the_others(tmp_path: Path, fake: Fake) -> None:
    with pytest.raises(StageError, match=r"block 'dev'.*eval, train"):
        run(Config(split="dev"), inputs(tmp_path), DeskOutput(tmp_path))


def test_a_checkpoint_is_not_asked_of_a_server(tmp_path: Path, fake: Fake) -> None:
    with pytest.raises(StageError, match="student_engine"):
        run(Config(), inputs(tmp_path, engine="openai"), DeskOutput(tmp_path))
    output = DeskOutput(tmp_path)
    run(Config(student_engine="hf", exec={"workers": 1}), inputs(tmp_path, engine="openai"), output)
    assert output.facts["models"]["student"]["engine"] == "hf"


def test_every_prompt_that_is_used_is_declared() -> None:
    config = Config(base_prompts=("examples", "question"))
    teacher = Teacher(model="big", prompt="teach", task_prompts={"gcd": "gcd"}, chat_template="big")
    student = Student(model="small", system="short")
    assert STAGE.prompts(config, {"teacher": teacher, "student": student}) == (
        "teach",
        "gcd",
        "chat/big",
        "question",
        "short",
        "examples",
    )
    assert list(base_roles(config, student, teacher)) == ["question", "examples"]


def test_the_untouched_student_can_be_asked_just_as_the_teacher_is() -> None:
    teacher = Teacher(model="big", prompt="teach", task_prompts={"gcd": "gcd"}, system="brief")
    student = Student(model="small", prompt="short", chat_template="own")
    asked = base_roles(Config(base_prompts=(AS_TEACHER,)), student, teacher)
    assert asked["short"] == student
    role = asked[AS_TEACHER]
    assert (role.prompt, role.task_prompts, role.system) == ("teach", {"gcd": "gcd"}, "brief")
    assert (role.model, role.chat_template) == ("small", "own")


def test_questions_that_cannot_be_judged_here_are_refused_before_a_model_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.verifiers.code.lacking", lambda: "no sandbox here. Install it")
    monkeypatch.setattr(engines, "start", None)
    asked = inputs(tmp_path)
    asked._tables["problems"] = as_table([{**problem(0), "verifier": "code"}], PROBLEM)
    with pytest.raises(StageError, match=r"cannot be judged on this machine: no sandbox here\. Install it"):
        run(Config(exec={"workers": 1}), asked, DeskOutput(tmp_path))
