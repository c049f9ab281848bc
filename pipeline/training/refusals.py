"""What a training would fail at that can be told before it, and before the hours of the stages that come first.

Each function raises ValueError, whose message says what was found, expected, and the fix.
"""

from pathlib import Path

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


def without_a_peer(peer: bool) -> None:
    """Refuses where two students are to learn from each other, and there is one."""
    if not peer:
        raise ValueError(
            "found no peer in the recipe; expected a second student, since sft.objective is mutual. Add a section "
            "peer: {model: ...} of the student's family, or set sft.objective: sft."
        )


def longer(max_length: int, role: str, limit: int | None) -> None:
    """Refuses where examples may be longer than what a model can read."""
    if limit is not None and max_length > limit:
        raise ValueError(
            f"sft.max_length is {max_length}, but the {role} has only {limit} positions. Set it to {limit} or less."
        )
