"""A run on the disk: what its files say, and what is said of a file that says nothing."""

from pathlib import Path

import pytest

from pipeline.recipe import check
from pipeline.run import Run
from pipeline.stage import StageError

RECIPE = {
    "teacher": {"model": "anything", "engine": "openai"},
    "student": {"model": "anything"},
    "seed": {"sources": [{"kind": "file", "path": "a.jsonl"}]},
}


@pytest.mark.parametrize(
    ("name", "says"),
    [("latin", r"prompts/latin\.txt is not UTF-8 text: .*byte 0xe9"), ("gone", r"No prompt template .*Known: latin")],
)
def test_a_prompt_that_cannot_be_read_is_named_with_its_file(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "latin.txt").write_bytes(b"R\xe9solvez {problem}")
    with pytest.raises(StageError, match=says):
        Run(check(RECIPE, "mine", "mine"), data=tmp_path, root=tmp_path).prompt(name)
