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


def test_a_student_whose_generation_configuration_says_half_can_be_saved(tmp_path: Path) -> None:
    from transformers import GenerationConfig

    source = tiny.build(tmp_path / "source")
    (source / "generation_config.json").write_text('{"eos_token_id": 2, "temperature": 0.6, "top_p": 0.9}')
    loaded = model.load(source, "float32", "sdpa", None, 0, False)
    model.save(loaded, tiny.tokenizer(), tmp_path / "saved", "bfloat16")
    found = GenerationConfig.from_pretrained(tmp_path / "saved")
    assert (found.do_sample, found.temperature, found.top_p) == (True, 0.6, 0.9)
