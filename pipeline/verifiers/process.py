"""One worker process as its parent sees it: started, spoken to, killed with all it started. It keeps no limits."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from multiprocessing.connection import Pipe
from typing import Any

WORKER = "pipeline.verifiers.worker"
EXIT_WAIT_S = 0.5  # for a process whose socket is closed to be gone


class Process:
    """A fresh interpreter that runs `worker.py`, in a process group of its own.

    It is started by command line, not forked: a parent with threads, or with a model in memory, stays out of it, and
    the parent's main module is not imported again.
    """

    def __init__(self, memory_mib: int) -> None:
        self.connection, theirs = Pipe()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by kill)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", WORKER, str(theirs.fileno()), str(os.getpid()), str(memory_mib)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env=_environment(),
            )
        finally:
            theirs.close()

    def send(self, message: Any) -> None:
        self.connection.send_bytes(json.dumps(message).encode("ascii"))

    def ending(self) -> str:
        """How a process that closed its socket ended, in words; one that lives on is killed."""
        try:
            code = self._process.wait(EXIT_WAIT_S)
        except subprocess.TimeoutExpired:
            return "it closed its connection"
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"

    def last_words(self) -> str:
        """The end of what it printed before it was ready."""
        self._errors.seek(0)
        return self._errors.read().decode("utf-8", "replace").strip()[-1000:]

    def kill(self) -> None:
        """End it and all it started, now."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.connection.close()
        self._errors.close()


def _environment() -> dict[str, str]:
    """One thread each, no display, and a fixed hash seed: the order of sympy's sets must not change a verdict."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**os.environ, **threads, "PYTHONPATH": path, "PYTHONHASHSEED": "0", "MPLBACKEND": "Agg"}
