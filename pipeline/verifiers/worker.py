"""The process that runs verifiers: it takes items from a socket, judges them in order and answers after each.

It keeps no time and replaces nothing; its parent (`pool.py`) does. Messages are JSON both ways, so that nothing a
verifier makes is ever unpickled by the parent.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

from pipeline.verifiers import Judgement, Verifier, load, undecided

MIB = 1 << 20
ERROR_LIMIT = 500  # characters of an error's text kept in a verdict
SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def serve(connection: Connection, memory_mib: int) -> None:
    """Judge until the parent closes the socket.

    Sends ["ready"] once; ["load"] and ["loaded"] around the import of a verifier, which is not charged to the item
    (["unloadable", error] where it fails); and ["judged", outcome, reason, score, detail, worn] after each item, where
    `worn` says that this process has grown too large to judge another.
    """
    verifiers: dict[str, Verifier] = {}
    tell(connection, "ready")
    _silence()
    smallest = _address_space()[0]
    while True:
        try:
            batch = json.loads(connection.recv_bytes())
        except EOFError:
            return
        for name, given, gold, data in batch:
            if name not in verifiers:
                tell(connection, "load")
                try:
                    verifiers[name] = resolve(name)
                except Exception as error:
                    tell(connection, "unloadable", f"{type(error).__name__}: {error}")
                    return
                smallest = _address_space()[0]
                tell(connection, "loaded")
            judge = partial(_judge, verifiers[name], given, gold, data)
            judgement = within_memory(judge, memory_mib)
            worn = judgement.reason == "verifier_memory" or _address_space()[0] > smallest + memory_mib * MIB
            tell(connection, "judged", *_plain(judgement), worn)
            if worn:
                return


def resolve(name: str) -> Verifier:
    """A verifier by its name on the shelf, or by "module:function" (for callers of `Pool`, never from a recipe)."""
    if ":" not in name:
        return load(name)
    module, function = name.split(":")
    verifier: Verifier = getattr(import_module(module), function)
    return verifier


def within_memory(judge: Callable[[], Judgement], memory_mib: int) -> Judgement:
    """The judgement, or undecided: verifier_memory where it added more than `memory_mib` of address space, and
    verifier_crash where it raised.

    Allocations fail only at twice the limit. In between, the peak tells: libraries swallow a MemoryError and answer
    "not equal", so a failed allocation must not be the first sign.
    """
    size, peak_before = _address_space()
    limit = size + memory_mib * MIB
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    soft = limit + memory_mib * MIB
    resource.setrlimit(resource.RLIMIT_AS, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
    try:
        judgement = judge()
    except MemoryError:
        judgement = undecided("verifier_memory")
    except BaseException as error:  # SystemExit too: nothing a verifier raises may end the worker unheard
        judgement = undecided("verifier_crash", error=f"{type(error).__name__}: {error}"[:ERROR_LIMIT])
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    peak = _address_space()[1]
    return undecided("verifier_memory") if peak > max(peak_before, limit) else judgement


def _judge(verifier: Verifier, given: str, gold: str, data: str) -> Judgement:
    return verifier(given, gold, json.loads(data))


def tell(connection: Connection, *message: Any) -> None:
    connection.send_bytes(json.dumps(message).encode("ascii"))


def _plain(judgement: Judgement) -> tuple[str, str | None, float | None, dict[str, Any]]:
    return judgement.outcome, judgement.reason, judgement.score, judgement.detail


def _address_space() -> tuple[int, int]:
    """Bytes of address space now, and at the highest so far (proc(5): VmSize, VmPeak)."""
    figures = {}
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith(("VmPeak:", "VmSize:")):
                figures[line[:6]] = int(line.split()[1]) * 1024
                if len(figures) == 2:
                    break
    return figures["VmSize"], figures["VmPeak"]


def _die_with_parent(parent: int) -> None:
    """A parent that is killed cannot stop a worker that hangs; the kernel does."""
    ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)


def _silence() -> None:
    """From here on libraries may print; until here an error of start-up reaches the parent."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def main() -> None:
    """Arguments: the socket's descriptor, the parent's process id, the memory limit in MiB."""
    descriptor, parent, memory_mib = (int(argument) for argument in sys.argv[1:4])
    _die_with_parent(parent)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve(Connection(descriptor), memory_mib)


if __name__ == "__main__":
    main()
