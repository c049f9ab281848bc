"""Checkpoints: only one whose own marker checks out is taken, and the last two that matter are kept."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.training import checkpoints


def write(root: Path, step: int, best: int | None = None, sealed: bool = True) -> Path:
    folder = root / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes([step % 256]) * 1000)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "best_global_step": best}))
    if sealed:
        checkpoints.seal(folder)
    return folder


def test_the_newest_sealed_checkpoint_is_taken_by_number(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        write(tmp_path, step)
    assert checkpoints.newest(tmp_path) == tmp_path / "checkpoint-100"


def test_an_unsealed_checkpoint_is_not_taken_and_goes(tmp_path: Path) -> None:
    good, torn = write(tmp_path, 5), write(tmp_path, 10, sealed=False)
    assert checkpoints.newest(tmp_path) == good
    assert not torn.exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "model.safetensors").write_bytes(b"\x0a" * 999),
        lambda folder: (folder / "model.safetensors").write_bytes(b"\x0b" * 1000),
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / checkpoints.MARKER).write_text("{"),
        lambda folder: (folder / checkpoints.MARKER).write_text("{}"),
    ],
    ids=["truncated", "flipped", "missing", "torn marker", "empty marker"],
)
def test_a_damaged_checkpoint_is_not_taken(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    good = write(tmp_path, 5)
    damage(write(tmp_path, 10))
    assert checkpoints.newest(tmp_path) == good


def test_a_checkpoint_whose_best_is_damaged_is_not_taken(tmp_path: Path) -> None:
    best = write(tmp_path, 5, best=5)
    write(tmp_path, 10, best=5)
    (best / "model.safetensors").unlink()
    assert checkpoints.newest(tmp_path) is None


def test_pruning_keeps_the_last_and_its_best(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        last = write(tmp_path, step, best=5)
    checkpoints.prune(tmp_path, last)
    assert [folder.name for folder in checkpoints.checkpoints(tmp_path)] == ["checkpoint-5", "checkpoint-15"]


def test_another_plan_starts_over(tmp_path: Path) -> None:
    root = tmp_path / "trainer"
    assert checkpoints.ready(root, "one") is None
    last = write(root, 5)
    assert checkpoints.ready(root, "one") == last
    assert checkpoints.ready(root, "two") is None
    assert checkpoints.checkpoints(root) == []


@pytest.mark.parametrize("stopped", [True, False])
def test_a_stored_decision_to_stop_is_read(tmp_path: Path, stopped: bool) -> None:
    folder = write(tmp_path, 5, sealed=False)
    state = {"stateful_callbacks": {"TrainerControl": {"args": {"should_training_stop": stopped}}}}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    assert checkpoints.stopped(folder) is stopped
