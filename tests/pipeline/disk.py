"""A disk that fills up while something is written to it."""

import errno
import os

import pytest


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
