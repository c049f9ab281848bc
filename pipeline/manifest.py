"""Started, finished and current are three facts: Intent, Manifest, and the comparison of what they declare.

Readers trust only the manifest. It does not decide what to do about a difference (`runner.py` does).
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, field_validator

from pipeline.records import content_id

INTENT_FILE = "intent.json"
MANIFEST_FILE = "manifest.json"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Parsed = TypeVar("Parsed", bound=_Record)


class File(_Record):
    """A file of an artifact, by its path inside the stage's folder."""

    path: str
    bytes: int
    sha256: str


class Shard(File):
    """One Parquet file of a dataset. `columns` holds each column's fingerprint (see `shards.column_sums`)."""

    rows: int
    columns: dict[str, str]


class Dataset(_Record):
    """A dataset's shards, and its fingerprint column by column: layout, order and workers do not enter."""

    rows: int
    bytes: int
    columns: dict[str, str]
    shards: list[Shard]


class Artifact(_Record):
    """A folder of files that is no dataset: a checkpoint, a page. `fingerprint` is over paths and contents."""

    files: list[File]
    fingerprint: str


class Identity(_Record):
    """All that decides what a stage writes: its version, declared values, and the contents of what it reads."""

    version: int
    config: dict[str, Any]
    roles: dict[str, dict[str, Any]] = {}
    prompts: dict[str, str] = {}
    models: dict[str, str] = {}
    contents: dict[str, str] = {}
    inputs: dict[str, dict[str, str]] = {}

    @field_validator("roles")
    @classmethod
    def _that_decide(cls, roles: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """A role that a stage only knows, whatever it is, decides nothing."""
        return {name: keys for name, keys in roles.items() if keys}


class Intent(_Record):
    """Written before a stage does anything."""

    stage: str
    run: str
    identity: Identity
    started: str
    # Of earlier attempts at the same and, as it was last noted, of this one: how long they took, and the most memory.
    seconds: float = 0.0
    peak_memory_mib: int = 0


class Manifest(_Record):
    """Written last, by rename, when everything it names is on the disk."""

    stage: str
    run: str
    identity: Identity
    datasets: dict[str, Dataset]
    artifacts: dict[str, Artifact]
    counts: dict[str, int]
    facts: dict[str, Any]
    recipe: str  # resolved, as JSON
    seconds: float  # of all attempts, the interrupted ones too
    started: str
    finished: str
    host: str
    commit: str | None
    packages: dict[str, str]

    @property
    def rows(self) -> dict[str, int]:
        return {name: dataset.rows for name, dataset in self.datasets.items()}

    @property
    def fingerprint(self) -> str:
        """Of what the stage wrote, not of when, where or in which layout."""
        return content_id(
            {name: dataset.columns for name, dataset in self.datasets.items()},
            {name: artifact.fingerprint for name, artifact in self.artifacts.items()},
        )


class Change(_Record):
    """A key of an identity that differs; a missing side is None."""

    key: str
    old: Any
    new: Any


def fingerprint(identity: Identity) -> str:
    """A 128-bit hex digest of an identity."""
    return content_id(identity.model_dump(mode="json"))


def explain(old: Identity, new: Identity) -> list[Change]:
    """The keys that differ, dotted, a list's sections by number, in the order of the new identity."""
    before, after = dict(_flat(old.model_dump(mode="json"))), dict(_flat(new.model_dump(mode="json")))
    keys = [*after, *(key for key in before if key not in after)]
    return [
        Change(key=key, old=before.get(key), new=after.get(key)) for key in keys if before.get(key) != after.get(key)
    ]


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for number, item in enumerate(value):
            yield from _flat(item, f"{prefix}[{number}]")
    else:
        yield prefix, value


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a stage's folder, or None where there is none. Raises ValueError for a damaged one."""
    text = _text(folder / MANIFEST_FILE)
    return None if text is None else _parse(Manifest, text, folder / MANIFEST_FILE)


def read_intent(folder: Path) -> Intent | None:
    """The intent of a stage's folder, or None where there is none. Raises ValueError for a damaged one."""
    text = _text(folder / INTENT_FILE)
    return None if text is None else _parse(Intent, text, folder / INTENT_FILE)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _parse(kind: type[Parsed], text: str, path: Path) -> Parsed:
    try:
        return kind.model_validate_json(text)
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read as a {kind.__name__.lower()} ({error.__class__.__name__}); expected the file that "
            f"seqdistill wrote. Delete it to rebuild the stage: completions in the store are kept."
        ) from error


def write_durably(path: Path, text: str | Iterable[str]) -> None:
    """Write by temporary file, fsync, rename and directory fsync: after a crash the file is the old one or the new."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with written(path, partial):
        with open(partial, "w", encoding="utf-8") as file:
            file.writelines([text] if isinstance(text, str) else text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)


@contextmanager
def written(path: Path, partial: Path) -> Iterator[None]:
    """Leave nothing of `partial` where it was not written whole; where the disk refuses it, raise OSError for `path`.

    An error of a write, unlike one of an open, does not say which file it is about.
    """
    try:
        yield
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise


def sync_files(folder: Path) -> list[Path]:
    """fsync every file under a folder, and the folders that name them, itself included. Returns the files, sorted.

    For what a library wrote: a hash of a file is taken from memory, and says nothing of what is on the disk.
    """
    paths = sorted(folder.rglob("*"))
    files = [path for path in paths if path.is_file()]
    for path in [*files, *(path for path in paths if path.is_dir()), folder]:
        _sync(path)
    return files


def sync_folder(folder: Path) -> None:
    """fsync a directory, so that renames in it survive a power cut."""
    _sync(folder)


def replace_folder(new: Path, folder: Path, aside: Path) -> None:
    """Put a finished folder in place; an old one goes to `aside`, for the caller to delete. Its readers keep their
    open files. Where the new one cannot be put there, the old one comes back.
    """
    shutil.rmtree(aside, ignore_errors=True)
    try:
        if folder.exists():
            os.replace(folder, aside)
        os.replace(new, folder)
    except BaseException:
        if aside.exists() and not folder.exists():
            os.replace(aside, folder)
        raise
    sync_folder(folder.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # which does not say which file it is about
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(handle)


def write_record(path: Path, record: _Record) -> None:
    """Write an intent or a manifest durably, as indented JSON."""
    write_durably(path, json.dumps(record.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n")
