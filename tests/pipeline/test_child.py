"""How a process of its own that did not end well is told of."""

import signal
from pathlib import Path

import pytest

from pipeline import child


def test_a_module_that_fails_is_told_by_its_last_line() -> None:
    assert child.failure("json.tool", "--help") is None
    why = child.failure("json.tool", Path("/nowhere.json"))
    assert why is not None
    assert str(why).startswith("exit code ")
    assert "/nowhere.json" in why.last


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (-signal.SIGKILL, "ended by SIGKILL, as the system does where memory runs out"),
        (-signal.SIGTERM, "ended by SIGTERM"),
        (1, "exit code 1: Loading weights: 100%"),
    ],
)
def test_a_signal_is_named_and_what_was_last_printed_is_no_cause(code: int, says: str) -> None:
    assert str(child.Failure(code, "Loading weights: 100%")) == says
