"""Some of the faults of tests/faults/full_disk.py, and what a library makes of a full disk that hides it."""

import errno
import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import plan
from pipeline.run import Run
from pipeline.runner import Runner
from tests import small
from tests.faults.full_disk import PROBLEMS, CannotTest, Loop, Tally, fault, refuse, shim, small_disk
from tests.faults.kill_generate import generate


@pytest.mark.parametrize(("call", "after", "error"), [("write", 17, errno.ENOSPC), ("fsync", 0, errno.EIO)])
def test_a_disk_that_refuses_is_told_clearly_and_nothing_is_lost(
    call: str, after: int, error: int, tmp_path: Path
) -> None:
    try:
        library = shim(tmp_path)
    except CannotTest as missing:
        pytest.skip(str(missing))
    generate(tmp_path / "unbroken", PROBLEMS)
    tally = Tally()
    subject = Loop(tmp_path / "store", tmp_path / "unbroken")
    refuse(subject, call, fault(library, "/journal-", call, after, error), tally)
    assert tally == Tally(failures=1)


def refused(run: Run) -> tuple[Any, ...] | None:
    """What a run to seed says of the disk: number, file and cause; None where it ends well."""
    try:
        Runner(run).execute(["seed"])
    except OSError as error:
        return error.errno, error.filename, type(error.__cause__)
    return None


def test_a_full_disk_is_told_of_where_a_library_hides_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def trained(config: Any, inputs: Any, output: Any) -> None:
        torch.save(torch.zeros(1 << 21), output.work / "optimizer.pt")

    path = small.write(tmp_path)
    stages = {name: plan.stage(name) for name in plan.ORDER}
    stages["seed"] = replace(stages["seed"], run=trained)
    monkeypatch.setattr(plan, "stage", stages.__getitem__)
    try:
        with small_disk(2048) as disk:
            found = refused(small.run_of(path, data=disk))
            gc.collect()  # what failed holds its file open until then
    except CannotTest as missing:
        pytest.skip(str(missing))
    assert found == (errno.ENOSPC, str(disk / "runs/small/seed"), RuntimeError)
