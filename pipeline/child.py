"""A module of this project as a process of its own, so that its memory, and the torch it imports, end with it.

It knows none of these modules, and interprets no error.
"""

import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Failure(NamedTuple):
    """How a process ended that did not end well."""

    code: int
    last: str  # line of its error output

    def __str__(self) -> str:
        if self.code >= 0:
            return f"exit code {self.code}: {self.last}"
        ended = f"ended by {signal.Signals(-self.code).name}"
        return f"{ended}, as the system does where memory runs out" if self.code == -signal.SIGKILL else ended


def failure(module: str, *words: str | Path) -> Failure | None:
    """Run a module with these words behind it; None where it ended well."""
    answer = subprocess.run([sys.executable, "-m", module, *map(str, words)], cwd=ROOT, capture_output=True, text=True)
    if not answer.returncode:
        return None
    return Failure(answer.returncode, (answer.stderr.strip().splitlines() or ["no message"])[-1])
