"""What a training would fail at that can be told before it, and before the hours of the stages that come first.

Each function raises ValueError, whose message says what was found, expected, and the fix.
"""

from pathlib import Path
from typing import Any

from pipeline.objectives.mutual import TWIN
from pipeline.roles import LOCAL
from pipeline.templates import same_tokenizer
from pipeline.training import options

DEVICES = Path("/dev")  # where the driver shows its GPUs


def several_gpus() -> bool:
    """Whether the machine has more than one of NVIDIA's, by its device files: torch, which sees fewer where it is told
    to, takes seconds to ask.
    """
    return len(list(DEVICES.glob("nvidia[0-9]*"))) > 1


def many_gpus() -> None:
    """Refuses where torch sees several GPUs: the trainer would spread a batch over them and fail on ours."""
    import torch

    visible = torch.cuda.device_count()
    if visible > 1:
        raise ValueError(
            f"found {visible} visible GPUs; the student is trained by one process on one GPU. Train on all of them "
            f"with sft.exec.launcher: accelerate, or show it one: run again with CUDA_VISIBLE_DEVICES=0 in front (make "
            f"sft: CUDA_VISIBLE_DEVICES=0 make sft)."
        )


def four_bits_without_a_gpu(method: str) -> None:
    """Refuses where the method is QLoRA and this machine has no GPU, or not the library, to run it."""
    if method != "qlora":
        return
    import torch

    if not torch.cuda.is_available():
        raise ValueError(
            "sft.method is qlora, and torch sees no CUDA GPU; expected one, since weights held in 4 bits are trained "
            "on a GPU alone. Set sft.method: lora, or run on a machine with a GPU."
        )
    if not options.installed("bitsandbytes"):
        raise ValueError(
            "sft.method is qlora, and bitsandbytes is not installed; expected it, since it holds the weights in 4 "
            "bits. The extra `gpu` has it (make clean, then any target); or set sft.method: lora."
        )


def kernels_that_are_not_here(chosen: options.Exec) -> None:
    """Refuses where kernels are wanted by name that this machine, or its installation, does not have."""
    if chosen.liger != "on" and chosen.attention != "flash_attention_2":
        return
    import torch

    on_gpu = torch.cuda.is_available()
    options.with_liger(chosen, on_gpu)
    if chosen.attention == "flash_attention_2" and not (on_gpu and options.installed("flash_attn")):
        raise ValueError(
            f"sft.exec.attention is flash_attention_2, and there is {'no flash_attn' if on_gpu else 'no GPU'}. Set "
            f"sft.exec.attention: auto{', or install flash-attn' if on_gpu else ''}."
        )


def without_weights(objective: str, role: str, engine: str) -> None:
    """Refuses a role whose model is trained, or runs beside the student, and has no weights on this machine."""
    if engine not in LOCAL:
        raise ValueError(
            f"{role}.engine is {engine}, and objective {objective} runs the {role}'s model itself; expected one with "
            f"weights on this machine ({' or '.join(LOCAL)}). Name one as {role}.model, or set sft.objective: sft."
        )


def other_tokenizer(one: Any, other: Any, across: bool) -> None:
    """Refuses a teacher with another tokenizer than the student where the recipe does not say so, and the other way
    round.
    """
    same = same_tokenizer(one, other)
    if not same and not across:
        raise ValueError(
            "the teacher has another tokenizer than the student, and their distributions are over other tokens. "
            "Expected the same; to compare across tokenizers (GOLD, experimental in TRL) set sft.on_policy.across: {}"
        )
    if same and across:
        raise ValueError(
            "teacher and student have the same tokenizer, so their distributions compare token by token; expected to "
            "leave sft.on_policy.across out"
        )


def without_a_peer(peer: bool) -> None:
    """Refuses where two students are to learn from each other, and there is one."""
    if not peer:
        raise ValueError(
            "found no peer in the recipe; expected a second student, since sft.objective is mutual. Add a section "
            "peer: {model: ...} of the student's family, or set sft.objective: sft."
        )


def a_twin(same: bool) -> None:
    """Refuses a peer with the student's own weights, where all of them are trained."""
    if same:
        raise ValueError(TWIN)


def longer(max_length: int, role: str, limit: int | None) -> None:
    """Refuses where examples may be longer than what a model can read."""
    if limit is not None and max_length > limit:
        raise ValueError(
            f"sft.max_length is {max_length}, but the {role} has only {limit} positions. Set it to {limit} or less."
        )
