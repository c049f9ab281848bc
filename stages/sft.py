"""sft: audits the examples of mix, then trains the student on them with TRL, and writes a checkpoint that vLLM serves.

It makes no examples and judges no answers; a killed training goes on from its newest complete checkpoint.
"""

import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from pipeline import heap, labelling, objectives
from pipeline import student as students
from pipeline.manifest import write_durably
from pipeline.objectives import targets
from pipeline.objectives.features import Config as Features
from pipeline.objectives.mutual import Config as Mutual
from pipeline.objectives.on_policy import Config as OnPolicy
from pipeline.objectives.soft_labels import Config as SoftLabels
from pipeline.records import SOFT_LABELS, content_id
from pipeline.roles import Role
from pipeline.section import Section, declared
from pipeline.stage import Inputs, Output, Progress, Reads, Roles, Stage, StageError
from pipeline.templates import load_tokenizer
from pipeline.training import audit as audits
from pipeline.training import batches, checkpoints, pairing, start
from pipeline.training.encode import Encoded, LeftOut, digest, encode

if TYPE_CHECKING:
    from pipeline.training.process import Start
    from pipeline.training.trainer import Planned

CURVE_POINTS = 500  # of the training loss in the manifest; TensorBoard has every step
OPTIMIZER_FILE = "optimizer.pt"  # of a checkpoint, as transformers names it
# Objective -> the role whose model it runs beside the student.
BESIDE = {"features": "teacher", "mutual": "peer", "on_policy": "teacher"}
DIVERGED_FILE = "diverged.json"  # in the stage's folder: the batches at which a training was stopped
PACKABLE = ("sft", "soft_labels", "mutual")  # objectives that look at learnt positions alone, wherever they stand
SPREADABLE = ("sft", "soft_labels")  # objectives that several processes can share


class Lora(Section):
    """A low-rank adapter on frozen weights, merged into them at the end."""

    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)  # the update is scaled by alpha / rank
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")  # layers


class Exec(Section):
    """Where and how fast it trains; never what."""

    threads: int | None = Field(None, ge=1)  # on the CPU; null: torch's choice
    # auto: eager for short texts on the CPU; on a GPU flash attention where it is installed, else sdpa.
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    # How a batch lies in memory: one example a row with padding behind it, or all in one row, kept apart by attention.
    # The same batches either way. auto: packed with flash attention, whose kernels know where an example ends.
    layout: Literal["auto", "padded", "packed"] = "auto"
    liger: Literal["auto", "on", "off"] = "auto"  # Liger's kernels; auto: on a GPU where they are installed
    report_to: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = ("tensorboard",)  # keys: from the environment
    # accelerate: in several processes, as one of its configurations says: a name in pipeline/recipes/accelerate, or a
    # path.
    launcher: Literal["none", "accelerate"] = "none"
    config: str = "ddp"  # of launcher accelerate
    processes: int | None = Field(None, ge=1)  # of this machine; null: one a GPU, or as the configuration says
    gradient_checkpointing: bool | None = None  # recompute activations to save memory; null: only on a GPU
    resumable: bool = True  # false: checkpoints without optimizer state, a third of the size; a kill starts over


