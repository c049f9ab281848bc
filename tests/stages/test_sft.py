"""The sft stage on a tiny Llama: what it trains on, what it writes, and when it refuses."""

import errno
import json
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError

from pipeline.roles import Student
from pipeline.section import declared
from pipeline.stage import StageError
from pipeline.training import material, options, products, refusals, results, settings
from pipeline.training.encode import Encoded
from stages import sft
from tests import tiny
from tests.desk import DeskInputs, DeskOutput, interrupted_at_save
from tests.tiny import weights

FAST: dict[str, Any] = {"batch_tokens": 512, "learning_rate": 1e-2, "exec": {"threads": 1}}


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build(tmp_path_factory.mktemp("student"))


def desk(folder: Path, student: Path, rows: list[dict[str, Any]]) -> tuple[DeskInputs, DeskOutput]:
    role = Student(model=str(student))
    tables = {"examples": pa.Table.from_pylist(rows)}
    return DeskInputs(folder, tables, student=role, models={"student": student}), DeskOutput(folder)


def trained(folder: Path, student: Path, rows: list[dict[str, Any]], **values: Any) -> DeskOutput:
    inputs, output = desk(folder, student, rows)
    sft.run(sft.Config(**(FAST | values)), inputs, output)
    return output


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, student: Path) -> DeskOutput:
    return trained(tmp_path_factory.mktemp("full"), student, tiny.examples(40, validation=8), epochs=3)


def test_the_student_learns(done: DeskOutput) -> None:
    losses = [loss for _, loss in done.facts["loss"]]
    validation = [loss for _, loss in done.facts["eval_loss"]]
    assert losses[-1] < losses[0] - 1
    assert len(validation) == 3
    assert validation == sorted(validation, reverse=True)
    assert done.facts["best_step"] == done.facts["steps"] == done.facts["steps_planned"] == len(losses)


