"""Running a student for an objective: hidden states where it learns, and losses of its head a chunk at a time."""

from typing import Any

import pytest

from pipeline import objectives
from pipeline.objectives import IGNORED, sft

VOCABULARY, WIDTH = 61, 16


def student(seed: int = 0, **changes: Any) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "tie_word_embeddings": True,
        "attn_implementation": "eager",
    }
    return LlamaForCausalLM(LlamaConfig(**(shape | changes)))


def batch(rows: int = 5, longest: int = 11) -> dict[str, Any]:
    """Rows of differing length, right-padded, a prompt of three tokens each."""
    import torch

    draw = torch.Generator().manual_seed(1)
    lengths = torch.arange(rows) % 4 + longest - 3
    mask = torch.arange(longest)[None] < lengths[:, None]
    ids = torch.randint(1, VOCABULARY, (rows, longest), generator=draw) * mask
    learnt = mask & (torch.arange(longest)[None] >= 3)
    return {
        "input_ids": ids,
        "attention_mask": mask.long(),
        "labels": torch.where(learnt, ids, IGNORED),
        "ids": [f"trace-{row}" for row in range(rows)],
    }


def dense(model: Any, given: Any) -> Any:
    """The textbook loss of all logits, summed."""
    import torch.nn.functional as F

    logits = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).logits[:, :-1]
    return F.cross_entropy(logits.double().flatten(0, 1), given["labels"][:, 1:].flatten(), reduction="sum")


def gradients(model: Any, loss: Any) -> dict[str, Any]:
    model.zero_grad()
    loss.backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


@pytest.fixture(params=["one chunk", "many chunks and blocks"])
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.objectives import forward

    if request.param != "one chunk":
        monkeypatch.setattr(forward, "CHUNK_ENTRIES", 7 * VOCABULARY)
        monkeypatch.setattr(forward, "BLOCK_ENTRIES", {"cpu": 3 * VOCABULARY})


def adapted(targets: list[str]) -> Any:
    """A student with an adapter that does something."""
    import torch
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(student(), LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=targets))
    torch.manual_seed(2)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.1)
    return model


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("kind", ["tied", "untied", "adapter", "adapter on the head", "frozen head"])
def test_the_loss_in_chunks_and_its_gradients_are_those_of_all_logits(kind: str) -> None:
    import torch

    if "adapter" in kind:
        model = adapted(["q_proj", "lm_head"] if "head" in kind else ["q_proj", "up_proj"])
    else:
        model = student(tie_word_embeddings=kind == "tied")
    if kind == "frozen head":
        model.lm_head.weight.requires_grad_(False)
    given = batch()
    context = objectives.Context(model, None, torch.float32, lambda role: None)
    found = sft.make(sft.Config(), context).loss(model, given, 0.0)
    wanted = dense(model, given)
    assert found.positions == int((given["labels"][:, 1:] != IGNORED).sum())
    assert found.total.dtype == torch.float32
    assert found.total.item() == pytest.approx(wanted.item(), rel=1e-6)
    ours, theirs = gradients(model, found.total / 7), gradients(model, wanted / 7)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.allclose(value, theirs[name], atol=1e-5), name
    with torch.inference_mode():
        again = sft.make(sft.Config(), context).loss(model, given, 1.0)
    assert again.total.item() == pytest.approx(wanted.item(), rel=1e-6)


@pytest.mark.usefixtures("chunks")
def test_in_bfloat16_the_loss_is_as_near_the_exact_one_as_that_of_all_logits() -> None:
    import torch

    model, given = student(), batch()
    exact = gradients(model, dense(model, given))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = dense(model, given)
    rounded = gradients(model, plain)
    objective = sft.CrossEntropy(torch.bfloat16)
    ours = objective.loss(model, given, 0.0).total
    assert ours.item() == pytest.approx(plain.item(), rel=2e-3)
    for name, value in gradients(model, ours).items():
        far = (rounded[name] - exact[name]).norm()
        assert (value - exact[name]).norm() <= 1.5 * far, name


def test_asked_for_layers_and_attentions_are_those_of_the_model() -> None:
    import torch

    from pipeline.objectives import forward

    model, given = student(), batch()
    plain = model(
        input_ids=given["input_ids"],
        attention_mask=given["attention_mask"],
        output_hidden_states=True,
        output_attentions=True,
    )
    found = forward.states(model, given, torch.float32, layers=True, attentions=True)
    assert found.layers is not None
    assert found.attentions is not None
    assert [torch.equal(*pair) for pair in zip(found.layers, plain.hidden_states, strict=True)] == [True] * 3
    assert [torch.equal(*pair) for pair in zip(found.attentions, plain.attentions, strict=True)] == [True] * 2
    learnt = given["labels"][:, 1:] != IGNORED
    assert torch.equal(found.hidden, plain.hidden_states[-1][:, :-1][learnt])
    assert torch.equal(forward.targets(given), given["labels"][:, 1:][learnt])
    assert forward.states(model, given, torch.float32).layers is None
    assert model(input_ids=given["input_ids"]).logits.shape == (*given["input_ids"].shape, VOCABULARY)


def test_no_more_logits_stand_in_memory_than_a_chunk_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from pipeline.objectives import forward

    monkeypatch.setattr(forward, "CHUNK_ENTRIES", 5 * VOCABULARY)
    model, given = student(), batch()
    found = forward.states(model, given, torch.float32)
    assert len(found.hidden) > 20
    kept: list[int] = []

    def keep(tensor: Any) -> Any:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward.chunked(model, found.hidden, sft.cross_entropy(forward.targets(given)), torch.float32)
    assert max(kept, default=0) <= 5 * VOCABULARY


def test_a_model_that_changes_its_logits_behind_the_head_is_refused() -> None:
    from pipeline.objectives import forward

    model = student()
    forward.refuse_changed_logits(model)
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(ValueError, match=r"final_logit_softcapping: 30\.0.*Choose another student.model"):
        forward.refuse_changed_logits(model)
