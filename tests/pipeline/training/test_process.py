"""Training in two processes over gloo, started by accelerate: the losses are those of one."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.stage import StageError
from pipeline.training import process
from stages import sft
from tests import tiny
from tests.stages.test_sft import desk
from tests.tiny import weights

BOTH = {"launcher": "accelerate", "processes": 2, "threads": 1}
VALUES: dict[str, Any] = {
    "batch_tokens": 256,
    "batch_examples": 7,
    "learning_rate": 1e-2,
    "epochs": 2,
    "compute_dtype": "float32",
    "save_dtype": "float32",
}


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build(tmp_path_factory.mktemp("student"))


def trained(folder: Path, student: Path, execution: dict[str, Any], **values: Any) -> Any:
    inputs, output = desk(folder, student, tiny.examples(24, validation=5))
    sft.run(sft.Config(**(VALUES | values), exec=execution), inputs, output)
    return output


def test_two_processes_learn_as_one(tmp_path: Path, student: Path) -> None:
    """Batches of seven and of three in parts of 256 positions: odd numbers of parts, and one that is alone."""
    one = trained(tmp_path / "one", student, {"threads": 1})
    two = trained(tmp_path / "two", student, BOTH)
    for key in ("loss", "eval_loss"):
        assert [step for step, _ in two.facts[key]] == [step for step, _ in one.facts[key]]
        assert [loss for _, loss in two.facts[key]] == pytest.approx([loss for _, loss in one.facts[key]], abs=1e-4)
    assert (one.facts["processes"], two.facts["processes"]) == (1, 2)
    assert (two.facts["steps"], two.facts["best_step"]) == (one.facts["steps"], one.facts["best_step"]) == (8, 8)
    before, after = (weights(output.folder / "checkpoint") for output in (one, two))
    assert {name for name, value in before.items() if not value.allclose(after[name], atol=1e-4)} == set()
    assert [moment.done for moment in two.moments] == list(range(1, 9))  # of the first process alone
    assert len(list((two.folder / "logs").glob("events*"))) == 1


def test_what_stops_a_process_stops_all_and_is_told(tmp_path: Path, student: Path) -> None:
    inputs, output = desk(tmp_path, student, tiny.examples(6))
    wild = sft.Config(**(VALUES | {"learning_rate": 1e12, "warmup_share": 0.0}), exec=BOTH)
    with pytest.raises(StageError, match=r"the loss became \S+ at step \d+, on the traces .*diverged\.json\.$"):
        sft.run(wild, inputs, output)
    told = json.loads((output.folder / sft.DIVERGED_FILE).read_text())
    assert {trace for batch in told["batches"] for trace in batch["ids"]} <= {f"trace-{n:04d}" for n in range(6)}
    assert told["batches"][0]["ids"]


def test_a_configuration_is_one_that_ships_or_a_file(tmp_path: Path, student: Path) -> None:
    assert process.start("ddp", tmp_path, 4) == process.Start(process.SHIPPED / "ddp.yaml", 4, 1)
    mine = tmp_path / "mine.yaml"
    mine.write_text("num_processes: 16\nnum_machines: 2\n")
    assert process.start("mine.yaml", tmp_path, None) == process.Start(mine, 16, 2)
    assert process.start("mine.yaml", tmp_path, 4) == process.Start(mine, 8, 2)
    mine.write_text("distributed_type: FSDP\n")
    with pytest.raises(ValueError, match=r"has distributed_type FSDP; expected one of MULTI_GPU, MULTI_CPU"):
        process.start("mine.yaml", tmp_path, 4)
    with pytest.raises(StageError, match=r"no accelerate configuration 'ddq': expected one of ddp.*, or the path"):
        trained(tmp_path, student, BOTH | {"config": "ddq"})
    assert sft.to_start(sft.Config(exec={"launcher": "accelerate", "processes": 1}), tmp_path) is None


def test_a_second_model_is_for_one_process(tmp_path: Path, student: Path) -> None:
    inputs, output = desk(tmp_path, student, tiny.examples(4))
    config = sft.Config(**VALUES, exec=BOTH).model_copy(update={"objective": "mutual"})
    with pytest.raises(StageError, match=r"objective mutual has a second model; .*Set sft.exec.launcher: none"):
        sft.run(config, inputs, output)


def test_on_several_machines_the_others_are_told_how_to_join(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("num_machines: 3\nnum_processes: 24\nmain_process_ip: node0\nmain_process_port: 29500\n")
    commands, said = [], []

    def run(command: list[str], *_: Any) -> int:
        commands.append(command)
        return 1

    monkeypatch.setattr(process, "_run", run)
    (tmp_path / process.LOG).write_text("node1 does not answer\n")
    with pytest.raises(
        process.Failed, match=r"accelerate ended with 1, and no process said why.*\nnode1 does not answer"
    ):
        process.launch(
            len,
            ((),),
            process.start("mine.yaml", tmp_path, 8),
            tmp_path,
            lambda kind, line: said.append((kind, line)),
            {},
        )
    (first,) = commands
    assert first[1:] == [
        *("-m", "accelerate.commands.launch", "--config_file", str(config), "--num_processes", "24"),
        *("--machine_rank", "0", "--module", "pipeline.training.process", str(tmp_path / process.JOB)),
    ]
    assert first[0] == sys.executable
    assert [kind for kind, _ in said] == ["say", "say"]
    assert "--machine_rank 2 --module pipeline.training.process" in said[1][1]
