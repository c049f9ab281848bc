"""The sft stage with a second model in memory: a teacher for `features`, a peer for `mutual`."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from pipeline.roles import Peer, Student, Teacher
from pipeline.training import start
from stages import sft
from tests import small, tiny
from tests.desk import DeskInputs, DeskOutput, interrupted_at_save
from tests.tiny import weights

FAST: dict[str, Any] = {"batch_tokens": 512, "learning_rate": 1e-2, "epochs": 2, "save_dtype": "float32"}
LORA = {"method": "lora", "lora": {"rank": 2, "targets": ["q_proj", "up_proj"]}}
FEATURES: dict[str, Any] = {
    "objective": "features",
    "features": {"attention": {"weight": 1.0, "heads": "average"}, "relations": {"weight": 1.0}},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A student, and a deeper and wider model of its vocabulary as its teacher and as its peer."""
    folder = tmp_path_factory.mktemp("models")
    other = tiny.build(folder / "other", seed=7, hidden_size=48, num_hidden_layers=3, num_attention_heads=4)
    return {"student": tiny.build(folder / "student"), "teacher": other, "peer": other}


def trained(folder: Path, models: dict[str, Path], **values: Any) -> DeskOutput:
    rows = {"examples": pa.Table.from_pylist(tiny.examples(20, validation=4))}
    roles = {"teacher": Teacher(model="t"), "student": Student(model="s")}
    inputs, output = DeskInputs(folder, rows, **roles, models=models), DeskOutput(folder)
    inputs.peer = Peer(model="p")
    sft.run(sft.Config(**(FAST | {"exec": {"threads": 1}} | values)), inputs, output)
    return output


@pytest.mark.parametrize(
    ("beside", "values"),
    [("projections", FEATURES), ("peer", {"objective": "mutual"}), ("peer", {"objective": "mutual", **LORA})],
    ids=["features", "mutual", "mutual with adapters"],
)
def test_a_training_that_was_cut_off_ends_as_one_that_was_not(
    tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, beside: str, values: dict[str, Any]
) -> None:
    kept: dict[Path, dict[str, Any]] = {}
    built = sft.build_trainer

    def build(*arguments: Any) -> Any:
        made = built(*arguments)
        (output,) = (one for one in arguments if isinstance(one, DeskOutput))
        kept[output.folder] = made.beside
        return made

    monkeypatch.setattr(sft, "build_trainer", build)
    whole = trained(tmp_path / "whole", models, **values)
    with interrupted_at_save():
        trained(tmp_path / "cut", models, **values)
    again = trained(tmp_path / "cut", models, **values)
    assert again.facts["resumed_at_step"] > 0
    assert again.facts["loss"] == whole.facts["loss"]
    assert again.facts["eval_figures"] == whole.facts["eval_figures"]
    assert whole.facts["loss"][-1][1] < whole.facts["loss"][0][1]
    before, after = (weights(output.folder / "checkpoint") for output in (whole, again))
    assert [name for name, value in before.items() if not value.equal(after[name])] == []
    modules = [kept[output.folder][beside].state_dict() for output in (whole, again)]
    assert [name for name, value in modules[0].items() if not value.equal(modules[1][name])] == []


def test_a_checkpoint_holds_of_a_second_model_what_is_trained_alone(tmp_path: Path, models: dict[str, Path]) -> None:
    from safetensors.torch import load_file

    with interrupted_at_save():
        trained(tmp_path, models, objective="mutual", **LORA)
    names = load_file(next(tmp_path.rglob("objective-peer.safetensors")))
    assert len(names) == 2 * 2 * 3, "two matrices of two layers' adapters in each of three blocks"
    assert all("lora_" in name for name in names)


@pytest.mark.parametrize("held", ["model.embed_tokens.weight", "lm_head.weight"])
def test_a_second_model_is_read_from_a_checkpoint_by_either_name_of_what_is_tied(tmp_path: Path, held: str) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    from pipeline.training.trainer import PlannedTrainer

    folder = tiny.build(tmp_path / "tied")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    saved, module = (AutoModelForCausalLM.from_pretrained(folder) for _ in range(2))
    torch.nn.init.normal_(saved.lm_head.weight)
    names = {name for name, _ in saved.named_parameters()} - {"model.embed_tokens.weight"} | {held}
    state = {name: value for name, value in saved.state_dict().items() if name in names}
    save_file(state, tmp_path / "objective-peer.safetensors")
    trainer: Any = SimpleNamespace(beside={"peer": module}, args=SimpleNamespace(device="cpu"), root=tmp_path)
    PlannedTrainer._load_beside(trainer, tmp_path)
    assert all(value.equal(saved.state_dict()[name]) for name, value in module.state_dict().items())
    save_file({name: value for name, value in state.items() if name != held}, tmp_path / "objective-peer.safetensors")
    with pytest.raises(ValueError, match=r"does not hold model\.embed_tokens\.weight.* to start over"):
        PlannedTrainer._load_beside(trainer, tmp_path)


