from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline import plan, recipe
from pipeline.estimate import estimate
from pipeline.recipe import RecipeError, load
from pipeline.run import Run
from pipeline.runner import Runner
from pipeline.shards import read_shards

SHIPPED = sorted((Path(recipe.__file__).parent / "recipes").glob("*.yaml"))
MINIMAL = """\
teacher: {model: t, engine: replay}
student: {model: s}
seed:
  sources:
    - {kind: file, path: a.jsonl}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_valid(path: Path) -> None:
    assert load(path).name == path.stem
    assert recipe.doubts(load(path)) == []


def test_what_is_said_to_be_shipped_is() -> None:
    named = {
        "demo",
        "demo-soft-labels",
        "demo-rounds",
        "qwen-soft-labels",
        "openr1-7b",
        "r1-llama-8b",
        "r1-qwen-1.5b",
        "r1-qwen-7b",
        "s1-32b-lora",
        "sentiment",
    }
    assert named <= {path.stem for path in SHIPPED}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_stage_of_a_shipped_recipe_finds_its_prompts_files_and_models_named(path: Path, tmp_path: Path) -> None:
    """All that its identity takes is in the project, but for what a hub holds."""
    run = Run(load(path), data=tmp_path)
    assert {state.word for state in run.states().values()} == {"absent"}
    for stage in plan.stages():
        identity = run.identity(stage)
        assert all("missing" not in digest for digest in identity.contents.values()), stage.name
        assert all(identity.prompts.values()), stage.name


# Values as published: of the supplement to DeepSeek-R1's paper, the card of OpenR1-Distill-7B, the paper on s1.
PUBLISHED: dict[str, dict[str, Any]] = {
    "r1-qwen-1.5b": {"learning_rate": 1e-4, "batch_examples": 64, "final_learning_rate_share": 0.1},
    "r1-qwen-7b": {"learning_rate": 8e-5, "batch_examples": 64, "final_learning_rate_share": 0.1},
    "r1-llama-8b": {"learning_rate": 5e-5, "batch_examples": 64, "final_learning_rate_share": 0.1},
    "openr1-7b": {"learning_rate": 4e-5, "epochs": 5},
    "s1-32b-lora": {"epochs": 5, "batch_examples": 16, "warmup_share": 0.05, "weight_decay": 1e-4, "method": "lora"},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_has_the_published_values(name: str) -> None:
    found: Any = load(SHIPPED[0].with_name(f"{name}.yaml")).sections["sft"]
    values = PUBLISHED[name] | {"max_length": 32768, "schedule": "cosine"}
    assert {key: getattr(found, key) for key in values} == values
    assert name[:2] != "r1" or found.epochs in (2, 3)
    # Steps of such learning rates are lost in weights held in bfloat16; an adapter's are float32 whatever they lie on.
    assert found.master_dtype == "float32" or found.method != "full"


# What a plan needs here in place of what a hub or a server holds: own problems, canned answers without logprobs.
OFFLINE = [
    "teacher.engine=replay",
    "seed.benchmarks=[]",
    "generate.logprobs=0",
    "sft.objective=sft",
    "sft.soft_labels=null",
    "seed.held_out={}",
    "seed.augment=[]",
    "seed.sources=[{kind: file, path: data/problems/word_problems.jsonl, columns: {task: task}}]",
]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_planned(path: Path, tmp_path: Path) -> None:
    (tmp_path / "canned.jsonl").write_text("")
    run = Run(load(path, [*OFFLINE, f"teacher.model={tmp_path / 'canned.jsonl'}"]), data=tmp_path)
    Runner(run).execute(["seed"])
    samples: Any = run.recipe.resolved()["generate"]["samples"]
    lines = estimate(run)
    assert lines[0].startswith(f"generate wants {24 * samples} completions; 0 are in the store")
    assert any(line.startswith("Tokens to generate: at most") for line in lines)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["sft.objective=soft_labels"], r"objective is soft_labels, and generate\.logprobs is 0"),
        (["mix.prefer=judge"], r"mix\.prefer is judge, and verify\.rate is false"),
        (["generate.second_max_tokens=2000"], "beside truncated: keep"),
        (["student.max_model_len=1024"], r"eval\.max_tokens is 1024, and student\.max_model_len is 1024\. Raise"),
        (
            ["teacher.engine=vllm", "generate.max_tokens=4096", "eval.max_tokens=2048", "student.max_model_len=4096"],
            r"generate\.max_tokens is 4096, and teacher\.max_model_len is 2048, eval\.max_tokens is 2048, and teacher",
        ),
        (
            ["more_teachers={coder: {model: c}}", "generate.truncated=again", "generate.second_max_tokens=4096"],
            r"generate\.second_max_tokens is 4096, and more_teachers\.coder\.max_model_len is 2048",
        ),
        (
            ["student.engine=replay", "student.max_model_len=512", "eval.student_engine=vllm"],
            r"eval\.max_tokens is 1024, and student\.max_model_len is 512",
        ),
        (["judge={model: j, max_tokens: 2048}"], r"judge\.max_tokens is 2048, and judge\.max_model_len is 2048"),
    ],
)
def test_sections_of_which_one_wants_what_another_does_not_give_are_refused(
    tmp_path: Path, settings: list[str], says: str
) -> None:
    with pytest.raises(RecipeError, match=says):
        load(write(tmp_path, MINIMAL), settings)


def test_a_minimal_recipe_takes_the_stages_defaults(tmp_path: Path) -> None:
    found = load(write(tmp_path, MINIMAL))
    assert found.name == "mine"
    assert list(found.sections) == list(recipe.plan.ORDER)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("generate: {smaples: 3}", "generate.smaples: unknown key. Did you mean samples?"),
        ("genrate: {samples: 3}", "genrate: unknown key. Did you mean generate?"),
        (
            "generate: {sampling: {temprature: 1}}",
            "generate.sampling.temprature: unknown key. Did you mean temperature?",
        ),
        ("generate: {samples: many}", "generate.samples: "),
        ("generate: {samples: 0}", "generate.samples: "),
        ("mix: {trace_format: thin}", "mix.trace_format: "),
        ("generate: {samples: 1}\ngenerate: {samples: 2}", "the key 'generate' stands twice"),
        ("generate: &a {samples: 1}\nmix: *a", "aliases are not allowed"),
        ("name: ../escape", "name is '../escape'"),
        ("generate: {samples: {{ samples }}}", "found unhashable key"),
        ("generate: {[samples]: 3}", "found unhashable key"),
        ('description: "half \\ud83d of a sign"', "half of a surrogate pair"),
        (
            "sft: {objective: soft_labels, soft_labels: {weights: {teachers: {T: 2}}}}",
            "found a weight of the teacher 'T'",
        ),
        (
            "mix: {teacher_shares: {t: 0.5, T1: 0.5}}",
            "mix.teacher_shares has a share of the teacher 'T1'; expected one of t",
        ),
    ],
)
def test_a_wrong_recipe_says_what_and_where(tmp_path: Path, more: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(write(tmp_path, f"{MINIMAL}{more}\n"))
    assert says in str(caught.value)


def test_parallel_engines_in_one_process_are_refused_with_the_way_to_have_them(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"teacher\.exec: .*data_parallel_size .*Set replicas"):
        load(write(tmp_path, MINIMAL), ["teacher.exec.data_parallel_size=2"])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["teacher.thinking_budget=5"], "thinking_budget is 5 with thinking: false"),
        (["teacher.thinking_budget=5", "teacher.thinking=true"], "thinking_budget is 5 with engine replay"),
        (["teacher.thinking_budget=0", "teacher.thinking=true", "teacher.engine=vllm"], "greater than or equal to 1"),
        (
            [
                "teacher.thinking_budget=5",
                "teacher.thinking=true",
                "teacher.engine=vllm",
                "teacher.exec.speculative={method: ngram}",
            ],
            "thinking_budget is 5 with exec.speculative",
        ),
        (["student.thinking_budget=5"], "student.thinking_budget: unknown key"),
        (["teacher.exec.speculative={method: ngram}"], "exec.speculative is set with engine replay"),
        (["student.engine=hf", "student.exec.speculative={method: ngram}"], "exec.speculative is set with engine hf"),
        (["student.exec.speculative={method: ngram, model: s}"], "Unset model, or set method: draft_model"),
        (["student.exec.speculative={method: draft_model}"], "method draft_model needs model"),
        (["student.exec.speculative={method: eagle3}"], "method eagle3 needs model"),
        (["student.exec.speculative={method: guess}"], "'ngram', 'draft_model', 'eagle' or 'eagle3'"),
        (["student.exec.speculative={method: ngram, tokens: 3}"], "student.exec.speculative.tokens: unknown key"),
        (["student.exec.speculative={method: ngram, num_speculative_tokens: 0}"], "greater than or equal to 1"),
        (
            ["student.exec.speculative={method: ngram, prompt_lookup_min: 5, prompt_lookup_max: 3}"],
            "prompt_lookup_min is 5, above prompt_lookup_max (3)",
        ),
    ],
)
def test_what_an_engine_could_not_keep_is_refused(tmp_path: Path, settings: list[str], says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(write(tmp_path, MINIMAL), settings)
    assert says in str(caught.value)


def test_the_number_of_rounds_is_set_where_it_stands_alone_too(tmp_path: Path) -> None:
    generate = "{routes: {last_student: {tasks: [a]}}, labelled_by: [last_student], logprobs: 5}"
    shares = "{teacher_shares: {t: 0.5, last_student: 0.5}}"
    path = write(tmp_path, f"{MINIMAL}rounds: 3\ngenerate: {generate}\nmix: {shares}\n")
    student = "student.engine=vllm"
    assert load(path, [student]).rounds.count == 3
    assert load(path, [student, "rounds.count=2"]).rounds.count == 2
    alone = load(path, [student, "rounds.count=1"])
    asked: Any = alone.sections["generate"]
    assert (dict(asked.routes), tuple(asked.further_labellers())) == ({}, ())


BUDGET = ["teacher.engine=vllm", "teacher.thinking=true", "teacher.max_model_len=9000", "eval.max_tokens=50"]


@pytest.mark.parametrize("budget", [20, 21])
def test_a_thinking_budget_that_leaves_no_room_for_an_answer_is_refused(tmp_path: Path, budget: int) -> None:
    settings = [*BUDGET, "generate.max_tokens=20"]
    load(write(tmp_path, MINIMAL), [*settings, "teacher.thinking_budget=19"])
    says = rf"teacher\.thinking_budget is {budget}, and generate\.max_tokens is 20: answers"
    with pytest.raises(RecipeError, match=says):
        load(write(tmp_path, MINIMAL), [*settings, f"teacher.thinking_budget={budget}"])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ([], []),
        (["generate.max_tokens=3000"], ["and sft.max_length is 2,048", "and eval.max_tokens is 1,024"]),
        (["generate.max_tokens=3000", "mix.trace_format=answer"], []),
        (["generate.max_tokens=1000", "sft={max_length: 500, objective: on_policy}"], []),
        (
            [
                "generate.max_tokens=200",
                *BUDGET[:2],
                "teacher.thinking_budget=50",
                "mix.trace_format=answer",
                BUDGET[3],
            ],
            ["teacher.thinking_budget is 50, and eval.max_tokens is 50: answers would end"],
        ),
        (["generate.max_tokens=3000", "filter.max_tokens=1024"], []),
        (["generate.max_tokens=3000", "filter.max_tokens=1500"], ["1,500 tokens, and eval.max_tokens is 1,024"]),
        (["generate.max_tokens=3000", "sft.max_length=4096", "eval.max_tokens=3000"], []),
        (
            ["generate={truncated: again, second_max_tokens: 3000}", "eval.max_tokens=3000"],
            ["generate.second_max_tokens lets a trace have 3,000 tokens, and sft.max_length is 2,048"],
        ),
    ],
)
def test_limits_that_another_section_does_not_meet_are_told(
    tmp_path: Path, settings: list[str], says: list[str]
) -> None:
    roomy = ["teacher.max_model_len=9000", "student.max_model_len=9000"]
    found = recipe.doubts(load(write(tmp_path, MINIMAL), [*roomy, *settings]))
    assert len(found) == len(says)
    assert all(part in line for part, line in zip(says, found, strict=True))


def test_an_unknown_key_of_a_source_names_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load(write(tmp_path, MINIMAL.replace("path: a.jsonl", "path: a.jsonl, colums: {}")))
    assert "Did you mean columns?" in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "place", "value"),
    [
        ("generate.samples=7", ("generate", "samples"), 7),
        ("generate.sampling.stop=[a, b]", ("generate", "sampling", "stop"), ["a", "b"]),
        ("teacher.model=./x=y", ("teacher", "model"), "./x=y"),
        ("mix.traces_per_problem=null", ("mix", "traces_per_problem"), None),
        ("seed.sources.0.path=b.csv", ("seed", "sources", 0, "path"), "b.csv"),
        ("mix.verification=off", ("mix", "verification"), "off"),
        ("dedupe.near=off", ("dedupe", "near"), False),
        ("sft.exec={liger: on, resumable: false}", ("sft", "exec", "liger"), "on"),
    ],
)
def test_a_setting_goes_over_the_files_value(tmp_path: Path, setting: str, place: tuple[Any, ...], value: Any) -> None:
    found: Any = load(write(tmp_path, MINIMAL), [setting]).resolved()
    for part in place:
        found = found[part]
    assert found == value


@pytest.mark.parametrize(
    "setting",
    [
        "generate.samples",
        "=3",
        "generate.samples.x=1",
        "seed.sources.5.path=b.csv",
        "generate.samples={{ samples }}",
        'description="\\ud83d"',
    ],
)
def test_a_setting_that_cannot_be_applied_is_an_error(tmp_path: Path, setting: str) -> None:
    with pytest.raises(RecipeError):
        load(write(tmp_path, MINIMAL + "generate: {samples: 3}\n"), [setting])


def test_a_missing_recipe_lists_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"No recipe at .*Shipped recipes: demo, demo-rounds"):
        load(tmp_path / "none.yaml")


def test_a_shipped_recipe_is_known_by_its_name_where_no_file_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(Path("demo-soft-labels")).name == "demo-soft-labels"
    write(tmp_path, MINIMAL).rename(tmp_path / "demo")
    assert load(Path("demo")).student.model == load(tmp_path / "demo").student.model != "smollm2-135m-instruct"


def test_more_teachers_have_names_of_their_own(tmp_path: Path) -> None:
    found = load(write(tmp_path, MINIMAL + "more_teachers: {coder: {model: c, engine: replay}}\n"))
    assert list(found.teachers) == ["teacher", "coder"]
    assert list(found.roles) == ["teacher", "coder", "student"]
    assert found.named("teachers") == ("teacher", "coder")
    assert found.resolved()["more_teachers"]["coder"]["model"] == "c"
    with pytest.raises(RecipeError, match="more_teachers has the name 'student'"):
        load(write(tmp_path, MINIMAL + "more_teachers: {student: {model: c}}\n"))


def test_a_peer_is_a_second_student_where_there_is_one(tmp_path: Path) -> None:
    plain = load(write(tmp_path, MINIMAL))
    assert (plain.peer, plain.named("peer"), "peer" in plain.roles, "peer" in plain.resolved()) == (
        None,
        (),
        False,
        False,
    )
    found = load(write(tmp_path, MINIMAL + "peer: {model: p}\n"))
    assert (found.named("peer"), found.roles["peer"].model) == (("peer",), "p")
    assert found.resolved()["peer"]["model"] == "p"
    teacher = MINIMAL.replace("engine: replay", "engine: hf")
    made = load(write(tmp_path, teacher + "peer: {from: teacher, layers: 2}\n"))
    assert (made.roles["peer"].model, made.resolved()["peer"]["layers"]) == (made.teacher.model, 2)
    with pytest.raises(RecipeError, match=r"peer\.from is 'techer'.*Did you mean teacher"):
        load(write(tmp_path, MINIMAL + "peer: {from: techer, layers: 2}\n"))
    with pytest.raises(RecipeError, match="more_teachers has the name 'peer'"):
        load(write(tmp_path, MINIMAL + "more_teachers: {peer: {model: c}}\n"))


def test_a_judge_is_a_model_of_its_own_where_there_is_one(tmp_path: Path) -> None:
    plain = load(write(tmp_path, MINIMAL))
    assert (plain.judge, plain.named("judge"), "judge" in plain.roles) == (None, (), False)
    found = load(write(tmp_path, MINIMAL + "judge: {model: j, engine: replay}\n"))
    assert (found.named("judge"), found.roles["judge"].prompt) == (("judge",), "judge")
    assert found.resolved()["judge"]["sampling"]["temperature"] == 0.0
    with pytest.raises(RecipeError, match="more_teachers has the name 'judge'"):
        load(write(tmp_path, MINIMAL + "more_teachers: {judge: {model: c}}\n"))


@pytest.mark.parametrize(
    ("twin", "says"),
    [
        ("model: t, thinking: true", "found thinking: true for twin, and the other way round for teacher"),
        ("model: /elsewhere/t", "found t for teacher and /elsewhere/t for twin, and traces name them both t"),
    ],
)
def test_teachers_whose_traces_look_alike_must_be_one_model_that_thinks_alike(
    tmp_path: Path, twin: str, says: str
) -> None:
    with pytest.raises(RecipeError, match=says):
        load(write(tmp_path, MINIMAL + f"more_teachers: {{twin: {{{twin}}}}}\n"))


def test_the_reviews_are_all_taken_and_as_many_of_each_label(tmp_path: Path) -> None:
    path = SHIPPED[0].with_name("sentiment.yaml")
    run = Run(load(path, ["seed.augment=[]", "teacher.engine=replay", "teacher.model=README.md"]), data=tmp_path)
    Runner(run).execute(["seed"])
    manifest = run.manifest("seed")
    assert manifest is not None
    rows = next(read_shards(run.stage_folder("seed"), manifest.datasets["problems"].shards)).to_pylist()
    labels = ("positive", "negative", "neutral")
    assert Counter((row["split"], row["answer"]) for row in rows) == {
        (split, label): count for split, count in (("train", 18), ("eval", 9)) for label in labels
    }
    assert {row["verifier"] for row in rows} == {"label"}


@pytest.mark.parametrize("name", ["demo-soft-labels", "qwen-soft-labels"])
def test_a_recipe_that_learns_soft_labels_has_its_teacher_keep_them(name: str) -> None:
    found: Any = load(SHIPPED[0].with_name(f"{name}.yaml")).resolved()
    assert found["sft"]["objective"] == "soft_labels"
    assert found["generate"]["logprobs"] > 0
    assert found["teacher"]["engine"] == "vllm"
