"""Weights of fewer bits: each at its nearest step, written so that a loader of compressed-tensors reads them back."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline.quantisation import GROUP, QuantisationError, cast, quantise, role_of, steps, weight_bytes, write
from pipeline.roles import Student
from tests import tiny

IDS = [[5, 60, 7, 90, 11, 3], [200, 1, 2, 33, 44, 55]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint as sft writes one: bfloat16."""
    from transformers import AutoModelForCausalLM

    folder = tiny.build(tmp_path_factory.mktemp("checkpoint"))
    AutoModelForCausalLM.from_pretrained(folder, dtype="bfloat16").save_pretrained(folder)
    return folder


def loaded(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype="bfloat16").eval()


def logits(model: Any) -> Any:
    import torch

    with torch.inference_mode():
        return model(input_ids=torch.tensor(IDS), use_cache=False).logits.float()


@pytest.mark.parametrize(("bits", "group"), [(8, None), (4, 32), (4, 64)])
def test_a_step_leaves_no_more_error_than_the_plain_one_and_rounds_to_the_nearest(bits: int, group: int | None) -> None:
    import torch

    torch.manual_seed(0)
    weight = torch.randn(6, 128) * torch.logspace(-3, 1, 6)[:, None]
    weight[2] = 0
    found = steps(weight, bits, group)
    assert found.shape == (6, 128 // (group or 128))
    assert (found > 0).all()
    assert found.equal(found.bfloat16().float())
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

    def error(step: Any) -> Any:
        parts = weight.view(6, -1, group or 128)
        grid = torch.arange(low, high + 1) * step[..., None]  # every number that can be said
        nearest = (parts[..., None] - grid[:, :, None, :]).abs().min(dim=-1).values
        return nearest.square().sum(dim=-1)

    largest = weight.view(6, -1, group or 128).abs().amax(dim=-1)
    plain = (largest / (high + 0.5)).clamp(min=1e-38).bfloat16().float()
    assert (error(found) <= error(plain) * (1 + 1e-5)).all()
    if bits == 4:
        assert error(found).sum() < 0.95 * error(plain).sum()


@pytest.mark.parametrize(("form", "share", "near"), [("int8", 0.65, 0.02), ("int4", 0.5, 0.25)])
def test_an_export_has_the_checkpoints_words_in_fewer_bytes(
    checkpoint: Path, tmp_path: Path, form: str, share: float, near: float
) -> None:
    quantise(checkpoint, tmp_path / form, form)
    whole, fewer = logits(loaded(checkpoint)), logits(loaded(tmp_path / form))
    assert 0 < (fewer - whole).norm() / whole.norm() < near
    assert weight_bytes(tmp_path / form) < share * weight_bytes(checkpoint)
    config = json.loads((tmp_path / form / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "compressed-tensors"
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / form / name).read_text() == (checkpoint / name).read_text()


def test_what_is_written_are_the_nearest_steps_of_the_checkpoints_weights(checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    quantise(checkpoint, tmp_path / "int8", "int8")
    before, after = load_file(checkpoint / "model.safetensors"), load_file(tmp_path / "int8" / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    step = steps(before[name], 8, None)
    assert after[f"{name}_scale"].float().equal(step)
    assert after[name].float().equal((before[name].float() / step).round().clamp(-128, 127))
    assert after["model.embed_tokens.weight"].equal(before["model.embed_tokens.weight"])


def test_a_checkpoint_of_the_wanted_format_takes_no_room_again(checkpoint: Path, tmp_path: Path) -> None:
    write(checkpoint, tmp_path / "whole", "bfloat16")
    names = {path.name for path in checkpoint.iterdir()}
    assert {path.name for path in (tmp_path / "whole").iterdir()} == names
    assert all((tmp_path / "whole" / name).samefile(checkpoint / name) for name in names)


def test_a_checkpoint_of_another_format_is_cast(tmp_path: Path) -> None:
    source = tiny.build(tmp_path / "float32")
    cast(source, tmp_path / "whole")
    assert str(loaded(tmp_path / "whole").dtype) == "torch.bfloat16"
    assert logits(loaded(tmp_path / "whole")).equal(logits(loaded(source)))
    assert weight_bytes(tmp_path / "whole") < 0.6 * weight_bytes(source)
    assert (tmp_path / "whole" / "tokenizer.json").is_file()


def test_what_its_process_says_last_is_the_error(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "Traceback (most recent call last):\n  ...\n__main__.QuantisationError: q_proj is odd. Export int8 alone\n"
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1, "", said))
    with pytest.raises(QuantisationError, match=r"cannot be written as int4: q_proj is odd\. Export int8 alone\.$"):
        write(checkpoint, checkpoint / "none", "int4")


def test_layers_that_groups_do_not_divide_are_refused(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.quantisation.GROUP", 3 * GROUP)
    with pytest.raises(QuantisationError, match=r"q_proj has 64 rows of 64 weights; expected multiples of 96"):
        quantise(checkpoint, checkpoint / "none", "int4")
    assert not (checkpoint / "none").exists()


def test_an_export_of_fewer_bits_is_asked_without_another_quantization() -> None:
    role = Student(model="m", quantization="fp8")
    assert role_of("bfloat16", role).quantization == "fp8"
    assert role_of("int8", role).quantization is None
