"""sft: audits the examples of mix, then trains the student on them with TRL, and writes a checkpoint that vLLM serves.

It makes no examples and judges no answers; a killed training goes on from its newest complete checkpoint.
"""

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from pipeline import heap, objectives
from pipeline import student as students
from pipeline.objectives.features import Config as Features
from pipeline.objectives.mutual import Config as Mutual
from pipeline.objectives.on_policy import Config as OnPolicy
from pipeline.records import content_id
from pipeline.roles import Role
from pipeline.section import Section, declared
from pipeline.stage import Inputs, Output, Progress, Reads, Roles, Stage, StageError
from pipeline.templates import load_tokenizer
from pipeline.training import audit as audits
from pipeline.training import batches, checkpoints, start
from pipeline.training.encode import Encoded, LeftOut, digest, encode

if TYPE_CHECKING:
    from pipeline.training.trainer import Planned

CURVE_POINTS = 500  # of the training loss in the manifest; TensorBoard has every step
OPTIMIZER_FILE = "optimizer.pt"  # of a checkpoint, as transformers names it
# Objective -> the role whose model it runs beside the student.
BESIDE = {"features": "teacher", "mutual": "peer", "on_policy": "teacher"}


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

    later: ClassVar[frozenset[str]] = frozenset({"features", "mutual", "on_policy"})
    locations: ClassVar[frozenset[str]] = frozenset({"start"})

    # A checkpoint's folder, of another run's sft say, with whose weights the training begins; null: the student's own.
    # The tokenizer and the untouched student of eval are those of `student` all the same.
    start: str | None = None
    objective: str = "sft"  # what it minimises: a name in objectives.OBJECTIVES
    features: Features | None = None  # of objective features
    mutual: Mutual | None = None  # of objective mutual
    on_policy: OnPolicy | None = None  # of objective on_policy
    # Train all weights, or an adapter; qlora: one on weights held in 4 bits, on a GPU.
    method: Literal["full", "lora", "qlora"] = "full"
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
    count: int | None = None
    repeated: list[LeftOut] = []
    if config.on_policy is not None:
        count = config.on_policy.prompts_per_step
        if config.on_policy.answers_alone:
            (train, repeated), (validation, _) = asked_once(train), asked_once(validation)
    lengths = [one.length for one in train]
    train_batches = batches.all_batches(
        lengths, config.batch_tokens, config.seed, config.epochs, config.pool_batches, count
    )
    wasted = batches.padding_share(train_batches, lengths)
    return Material(
        train=train,
        validation=validation,
        left_out=[*dropped, *missed, *repeated],
        audit=audits.audit(tokenizer, train, longer, config.max_length, system, wasted),
        train_batches=train_batches,
        validation_batches=batches.epoch_batches(
            [one.length for one in validation], config.batch_tokens, config.seed, 0, len(validation) + 1, count
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


def added_tokens(inputs: Inputs, tokenizer: Any) -> list[int]:
    """The ids of the tokens that the student was given when it was made."""
    found = students.figures(inputs.model("student")).get("added_tokens", ())
    return [int(tokenizer.convert_tokens_to_ids(token)) for token in found]


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

    from pipeline.training import model, on_policy, trainer

    model.quiet()
    if config.exec.threads:
        torch.set_num_threads(config.exec.threads)
    on_gpu, evaluated = torch.cuda.is_available(), bool(material.validation)
    steps = len(material.train_batches)
    settings = arguments(config, output.work / "trainer", steps, evaluated, on_gpu)
    longest = max(one.length for one in [*material.train, *material.validation])
    attending = attention(config.exec.attention, longest, on_gpu)
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

    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    student = load("student", config.seed)
    watching = callbacks(output, steps, config.early_stopping_patience if evaluated else None, begun)
    if config.on_policy is not None:
        setting = on_policy.Setting(
            config=config.on_policy,
            shared=settings,
            plan=trainer.Plan(None, material.train_batches, material.validation_batches, pad),
            student=student,
            tokenizer=tokenizer,
            teacher=inputs.model("teacher"),
            train=material.train,
            validation=material.validation,
            compute_dtype=getattr(torch, config.compute_dtype),
            callbacks=watching,
        )
        return on_policy.build(setting)
    context = objectives.Context(
        student=student,
        tokenizer=tokenizer,
        compute_dtype=getattr(torch, config.compute_dtype),
        folder=inputs.model,
        attention=attending,
        seed=config.seed,
        second=second,
    )
    return trainer.PlannedTrainer(
        trainer.Plan(
            objective=objectives.load(config.objective).make(getattr(config, config.objective, None), context),
            batches=material.train_batches,
            eval_batches=material.validation_batches,
            pad_token_id=pad,
        ),
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
    best = state.best_global_step if material.validation and config.keep == "best" else None
    return {
        "steps": state.global_step,
        "steps_planned": len(material.train_batches),
        "resumed_at_step": begun,
        "loss": curve(history, "loss", CURVE_POINTS),
        "eval_loss": curve(history, "eval_loss", CURVE_POINTS),
        "eval_figures": {
            key.removeprefix("eval_"): curve(history, key, CURVE_POINTS)
            for key in sorted({key for entry in history for key in entry})
            if key.startswith("eval_") and key != "eval_loss"
        },
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

    for role in weights(config):
        limit = positions(inputs.model(role))
        if limit is not None and config.max_length > limit:
            raise StageError(
                f"sft.max_length is {config.max_length}, but the {role} has only {limit} positions. Set it to {limit} "
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
    refuse_many_gpus()
    refuse_four_bits_without_a_gpu(config.method)
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
    plan = content_id(
        declared(config),
        inputs.weights("student"),
        digest(material.train),
        digest(material.validation),
        *start.digest(config.start, inputs.root).values(),
        *(inputs.weights(role) for role in weights(config)[1:]),
    )
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
    if config.on_policy is not None:
        from pipeline.training import on_policy

        output.facts.update(on_policy.figures(trainer.state.log_history, begun, output.facts["seconds_stepping"]))
    model.save(trainer.finished(), tokenizer, output.artifact("checkpoint"), config.save_dtype)
    if config.objective == "mutual":
        model.save(trainer.beside["peer"], tokenizer, output.artifact("peer"), config.save_dtype)


def prompts(config: Config, roles: Mapping[str, Role]) -> tuple[str, ...]:
    """The student's system message and chat template, where it has its own."""
    student = roles["student"]
    chat = (f"chat/{student.chat_template}",) if student.chat_template else ()
    return ((student.system,) if student.system else ()) + chat


def contents(config: Config, root: Path) -> dict[str, str]:
    """The weights that the training begins with, where they are not the student's."""
    return start.digest(config.start, root)


def roles(config: Config) -> Roles:
    """The student with what renders its prompts, and the role whose model the objective runs beside it."""
    return {"student": ("system", "chat_template"), **dict.fromkeys(weights(config)[1:], ())}


def weights(config: Config) -> tuple[str, ...]:
    """The student, and the role whose model the objective runs beside it."""
    return ("student", BESIDE[config.objective]) if config.objective in BESIDE else ("student",)


STAGE = Stage(
    name="sft",
    version=1,
    config=Config,
    run=run,
    # A trace's id and its completion hardly leave open how it ended.
    reads={"examples": Reads("mix", "examples", ("id", "prompt", "completion", "split"), told=("domain", "finish"))},
    artifacts=("checkpoint",),
    more_artifacts=("peer",),
    roles=roles,
    weights=weights,
    prompts=prompts,
    contents=contents,
    on_stale="ask",
)
