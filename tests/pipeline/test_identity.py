"""Every value of the demo recipe outside `exec:` changes some stage's identity, and none inside does, nor one that
only says when to give up."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import plan, recipe
from pipeline.manifest import Identity, fingerprint
from pipeline.recipe import RecipeError
from pipeline.run import ROOT, Run
from pipeline.stage import StageError

DEMO = ROOT / "pipeline/recipes/demo.yaml"
# What to try in place of a value, until one is valid: numbers near it, and words that some field knows.
WORDS = (
    "think",
    "first",
    "off",
    "soft_labels",
    "hf",
    "float32",
    "lora",
    "last",
    "linear",
    "dev",
    "question",
    "solve",
    "chatml",
    "float16",
    "eager",
    "one",
    "all",
    "best",
    "ask",
)
# Values that only fit beside another one.
BESIDE: dict[tuple[str, ...], tuple[str, dict[str, Any]]] = {
    ("teacher", "thinking_budget"): ("teacher", {"thinking": True}),
    ("generate", "labelled_by"): ("generate", {"logprobs": 5}),
    ("generate", "truncated"): ("generate", {"truncated": "again", "second_max_tokens": 600}),
    ("generate", "second_max_tokens"): ("generate", {"truncated": "again", "second_max_tokens": 600}),
    ("mix", "long_tokens"): ("mix", {"long_share": 0.2}),
    ("sft", "exec", "config"): ("sft", {"exec": {"launcher": "accelerate", "config": "ddp"}}),
    ("sft", "objective"): ("generate", {"logprobs": 5}),
    **{("sft", "lora", key): ("sft", {"method": "lora"}) for key in ("rank", "alpha", "dropout", "targets")},
}
# They name a run and speak to people; or they say which rounds there are, each of which has identities of its own.
NAMES_ONLY = {"name", "description", "rounds"}


def leaves(value: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, (*place, str(key)))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for index, item in enumerate(value):
            yield from leaves(item, (*place, str(index)))
    else:
        yield place, value


def others(value: Any) -> list[Any]:
    """Values to try in place of one."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1, value - 1, value / 2, value + 0.25, 1, 0.5]
    if value is None:
        return [3, 0.5, True, "question", "chatml", "awq", ["a"], {"right": 1}, {"method": "ngram"}]
    if isinstance(value, list):
        return [[], ["question"], ["truncated"], [{"kind": "paraphrase"}], value[:-1]]
    if isinstance(value, dict):
        return [
            {"gcd": "question"},
            {"extra": 1},
            {"teacher": {"share": 2.0}},
            {"other": {"model": "qwen2.5-coder-0.5b-instruct"}},
        ]
    return [word for word in WORDS if word != value] + ["smollm2-135m-instruct", "gcd", "cpu"]


GIVES_UP = {("sft", "wild_loss_factor"), ("sft", "wild_loss_steps")}


def identities(values: dict[str, Any]) -> dict[str, str]:
    run = Run(recipe.check(values, "demo", "demo"), data=Path("/nonexistent"))
    return {stage.name: fingerprint(run.identity(stage)) for stage in plan.stages()}


def resolved(place: tuple[str, ...]) -> dict[str, Any]:
    """The demo's values, with what a change at a place needs beside it."""
    values = recipe.load(DEMO).resolved()
    if place in BESIDE:
        section, needed = BESIDE[place]
        values[section] |= needed
    return values


def spot(values: dict[str, Any], place: tuple[str, ...]) -> Any:
    """What holds the value at a place."""
    found: Any = values
    for part in place[:-1]:
        found = found[int(part)] if isinstance(found, list) else found[part]
    return found


def changed(place: tuple[str, ...], value: Any) -> dict[str, Any]:
    values = resolved(place)
    spot(values, place)[place[-1]] = value
    return values


PLACES = [(place, value) for place, value in leaves(recipe.load(DEMO).resolved()) if not NAMES_ONLY & set(place[:1])]


