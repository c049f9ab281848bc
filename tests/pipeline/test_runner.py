"""Identity, states and reuse over whole runs with the replay engine, up to mix (training has its own tests)."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from pipeline import lock, plan
from pipeline.check import check
from pipeline.engines import Completion, Request, failed
from pipeline.engines.replay import Replay
from pipeline.manifest import Change, explain, write_record
from pipeline.runner import Runner, Stale, Watcher, _is_idle
from pipeline.shards import add_sums, read_shard, write_shard
from pipeline.stage import StageError
from pipeline.verifiers import VERSION
from tests import small, synthetic, tiny
from tests.desk import interrupted_at_save
from tests.small import manifest, run_of

TO_MIX = plan.ORDER[: plan.ORDER.index("mix") + 1]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run up to mix, to copy from."""
    folder = tmp_path_factory.mktemp("template")
    path = small.write(folder)
    runner(path).execute(TO_MIX)
    return folder


@pytest.fixture
def path(template: Path, tmp_path: Path) -> Path:
    """The recipe of a copy of the finished run."""
    return small.moved(template, tmp_path / "copy")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokenizer is not the small student's."""
    folder = tiny.build(tmp_path_factory.mktemp("foreign"))
    tiny.other_tokenizer().save_pretrained(folder)
    return folder


def runner(path: Path, *settings: str) -> Runner:
    return Runner(run_of(path, *settings))


def ran(path: Path, *settings: str, force: tuple[str, ...] = (), to: str = "mix") -> list[str]:
    """Execute up to a stage; the names of the stages that really ran."""
    return small.ran(run_of(path, *settings), to, force)


def rows(path: Path, stage: str, dataset: str) -> list[dict[str, Any]]:
    this = run_of(path)
    found = [
        row
        for shard in manifest(this, stage).datasets[dataset].shards
        for row in read_shard(this.stage_folder(stage), shard).to_pylist()
    ]
    return sorted(found, key=lambda row: str(row["id"]))


def facts(path: Path, stage: str) -> dict[str, Any]:
    return manifest(run_of(path), stage).facts


def edit(path: Path, change: Any) -> None:
    values = yaml.safe_load(path.read_text())
    change(values)
    path.write_text(yaml.safe_dump(values, sort_keys=False))


BESIDE = ("teacher.engine=hf", "teacher.model={foreign}")  # a teacher of another tokenizer


@pytest.mark.parametrize(
    ("settings", "says", "done"),
    [
        (["student.model=nope"], "No model 'nope'", []),
        (["student.model=owner/slip"], "The commit of owner/slip cannot be learned", []),
        (["student.engine=vllm", "student.max_model_len=9999"], "student.max_model_len is 9999, but ", []),
        (["sft.max_length=9999"], "but the student has only ", []),
        (["student.chat_template=foo"], "No prompt template", []),
        (["eval.base_prompts=[foo]"], "No prompt template", []),
        (["student.engine=replay"], "Set eval.student_engine", []),
        (["eval.split=test"], "in the block 'test', which eval.split names. Blocks that seed wrote: ", ["seed"]),
        (["seed.sources.1.defaults.verifier=unverifiable"], "the verifier is unverifiable. Expected", ["seed"]),
        (["seed.sources.1.defaults.verifier=judge"], "name a model under `judge`, give them another", ["seed"]),
        (["verify.rate=true"], "no model is named to rate", []),
        (["decontaminate.benchmarks=[{name: exam, path: gone.csv}]"], "benchmark 'exam': /", []),
        (["mix.general=[{kind: file, path: gone.jsonl}]"], "gone.jsonl does not exist", []),
        (["sft.start=gone"], "gone holds no config.json", []),
        (["sft.objective=mutual"], "found no peer in the recipe", []),
        (["sft.objective=mutual", "peer.model={student}"], "a peer with the student's own weights", []),
        (["sft.objective=on_policy"], "teacher.engine is replay, and objective on_policy runs the teacher's model", []),
        ([*BESIDE, "sft.objective=features"], "found a teacher of another vocabulary", []),
        ([*BESIDE, "sft.objective=on_policy"], "the teacher has another tokenizer than the student", []),
        (["sft.exec.liger=on"], "sft.exec.liger is on, and there is no ", []),
        (["sft.exec.attention=flash_attention_2"], "sft.exec.attention is flash_attention_2, and there is no ", []),
        (["sft.exec.report_to=[wandb]"], "wandb, which is not installed", []),
        (["sft.exec={launcher: accelerate, config: gone}"], "no accelerate configuration 'gone'", []),
    ],
)
def test_what_a_later_stage_would_refuse_is_refused_before_anything_is_bought(
    tmp_path: Path, foreign: Path, settings: list[str], says: str, done: list[str]
) -> None:
    path = small.write(tmp_path)
    own = str(tmp_path / "student")
    this = runner(path, *(one.replace("{foreign}", str(foreign)).replace("{student}", own) for one in settings))
    with pytest.raises((StageError, ValueError), match=re.escape(says)):
        this.through("report")
    assert [name for name in plan.ORDER if this.run.stage_folder(name).exists()] == done


