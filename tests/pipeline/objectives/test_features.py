"""Feature distillation on tiny models: the whole loss and its gradients, padding, adapters, and what it refuses."""

import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline import objectives
from pipeline.objectives import IGNORED, features
from tests import tiny
from tests.pipeline.objectives.test_forward import batch, gradients, student

TEACHER = {"num_hidden_layers": 4, "hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 4}
EVERYTHING: dict[str, Any] = {
    "cross_entropy_weight": 0.5,
    "logits": {"weight": 0.7, "temperature": 3.0},
    "hidden": {"weight": 1.1, "loss": "mse", "layers": [[0, 2], [1, 3]]},
    "attention": {"weight": 1.3, "loss": "kl", "layers": [[1, 0]], "heads": "average"},
    "relations": {"weight": 1.7, "kind": "distance"},
    "positions": "all",
}
VARIANTS: dict[str, dict[str, Any]] = {
    "everything": EVERYTHING,
    "the other kinds": EVERYTHING
    | {
        "hidden": {"weight": 0.9, "loss": "cosine", "layers": "uniform"},
        "attention": {"weight": 2.0, "loss": "mse", "layers": "last", "heads": "average"},
        "relations": {"weight": 3.0, "kind": "similarity"},
        "positions": "learnt",
    },
    "hidden states alone": {"cross_entropy_weight": 0.0, "hidden": {"loss": "mse"}},
}


class Words:
    """As much of a tokenizer as an objective asks for."""

    def __len__(self) -> int:
        return 61


def made(values: Any, ours: Any, theirs: Any, dtype: str = "float32") -> Any:
    import torch

    from pipeline.objectives.inner_states import Features

    context = objectives.Context(ours, Words(), getattr(torch, dtype), lambda role: Path(), "eager", 5)
    return Features(features.Config(**values), theirs.eval().requires_grad_(False), context)


def textbook(objective: Any, ours: Any, theirs: Any, given: Any) -> Any:
    """The loss per learnt token in float64, of all that both models say of the batch at once; models in float64."""
    import torch
    import torch.nn.functional as F

    config = objective.config
    asked = {"output_hidden_states": True, "output_attentions": True}
    said = ours(input_ids=given["input_ids"], attention_mask=given["attention_mask"], **asked)
    heard = theirs(input_ids=given["input_ids"], attention_mask=given["attention_mask"], **asked)
    places = [(row, place) for row, place in (given["labels"] != IGNORED).nonzero().tolist() if place > 0]
    learnt = [(row, place - 1) for row, place in places]
    kept = learnt if config.positions == "learnt" else given["attention_mask"].nonzero().tolist()
    total = 0.0
    for row, place in learnt:
        here, there = said.logits[row, place], heard.logits[row, place, : said.logits.shape[-1]]
        total += config.cross_entropy_weight * -here.log_softmax(0)[given["input_ids"][row, place + 1]] / len(learnt)
        if config.logits.weight:
            t = config.logits.temperature
            kl = F.kl_div((here / t).log_softmax(0), (there / t).softmax(0), reduction="sum")
            total += config.logits.weight * t**2 * kl / len(learnt)
    for number, (layer, other) in enumerate(objective.hidden_pairs):
        for row, place in kept:
            mine = objective.projections[number].weight.double() @ said.hidden_states[layer + 1][row, place]
            its = heard.hidden_states[other + 1][row, place]
            if config.hidden.loss == "mse":
                value = ((mine - its) ** 2).mean()
            else:
                value = 1 - mine @ its / (mine.norm() * its.norm())
            total += config.hidden.weight * value / (len(kept) * len(objective.hidden_pairs))
    for layer, other in objective.attention_pairs:
        for row, place in kept:
            mine = said.attentions[layer][row, :, place, : place + 1].mean(0)
            its = heard.attentions[other][row, :, place, : place + 1].mean(0)
            value = (its * (its / mine).log()).sum() if config.attention.loss == "kl" else ((its - mine) ** 2).sum()
            total += config.attention.weight * value / (len(kept) * len(objective.attention_pairs))
    if config.relations.weight:
        rows = sorted({row for row, _ in kept})
        mine, its = (
            torch.stack([sum(of.hidden_states[-1][r, p] for r, p in kept if r == row) for row in rows])
            / torch.tensor([[sum(r == row for r, _ in kept)] for row in rows])
            for of in (said, heard)
        )
        if config.relations.kind == "distance":
            both = [torch.pdist(points) for points in (mine, its)]
            total += config.relations.weight * F.huber_loss(both[0] / both[0].mean(), both[1] / both[1].mean())
        else:
            both = [F.normalize(points @ points.T) for points in (mine, its)]
            total += config.relations.weight * ((both[0] - both[1]) ** 2).mean()
    return total


@pytest.mark.parametrize("name", list(VARIANTS))
def test_the_loss_and_its_gradients_are_those_of_the_textbook_in_float64(name: str) -> None:
    ours, theirs = student(), student(seed=3, **TEACHER)
    objective, given = made(VARIANTS[name], ours, theirs), batch()
    found = objective.loss(ours, given, 0.0)
    mine = gradients(ours, found.total / found.positions)
    of_maps = [one.weight.grad.clone() for one in objective.projections]
    objective.projections.zero_grad()
    wanted = textbook(objective, ours.double(), theirs.double(), given)
    assert found.total.item() / found.positions == pytest.approx(wanted.item(), rel=1e-5)
    dense = gradients(ours, wanted)
    assert mine.keys() == dense.keys()
    for key, value in mine.items():
        assert value.double().allclose(dense[key], atol=2e-5), key
    assert len(of_maps) == len(objective.hidden_pairs) == 2
    for value, one in zip(of_maps, objective.projections, strict=True):
        assert value.allclose(one.weight.grad, atol=2e-5)
    assert all(parameter.grad is None for parameter in theirs.parameters())


@pytest.mark.parametrize("name", list(VARIANTS))
def test_padding_changes_nothing(name: str) -> None:
    from torch.nn.functional import pad

    ours, theirs = student(), student(seed=3, **TEACHER)
    objective, given = made(VARIANTS[name], ours, theirs), batch()
    wider = {key: pad(given[key], (0, 6), value=value) for key, value in (("input_ids", 7), ("labels", IGNORED))}
    wider |= {"attention_mask": pad(given["attention_mask"], (0, 6)), "ids": given["ids"]}
    found, again = (objective.loss(ours, one, 0.0) for one in (given, wider))
    assert again.positions == found.positions
    assert again.total.item() == pytest.approx(found.total.item(), rel=1e-5)
    mine, other = gradients(ours, found.total), gradients(ours, again.total)
    assert all(value.allclose(other[key], atol=1e-4) for key, value in mine.items())


def test_each_term_is_reported_by_itself_and_they_make_up_the_loss() -> None:
    ours, theirs = student(), student(seed=3, **TEACHER)
    found = made(EVERYTHING, ours, theirs).loss(ours, batch(), 0.0)
    weights = {"cross_entropy": 0.5, "divergence": 0.7, "hidden": 1.1, "attention": 1.3, "relations": 1.7}
    assert found.figures.keys() == weights.keys()
    total = sum(weight * float(found.figures[name][0]) for name, weight in weights.items())
    assert found.total.item() == pytest.approx(total, rel=1e-5)
    assert {count for _, count in found.figures.values()} == {found.positions}


def test_a_student_that_is_its_teacher_has_nothing_to_take_over() -> None:
    ours = student()
    values = {**EVERYTHING, "cross_entropy_weight": 0.0, "hidden": {}, "attention": {"weight": 1.0, "heads": "each"}}
    objective = made(values, ours, student())
    assert objective.modules() == {}
    assert objective.loss(ours, batch(), 0.0).total.item() == pytest.approx(0, abs=1e-4)


def test_the_divergence_leaves_out_what_only_pads_a_vocabulary() -> None:
    ours, theirs = student(), student(seed=3, vocab_size=67)
    values = {"hidden": {"weight": 0.0}, "logits": {"weight": 1.0, "temperature": 2.0}}
    objective, given = made(values, ours, theirs), batch()
    found = objective.loss(ours, given, 0.0)
    wanted = textbook(objective, ours.double(), theirs.double(), given)
    assert found.total.item() / found.positions == pytest.approx(wanted.item(), rel=1e-5)


def test_an_adapter_learns_and_nothing_else_does() -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(4)
    theirs = student(seed=3, **TEACHER)
    ours = get_peft_model(student(), LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "up_proj"]))
    objective, given = made(EVERYTHING, ours, theirs), batch()
    trained = [value for value in ours.parameters() if value.requires_grad] + list(objective.projections.parameters())
    optimizer = torch.optim.Adam(trained, lr=1e-2)
    losses = []
    for _ in range(8):
        found = objective.loss(ours, given, 0.0)
        losses.append(found.total.item())
        optimizer.zero_grad()
        found.total.backward()
        optimizer.step()
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.97 * losses[0]
    learning = {name for name, value in ours.named_parameters() if value.grad is not None}
    assert learning == {name for name, _ in ours.named_parameters() if "lora_" in name}


