"""A few of the kills of tests/faults/kill_generate.py."""

from pathlib import Path

from tests.faults.kill_generate import Tally, killed, rows


def test_killed_at_random_moments_it_ends_with_the_rows_of_an_unbroken_run(tmp_path: Path) -> None:
    tally = killed(tmp_path, problems=150, kills=6, seed=7)
    assert tally == Tally(kills=tally.kills, said=tally.said, torn=tally.torn)
    assert tally.kills >= 3
    assert tally.said > 0
    assert len(rows(tmp_path / "broken", 150)) == 450