def test_a_rerun_of_a_fresh_run_does_nothing(path: Path) -> None:
    before = {name: run_of(path).manifest(name) for name in TO_MIX}
    assert ran(path) == []
    assert {name: run_of(path).manifest(name) for name in TO_MIX} == before


def test_raising_n_asks_only_for_the_new_samples_and_keeps_the_old_rows(path: Path) -> None:
    old = rows(path, "generate", "traces")
    assert "generate" in ran(path, "generate.samples=4")
    assert facts(path, "generate")["bought"] == 24
    new = {row["id"]: row for row in rows(path, "generate", "traces")}
    assert len(new) == 96
    assert [new[row["id"]] for row in old] == old


def test_raising_n_keeps_the_old_shards_as_they_are(path: Path) -> None:
    before = manifest(run_of(path), "generate").datasets["traces"].shards
    ran(path, "generate.samples=4")
    after = manifest(run_of(path), "generate").datasets["traces"].shards
    assert [shard in after for shard in before] == [True]


def test_adding_problems_asks_only_for_theirs(path: Path) -> None:
    extra = {"text": small.problem(400, 77), "answer": "477"}
    with open(path.parent / "problems.jsonl", "a") as file:
        file.write(json.dumps(extra) + "\n")
    with open(path.parent / "canned.jsonl", "a") as file:
        file.write("")  # the weights of a replay are its file: it stays as it is
    assert "generate" in ran(path, "generate.error_share_limit=1")
    assert facts(path, "generate")["bought"] == 3


def test_reordering_problems_asks_for_nothing(path: Path) -> None:
    problems = path.parent / "problems.jsonl"
    problems.write_text("".join(reversed(problems.read_text().splitlines(keepends=True))))
    assert ran(path) == ["seed"]


def test_a_copy_of_the_recipe_under_another_name_asks_for_nothing(path: Path) -> None:
    other = path.with_name("other.yaml")
    shutil.copy(path, other)
    assert ran(other) == list(TO_MIX)
    assert facts(other, "generate")["bought"] == 0
    assert rows(other, "generate", "traces") == rows(path, "generate", "traces")


def test_another_name_for_the_teacher_is_told_by_what_reads_it_and_asks_for_nothing(path: Path) -> None:
    named = path.with_name("teacher-v2.jsonl")
    shutil.copy(path.with_name("canned.jsonl"), named)
    settings = (f"teacher.model={named}", "mix.traces_per_problem=1")
    assert ran(path, *settings) == ["generate", "verify", "filter", "dedupe", "mix"]
    assert facts(path, "generate")["bought"] == 0
    assert {row["teacher"] for row in rows(path, "generate", "traces")} == {named.name}


