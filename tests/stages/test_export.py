"""The export stage: a folder for each format, and what each weighs."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline import quantisation
from pipeline.stage import StageError
from stages import export
from tests.desk import DeskInputs, DeskOutput


@pytest.fixture
def inputs(tmp_path: Path) -> DeskInputs:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text('{"dtype": "bfloat16"}')
    (folder / "model.safetensors").write_bytes(b"x" * 5000)
    return DeskInputs(tmp_path, folders={"checkpoint": folder})


def test_every_format_gets_a_folder_and_its_size_is_told(
    tmp_path: Path, inputs: DeskInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = quantisation.write

    def stub(source: Path, dest: Path, form: str) -> None:
        real(source, dest, "bfloat16")
        if form != "bfloat16":
            (dest / "model.safetensors").unlink()
            (dest / "model.safetensors").write_bytes(b"x" * {"int8": 3000, "int4": 2000}[form])

    monkeypatch.setattr(quantisation, "write", stub)
    output = DeskOutput(tmp_path)
    export.run(export.Config(weights=("bfloat16", "int8", "int4")), inputs, output)
    assert output.facts == {
        "checkpoint_bytes": 5000,
        "weight_bytes": {"bfloat16": 5000, "int8": 3000, "int4": 2000},
    }
    models = output.folder / "models"
    assert sorted(path.name for path in models.iterdir()) == ["bfloat16", "int4", "int8"]
    assert len(output.lines) == 3


def test_a_format_that_cannot_be_written_is_an_error_of_the_stage(
    tmp_path: Path, inputs: DeskInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise quantisation.QuantisationError("q_proj is odd")

    monkeypatch.setattr(quantisation, "write", refuse)
    with pytest.raises(StageError, match="q_proj is odd"):
        export.run(export.Config(weights=("int8",)), inputs, DeskOutput(tmp_path))


@pytest.mark.parametrize("weights", [(), ("int8", "int8"), ("int2",)])
def test_formats_are_named_each_once(weights: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError):
        export.Config(weights=weights)
