"""What becomes of who writes: a disk that fills up meanwhile, and a SIGKILL."""

import errno
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.store import Store, writing


def full_after(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `os.write` take `size` bytes in all, of the last data only a part, and then refuse. `undo` makes room."""
    real, room = os.write, size

    def write(handle: int, data: bytes) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = real(handle, bytes(data)[:room])
        room -= done
        return done

    monkeypatch.setattr(os, "write", write)


def killed_writing(root: Path, weights: str, write: Callable[[Store], None]) -> None:
    """Have another process do so to the store that `root` holds for `weights`, and die by SIGKILL with it open.

    `write` is a function of a module, by whose name the other process finds it.
    """
    process = multiprocessing.get_context("spawn").Process(target=_write_and_die, args=(root, weights, write))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def _write_and_die(root: Path, weights: str, write: Callable[[Store], None]) -> None:
    with writing(root, weights) as store:
        write(store)
        os.kill(os.getpid(), signal.SIGKILL)
