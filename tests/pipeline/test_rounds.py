"""Rounds: the last student teaches beside the teacher, dev decides, and what holds for a run holds for each of them."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline import cli, plan, recipe, serve
from pipeline.check import check
from pipeline.manifest import write_record
from pipeline.publish import publish
from pipeline.recipe import RecipeError
from pipeline.rounds import LAST_STUDENT, Rounds, standing
from pipeline.run import Run, State
from pipeline.runner import Runner, Stale, Watcher
from pipeline.shards import read_shards
from pipeline.stage import StageError
from tests import small
from tests.small import manifest, ran, run_of


@pytest.mark.parametrize(
    ("accuracies", "count", "gain", "chosen", "ended", "why"),
    [
        ([], 3, 0.0, 1, False, "0 of at most 3 rounds are scored"),
        ([0.4], 3, 0.0, 1, False, "1 of at most 3 rounds are scored"),
        ([0.4, 0.5], 3, 0.0, 2, False, "2 of at most 3 rounds are scored"),
        ([0.4, 0.5, 0.6], 3, 0.0, 3, True, "all 3 rounds were run"),
        ([0.4, 0.4], 3, 0.0, 1, True, "dev pass@1 stopped rising in round 2: 0.400 after 0.400"),
        ([0.4, 0.3, 0.9], 3, 0.0, 1, True, "dev pass@1 stopped rising in round 2: 0.300 after 0.400"),
        ([0.4, 0.41], 3, 0.02, 2, True, "dev pass@1 stopped rising in round 2: 0.410 after 0.400"),
    ],
)
def test_rounds_go_on_while_dev_accuracy_rises_and_the_best_is_chosen(
    accuracies: list[float], count: int, gain: float, chosen: int, ended: bool, why: str
) -> None:
    found = standing(Rounds(count=count, least_gain=gain), accuracies)
    assert (found.chosen, found.ended, found.why) == (chosen, ended, why)


VALUES: dict[str, Any] = {
    "teacher": {"model": "t", "engine": "replay"},
    "more_teachers": {"coder": {"model": "c", "engine": "replay"}},
    "student": {"model": "s", "engine": "hf", "prompt": "solve", "chat_template": "chatml", "dtype": "float32"},
    "seed": {"sources": [{"kind": "file", "path": "a.jsonl"}]},
}


def made(**more: Any) -> recipe.Recipe:
    return recipe.check({**VALUES, **more}, "mine", "mine.yaml")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"rounds": {"count": 2, "split": "eval"}}, "rounds.split and eval.split are both 'eval'"),
        ({"rounds": 2, "student": {"model": "s", "engine": "openai"}}, "student.engine is openai"),
        ({"rounds": 2, "generate": {"logprobs": 5}}, "generate.logprobs is 5, and student.engine is hf"),
        ({"rounds": 2, "mix": {"teacher_shares": {"t": 1.0}}}, "mix.teacher_shares has no share of last_student"),
        (
            {"rounds": 2, "student": {"model": "s", "max_model_len": 1100}, "generate": {"max_tokens": 2000}},
            "generate.max_tokens is 2000, and student.max_model_len is 1100",
        ),
        (
            {"rounds": 2, "generate": {"sampling": {"presence_penalty": 0.5}}},
            "generate.sampling, which student is asked with: engine hf has no presence_penalty",
        ),
        ({"eval": {"sampling": {"presence_penalty": 0.5}}}, "eval.sampling, which student is asked with: engine hf"),
        ({"rounds": 0}, "rounds.count"),
        ({"rounds": {"counts": 2}}, "rounds.counts: unknown key. Did you mean count?"),
        ({"more_teachers": {LAST_STUDENT: {"model": "c"}}}, "more_teachers has the name 'last_student'"),
    ],
)
def test_rounds_that_cannot_be_are_refused(more: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        made(**more)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("teachers", "trace_format", "thinks"),
    [(False, "think", True), (False, "plain", False), (True, "plain", True), (True, "answer", False)],
)
def test_the_last_student_is_asked_as_it_was_trained(teachers: bool, trace_format: str, thinks: bool) -> None:
    teacher = {**VALUES["teacher"], "thinking": teachers}
    found = made(
        rounds=2,
        mix={"trace_format": trace_format},
        teacher=teacher,
        more_teachers={"coder": {**VALUES["more_teachers"]["coder"], "thinking": teachers}},
    )
    assert LAST_STUDENT not in found.in_round(None, True).teachers
    second = found.in_round(Path("/x"), True)
    assert list(second.teachers) == ["teacher", "coder", LAST_STUDENT]
    student = second.teachers[LAST_STUDENT]
    asked = (student.engine, student.prompt, student.chat_template, student.dtype, student.thinking)
    assert asked == ("hf", "solve", "chatml", "float32", thinks)
    assert second.sections["eval"].split == "dev"  # type: ignore[attr-defined]
    assert found.in_round(Path("/x"), False).sections["eval"].split == "eval"  # type: ignore[attr-defined]


def test_without_its_teachers_a_round_hears_the_last_student_alone() -> None:
    routes = {"coder": {"share": 2.0}, LAST_STUDENT: {"share": 3.0}}
    generate = {"routes": routes, "logprobs": 5, "labelled_by": ["coder", LAST_STUDENT]}
    student = {"model": "s", "engine": "vllm"}
    weights = {"teachers": {"c": 2.0, LAST_STUDENT: 0.5}, "domains": {"code": {"c": 3.0}}}
    sft = {"objective": "soft_labels", "soft_labels": {"weights": weights}}
    found = made(rounds={"count": 2, "keep_teachers": False}, student=student, generate=generate, sft=sft)
    first, second = found.in_round(None, True), found.in_round(Path("/x"), True)
    assert list(first.teachers) == ["teacher", "coder"]
    assert list(second.teachers) == [LAST_STUDENT]
    assert second.roles["teacher"].model == "t", "eval still compares with it"
    kept = [list(one.sections["generate"].routes) for one in (first, second)]  # type: ignore[attr-defined]
    assert kept == [["coder"], [LAST_STUDENT]]
    assert [one.sections["generate"].labelled_by for one in (first, second)] == [  # type: ignore[attr-defined]
        ("coder",),
        (LAST_STUDENT,),
    ]
    heard = [one.sections["sft"].soft_labels.weights for one in (first, second)]  # type: ignore[attr-defined]
    assert [one.model_dump() for one in heard] == [
        {"teachers": {"c": 2.0}, "domains": {"code": {"c": 3.0}}},
        {"teachers": {LAST_STUDENT: 0.5}, "domains": {}},
    ]


def test_a_rounds_student_starts_from_the_base_or_from_the_last_by_recipe() -> None:
    for start, expected in (("base", None), ("last", "/x/checkpoint")):
        second = made(rounds={"count": 2, "start": start}).in_round(Path("/x/checkpoint"), True)
        assert second.sections["sft"].start == expected  # type: ignore[attr-defined]


class Stopped(Exception):
    """What stands for a kill."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of three rounds at most, which was stopped in the second one before sft."""
    folder = tmp_path_factory.mktemp("rounds")
    path = small.write_rounds(folder)
    seen: list[str] = []

    def starts(name: str, state: State) -> None:
        seen.append(name)
        if seen.count("sft") == 2:
            raise Stopped

    with pytest.raises(Stopped):
        Runner(run_of(path), Watcher(starts=starts)).through("report")
    Runner(run_of(path)).through("report")
    return folder


