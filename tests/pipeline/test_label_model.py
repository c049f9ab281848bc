import numpy as np
import pytest

from pipeline.label_model import (
    PLACES,
    SPECIAL,
    code_bit,
    code_number,
    code_plain,
    code_signed,
    code_wide,
    reader,
    writer,
    written,
)

ODDS = 5 * PLACES


def test_numbers_of_any_size_come_back_in_the_order_they_were_given() -> None:
    draw = np.random.default_rng(1)
    given = [int(value) >> int(width) for value, width in draw.integers(0, (2**31, 31), (2000, 2))] + [0, 2**31 - 1]
    into = writer(100_000, ODDS)
    for value in given:
        code_number(into, 0, PLACES, value)
        code_bit(into, 2 * PLACES, 2 * PLACES, value & 1)
        code_plain(into, 31, value)
        code_wide(into, 4 * PLACES, PLACES, value)
        code_signed(into, 3 * PLACES, value // 2 if value & 1 else -(value // 2))
    back = reader(written(into), ODDS)
    for value in given:
        assert code_number(back, 0, PLACES, 0) == value
        assert code_bit(back, 2 * PLACES, 2 * PLACES, 0) == value & 1
        assert code_plain(back, 31, 0) == value
        assert code_wide(back, 4 * PLACES, PLACES, 0) == value
        assert code_signed(back, 3 * PLACES, 0) == (value // 2 if value & 1 else -(value // 2))


def test_the_special_number_is_none_of_the_others() -> None:
    given = [0, SPECIAL, 1022, SPECIAL, 5, 511]
    into = writer(1000, ODDS)
    for value in given:
        code_number(into, 0, 0, value, True)
    back = reader(written(into), ODDS)
    assert [code_number(back, 0, 0, 0, True) for _ in given] == given


@pytest.mark.parametrize(("share", "limit"), [(0.5, 1.03), (0.1, 0.50), (0.01, 0.11)])
def test_a_bit_takes_about_as_much_room_as_it_says(share: float, limit: float) -> None:
    """The entropies are 1, 0.469 and 0.081 bits."""
    bits = np.random.default_rng(2).random(8000) < share
    into = writer(8000, 1)
    for bit in bits:
        code_bit(into, 0, 0, int(bit))
    assert len(written(into)) * 8 < limit * len(bits)


def test_nothing_takes_no_bytes() -> None:
    assert written(writer(10, 1)) == b""
