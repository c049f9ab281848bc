from pathlib import Path

import pytest

from pipeline.manifest import (
    Change,
    Identity,
    Intent,
    explain,
    fingerprint,
    read_intent,
    read_manifest,
    write_durably,
    write_record,
)


def identity(**config: object) -> Identity:
    return Identity(version=1, config=config)


def test_explain_lists_dotted_keys_with_old_and_new_values() -> None:
    old = identity(samples=2, sampling={"temperature": 0.6, "top_p": 0.95})
    new = identity(samples=2, sampling={"temperature": 0.9, "top_p": 0.95}, max_tokens=64)
    assert explain(old, new) == [
        Change(key="config.sampling.temperature", old=0.6, new=0.9),
        Change(key="config.max_tokens", old=None, new=64),
    ]
    assert explain(old, old) == []


def test_explain_names_the_section_of_a_list_that_differs() -> None:
    old, new = (identity(sources=[{"task": "a", "count": 5}, {"task": "b", "count": n}], terms=[n]) for n in (6, 7))
    assert explain(old, new) == [
        Change(key="config.sources[1].count", old=6, new=7),
        Change(key="config.terms", old=[6], new=[7]),
    ]
    shorter = identity(sources=[{"task": "a", "count": 5}], terms=[6])
    assert [change.key for change in explain(old, shorter)] == ["config.sources[1].task", "config.sources[1].count"]


def test_a_role_of_which_a_stage_takes_no_key_decides_nothing() -> None:
    alone = {"teacher": {"prompt": "question"}}
    known, other = (Identity(version=1, config={}, roles=roles) for roles in ({**alone, "coder": {}}, alone))
    assert explain(known, other) == explain(other, known) == []
    assert known == other


def test_a_fingerprint_depends_on_values_and_not_on_the_order_of_keys() -> None:
    assert fingerprint(identity(a=1, b=2)) == fingerprint(identity(b=2, a=1))
    assert fingerprint(identity(a=1, b=2)) != fingerprint(identity(a=1, b=3))


def test_records_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
    intent = Intent(stage="seed", run="demo", identity=identity(a=[1, None, "ü"]), started="2026-01-01T00:00:00+00:00")
    write_record(tmp_path / "intent.json", intent)
    assert read_intent(tmp_path) == intent
    assert read_manifest(tmp_path) is None
    assert [path.name for path in tmp_path.iterdir()] == ["intent.json"]


def test_what_cannot_be_written_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    write_durably(tmp_path / "a.json", "old")
    with pytest.raises(UnicodeEncodeError):
        write_durably(tmp_path / "a.json", "half \ud83d")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.json", "old")]


def test_a_damaged_manifest_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"stage": "seed"')
    with pytest.raises(ValueError, match=r"cannot be read as a manifest.*Delete it"):
        read_manifest(tmp_path)