def test_the_checkpoint_is_a_folder_that_loads_and_stops_at_the_end_of_a_turn(done: DeskOutput, student: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    folder = done.folder / "checkpoint"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert str(model.dtype) == "torch.bfloat16"
    assert tokenizer.chat_template == tiny.CHAT_TEMPLATE
    assert tokenizer.eos_token == "<|im_end|>"
    assert GenerationConfig.from_pretrained(folder).eos_token_id == tokenizer.eos_token_id
    assert any((weights(folder)[name] != value).any() for name, value in weights(student).items())
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not any("trainer" in name or name.endswith((".pt", ".pth", ".bin")) for name in names)


def test_the_facts_are_json_and_count_every_row(done: DeskOutput) -> None:
    facts = json.loads(json.dumps(done.facts))
    assert facts["audit"]["examples"] == done.counts["trained"] == 40
    assert done.counts["validation"] == 8
    assert 0 <= facts["padding_share"] < 0.2
    assert facts["tokens_per_s"] > 0
    assert any(path.name.startswith("events") for path in (done.folder / "logs").iterdir())


def test_the_layout_of_the_examples_changes_nothing(tmp_path: Path, student: Path) -> None:
    config, tokenizer, rows = sft.Config(**FAST), tiny.tokenizer(), tiny.examples(30, validation=4)
    assert material.prepare(config, tokenizer, rows, None) == material.prepare(config, tokenizer, rows[::-1], None)


def test_an_adapter_is_trained_and_merged(tmp_path: Path, student: Path) -> None:
    from transformers import AutoModelForCausalLM

    rows = tiny.examples(20, validation=4)
    lora = {"rank": 4, "alpha": 8, "dropout": 0.1, "targets": ["q_proj", "v_proj"]}
    output = trained(tmp_path, student, rows, method="lora", lora=lora, epochs=2)
    folder = output.folder / "checkpoint"
    AutoModelForCausalLM.from_pretrained(folder)
    before, after = weights(student), weights(folder)
    changed = {name for name, value in after.items() if not value.equal(before[name].to(value.dtype))}
    assert {name.split(".")[-2] for name in changed} == {"q_proj", "v_proj"}
    assert set(before) == set(after)


def test_an_adapter_learns_the_tokens_that_a_student_was_given(tmp_path: Path, student: Path) -> None:
    from transformers import AutoTokenizer

    from pipeline.student import make

    given = tmp_path / "given"
    make(student, given, None, True)
    lora = {"rank": 4, "targets": ["q_proj"]}
    output = trained(tmp_path, given, tiny.examples(20, validation=4), method="lora", lora=lora)
    tokenizer = AutoTokenizer.from_pretrained(output.folder / "checkpoint")
    ids = {tokenizer.convert_tokens_to_ids(tag) for tag in output.facts["student"]["added_tokens"]}
    assert len(ids) == 2
    before, after = (weights(folder)["model.embed_tokens.weight"] for folder in (given, output.folder / "checkpoint"))
    changed = (before.to(after.dtype) != after).any(dim=1).nonzero().flatten().tolist()
    assert set(changed) == ids
    assert any("and the tokens" in line for line in output.lines)


def test_weights_in_four_bits_are_refused_without_a_gpu(tmp_path: Path, student: Path) -> None:
    with pytest.raises(ValueError, match=r"torch sees no CUDA GPU; expected one.*Set sft.method: lora"):
        trained(tmp_path, student, tiny.examples(4), method="qlora")


def test_without_validation_the_last_checkpoint_is_kept(tmp_path: Path, student: Path) -> None:
    output = trained(tmp_path, student, tiny.examples(12), epochs=1)
    assert output.facts["eval_loss"] == []
    assert output.facts["best_step"] == output.facts["steps"]
    assert any("no validation examples" in line for line in output.lines)


def test_a_training_that_ended_is_written_though_no_optimizer_was_saved(
    tmp_path: Path, student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, values = tiny.examples(20, validation=4), {"exec": {"threads": 1, "resumable": False}}
    whole = trained(tmp_path / "whole", student, rows, **values)
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(sft.model, "save", mock.Mock(side_effect=full))
    with pytest.raises(OSError, match="No space left"):
        trained(tmp_path / "cut", student, rows, **values)
    monkeypatch.undo()
    again = trained(tmp_path / "cut", student, rows, **values)
    assert again.facts["resumed_at_step"] == again.facts["steps"]
    before, after = (weights(output.folder / "checkpoint") for output in (whole, again))
    assert [name for name, value in before.items() if not value.equal(after[name])] == []


@pytest.mark.parametrize("resumable", [False, True])
def test_a_training_that_was_cut_off_goes_on_only_where_its_optimizer_was_saved(
    tmp_path: Path, student: Path, resumable: bool
) -> None:
    rows, values = tiny.examples(20, validation=4), {"epochs": 2, "save_dtype": "float32"}
    values["exec"] = {"threads": 1, "resumable": resumable}
    whole = trained(tmp_path / "whole", student, rows, **values)
    with interrupted_at_save():
        trained(tmp_path / "cut", student, rows, **values)
    again = trained(tmp_path / "cut", student, rows, **values)
    assert (again.facts["resumed_at_step"] > 0) is resumable
    assert any("training starts over" in line for line in again.lines) is not resumable
    assert again.facts["loss"] == whole.facts["loss"]
    before, after = (weights(output.folder / "checkpoint") for output in (whole, again))
    assert [name for name, value in before.items() if not value.equal(after[name])] == []


def test_products_are_made_in_float32_where_that_is_faster(
    tmp_path: Path, student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, gains, seen = tiny.examples(8, validation=0), {"slow": 3.0, "fast": 0.5}, {}
    forward = torch.nn.Linear.forward

    def watched(self: torch.nn.Linear, given: torch.Tensor) -> torch.Tensor:
        made = forward(self, given)
        seen[name].add(made.dtype)
        return made

    monkeypatch.setattr(torch.nn.Linear, "forward", watched)
    for name, gain in gains.items():
        seen[name] = set[torch.dtype]()
        monkeypatch.setattr(products, "gain", lambda gain=gain: gain)
        output = trained(tmp_path / name, student, rows, epochs=1)
        dtype = {"slow": torch.float32, "fast": torch.bfloat16}[name]
        assert (seen[name], output.facts["products"]) == ({dtype}, str(dtype).removeprefix("torch."))
        assert any("sft.exec.upcast" in line for line in output.lines) is (name == "slow")


def test_a_training_that_was_cut_off_starts_over_where_its_examples_come_in_another_order(
    tmp_path: Path, student: Path
) -> None:
    rows, values = tiny.examples(20, validation=4), {"epochs": 2, "batch_tokens": 256, "pool_batches": 1}
    rising, falling = ([row | {"place": sign * n} for n, row in enumerate(rows)] for sign in (1.0, -1.0))
    whole = trained(tmp_path / "whole", student, falling, **values)
    with interrupted_at_save():
        trained(tmp_path / "cut", student, rising, **values)
    again = trained(tmp_path / "cut", student, falling, **values)
    assert again.facts["resumed_at_step"] == 0
    assert again.facts["loss"] == whole.facts["loss"]


def test_fewer_tokens_than_a_step_teaches_are_refused(tmp_path: Path, student: Path) -> None:
    with pytest.raises(StageError, match=r"sft.loss_tokens is 50, less than half of what the first batch teaches"):
        trained(tmp_path, student, tiny.examples(20, validation=4), loss_tokens=50)


def test_a_long_example_is_dropped_counted_and_named(tmp_path: Path, student: Path) -> None:
    rows = tiny.examples(40, validation=4)
    rows[3]["completion"] = [{"role": "assistant", "content": "<think>\n" + "so " * 300 + "\n</think>\n\nIt is 4."}]
    inputs, output = desk(tmp_path, student, rows)
    tokenizer = tiny.tokenizer()
    checked = sft.checked(sft.Config(**FAST, max_length=200), inputs, tokenizer, output)
    assert len(checked.train) == output.counts["trained"] == 39
    assert output.counts["too_long"] == 1
    assert [(one["id"], one["reason"]) for one in output.facts["left_out"]] == [("trace-0003", "too_long")]
    assert max(one.length for one in checked.train) <= 200


def test_a_template_that_drops_reasoning_is_refused_before_training(tmp_path: Path, student: Path) -> None:
    dropping = tiny.build(tmp_path / "student", chat_template=tiny.DROPPING_TEMPLATE)
    inputs, output = desk(tmp_path, dropping, tiny.examples(8))
    with pytest.raises(StageError, match=r"drops or rewrites reasoning.*Name a student.chat_template"):
        sft.run(sft.Config(**FAST), inputs, output)
    assert output.facts["audit"]["template_kept_share"] == 0.0
    assert not (output.work / "trainer").exists()


def test_more_tokens_than_the_student_has_positions_are_refused(tmp_path: Path, student: Path) -> None:
    inputs, output = desk(tmp_path, student, tiny.examples(8))
    with pytest.raises(ValueError, match="Set it to 2048 or less"):
        sft.run(sft.Config(**FAST, max_length=4096), inputs, output)


def test_no_training_examples_are_refused(tmp_path: Path, student: Path) -> None:
    inputs, output = desk(tmp_path, student, tiny.examples(0, validation=4))
    with pytest.raises(StageError, match="no token would be learnt"):
        sft.run(sft.Config(**FAST), inputs, output)


@pytest.mark.parametrize("place", ["my-run", "my-run/round-2"])
def test_a_training_is_reported_under_its_run_and_round(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "runs" / place / "sft" / "work" / "trainer"
    assert settings.arguments(sft.Config(), folder, 4, True, False)["run_name"] == place


def test_an_unknown_objective_is_refused() -> None:
    with pytest.raises(ValidationError, match="expected one of sft"):
        sft.Config(objective="stf")


@pytest.mark.parametrize(
    ("steps", "evaluations", "every"), [(10, 2, 5), (11, 2, 6), (3, 5, 1), (1, 1, 1), (100, 3, 34)]
)
def test_evaluations_are_spread_over_all_steps(steps: int, evaluations: int, every: int) -> None:
    assert settings.interval(steps, evaluations) == every


def test_what_an_objective_reported_is_read_from_the_history_alone() -> None:
    step = {"loss": 1.0, "grad_norm": 2.0, "learning_rate": 1e-4, "epoch": 0.5, "divergence": 0.25}
    history = [
        step | {"step": 1},
        {"step": 1, "eval_loss": 1.0, "eval_divergence": 0.5},
        {"step": 1, "train_loss": 1.0},
    ]
    assert results.figures(history) == {"divergence": [[1, 0.25]]}


def test_a_long_curve_is_averaged_in_runs() -> None:
    history = [{"step": step, "loss": float(step)} for step in range(1, 8)] + [{"step": 7, "eval_loss": 1.0}]
    assert results.curve(history, "loss", 100) == [[step, float(step)] for step in range(1, 8)]
    assert results.curve(history, "loss", 3) == [[3, 2.0], [6, 5.0], [7, 7.0]]
    assert results.curve(history, "eval_loss", 3) == [[7, 1.0]]


@pytest.mark.parametrize("values", [{"config": "fsdp2"}, {"processes": 2}])
def test_several_processes_without_a_launcher_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"and launcher none, .* set launcher: accelerate"):
        sft.Config(exec=values)
    sft.Config(exec={"launcher": "accelerate", **values})


def test_several_visible_gpus_are_refused_before_anything_is_loaded(
    tmp_path: Path, student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(sft, "load_tokenizer", lambda *_: pytest.fail("loaded a tokenizer"))
    several = r"found 3 visible GPUs; .* one GPU\. .*CUDA_VISIBLE_DEVICES=0"
    with pytest.raises(ValueError, match=several):
        trained(tmp_path, student, tiny.examples(4))
    monkeypatch.setattr(refusals, "DEVICES", tmp_path)
    roles = {"student": Student(model=str(student))}
    sft.refuse(sft.Config(max_length=64), roles, tmp_path)
    for number in range(3):
        (tmp_path / f"nvidia{number}").touch()
    with pytest.raises(ValueError, match=several):
        sft.refuse(sft.Config(max_length=64), roles, tmp_path)


def test_a_loss_that_explodes_stops_with_its_batches_in_a_file(
    tmp_path: Path, student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.training import trainer

    monkeypatch.setattr(trainer, "LEAST_STEPS", 1)
    inputs, output = desk(tmp_path, student, tiny.examples(24))
    (output.folder / sft.DIVERGED_FILE).write_text("of an earlier training")
    wild = FAST | {"batch_tokens": 128, "learning_rate": 30.0, "schedule": "constant", "warmup_share": 0.0, "epochs": 4}
    with pytest.raises(StageError, match=r"times its median .* The batches are in .*diverged\.json"):
        sft.run(sft.Config(**wild, wild_loss_factor=1.2, wild_loss_steps=2), inputs, output)
    told = json.loads((output.folder / sft.DIVERGED_FILE).read_text())
    assert len(told["batches"]) == 2
    assert {trace for batch in told["batches"] for trace in batch["ids"]} <= {row["id"] for row in tiny.examples(24)}
    assert all(batch["ids"] for batch in told["batches"])


def test_a_batch_by_count_is_a_step_however_it_goes_through_the_student(tmp_path: Path, student: Path) -> None:
    """In parts of 128 tokens, padded or packed, or all at once: the same losses."""
    rows = tiny.examples(20, validation=3)
    curves = []
    for name, values in (
        ("whole", {"batch_tokens": 4096}),
        ("parts", {"batch_tokens": 128}),
        ("packed", {"batch_tokens": 128, "exec": {"threads": 1, "layout": "packed"}}),
    ):
        fixed = {"batch_examples": 8, "compute_dtype": "float32", "epochs": 2}
        output = trained(tmp_path / name, student, rows, **fixed | values)
        assert output.facts["steps"] == 6
        curves.append([loss for _, loss in output.facts["loss"] + output.facts["eval_loss"]])
    for other in curves[1:]:
        assert other == pytest.approx(curves[0], abs=1e-4)


def test_packing_is_for_objectives_that_look_at_learnt_positions_alone() -> None:
    assert not options.is_packed(sft.Config(), "sdpa")
    assert options.is_packed(sft.Config(), "flash_attention_2")
    assert options.is_packed(sft.Config(exec={"layout": "packed"}), "sdpa")
    assert not options.is_packed(sft.Config(exec={"layout": "padded"}), "flash_attention_2")
    with pytest.raises(ValueError, match=r"objective features compares whole rows; .*Set exec.layout: padded"):
        sft.Config(objective="features", exec={"layout": "packed"})


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"lora": {"rank": 64}}, "found values for lora beside method full"),
        ({"schedule": "linear", "final_learning_rate_share": 0.1}, "beside schedule linear, which does not read it"),
        ({"method": "lora", "lora": {"targets": ["q_proj", "lm_head"]}}, "an adapter on it would learn nothing"),
        (
            {"objective": "features", "features": {"attention": {"weight": 1}}, "exec": {"attention": "sdpa"}},
            "found exec.attention sdpa beside features.attention.weight",
        ),
    ],
)
def test_what_a_choice_beside_it_leaves_unread_is_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        sft.Config(**values)


def test_a_layer_that_the_student_does_not_have_is_refused(tmp_path: Path, student: Path) -> None:
    lora = {"targets": ["q_proj", "v_porj"]}
    with pytest.raises(ValueError, match=r"targets has 'v_porj'.*mean 'v_proj'\? Those with weights: .*up_proj"):
        trained(tmp_path, student, tiny.examples(4), method="lora", lora=lora)


def test_attention_maps_are_compared_with_attention_that_hands_them_out() -> None:
    config = sft.Config(objective="features", features={"attention": {"weight": 1}})
    assert options.attention(config, 9000, on_gpu=True) == "eager"


def test_what_is_not_installed_is_named_with_the_line_that_installs_it(
    tmp_path: Path, student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "installed", lambda name: False)
    with pytest.raises(ValueError, match=r"names wandb, which is not installed.*pip install -e '\.\[wandb\]'"):
        trained(tmp_path, student, tiny.examples(4), exec={"report_to": ["tensorboard", "wandb"]})
    with pytest.raises(ValueError, match=r"there is no GPU\. Set sft.exec.liger: auto"):
        options.with_liger(options.Exec(liger="on"), on_gpu=False)
    with pytest.raises(ValueError, match=r"no liger_kernel\. Install it: .*pip install liger-kernel"):
        options.with_liger(options.Exec(liger="on"), on_gpu=True)
    assert options.attention(sft.Config(), 9000, on_gpu=True) == "sdpa"
    monkeypatch.setattr(options, "installed", lambda name: True)
    assert options.with_liger(options.Exec(), on_gpu=True)
    assert not options.with_liger(options.Exec(), on_gpu=False)
    assert options.attention(sft.Config(), 9000, on_gpu=True) == "flash_attention_2"
    assert options.attention(sft.Config(compute_dtype="float32"), 9000, on_gpu=True) == "sdpa"


def test_where_and_how_fast_it_trains_is_no_part_of_its_identity() -> None:
    other = {"layout": "packed", "liger": "off", "report_to": ["wandb"], "attention": "eager"}
    assert declared(sft.Config(exec=other)) == declared(sft.Config())
    assert "wild_loss_factor" not in declared(sft.Config())
    assert declared(sft.Config(batch_examples=64))["batch_examples"] == 64


def test_examples_are_met_in_the_order_that_mix_declares() -> None:
    rows = [{"id": f"{n}", "place": n / 9} for n in range(9)]
    encoded = [Encoded(row["id"], (), "", [1], [2]) for row in reversed(rows)]
    assert material.places_of(encoded, rows) == [n / 9 for n in reversed(range(9))]
    assert material.places_of(encoded, [{**row, "place": None} for row in rows]) is None
    assert (
        material.places_of(encoded, [{"id": row["id"]} for row in rows]) is None
    )  # of a mix made before there were places
