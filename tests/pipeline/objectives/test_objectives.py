"""The shelf of objectives, and what supervised fine-tuning minimises."""

import math

import pytest

from pipeline import objectives
from pipeline.objectives import sft
from pipeline.section import Section


@pytest.mark.parametrize("name", list(objectives.OBJECTIVES))
def test_every_objective_of_the_table_loads_with_a_section_of_its_own(name: str) -> None:
    found = objectives.load(name)
    assert callable(getattr(found, "make", None)) == (name != "on_policy")
    assert issubclass(found.Config, Section)


def test_an_unknown_objective_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="expected one of sft"):
        objectives.load("sfd")


def test_the_cross_entropy_is_the_sum_of_negative_log_probabilities() -> None:
    import torch

    logits = torch.zeros(3, 4)
    logits[0, 1] = math.log(3)  # p = 3 / 6
    value, gradient = sft.cross_entropy(torch.tensor([0, 1, 2, 3]))(logits, slice(1, 4))
    assert float(value) == pytest.approx(math.log(2) + 2 * math.log(4), abs=1e-6)
    assert torch.allclose(gradient[0], torch.tensor([1 / 6, 1 / 2 - 1, 1 / 6, 1 / 6]))


@pytest.mark.parametrize("shift", [0.0, 300.0, -300.0])
def test_the_cross_entropy_of_far_logits_is_that_of_near_ones(shift: float) -> None:
    import torch

    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    targets = torch.tensor([0, 6, 3, 3, 1])
    logits[0, 0] = -80  # a target of next to no mass
    dense = torch.nn.functional.cross_entropy(logits.requires_grad_(), targets, reduction="sum")
    (wanted,) = torch.autograd.grad(dense, logits)
    value, gradient = sft.cross_entropy(targets)((logits.detach() + shift).float(), slice(0, 5))
    assert value.item() == pytest.approx(dense.item(), rel=1e-6)
    assert torch.allclose(gradient.double(), wanted, atol=1e-4 if shift else 1e-6)