def test_what_is_done_asks_for_nothing_that_was_deleted_since(tmp_path: Path) -> None:
    path = small.write(tmp_path, problems=8)
    assert ran(path) == list(TO_MIX)
    canned = path.with_name("canned.jsonl")
    canned.rename(path.with_name("elsewhere"))
    assert {run_of(path).state(name).word for name in TO_MIX} == {"fresh"}
    assert ran(path) == []
    assert "mix" in ran(path, "mix.validation_share=0.3")
    assert run_of(path, "teacher.thinking=true").state("generate").word == "fresh"
    for settings in (["generate.samples=4"], ["teacher.dtype=float32"], [f"teacher.model={canned}x"]):
        with pytest.raises(ValueError, match="No model "):
            ran(path, *settings)


def test_what_is_done_is_not_refused_for_what_this_machine_lacks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any) -> None:
        raise StageError("not on this machine")

    real = plan.stage
    monkeypatch.setattr(plan, "stage", lambda name: replace(real(name), refuse=refuse))
    assert ran(path) == []
    with pytest.raises(StageError, match="not on this machine"):
        ran(path, "filter.max_tokens=9")


def test_the_order_of_teachers_decides_where_their_place_is_asked(path: Path) -> None:
    same = {name: {"model": str(path.with_name("canned.jsonl")), "engine": "replay"} for name in ("one", "two")}
    for rule, stale in (([], False), (["dedupe.survivor=[first_teacher]"], True)):
        edit(path, lambda values: values.update(more_teachers=same))
        ran(path, *rule)
        turned = dict(reversed(same.items()))
        edit(path, lambda values, turned=turned: values.update(more_teachers=turned))
        assert (run_of(path, *rule).state("dedupe").word == "stale") == stale


def test_editing_a_license_rebuilds_what_reads_it_and_asks_for_nothing(path: Path) -> None:
    edit(path, lambda values: values["seed"]["sources"][0]["defaults"].update(license="MIT"))
    assert ran(path) == ["seed", "mix"]
    assert {row["license"] for row in rows(path, "mix", "examples")} == {"MIT"}


def test_changing_the_temperature_stops_and_says_what_would_be_reused_and_bought(path: Path) -> None:
    with pytest.raises(Stale) as caught:
        ran(path, "generate.sampling.temperature=0.9")
    text = str(caught.value)
    assert "config.sampling.temperature: 0.6 -> 0.9" in text
    assert "Of 72 completions wanted, 0 are in the store and would be reused; 72 must be bought" in text
    assert "72 bought ones would no longer be used" in text
    assert "--force generate" in text
    assert ran(path) == []


def test_forcing_buys_and_going_back_is_free(path: Path) -> None:
    first = rows(path, "generate", "traces")
    ran(path, "generate.sampling.temperature=0.9", force=("generate",))
    assert facts(path, "generate")["bought"] == 72
    ran(path, force=("generate",))
    assert facts(path, "generate")["bought"] == 0
    assert rows(path, "generate", "traces") == first


def test_force_touches_only_stale_stages(path: Path) -> None:
    assert ran(path, force=("generate", "verify")) == []


