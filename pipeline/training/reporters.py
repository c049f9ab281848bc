"""Where losses are reported to while a student trains: TensorBoard, trackio, wandb."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.training import checkpoints, options


def check_reporters(wanted: Sequence[str]) -> None:
    """Raises ValueError where a program that losses are to be reported to is not installed."""
    missing = [name for name in wanted if name != "tensorboard" and not options.installed(name)]
    if missing:
        raise ValueError(
            f"sft.exec.report_to names {missing[0]}, which is not installed. Install it with "
            f"`.venv/bin/python -m pip install -e '.[{missing[0]}]'`, or leave it out."
        )


def reporters(wanted: Sequence[str], logs: Path, begun: Path | None) -> list[Any]:
    """Callbacks that report losses: TensorBoard's into a folder, others' on this machine unless the environment holds a
    key or a place of theirs.
    """
    from torch.utils.tensorboard.writer import SummaryWriter
    from transformers.integrations import integration_utils

    made: list[Any] = []
    for name in wanted:
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
