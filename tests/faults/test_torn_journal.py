"""Some of the cuts and flips of tests/faults/torn_journal.py."""

from pathlib import Path

import pytest

from tests import traces
from tests.faults.torn_journal import Tally, cut, flip


def test_a_cut_journal_loses_its_torn_record_alone_and_a_later_writer_nothing(tmp_path: Path) -> None:
    tally = cut(tmp_path, list(traces.records(5, mean_tokens=1)), step=11)
    assert tally == Tally(tried=tally.tried)
    assert tally.tried > 100


@pytest.mark.parametrize("quietly", [False, True])
def test_a_flipped_bit_is_noticed_and_named_also_where_the_index_is_believed(quietly: bool, tmp_path: Path) -> None:
    tally = flip(tmp_path, list(traces.records(4, mean_tokens=1)), bits=2, seed=1, quietly=quietly)
    assert tally == Tally(tried=tally.tried)
    assert tally.tried > 2000