@pytest.fixture
def path(template: Path, tmp_path: Path) -> Path:
    """The recipe of a copy of the finished run."""
    return small.moved(template, tmp_path / "copy")


def column(run: Run, stage: str, dataset: str, name: str) -> list[Any]:
    shards = manifest(run, stage).datasets[dataset].shards
    return [value for table in read_shards(run.stage_folder(stage), shards) for value in table[name].to_pylist()]


def rescored(run: Run, accuracy: float) -> None:
    """Have a round's deciding eval say another accuracy."""
    old = manifest(run, "eval")
    models = {**old.facts["models"], "student": {**old.facts["models"]["student"], "pass_at_1": accuracy}}
    write_record(
        run.stage_folder("eval") / "manifest.json", old.model_copy(update={"facts": {**old.facts, "models": models}})
    )


def test_each_round_has_a_folder_with_its_stages_and_seed_is_shared(template: Path) -> None:
    folder = template / "data/runs/small"
    inside = {place.name: sorted(one.name for one in place.glob("[a-z]*")) for place in folder.glob("round-*")}
    assert inside == dict.fromkeys(("round-1", "round-2"), sorted(plan.ROUND))
    assert sorted(one.name for one in folder.glob("[a-qs-z]*")) == ["eval", "seed"]
    assert check(folder) == []


