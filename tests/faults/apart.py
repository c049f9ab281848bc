"""Work in a process that kills itself by SIGKILL at a chosen moment, forked from one that has only imported.

It knows nothing of the work, and compares nothing.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

# What takes seconds to import; a fork of a process that has done so takes none.
IMPORTED = ["pipeline.training.trainer", "pipeline.training.model", "pipeline.training.on_policy"]
IMPORTED += ["pipeline.runner", "stages.sft", "tests.small"]


def process(log: Path, work: Callable[..., None], *arguments: Any) -> bool:
    """Do some work in a process of its own, which speaks to a file. Whether it was killed; fails where it failed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    child = context.Process(target=_speaking_to, args=(log, work, *arguments))
    child.start()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL), log.read_text(errors="replace")
    return child.exitcode != 0


def _speaking_to(log: Path, work: Callable[..., None], *arguments: Any) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    work(*arguments)


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def nth(function: Callable[..., Any], count: int, instead: Callable[..., Any] = die) -> Callable[..., Any]:
    """The function, but `instead` of it at its count-th call."""
    calls = 0

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        return (instead if calls == count else function)(*arguments, **named)

    return counted
