import random

import pytest

from pipeline import key_index
from pipeline.key_index import KEY_BYTES, SLOTS, KeyIndex

VALUE_BYTES = 3


def content_key(number: int) -> bytes:
    return random.Random(number).randbytes(KEY_BYTES)


def crowded_key(number: int) -> bytes:
    """One of many keys whose first halves, and so their slots, are the same two; the one is the table's last slot."""
    return (b"\xff" if number % 2 else b"\x00") * 8 + number.to_bytes(8, "big")


def held_by(index: KeyIndex) -> dict[bytes, bytes]:
    """Each key with the value of the record it stands for."""
    width = KEY_BYTES + VALUE_BYTES
    rows = {key: index.find(key) for key in index}
    return {key: bytes(index.records[row * width + KEY_BYTES : (row + 1) * width]) for key, row in rows.items()}


@pytest.mark.parametrize("key_of", [content_key, crowded_key])
@pytest.mark.parametrize("seed", range(4))
def test_it_says_what_a_dict_says_whatever_is_done_to_both(key_of: object, seed: int) -> None:
    assert callable(key_of)
    draw = random.Random(seed)
    keys = [key_of(number) for number in range(300 if key_of is crowded_key else 4000)]
    index, model, rows = KeyIndex(KEY_BYTES + VALUE_BYTES), dict[bytes, bytes](), 0
    for _ in range(600):
        deed = draw.choice(("add", "replace", "extend", "look"))
        key, value = draw.choice(keys), draw.randbytes(VALUE_BYTES)
        if deed == "add":
            assert index.add(key + value) == (key not in model)
            rows += key not in model
            model.setdefault(key, value)
        elif deed == "replace" and key in model:
            index.point(index.append(key + value))
            rows += 1
            model[key] = value
        elif deed == "extend":
            some = [(draw.choice(keys), draw.randbytes(VALUE_BYTES)) for _ in range(draw.randrange(60))]
            others = index.extend(b"".join(key + value for key, value in some))
            again = []
            for row, (each, new) in enumerate(some, start=rows):
                again += [row] if each in model else []
                model.setdefault(each, new)
            assert others == again
            rows += len(some)
        assert (key in index) == (key in model) == (index.find(key) >= 0)
        assert (len(index), index.rows) == (len(model), rows)
    assert held_by(index) == model
    assert index.standing().tolist() == sorted(index.find(key) for key in model)
    assert all(index.find(key) == -1 for key in keys if key not in model)


@pytest.mark.parametrize("count", [0, 1, SLOTS, 3 * key_index.ROWS])
def test_many_added_at_once_and_one_by_one_are_found_alike_and_absent_ones_by_neither(count: int) -> None:
    keys = [content_key(number) for number in range(count)]
    single, together = KeyIndex(), KeyIndex()
    assert all(single.add(key) for key in keys)
    assert together.extend(b"".join(keys)) == []
    assert list(single) == list(together) == keys
    absent = [content_key(count + number) for number in range(1000)]
    for index in (single, together):
        assert [index.find(key) for key in keys] == list(range(count))
        assert not any(key in index for key in absent)
        assert index.extend(b"".join(keys)) == list(range(count, 2 * count))


def test_a_key_that_shares_one_half_with_another_is_another_one() -> None:
    key = content_key(1)
    index = KeyIndex()
    index.add(key)
    for other in (key[:8] + content_key(2)[8:], content_key(2)[:8] + key[8:]):
        assert other not in index
        assert index.extend(other) == []
    assert len(index) == 3


def test_a_key_takes_its_record_and_at_most_twelve_bytes_once_there_are_many() -> None:
    index = KeyIndex()
    for number in range(20_000):
        index.add(content_key(number))
        slots = index._slots
        assert 3 * len(index) <= 2 * len(slots)
        assert len(slots) == SLOTS or len(slots) * slots.itemsize <= 12 * len(index)
    assert len(index.records) == 20_000 * KEY_BYTES


def test_what_was_handed_out_does_not_keep_it_from_growing() -> None:
    index = KeyIndex()
    index.extend(b"".join(content_key(number) for number in range(10)))
    standing, keys = index.standing(), iter(index)
    for number in range(10, 10 * SLOTS):
        index.add(content_key(number))
    assert standing.tolist() == list(range(10))
    assert list(keys) == [content_key(number) for number in range(10)]


def test_what_has_not_the_width_of_a_key_or_a_record_is_refused_and_nothing_is_kept_of_it() -> None:
    index = KeyIndex(KEY_BYTES + VALUE_BYTES)
    index.add(content_key(1) + b"abc")
    for width in (0, KEY_BYTES - 1, KEY_BYTES + 1):
        with pytest.raises(ValueError, match=f"a key has 16 bytes; found {width}"):
            index.find(bytes(width))
    for record in (content_key(2), content_key(2) + b"abcd"):
        with pytest.raises(ValueError, match=f"has 19 bytes; found {len(record)}"):
            index.add(record)
        with pytest.raises(ValueError, match=f"have 19 bytes each; found {len(record)}"):
            index.extend(record)
    assert (len(index), index.rows, len(index.records)) == (1, 1, 19)
