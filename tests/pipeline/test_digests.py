"""The memory of digests: it saves reading a file again, and fails nothing where it cannot be kept."""

import os
from pathlib import Path

import pytest

from pipeline import digests
from pipeline.digests import Digests, sha256


def settled(path: Path, content: bytes) -> Path:
    """A file that was not changed just now."""
    path.write_bytes(content)
    os.utime(path, (1, 1))
    return path


def test_a_memory_that_cannot_be_kept_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = settled(tmp_path / "a", b"content")
    (tmp_path / "file").write_text("no folder")
    assert Digests(tmp_path / "file" / "digests.json").of(path) == sha256(path)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(digests, "write_durably", refuse)
    assert Digests(tmp_path / "digests.json").of(path) == sha256(path)


@pytest.mark.parametrize("damage", [lambda file: file.write_text("{"), lambda file: file.mkdir()])
def test_a_memory_that_cannot_be_read_costs_only_time(tmp_path: Path, damage: object) -> None:
    damage(tmp_path / "digests.json")  # type: ignore[operator]
    path = settled(tmp_path / "a", b"content")
    assert Digests(tmp_path / "digests.json").of(path) == sha256(path)
