import os
import pkgutil
import threading
from pathlib import Path
from typing import Any

import pytest

from pipeline import journal
from pipeline.lock import Locked
from pipeline.records import content_id
from pipeline.store import Store, partition, writing
from tests.pipeline.disk import full_after, killed_writing

WEIGHTS = "weights-a"


def record(number: int, finish: str = "stop", tokens: int = 3, limit: int = 10, text: str = "") -> dict[str, Any]:
    """A record whose other keys stand in another order than the store's head."""
    raw = text or f'text {number}\nwith \u2028 lines, quotes " and \\boxed{{{number}}}'
    return {
        "raw": raw,
        "token_ids": [1, 2, number],
        "id": content_id(number),
        "limit": limit,
        "completion_tokens": tokens,
        "finish": finish,
    }


def fill(root: Path, *records: dict[str, Any]) -> Path:
    """Append records in one writing session; returns its journal."""
    with writing(root, WEIGHTS) as store:
        for each in records:
            store.append(each)
    return sorted(partition(root, WEIGHTS).glob("journal-*.log"))[-1]


def test_what_was_appended_is_found_by_id_at_once_and_later(tmp_path: Path) -> None:
    with writing(tmp_path, WEIGHTS) as store:
        for number in range(5):
            store.append(record(number))
            assert store.get(content_id(number)) == record(number)
    later = Store(tmp_path, WEIGHTS)
    assert sorted(later.ids()) == sorted(content_id(number) for number in range(5))
    assert len(later) == 5
    asked = [content_id(number) for number in (4, 0, 77, 2)]
    assert {row["id"] for row in later.rows(asked)} == {content_id(number) for number in (0, 2, 4)}
    assert later.get(content_id(77)) is None
    assert later.entry(content_id(77)) is None


def test_each_writer_has_a_journal_of_its_own_and_one_that_wrote_nothing_none(tmp_path: Path) -> None:
    journals = {fill(tmp_path, record(number)) for number in range(3)}
    fill(tmp_path)
    assert len(journals) == len(list(partition(tmp_path, WEIGHTS).glob("journal-*.log"))) == 3
    assert len(Store(tmp_path, WEIGHTS)) == 3


def test_weights_do_not_share_completions(tmp_path: Path) -> None:
    fill(tmp_path, record(1))
    assert Store(tmp_path, "weights-b").get(content_id(1)) is None


@pytest.mark.parametrize(
    ("records", "best"),
    [
        ([("stop", 3, 10), ("length", 10, 10)], 0),
        ([("length", 10, 10), ("stop", 3, 20)], 1),
        ([("error", 0, 10), ("length", 10, 10)], 1),
        ([("length", 10, 10), ("error", 0, 20)], 0),
        ([("length", 10, 10), ("length", 20, 20)], 1),
        ([("length", 7, 10), ("length", 7, 20)], 1),
        ([("stop", 3, 10), ("stop", 3, 10)], 0),
        ([("error", 0, 10), ("error", 0, 10)], 1),
        ([("error", 0, 20), ("error", 0, 10)], 1),
    ],
)
def test_of_several_records_of_an_id_the_best_counts(
    records: list[tuple[str, int, int]], best: int, tmp_path: Path
) -> None:
    made = [record(1, *values, text=f"answer {place}") for place, values in enumerate(records)]
    with writing(tmp_path, WEIGHTS) as store:
        for each in made:
            store.append(each)
        assert store.get(content_id(1)) == made[best]
    reopened = Store(tmp_path, WEIGHTS)
    assert reopened.get(content_id(1)) == made[best]
    assert reopened.entry(content_id(1)) == records[best]
    for each in made:
        fill(tmp_path / "apart", each)
    assert Store(tmp_path / "apart", WEIGHTS).get(content_id(1)) == made[best]


def test_the_mean_length_is_of_the_best_records_without_those_that_failed(tmp_path: Path) -> None:
    assert Store(tmp_path, WEIGHTS).mean_tokens() is None
    fill(tmp_path, record(1, "length", 4, 4), record(2, "error", 0), record(3, "stop", 9), record(4, "error", 0))
    fill(tmp_path, record(1, "length", 8, 8), record(4, "stop", 4))
    assert Store(tmp_path, WEIGHTS).mean_tokens() == (8 + 9 + 4) / 3


