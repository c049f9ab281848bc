"""What a recipe says of training, and what that comes to on this machine.

It trains nothing, and reads no data.
"""

from collections.abc import Collection
from importlib.util import find_spec
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline import objectives
from pipeline.objectives.features import Config as Features
from pipeline.objectives.mutual import Config as Mutual
from pipeline.objectives.on_policy import Config as OnPolicy
from pipeline.objectives.soft_labels import Config as SoftLabels
from pipeline.section import Section
from pipeline.training.audit import Limits

# Objective -> the role whose model it runs beside the student.
BESIDE = {"features": "teacher", "mutual": "peer", "on_policy": "teacher"}
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
    # auto: products declared in bfloat16 are made in float32 where there is no GPU and the processor, timed when a
    # training begins, is faster so.
    upcast: Literal["auto", "off"] = "auto"
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
    config: str = "ddp"  # of launcher accelerate: ddp, fsdp2, zero2, zero3, or a path
    processes: int | None = Field(None, ge=1)  # of this machine; null: one a GPU, or as the configuration says
    gradient_checkpointing: bool | None = None  # recompute activations to save memory; null: only on a GPU
    resumable: bool = True  # false: checkpoints without optimizer state, a third of the size; a kill starts over

    @model_validator(mode="after")
    def _launched(self) -> "Exec":
        several = (self.processes or 1) > 1
        if self.launcher == "none" and (several or self.config != "ddp"):
            what = f"processes {self.processes}" if several else f"config {self.config}"
            raise ValueError(f"found {what} and launcher none, which trains in one process; set launcher: accelerate")
        return self


