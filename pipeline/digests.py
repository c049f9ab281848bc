"""sha256 of large files, remembered by path, size and time of change, since weights and sources are asked about often.

It does not decide what a digest identifies (`models.py` and the stages do).
"""

import contextlib
import hashlib
import json
import time
from pathlib import Path

from pipeline.manifest import write_durably

MEMORY = Path("data/models/.digests.json")  # from the project's root
COARSE_NS = 2_000_000_000  # some file systems count time in steps of two seconds


def sha256(path: Path) -> str:
    """The hex digest of a file, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remembered(root: Path) -> "Digests":
    """The digests that a project's folder remembers."""
    return Digests(root / MEMORY)


class Digests:
    """Digests remembered in a JSON file. Losing the file, or an entry to another process, only costs time."""

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            self._known = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._known = {}

    def of(self, path: Path) -> str:
        """The hex digest of a file. One that changed just now is not remembered: it may change again unnoticed."""
        status = path.stat()
        key, stamp = str(path.resolve()), [status.st_size, status.st_mtime_ns]
        known = self._known.get(key)
        if known and known[:2] == stamp:
            return str(known[2])
        digest = sha256(path)
        if time.time_ns() - status.st_mtime_ns > COARSE_NS:
            self._known = {other: entry for other, entry in self._known.items() if Path(other).exists()}
            self._known[key] = [*stamp, digest]
            with contextlib.suppress(OSError):  # a full disk, or one that is read only
                self._file.parent.mkdir(parents=True, exist_ok=True)
                write_durably(self._file, json.dumps(self._known, indent=1) + "\n")
        return digest
