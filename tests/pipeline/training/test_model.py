"""Adapters on their way out: what is merged computes what base and adapter did together."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.training import model
from tests import tiny

IDS = [[5, 60, 7, 90, 11, 3], [200, 1, 2, 33, 44, 55]]
ADDED = [17, 300]  # rows of tokens that are trained beside the adapter


@pytest.fixture
def adapted(tmp_path: Path) -> Any:
    """A tiny student with an adapter whose weights are no longer those it began with."""
    import torch

    from pipeline.training import model
    from pipeline.training.options import Lora
    from pipeline.training.settings import adapter

    made = model.load(tiny.build(tmp_path), "float32", "sdpa", adapter(Lora(rank=4), ADDED), 0, False).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in (each for each in made.parameters() if each.requires_grad):
            weight.add_(torch.randn_like(weight) * 0.1)
    return made


def logits(model: Any) -> Any:
    import torch

    with torch.inference_mode():
        return model(input_ids=torch.tensor(IDS), use_cache=False).logits


def test_a_merged_adapter_computes_what_base_and_adapter_did_together(adapted: Any) -> None:
    from pipeline.training.model import merged

    together = logits(adapted)
    with adapted.disable_adapter():
        alone = logits(adapted)
    assert not together.allclose(alone, atol=1e-2)
    whole = merged(adapted)
    assert not any("lora" in name for name, _ in whole.named_modules())
    assert logits(whole).allclose(together, atol=1e-5)


def test_what_was_trained_in_bfloat16_is_merged_in_bfloat16_and_rounded_once(adapted: Any) -> None:
    """In float32 it may have no room where it was trained."""
    import torch

    from pipeline.training.model import merged

    for name, weight in adapted.named_parameters():
        if "lora" not in name:
            weight.data = weight.data.bfloat16()
    wanted = {}
    for name, module in adapted.get_base_model().named_modules():
        if hasattr(module, "lora_A"):
            base = module.base_layer.weight.float() + module.get_delta_weight("default").float()
            wanted[f"{name}.weight"] = base.bfloat16()
    found = dict(merged(adapted).named_parameters())
    assert {weight.dtype for weight in found.values()} == {torch.bfloat16}
    assert len(wanted) == 14
    assert {name for name, weight in wanted.items() if not weight.equal(found[name])} == set()


def test_an_adapter_on_weights_in_four_bits_is_trained_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though TRL rounds it. What tells TRL of the four bits is set by hand: they want a GPU."""
    import torch

    from pipeline.training import build, model
    from pipeline.training.material import prepare
    from stages import sft

    loaded: dict[str, Any] = {}
    real = model.load

    def load(*arguments: Any, four_bits: bool) -> Any:
        made = real(*arguments)
        assert four_bits
        made.get_base_model().is_loaded_in_4bit = True
        loaded.update({name: value.detach().clone() for name, value in made.named_parameters() if value.requires_grad})
        return made

    monkeypatch.setattr(model, "load", load)
    options = sft.Config(method="qlora")
    job = build.Job(
        options=options,
        material=prepare(options, tiny.tokenizer(), tiny.examples(4), None),
        tokenizer=tiny.tokenizer(),
        folder=lambda role: tiny.build(tmp_path / role),
        added_tokens=[],
        place=tmp_path / "a" / "b" / "trainer",
        callbacks=[],
    )
    trained = {name: value for name, value in build.trainer(job).model.named_parameters() if value.requires_grad}
    assert {value.dtype for value in trained.values()} == {torch.float32}
    assert {name for name, value in loaded.items() if not value.equal(trained[name])} == set()


def test_an_adapter_trained_on_rounded_weights_is_merged_into_those_they_were_made_from(adapted: Any) -> None:
    import torch

    from pipeline.training.model import onto_its_source

    together = logits(adapted)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if not weight.requires_grad and "norm" not in name:
                weight.copy_(weight.mul(20).round().div(20))
    assert not logits(adapted).allclose(together, atol=1e-3)
    assert logits(onto_its_source(adapted).eval()).allclose(together, atol=1e-5)


@pytest.mark.parametrize("method", ["full", "onto its source"])
def test_a_student_whose_generation_configuration_says_half_can_be_saved(tmp_path: Path, method: str) -> None:
    from transformers import GenerationConfig

    from pipeline.training.options import Lora
    from pipeline.training.settings import adapter

    source = tiny.build(tmp_path / "source")
    (source / "generation_config.json").write_text('{"eos_token_id": 2, "temperature": 0.6, "top_p": 0.9}')
    loaded = model.load(source, "float32", "sdpa", None if method == "full" else adapter(Lora(), []), 0, False)
    if method != "full":
        loaded = model.onto_its_source(loaded)
    model.save(loaded, tiny.tokenizer(), tmp_path / "saved", "bfloat16")
    found = GenerationConfig.from_pretrained(tmp_path / "saved")
    assert (found.do_sample, found.temperature, found.top_p) == (True, 0.6, 0.9)
