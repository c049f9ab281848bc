"""What the README shows can be typed: its recipes are valid, its commands, targets and scripts exist. Figures are not
checked here."""

import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from pipeline import recipe
from pipeline.cli import app

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
RECIPES = [text for kind, text in BLOCKS if kind == "yaml"]
LINES = [line.partition("#")[0] for kind, text in BLOCKS if not kind for line in text.splitlines()]
TYPED = [*LINES, *re.findall(r"`([^`\n]+)`", README)]


@pytest.mark.parametrize("number", range(len(RECIPES)))
def test_a_recipe_of_the_readme_is_valid_with_the_models_and_problems_that_it_leaves_out(
    number: int, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPES[number], encoding="utf-8")
    said = yaml.safe_load(RECIPES[number])
    rest = {
        "teacher.model=large": "model" not in said.get("teacher", {}),
        "student.model=small": not {"model", "from"} & set(said.get("student", {})),
        "seed.sources=[{kind: file, path: problems.jsonl}]": "sources" not in said.get("seed", {}),
    }
    assert recipe.doubts(recipe.load(path, [setting for setting, lacking in rest.items() if lacking])) == []


def test_its_commands_have_the_options_it_shows() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    shown = [line.partition(" -- ")[0].split()[1:] for line in TYPED if line.startswith("seqdistill ")]
    assert len(shown) > 10
    for name, *words in shown:
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= known, f"{name} has {known}"


def test_its_targets_are_in_the_makefile() -> None:
    known = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {found[1] for line in TYPED if (found := re.match(r"make ([a-z]+)", line))} <= known


def test_its_figures_name_scripts_that_are_there() -> None:
    table = README.partition("## How fast")[2]
    named = set(re.findall(r"\| `([a-z_]+)[^`|]*` \|$", table, re.MULTILINE))
    scripts = {path.stem for folder in ("bench", "faults") for path in (ROOT / "tests" / folder).glob("*.py")}
    assert "generate_throughput" in named
    assert named <= scripts