@pytest.mark.parametrize(("place", "value"), PLACES, ids=[".".join(place) for place, _ in PLACES])
def test_a_values_change_is_seen_exactly_where_it_is_not_about_execution(place: tuple[str, ...], value: Any) -> None:
    before = identities(resolved(place))
    if place in BESIDE:
        value = spot(resolved(place), place)[place[-1]]
    for other in (one for one in others(value) if one != value):
        try:
            after = identities(changed(place, other))
        except (RecipeError, StageError, ValueError):
            continue
        assert (after == before) == ("exec" in place or place in GIVES_UP), f"{value!r} -> {other!r}"
        return
    pytest.skip(f"no other value of {value!r} is valid")


def seed_identity(**changes: Any) -> Identity:
    """Of the demo's seed, with other values under dotted keys (dots as double underscores)."""
    values = recipe.load(DEMO).resolved()
    for key, value in changes.items():
        section, name = key.split("__")
        values[section][name] = value
    return Run(recipe.check(values, "demo", "demo"), data=Path("/nonexistent")).identity(plan.stage("seed"))


def test_seed_without_variants_is_what_it_was_before_there_were_any() -> None:
    identity = seed_identity()
    assert "augment" not in identity.config
    assert identity.roles.keys() == {"teacher", "student"}
    assert {tuple(keys) for keys in identity.roles.values()} == {("prompt", "task_prompts")}
    assert identity.models == {}
    assert not [name for name in identity.prompts if name.startswith("augment/")]


def test_a_thinking_budget_decides_words_and_without_one_identity_is_what_it_was() -> None:
    values = recipe.load(DEMO).resolved()
    values["teacher"]["thinking"] = True
    before = Run(recipe.check(values, "demo", "demo"), data=Path("/nonexistent"))
    values["teacher"]["thinking_budget"] = 64
    after = Run(recipe.check(values, "demo", "demo"), data=Path("/nonexistent"))
    for name in plan.ORDER:
        roles = before.identity(plan.stage(name)).roles
        assert not any("thinking_budget" in keys for keys in roles.values())
        differs = before.identity(plan.stage(name)) != after.identity(plan.stage(name))
        assert differs == (name in ("generate", "eval"))
    writes = {"seed__augment": [{"kind": "paraphrase"}], "teacher__thinking": True}
    assert seed_identity(**writes) != seed_identity(**writes, teacher__thinking_budget=64)


@pytest.mark.parametrize(
    "change",
    [
        {"teacher__model": "smollm2-135m-instruct"},
        {"teacher__dtype": "float32"},
        {"teacher__max_model_len": 512},
        {"teacher__system": "question"},
        {"teacher__thinking": True},
        {"teacher__engine": "hf"},
    ],
)
def test_the_teacher_decides_problems_only_where_it_writes_some(change: dict[str, Any]) -> None:
    assert seed_identity(**change) == seed_identity()
    writes = {"seed__augment": [{"kind": "paraphrase"}]}
    assert seed_identity(**change, **writes) != seed_identity(**writes)


def test_the_templates_that_variants_are_asked_with_decide_them() -> None:
    kinds = {
        "paraphrase": {"augment/paraphrase"},
        "back_translation": {"augment/translate", "augment/translate-back"},
        "harder": {"augment/harder"},
    }
    before = set(seed_identity().prompts)
    for kind, names in kinds.items():
        assert set(seed_identity(seed__augment=[{"kind": kind}]).prompts) == before | names


def test_what_teachers_count_decides_sft_alone_and_who_labels_generate_alone() -> None:
    def identities_of(generate: dict[str, Any], soft_labels: dict[str, Any]) -> dict[str, str]:
        values = recipe.load(DEMO.with_name("demo-soft-labels.yaml")).resolved()
        values["generate"] |= generate
        values["sft"]["soft_labels"] |= soft_labels
        values["more_teachers"] = {"other": {**values["teacher"], "model": "smollm2-135m-instruct"}}
        return identities(values)

    before = identities_of({}, {})
    weights = {"teachers": {"qwen2.5-coder-0.5b-instruct": 2.0}, "domains": {"code": {"smollm2-135m-instruct": 0.5}}}
    cases: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
        ("sft", {}, {"weights": weights}),
        ("sft", {}, {"weights": {"teachers": weights["teachers"]}}),
        ("generate", {"labelled_by": "all"}, {}),
        ("generate", {"labelled_by": ["teacher"]}, {}),
    )
    for stage, generate, soft_labels in cases:
        after = identities_of(generate, soft_labels)
        assert [name for name, found in after.items() if found != before[name]] == [stage]