class Config(Section):
    """How the student is trained."""

    later: ClassVar[frozenset[str]] = frozenset(
        {"soft_labels", "features", "mutual", "on_policy"}
        | {"batch_examples", "wild_loss_factor", "wild_loss_steps", "loss_tokens"}
    )
    locations: ClassVar[frozenset[str]] = frozenset({"start"})

    # A checkpoint's folder, of another run's sft say, with whose weights the training begins; null: the student's own.
    # The tokenizer and the untouched student of eval are those of `student` all the same.
    start: str | None = None
    objective: str = "sft"  # what it minimises: a name in objectives.OBJECTIVES
    soft_labels: SoftLabels | None = None  # of objective soft_labels
    features: Features | None = None  # of objective features
    mutual: Mutual | None = None  # of objective mutual
    on_policy: OnPolicy | None = None  # of objective on_policy
    # Train all weights, or an adapter; qlora: one on weights held in 4 bits, on a GPU.
    method: Literal["full", "lora", "qlora"] = "full"
    lora: Lora = Lora()
    epochs: int = Field(3, ge=1)  # passes over the training examples
    # Tokens to learn from in the whole training, in as many passes as that takes; `epochs` then says only how often the
    # validation loss is taken. null: `epochs` passes.
    loss_tokens: int | None = Field(None, ge=1)
    learning_rate: float = Field(1e-4, gt=0)  # at its peak
    schedule: Literal["cosine", "linear", "constant"] = "cosine"  # after the warm-up
    warmup_share: float = Field(0.05, ge=0, lt=1)  # of all steps, rising linearly from 0
    final_learning_rate_share: float = Field(0.0, ge=0, le=1)  # of the peak, where a cosine ends
    weight_decay: float = Field(0.0, ge=0)  # AdamW's; not on norms and biases
    max_grad_norm: float = Field(1.0, gt=0)  # gradients are clipped to this norm
    batch_tokens: int = Field(2048, ge=1)  # positions of a batch, padding included; a longer example is a batch alone
    # Examples of a batch, however long; batch_tokens then bounds what goes through the student at once. null: as many
    # as batch_tokens hold, those of like length together.
    batch_examples: int | None = Field(None, ge=1)
    pool_batches: int = Field(16, ge=1)  # examples of so many batches are sorted by length together: more pads less
    max_length: int = Field(2048, ge=2)  # tokens of prompt and completion; a longer example is dropped, never cut
    master_dtype: Literal["float32", "bfloat16"] = "float32"  # of the weights the optimizer changes
    compute_dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of products in forward and backward (autocast)
    save_dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of the finished checkpoint
    seed: int = 0  # of batches, dropout and adapter
    evals_per_epoch: int = Field(1, ge=1)  # validation losses, each with a checkpoint
    early_stopping_patience: int | None = Field(3, ge=1)  # evaluations without a better loss; null: never stop early
    keep: Literal["best", "last"] = "best"  # which checkpoint is the result: lowest validation loss, or the last
    # Training stops where the loss stays over so many times its running median, for so many steps on end; null: never.
    wild_loss_factor: float | None = Field(4.0, gt=1)
    wild_loss_steps: int = Field(10, ge=1)
    audit: audits.Limits = audits.Limits()
    exec: Exec = Exec()

    @model_validator(mode="before")
    @classmethod
    def _section_of_its_own(cls, values: Any) -> Any:
        """The chosen objective's section stands there with its defaults; that of another one is an error."""
        if not isinstance(values, dict):
            return values
        sections = [name for name in objectives.OBJECTIVES if name in cls.model_fields]
        chosen = values.get("objective", cls.model_fields["objective"].default)
        idle = [name for name in sections if name != chosen and values.get(name) is not None]
        if idle:
            raise ValueError(
                f"found values for {idle[0]} beside objective {chosen}, which reads none of them. Set objective: "
                f"{idle[0]}, or leave them out"
            )
        return values | {name: {} for name in sections if name == chosen and values.get(name) is None}

    @model_validator(mode="after")
    def _counts_prompts(self) -> "Config":
        if self.on_policy is not None and (self.batch_examples is not None or self.loss_tokens is not None):
            raise ValueError(
                "objective on_policy asks so many prompts a step, epoch after epoch, and nobody knows yet how long the "
                "answers are: set on_policy.prompts_per_step and epochs, not batch_examples or loss_tokens"
            )
        return self

    @field_validator("objective")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in objectives.OBJECTIVES:
            raise ValueError(f"no objective is called {name!r}; expected one of {', '.join(objectives.OBJECTIVES)}")
        return name


@dataclass(frozen=True)
class Material:
    """What is trained on, in tokens and in batches."""

    train: list[Encoded]
    validation: list[Encoded]
    left_out: list[LeftOut]
    audit: audits.Audit
    train_batches: list[list[int]]
    validation_batches: list[list[int]]
    targets: Path | None = None  # where the soft targets of the examples lie, for an objective that learns them


def prepare(
    config: Config, tokenizer: Any, rows: Sequence[Mapping[str, Any]], system: str | None, packed: bool = False
) -> Material:
    """Encode, audit and batch the examples. Rows are taken by id, so that no layout of shards changes the result."""
    ordered = sorted(rows, key=lambda row: str(row["id"]))
    train, longer, dropped = encode(tokenizer, (row for row in ordered if row["split"] == "train"), config.max_length)
    validation, _, missed = encode(tokenizer, (row for row in ordered if row["split"] != "train"), config.max_length)
    count, repeated = config.batch_examples, list[LeftOut]()
    if config.on_policy is not None:
        count = config.on_policy.prompts_per_step
        if config.on_policy.answers_alone:
            (train, repeated), (validation, _) = asked_once(train), asked_once(validation)
    lengths = [one.length for one in train]
    of_epoch = partial(
        batches.epoch_batches,
        lengths,
        config.batch_tokens,
        config.seed,
        pool_batches=config.pool_batches,
        batch_examples=count,
        places=places_of(train, ordered),
    )
    if config.loss_tokens is None:
        train_batches = [batch for epoch in range(config.epochs) for batch in of_epoch(epoch)]
    else:
        train_batches = batches.within(of_epoch, [len(one.completion) for one in train], config.loss_tokens)
    wasted = 0.0 if packed else batches.padding_share(in_parts(config, train_batches, lengths), lengths)
    return Material(
        train=train,
        validation=validation,
        left_out=[*dropped, *missed, *repeated],
        audit=audits.audit(tokenizer, train, longer, config.max_length, system, wasted),
        train_batches=train_batches,
        validation_batches=batches.epoch_batches(
            [one.length for one in validation],
            config.batch_tokens,
            config.seed,
            0,
            len(validation) + 1,
            None if config.on_policy is None else count,
        ),
    )


