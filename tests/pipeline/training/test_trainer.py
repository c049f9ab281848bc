"""The trainer: its loss is the plain one, and its batches say nothing of padding."""

from collections.abc import Iterable
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest

from pipeline import objectives
from pipeline.training.encode import IGNORED, Encoded

ROWS = [
    {"id": "a", "input_ids": [5, 6, 7, 8], "labels": [IGNORED, IGNORED, 7, 8]},
    {"id": "b", "input_ids": [9, 2], "labels": [IGNORED, 2]},
]


def test_a_batch_is_padded_right_masked_and_keeps_its_trace_ids() -> None:
    from pipeline.training.trainer import collate

    batch = collate(ROWS, pad_token_id=2)
    assert batch["ids"] == ["a", "b"]
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [9, 2, 2, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORED, IGNORED, 7, 8], [IGNORED, 2, IGNORED, IGNORED]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A trainer of a tiny student on two examples."""
    import torch
    from trl.trainer.sft_config import SFTConfig

    from pipeline.training import model, trainer
    from pipeline.training.settings import arguments
    from stages import sft
    from tests import tiny

    torch.set_num_threads(1)
    folder: Path = tmp_path_factory.mktemp("student")
    tiny.build(folder)
    examples = [Encoded("a", (), "", [5, 6], [7, 8]), Encoded("b", (), "", [9], [2])]
    student = model.load(folder, "float32", "sdpa", None, 0, False)
    objective = objectives.load("sft")
    context = objectives.Context(student, tiny.tokenizer(), torch.float32, lambda role: folder)
    return trainer.PlannedTrainer(
        trainer.Plan(objective.make(objective.Config(), context), [[0, 1]], [[0], [1]], 0, part_tokens=16),
        model=student,
        args=SFTConfig(**arguments(sft.Config(), folder / "out", 1, evaluated=True, on_gpu=False)),
        train_dataset=trainer.as_dataset(examples),
        eval_dataset=trainer.as_dataset(examples),
        processing_class=tiny.tokenizer(),
    )


def plain_loss(student: Any, batch: Any) -> Any:
    """The textbook loss: all logits, shifted labels, ignored positions left out."""
    import torch.nn.functional as F

    logits = student(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORED)


def test_the_loss_and_its_gradients_are_those_of_all_logits(made: Any) -> None:
    import torch

    from pipeline.training.trainer import collate

    batch = collate(ROWS, pad_token_id=0)
    made.model.zero_grad()
    ours = made.compute_loss(made.model, dict(batch))
    ours.backward()
    found = [parameter.grad.clone() for parameter in made.model.parameters()]
    made.model.zero_grad()
    theirs = plain_loss(made.model, batch)
    theirs.backward()
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    for mine, parameter in zip(found, made.model.parameters(), strict=True):
        assert torch.allclose(mine, parameter.grad, atol=1e-6)


def test_the_validation_loss_is_over_tokens_not_over_batches(made: Any) -> None:
    """Two batches of two and one learnt tokens: the mean over batches would weigh the second's token twice."""
    import torch

    from pipeline.training.trainer import collate

    with torch.inference_mode():
        whole = float(plain_loss(made.model.eval(), collate(ROWS, pad_token_id=0)))
        by_batch = [float(plain_loss(made.model, collate([row], pad_token_id=0))) for row in ROWS]
    found = made.evaluate()["eval_loss"]
    assert found == pytest.approx(whole, abs=1e-5)
    assert abs(found - sum(by_batch) / 2) > 1e-4


def test_a_loss_that_is_not_finite_stops_with_the_traces(made: Any) -> None:
    import torch

    from pipeline.training.trainer import Diverged, collate

    weight = made.model.get_input_embeddings().weight
    kept = weight.data.clone()
    try:
        weight.data[7] = torch.nan
        with pytest.raises(Diverged, match="on the traces a, b"):
            made.compute_loss(made.model, dict(collate(ROWS, pad_token_id=0)))
    finally:
        weight.data = kept


@pytest.mark.parametrize("packed", [False, True])
def test_a_batch_in_parts_has_the_loss_and_gradients_of_the_whole(made: Any, packed: bool) -> None:
    from dataclasses import replace

    import torch

    from pipeline.training.trainer import collate

    rows = [*ROWS, {"id": "c", "input_ids": [4, 5, 6], "labels": [IGNORED, 5, 6]}]
    whole = plain_loss(made.model, collate(rows, pad_token_id=0))
    made.model.zero_grad()
    whole.backward()
    expected = [parameter.grad.clone() for parameter in made.model.parameters()]
    made.model.zero_grad()
    laid = replace(made.plan, part_tokens=5, packed=packed).laid_out(rows)
    assert [part["ids"] for part in laid["parts"]] == ([["b", "c"], ["a"]] if packed else [["b"], ["c"], ["a"]])
    assert laid["learnt"] == 5
    made.optimizer = torch.optim.SGD(made.model.parameters())
    made.current_gradient_accumulation_steps = 1
    loss = made.training_step(made.model, laid)
    assert float(loss) == pytest.approx(whole.item(), abs=1e-6)
    for parameter, gradient in zip(made.model.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad, gradient, atol=1e-6)