def test_gradients_are_the_same_where_activations_are_computed_again() -> None:
    ours, theirs = student(), student(seed=3, **TEACHER)
    objective, given = made(EVERYTHING, ours, theirs), batch()
    plain = gradients(ours.train(), objective.loss(ours, given, 0.0).total)
    ours.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    again = gradients(ours, objective.loss(ours, given, 0.0).total)
    assert all(value.allclose(again[key], atol=1e-4) for key, value in plain.items())


def test_it_computes_in_bfloat16_too() -> None:
    ours, theirs = student(), student(seed=3, **TEACHER)
    given = batch()
    exact = made(EVERYTHING, ours, theirs).loss(ours, given, 0.0)
    rough = made(EVERYTHING, ours, theirs.bfloat16(), "bfloat16").loss(ours, given, 0.0)
    assert rough.total.item() == pytest.approx(exact.total.item(), rel=0.02)
    rough.total.backward()
    assert all(value.grad.isfinite().all() for value in ours.parameters())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"attention": {"weight": 1.0}}, "found 2 attention heads in the student and 4 in the teacher.*average"),
        ({"hidden": {"layers": [[0, 4]]}}, r"the pair \[0, 4\].*counted from 0"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(values: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        made(values, student(), student(seed=3, **TEACHER))


def test_nothing_to_take_over_is_refused() -> None:
    with pytest.raises(ValidationError, match="all have weight 0"):
        features.Config(hidden=features.Hidden(weight=0))


def test_a_teacher_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    import torch

    other = tiny.tokenizer()
    other.add_tokens(["another"])
    other.save_pretrained(tmp_path)
    context = objectives.Context(student(), tiny.tokenizer(), torch.float32, lambda role: tmp_path)
    size = len(tiny.tokenizer())
    said = rf"found a teacher of another vocabulary \({size + 1} tokens, .*student's \({size} tokens.*Choose a teacher"
    with pytest.raises(ValueError, match=said):
        features.make(features.Config(), context)


def test_projections_keep_lengths_and_depend_on_the_seed_alone() -> None:
    import torch

    ours, theirs = student(), student(seed=3, **TEACHER)
    one, same = (made({}, ours, theirs).projections[0].weight for _ in range(2))
    assert torch.equal(one, same)
    states = torch.randn(1000, one.shape[1])
    assert (states @ one.T).square().mean().sqrt().item() == pytest.approx(1, abs=0.2)
    assert math.isclose(one.std().item(), one.shape[1] ** -0.5, rel_tol=0.2)