def test_the_last_student_teaches_under_its_checkpoints_digest_and_nothing_is_bought_twice(template: Path) -> None:
    run = run_of(template / "small.yaml")
    first, second = run.in_round(1), run.in_round(2)
    facts = [manifest(one, "generate").facts for one in (first, second)]
    assert [(one["wanted"], one["bought"]) for one in facts] == [(16, 16), (32, 16)]
    digest = manifest(first, "sft").artifacts["checkpoint"].fingerprint
    written = set(zip(*(column(second, "generate", "traces", name) for name in ("teacher", "weights")), strict=True))
    assert written == {("canned.jsonl", run.weights("teacher")), (LAST_STUDENT, digest)}
    assert manifest(second, "generate").identity.models[LAST_STUDENT] == digest
    assert set(column(first, "mix", "examples", "id")) <= set(column(second, "mix", "examples", "id"))


def test_dev_decides_and_the_held_out_block_is_asked_of_the_chosen_student_alone(template: Path) -> None:
    run = run_of(template / "small.yaml")
    assert [manifest(run.in_round(number), "eval").facts["split"] for number in (1, 2)] == ["dev", "dev"]
    closing = run.closing()
    facts = manifest(closing, "eval").facts
    assert facts["split"] == "eval"
    chosen = manifest(run.in_round(1), "sft").artifacts["checkpoint"].fingerprint
    assert facts["models"]["student"]["weights"] == chosen
    report = json.loads((closing.stage_folder("report") / "page/report.json").read_text())
    assert report["rounds"]["why"] == "dev pass@1 stopped rising in round 2: 0.000 after 0.000"
    assert [(row["round"], row["pass_at_1"]) for row in report["rounds"]["rounds"]] == [(1, 0.0), (2, 0.0)]
    assert "stopped rising in round 2" in (closing.stage_folder("report") / "page/index.html").read_text()


def test_a_finished_run_does_nothing_again(path: Path) -> None:
    assert ran(run_of(path), "report") == []


def test_a_finished_run_asks_for_no_teacher_that_was_deleted_since(template: Path) -> None:
    canned, away = template / "canned.jsonl", template / "away"
    canned.rename(away)
    try:
        assert ran(run_of(template / "small.yaml"), "report") == []
        with pytest.raises(ValueError, match="No model "):
            ran(run_of(template / "small.yaml", "generate.samples=3"), "report")
    finally:
        away.rename(canned)


def test_what_is_done_of_a_round_asks_for_no_teacher_before_the_rounds_have_ended(tmp_path: Path) -> None:
    run = run_of(small.write_rounds(tmp_path))
    assert ran(run, "verify") == ["seed", "generate", "verify"]
    (tmp_path / "canned.jsonl").unlink()
    assert ran(run, "verify") == []
    assert ran(run, "filter") == ["filter"]
    with pytest.raises(ValueError, match="No model "):
        ran(run, "eval")


