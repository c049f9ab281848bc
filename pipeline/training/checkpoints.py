"""Checkpoints that a killed training resumes from: each counts only by its own completion marker, written last.

It knows nothing of what is in a checkpoint but the trainer's state file, and never writes weights.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from pipeline.manifest import sync_files, sync_folder, write_durably
from pipeline.shards import file_entry

MARKER = "complete.json"
PLAN = "plan.id"
STATE = "trainer_state.json"
_PREFIX = "checkpoint-"


def step_of(folder: Path) -> int:
    """The optimizer step a checkpoint was written at, from its name."""
    return int(folder.name.removeprefix(_PREFIX))


def checkpoints(root: Path) -> list[Path]:
    """The checkpoint folders under root, complete or not, by step."""
    found = [path for path in root.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdigit() and path.is_dir()]
    return sorted(found, key=step_of)


def seal(folder: Path) -> None:
    """Make a written checkpoint durable and mark it complete: fsync every file, then the marker with all of them."""
    entries = [file_entry(path, folder).model_dump() for path in sync_files(folder) if path.name != MARKER]
    write_durably(folder / MARKER, json.dumps({"files": entries}, indent=1) + "\n")
    sync_folder(folder.parent)


def is_complete(folder: Path) -> bool:
    """Whether the marker is there and every file it names has the bytes and sha256 it says."""
    try:
        entries = json.loads((folder / MARKER).read_text(encoding="utf-8"))["files"]
    except (FileNotFoundError, ValueError, KeyError):
        return False
    return all(
        (folder / entry["path"]).is_file()
        and (folder / entry["path"]).stat().st_size == entry["bytes"]
        and file_entry(folder / entry["path"], folder).sha256 == entry["sha256"]
        for entry in entries
    )


def state_of(folder: Path) -> dict[str, Any]:
    """The trainer's state as a checkpoint stores it."""
    state: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
    return state


def best_of(folder: Path) -> Path | None:
    """The best checkpoint up to this one, by the state it stores; None where nothing was evaluated."""
    step = state_of(folder).get("best_global_step")
    return folder.with_name(f"{_PREFIX}{step}") if step else None


def ready(root: Path, plan: str) -> Path | None:
    """Make `root` ready for a training of this plan (an id of all that decides it); the checkpoint to go on from.

    What a training of another plan left is deleted.
    """
    mark = root / PLAN
    if mark.exists() and mark.read_text(encoding="utf-8") == plan:
        return newest(root)
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    write_durably(mark, plan)
    return None


def newest(root: Path) -> Path | None:
    """The newest complete checkpoint whose best one is complete too; None where there is none.

    Incomplete ones are deleted: a later save at the same step must not mix its files with theirs.
    """
    complete = []
    for folder in checkpoints(root):
        if is_complete(folder):
            complete.append(folder)
        else:
            shutil.rmtree(folder)
    for folder in reversed(complete):
        best = best_of(folder)
        if best is None or best in complete:
            return folder
    return None


def prune(root: Path, last: Path) -> None:
    """Delete all checkpoints but the last and its best."""
    kept = {last, best_of(last)}
    for folder in checkpoints(root):
        if folder not in kept:
            shutil.rmtree(folder)


def stopped(folder: Path) -> bool:
    """Whether the training had decided to stop when it wrote this checkpoint."""
    control = state_of(folder).get("stateful_callbacks", {}).get("TrainerControl", {})
    return bool(control.get("args", {}).get("should_training_stop"))
