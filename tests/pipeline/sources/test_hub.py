"""Hub sets: a folder in the Hub's layout is read as one; what cannot be loaded is one clear error."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.digests import Digests
from pipeline.sources import HubSource, SourceError
from pipeline.sources.hub import candidates, digest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def source(name: Path | str, **values: Any) -> HubSource:
    return HubSource.model_validate({"kind": "hub", "name": str(name), "revision": COMMIT, **values})


def test_rows_become_candidates(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    rows = [{"question": "1 + 1?", "answer": "2"}, {"question": "2 + 2?", "answer": ""}]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    values = {"hub_split": "test", "split": "eval", "columns": {"text": "question"}, "defaults": {"license": "MIT"}}
    found = list(candidates(source(folder, **values), tmp_path))
    assert [(row.text, row.answer, row.split, row.license, row.place, row.fault) for row in found] == [
        ("1 + 1?", "2", "eval", "MIT", "row 1", None),
        ("2 + 2?", "", "eval", "MIT", "row 2", "answer_missing"),
    ]
    assert found[0].source == f"{folder}@0123456789ab"
    with pytest.raises(SourceError, match="there is no column 'text'"):
        list(candidates(source(folder, hub_split="test"), tmp_path))


def test_a_set_that_cannot_be_loaded_is_one_error_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nobody/nothing .* cannot be loaded: .*or download it elsewhere"):
        list(candidates(source("nobody/nothing"), tmp_path))


@pytest.mark.parametrize(
    ("revision", "found"),
    [("", "no revision"), ("main", "the revision 'main', which is no commit"), (COMMIT[:16], "is no commit")],
)
def test_a_commit_is_asked_for(revision: str, found: str) -> None:
    with pytest.raises(ValidationError, match=rf"has .*{found}.*; give the commit"):
        source("nobody/nothing", revision=revision)


def test_the_content_of_a_local_set_is_identity_and_its_place_is_not(tmp_path: Path) -> None:
    known = Digests(tmp_path / "digests.json")
    for name, text in (("one", "a"), ("two", "a"), ("three", "b")):
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "data" / "test.jsonl").write_text(text)
    one, two, three = (digest(source(tmp_path / name), tmp_path, known) for name in ("one", "two", "three"))
    assert one == two != three
    assert digest(source(tmp_path / "gone"), tmp_path, known) == "missing"
    assert digest(source("nobody/nothing"), tmp_path, known) is None
