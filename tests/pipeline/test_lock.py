import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.lock import Locked, hold


def test_a_lock_names_its_holder(tmp_path: Path) -> None:
    says = f"stage x is being written by process {os.getpid()} on"
    with hold(tmp_path / "a.lock", "x"), pytest.raises(Locked, match=says), hold(tmp_path / "a.lock", "stage x"):
        raise AssertionError("it was held twice")


def test_a_lock_ends_with_its_block(tmp_path: Path) -> None:
    for _ in range(2):
        with hold(tmp_path / "a.lock", "stage x"):
            pass


def test_a_lock_dies_with_its_holder(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from pipeline.lock import hold\n"
        "with hold(Path(sys.argv[1]), 'x'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    answer = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.lock")], check=False)
    assert answer.returncode == -9
    with hold(tmp_path / "a.lock", "x"):
        pass
