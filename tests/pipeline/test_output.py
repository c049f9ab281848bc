import errno
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from pipeline import output as outputs
from pipeline.manifest import Dataset, Manifest
from pipeline.output import RunOutput
from pipeline.section import Section
from pipeline.stage import Stage, StageError

SCHEMA = pa.schema([("id", pa.string()), ("count", pa.int32())])


def stage(*artifacts: str) -> Stage:
    def run(*_: object) -> None:
        raise AssertionError("never run here")

    return Stage("made_up", 1, Section, run, reads={}, writes={"rows": SCHEMA}, artifacts=artifacts)


def opened(folder: Path, *artifacts: str) -> RunOutput:
    return RunOutput(stage(*artifacts), folder, None, lambda moment: None, lambda line: None)


def table(*ids: str) -> pa.Table:
    return pa.table({"count": [1] * len(ids), "id": list(ids)})


def test_rows_take_the_declared_schema_and_order(tmp_path: Path) -> None:
    output = opened(tmp_path)
    output.write("rows", table("a", "b"))
    output.write("rows", table("c"))
    datasets, _ = output.seal()
    assert datasets["rows"].rows == 3
    shards = datasets["rows"].shards
    assert [shard.rows for shard in shards] == [3]
    assert pa.parquet.read_schema(tmp_path / shards[0].path).equals(SCHEMA)


def test_full_buffers_become_shards_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "SHARD_BYTES", 20)
    output = opened(tmp_path)
    for name in "abcde":
        output.write("rows", table(f"row {name}"))
    datasets, _ = output.seal()
    assert [shard.rows for shard in datasets["rows"].shards] == [2, 2, 1]


def test_a_dataset_without_rows_still_has_its_columns(tmp_path: Path) -> None:
    datasets, _ = opened(tmp_path).seal()
    found: Dataset = datasets["rows"]
    assert (found.rows, list(found.columns)) == (0, ["id", "count"])


def test_doubled_ids_are_refused(tmp_path: Path) -> None:
    output = opened(tmp_path)
    output.write("rows", table("a", "b", "a"))
    with pytest.raises(StageError, match="3 rows to rows with only 2 different ids"):
        output.seal()


def test_an_artifact_stands_in_its_place_only_after_the_swap_and_the_old_manifest_goes_first(tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    (tmp_path / "page/old.html").write_text("old")
    (tmp_path / "manifest.json").write_text("{}")
    output = opened(tmp_path, "page")
    (output.artifact("page") / "new.html").write_text("new")
    _, artifacts = output.seal()
    assert [file.path for file in artifacts["page"].files] == ["page/new.html"]
    assert (tmp_path / "page/old.html").exists()
    output.swap_artifacts()
    assert [path.name for path in (tmp_path / "page").iterdir()] == ["new.html"]
    assert not (tmp_path / "manifest.json").exists()


def test_every_file_of_an_artifact_is_on_the_disk_before_a_manifest_can_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, real = set[int](), os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (real(handle), synced.add(os.fstat(handle).st_ino)))
    output = opened(tmp_path, "checkpoint")
    folder = output.artifact("checkpoint")
    (folder / "deep" / "deeper").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "deep" / "deeper" / "part").write_bytes(b"more")
    output.seal()
    wanted = [folder, *folder.rglob("*")]
    assert len(wanted) == 5
    assert [path for path in wanted if path.stat().st_ino not in synced] == []


def test_a_file_that_the_disk_does_not_take_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = opened(tmp_path, "page")
    (output.artifact("page") / "index.html").write_text("new")
    output.write("rows", table("a"))

    def refuse(handle: int) -> None:
        if os.fstat(handle).st_size == len("new"):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match=r"index\.html"):
        output.seal()


def test_a_declared_artifact_that_was_not_made_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="ended without its artifact page"):
        opened(tmp_path, "page").seal()


def test_what_an_attempt_without_a_manifest_left_goes_before_the_next_and_named_shards_stay(tmp_path: Path) -> None:
    ended, failed = opened(tmp_path), opened(tmp_path)
    ended.write("rows", table("a"))
    datasets, _ = ended.seal()
    failed.write("rows", table("b"))
    failed.seal()
    assert len(list((tmp_path / "rows").iterdir())) == 2
    last = Manifest.model_construct(datasets=datasets)
    RunOutput(stage(), tmp_path, last, lambda moment: None, lambda line: None).clear()
    assert [path.name for path in (tmp_path / "rows").iterdir()] == [Path(datasets["rows"].shards[0].path).name]
    opened(tmp_path).clear()
    assert list((tmp_path / "rows").iterdir()) == []
