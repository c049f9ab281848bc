from pathlib import Path

import pytest

from pipeline import soft_labels
from pipeline.label_journal import Labels
from pipeline.records import content_id
from pipeline.store import Store, partition, writing
from tests.pipeline.disk import full_after, killed_writing
from tests.pipeline.labels import made_up

WEIGHTS = "weights"


def labels(number: int, k: int = 3, tokens: int = 4) -> bytes:
    return soft_labels.pack(made_up(tokens, k, 100, seed=number))


def hash_of(packed: bytes) -> bytes:
    return soft_labels.head(packed).token_hash


def fill(root: Path, *numbers: int) -> Path:
    """Append labels in one writing session; returns their journal."""
    with writing(root, WEIGHTS) as store:
        for number in numbers:
            store.labels.append(content_id(number), labels(number))
    return sorted(partition(root, WEIGHTS).glob("labels-*.log"))[-1]


def found(root: Path, number: int) -> bytes | None:
    return Store(root, WEIGHTS).labels.get(content_id(number), hash_of(labels(number)))


def test_labels_are_found_by_id_and_tokens_at_once_and_later(tmp_path: Path) -> None:
    with writing(tmp_path, WEIGHTS) as store:
        for number in range(4):
            store.labels.append(content_id(number), labels(number))
            assert store.labels.get(content_id(number), hash_of(labels(number))) == labels(number)
    fill(tmp_path, 7)
    assert [found(tmp_path, number) for number in (0, 3, 7, 5)] == [labels(0), labels(3), labels(7), None]


def test_labels_of_other_tokens_are_no_labels_of_a_completion(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    store = Store(tmp_path, WEIGHTS)
    assert store.labels.get(content_id(1), hash_of(labels(2))) is None
    assert store.labels.k(content_id(1), hash_of(labels(2))) == 0
    assert store.labels.k(content_id(2), hash_of(labels(1))) == 0


@pytest.mark.parametrize("order", [(2, 5), (5, 2)])
def test_of_several_labels_of_a_completion_those_with_the_most_candidates_count(
    order: tuple[int, int], tmp_path: Path
) -> None:
    given = made_up(4, 5, 100)
    made = {
        5: soft_labels.pack(given),
        2: soft_labels.pack(
            soft_labels.SoftLabels(
                given.sampled, given.sampled_logprobs, given.ids[:, :2], given.logprobs[:, :2], given.tail
            )
        ),
    }
    with writing(tmp_path, WEIGHTS) as store:
        for k in order:
            store.labels.append(content_id(1), made[k])
        assert store.labels.k(content_id(1), hash_of(made[2])) == 5
    assert Store(tmp_path, WEIGHTS).labels.get(content_id(1), hash_of(made[2])) == made[5]


def test_a_writer_without_labels_leaves_no_file(tmp_path: Path) -> None:
    with writing(tmp_path, WEIGHTS):
        pass
    assert list(partition(tmp_path, WEIGHTS).glob("labels-*")) == []


def test_a_reader_cannot_append_and_neither_can_one_whose_store_is_closed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="within their store"):
        Labels(tmp_path).append(content_id(1), labels(1))
    with writing(tmp_path, WEIGHTS) as store:
        pass
    with pytest.raises(RuntimeError, match="within their store"):
        store.labels.append(content_id(1), labels(1))


def test_a_journal_cut_at_any_byte_of_its_last_labels_loses_those_alone(tmp_path: Path) -> None:
    journal = fill(tmp_path, 0, 1, 2)
    whole = journal.read_bytes()
    start = whole.rindex(b"SDL2")
    for length in range(start, len(whole)):
        journal.write_bytes(whole[:length])
        store = Store(tmp_path, WEIGHTS)
        assert [store.labels.get(content_id(n), hash_of(labels(n))) for n in range(3)] == [labels(0), labels(1), None]
        assert store.labels.torn == (length > start)


def test_labels_appended_after_a_torn_tail_are_whole(tmp_path: Path) -> None:
    journal = fill(tmp_path, 0, 1)
    journal.write_bytes(journal.read_bytes()[:-5])
    fill(tmp_path, 1, 2)
    assert [found(tmp_path, number) for number in range(3)] == [labels(number) for number in range(3)]


def test_any_flipped_bit_is_noticed_and_named(tmp_path: Path) -> None:
    journal = fill(tmp_path, 0, 1, 2)
    whole = journal.read_bytes()
    first, second = whole.index(b"SDL2", 1), whole.rindex(b"SDL2")
    for place in range(first, second):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            journal.write_bytes(bytes(flipped))
            with pytest.raises(ValueError, match="do not match their checksum") as caught:
                [found(tmp_path, number) for number in range(3)]
            assert f"{journal}, byte {first}" in str(caught.value) or f"{journal}, byte {first + 28}" in str(
                caught.value
            )
    journal.unlink()
    assert found(tmp_path, 0) is None


def test_a_journal_of_an_earlier_format_is_named_with_the_fix(tmp_path: Path) -> None:
    journal = fill(tmp_path, 0)
    journal.write_bytes(journal.read_bytes().replace(b"SDL2", b"SDL1"))
    with pytest.raises(ValueError, match=f"{journal} holds soft labels in format SDL1.*Delete the file.*scored again"):
        found(tmp_path, 0)


def append_three(store: Store) -> None:
    for number in range(3):
        store.labels.append(content_id(number), labels(number))


def test_labels_appended_before_a_sigkill_are_there_afterwards(tmp_path: Path) -> None:
    killed_writing(tmp_path, WEIGHTS, append_three)
    assert [found(tmp_path, number) for number in range(3)] == [labels(number) for number in range(3)]


def test_a_write_cut_short_by_a_full_disk_is_a_torn_tail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = soft_labels.pack(made_up(99, 9, 300))
    full_after(len(labels(0)) + 400, monkeypatch)  # room for the lock, labels, and a part of others

    def full() -> None:
        with writing(tmp_path, WEIGHTS) as store:
            store.labels.append(content_id(0), labels(0))
            store.labels.append(content_id(1), large)

    with pytest.raises(ValueError, match=r"No space left.*run again"):
        full()
    monkeypatch.undo()
    assert found(tmp_path, 0) == labels(0)
    assert Store(tmp_path, WEIGHTS).labels.get(content_id(1), hash_of(large)) is None
