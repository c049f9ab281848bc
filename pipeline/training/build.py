"""A training put together as a recipe says: models loaded, batches planned, the objective made, a trainer on top.

It reads no examples (`material.py`) and trains nothing (`trainer.py`, `on_policy.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from trl.trainer.sft_config import SFTConfig

from pipeline import objectives
from pipeline.objectives.on_policy import Config as OnPolicy
from pipeline.training import model
from pipeline.training.material import Material
from pipeline.training.options import Options, attention, is_packed
from pipeline.training.settings import adapter, arguments
from pipeline.training.trainer import Plan, Planned, PlannedTrainer, as_dataset


@dataclass(frozen=True)
class Job:
    """What is to be trained, on what, and who watches."""

    options: Options
    material: Material
    tokenizer: Any  # the student's
    folder: Callable[[str], Path]  # a role's name -> the folder of its model; the student's with what it begins with
    added_tokens: Sequence[int]  # ids of the tokens that the student was given when it was made
    place: Path  # of the checkpoints
    callbacks: list[Any]

    @property
    def compute_dtype(self) -> torch.dtype:
        found: torch.dtype = getattr(torch, self.options.compute_dtype)
        return found


@dataclass(frozen=True)
class Models:
    """How the models of a job are loaded: the student, and one that is trained beside it, alike."""

    job: Job
    attention: model.Attention
    checkpointing: bool  # activations are recomputed

    def student(self) -> Any:
        return self._load("student", self.job.options.seed)

    def second(self, role: str) -> Any:
        """One to be trained as the student is; its adapter, where there is one, is drawn from another seed."""
        made = self._load(role, self.job.options.seed + 1)
        if self.checkpointing:  # the trainer sees to the student's
            made.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return made

    def _load(self, role: str, seed: int) -> Any:
        options = self.job.options
        return model.load(
            self.job.folder(role),
            options.master_dtype,
            self.attention,
            None if options.method == "full" else adapter(options.lora, self.job.added_tokens),
            seed,
            self.checkpointing,
            four_bits=options.method == "qlora",
        )


def trainer(job: Job) -> Planned:
    """The trainer of a job, ready to train. Raises ValueError for models that do not fit the objective."""
    options, material = job.options, job.material
    if options.exec.threads:
        torch.set_num_threads(options.exec.threads)
    on_gpu = torch.cuda.is_available()
    settings = arguments(options, job.place, len(material.train_batches), bool(material.validation), on_gpu)
    longest = max(one.length for one in [*material.train, *material.validation])
    attending = attention(options, longest, on_gpu)
    models = Models(job, attending, settings["gradient_checkpointing"])
    plan = Plan(
        objective=None,
        batches=material.train_batches,
        eval_batches=material.validation_batches,
        pad_token_id=job.tokenizer.pad_token_id if job.tokenizer.pad_token_id is not None else 0,
        part_tokens=options.batch_tokens,
        packed=is_packed(options, attending),
    )
    if options.on_policy is not None:
        return _answering(job, options.on_policy, models, plan, settings)
    return _reading(job, models, plan, settings)


def _answering(job: Job, config: OnPolicy, models: Models, plan: Plan, settings: Mapping[str, Any]) -> Planned:
    """The trainer of a student that learns on answers of its own."""
    from pipeline.training import on_policy

    if job.options.method != "full" and job.added_tokens:
        raise ValueError(
            f"sft.method is {job.options.method}, and the student was given {len(job.added_tokens)} new tokens; TRL's "
            f"loss on a student's own answers reads the output head past the adapter, so that they would never be "
            f"learnt. Set sft.method: full, or begin with a checkpoint that knows them (sft.start)."
        )
    held = {"lora": job.options.master_dtype, "qlora": "4 bits"}.get(job.options.method, "float32")
    if config.exec.vllm and held != "float32":
        raise ValueError(
            f"sft.on_policy.exec.vllm is true, and sft.method is {job.options.method} on weights held in {held}; "
            f"expected float32: before each step TRL sums the adapter onto the weights for vLLM and takes it off "
            f"again, and rounded weights drift away by that. Set sft.method: lora and sft.master_dtype: float32, or "
            f"leave vllm out: transformers writes the answers then."
        )
    setting = on_policy.Setting(
        config=config,
        shared=settings,
        plan=plan,
        student=models.student(),
        tokenizer=job.tokenizer,
        teacher=job.folder("teacher"),
        train=job.material.train,
        validation=job.material.validation,
        compute_dtype=job.compute_dtype,
        callbacks=job.callbacks,
    )
    with model.unrounded(setting.student):
        if config.across is None:
            return on_policy.build(setting)
        from pipeline.training import across

        return across.build(setting)


def _reading(job: Job, models: Models, plan: Plan, settings: Mapping[str, Any]) -> Planned:
    """The trainer of a student that learns on the examples, by the objective that the recipe names."""
    given = SFTConfig(**settings)  # processes meet here; of those that share a student, one alone reads it
    options, material, student = job.options, job.material, models.student()
    context = objectives.Context(
        student=student,
        tokenizer=job.tokenizer,
        compute_dtype=job.compute_dtype,
        folder=job.folder,
        attention=models.attention,
        seed=options.seed,
        targets=material.targets,
        second=models.second,
    )
    made = objectives.load(options.objective).make(getattr(options, options.objective, None), context)
    with model.unrounded(student):
        return PlannedTrainer(
            replace(plan, objective=made),
            model=student,
            args=given,
            train_dataset=as_dataset(material.train),
            eval_dataset=as_dataset(material.validation) if material.validation else None,
            processing_class=job.tokenizer,
            callbacks=job.callbacks,
        )
