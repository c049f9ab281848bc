import errno
import fcntl
import os
import subprocess
import sys
import threading
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


def test_who_waits_is_told_so_once_and_holds_the_lock_after_its_holder(tmp_path: Path) -> None:
    held, waiting, said = threading.Event(), threading.Event(), list[str]()
    order = list[str]()

    def first() -> None:
        with hold(tmp_path / "a.lock", "x"):
            held.set()
            assert waiting.wait(timeout=20)
            order.append("first")

    def wait(line: str) -> None:
        said.append(line)
        waiting.set()

    thread = threading.Thread(target=first)
    thread.start()
    assert held.wait(timeout=20)
    with hold(tmp_path / "a.lock", "model y", wait):
        order.append("second")
        with pytest.raises(Locked, match=f"process {os.getpid()} on"), hold(tmp_path / "a.lock", "x"):
            raise AssertionError("it was held twice")
    thread.join()
    assert said == ["another process holds model y; waiting for it"]
    assert order == ["first", "second"]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_not_taken_for_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="file system that has locks") as caught, hold(tmp_path / "a.lock", "x"):
        raise AssertionError("it was held without a lock")
    assert (caught.value.errno, caught.value.filename) == (code, str(tmp_path / "a.lock"))


def test_a_lock_dies_with_its_holder(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from pipeline.lock import hold\n"
        "with hold(Path(sys.argv[1]), 'x'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    answer = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.lock")], check=False)
    assert answer.returncode == -9
    with hold(tmp_path / "a.lock", "x"):
        pass
