"""In-memory Inputs and Output for testing one stage's `run` alone: tables in, tables out, artifacts in a folder."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.manifest import Manifest, Shard
from pipeline.roles import Judge, Peer, Student, Teacher
from pipeline.stage import Progress
from stages import sft

ROOT = Path(__file__).resolve().parent.parent


class DeskInputs:
    """Inputs from given tables (by the names a stage reads them under), folders and roles."""

    def __init__(
        self,
        folder: Path,
        tables: dict[str, pa.Table] | None = None,
        teacher: Teacher | None = None,
        student: Student | None = None,
        folders: dict[str, Path] | None = None,
        models: dict[str, Path] | None = None,
        manifests: dict[str, Manifest] | None = None,
    ) -> None:
        self._tables = tables or {}
        self._teacher, self._student = teacher, student
        self._folders, self._models, self._manifests = folders or {}, models or {}, manifests or {}
        self.store = folder / "store"
        self.root = folder
        self.more_teachers: dict[str, Teacher] = {}
        self.judge: Judge | None = None
        self.peer: Peer | None = None

    @property
    def teacher(self) -> Teacher:
        assert self._teacher is not None
        return self._teacher

    @property
    def teachers(self) -> dict[str, Teacher]:
        return {"teacher": self.teacher, **self.more_teachers}

    @property
    def student(self) -> Student:
        assert self._student is not None
        return self._student

    def table(self, name: str) -> pa.Table:
        return self._tables[name]

    def batches(self, name: str, rows: int = 8192) -> Iterator[pa.Table]:
        table = self._tables[name]
        for start in range(0, table.num_rows, rows):
            yield table.slice(start, rows)

    def folder(self, name: str) -> Path:
        return self._folders[name]

    def manifest(self, name: str) -> Manifest:
        return self._manifests[name]

    def has(self, name: str) -> bool:
        return name in self._manifests

    def rounds(self) -> None:
        return None

    def prompt(self, name: str) -> str:
        ending = ".jinja" if name.startswith("chat/") else ".txt"
        return (ROOT / "prompts" / f"{name}{ending}").read_text(encoding="utf-8")

    def weights(self, role: str) -> str:
        return f"weights-of-{role}"

    def model(self, role: str) -> Path:
        return self._models[role]


class DeskOutput:
    """An Output that keeps tables in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "stage"
        self.work = self.folder / "work"
        self.work.mkdir(parents=True, exist_ok=True)
        self.counts: Counter[str] = Counter()
        self.facts: dict[str, Any] = {}
        self.tables: dict[str, list[pa.Table]] = {}
        self.kept: dict[str, list[tuple[Shard, pa.Table]]] = {}
        self.moments: list[Progress] = []
        self.lines: list[str] = []

    def write(self, dataset: str, table: pa.Table) -> None:
        self.tables.setdefault(dataset, []).append(table)

    def previous(self, dataset: str, columns: Sequence[str] = ("id",)) -> list[tuple[Shard, pa.Table]]:
        return []

    def keep(self, dataset: str, shard: Shard) -> None:
        raise AssertionError("nothing to keep in memory")

    def artifact(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def progress(self, moment: Progress) -> None:
        self.moments.append(moment)

    def say(self, line: str) -> None:
        self.lines.append(line)

    def rows(self, dataset: str) -> list[dict[str, Any]]:
        """All rows written to a dataset, as dicts."""
        return [row for table in self.tables.get(dataset, []) for row in table.to_pylist()]


@contextmanager
def interrupted_at_save() -> Iterator[None]:
    """Have a training of `sft` be interrupted, as by Ctrl-C, once it has saved. Fails where it was not."""
    from transformers import TrainerCallback

    class Cut(TrainerCallback):
        def on_save(self, *_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

    real = sft.callbacks
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sft, "callbacks", lambda *arguments: [*real(*arguments), Cut()])
        with pytest.raises(KeyboardInterrupt):
            yield