def test_another_choice_makes_the_runs_own_eval_and_report_stale_and_no_round(path: Path) -> None:
    run = run_of(path, "rounds.least_gain=0.9")
    rescored(run.in_round(2), 0.5)
    assert run.standing().chosen == 2
    words = {name: state.word for name, state in run.closing().states().items()}
    assert [name for name, word in words.items() if word == "stale"] == ["eval", "report"]
    assert {state.word for state in list(run.in_round(2).states().values())[:-1]} == {"fresh"}


def test_the_best_rounds_student_is_served_and_none_before_the_rounds_are_over(path: Path) -> None:
    run = run_of(path)
    chosen = run.in_round(run.standing().chosen)
    assert serve.exported(run, None) == chosen.stage_folder("export") / "models/bfloat16"
    rescored(run.in_round(2), 0.5)
    assert not run.standing().ended
    for words in (["publish", str(path), str(path.parent / "made")], ["run", str(path), "--only", "eval"]):
        found = CliRunner().invoke(cli.app, [*words, "--data", str(run.data)])
        assert found.exit_code == 1
        assert "best is not known" in " ".join(found.stderr.split())
    with pytest.raises(StageError, match=r"2 of at most 3 rounds are scored .*best is not known.*--to eval"):
        serve.exported(run, None)


def test_a_rising_round_is_followed_by_another_whose_stages_wait_for_its_student(path: Path) -> None:
    run = run_of(path)
    rescored(run.in_round(2), 0.5)
    assert (run.standing().chosen, run.standing().ended) == (2, False)
    assert {state.word for name, state in run.in_round(3).states().items() if name in plan.ROUND} == {"absent"}
    changed = run_of(path, "sft.learning_rate=0.5")
    assert changed.in_round(1).states()["generate"].word == "fresh"
    states = changed.in_round(2).states()
    assert [(change.key, change.new) for change in states["generate"].changes] == [("inputs.round-1/sft", "stale")]


def test_a_changed_training_asks_in_its_round_and_names_it(path: Path) -> None:
    with pytest.raises(Stale) as caught:
        ran(run_of(path, "sft.learning_rate=0.5"), "report")
    text = str(caught.value)
    assert "Stage sft of round 1 finished with other values" in text
    assert "make distill FORCE=sft" in text


def test_more_rounds_leave_those_that_were_run_as_they_are(path: Path) -> None:
    assert ran(run_of(path, "rounds.count=5"), "report") == []


def test_a_run_without_rounds_becomes_the_first_of_some_and_back(path: Path) -> None:
    alone = run_of(path, "rounds.count=1")
    words = {name: state.word for name, state in alone.states().items()}
    assert [name for name, word in words.items() if word != "fresh"] == ["report"], "which showed rounds"
    folder = alone.folder
    for name in plan.ROUND[:-1]:
        (folder / "round-1" / name).rename(folder / name)
    grown = run_of(path)
    assert ran(grown, "report") == []
    assert grown.in_round(1).stage_folder("sft") == folder / "sft"
    assert grown.in_round(1).stage_folder("eval") == folder / "round-1/eval"


def test_what_is_left_of_a_first_round_is_made_where_it_was_begun(path: Path) -> None:
    run = run_of(path)
    before, folder = run.in_round(1), run.folder
    for name in ("generate", "verify"):
        before.stage_folder(name).rename(folder / name)
    shutil.rmtree(folder / "round-1")
    assert ran(run, "mix") == ["filter", "dedupe", "decontaminate", "mix"]
    this = run.in_round(1)
    assert {this.stage_folder(name).parent for name in plan.ROUND[:-1]} == {folder}
    assert this.stage_folder("eval") == folder / "round-1/eval"
    publish(folder, path.parent / "out", (), this.stage_folder("seed"))


def test_a_block_that_seed_did_not_draw_is_refused_before_anything_is_generated(path: Path) -> None:
    with pytest.raises(StageError, match=r"No problem is in the block 'val'.*Blocks that seed wrote: dev, eval, train"):
        ran(run_of(path, "rounds.split=val"), "report")


