"""Every stage killed by SIGKILL at random moments and run again: the rows, sorted by id, equal an unbroken run's."""

import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from pipeline import plan, recipe
from pipeline.run import Run
from tests import small

KILLED = plan.ORDER[: plan.ORDER.index("mix") + 1]  # sft has its own kills, eval and report read what it wrote


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    path = small.write(folder, teacher__exec={"delay_s": 0.01})
    small.seqdistill(folder / "data", "run", path, "--to", "mix")
    return folder


def fingerprints(path: Path, data: Path, stage: str) -> dict[str, dict[str, str]]:
    """Each dataset's column fingerprints, which are equal exactly where the rows sorted by id are."""
    manifest = Run(recipe.load(path), data=data).manifest(stage)
    assert manifest is not None
    return {name: dataset.columns for name, dataset in manifest.datasets.items()}


@pytest.mark.parametrize("stage", KILLED)
def test_a_killed_stage_run_again_writes_what_an_unbroken_one_writes(
    stage: str, unbroken: Path, tmp_path: Path
) -> None:
    path = unbroken / "small.yaml"
    data = tmp_path / "data"
    before = plan.ORDER.index(stage)
    shutil.copytree(unbroken / "data", data)
    for later in plan.ORDER[before : plan.ORDER.index("mix") + 1]:
        shutil.rmtree(data / "runs/small" / later)
    if stage == "generate":
        shutil.rmtree(data / "store")
    draw = random.Random(stage)
    for _ in range(3):
        process = subprocess.Popen(
            small.command("run", path, "--to", stage),
            cwd=small.ROOT,
            env=small.environment(data),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        started = data / "runs/small" / stage / "intent.json"
        while not started.exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.5))
        process.kill()
        process.wait()
        state = Run(recipe.load(path), data=data).state(stage).word
        assert state in ("partial", "fresh")
        if state == "fresh":
            break
    small.seqdistill(data, "run", path, "--to", "mix")
    for name in KILLED:
        assert fingerprints(path, data, name) == fingerprints(path, unbroken / "data", name), name


def test_a_seed_killed_while_the_teacher_writes_keeps_what_was_written(tmp_path: Path) -> None:
    wish = {"kind": "harder", "votes": 3}
    path = small.write(tmp_path, teacher__exec={"delay_s": 0.03}, seed__augment=[wish])
    small.can_variants(path)
    data = tmp_path / "data"
    process = subprocess.Popen(
        small.command("run", path, "--to", "seed"),
        cwd=small.ROOT,
        env=small.environment(data),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not any(file.stat().st_size for file in data.glob("store/*/journal-*.log")):
        time.sleep(0.01)
    process.kill()
    assert process.wait() != 0, "it ended before it could be killed"
    small.seqdistill(data, "run", path, "--to", "seed")
    small.seqdistill(tmp_path / "unbroken", "run", path, "--to", "seed")
    manifest = Run(recipe.load(path), data=data).manifest("seed")
    assert manifest is not None
    assert manifest.facts["generation"]["rewritings"]["reused"] > 0
    assert fingerprints(path, data, "seed") == fingerprints(path, tmp_path / "unbroken", "seed")
