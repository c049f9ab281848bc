"""What the command line prints can be read, however narrow the terminal, and an interruption ends it."""

import signal
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline import cli
from pipeline.models import read_catalogue
from pipeline.plan import ORDER
from pipeline.run import ROOT
from tests import small


def printed(columns: int, monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """What a command prints on a terminal of so many columns."""
    monkeypatch.setattr(cli.out, "_width", columns)
    answer = CliRunner().invoke(cli.app, words)
    assert answer.exit_code == 0
    return answer.output


@pytest.mark.parametrize("columns", [10, 60, 200])
def test_every_listed_model_can_be_copied_by_name(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    said = printed(columns, monkeypatch, "models", "list").split()
    assert set(read_catalogue(ROOT)) <= set(said)


@pytest.mark.parametrize("columns", [40, 200])
def test_status_is_a_line_per_stage_that_names_it_and_its_state(
    columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = str(small.write(tmp_path))
    ran = CliRunner().invoke(cli.app, ["run", recipe, "--to", "verify", "--data", str(tmp_path)])
    assert ran.exit_code == 0, ran.output
    title, *lines = printed(columns, monkeypatch, "status", recipe, "--data", str(tmp_path)).splitlines()
    assert title.startswith("run ")
    assert [line.split()[0] for line in lines] == list(ORDER)
    assert {line.split()[1] for line in lines} == {"fresh", "absent"}
    assert all(len(line) <= columns for line in lines)


class Thing:
    """Something that a weak reference can be of."""


@pytest.fixture
def handled(request: pytest.FixtureRequest) -> Iterator[None]:
    """SIGINT is handled so, whatever started the tests."""
    before = signal.signal(signal.SIGINT, request.param)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("name", "handled"),
    [
        ("SIGINT", signal.default_int_handler),
        ("SIGTERM", signal.default_int_handler),
        ("SIGTERM", signal.SIG_IGN),  # as in what a shell's script begins with &
    ],
    indirect=["handled"],
)
@pytest.mark.usefixtures("handled")
def test_an_interruption_that_python_drops_comes_again(name: str) -> None:
    things = [Thing()]
    watched = weakref.ref(things[0], lambda _: signal.raise_signal(getattr(signal, name)))

    def drop_and_wait() -> None:
        things.clear()  # what the callback raises is dropped
        time.sleep(60)

    with cli._terminable(), pytest.raises(KeyboardInterrupt):
        drop_and_wait()
    assert watched() is None
