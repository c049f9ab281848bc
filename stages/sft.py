"""sft: audits the examples of mix, then trains the student on them with TRL, and writes a checkpoint that vLLM serves.

It makes no examples and judges no answers; a killed training goes on from its newest complete checkpoint.
"""

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from pipeline import heap, objectives
from pipeline.records import content_id
from pipeline.roles import Role
from pipeline.section import Section, declared
from pipeline.stage import Inputs, Output, Progress, Reads, Stage, StageError
from pipeline.templates import load_tokenizer
from pipeline.training import audit as audits
from pipeline.training import batches, checkpoints
from pipeline.training.encode import Encoded, LeftOut, digest, encode

if TYPE_CHECKING:
    from pipeline.training.trainer import PlannedTrainer

CURVE_POINTS = 500  # of the training loss in the manifest; TensorBoard has every step
OPTIMIZER_FILE = "optimizer.pt"  # of a checkpoint, as transformers names it


class Lora(Section):
    """A low-rank adapter on frozen weights, merged into them at the end."""

    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)  # the update is scaled by alpha / rank
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")  # layers


class Exec(Section):
    """Where and how fast it trains; never what."""

    threads: int | None = Field(None, ge=1)  # on the CPU; null: torch's choice
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"  # auto: eager for short texts on the CPU
    gradient_checkpointing: bool | None = None  # recompute activations to save memory; null: only on a GPU
    resumable: bool = True  # false: checkpoints without optimizer state, a third of the size; a kill starts over


class Config(Section):
    """How the student is trained."""

    objective: str = "sft"  # what it minimises: a name in objectives.OBJECTIVES
    method: Literal["full", "lora"] = "full"  # train all weights, or an adapter
    lora: Lora = Lora()
    epochs: int = Field(3, ge=1)  # passes over the training examples
    learning_rate: float = Field(1e-4, gt=0)  # at its peak
    schedule: Literal["cosine", "linear", "constant"] = "cosine"  # after the warm-up
    warmup_share: float = Field(0.05, ge=0, lt=1)  # of all steps, rising linearly from 0
    final_learning_rate_share: float = Field(0.0, ge=0, le=1)  # of the peak, where a cosine ends
    weight_decay: float = Field(0.0, ge=0)  # AdamW's; not on norms and biases
    max_grad_norm: float = Field(1.0, gt=0)  # gradients are clipped to this norm
    batch_tokens: int = Field(2048, ge=1)  # positions of a batch, padding included; a longer example is a batch alone
    pool_batches: int = Field(16, ge=1)  # examples of so many batches are sorted by length together: more pads less
    max_length: int = Field(2048, ge=2)  # tokens of prompt and completion; a longer example is dropped, never cut
    master_dtype: Literal["float32", "bfloat16"] = "float32"  # of the weights the optimizer changes
    compute_dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of products in forward and backward (autocast)
    save_dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of the finished checkpoint
    seed: int = 0  # of batches, dropout and adapter
    evals_per_epoch: int = Field(1, ge=1)  # validation losses, each with a checkpoint
    early_stopping_patience: int | None = Field(3, ge=1)  # evaluations without a better loss; null: never stop early
    keep: Literal["best", "last"] = "best"  # which checkpoint is the result: lowest validation loss, or the last
    audit: audits.Limits = audits.Limits()
    exec: Exec = Exec()

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


def prepare(config: Config, tokenizer: Any, rows: Sequence[Mapping[str, Any]], system: str | None) -> Material:
    """Encode, audit and batch the examples. Rows are taken by id, so that no layout of shards changes the result."""
    ordered = sorted(rows, key=lambda row: str(row["id"]))
    train, longer, dropped = encode(tokenizer, (row for row in ordered if row["split"] == "train"), config.max_length)
    validation, _, missed = encode(tokenizer, (row for row in ordered if row["split"] != "train"), config.max_length)
    return Material(
        train=train,
        validation=validation,
        left_out=[*dropped, *missed],
        audit=audits.audit(tokenizer, train, longer, config.max_length, system),
        train_batches=batches.all_batches(
            [one.length for one in train],
            config.batch_tokens,
            config.seed,
            config.epochs,
            config.pool_batches,
            places_of(train, ordered),
        ),
        validation_batches=batches.epoch_batches(
            [one.length for one in validation], config.batch_tokens, config.seed, 0, len(validation) + 1
        ),
    )


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
        "report_to": "none",  # TensorBoard's callback is given, with its folder
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "packing": False,
        "max_length": None,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": on_gpu,
        "accelerator_config": {"even_batches": False},
    }


_SCHEDULES = {"linear": "linear", "constant": "constant_with_warmup"}


def adapter(lora: Lora) -> dict[str, Any]:
    """PEFT's names for an adapter's values."""
    return {
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": list(lora.targets),
    }


def attention(choice: str, longest: int, on_gpu: bool) -> Any:
    """The attention to run. On the CPU plain attention is the faster one while texts are short."""
    if choice != "auto":
        return choice
    return "eager" if longest <= 512 and not on_gpu else "sdpa"


def curve(history: Sequence[Mapping[str, Any]], key: str, points: int) -> list[list[float]]:
    """[step, value] pairs of a key in the trainer's log; runs of steps are averaged where there are too many."""
    pairs = [(entry["step"], entry[key]) for entry in history if key in entry]
    width = max(1, math.ceil(len(pairs) / points))
    runs = [pairs[start : start + width] for start in range(0, len(pairs), width)]
    return [[run[-1][0], sum(value for _, value in run) / len(run)] for run in runs]