def test_a_round_that_fails_says_how_to_end_with_those_before_it(path: Path) -> None:
    settings = ["rounds={count: 3, keep_teachers: false}", "filter.min_tokens=9"]
    with pytest.raises(StageError, match="None of 16 traces is left") as caught:
        ran(run_of(path, *settings), "report", force=["generate"])
    advice = re.search(r"in round 2\. .*--set (rounds\.count=1)\.", str(caught.value))
    assert advice is not None
    assert ran(run_of(path, *settings, advice[1]), "report") == ["report"], "the first round was examined before"


def test_a_route_of_the_last_student_that_no_problem_fits_is_refused_before_the_first_round(path: Path) -> None:
    with pytest.raises(
        StageError, match=r"generate\.routes\.last_student is for the task 'sum', .*did you mean 'sums'"
    ):
        ran(run_of(path, "generate.routes={last_student: {tasks: [sum]}}"), "generate")


def test_one_stage_of_one_round_is_run_alone_and_only_where_the_student_is_there(path: Path) -> None:
    run = run_of(path)
    Runner(run.at("mix", 2)).only("mix")
    rescored(run.in_round(2), 0.5)
    shutil.rmtree(run.in_round(2).stage_folder("sft"))
    with pytest.raises(StageError, match=r"Stage generate reads round-2/sft \(absent\)"):
        Runner(run.at("generate", 3)).only("generate")


def said(path: Path, *words: str, code: int = 0) -> str:
    answer = CliRunner().invoke(cli.app, [words[0], str(path), *words[1:], "--data", str(path.parent / "data")])
    assert answer.exit_code == code, answer.output
    return answer.output


def test_status_shows_every_round_and_the_choice(path: Path) -> None:
    found = json.loads(said(path, "status", "--json"))
    assert {name: row["state"] for name, row in found["stages"].items()} == dict.fromkeys(
        ("seed", "eval", "report"), "fresh"
    )
    assert [row["round"] for row in found["rounds"]] == [1, 2]
    assert {row["state"] for one in found["rounds"] for row in one["stages"].values()} == {"fresh"}
    assert (found["chosen"], found["accuracies"]) == (1, [0.0, 0.0])
    lines = said(path, "status").splitlines()
    assert [line for line in lines if line.startswith("round ")] == ["round 1", "round 2"]
    assert lines[-3] == "dev pass@1 stopped rising in round 2: 0.000 after 0.000; of round 1's student"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["explain", "sft", "--round", "2", "--set", "sft.learning_rate=0.5"], 0, "sft of round 2 is stale."),
        (["peek", "generate", "--round", "2", "-n", "99"], 0, f"teacher: {LAST_STUDENT}"),
        (["peek", "eval", "--round", "2", "-n", "1"], 0, "split: dev"),
        (["peek", "eval", "-n", "1"], 0, "split: eval"),
        (["peek", "generate", "--round", "4"], 1, "found --round 4, and the recipe has rounds: 3"),
        (["explain", "report", "--round", "1"], 1, "report is of the whole run"),
        (["run", "--to", "sft", "--round", "3"], 1, "Round 3 is not run: dev pass@1 stopped rising in round 2"),
        (["run", "--to", "mix", "--round", "2"], 0, "round 2 of at most 3"),
        (["plan", "--no-pilot"], 0, "Nothing is to be bought."),
    ],
)
def test_commands_take_a_round(path: Path, words: list[str], code: int, says: str) -> None:
    assert says in said(path, *words, code=code)


def test_the_mix_of_the_chosen_round_can_be_published(path: Path) -> None:
    this = run_of(path).in_round(2)
    found = publish(this.stage_folder("mix").parent, path.parent / "out", (), this.stage_folder("seed"))
    assert sum(found.rows.values()) == manifest(this, "mix").rows["examples"]
    assert LAST_STUDENT in (found.folder / "README.md").read_text()
