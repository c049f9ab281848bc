"""sft killed by SIGKILL at chosen moments, inside a save too, and run again: the same weights as an unbroken run's."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.roles import Student, Teacher
from tests import tiny
from tests.desk import DeskInputs, DeskOutput
from tests.faults.apart import die, nth, process

# Two evaluations an epoch, so that there are saves before the last one; dropout, so that random numbers matter.
VALUES: dict[str, Any] = {
    "method": "lora",
    "lora": {"rank": 4, "dropout": 0.2},
    "epochs": 2,
    "evals_per_epoch": 2,
    "batch_tokens": 256,
    "learning_rate": 1e-2,
    "compute_dtype": "float32",
    "save_dtype": "float32",
    "exec": {"threads": 1},
}
FULL = {name: value for name, value in VALUES.items() if name not in ("method", "lora")}
# A rate that makes the validation loss rise, with patience for two worse ones: it stops early.
STOPPING = FULL | {"learning_rate": 100.0, "warmup_share": 0.0, "schedule": "constant", "early_stopping_patience": 2}
# On answers that it draws itself: random numbers again. Six steps, an evaluation after every third.
ON_POLICY = FULL | {
    "objective": "on_policy",
    "on_policy": {"prompts_per_step": 8, "max_tokens": 6, "teacher_dtype": "float32"},
    "batch_tokens": 2048,
    "evals_per_epoch": 1,
    "early_stopping_patience": None,
}


def torn(_state: Any, path: Any, *_: Any, **__: Any) -> None:
    """Half a file, and death."""
    Path(path).write_bytes(b"half an optimizer")
    die()


def arm(moment: str) -> None:
    """Make this process die at a moment of its training."""
    import torch

    from pipeline.training import checkpoints, model, on_policy, trainer

    if moment == "in step 3":
        trainer.PlannedTrainer.compute_loss = nth(trainer.PlannedTrainer.compute_loss, 3)  # type: ignore[method-assign]
    elif moment == "in a later step":
        trainer.PlannedTrainer.compute_loss = nth(trainer.PlannedTrainer.compute_loss, 8)  # type: ignore[method-assign]
    elif moment == "with a torn optimizer":
        torch.save = nth(torch.save, 6, torn)
    elif moment == "in a later step of its own answers":
        on_policy.OnPolicy.compute_loss = nth(on_policy.OnPolicy.compute_loss, 6)  # type: ignore[method-assign]
    elif moment == "before the marker":
        trainer.seal = nth(checkpoints.seal, 2)
    elif moment == "before old checkpoints go":
        trainer.prune = nth(checkpoints.prune, 3)
    elif moment == "after training":
        model.save = die


def train(folder: str, values: dict[str, Any], moment: str) -> None:
    from stages import sft

    root = Path(folder)
    tables = {"examples": pa.Table.from_pylist(tiny.examples(24, validation=6))}
    roles = {"teacher": Teacher(model="tiny"), "student": Student(model="tiny")}
    models = {role: root.parent / role for role in roles}
    inputs, output = DeskInputs(root, tables, **roles, models=models), DeskOutput(root)
    arm(moment)
    sft.run(sft.Config(**values), inputs, output)
    (root / "curve").write_text(json.dumps({key: output.facts[key] for key in ("loss", "eval_loss", "best_step")}))
    (root / "resumed").write_text(str(output.facts["resumed_at_step"]))


def killed(folder: Path, values: dict[str, Any], moment: str = "") -> bool:
    """Train in a process of its own. Whether it was killed."""
    return process(folder / "log", train, str(folder), values, moment)


def outcome(folder: Path) -> tuple[bytes, str]:
    return (folder / "stage/checkpoint/model.safetensors").read_bytes(), (folder / "curve").read_text()


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the student and an unbroken run of each kind."""
    folder = tmp_path_factory.mktemp("kills")
    tiny.build(folder / "student")
    tiny.build(folder / "teacher", seed=1)
    for name, values in (("lora", VALUES), ("full", FULL), ("stopping", STOPPING), ("on_policy", ON_POLICY)):
        assert not killed(folder / name, values)
    return folder


@pytest.mark.parametrize(
    ("kind", "values", "moment"),
    [
        ("full", FULL, "in step 3"),
        ("lora", VALUES, "in a later step"),
        ("full", FULL, "with a torn optimizer"),
        ("lora", VALUES, "before the marker"),
        ("full", FULL, "before old checkpoints go"),
        ("lora", VALUES, "after training"),
        ("stopping", STOPPING, "in a later step"),
        ("stopping", STOPPING, "after training"),
        ("on_policy", ON_POLICY, "in a later step of its own answers"),
    ],
)
def test_a_killed_training_ends_as_an_unbroken_one(room: Path, kind: str, values: dict[str, Any], moment: str) -> None:
    folder = room / f"{kind}-{moment.replace(' ', '-')}"
    assert killed(folder, values, moment)
    assert not (folder / "curve").exists()
    assert not killed(folder, values)
    assert outcome(folder) == outcome(room / kind)
    assert (int((folder / "resumed").read_text()) > 0) == (moment != "in step 3")


def test_the_early_stop_is_one(room: Path) -> None:
    """What the cases above compare: three evaluations of four, the first of them the best."""
    stopping, full = (json.loads((room / kind / "curve").read_text()) for kind in ("stopping", "full"))
    assert [step for step, _ in full["eval_loss"]] == [3, 6, 9, 12]
    assert [step for step, _ in stopping["eval_loss"]] == [3, 6, 9]
    assert stopping["best_step"] == 3
