"""What a person sees of a running stage: what is left is told by the speed of what was done since it was counted."""

import threading
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from pipeline import display
from pipeline.run import State
from pipeline.stage import Progress
from tests import synthetic


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


def test_a_stage_that_tells_nothing_for_long_is_said_to_run_still(monkeypatch: pytest.MonkeyPatch) -> None:
    page, said = StringIO(), threading.Event()
    monkeypatch.setattr(display, "SILENCE_S", 0.02)
    console = Console(file=page, width=200)
    real = console.print

    def told(*given: Any) -> None:
        real(*given)
        if "after" in str(given[0]):
            said.set()

    monkeypatch.setattr(console, "print", told)
    state = State("absent", [], None, None)
    with display.Display(console) as shown:
        watcher = shown.watcher()
        watcher.starts("sft", state)
        assert said.wait(30)
        said.clear()
        watcher.moves("sft", Progress(0, 9, "steps", "warming up"))
        assert said.wait(30)
        watcher.ends("sft", synthetic.manifest("sft"), True)
    lines = page.getvalue().splitlines()
    assert lines[1] == "  sft: running  (after 0 min)"
    assert "  sft: 0 of 9 steps  (after 0 min)" in lines
    assert "after" not in lines[-1]


def test_a_reader_that_has_gone_ends_the_run_though_the_other_thread_saw_it_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    console, seen = Console(file=StringIO()), threading.Event()
    monkeypatch.setattr(display, "SILENCE_S", 0.02)

    def broken(line: str) -> None:
        if "after" in line:
            seen.set()
            raise SystemExit(1)

    shown = display.Display(console)
    with shown:
        watcher = shown.watcher()
        watcher.starts("sft", State("absent", [], None, None))
        monkeypatch.setattr(console, "print", broken)
        assert seen.wait(30)
        shown._beat.join(30)
        with pytest.raises(SystemExit):
            watcher.says("sft", "a line")
        with pytest.raises(SystemExit):
            shown.__exit__(None, None, None)
        shown._failure = None
