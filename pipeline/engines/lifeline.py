"""Ends the processes of an engine when the process that started it is gone, however that died.

vLLM's engine core does not notice a parent killed by SIGKILL: it keeps its memory and cores for ever. Its processes are
known by a mark in their environment, which children inherit, so that one still starting is found too. It ends no other
process, and needs Linux's /proc; elsewhere it does nothing.

Python's resource tracker bears the mark too and is left alone: it ends by itself, and unlinks the shared memory of
those that were killed.
"""

import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

MARK = "SEQDISTILL_ENGINE"
POLL_S = 0.5
_TRACKER = b"multiprocessing.resource_tracker"


class Lifeline:
    """A small process beside the engine. Set `environment` while the engine starts; `cut` when it has been closed."""

    def __init__(self) -> None:
        self.mark = secrets.token_hex(16)
        self.environment = {MARK: self.mark}
        command = [sys.executable, str(Path(__file__).resolve()), str(os.getpid()), self.mark]
        # A session of its own: Ctrl-C in a terminal reaches the whole foreground group, and this must outlive it.
        self._watch = subprocess.Popen(
            command,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def cut(self) -> None:
        """End whatever is left of the engine, and the watch."""
        kill_marked(self.mark)
        self._watch.kill()
        self._watch.wait()


def marked(mark: str) -> list[int]:
    """Ids of the processes, this one apart, whose environment holds the mark."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            bears = wanted in (folder / "environ").read_bytes().split(b"\0")
            if bears and _TRACKER not in (folder / "cmdline").read_bytes() and int(folder.name) != os.getpid():
                found.append(int(folder.name))
        except OSError:  # another user's, or gone in the meantime
            continue
    return found


def kill_marked(mark: str) -> None:
    """SIGKILL to every marked process, until none is left (a dying one may just have started another)."""
    while pids := marked(mark):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)


def watch(parent: int, mark: str) -> None:
    """Wait until `parent` is no longer this process's parent, then kill what is marked."""
    while os.getppid() == parent:
        time.sleep(POLL_S)
    kill_marked(mark)


if __name__ == "__main__":
    watch(int(sys.argv[1]), sys.argv[2])
