"""Nothing that an engine started outlives the process that started it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.engines.lifeline import Lifeline, descendants, started

SLEEP = "import time; time.sleep(600)"
ENGINE = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', '{SLEEP}']); {SLEEP}"


def eventually(holds: Callable[[], bool]) -> bool:
    """Whether something becomes true within half a minute."""
    deadline = time.monotonic() + 30
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def gone(pids: dict[int, str]) -> bool:
    return all(started(pid) != born for pid, born in pids.items())


def run(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code])


def test_cutting_it_ends_the_engine_with_its_children_and_no_other_process() -> None:
    before = run(SLEEP)
    line = Lifeline()
    engine = run(ENGINE)
    assert eventually(lambda: len(descendants(engine.pid)) == 1)
    child = descendants(engine.pid)
    time.sleep(1)  # the watch looks five times a second
    line.up()
    time.sleep(1)
    after = run(SLEEP)
    line.cut()
    assert engine.wait() == -signal.SIGKILL
    assert gone(child)
    assert [process.poll() for process in (before, after)] == [None, None]
    for process in (before, after):
        process.kill()
        process.wait()


@pytest.mark.parametrize("up", ["line.up()", "pass"])
def test_a_parent_killed_by_sigkill_takes_its_engine_along_even_while_it_starts(up: str) -> None:
    parent = (
        "import subprocess, sys, time\n"
        "from pipeline.engines.lifeline import Lifeline\n"
        "line = Lifeline()\n"
        f"subprocess.Popen([sys.executable, '-c', {ENGINE!r}])\n"
        "time.sleep(1)\n"
        f"{up}\n"
        "print('started', flush=True)\n"
        "time.sleep(600)\n"
    )
    root = Path(__file__).resolve().parents[3]
    running = subprocess.Popen([sys.executable, "-c", parent], cwd=root, stdout=subprocess.PIPE)
    assert running.stdout is not None
    assert running.stdout.readline() == b"started\n"
    below = descendants(running.pid)
    assert len(below) == 3  # the watch, the engine, and the engine's child
    running.kill()
    running.wait()
    running.stdout.close()
    assert eventually(lambda: gone(below))


def test_a_process_that_ended_has_no_start() -> None:
    process = run("pass")
    assert eventually(lambda: started(process.pid) is None)  # a zombie until it is waited for
    process.wait()
    assert started(os.getpid()) is not None
