"""Every stage killed by SIGKILL at random moments and run again: the rows, sorted by id, equal an unbroken run's."""

import random
import shutil
from pathlib import Path

import pytest

from pipeline import plan
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
    datasets = small.manifest(small.run_of(path, data=data), stage).datasets
    return {name: dataset.columns for name, dataset in datasets.items()}


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
    started = data / "runs/small" / stage / "intent.json"
    for _ in range(3):
        wait_s = draw.uniform(0, 0.5)
        small.killed(data, "run", path, "--to", stage, when=started.exists, wait_s=wait_s, poll_s=0.01)
        state = small.run_of(path, data=data).state(stage).word
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

    def writing() -> bool:
        return any(file.stat().st_size for file in data.glob("store/*/journal-*.log"))

    assert small.killed(data, "run", path, "--to", "seed", when=writing, poll_s=0.01)
    small.seqdistill(data, "run", path, "--to", "seed")
    small.seqdistill(tmp_path / "unbroken", "run", path, "--to", "seed")
    assert small.manifest(small.run_of(path), "seed").facts["generation"]["rewritings"]["reused"] > 0
    assert fingerprints(path, data, "seed") == fingerprints(path, tmp_path / "unbroken", "seed")
