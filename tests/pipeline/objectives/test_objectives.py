"""The shelf of objectives, and what supervised fine-tuning minimises."""

import math

import pytest

from pipeline import objectives


@pytest.mark.parametrize("name", list(objectives.OBJECTIVES))
def test_every_objective_of_the_table_loads(name: str) -> None:
    assert callable(objectives.load(name).loss)


def test_an_unknown_objective_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="expected one of sft"):
        objectives.load("sfd")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_loss_of_sft_is_the_sum_of_negative_log_probabilities(dtype: str) -> None:
    import torch

    logits = torch.zeros(3, 4, dtype=getattr(torch, dtype))
    logits[0, 1] = math.log(3)  # p = 3 / 6
    found = objectives.load("sft").loss(logits, torch.tensor([1, 2, 3]), {})
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(math.log(2) + 2 * math.log(4), abs=0.01 if dtype == "bfloat16" else 1e-6)