def test_models_without_a_chat_template_of_their_own_are_compared_by_their_tokens(tmp_path: Path) -> None:
    for name, tokenizer in (("student", tiny.tokenizer()), ("other", tiny.other_tokenizer())):
        tokenizer.chat_template = None
        tiny.build(tmp_path / name, seed=len(name))
        (tmp_path / name / "chat_template.jinja").unlink()
        tokenizer.save_pretrained(tmp_path / name)
    plain = shutil.copytree(tmp_path / "student", tmp_path / "plain")
    (plain / "tokenizer.json").unlink()
    student = Student(model=str(tmp_path / "student"), engine="hf", chat_template="chatml")
    for objective in ("features", "on_policy"):
        config = sft.Config(objective=objective)
        for teacher, refused in (("student", False), ("plain", False), ("other", True)):
            roles = {"student": student, "teacher": Teacher(model=str(tmp_path / teacher), engine="hf")}
            with pytest.raises(ValueError, match="another ") if refused else nullcontext():
                sft.refuse(config, roles, tmp_path)
    start.checked(str(tmp_path / "student"), tmp_path / "student", tmp_path)
    peer = Peer(model=str(tmp_path / "other"), engine="hf", think_tokens=True)
    sft.refuse(sft.Config(objective="mutual"), {"student": student, "peer": peer}, tmp_path)


def test_both_students_of_a_mutual_training_learn_and_come_out(
    tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pipeline.objectives.mutual import Mutual

    modes: list[tuple[bool, bool]] = []
    real = Mutual.loss

    def watched(self: Any, *given: Any) -> Any:
        modes.append((torch.is_grad_enabled(), self.peer.training))
        return real(self, *given)

    monkeypatch.setattr(Mutual, "loss", watched)
    output = trained(tmp_path, models, objective="mutual", epochs=3)
    assert set(modes) == {(True, True), (False, False)}, "in evaluation mode nothing is recomputed or dropped out"
    for name in ("cross_entropy", "peer_cross_entropy"):
        values = [value for _, value in output.facts["eval_figures"][name]]
        assert values == sorted(values, reverse=True)
        assert len(set(values)) == 3
    for artifact, role in (("checkpoint", "student"), ("peer", "peer")):
        before, after = weights(models[role]), weights(output.folder / artifact)
        assert before.keys() == after.keys()
        assert not all(value.equal(after[name]) for name, value in before.items())
        assert AutoModelForCausalLM.from_pretrained(output.folder / artifact).config.use_cache
        assert AutoTokenizer.from_pretrained(output.folder / artifact).eos_token == "<|im_end|>"


def test_an_adapter_takes_over_features(tmp_path: Path, models: dict[str, Path]) -> None:
    output = trained(tmp_path, models, **LORA, **FEATURES)
    hidden = [value for _, value in output.facts["eval_figures"]["hidden"]]
    assert hidden[-1] < hidden[0]
    before, after = weights(models["student"]), weights(output.folder / "checkpoint")
    changed = {name for name, value in after.items() if not value.equal(before[name])}
    assert {name.split(".")[-2] for name in changed} == {"q_proj", "up_proj"}


def test_the_second_student_belongs_to_the_run(tmp_path: Path, models: dict[str, Path]) -> None:
    path = small.write(tmp_path, sft__objective="mutual", peer__model=str(models["peer"]), problems=12)
    run = small.run_of(path)
    small.ran(run, "sft")
    manifest = small.manifest(run, "sft")
    assert manifest.artifacts.keys() == {"checkpoint", "peer"}
    assert manifest.identity.models.keys() == {"student", "peer"}
    assert small.run_of(path).state("sft").word == "fresh"
    other = small.run_of(path, f"peer.model={models['student']}").state("sft")
    assert [change.key for change in other.changes] == ["models.peer"]
    with pytest.raises(ValueError, match=r"teacher\.engine is replay, and objective features runs the teacher's model"):
        small.ran(small.run_of(path, "sft.objective=features"), "sft", ["sft"])


def test_a_mutual_training_without_a_peer_is_refused(tmp_path: Path, models: dict[str, Path]) -> None:
    inputs = DeskInputs(tmp_path, student=Student(model="s"), models=models)
    with pytest.raises(ValueError, match="found no peer in the recipe"):
        sft.run(sft.Config(objective="mutual"), inputs, DeskOutput(tmp_path))


def test_more_tokens_than_the_teacher_has_positions_are_refused(tmp_path: Path, models: dict[str, Path]) -> None:
    short = tiny.build(tmp_path / "short", positions=256)
    with pytest.raises(ValueError, match="the teacher has only 256 positions"):
        trained(tmp_path, models | {"teacher": short}, objective="features", max_length=300)


@pytest.mark.parametrize(
    ("objective", "roles"),
    [("sft", ("student",)), ("features", ("student", "teacher")), ("mutual", ("student", "peer"))],
)
def test_a_second_model_is_part_of_the_identity_of_those_that_run_one(objective: str, roles: tuple[str, ...]) -> None:
    config = sft.Config(objective=objective)
    assert sft.STAGE.weights_of(config) == roles
    assert set(sft.STAGE.roles_of(config)) == set(roles)


def test_values_of_another_objective_are_refused() -> None:
    with pytest.raises(ValueError, match="found values for mutual beside objective features"):
        sft.Config(objective="features", mutual={"weight": 2.0})
