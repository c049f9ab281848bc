"""Ends the processes of an engine when the process that started it is gone, however that died.

vLLM's engine core does not notice a parent killed by SIGKILL: it keeps its memory and cores for ever. A small process
beside it remembers every process that came up under the parent while the engine started, and those that these start.
It needs Linux's /proc; elsewhere it remembers, and ends, nothing.

Python's resource tracker is left alone: it ends by itself, and unlinks the shared memory of those that were killed.
"""

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

START_POLL_S = 0.2  # an engine process that came up less than this before its parent was killed may be missed
POLL_S = 1.0  # once the engine is up
_UP = b"u"
_TRACKER = b"multiprocessing.resource_tracker"


class Lifeline:
    """The watching process. Make it before the engine, call `up` when the engine runs and `cut` when it was closed."""

    def __init__(self) -> None:
        # A session of its own: Ctrl-C in a terminal reaches the whole foreground group, and this must outlive it.
        self._watch = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).resolve()), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,
        )
        assert self._watch.stdout is not None
        self._watch.stdout.read(1)  # from here on it knows what ran before the engine

    def up(self) -> None:
        """The engine has started: what comes up from now on belongs to it only where one of its own starts it."""
        assert self._watch.stdin is not None
        self._watch.stdin.write(_UP)

    def cut(self) -> None:
        """End whatever is left of the engine, and the watch."""
        self._watch.communicate()  # closes its standard input, which ends the watch


def descendants(pid: int) -> dict[int, str]:
    """The processes under `pid`, with the time each started (in the kernel's ticks, which tells a reused id apart)."""
    found: dict[int, str] = {}
    waiting = [pid]
    while waiting:
        for path in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            for child in _read(path).split():
                born = started(int(child))
                if born is not None and int(child) not in found:
                    found[int(child)] = born
                    waiting.append(int(child))
    return found


def started(pid: int) -> str | None:
    """When a living process started, in ticks; None for one that has ended, and for a resource tracker."""
    fields = _read(Path(f"/proc/{pid}/stat")).rpartition(b")")[2].split()
    if not fields or fields[0] in (b"Z", b"X") or _TRACKER in _read(Path(f"/proc/{pid}/cmdline")):
        return None
    return fields[19].decode()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended in the meantime
        return b""


def watch(parent: int) -> None:
    """Follow the engine until `parent` closes this process's standard input or is gone; then kill what is left."""
    before = descendants(parent)
    os.write(1, _UP)
    engine: dict[int, str] = {}
    starting = True
    while os.getppid() == parent:
        if starting:
            now = descendants(parent)
            engine.update((pid, born) for pid, born in now.items() if before.get(pid) != born)
        for pid in list(engine):
            engine.update(descendants(pid))
        engine = {pid: born for pid, born in engine.items() if started(pid) == born}
        if select.select([0], [], [], START_POLL_S if starting else POLL_S)[0]:
            if not os.read(0, 1):
                break
            starting = False
    _kill(engine)


def _kill(engine: dict[int, str]) -> None:
    """SIGKILL until none is left: a dying process may just have started another."""
    while engine := {pid: born for pid, born in engine.items() if started(pid) == born}:
        for pid in list(engine):
            engine.update(descendants(pid))
        for pid in engine:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)


if __name__ == "__main__":
    watch(int(sys.argv[1]))
