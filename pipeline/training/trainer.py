"""TRL's SFTTrainer on tokens made elsewhere: planned batches, a loss on completions only, sealed checkpoints.

It renders, tokenises and truncates nothing, and does not know where examples came from.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any

import torch
from accelerate import DistributedType
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Sampler
from transformers import PrinterCallback, TrainerCallback, TrainerState
from trl.trainer.sft_trainer import SFTTrainer

from pipeline.objectives import IGNORED, Objective
from pipeline.objectives.forward import refuse_changed_logits
from pipeline.training.batches import parts
from pipeline.training.checkpoints import best_of, prune, seal, stopped
from pipeline.training.encode import Encoded

MEDIAN_STEPS = 100  # before a run of wild losses: what they are compared with
LEAST_STEPS = 20  # fewer say nothing
Sums = dict[str, list[float]]  # name of a figure -> its sum, and of how many tokens or rows
BESIDE = "objective-{}.safetensors"  # of a checkpoint: a module that an objective trains beside the student


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


def pack(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows one after another in a single row [1, their lengths together], without padding.

    Positions start again with every example, and there is no mask: by that transformers keeps what attends apart (its
    `masking_utils`, and the variable-length kernels of flash attention). The first token of each is no label, or the
    last one of the example before would learn it.
    """
    lengths = [len(row["input_ids"]) for row in rows]
    labels = [label for row in rows for label in (IGNORED, *row["labels"][1:])]
    return {
        "input_ids": torch.tensor([[token for row in rows for token in row["input_ids"]]], dtype=torch.long),
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "labels": torch.tensor([labels], dtype=torch.long),
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

    objective: Objective | None  # None: the trainer has a loss of its own
    batches: Sequence[list[int]]
    eval_batches: Sequence[list[int]]
    pad_token_id: int
    part_tokens: int | None = None  # positions that go through the student at once, the rest after them; None: all
    packed: bool = False  # several examples in one row, instead of one in each with padding behind it
    seconds: dict[str, float] = field(default_factory=lambda: {"evaluate": 0.0, "save": 0.0})

    def laid_out(self, rows: Sequence[Mapping[str, Any]], rank: int = 0, world: int = 1) -> dict[str, Any]:
        """The `parts` of a batch, as tensors, that are process `rank`'s of `world`, and how many tokens are `learnt` in
        all parts of all processes.

        Every process has as many parts as the others, since all wait for each other: where there are too few, the
        shortest example stands in, and `counted` is False for it.
        """
        lengths = [len(row["input_ids"]) for row in rows]
        chosen = self._parts(lengths, world)
        idle = -len(chosen) % world
        stand_in = [min(range(len(rows)), key=lambda index: lengths[index])]
        mine = [*chosen, *[stand_in] * idle][rank::world]
        counted = [*[True] * len(chosen), *[False] * idle][rank::world]
        made = [[rows[index] for index in part] for part in mine]
        laid = [pack(part) if self.packed else collate(part, self.pad_token_id) for part in made]
        learnt = sum(label != IGNORED for row in rows for label in row["labels"][1:])
        return {"parts": laid, "counted": counted, "learnt": learnt}

    def _parts(self, lengths: Sequence[int], world: int) -> list[list[int]]:
        """A part for each process at least, where there are examples enough."""
        every = range(len(lengths))
        if self.part_tokens is None and world == 1:
            return [list(every)]
        limit = max(sum(lengths), len(lengths) * max(lengths)) if self.part_tokens is None else self.part_tokens
        chosen = parts(every, lengths, limit, self.packed)
        if len(chosen) >= min(world, len(lengths)):
            return chosen
        ascending = sorted(every, key=lambda index: lengths[index])
        return [ascending[rank::world] for rank in range(min(world, len(lengths)))]


class Diverged(Exception):
    """The loss is no longer a finite number, or no longer a sane one; `batches` says where, as JSON values."""

    def __init__(self, message: str, batches: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(message)
        self.batches = list(batches)


class Guard(TrainerCallback):
    """Raises Diverged where the losses of `steps` steps on end are all over `factor` times the median before them.

    It goes by the trainer's log, which a resumed training takes over; by the cross-entropy, where that is logged beside
    a loss: what a loss is made of may change as training goes on. `ids` gives the traces of a step.
    """

    def __init__(self, factor: float, steps: int, ids: Callable[[int], list[str]]) -> None:
        self.factor, self.steps, self.ids = factor, steps, ids

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return
        entries = (entry for entry in reversed(state.log_history) if "loss" in entry)
        logged = ((entry["step"], entry.get("cross_entropy", entry["loss"])) for entry in entries)
        last = list(islice(logged, self.steps + MEDIAN_STEPS))
        wild, before = last[: self.steps], [loss for _, loss in last[self.steps :]]
        if len(before) < LEAST_STEPS or not all(loss > self.factor * median(before) for _, loss in wild):
            return
        raise Diverged(
            f"the loss was over {self.factor:g} times its median ({median(before):.3f}) for {self.steps} steps on end, "
            f"up to step {wild[0][0]} ({wild[0][1]:.3f}). Lower sft.learning_rate, look at the traces, or raise "
            f"sft.wild_loss_factor (null: never stop for that).",
            [{"step": step, "loss": loss, "ids": self.ids(step)} for step, loss in reversed(wild)],
        )


class Watcher(TrainerCallback):
    """Hands (step, loss) of every logged step on, for display."""

    def __init__(self, show: Callable[[int, float], None]) -> None:
        self.show = show

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.show(state.global_step, logs["loss"])


class Cleared(TrainerCallback):
    """Clears the gradients of the objective's own modules after a step; the trainer clears the student's alone."""

    def __init__(self, modules: Sequence[torch.nn.Module]) -> None:
        self.modules = modules

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for module in self.modules:
            module.zero_grad()


class Planned:
    """What every trainer of ours adds to TRL's: planned batches, sealed checkpoints, and going on from one of them."""

    plan: Plan
    model: Any
    model_wrapped: Any
    args: Any
    state: Any
    accelerator: Any
    data_collator: Any
    train_dataset: Any
    eval_dataset: Any
    reports = False  # whether what it logs of a step beside the loss is what the objective says of it
    rank, world = 0, 1  # of the processes that train
    beside: Mapping[str, torch.nn.Module] = MappingProxyType({})  # what is trained beside the student, by its name

    def get_train_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.train_dataset, self.plan.batches)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        return self._loader(self.eval_dataset, self.plan.eval_batches)

    def _loader(self, dataset: Any, batches: Sequence[list[int]]) -> DataLoader[Any]:
        loader: DataLoader[Any] = DataLoader(
            dataset, batch_sampler=PlannedBatches(batches), collate_fn=self.data_collator, num_workers=0
        )
        if self.world > 1:
            return loader  # every process reads all batches, and takes its parts
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save, seal, and only then delete what is neither best nor last, so that a kill always leaves one."""
        start = time.monotonic()
        # A sharded student is written last, and a checkpoint without its folder is not taken for the best by then.
        self.checkpoint.mkdir(parents=True, exist_ok=True)
        super()._save_checkpoint(model, trial)  # type: ignore[misc]
        self.accelerator.wait_for_everyone()
        if self.rank == 0:
            self._seal()
        self.accelerator.wait_for_everyone()
        self.plan.seconds["save"] += time.monotonic() - start

    def _seal(self) -> None:
        self.save_beside(self.checkpoint)
        seal(self.checkpoint)
        prune(self.root, self.checkpoint)

    @property
    def checkpoint(self) -> Path:
        """That of the step that was taken last."""
        return self.root / f"checkpoint-{self.state.global_step}"

    def save_beside(self, folder: Path) -> None:
        """Write what a checkpoint holds besides TRL's files."""

    def _init_training_state(self, *args: Any, **kwargs: Any) -> Any:
        """As the parent does, then the best checkpoint by its step: the stored path may be that of a moved folder."""
        trained = super()._init_training_state(*args, **kwargs)  # type: ignore[misc]
        if self.state.best_global_step:
            self.state.best_model_checkpoint = str(self.root / f"checkpoint-{self.state.best_global_step}")
        return trained

    @property
    def root(self) -> Path:
        return Path(str(self.args.output_dir))

    def go_on(self, last: Path | None) -> None:
        """Train from the start or from a checkpoint; one that had already stopped early only gives its best weights."""
        if last is None or not stopped(last):
            self.train(resume_from_checkpoint=None if last is None else str(last))  # type: ignore[attr-defined]
            return
        self.state = TrainerState.load_from_json(str(last / "trainer_state.json"))
        wanted = best_of(last) if self.args.load_best_model_at_end else None
        self.state.best_model_checkpoint = str(wanted or last)
        if self.is_sharded:  # so is what is loaded
            steps, batches = self.state.max_steps, self.get_train_dataloader()
            self._prepare_for_training(steps, batches, None)  # type: ignore[attr-defined]
        self._load_best_model()  # type: ignore[attr-defined]

    def finished(self) -> Any:
        """The trained student."""
        return self.model

    def gathered(self) -> dict[str, torch.Tensor] | None:
        """The whole weights of a sharded student, on the CPU of the first process; None where each process holds them.

        All processes take part.
        """
        if not self.is_sharded:
            return None
        weights: dict[str, torch.Tensor] = self.accelerator.get_state_dict(self.model_wrapped)
        return weights

    @property
    def is_sharded(self) -> bool:
        """Whether the processes share one student, or one optimizer, among them."""
        return self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None: the project describes its checkpoints itself."""

    def _send_telemetry(self) -> None:
        """None is sent."""


def _trained(module: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """What a checkpoint holds of a module beside the student: frozen weights are read again, and those in 4 bits could
    not be loaded into a module.
    """
    return ((name, value) for name, value in module.named_parameters() if value.requires_grad)


def _add(sums: Sums, figures: Mapping[str, tuple[Any, int]], counted: bool) -> None:
    """What does not count is there with nothing: all processes have the same names."""
    for name, (total, count) in figures.items():
        sum_and_count = sums.setdefault(name, [0.0, 0.0])
        if counted:
            sum_and_count[0] += float(total)
            sum_and_count[1] += count


class PlannedTrainer(Planned, SFTTrainer):
    """SFTTrainer without its per-step metrics, and without its loss of all logits at once."""

    reports = True

    def __init__(self, plan: Plan, **kwargs: Any) -> None:
        assert plan.objective is not None
        self.plan = plan
        self.objective: Objective = plan.objective
        # Of the part that goes through the student: what its summed loss is divided by, and whether it counts.
        self.learnt: float | None = None
        self.counted = True
        self.reported: Sums = {}  # of the step at hand
        self.rank, self.world = kwargs["args"].process_index, kwargs["args"].world_size
        super().__init__(data_collator=lambda rows: plan.laid_out(rows, self.rank, self.world), **kwargs)
        self.remove_callback(PrinterCallback)
        refuse_changed_logits(self.model)
        self.beside = dict(self.objective.modules())
        for module in self.beside.values():
            module.to(self.args.device).train()  # a model that was just read does not recompute its activations
        self.add_callback(Cleared(list(self.beside.values())))

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """Forward and backward of a batch, part by part. Returns the mean loss per learnt token of the whole batch; of
        several processes each has its own share of it, and the mean over them is that of the batch.
        """
        several = len(inputs["parts"]) * self.world > 1
        self.learnt = inputs["learnt"] / self.world if several else None  # gradients are averaged over processes
        losses: list[Any] = []
        for part, self.counted in zip(inputs["parts"], inputs["counted"], strict=True):
            # DeepSpeed steps together with a backward: with that of the last part.
            self.accelerator.gradient_state._set_sync_gradients(len(losses) == len(inputs["parts"]) - 1)
            losses.append(super().training_step(model, part))  # type: ignore[no-untyped-call]
        return sum(losses[1:], losses[0])

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean loss per learnt token of a batch; of a part, its share of that of the whole batch.

        Raises Diverged, with the trace ids, where it is not finite.
        """
        moment = self.state.global_step / max(self.state.max_steps, 1)
        found = self.objective.loss(model, inputs, moment)
        loss = found.total / (max(found.positions, 1) if self.learnt is None else max(self.learnt, 1 / self.world))
        if not self.counted:
            loss = loss * 0.0
        _add(self.reported, found.figures, self.counted)
        if not torch.isfinite(loss):
            step = self.state.global_step + 1
            raise Diverged(
                f"the loss became {loss.item()} at step {step}, on the traces {', '.join(inputs['ids'])}; expected a "
                f"finite number. Lower sft.learning_rate, or look at the traces.",
                [{"step": step, "loss": str(loss.item()), "ids": list(inputs["ids"])}],
            )
        return loss

    def log(self, logs: dict[str, float], *arguments: Any, **named: Any) -> None:
        """As the parent does, with the means of what the objective reported of a step, over all processes."""
        if "loss" in logs and self.reported:
            logs |= self._means(self.reported)
            self.reported = {}
        super().log(logs, *arguments, **named)

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> Any:
        """The validation loss per learnt token, over all tokens rather than over batches of unequal size, and the means
        of what the objective reports beside it.
        """
        start = time.monotonic()
        sums: Sums = {}
        for module in (self.model, *self.beside.values()):
            module.eval()
        with torch.no_grad():  # inference mode would leave gathered weights that no step can use
            for batch, counted in self._eval_parts():
                found = self.objective.loss(self.model, batch, 1.0)
                _add(sums, {"loss": (found.total, found.positions), **found.figures}, counted)
        for module in self.beside.values():
            module.train()
        metrics = {f"{metric_key_prefix}_{name}": mean for name, mean in self._means(sums).items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.plan.seconds["evaluate"] += time.monotonic() - start
        return metrics

    def _eval_parts(self) -> Iterator[tuple[Mapping[str, Any], bool]]:
        for whole in self.get_eval_dataloader():
            for part, counted in zip(whole["parts"], whole["counted"], strict=True):
                yield self._prepare_inputs(part), counted

    def _means(self, sums: Sums) -> dict[str, float]:
        """By name, over all processes; each has the same names."""
        names = sorted(sums)
        both = torch.tensor([sums[name] for name in names], dtype=torch.float64)
        if self.world > 1:
            both = self.accelerator.reduce(both.to(self.args.device), "sum")
        return {name: total / max(count, 1) for name, (total, count) in zip(names, both.tolist(), strict=True)}

    def save_beside(self, folder: Path) -> None:
        """See `Planned`: what the objective trains beside the student."""
        for name, module in self.beside.items():
            save_file(
                {key: value.detach().contiguous() for key, value in _trained(module)}, folder / BESIDE.format(name)
            )

    def create_optimizer(self, model: Any = None) -> Any:
        """As the parent does, with what the objective's own modules train in a group of their own."""
        begun = self.optimizer is not None
        optimizer = super().create_optimizer(model)
        for module in () if begun else self.beside.values():
            decaying = set(self.get_decay_parameter_names(module))
            for decay in (True, False):
                chosen = [
                    parameter
                    for name, parameter in module.named_parameters()
                    if parameter.requires_grad and (name in decaying) is decay
                ]
                if chosen:
                    optimizer.add_param_group(
                        {"params": chosen, "weight_decay": self.args.weight_decay if decay else 0.0}
                    )
        return optimizer

    def _parameters_beside(self) -> list[torch.nn.Parameter]:
        return [parameter for module in self.beside.values() for parameter in module.parameters()]

    def _clip_grad_norm(self, model: Any) -> Any:
        """As the parent does, over all that is trained."""
        if not self.beside:
            return super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]
        everything = [*model.parameters(), *self._parameters_beside()]
        return self.accelerator.clip_grad_norm_(everything, self.args.max_grad_norm)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """As the parent does, with the objective's own modules."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._load_beside(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        """As the parent does, with the objective's own modules."""
        super()._load_best_model()
        self._load_beside(Path(str(self.state.best_model_checkpoint)))

    def _load_beside(self, folder: Path) -> None:
        for name, module in self.beside.items():
            path = folder / BESIDE.format(name)
            saved = load_file(path, device=str(self.args.device))
            module.load_state_dict(saved, strict=False)
            # By their place in memory: tied weights have two names, and a file may hold either.
            met = {value.data_ptr() for key, value in module.state_dict().items() if key in saved}
            lacking = [key for key, value in _trained(module) if value.data_ptr() not in met]
            if lacking:
                raise ValueError(
                    f"{path} does not hold {lacking[0]}, which is trained beside the student. Delete {self.root} to "
                    f"start over."
                )
