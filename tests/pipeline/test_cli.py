"""What the command line prints is whole, however narrow the terminal."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline import cli
from pipeline.models import read_catalogue
from pipeline.run import ROOT


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


def test_a_narrow_status_cuts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = str(ROOT / "pipeline" / "recipes" / "demo.yaml")
    assert "…" not in printed(30, monkeypatch, "status", recipe, "--data", str(tmp_path))
