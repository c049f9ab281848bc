"""The sft stage with soft labels, on a tiny Llama: from stored labels to a checkpoint, and when it refuses."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from pipeline.roles import Student, Teacher
from pipeline.section import declared
from pipeline.stage import StageError
from stages import sft
from tests import labelled, tiny
from tests.desk import DeskInputs, DeskOutput, interrupted_at_save
from tests.labelled import Labelled

FAST: dict[str, Any] = {
    "batch_tokens": 512,
    "learning_rate": 1e-2,
    "epochs": 2,
    "compute_dtype": "float32",
    "exec": {"threads": 1},
}


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def certain(tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    """Traces whose labels give all mass to what was written: soft and hard targets are the same."""
    return labelled.make(tmp_path_factory.mktemp("certain"), tiny.tokenizer(), 16, validation=4, certain=True)


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    return labelled.make(tmp_path_factory.mktemp("spread"), tiny.tokenizer(), 16, validation=4)


def desk(folder: Path, student: Path, made: Labelled, **changes: Any) -> tuple[DeskInputs, DeskOutput]:
    tables = {
        "examples": made.examples,
        "layouts": [{key: row[key] for key in ("id", "spans", "teacher")} for row in made.examples],
        "labels": made.labels,
        "traces": made.traces,
    }
    inputs = DeskInputs(
        folder,
        {name: pa.Table.from_pylist(rows) for name, rows in (tables | changes).items()},
        student=Student(model=str(student)),
        teacher=Teacher(model="teacher"),
        models={"student": student},
    )
    inputs.store = made.store
    return inputs, DeskOutput(folder)


def trained(folder: Path, student: Path, made: Labelled, **values: Any) -> DeskOutput:
    inputs, output = desk(folder, student, made)
    sft.run(sft.Config(**(FAST | values)), inputs, output)
    return output


def test_labels_that_say_what_the_tokens_say_train_as_the_tokens_do(
    tmp_path: Path, student: Path, certain: Labelled
) -> None:
    hard = trained(tmp_path / "hard", student, certain)
    values = {"alpha": 0.7, "hard_share": 0.25}
    soft = trained(tmp_path / "soft", student, certain, objective="soft_labels", soft_labels=values)
    for key in ("loss", "eval_loss"):
        ours, theirs = ([value for _, value in output.facts[key]] for output in (soft, hard))
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert hard.facts["loss"][-1][1] < hard.facts["loss"][0][1] - 1
    figures = soft.facts["soft_labels"]
    assert 0.5 < figures["covered_share"] < 1
    assert figures["candidates_mass"] == pytest.approx(1.0)
    assert any(
        f"soft labels: {figures['covered_share']:.1%} of {figures['tokens']} tokens" in line for line in soft.lines
    )
    assert hard.facts["loss_figures"] == {}
    steps = soft.facts["loss_figures"]  # of the first quarter there is no divergence
    assert [value for _, value in steps["cross_entropy"]] == pytest.approx([value for _, value in soft.facts["loss"]])
    assert [step for step, _ in steps["divergence"]] == [step for step, _ in soft.facts["loss"]][
        -len(steps["divergence"]) :
    ]
    assert 0 < len(steps["divergence"]) < len(steps["cross_entropy"])
    told = soft.facts["eval_figures"]
    assert set(told) == {"cross_entropy", "divergence"}
    assert [value for _, value in told["cross_entropy"]] == pytest.approx(
        [value for _, value in soft.facts["eval_loss"]]
    )


def test_a_training_on_a_schedule_that_was_cut_off_goes_on_as_if_it_had_not_been(
    tmp_path: Path, student: Path, spread: Labelled, monkeypatch: pytest.MonkeyPatch
) -> None:
    values: dict[str, Any] = {
        "objective": "soft_labels",
        "soft_labels": {
            "alpha": {"start": 1.0, "end": 0.2, "shape": "cosine"},
            "temperature": {"start": 4.0, "end": 1.0},
            "hard_share": 0.3,
        },
    }
    whole = trained(tmp_path / "whole", student, spread, **values)
    with interrupted_at_save():
        trained(tmp_path / "cut", student, spread, **values)
    monkeypatch.setattr(sft.pairing, "align", lambda *_: pytest.fail("aligned again"))
    # What decides no step may change.
    values["soft_labels"]["max_unlabelled_share"] = 0.1
    again = trained(tmp_path / "cut", student, spread, **values, wild_loss_factor=9.0)
    assert 0 < again.facts["resumed_at_step"] < again.facts["steps"]
    assert again.facts["loss"] == whole.facts["loss"]
    divergence = [value for _, value in whole.facts["eval_figures"]["divergence"]]
    assert divergence[-1] > 0
    monkeypatch.undo()
    packed = trained(tmp_path / "packed", student, spread, **values, exec={"threads": 1, "layout": "packed"})
    ours, theirs = ([value for _, value in output.facts["loss"]] for output in (packed, whole))
    assert ours == pytest.approx(theirs, rel=1e-3)  # the same examples in one row


def test_traces_without_labels_are_refused_with_the_fix_unless_they_may_lack_them(
    tmp_path: Path, student: Path, spread: Labelled
) -> None:
    inputs, output = desk(tmp_path, student, spread, labels=spread.labels[2:])
    with pytest.raises(StageError, match=r"2 of 20 traces .* have no soft labels.*Set generate.logprobs"):
        sft.run(sft.Config(**FAST, objective="soft_labels"), inputs, output)
    del inputs._tables["labels"]  # written before there were labels
    with pytest.raises(StageError, match="20 of 20 traces"):
        sft.run(sft.Config(**FAST, objective="soft_labels"), inputs, output)
    assert not (output.work / "trainer").exists()
    inputs, output = desk(tmp_path, student, spread, labels=spread.labels[2:])
    config = sft.Config(**FAST, objective="soft_labels", soft_labels={"max_unlabelled_share": 0.1})
    material = sft.checked(config, inputs, tiny.tokenizer(), output)
    sft.soft_targets(config, inputs, output, tiny.tokenizer(), material)
    assert output.facts["soft_labels"]["traces_unlabelled"] == 2


def test_labels_that_cover_too_few_tokens_are_refused_before_training(
    tmp_path: Path, student: Path, spread: Labelled
) -> None:
    inputs, output = desk(tmp_path, student, spread)
    config = sft.Config(**FAST, objective="soft_labels", soft_labels={"min_covered_share": 0.99})
    with pytest.raises(StageError, match=r"the audit refuses to train: soft labels cover .*min_covered_share"):
        sft.run(config, inputs, output)
    assert output.facts["soft_labels"]["covered_share"] < 0.99
    assert not (output.work / "trainer").exists()


def test_labels_of_a_teacher_that_the_recipe_does_not_name_are_refused(
    tmp_path: Path, student: Path, spread: Labelled
) -> None:
    rows = [row | {"teacher": "another", "vocabulary": "0" * 32} for row in spread.labels]
    inputs, output = desk(tmp_path, student, spread, labels=rows)
    with pytest.raises(StageError, match="of the teacher another; expected one of teacher"):
        sft.run(sft.Config(**FAST, objective="soft_labels"), inputs, output)


def test_only_the_chosen_objectives_section_stands_in_a_recipe() -> None:
    plain = sft.Config()
    assert plain.soft_labels is None
    assert "soft_labels" not in declared(plain)
    assert not any(read.when(plain) for name, read in sft.STAGE.reads.items() if name != "examples")
    chosen = sft.Config(objective="soft_labels")
    assert declared(chosen)["soft_labels"]["temperature"] == 1.0
    assert {name for name, read in sft.STAGE.reads.items() if not read.when(chosen)} == {"domains"}
    assert "weights" not in declared(chosen)["soft_labels"]
    weighing = sft.Config(objective="soft_labels", soft_labels={"weights": {"domains": {"code": {"a": 2}}}})
    assert all(read.when(weighing) for read in sft.STAGE.reads.values())
    assert sft.Config(**chosen.model_dump(mode="json")) == chosen
    assert sft.Config(**plain.model_dump(mode="json")) == plain
    with pytest.raises(ValidationError, match="found values for soft_labels beside objective sft"):
        sft.Config(soft_labels={"alpha": 0.1})