def callbacks(output: Output, steps: int, patience: int | None, begun: Path | None) -> list[Any]:
    """TensorBoard logs beside the checkpoint, the stage's progress, and early stopping where there is a patience."""
    from torch.utils.tensorboard.writer import SummaryWriter
    from transformers import EarlyStoppingCallback
    from transformers.integrations.integration_utils import TensorBoardCallback

    from pipeline.training.trainer import Watcher

    # What was logged after the checkpoint gone on from will be logged again.
    again = None if begun is None else checkpoints.step_of(begun) + 1
    shown = [
        TensorBoardCallback(SummaryWriter(str(output.folder / "logs"), purge_step=again)),
        Watcher(lambda step, loss: output.progress(Progress(step, steps, "steps", f"loss {loss:.3f}"))),
    ]
    return [*shown, EarlyStoppingCallback(patience)] if patience else shown


def build_trainer(
    config: Config, inputs: Inputs, output: Output, tokenizer: Any, material: Material, begun: Path | None
) -> "PlannedTrainer":
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
    student = model.load(
        inputs.model("student"),
        config.master_dtype,
        attention(config.exec.attention, longest, on_gpu),
        adapter(config.lora) if config.method == "lora" else None,
        config.seed,
        settings["gradient_checkpointing"],
    )
    return trainer.PlannedTrainer(
        trainer.Plan(
            objective=objectives.load(config.objective),
            batches=material.train_batches,
            eval_batches=material.validation_batches,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0,
            compute_dtype=getattr(torch, config.compute_dtype),
        ),
        model=student,
        args=SFTConfig(**settings),
        train_dataset=trainer.as_dataset(material.train),
        eval_dataset=trainer.as_dataset(material.validation) if evaluated else None,
        processing_class=tokenizer,
        callbacks=callbacks(output, steps, config.early_stopping_patience if evaluated else None, begun),
    )


def results(
    config: Config, material: Material, trainer: "PlannedTrainer", begun: int, seconds: float
) -> dict[str, Any]:
    """The figures of a training for the manifest. Rates are of the steps run by this process."""
    lengths = [one.length for one in material.train]
    history, state = trainer.state.log_history, trainer.state
    trained = [index for batch in material.train_batches[begun : state.global_step] for index in batch]
    stepping = seconds - sum(trainer.plan.seconds.values())
    tokens = sum(lengths[index] for index in trained)
    best = state.best_global_step if material.validation and config.keep == "best" else None
    return {
        "steps": state.global_step,
        "steps_planned": len(material.train_batches),
        "resumed_at_step": begun,
        "loss": curve(history, "loss", CURVE_POINTS),
        "eval_loss": curve(history, "eval_loss", CURVE_POINTS),
        "best_step": best or state.global_step,
        "tokens_per_epoch": sum(lengths),
        "padding_share": batches.padding_share(material.train_batches, lengths),
        "tokens_per_s": tokens / stepping if tokens and stepping > 0 else None,
        "seconds_stepping": stepping,
        "seconds_evaluating": trainer.plan.seconds["evaluate"],
        "seconds_saving": trainer.plan.seconds["save"],
    }


def checked(config: Config, inputs: Inputs, tokenizer: Any, output: Output) -> Material:
    """The material to train on. Raises StageError where there is none, or where the audit finds it broken."""
    from pipeline.training.model import positions

    limit = positions(inputs.model("student"))
    if limit is not None and config.max_length > limit:
        raise StageError(
            f"sft.max_length is {config.max_length}, but the student has only {limit} positions. Set it to {limit} "
            f"or less."
        )
    student = inputs.student
    system = inputs.prompt(student.system).strip() if student.system else None
    material = prepare(config, tokenizer, inputs.table("examples").to_pylist(), system)
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


def refuse_many_gpus() -> None:
    """Raises StageError where torch sees several GPUs: the trainer would spread a batch over them and fail on ours."""
    import torch

    visible = torch.cuda.device_count()
    if visible > 1:
        raise StageError(
            f"found {visible} visible GPUs; the student is trained by one process on one GPU. Show it one: run again "
            f"with CUDA_VISIBLE_DEVICES=0 in front (make sft: CUDA_VISIBLE_DEVICES=0 make sft)."
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
    refuse_many_gpus()
    template = inputs.student.chat_template
    tokenizer = load_tokenizer(inputs.model("student"), inputs.prompt(f"chat/{template}") if template else None)
    material = checked(config, inputs, tokenizer, output)
    plan = content_id(declared(config), inputs.weights("student"), digest(material.train), digest(material.validation))
    last = begun_at(output, plan)
    if last is None:
        shutil.rmtree(output.folder / "logs", ignore_errors=True)
    else:
        output.say(f"goes on from step {checkpoints.step_of(last)} of {len(material.train_batches)}")
    from pipeline.training import model
    from pipeline.training.trainer import Diverged

    trainer = build_trainer(config, inputs, output, tokenizer, material, last)
    training = time.monotonic()
    try:
        with heap.kept():
            trainer.go_on(last)
    except Diverged as error:
        raise StageError(str(error)) from error
    begun = 0 if last is None else checkpoints.step_of(last)
    output.facts.update(results(config, material, trainer, begun, time.monotonic() - training))
    model.save(trainer.model, tokenizer, output.artifact("checkpoint"), config.save_dtype)


def prompts(config: Config, roles: Mapping[str, Role]) -> tuple[str, ...]:
    """The student's system message and chat template, where it has its own."""
    student = roles["student"]
    chat = (f"chat/{student.chat_template}",) if student.chat_template else ()
    return ((student.system,) if student.system else ()) + chat


STAGE = Stage(
    name="sft",
    version=1,
    config=Config,
    run=run,
    reads={"examples": Reads("mix", "examples", ("id", "prompt", "completion", "split"), later=("place",))},
    artifacts=("checkpoint",),
    roles={"student": ("system", "chat_template")},
    weights=("student",),
    prompts=prompts,
    on_stale="ask",
)
