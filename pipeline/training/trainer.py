"""TRL's SFTTrainer on tokens made elsewhere: planned batches, a loss on completions only, sealed checkpoints.

It renders, tokenises, truncates and packs nothing, and does not know where examples came from.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Sampler
from transformers import PrinterCallback, TrainerCallback, TrainerState
from trl.trainer.sft_trainer import SFTTrainer

from pipeline.objectives import Objective
from pipeline.training.checkpoints import best_of, prune, seal, stopped_early
from pipeline.training.encode import IGNORED, Encoded


def as_dataset(examples: Sequence[Encoded]) -> Dataset:
    """The columns a batch is made of: id, input_ids, labels."""
    return Dataset.from_dict(
        {
            "id": [example.id for example in examples],
            "input_ids": [example.input_ids for example in examples],
            "labels": [example.labels for example in examples],
        }
    )


def collate(rows: Sequence[Mapping[str, Any]], pad_token_id: int) -> dict[str, Any]:
    """Rows as right-padded tensors [rows, longest]; padding is masked and never a label, whatever its token is."""

    def padded(name: str, value: int) -> torch.Tensor:
        parts = [torch.as_tensor(row[name], dtype=torch.long) for row in rows]
        return pad_sequence(parts, batch_first=True, padding_value=value)

    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    input_ids = padded("input_ids", pad_token_id)
    mask = torch.arange(input_ids.shape[1])[None, :] < lengths[:, None]
    return {
        "input_ids": input_ids,
        "attention_mask": mask.long(),
        "labels": padded("labels", IGNORED),
        "ids": [row["id"] for row in rows],
    }


class PlannedBatches(Sampler[list[int]]):
    """A batch sampler that yields the batches it was given, in their order."""

    def __init__(self, batches: Sequence[list[int]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


@dataclass(frozen=True)
class Plan:
    """What the trainer below needs beyond TRL's arguments. The whole training is one pass over `batches`."""

    objective: Objective
    batches: Sequence[list[int]]
    eval_batches: Sequence[list[int]]
    pad_token_id: int
    compute_dtype: torch.dtype
    seconds: dict[str, float] = field(default_factory=lambda: {"evaluate": 0.0, "save": 0.0})


class Diverged(Exception):
    """The loss is no longer a finite number; the message names the step and the traces."""


class Watcher(TrainerCallback):
    """Hands (step, loss) of every logged step on, for display."""

    def __init__(self, show: Callable[[int, float], None]) -> None:
        self.show = show

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.show(state.global_step, logs["loss"])


class PlannedTrainer(SFTTrainer):
    """SFTTrainer without its per-step metrics, its head at every position, and its unsealed checkpoints."""

    def __init__(self, plan: Plan, **kwargs: Any) -> None:
        self.plan = plan
        self.model: Any
        super().__init__(data_collator=lambda rows: collate(rows, plan.pad_token_id), **kwargs)
        self.remove_callback(PrinterCallback)
        self.head_positions: torch.Tensor | None = None
        self.model.get_output_embeddings().register_forward_pre_hook(self._only_learnt_positions)

    def _only_learnt_positions(self, _head: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Hand the output head the learnt positions only: the vocabulary's product is wasted on prompts and padding."""
        return None if self.head_positions is None else (arguments[0][self.head_positions], *arguments[1:])

    def loss_sum(self, model: Any, batch: Mapping[str, Any]) -> tuple[torch.Tensor, int]:
        """The objective's summed loss over a batch and the number of positions it covers."""
        labels = batch["labels"][:, 1:]
        learnt = labels != IGNORED
        self.head_positions = torch.nn.functional.pad(learnt, (0, 1))
        mixed = self.plan.compute_dtype != torch.float32
        try:
            with torch.autocast(labels.device.type, dtype=torch.bfloat16, enabled=mixed):
                logits = model(
                    input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
                ).logits
        finally:
            self.head_positions = None
        targets = labels[learnt]
        return self.plan.objective.loss(logits, targets, batch), targets.numel()

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean loss per learnt token of a batch. Raises Diverged, with the trace ids, where it is not finite."""
        total, positions = self.loss_sum(model, inputs)
        loss = total / max(positions, 1)
        if not torch.isfinite(loss):
            raise Diverged(
                f"the loss became {loss.item()} at step {self.state.global_step + 1}, on the traces "
                f"{', '.join(inputs['ids'])}; expected a finite number. Lower sft.learning_rate, or look at the traces."
            )
        return loss

    def get_train_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.train_dataset, self.plan.batches)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        return self._loader(self.eval_dataset, self.plan.eval_batches)

    def _loader(self, dataset: Any, batches: Sequence[list[int]]) -> DataLoader[Any]:
        loader: DataLoader[Any] = DataLoader(
            dataset, batch_sampler=PlannedBatches(batches), collate_fn=self.data_collator, num_workers=0
        )
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> Any:
        """The validation loss per learnt token, over all tokens rather than over batches of unequal size."""
        start = time.monotonic()
        total, positions = 0.0, 0
        self.model.eval()
        with torch.inference_mode():
            for batch in self.get_eval_dataloader():
                batch_sum, count = self.loss_sum(self.model, batch)
                total, positions = total + float(batch_sum), positions + count
        metrics = {f"{metric_key_prefix}_loss": total / max(positions, 1)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.plan.seconds["evaluate"] += time.monotonic() - start
        return metrics

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save, seal, and only then delete what is neither best nor last, so that a kill always leaves one."""
        start = time.monotonic()
        super()._save_checkpoint(model, trial)  # type: ignore[no-untyped-call]
        folder = self.root / f"checkpoint-{self.state.global_step}"
        seal(folder)
        prune(self.root, folder)
        self.plan.seconds["save"] += time.monotonic() - start

    def _init_training_state(self, *args: Any, **kwargs: Any) -> Any:
        """As the parent does, then the best checkpoint by its step: the stored path may be that of a moved folder."""
        trained = super()._init_training_state(*args, **kwargs)
        if self.state.best_global_step:
            self.state.best_model_checkpoint = str(self.root / f"checkpoint-{self.state.best_global_step}")
        return trained

    @property
    def root(self) -> Path:
        return Path(str(self.args.output_dir))

    def go_on(self, last: Path | None) -> None:
        """Train from the start or from a checkpoint; one that had already stopped early only gives its best weights."""
        if last is None or not stopped_early(last):
            self.train(resume_from_checkpoint=None if last is None else str(last))
            return
        self.state = TrainerState.load_from_json(str(last / "trainer_state.json"))
        wanted = best_of(last) if self.args.load_best_model_at_end else None
        self.state.best_model_checkpoint = str(wanted or last)
        self._load_best_model()

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None: the project describes its checkpoints itself."""

    def _send_telemetry(self) -> None:
        """None is sent."""