def test_a_closed_journals_index_says_what_reading_it_says(tmp_path: Path) -> None:
    fill(tmp_path, record(0), record(1))
    path = fill(tmp_path, record(1, "stop", 5), record(2, "length", 7), record(2, "error", 0), record(3))
    indexed, read = journal.heads(path), journal.read(path)
    assert (indexed.indexed, read.indexed, read.torn) == (True, False, False)
    assert bytes(indexed.packed) == bytes(read.packed)
    assert [journal.head_at(read.packed, row).tokens for row in range(4)] == [5, 7, 0, 3]


@pytest.mark.parametrize("place", ["pipeline.key_index.KeyIndex.add", "pipeline.journal.AppendFile.append"])
def test_a_record_whose_writing_was_interrupted_is_found_by_the_next_reader(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is whole in its journal, and the writer was interrupted before it knew where."""
    module, name = place.rsplit(".", 1)
    real = getattr(pkgutil.resolve_name(module), name)

    def interrupted(self: Any, content: bytes) -> Any:
        done = real(self, content)
        if content_id(1).encode() in content or bytes.fromhex(content_id(1)) in content:
            raise KeyboardInterrupt
        return done

    def write() -> None:
        with writing(tmp_path, WEIGHTS) as store:
            store.append(record(0))
            monkeypatch.setattr(place, interrupted)
            store.append(record(1))

    with pytest.raises(KeyboardInterrupt):
        write()
    monkeypatch.undo()
    assert Store(tmp_path, WEIGHTS).get(content_id(1)) == record(1)


def test_a_journal_cut_at_any_byte_of_its_last_record_loses_that_record_alone(tmp_path: Path) -> None:
    journal = fill(tmp_path, *(record(number) for number in range(3)))
    whole = journal.read_bytes()
    last = whole[:-1].rindex(b"\n") + 1
    for length in range(last, len(whole)):
        journal.write_bytes(whole[:length])
        store = Store(tmp_path, WEIGHTS)
        complete = length == len(whole) - 1  # only the newline is gone: nothing of the record is lost
        assert len(store) == 2 + complete
        assert store.torn == (0 if complete or length == last else 1)
        assert store.get(content_id(1)) == record(1)


def test_a_torn_tail_merges_with_nothing_that_is_appended_later(tmp_path: Path) -> None:
    journal = fill(tmp_path, record(0), record(1))
    journal.write_bytes(journal.read_bytes()[:-20])
    fill(tmp_path, record(1), record(2))
    store = Store(tmp_path, WEIGHTS)
    assert [store.get(content_id(number)) for number in range(3)] == [record(number) for number in range(3)]
    assert store.torn == 1


def test_any_flipped_bit_is_detected_and_named_and_deleting_its_line_mends_it(tmp_path: Path) -> None:
    journal = fill(tmp_path, *(record(number) for number in range(3)))
    whole = journal.read_bytes()
    first = whole.index(b"\n") + 1
    second = whole.index(b"\n", first) + 1
    for place in range(first, second):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            journal.write_bytes(bytes(flipped))
            with pytest.raises(ValueError, match="does not match its checksum") as caught:
                Store(tmp_path, WEIGHTS)
            assert f"{journal}, line 2," in str(caught.value)
    journal.write_bytes(whole[:first] + whole[second:])
    assert set(Store(tmp_path, WEIGHTS).ids()) == {content_id(0), content_id(2)}


def test_a_bit_flipped_in_the_last_line_is_no_torn_tail(tmp_path: Path) -> None:
    journal = fill(tmp_path, record(0))
    damaged = bytearray(journal.read_bytes())
    damaged[-5] ^= 1
    journal.write_bytes(bytes(damaged))
    with pytest.raises(ValueError, match="line 1"):
        Store(tmp_path, WEIGHTS)


def test_a_bit_flipped_after_the_store_was_opened_is_seen_by_the_reader(tmp_path: Path) -> None:
    journal = fill(tmp_path, record(0))
    store = Store(tmp_path, WEIGHTS)
    damaged = bytearray(journal.read_bytes())
    damaged[-5] ^= 1
    journal.write_bytes(bytes(damaged))
    with pytest.raises(ValueError, match="does not match its checksum"):
        store.get(content_id(0))


def test_a_second_writer_is_told_who_holds_the_store(tmp_path: Path) -> None:
    with writing(tmp_path, WEIGHTS), pytest.raises(Locked, match=f"process {os.getpid()} on host"):
        fill(tmp_path, record(1))
    fill(tmp_path, record(1))


def test_readers_need_no_lock(tmp_path: Path) -> None:
    with writing(tmp_path, WEIGHTS) as store:
        store.append(record(1))
        assert Store(tmp_path, WEIGHTS).get(content_id(1)) == record(1)


def test_one_who_read_before_it_appends_misses_nothing_that_another_wrote_meanwhile(tmp_path: Path) -> None:
    fill(tmp_path, record(0))
    store = Store(tmp_path, WEIGHTS)
    fill(tmp_path, record(1))
    assert store.get(content_id(1)) is None
    with store.appending(), store.appending():
        assert store.get(content_id(1)) == record(1)
        store.append(record(2))
    assert len(store) == 3
    with pytest.raises(RuntimeError, match="open for reading"):
        store.append(record(3))
    with store.appending():
        store.append(record(3))
    assert len(store) == len(Store(tmp_path, WEIGHTS)) == 4


def test_a_reader_cannot_append(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"within its appending\(\)"):
        Store(tmp_path, WEIGHTS).append(record(1))


@pytest.mark.parametrize("change", [{"id": "short"}, {"finish": "cut"}, {"completion_tokens": -1}, {"limit": None}])
def test_a_record_without_a_proper_head_is_refused_and_leaves_no_trace(change: dict[str, Any], tmp_path: Path) -> None:
    with writing(tmp_path, WEIGHTS) as store, pytest.raises(ValueError, match="a record needs"):
        store.append({**record(1), **change})
    assert len(Store(tmp_path, WEIGHTS)) == 0


def append_three(store: Store) -> None:
    for number in range(3):
        store.append(record(number))


def test_what_was_appended_before_a_sigkill_is_there_afterwards(tmp_path: Path) -> None:
    killed_writing(tmp_path, WEIGHTS, append_three)
    store = Store(tmp_path, WEIGHTS)
    assert [store.get(content_id(number)) for number in range(3)] == [record(number) for number in range(3)]


def test_a_record_is_synced_though_none_follows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = threading.Event()
    real = os.fsync
    monkeypatch.setattr("pipeline.journal.SYNC_S", 0.01)
    monkeypatch.setattr("pipeline.journal.os.fsync", lambda handle: (real(handle), synced.set()))
    with writing(tmp_path, WEIGHTS) as store:
        store.append(record(1))
        synced.clear()  # the folder's own sync came first
        assert synced.wait(30)


@pytest.mark.parametrize("failing", ["write", "fsync"])
def test_a_disk_that_refuses_is_one_clear_error_and_what_came_before_stays(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    fill(tmp_path, record(0))
    monkeypatch.setattr(f"pipeline.journal.os.{failing}", refuse)
    with pytest.raises(ValueError, match=r"No space left on device.*run again"):
        fill(tmp_path, record(1))
    monkeypatch.undo()
    assert Store(tmp_path, WEIGHTS).get(content_id(0)) == record(0)
    fill(tmp_path, record(2))


def test_a_write_cut_short_by_a_full_disk_is_a_torn_tail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full_after(1000, monkeypatch)  # room for a whole record and a part of the next
    with pytest.raises(ValueError, match="No space left"):
        fill(tmp_path, record(0, text="a" * 600), record(1, text="b" * 600), record(2))
    monkeypatch.undo()
    store = Store(tmp_path, WEIGHTS)
    assert (set(store.ids()), store.torn) == ({content_id(0)}, 1)
