"""What a running stage writes: datasets as new shards, artifacts as sealed folders, and the manifest that names them.

It decides nothing about whether a stage should run (`runner.py`).
"""

import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.manifest import MANIFEST_FILE, Artifact, Dataset, Manifest, Shard, sync_files, sync_folder
from pipeline.records import content_id
from pipeline.shards import add_sums, file_entry, read_shard, write_shard
from pipeline.stage import Progress, Stage, StageError

SHARD_BYTES = 64 << 20  # held in memory by the stage that writes a shard, and again by one that reads it


class RunOutput:
    """The Output of one stage (see `stage.Output`)."""

    def __init__(
        self,
        stage: Stage,
        folder: Path,
        last: Manifest | None,
        show: Callable[[Progress], None],
        say: Callable[[str], None],
    ) -> None:
        self.folder = folder
        self.work = folder / "work"
        self.work.mkdir(parents=True, exist_ok=True)
        self.counts: Counter[str] = Counter()
        self.facts: dict[str, Any] = {}
        self._stage, self._last, self._show, self._say = stage, last, show, say
        self._series = f"{time.time_ns():x}"  # new shards never take the name of an old one
        self._buffers: dict[str, list[pa.Table]] = {name: [] for name in stage.writes}
        self._buffered: Counter[str] = Counter()  # bytes in memory
        self._shards: dict[str, list[Shard]] = {name: [] for name in stage.writes}
        self._artifacts: list[str] = []

    def write(self, dataset: str, table: pa.Table) -> None:
        schema = self._stage.writes[dataset]
        rows = table.select(schema.names).cast(schema)
        self._buffers[dataset].append(rows)
        self._buffered[dataset] += rows.nbytes
        if self._buffered[dataset] >= SHARD_BYTES:
            self._flush(dataset)

    def _flush(self, dataset: str) -> None:
        buffer = self._buffers[dataset]
        table = pa.concat_tables(buffer) if buffer else self._stage.writes[dataset].empty_table()
        name = f"{dataset}-{self._series}-{len(self._shards[dataset]):05d}.parquet"
        self._shards[dataset].append(write_shard(self.folder / dataset / name, table, self.folder))
        buffer.clear()
        self._buffered[dataset] = 0

    def previous(self, dataset: str, columns: Sequence[str] = ("id",)) -> list[tuple[Shard, pa.Table]]:
        if self._last is None or dataset not in self._last.datasets:
            return []
        return [(shard, read_shard(self.folder, shard, columns)) for shard in self._last.datasets[dataset].shards]

    def keep(self, dataset: str, shard: Shard) -> None:
        self._shards[dataset].append(shard)

    def artifact(self, name: str) -> Path:
        if name not in (*self._stage.artifacts, *self._stage.more_artifacts):
            raise LookupError(f"stage {self._stage.name} does not declare the artifact {name}")
        path = self._partial(name)
        if path.exists():
            shutil.rmtree(path)
        path.mkdir(parents=True)
        self._artifacts.append(name)
        return path

    def _partial(self, name: str) -> Path:
        return self.folder / f".{name}.partial"

    def progress(self, moment: Progress) -> None:
        self._show(moment)

    def say(self, line: str) -> None:
        self._say(line)

    def seal(self) -> tuple[dict[str, Dataset], dict[str, Artifact]]:
        """Write what is buffered and describe all of it. Raises StageError where a dataset's ids are not unique."""
        datasets = {}
        for name in self._stage.writes:
            if self._buffers[name] or not self._shards[name]:
                self._flush(name)
            datasets[name] = self._dataset(name)
        missing = [name for name in self._stage.artifacts if name not in self._artifacts]
        if missing:
            raise StageError(f"stage {self._stage.name} ended without its artifact {missing[0]}")
        return datasets, {name: self._sealed(name) for name in self._artifacts}

    def _dataset(self, name: str) -> Dataset:
        shards = self._shards[name]
        ids = pa.chunked_array(
            [read_shard(self.folder, shard, ["id"]).column("id").combine_chunks() for shard in shards]
        )
        distinct = pc.count_distinct(ids).as_py()
        if distinct != len(ids):
            raise StageError(
                f"stage {self._stage.name} wrote {len(ids)} rows to {name} with only {distinct} different ids; nothing "
                f"was recorded. This is a defect of the stage: ids must be unique."
            )
        rows, size = sum(shard.rows for shard in shards), sum(shard.bytes for shard in shards)
        return Dataset(rows=rows, bytes=size, columns=add_sums(shards), shards=shards)

    def _sealed(self, name: str) -> Artifact:
        partial = self._partial(name)
        files = [
            entry.model_copy(update={"path": f"{name}/{entry.path}"})
            for entry in (file_entry(path, partial) for path in sync_files(partial))
        ]
        return Artifact(files=files, fingerprint=content_id([(file.path, file.sha256) for file in files]))

    def swap_artifacts(self) -> None:
        """Put new artifacts in the place of old ones. The old manifest goes first: no manifest ever names a mixture."""
        if self._artifacts:
            (self.folder / MANIFEST_FILE).unlink(missing_ok=True)
            sync_folder(self.folder)
        for name in self._artifacts:
            place = self.folder / name
            if place.exists():
                shutil.rmtree(place)
            self._partial(name).rename(place)
        sync_folder(self.folder)

    def sweep(self) -> None:
        """Delete shards that the new manifest does not name, and the state for resuming. Called after the manifest."""
        self._keep_only(self._shards)
        shutil.rmtree(self.work, ignore_errors=True)

    def clear(self) -> None:
        """Delete what attempts that did not end left: shards that the last manifest does not name.

        Called before anything is written, or each attempt on a disk that is nearly full would leave less room.
        """
        last = {} if self._last is None else self._last.datasets
        self._keep_only({name: last[name].shards if name in last else [] for name in self._stage.writes})

    def _keep_only(self, shards: Mapping[str, Sequence[Shard]]) -> None:
        for name, kept in shards.items():
            named = {self.folder / shard.path for shard in kept}
            for path in (self.folder / name).glob("*"):
                if path not in named:
                    path.unlink()