def test_what_failed_is_told_of_and_asked_again_where_a_finished_stage_is_forced(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more, real = "generate.samples=4", Replay._answer

    def overloaded(self: Replay, request: Request) -> Completion:
        refused = request.problem_text == small.problem(10, 30)
        return failed(request, "HTTP 500: overloaded") if refused else real(self, request)

    with monkeypatch.context() as broken:
        broken.setattr(Replay, "_answer", overloaded)
        assert ran(path, more, to="generate") == ["generate"]
    assert manifest(run_of(path), "generate").counts["error"] == 1
    said: list[str] = []
    Runner(run_of(path, more), Watcher(says=lambda name, line: said.append(line))).execute(["generate"], ["verify"])
    assert said == [
        "1 requests failed for good (HTTP 500: overloaded). Ask for them again with --force generate (make generate "
        "FORCE=generate, with the same RECIPE and SET)."
    ]
    assert facts(path, "generate")["bought"] == 24
    assert ran(path, more, force=("generate",), to="verify") == ["generate", "verify"]
    assert facts(path, "generate")["bought"] == 1
    assert "error" not in manifest(run_of(path), "generate").counts
    assert ran(path, more, force=("generate",), to="verify") == []


FAILED: dict[str, Any] = {"errors": 2, "cause": "HTTP 500"}


@pytest.mark.parametrize(
    ("stage", "facts", "expected"),
    [
        ("seed", {}, (0, "")),
        ("seed", {"generation": {"rewritings": FAILED, "second steps": {"errors": 1, "cause": "x"}}}, (3, "HTTP 500")),
        ("generate", FAILED | {"soft_labels": {"labels_failed": 7, "labels_unreadable": 4}}, (5, "HTTP 500")),
        ("generate", {"errors": 0, "cause": ""}, (0, "")),
        ("verify", {"opinions": {}, "ratings": {"rated": 3, **FAILED}}, (2, "HTTP 500")),
        ("eval", {"generation": {"teacher": {"errors": 0, "cause": ""}, "base": FAILED}}, (2, "HTTP 500")),
        ("mix", {"errors": 2}, (0, "")),
    ],
)
def test_a_stage_knows_what_failed_of_its_requests(stage: str, facts: dict[str, Any], expected: Any) -> None:
    found = plan.stage(stage).failures(synthetic.manifest(stage, **facts))
    assert (found.count, found.cause) == expected


def test_changing_a_rule_regenerates_nothing_and_rewrites_only_what_is_downstream(path: Path) -> None:
    assert ran(path, "filter.max_tokens=12") == ["filter", "mix"]


def test_exec_values_make_nothing_stale(path: Path) -> None:
    assert ran(path, "teacher.exec.delay_s=0.001", "verify.exec.workers=1") == []


def test_other_verifiers_make_stale_what_was_judged(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    this = run_of(path)
    before = {name: this.identity(plan.stage(name)) for name in plan.ORDER}
    monkeypatch.setattr("pipeline.verifiers.VERSION", VERSION + 1)
    assert this.states()["verify"].word == "stale"
    changes = {name: explain(before[name], this.identity(plan.stage(name))) for name in plan.ORDER}
    changed = {name: [change.key for change in found] for name, found in changes.items() if found}
    assert changed == {"verify": ["contents.verifiers"], "eval": ["contents.verifiers"]}
    assert ran(path, to="verify") == ["verify"]


def test_explain_names_the_changed_keys(path: Path) -> None:
    states = run_of(path, "generate.samples=9").states()
    assert [(change.key, change.old, change.new) for change in states["generate"].changes] == [("config.samples", 3, 9)]
    assert states["verify"].word == "stale"
    assert [change.key for change in states["verify"].changes] == ["inputs.generate"]


def test_only_runs_one_stage_and_refuses_one_whose_inputs_are_not_fresh(path: Path) -> None:
    with pytest.raises(StageError, match=r"Stage mix reads .*filter \(stale\).*--to mix"):
        runner(path, "filter.max_tokens=12").only("mix")
    runner(path, "filter.max_tokens=12").only("filter")
    assert run_of(path, "filter.max_tokens=12").states()["filter"].word == "fresh"


def test_a_second_run_at_the_same_time_says_who_holds_the_lock(path: Path) -> None:
    this = run_of(path)
    says = r"stage verify of run small is being written by process \d+ on host"
    with lock.hold(this.folder / ".verify.lock", "x"), pytest.raises(lock.Locked, match=says):
        ran(path)


def test_what_another_process_made_anew_meanwhile_is_not_read_as_this_runs(path: Path) -> None:
    ours, others = "filter.max_tokens=12", "filter.max_tokens=11"
    this, before = run_of(path, ours), rows(path, "mix", "examples")

    def ends(name: str, manifest: Any, did: bool) -> None:
        if name == "dedupe":
            assert small.ran(run_of(path, others), "filter") == ["filter"]

    with pytest.raises(StageError, match="Stage mix reads filter, which another process made anew"):
        Runner(this, Watcher(ends=ends)).through("mix")
    assert rows(path, "mix", "examples") == before
    assert small.ran(this, "mix") == ["filter", "mix"]


def test_a_stage_that_fails_leaves_what_was_there(path: Path) -> None:
    before = rows(path, "mix", "examples")
    with pytest.raises(StageError, match="None of 72 traces is left"):
        ran(path, "filter.max_tokens=1")
    assert rows(path, "mix", "examples") == before
    assert run_of(path, "filter.max_tokens=1").states()["mix"].word == "partial"
    assert ran(path) == ["filter"], "mix had not been rewritten"
    assert rows(path, "mix", "examples") == before


def test_the_time_of_interrupted_attempts_counts_until_the_values_change(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("pipeline.runner.time", SimpleNamespace(monotonic=lambda: clock[0]))
    known, fails = plan.stage, [True, True, False]

    def slow(*given: Any) -> None:
        clock[0] += 100.0
        if fails.pop(0):
            raise StageError("cut off")
        known("filter").run(*given)

    slowed = replace(known("filter"), run=slow)
    monkeypatch.setattr(plan, "stage", lambda name: slowed if name == "filter" else known(name))
    for setting in ("filter.max_tokens=11", "filter.max_tokens=12"):
        with pytest.raises(StageError, match="cut off"):
            ran(path, setting)
    ran(path, "filter.max_tokens=12")
    assert manifest(run_of(path, "filter.max_tokens=12"), "filter").seconds == 200.0


def test_a_training_that_was_cut_off_goes_on_with_other_values_that_decide_no_step(path: Path) -> None:
    with interrupted_at_save():
        ran(path, to="sft")
    changed = ("sft.audit.max_broken_share=0.5", "sft.wild_loss_factor=9.0")
    with pytest.raises(Stale, match=r"(?s)was interrupted with other values .*max_broken_share"):
        ran(path, *changed, "sft.learning_rate=0.5", to="sft")
    assert ran(path, *changed, to="sft") == ["sft"]
    this = run_of(path, *changed)
    assert manifest(this, "sft").facts["resumed_at_step"] > 0
    assert run_of(path, changed[0]).states()["sft"].word == "fresh", (
        "a limit that stops a training is none of its values"
    )
    with pytest.raises(Stale, match=r"finished with other values"):
        ran(path, to="sft")


def test_only_a_stages_own_idle_keys_leave_it_what_it_was() -> None:
    idle = plan.stage("sft"), "audit.max_broken_share", "save_dtype", "soft_labels.min_covered_share"
    assert all(_is_idle(idle[0], Change(key=f"config.{key}", old=1, new=2)) for key in idle[1:])
    for key in (
        "config.soft_labels.weights.domains.audit.c",
        "roles.audit",
        "config.save_dtypes",
        "config.soft_labels",
    ):
        assert not _is_idle(idle[0], Change(key=key, old=1, new=2))


def test_old_shards_go_once_the_new_manifest_stands(path: Path) -> None:
    ran(path, "filter.max_tokens=12")
    this = run_of(path)
    for name in TO_MIX:
        datasets = manifest(this, name).datasets.values()
        named = sorted(shard.path for dataset in datasets for shard in dataset.shards)
        found = sorted(
            str(file.relative_to(this.stage_folder(name))) for file in this.stage_folder(name).rglob("*.parquet")
        )
        assert found == named


AUGMENT = 'seed.augment=[{"kind": "harder", "votes": 3}]'


def test_variants_are_problems_like_any_others_and_their_solutions_are_bought_once(path: Path) -> None:
    small.can_variants(path)
    assert ran(path, AUGMENT, force=("generate",)) == list(TO_MIX)
    problems = {row["id"]: row for row in rows(path, "seed", "problems")}
    variants = [row for row in problems.values() if row["parent_id"] is not None]
    assert len(variants) == 24
    assert facts(path, "seed")["generation"]["second steps"]["bought"] == 72
    assert (facts(path, "generate")["wanted"], facts(path, "generate")["reused"]) == (144, 72)
    mixed = rows(path, "mix", "examples")
    assert all(row["parent_id"] == problems[row["problem_id"]]["parent_id"] for row in mixed)
    examples = [problems[row["problem_id"]] | {"split": row["split"]} for row in mixed]
    assert {row["id"] for row in variants} <= {row["id"] for row in examples}
    splits: dict[str, set[str]] = {}
    for row in examples:
        splits.setdefault(row["parent_id"] or row["id"], set()).add(row["split"])
    assert {frozenset(found) for found in splits.values()} == {frozenset({"train"}), frozenset({"validation"})}
    assert ran(path, AUGMENT) == []


def test_the_teachers_answers_make_seed_stale_only_where_it_writes_problems(path: Path) -> None:
    small.can_variants(path)  # another file of canned answers is another teacher
    assert run_of(path).state("seed").word == "fresh"
    ran(path, AUGMENT, to="seed")
    with open(path.parent / "canned.jsonl", "a") as file:
        file.write("\n")
    assert [change.key for change in run_of(path, AUGMENT).state("seed").changes] == ["models.teacher"]


def test_another_teacher_stops_seed_before_variants_are_bought_again(path: Path) -> None:
    small.can_variants(path)
    assert ran(path, AUGMENT, to="seed") == ["seed"]
    assert check(run_of(path).stage_folder("seed")) == []
    with open(path.parent / "canned.jsonl", "a") as file:
        file.write("\n")
    with pytest.raises(Stale) as caught:
        ran(path, AUGMENT, to="seed")
    text = str(caught.value)
    assert "models.teacher" in text
    assert "Of 96 completions wanted, 0 are in the store and would be reused; 96 must be bought" in text
    assert "96 bought ones would no longer be used" in text
    assert "--force seed" in text
    assert ran(path, "seed.augment=[]", to="seed") == ["seed"], "nothing is bought without variants"
    assert ran(path, AUGMENT, force=("seed",), to="seed") == ["seed"]
    assert facts(path, "seed")["generation"]["rewritings"]["bought"] == 24


def test_more_variants_are_bought_without_a_question(path: Path) -> None:
    small.can_variants(path)
    ran(path, AUGMENT, to="seed")
    assert ran(path, AUGMENT.replace("3", "4"), to="seed") == ["seed"]
    assert facts(path, "seed")["generation"]["second steps"]["bought"] == 24


def test_a_run_from_before_there_were_variants_is_brought_up_to_date_and_nothing_is_bought(path: Path) -> None:
    this = run_of(path)
    folder = this.stage_folder("seed")
    made = manifest(this, "seed")
    dataset = made.datasets["problems"]
    old = [
        write_shard(
            folder / "problems" / f"old-{number}.parquet",
            read_shard(folder, shard).drop_columns(["parent_id", "augmentation"]),
            folder,
        )
        for number, shard in enumerate(dataset.shards)
    ]
    dataset = dataset.model_copy(update={"shards": old, "columns": add_sums(old)})
    datasets = {**made.datasets, "problems": dataset}
    write_record(folder / "manifest.json", made.model_copy(update={"datasets": datasets}))
    before = rows(path, "mix", "examples")
    assert ran(path) == ["generate", "mix"]
    assert facts(path, "generate")["bought"] == 0
    assert rows(path, "mix", "examples") == before
    assert ran(path) == []
    assert "parent_id" not in manifest(this, "mix").identity.inputs["problems"]


def test_a_plan_does_not_have_the_teacher_write_problems(path: Path) -> None:
    said = small.seqdistill(path.parent / "data", "plan", path, "--set", AUGMENT, code=1)
    assert "far more than a pilot. Of 96 completions wanted, 0 are in the store" in said
    assert "Run seed first (--to seed)" in said
