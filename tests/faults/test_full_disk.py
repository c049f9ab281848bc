"""Some of the faults of tests/faults/full_disk.py: those that need no mounted disk."""

import errno
from pathlib import Path

import pytest

from tests.faults.full_disk import PROBLEMS, CannotTest, Loop, Tally, fault, refuse, shim
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
