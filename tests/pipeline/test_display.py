"""What a person sees of a running stage: what is left is told by the speed of what was done since it was counted."""

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from pipeline import display
from pipeline.run import State
from pipeline.stage import Progress


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Tells moments (seconds, done, total, unit) to a display; what it prints of each."""
    clock = [0.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(display, "PLAIN_INTERVAL_S", 0.0)

    def lines(*moments: tuple[float, int, int, str]) -> list[str]:
        page = StringIO()
        watcher = display.Display(Console(file=page, width=200)).watcher()
        watcher.starts("eval", State("absent", [], None, None))
        for seconds, done, total, unit in moments:
            clock[0] = seconds
            watcher.moves("eval", Progress(done, total, unit))
        return page.getvalue().splitlines()[1:]

    return lines


def test_a_second_count_is_not_timed_from_the_first_ones_start(told: Any) -> None:
    found = told(
        (300, 144, 288, "answers"), (600, 288, 288, "answers"), (601, 1, 288, "answers"), (602, 3, 288, "answers")
    )
    assert ["left" in line for line in found] == [False, True, False, True]
    assert found[-1].endswith("about 2 min left")


def test_what_was_done_before_took_no_time(told: Any) -> None:
    found = told((20, 900, 1000, "steps"), (60, 910, 1000, "steps"))
    assert "left" not in found[0]
    assert found[1].endswith("about 6 min left")


def test_the_start_of_an_engine_is_not_taken_for_the_speed_of_the_work(told: Any) -> None:
    found = told((0, 0, 1000, "labels"), (200, 0, 1000, "labels"), (210, 10, 1000, "labels"))
    assert found[-1].endswith("about 16 min left")
