"""A lock that names who holds it: an flock on a file, released by the kernel when its holder dies.

It guards one writer per folder; readers need none, since they trust only manifests.
"""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path


class Locked(Exception):
    """Another process holds the lock; the message names its pid, host and start."""


@contextmanager
def hold(path: Path, what: str, wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the lock file at `path` for `what` ("stage sft of run demo").

    Where another process holds it, `wait` is told so and the lock is waited for; without `wait`, raises Locked. Raises
    OSError where the file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if wait is None:
                file.seek(0)
                raise Locked(f"{what} is being written by {_holder(file.read())}. Wait for it, or end it.") from error
            wait(f"another process holds {what}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            reason = f"cannot be locked ({error.strerror}); keep it on a file system that has locks, a local disk"
            raise OSError(error.errno, reason, str(path)) from error
        started = datetime.now(UTC).isoformat(timespec="seconds")
        who = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": started})
        os.ftruncate(file.fileno(), 0)
        # The lock is held without the name too, which is only for who waits: a full disk is met by what needs it.
        with contextlib.suppress(OSError):
            os.write(file.fileno(), who.encode())
        yield


def _holder(text: str) -> str:
    try:
        who = json.loads(text)
        return f"process {who['pid']} on host {who['host']} since {who['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process (it has not written its name yet)"