class Options(Section):
    """How a student is trained."""

    later: ClassVar[frozenset[str]] = frozenset(
        {"soft_labels", "features", "mutual", "on_policy"} | {"batch_examples", "loss_tokens"}
    )
    unhashed: ClassVar[frozenset[str]] = frozenset({"start", "wild_loss_factor", "wild_loss_steps"})

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
    # Tokens of prompt and completion; a longer example is dropped, never cut. Where the student answers by itself
    # (on_policy): of the prompt.
    max_length: int = Field(2048, ge=2)
    # Of the weights the optimizer changes. bfloat16 takes half the memory and loses steps below 1/256 of a weight: at
    # small learning rates many weights never move.
    master_dtype: Literal["float32", "bfloat16"] = "float32"
    # Of products in forward and backward (autocast): the least that is wanted, since exec.upcast may take more.
    compute_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    save_dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of the finished checkpoint
    seed: int = 0  # of batches, dropout and adapter
    evals_per_epoch: int = Field(1, ge=1)  # validation losses, each with a checkpoint
    early_stopping_patience: int | None = Field(3, ge=1)  # evaluations without a better loss; null: never stop early
    keep: Literal["best", "last"] = "best"  # which checkpoint is the result: lowest validation loss, or the last
    # Training stops where the loss stays over so many times its running median, for so many steps on end; null: never.
    wild_loss_factor: float | None = Field(4.0, gt=1)
    wild_loss_steps: int = Field(10, ge=1)
    audit: Limits = Limits()
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
    def _counts_prompts(self) -> "Options":
        if self.on_policy is not None and (self.batch_examples is not None or self.loss_tokens is not None):
            raise ValueError(
                "objective on_policy asks so many prompts a step, epoch after epoch, and nobody knows yet how long the "
                "answers are: set on_policy.prompts_per_step and epochs, not batch_examples or loss_tokens"
            )
        return self

    @model_validator(mode="after")
    def _read(self) -> "Options":
        """Raises ValueError for a value that a choice beside it leaves unread."""
        if self.method == "full" and self.lora != Lora():
            raise ValueError(
                "found values for lora beside method full, which trains all weights and reads none of them. Set "
                "method: lora, or leave them out (--set sft.lora={})"
            )
        if self.schedule != "cosine" and self.final_learning_rate_share:
            raise ValueError(
                f"found final_learning_rate_share {self.final_learning_rate_share:g} beside schedule {self.schedule}, "
                f"which does not read it. Set schedule: cosine, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _laid_out_as_the_objective_needs(self) -> "Options":
        if self.exec.layout == "packed" and self.objective not in PACKABLE:
            raise ValueError(
                f"exec.layout is packed, and objective {self.objective} compares whole rows; expected one of "
                f"{', '.join(PACKABLE)}. Set exec.layout: padded"
            )
        if self.looks_at_attention and self.exec.attention not in ("auto", "eager"):
            raise ValueError(
                f"found exec.attention {self.exec.attention} beside features.attention.weight; expected eager, the "
                f"only kind that hands out what it looks at. Set exec.attention: auto, or the weight to 0"
            )
        return self

    @model_validator(mode="after")
    def _adapts_what_it_trains(self) -> "Options":
        if self.method != "full" and "lm_head" in self.lora.targets:
            raise ValueError(
                "found lm_head in lora.targets; losses are computed from its own weights, so that an adapter on it "
                "would learn nothing. Leave it out"
            )
        return self

    @property
    def looks_at_attention(self) -> bool:
        """Whether the objective compares attention maps, which eager attention alone hands out."""
        return self.features is not None and self.features.attention.weight > 0

    def without_teachers(self, labels: Collection[str]) -> Self:
        """The same, but that teachers of these labels are given no weight: for where they teach nothing."""
        soft = self.soft_labels
        if soft is None:
            return self
        weights = soft.weights.without(labels)
        return self.model_copy(update={"soft_labels": soft.model_copy(update={"weights": weights})})

    @field_validator("objective")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in objectives.OBJECTIVES:
            raise ValueError(f"no objective is called {name!r}; expected one of {', '.join(objectives.OBJECTIVES)}")
        return name


def beside(options: Options) -> tuple[str, ...]:
    """The role whose model the objective runs beside the student, where it runs one."""
    return (BESIDE[options.objective],) if options.objective in BESIDE else ()


def installed(name: str) -> bool:
    """Whether a library is there, without importing it."""
    return find_spec(name) is not None


def attention(options: Options, longest: int, on_gpu: bool) -> Any:
    """The attention to run. On the CPU plain attention is the faster one while texts are short."""
    if options.exec.attention != "auto":
        return options.exec.attention
    if options.looks_at_attention:
        return "eager"
    if on_gpu and options.compute_dtype == "bfloat16" and installed("flash_attn"):
        return "flash_attention_2"
    return "eager" if longest <= 512 and not on_gpu else "sdpa"


def is_packed(options: Options, attending: str) -> bool:
    """Whether batches lie packed."""
    automatic = attending == "flash_attention_2" and options.objective in PACKABLE
    return options.exec.layout == "packed" or (options.exec.layout == "auto" and automatic)


def with_liger(chosen: Exec, on_gpu: bool) -> bool:
    """Whether Liger's kernels run. Raises ValueError where they are wanted and cannot."""
    if chosen.liger != "on":
        return chosen.liger == "auto" and on_gpu and installed("liger_kernel")
    if not on_gpu or not installed("liger_kernel"):
        raise ValueError(
            f"sft.exec.liger is on, and there is {'no liger_kernel' if on_gpu else 'no GPU'}. "
            f"{'Install it: .venv/bin/python -m pip install liger-kernel. Or set' if on_gpu else 'Set'} "
            f"sft.exec.liger: auto."
        )
    return True


def refuse_sharding(options: Options, layout: str, on_gpu: bool) -> None:
    """Raises ValueError where the layout of a student in several processes (`process.LAYOUTS`) cannot be had here."""
    if layout == "whole":
        return
    what = f"{options.exec.config} shards the student over processes"
    if not on_gpu:  # accelerate would train whole copies, and say nothing
        raise ValueError(f"{what}, which accelerate does on GPUs alone, and torch sees none. Set sft.exec.config: ddp")
    if layout == "deepspeed" and not installed("deepspeed"):
        raise ValueError(
            f"{what} by DeepSpeed, which is not installed. Install it: .venv/bin/python -m pip install deepspeed. Or "
            f"set sft.exec.config: fsdp2, which needs nothing"
        )
    if layout == "deepspeed" and options.compute_dtype != "bfloat16":
        raise ValueError(f"{what} by DeepSpeed, which computes in bfloat16. Set sft.compute_dtype: bfloat16, or fsdp2")
    if options.method == "qlora":
        raise ValueError(f"{what}, and sft.method is qlora, whose 4-bit weights stay whole. Set sft.exec.config: ddp")
    if not options.exec.resumable:
        raise ValueError(f"{what}, whose checkpoints always hold the optimizer's state. Set sft.exec.resumable: true")
