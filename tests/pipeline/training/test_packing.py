"""Packed batches: examples in one row that see nothing of each other, learnt as if each stood alone."""

from typing import Any

import pytest

from pipeline import objectives
from pipeline.training.encode import IGNORED

KINDS = ("llama", "qwen2")
ROWS = [
    {"id": "a", "input_ids": [5, 6, 7, 8, 11], "labels": [IGNORED, IGNORED, 7, 8, 11]},
    {"id": "b", "input_ids": [9, 2], "labels": [9, 2]},  # its first token is a label that nothing may learn
    {"id": "c", "input_ids": [3], "labels": [IGNORED]},
    {"id": "d", "input_ids": [5, 6, 7, 4, 4, 4, 12], "labels": [IGNORED, IGNORED, IGNORED, 4, 4, 4, 12]},
]


@pytest.fixture(scope="module", params=[f"{kind}-{attention}" for kind in KINDS for attention in ("eager", "sdpa")])
def student(request: pytest.FixtureRequest) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

    kind, _, attention = request.param.partition("-")
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    }
    config = {"llama": LlamaConfig, "qwen2": Qwen2Config}[kind](**sizes)
    made: Any = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    return made.eval()


def logits(student: Any, batch: dict[str, Any]) -> Any:
    import torch

    inputs = {name: value for name, value in batch.items() if name not in ("labels", "ids")}
    with torch.no_grad():
        return student(**inputs, use_cache=False).logits


def test_packed_logits_are_those_of_each_sequence_alone(student: Any) -> None:
    import torch

    from pipeline.training.trainer import pack

    packed = logits(student, pack(ROWS))[0]
    alone = torch.cat([logits(student, {"input_ids": torch.tensor([row["input_ids"]])})[0] for row in ROWS])
    assert packed.shape == alone.shape
    assert torch.allclose(packed, alone, atol=1e-4)
    # Without its positions the row would be one text, and most of it another.
    whole = logits(student, {"input_ids": pack(ROWS)["input_ids"]})[0]
    assert torch.allclose(whole[:5], alone[:5], atol=1e-4)
    assert (whole[5:] - alone[5:]).abs().amax(1).min() > 1e-3


def test_a_packed_batch_keeps_the_ids_and_learns_no_first_token() -> None:
    from pipeline.training.trainer import pack

    batch = pack(ROWS)
    assert batch["ids"] == ["a", "b", "c", "d"]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 0, 0, 1, 2, 3, 4, 5, 6]]
    assert batch["labels"][0].tolist()[5:8] == [IGNORED, 2, IGNORED]
    assert set(batch) == {"input_ids", "position_ids", "labels", "ids"}


def test_the_loss_of_each_token_and_its_place_are_those_of_padded_rows(student: Any) -> None:
    """What an objective is given: states and targets of the learnt positions, example after example."""
    import torch

    from pipeline.objectives import forward
    from pipeline.training.trainer import collate, pack

    batches = pack(ROWS), collate(ROWS, pad_token_id=0)
    packed, padded = (forward.states(student, batch, torch.float32) for batch in batches)
    for batch in batches:
        assert forward.targets(batch).tolist() == [7, 8, 11, 2, 4, 4, 4, 12]
    assert torch.allclose(packed.hidden, padded.hidden, atol=1e-5)
    objective = objectives.load("sft")
    context = objectives.Context(student, None, torch.float32, lambda role: None)  # type: ignore[arg-type,return-value]
    made = objective.make(objective.Config(), context)
    losses = [made.loss(student, batch, 0.0) for batch in batches]
    assert losses[0].positions == losses[1].positions == 8
    assert losses[0].total.item() == pytest.approx(losses[1].total.item(), abs=1e-4)