def asked_once(examples: Sequence[Encoded]) -> tuple[list[Encoded], list[LeftOut]]:
    """The first example of each prompt, and the others: whoever answers prompts himself needs each of them once."""
    first: dict[tuple[int, ...], Encoded] = {}
    for example in examples:
        first.setdefault(tuple(example.prompt), example)
    kept = {example.id for example in first.values()}
    others = [LeftOut(one.id, "prompt_repeated", one.length) for one in examples if one.id not in kept]
    return list(first.values()), others


def in_parts(config: Config, planned: Sequence[list[int]], lengths: Sequence[int]) -> list[list[int]]:
    """The parts of all batches, padded."""
    return [part for batch in planned for part in batches.parts(batch, lengths, config.batch_tokens)]


def places_of(examples: Sequence[Encoded], rows: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """The place of each example in the order that mix declares; None where it declares none."""
    places = {row["id"]: row.get("place") for row in rows}
    found = [place for one in examples if (place := places[one.id]) is not None]
    return found if len(found) == len(examples) else None


def interval(steps: int, evaluations: int) -> int:
    """Steps between two of so many evaluations, the last at the last step."""
    return max(1, math.ceil(steps / evaluations))


def arguments(config: Config, folder: Path, steps: int, evaluated: bool, on_gpu: bool) -> dict[str, Any]:
    """TRL's SFTConfig for a training of `steps` batches, which the trainer sees as one epoch."""
    every = interval(steps, config.epochs * config.evals_per_epoch)
    cosine_to = {"min_lr_rate": config.final_learning_rate_share}
    checkpointing = config.exec.gradient_checkpointing
    return {
        "output_dir": str(folder),
        "num_train_epochs": 1,
        "per_device_train_batch_size": 1,  # of no effect: the batches are planned
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "cosine_with_min_lr" if config.schedule == "cosine" else _SCHEDULES[config.schedule],
        "lr_scheduler_kwargs": cosine_to if config.schedule == "cosine" else None,
        "warmup_steps": round(config.warmup_share * steps),
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "optim": "adamw_torch_fused",
        "seed": config.seed,
        "data_seed": config.seed,
        "bf16": False,  # autocast is the trainer's own; accelerate's copies every output to float32
        "gradient_checkpointing": on_gpu if checkpointing is None else checkpointing,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "eval_strategy": "steps" if evaluated else "no",
        "eval_steps": every,
        "save_strategy": "steps",
        "save_steps": every,
        "save_only_model": not config.exec.resumable,
        "load_best_model_at_end": evaluated and config.keep == "best",
        "metric_for_best_model": "eval_loss" if evaluated else None,
        "greater_is_better": False if evaluated else None,
        "restore_callback_states_from_checkpoint": True,
        "report_to": "none",  # the callbacks are given
        "project": "seqdistill",
        "run_name": folder.parents[2].name,  # the run's: runs/<run>/sft/work/trainer
        "use_liger_kernel": with_liger(config, on_gpu),
        "liger_kernel_config": {"fused_linear_cross_entropy": False, "cross_entropy": False},  # losses are objectives'
        "disable_tqdm": True,
        "use_cpu": not on_gpu,
        "ddp_find_unused_parameters": False,
        "remove_unused_columns": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "packing": False,
        "max_length": None,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": on_gpu,
        "accelerator_config": {"even_batches": False},
    }


_SCHEDULES = {"linear": "linear", "constant": "constant_with_warmup"}


def adapter(lora: Lora, added_tokens: Sequence[int]) -> dict[str, Any]:
    """PEFT's names for an adapter's values. Rows of tokens that the student was given are trained beside it.

    While such a row is the mean of others, no greedy answer could ever hold its token.
    """
    trained = {name: list(added_tokens) for name in ("embed_tokens", "lm_head")}
    return {
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": list(lora.targets),
        "trainable_token_indices": trained if added_tokens else None,
    }


def installed(name: str) -> bool:
    """Whether a library is there, without importing it."""
    return find_spec(name) is not None


def added_tokens(inputs: Inputs, tokenizer: Any) -> list[int]:
    """The ids of the tokens that the student was given when it was made."""
    found = students.figures(inputs.model("student")).get("added_tokens", ())
    return [int(tokenizer.convert_tokens_to_ids(token)) for token in found]


def attention(choice: str, longest: int, on_gpu: bool, compute_dtype: str = "bfloat16") -> Any:
    """The attention to run. On the CPU plain attention is the faster one while texts are short."""
    if choice != "auto":
        return choice
    if on_gpu and compute_dtype == "bfloat16" and installed("flash_attn"):
        return "flash_attention_2"
    return "eager" if longest <= 512 and not on_gpu else "sdpa"


def is_packed(config: Config, attending: str) -> bool:
    """Whether batches lie packed. Raises StageError where they cannot."""
    if config.exec.layout == "packed" and config.objective not in PACKABLE:
        raise StageError(
            f"sft.exec.layout is packed, and objective {config.objective} compares whole rows; expected one of "
            f"{', '.join(PACKABLE)}. Set sft.exec.layout: padded."
        )
    automatic = attending == "flash_attention_2" and config.objective in PACKABLE
    return config.exec.layout == "packed" or (config.exec.layout == "auto" and automatic)


def with_liger(config: Config, on_gpu: bool) -> bool:
    """Whether Liger's kernels run. Raises StageError where they are wanted and cannot."""
    if config.exec.liger != "on":
        return config.exec.liger == "auto" and on_gpu and installed("liger_kernel")
    if not on_gpu or not installed("liger_kernel"):
        raise StageError(
            f"sft.exec.liger is on, and there is {'no liger_kernel' if on_gpu else 'no GPU'}. "
            f"{'Install it: .venv/bin/python -m pip install liger-kernel. Or set' if on_gpu else 'Set'} "
            f"sft.exec.liger: auto."
        )
    return True


def curve(history: Sequence[Mapping[str, Any]], key: str, points: int) -> list[list[float]]:
    """[step, value] pairs of a key in the trainer's log; runs of steps are averaged where there are too many."""
    pairs = [(entry["step"], entry[key]) for entry in history if key in entry]
    width = max(1, math.ceil(len(pairs) / points))
    runs = [pairs[start : start + width] for start in range(0, len(pairs), width)]
    return [[run[-1][0], sum(value for _, value in run) / len(run)] for run in runs]


def check_reporters(wanted: Sequence[str]) -> None:
    """Raises StageError where a program that losses are to be reported to is not installed."""
    missing = [name for name in wanted if name != "tensorboard" and not installed(name)]
    if missing:
        raise StageError(
            f"sft.exec.report_to names {missing[0]}, which is not installed. Install it with "
            f"`.venv/bin/python -m pip install -e '.[{missing[0]}]'`, or leave it out."
        )


def reporters(config: Config, logs: Path, begun: Path | None) -> list[Any]:
    """Callbacks that report losses: TensorBoard's into a folder, others' on this machine unless the environment holds a
    key or a place of theirs.
    """
    from torch.utils.tensorboard.writer import SummaryWriter
    from transformers.integrations import integration_utils

    made: list[Any] = []
    for name in config.exec.report_to:
        if name == "tensorboard":
            # What was logged after the checkpoint gone on from will be logged again.
            again = None if begun is None else checkpoints.step_of(begun) + 1
            made.append(integration_utils.TensorBoardCallback(SummaryWriter(str(logs), purge_step=again)))
        elif name == "wandb":
            if "WANDB_API_KEY" not in os.environ:
                os.environ.setdefault("WANDB_MODE", "offline")
            os.environ.setdefault("WANDB_PROJECT", "seqdistill")
            os.environ.setdefault("WANDB_SILENT", "true")
            os.environ.setdefault("WANDB_DIR", str(logs))
            logs.mkdir(parents=True, exist_ok=True)
            made.append(integration_utils.WandbCallback())
        else:
            made.append(integration_utils.TrackioCallback())
    return made


def callbacks(
    config: Config, output: Output, planned: Sequence[list[str]], patience: int | None, begun: Path | None
) -> list[Any]:
    """Reports of the losses, the stage's progress, the guard of sane losses, and early stopping where there is a
    patience. `planned` are the trace ids of each step.
    """
    from transformers import EarlyStoppingCallback

    from pipeline.training.process import is_first
    from pipeline.training.trainer import Guard, Watcher

    shown = [
        *(reporters(config, output.folder / "logs", begun) if is_first() else []),
        Watcher(lambda step, loss: output.progress(Progress(step, len(planned), "steps", f"loss {loss:.3f}"))),
    ]
    if config.wild_loss_factor is not None:
        shown.append(Guard(config.wild_loss_factor, config.wild_loss_steps, lambda step: planned[step - 1]))
    return [*shown, EarlyStoppingCallback(patience)] if patience else shown


def begun_with(config: Config, inputs: Inputs) -> Path:
    """The folder of the weights that the training begins with."""
    own = inputs.model("student")
    return own if config.start is None else start.checked(config.start, own, inputs.root)


def build_trainer(
    config: Config, inputs: Inputs, output: Output, tokenizer: Any, material: Material, begun: Path | None
) -> "Planned":
    """The trainer with model, batches and callbacks, ready to train."""
    import torch
    from trl.trainer.sft_config import SFTConfig

    from pipeline.training import model, trainer

    model.quiet()
    if config.exec.threads:
        torch.set_num_threads(config.exec.threads)
    on_gpu, evaluated = torch.cuda.is_available(), bool(material.validation)
    steps = len(material.train_batches)
    settings = arguments(config, output.work / "trainer", steps, evaluated, on_gpu)
    longest = max(one.length for one in [*material.train, *material.validation])
    attending = attention(config.exec.attention, longest, on_gpu, config.compute_dtype)
    checkpointing = settings["gradient_checkpointing"]

    def load(role: str, seed: int) -> Any:
        return model.load(
            begun_with(config, inputs) if role == "student" else inputs.model(role),
            config.master_dtype,
            attending,
            None if config.method == "full" else adapter(config.lora, added_tokens(inputs, tokenizer)),
            seed,
            checkpointing,
            four_bits=config.method == "qlora",
        )

    def second(role: str) -> Any:
        made = load(role, config.seed + 1)
        if checkpointing:  # the trainer sees to the student's
            made.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return made

    student = load("student", config.seed)
    planned = [[material.train[index].id for index in batch] for batch in material.train_batches]
    watching = callbacks(config, output, planned, config.early_stopping_patience if evaluated else None, begun)
    plan = trainer.Plan(
        objective=None,
        batches=material.train_batches,
        eval_batches=material.validation_batches,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0,
        part_tokens=config.batch_tokens,
        packed=is_packed(config, attending),
    )
    if config.on_policy is not None:
        from pipeline.training import on_policy

        return on_policy.build(
            on_policy.Setting(
                config=config.on_policy,
                shared=settings,
                plan=plan,
                student=student,
                tokenizer=tokenizer,
                teacher=inputs.model("teacher"),
                train=material.train,
                validation=material.validation,
                compute_dtype=getattr(torch, config.compute_dtype),
                callbacks=watching,
            )
        )
    context = objectives.Context(
        student=student,
        tokenizer=tokenizer,
        compute_dtype=getattr(torch, config.compute_dtype),
        folder=inputs.model,
        attention=attending,
        seed=config.seed,
        targets=material.targets,
        second=second,
    )
    made = objectives.load(config.objective).make(getattr(config, config.objective, None), context)
    return trainer.PlannedTrainer(
        replace(plan, objective=made),
        model=student,
        args=SFTConfig(**settings),
        train_dataset=trainer.as_dataset(material.train),
        eval_dataset=trainer.as_dataset(material.validation) if evaluated else None,
        processing_class=tokenizer,
        callbacks=watching,
    )


def results(config: Config, material: Material, trainer: "Planned", begun: int, seconds: float) -> dict[str, Any]:
    """The figures of a training for the manifest. Rates are of the steps run by this process."""
    lengths = [one.length for one in material.train]
    history, state = trainer.state.log_history, trainer.state
    trained = [index for batch in material.train_batches[begun : state.global_step] for index in batch]
    stepping = seconds - sum(trainer.plan.seconds.values())
    tokens = sum(lengths[index] for index in trained)
    whole = [index for batch in material.train_batches[: state.global_step] for index in batch]
    best = state.best_global_step if material.validation and config.keep == "best" else None
    return {
        "steps": state.global_step,
        "steps_planned": len(material.train_batches),
        "resumed_at_step": begun,
        "processes": trainer.world,
        "loss": curve(history, "loss", CURVE_POINTS),
        "eval_loss": curve(history, "eval_loss", CURVE_POINTS),
        "eval_figures": {
            key.removeprefix("eval_"): curve(history, key, CURVE_POINTS)
            for key in sorted({key for entry in history for key in entry})
            if key.startswith("eval_") and key != "eval_loss"
        },
        "best_step": best or state.global_step,
        "tokens_per_epoch": sum(lengths),
        "loss_tokens": sum(len(material.train[index].completion) for index in whole),
        "padding_share": material.audit.padding_share,
        "tokens_per_s": tokens / stepping if tokens and stepping > 0 else None,
        "seconds_stepping": stepping,
        "seconds_evaluating": trainer.plan.seconds["evaluate"],
        "seconds_saving": trainer.plan.seconds["save"],
    }


def checked(config: Config, inputs: Inputs, tokenizer: Any, output: Output) -> Material:
    """The material to train on. Raises StageError where there is none, or where the audit finds it broken."""
    import torch

    from pipeline.training.model import positions

    for role in ("student", *beside(config)):
        folder = inputs.model(role)
        if not folder.is_dir():
            raise StageError(
                f"{role}.model is the file {folder.name}; expected a model, since objective {config.objective} runs "
                f"it. Name one with weights as {role}.model, or set sft.objective: sft."
            )
        limit = positions(folder)
        if limit is not None and config.max_length > limit:
            raise StageError(
                f"sft.max_length is {config.max_length}, but the {role} has only {limit} positions. Set it to {limit} "
                f"or less."
            )
    student = inputs.student
    system = inputs.prompt(student.system).strip() if student.system else None
    packed = is_packed(config, attention(config.exec.attention, 0, torch.cuda.is_available(), config.compute_dtype))
    material = prepare(config, tokenizer, inputs.table("examples").to_pylist(), system, packed)
    output.facts["audit"] = material.audit.model_dump()
    output.facts["left_out"] = [vars(one) for one in material.left_out[:100]]
    for line in audits.lines(material.audit):
        output.say(line)
    output.counts.update(one.reason for one in material.left_out)
    output.counts.update(trained=len(material.train), validation=len(material.validation))
    found = audits.faults(material.audit, config.audit)
    if found:
        raise StageError("the audit refuses to train:\n- " + "\n- ".join(found))
    if not material.validation:
        output.say("no validation examples: no validation loss, no early stopping, the last checkpoint is kept")
    return material


def beside(config: Config) -> tuple[str, ...]:
    """The role whose model the objective runs beside the student, where it runs one."""
    return (BESIDE[config.objective],) if config.objective in BESIDE else ()


def learns_soft_labels(config: Config) -> bool:
    """Whether the objective needs the teachers' distributions."""
    return config.objective == "soft_labels"


def rows_of(inputs: Inputs, name: str) -> Iterator[dict[str, Any]]:
    """The rows of a dataset; none where it was written by a run that did not know it yet."""
    try:
        yield from (row for table in inputs.batches(name, 1024) for row in table.to_pylist())
    except KeyError:
        return


def teacher_of(inputs: Inputs, label: str) -> pairing.Teacher:
    """The teacher whose traces carry a label. Raises StageError where the recipe has none of that name."""
    names = {role.label: name for name, role in inputs.teachers.items()}
    if label not in names:
        raise StageError(
            f"found soft labels of the teacher {label}; expected one of {', '.join(names)}. Run generate again."
        )
    return pairing.opened(inputs.model(names[label]))


def soft_targets(config: Config, inputs: Inputs, output: Output, tokenizer: Any, material: Material) -> Path | None:
    """Where the examples' soft targets lie, paired with them token by token; None for an objective without any.

    Raises StageError where too many traces have no labels, or too few of their tokens are covered.
    """
    wanted = config.soft_labels
    if wanted is None:
        return None
    these = pairing.wanted(
        [*material.train, *material.validation], rows_of(inputs, "layouts"), rows_of(inputs, "labels")
    )
    lacking = these.unlabelled
    if len(lacking) > wanted.max_unlabelled_share * len(these.layouts) or not these.labelled:
        raise StageError(
            f"{len(lacking)} of {len(these.layouts)} traces to learn from have no soft labels, the first is "
            f"{(lacking or ['none'])[0]}; at most {wanted.max_unlabelled_share:.1%} may have none, and one has to have "
            f"some. Set generate.logprobs (50, say) and run generate again: its completions are kept and scored. Where "
            f"some cannot be scored, raise sft.soft_labels.max_unlabelled_share."
        )
    folder = output.work / "targets"
    facts = pairing.pair(
        folder,
        these,
        rows_of(inputs, "traces"),
        partial(labelling.read, inputs.store),
        tokenizer,
        partial(teacher_of, inputs),
        lambda done, total: output.progress(Progress(done, total, "traces", "pairing soft labels")),
    )
    output.facts["soft_labels"] = facts
    output.say(
        f"soft labels: {facts['covered_share']:.1%} of {facts['tokens']} tokens learnt from {facts['traces']} traces "
        f"are covered; there {facts['candidates']} candidates hold {facts['candidates_mass']:.2%} of the mass"
    )
    if facts["covered_share"] < wanted.min_covered_share:
        raise StageError(
            f"the audit refuses to train: soft labels cover {facts['covered_share']:.1%} of the tokens learnt from "
            f"traces; at least {wanted.min_covered_share:.1%} have to be (sft.soft_labels.min_covered_share). Take a "
            f"student whose tokenizer cuts text more as the teacher's does, or the objective sft."
        )
    return folder


def refuse_many_gpus() -> None:
    """Raises StageError where torch sees several GPUs: the trainer would spread a batch over them and fail on ours."""
    import torch

    visible = torch.cuda.device_count()
    if visible > 1:
        raise StageError(
            f"found {visible} visible GPUs; the student is trained by one process on one GPU. Train on all of them "
            f"with sft.exec.launcher: accelerate, or show it one: run again with CUDA_VISIBLE_DEVICES=0 in front (make "
            f"sft: CUDA_VISIBLE_DEVICES=0 make sft)."
        )


def refuse_four_bits_without_a_gpu(method: str) -> None:
    """Raises StageError where the method is QLoRA and this machine has no GPU, or not the library, to run it."""
    import torch

    if method != "qlora":
        return
    if not torch.cuda.is_available():
        raise StageError(
            "sft.method is qlora, and torch sees no CUDA GPU; expected one, since weights held in 4 bits are trained "
            "on a GPU alone. Set sft.method: lora, or run on a machine with a GPU."
        )
    if find_spec("bitsandbytes") is None:
        raise StageError(
            "sft.method is qlora, and bitsandbytes is not installed; expected it, since it holds the weights in 4 "
            "bits. The extra `gpu` has it (make clean, then any target); or set sft.method: lora."
        )


def begun_at(output: Output, plan: str) -> Path | None:
    """The checkpoint that a training of this plan goes on from. One without the optimizer's state is none.

    The trainer would go on from it with an optimizer that remembers nothing and a learning rate at its warm-up.
    """
    root = output.work / "trainer"
    last = checkpoints.ready(root, plan)
    if last is None or (last / OPTIMIZER_FILE).is_file():
        return last
    output.say(f"step {checkpoints.step_of(last)} was saved without the optimizer's state, so training starts over")
    shutil.rmtree(root)
    return checkpoints.ready(root, plan)


def run(config: Config, inputs: Inputs, output: Output) -> None:
    """Audit, train (or go on training), and write the checkpoint."""
    started = to_start(config, inputs.root)
    refuse_four_bits_without_a_gpu(config.method)
    check_reporters(config.exec.report_to)
    (output.folder / DIVERGED_FILE).unlink(missing_ok=True)
    if config.objective == "mutual" and inputs.peer is None:
        raise StageError(
            "found no peer in the recipe; expected a second student, since sft.objective is mutual. Add a section "
            "peer: {model: ...} of the student's family, or set sft.objective: sft."
        )
    template = inputs.student.chat_template
    tokenizer = load_tokenizer(inputs.model("student"), inputs.prompt(f"chat/{template}") if template else None)
    material = checked(config, inputs, tokenizer, output)
    output.facts["student"] = students.figures(inputs.model("student"))
    output.say(students.line(output.facts["student"]))
    material = replace(material, targets=soft_targets(config, inputs, output, tokenizer, material))
    paired = [] if material.targets is None else [targets.said_of(material.targets)]
    plan = content_id(
        declared(config),
        inputs.weights("student"),
        digest(material.train),
        digest(material.validation),
        *start.digest(config.start, inputs.root).values(),
        *(inputs.weights(role) for role in beside(config)),
        *paired,
    )
    last = begun_at(output, plan)
    if last is None:
        shutil.rmtree(output.folder / "logs", ignore_errors=True)
    else:
        output.say(f"goes on from step {checkpoints.step_of(last)} of {len(material.train_batches)}")
    made = ("checkpoint", "peer") if config.objective == "mutual" else ("checkpoint",)
    places = {name: output.artifact(name) for name in made}
    if started is not None:
        output.facts.update(in_processes(config, inputs, output, started, (tokenizer, material, last, places)))
        return
    from pipeline.training.trainer import Diverged

    try:
        output.facts.update(train(config, inputs, output, tokenizer, material, last, places))
    except Diverged as error:
        raise StageError(f"{error} {saved(error, error.batches, output.folder)}") from error


def train(
    config: Config,
    inputs: Inputs,
    output: Output,
    tokenizer: Any,
    material: Material,
    begun: Path | None,
    places: Mapping[str, Path],
) -> dict[str, Any]:
    """Train, and write what came of it to its places; the figures. With others like it where accelerate started them:
    then the first of them writes.
    """
    from pipeline.training import model

    trainer = build_trainer(config, inputs, output, tokenizer, material, begun)
    start = time.monotonic()
    with heap.kept():
        trainer.go_on(begun)
    step = 0 if begun is None else checkpoints.step_of(begun)
    figures = results(config, material, trainer, step, time.monotonic() - start)
    if config.on_policy is not None:
        from pipeline.training import on_policy

        figures |= on_policy.figures(trainer.state.log_history, step, figures["seconds_stepping"])
    if trainer.rank == 0:
        model.save(trainer.finished(), tokenizer, places["checkpoint"], config.save_dtype)
        if "peer" in places:
            model.save(trainer.beside["peer"], tokenizer, places["peer"], config.save_dtype)
    trainer.accelerator.wait_for_everyone()
    return figures


def to_start(config: Config, root: Path) -> "Start | None":
    """The processes to train in; None where this one does it. Raises StageError for an objective or a configuration
    that several cannot share.
    """
    import torch

    from pipeline.training import process

    if config.exec.launcher == "none":
        refuse_many_gpus()
        return None
    if config.objective not in SPREADABLE:
        raise StageError(
            f"sft.exec.launcher is accelerate, and objective {config.objective} has a second model; expected one of "
            f"{', '.join(SPREADABLE)}, whose gradients are summed over processes. Set sft.exec.launcher: none."
        )
    try:
        found = process.start(config.exec.config, root, config.exec.processes or torch.cuda.device_count() or None)
    except ValueError as error:
        raise StageError(f"sft.exec.config: {error}.") from error
    if found.count > 1:
        return found
    refuse_many_gpus()
    return None


def in_processes(
    config: Config, inputs: Inputs, output: Output, start: "Start", rest: tuple[Any, ...]
) -> dict[str, Any]:
    """Train in processes that accelerate starts; `rest` are the further arguments of `train`."""
    import torch

    from pipeline.training import process

    given = process.Given({role: inputs.model(role) for role in ("student", *beside(config))}, inputs.root)
    told = {"progress": lambda value: output.progress(Progress(**value)), "say": output.say}
    try:
        figures: dict[str, Any] = process.launch(
            train,
            (config, given, process.Telling(output.folder, output.work), *rest),
            start,
            output.work / "processes",
            lambda kind, value: told[kind](value),
            {"ACCELERATE_USE_CPU": "false" if torch.cuda.is_available() else "true"}
            | ({"OMP_NUM_THREADS": str(config.exec.threads)} if config.exec.threads else {}),
        )
    except process.Failed as error:
        where = saved(error, error.batches, output.folder) if error.batches else ""
        raise StageError(f"{error} {where}".strip()) from error
    return figures


def saved(error: Exception, stopped: Sequence[Mapping[str, Any]], folder: Path) -> str:
    """Write the batches at which a training was stopped; a sentence that says where."""
    path = folder / DIVERGED_FILE
    told = {"error": str(error), "batches": stopped}
    write_durably(path, json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    return f"The batches are in {path}."


def prompts(config: Config, roles: Mapping[str, Role]) -> tuple[str, ...]:
    """The student's system message and chat template, where it has its own."""
    student = roles["student"]
    chat = (f"chat/{student.chat_template}",) if student.chat_template else ()
    return ((student.system,) if student.system else ()) + chat


def contents(config: Config, root: Path) -> dict[str, str]:
    """The weights that the training begins with, where they are not the student's."""
    return start.digest(config.start, root)


def roles(config: Config) -> Roles:
    """The student with what renders its prompts, and those whose files the objective needs beside it."""
    return {"student": ("system", "chat_template"), **dict.fromkeys(weights(config)[1:], ())}


def weights(config: Config) -> tuple[str, ...]:
    """The student, the role whose model the objective runs beside it, and teachers whose tokenizers it may need."""
    return ("student", *beside(config), *(("teachers",) if learns_soft_labels(config) else ()))


STAGE = Stage(
    name="sft",
    version=1,
    config=Config,
    run=run,
    reads={
        # A trace's id and its completion hardly leave open how it ended.
        "examples": Reads(
            "mix", "examples", ("id", "prompt", "completion", "split"), later=("place",), told=("domain", "finish")
        ),
        "layouts": Reads("mix", "examples", ("id", "spans", "teacher"), when=learns_soft_labels),
        "labels": Reads("generate", "soft_labels", tuple(SOFT_LABELS.names), when=learns_soft_labels),
        "traces": Reads("generate", "traces", ("id", "raw", "token_ids", "finish"), when=learns_soft_labels),
    },
    artifacts=("checkpoint",),
    more_artifacts=("peer",),
    roles=roles,
    weights=weights,
    prompts=prompts,
    contents=contents,
    on_stale="ask",
)