def test_processes_wait_while_the_first_one_hashes_the_checkpoint_of_a_large_student(tmp_path: Path) -> None:
    """Weights and both moments of 32 billion parameters in float32, read at 50 MB/s; torch gives up after its limit."""
    from pipeline.training.settings import arguments
    from stages import sft

    limit = arguments(sft.Config(), tmp_path / "a" / "b" / "c", 4, evaluated=True, on_gpu=True)["ddp_timeout"]
    assert limit > 32e9 * 12 / 50e6


def guarded(
    losses: list[float], factor: float = 4.0, steps: int = 3, entropies: Iterable[float | None] = repeat(None)
) -> Any:
    """What a guard raises, and at which step; None where it lets all losses pass."""
    from transformers import TrainerState

    from pipeline.training.trainer import Diverged, Guard

    guard, state = Guard(factor, steps, lambda step: [f"trace-{step}"]), TrainerState()
    for step, (loss, entropy) in enumerate(zip(losses, entropies, strict=False), start=1):
        beside = {} if entropy is None else {"cross_entropy": entropy}
        state.log_history.append({"step": step, "loss": loss, **beside})
        state.log_history.append({"step": step, "eval_loss": 100.0})
        try:
            guard.on_log(None, state, None, {"loss": loss})
        except Diverged as error:
            return step, error
    return None


def test_losses_that_stay_wild_stop_training_with_the_steps_and_their_traces() -> None:
    step, error = guarded([1.0] * 30 + [9.0, 8.0, 7.0, 6.0])
    assert step == 33
    assert error.batches == [
        {"step": 31, "loss": 9.0, "ids": ["trace-31"]},
        {"step": 32, "loss": 8.0, "ids": ["trace-32"]},
        {"step": 33, "loss": 7.0, "ids": ["trace-33"]},
    ]
    assert "over 4 times its median (1.000) for 3 steps on end, up to step 33 (7.000)" in str(error)


def test_a_loss_that_counts_more_terms_from_some_step_on_is_judged_by_its_cross_entropy() -> None:
    assert guarded([0.1] * 30 + [2.0] * 9, entropies=[0.1] * 39) is None
    assert guarded([2.0] * 39, entropies=[0.1] * 30 + [2.0] * 9)[0] == 33


@pytest.mark.parametrize(
    "losses",
    [
        [1.0] * 30 + [9.0, 9.0, 1.0] * 9,  # spikes
        [1.0] * 30 + [3.9] * 9,  # high, not wild
        [9.0] * 5 + [1.0] * 10 + [9.0] * 4,  # too early to tell
        [8.0 / step for step in range(1, 60)],
    ],
)
def test_spikes_and_a_falling_loss_do_not(losses: list[float]) -> None:
    assert guarded(losses) is None


def test_what_an_objective_trains_beside_the_student_is_kept_in_checkpoints_and_gone_on_from(tmp_path: Path) -> None:
    import torch
    from trl.trainer.sft_config import SFTConfig

    from pipeline.objectives import Loss, Objective
    from pipeline.objectives.sft import CrossEntropy
    from pipeline.training import model, trainer
    from pipeline.training.settings import arguments
    from stages import sft
    from tests import tiny

    class Beside(Objective):
        """The cross-entropy, and how far a layer of its own is from answering 3."""

        def __init__(self) -> None:
            torch.manual_seed(1)
            self.layer = torch.nn.Linear(2, 2)
            self.plain = CrossEntropy(torch.float32)
            self.moments: list[float] = []

        def modules(self) -> dict[str, torch.nn.Module]:
            return {"layer": self.layer}

        def loss(self, model: Any, batch: Any, moment: float) -> Loss:
            self.moments.append(moment)
            total, positions, _ = self.plain.loss(model, batch, moment)
            far = (self.layer(torch.ones(2)) - 3).square().sum()
            return Loss(total + far, positions, {"far": (far.detach(), 2)})

    folder = tiny.build(tmp_path / "student")
    examples = [Encoded(str(number), (), "", [5, 6], [7, number]) for number in range(4)]
    settings = arguments(sft.Config(learning_rate=0.1), tmp_path / "out", 4, evaluated=True, on_gpu=False)
    settings |= {"save_steps": 2, "eval_steps": 2, "metric_for_best_model": "eval_far", "max_grad_norm": 1e9}
    settings["greater_is_better"] = True  # the earlier checkpoint is the best: it is kept, and its weights are the end

    def trained(last: Path | None) -> tuple[Any, Beside]:
        objective = Beside()
        made = trainer.PlannedTrainer(
            trainer.Plan(objective, [[0], [1], [2], [3]], [[0, 1], [2]], 0),
            model=model.load(folder, "float32", "eager", None, 0, False),
            args=SFTConfig(**settings),
            train_dataset=trainer.as_dataset(examples),
            eval_dataset=trainer.as_dataset(examples),
            processing_class=tiny.tokenizer(),
        )
        made.go_on(last)
        return made, objective

    whole, objective = trained(None)
    assert objective.moments == [0.0, 0.25, 1.0, 1.0, 0.5, 0.75, 1.0, 1.0]
    first, second = (entry["eval_far"] for entry in whole.state.log_history if "eval_far" in entry)
    after = [value.clone() for value in objective.layer.parameters()]
    assert (objective.layer(torch.ones(2)) - 3).square().sum().item() / 2 == pytest.approx(first)
    again, resumed = trained(tmp_path / "out" / "checkpoint-2")
    assert [value.tolist() for value in resumed.layer.parameters()] == [value.tolist() for value in after]
    last = [entry["eval_far"] for entry in again.state.log_history if "eval_far" in entry][-1]
    assert last == second < first
