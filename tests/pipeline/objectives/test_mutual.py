"""Deep mutual learning on tiny models: both losses and gradients, in chunks and at once, and what it refuses."""

import math
from pathlib import Path
from typing import Any

import pytest

from pipeline import objectives
from pipeline.objectives import IGNORED, mutual
from tests import tiny
from tests.pipeline.objectives.test_features import Words
from tests.pipeline.objectives.test_forward import VOCABULARY, batch, gradients, student


def made(peer: Any, **values: Any) -> mutual.Mutual:
    import torch

    return mutual.Mutual(mutual.Config(**values), peer, len(Words()), torch.float32)


def textbook(own: Any, other: Any, given: Any, weight: float, temperature: float) -> Any:
    """One student's summed loss in float64, of all logits at once."""
    import torch
    import torch.nn.functional as F

    asked = {"input_ids": given["input_ids"], "attention_mask": given["attention_mask"]}
    learnt = given["labels"][:, 1:] != IGNORED
    mine = own(**asked).logits[:, :-1][learnt]
    with torch.no_grad():
        its = other(**asked).logits[:, :-1][learnt]
    hard = F.cross_entropy(mine, given["labels"][:, 1:][learnt], reduction="sum")
    kl = F.kl_div((mine / temperature).log_softmax(1), (its / temperature).softmax(1), reduction="sum")
    return hard + weight * temperature**2 * kl


@pytest.mark.parametrize("chunk", [None, 7 * VOCABULARY])
def test_both_students_follow_the_gradients_of_the_textbook_in_float64(
    chunk: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.objectives import forward

    if chunk:
        monkeypatch.setattr(forward, "CHUNK_ENTRIES", chunk)
        monkeypatch.setattr(forward, "BLOCK_ENTRIES", {"cpu": 3 * VOCABULARY})
    own, peer, given = student(), student(seed=3, num_hidden_layers=1, hidden_size=24), batch()
    found = made(peer, weight=0.6, temperature=2.0).loss(own, given, 0.0)
    peer.zero_grad()
    mine = gradients(own, found.total)
    its = {name: value.grad.clone() for name, value in peer.named_parameters()}
    own, peer = own.double(), peer.double()
    wanted = textbook(own, peer, given, 0.6, 2.0), textbook(peer, own, given, 0.6, 2.0)
    assert found.total.item() == pytest.approx(wanted[0].item(), rel=1e-6)
    peer_loss = float(found.figures["peer_cross_entropy"][0]) + 0.6 * float(found.figures["peer_divergence"][0])
    assert peer_loss == pytest.approx(wanted[1].item(), rel=1e-6)
    for model, ours, loss in ((own, mine, wanted[0]), (peer, its, wanted[1])):
        theirs = gradients(model, loss)
        assert ours.keys() == theirs.keys()
        assert all(value.double().allclose(theirs[name], atol=1e-4) for name, value in ours.items())


def test_the_divergence_and_its_gradient_are_those_of_plain_loops() -> None:
    import torch

    from pipeline.objectives import live

    def shares(row: list[float], temperature: float) -> list[float]:
        whole = sum(math.exp(value / temperature) for value in row)
        return [math.exp(value / temperature) / whole for value in row]

    torch.manual_seed(0)
    own, other = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    value, gradient = live.soft_kl(own, other, 1.7)
    total = 0.0
    for row, (mine, its) in enumerate(zip(own.tolist(), other.tolist(), strict=True)):
        q, p = shares(mine, 1.7), shares(its, 1.7)
        total += 1.7**2 * sum(b * math.log(b / a) for a, b in zip(q, p, strict=True))
        assert gradient[row].tolist() == pytest.approx([1.7 * (a - b) for a, b in zip(q, p, strict=True)])
    assert float(value) == pytest.approx(total)


def test_packed_examples_are_learnt_as_padded_ones_are() -> None:
    from pipeline.training.trainer import collate, pack

    given = batch()
    lengths = given["attention_mask"].sum(1).tolist()
    rows = [
        {"id": str(row), **{name: given[name][row, :length].tolist() for name in ("input_ids", "labels")}}
        for row, length in enumerate(lengths)
    ]
    own, peer = student(), student(seed=3)
    padded, packed = (made(peer).loss(own, laid, 0.0) for laid in (collate(rows, 0), pack(rows)))
    assert packed.positions == padded.positions
    assert packed.total.item() == pytest.approx(padded.total.item(), rel=1e-5)


def test_an_adapted_peer_learns_as_an_adapter() -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    peer = get_peft_model(student(seed=3), LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "lm_head"]))
    made(peer).loss(student(), batch(), 0.0).total.backward()
    assert {name for name, value in peer.named_parameters() if value.grad is not None} == {
        name for name, _ in peer.named_parameters() if "lora_" in name
    }


def test_a_peer_that_is_the_student_over_again_is_refused(tmp_path: Path) -> None:
    import torch

    tiny.tokenizer().save_pretrained(tmp_path)
    values = (student(), tiny.tokenizer(), torch.float32, lambda role: tmp_path)
    twins = objectives.Context(*values, second=lambda role: student())
    with pytest.raises(ValueError, match="found a peer with the student's own weights"):
        mutual.make(mutual.Config(), twins)
    others = objectives.Context(*values, second=lambda role: student(seed=3))
    assert list(mutual.make(mutual.Config(), others).modules()) == ["peer"]


def test_a_peer_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    import torch

    other = tiny.tokenizer()
    other.add_tokens(["another"])
    other.save_pretrained(tmp_path)
    context = objectives.Context(student(), tiny.tokenizer(), torch.float32, lambda role: tmp_path)
    with pytest.raises(ValueError, match="found a peer of another vocabulary"):
        mutual.make(mutual.Config(), context)
