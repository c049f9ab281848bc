"""Training in two processes over gloo, started by accelerate: the losses are those of one."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.stage import StageError
from pipeline.training import checkpoints, options, process
from stages import sft
from tests import labelled, tiny
from tests.pipeline.training.in_turn import Job, cut_and_resumed, difference, in_turn
from tests.stages import test_sft_soft_labels as soft
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
LORA: dict[str, Any] = {"method": "lora", "lora": {"rank": 4, "targets": ["q_proj", "up_proj"]}}
SOFT: dict[str, Any] = {"objective": "soft_labels", "soft_labels": {"alpha": 0.7, "temperature": 2.0}}


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> labelled.Labelled:
    return labelled.make(tmp_path_factory.mktemp("labelled"), tiny.tokenizer(), 16, validation=4)


def trained(folder: Path, student: Path, execution: dict[str, Any], **values: Any) -> Any:
    inputs, output = desk(folder, student, tiny.examples(24, validation=5))
    sft.run(sft.Config(**(VALUES | values), exec=execution), inputs, output)
    return output


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, student: Path, made: labelled.Labelled) -> dict[str, Any]:
    """Trainings in one process."""
    folder, execution = tmp_path_factory.mktemp("alone"), {"threads": 1}
    return {
        "plain": trained(folder / "plain", student, execution),
        "lora": trained(folder / "lora", student, execution, **LORA),
        "soft": soft.trained(folder / "soft", student, made, **VALUES, **SOFT, exec=execution),
    }


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, student: Path, made: labelled.Labelled) -> dict[str, Any]:
    """The same in two, which share the student in all but the last of them; and how far its gradients are off."""
    folder, sharded = tmp_path_factory.mktemp("together"), BOTH | {"config": "fsdp2"}
    jobs: list[Job] = []

    def kept(function: Any, arguments: Any, start: process.Start, *_: Any) -> dict[str, Any]:
        jobs.append(Job(function, arguments, start.layout == "fsdp"))
        return {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "launch", kept)
        patch.setattr(options, "refuse_sharding", lambda *_: None)
        found = {
            "plain": trained(folder / "plain", student, sharded),
            "lora": trained(folder / "lora", student, sharded, **LORA),
            "soft": soft.trained(folder / "soft", student, made, **VALUES, **SOFT, exec=BOTH),
        }
    jobs[0] = jobs[0]._replace(function=cut_and_resumed)
    families = [("llama", False), ("qwen2", True)]
    jobs += [Job(difference, family, False) for family in families]
    told = process.launch(
        in_turn,
        (jobs,),
        process.start("fsdp2", folder, 2),
        folder / "processes",
        lambda *_: None,
        {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    )
    for output, facts in zip(found.values(), told, strict=False):
        output.facts.update(facts)
    return found | dict(zip(families, told[3:], strict=True))


def same(one: Any, two: Any) -> None:
    """Both trainings had the same losses, step by step, and came to the same weights."""
    for key in ("loss", "eval_loss"):
        assert [step for step, _ in two.facts[key]] == [step for step, _ in one.facts[key]]
        assert [loss for _, loss in two.facts[key]] == pytest.approx([loss for _, loss in one.facts[key]], abs=1e-4)
    assert (one.facts["processes"], two.facts["processes"]) == (1, 2)
    assert (two.facts["steps"], two.facts["best_step"]) == (one.facts["steps"], one.facts["best_step"])
    before, after = (weights(output.folder / "checkpoint") for output in (one, two))
    assert before.keys() == after.keys()
    assert {name for name, value in before.items() if not value.allclose(after[name], atol=1e-4)} == set()


def test_two_processes_learn_as_one(tmp_path: Path, student: Path, alone: dict[str, Any]) -> None:
    """Batches of seven and of three in parts of 256 positions: odd numbers of parts, and one that is alone."""
    two = trained(tmp_path, student, BOTH)
    same(alone["plain"], two)
    assert two.facts["steps"] == 8
    assert [moment.done for moment in two.moments] == list(range(1, 9))  # of the first process alone
    assert len(list((two.folder / "logs").glob("events*"))) == 1


def test_two_processes_learn_soft_labels_as_one(alone: dict[str, Any], together: dict[str, Any]) -> None:
    same(alone["soft"], together["soft"])
    for name, curve in alone["soft"].facts["eval_figures"].items():
        theirs = together["soft"].facts["eval_figures"][name]
        assert [value for _, value in theirs] == pytest.approx([value for _, value in curve], abs=1e-4)


def test_two_processes_that_share_a_student_and_were_cut_off_learn_as_one(
    alone: dict[str, Any], together: dict[str, Any]
) -> None:
    two = together["plain"]
    assert 0 < two.facts["resumed_at_step"] < two.facts["steps"]
    same(alone["plain"], two)
    last = checkpoints.newest(two.work / "trainer")
    assert last is not None
    assert len(list((last / sft.OPTIMIZER["fsdp"]).glob("*.distcp"))) == 2  # each process wrote its own
    ended = weights(two.folder / "ended")
    assert {name for name, value in weights(two.folder / "checkpoint").items() if not value.equal(ended[name])} == set()
    told = [json.loads((output.folder / "checkpoint" / "config.json").read_text()) for output in (alone["plain"], two)]
    assert told[0] == told[1]


def test_two_processes_that_share_a_student_train_an_adapter_as_one(
    alone: dict[str, Any], together: dict[str, Any]
) -> None:
    same(alone["lora"], together["lora"])


@pytest.mark.parametrize(("family", "tied"), [("llama", False), ("qwen2", True)])
def test_loss_and_gradients_of_a_sharded_student_are_those_of_all_logits(
    together: dict[str, Any], family: str, tied: bool
) -> None:
    found = together[family, tied]
    assert ("lm_head.weight" in found) is not tied
    assert {name: value for name, value in found.items() if value > 1e-5} == {}


def test_a_student_is_sharded_only_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(layout: str, on_gpu: bool = True, **values: Any) -> str:
        values = values | {"exec": {"launcher": "accelerate", "config": "mine", **values.get("exec", {})}}
        with pytest.raises(ValueError, match=r"^mine shards the student over processes") as error:
            options.refuse_sharding(sft.Config(**values), layout, on_gpu)
        return str(error.value)

    options.refuse_sharding(sft.Config(), "whole", on_gpu=False)
    options.refuse_sharding(sft.Config(), "fsdp", on_gpu=True)
    assert "torch sees none. Set sft.exec.config: ddp" in refused("fsdp", on_gpu=False)
    assert "Set sft.exec.resumable: true" in refused("fsdp", exec={"resumable": False})
    assert "Set sft.exec.config: ddp" in refused("fsdp", method="qlora")
    monkeypatch.setattr(options, "installed", lambda name: name != "deepspeed")
    assert "Install it: .venv/bin/python -m pip install deepspeed" in refused("deepspeed")
    monkeypatch.setattr(options, "installed", lambda name: True)
    options.refuse_sharding(sft.Config(), "deepspeed", on_gpu=True)
    assert "Set sft.compute_dtype: bfloat16" in refused("deepspeed", compute_dtype="float32")


def test_a_training_does_not_go_on_from_a_checkpoint_in_another_layout(
    tmp_path: Path, together: dict[str, Any]
) -> None:
    _, output = desk(tmp_path, tmp_path, [])
    root = output.work / "trainer"
    shutil.copytree(together["plain"].work / "trainer", root)
    plan = (root / checkpoints.PLAN).read_text()
    assert sft.begun_at(output, plan, "fsdp") == checkpoints.newest(root)
    with pytest.raises(
        StageError, match=r"in the layout fsdp, and sft.exec asks for whole; .* or delete .*/trainer to"
    ):
        sft.begun_at(output, plan, "whole")
    assert checkpoints.newest(root) is not None


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
    assert {path.stem: process.start(path.stem, tmp_path, 2).layout for path in process.SHIPPED.glob("*.yaml")} == {
        "ddp": "whole",
        "fsdp2": "fsdp",
        "zero2": "deepspeed",
        "zero3": "deepspeed",
    }
    for text, said in (
        (
            "distributed_type: MEGATRON_LM",
            r"has distributed_type MEGATRON_LM; expected one of MULTI_GPU, MULTI_CPU, FSDP",
        ),
        ("distributed_type: FSDP", r"has fsdp_version None; expected 2\. See .*fsdp2\.yaml"),
        ("distributed_type: DEEPSPEED", r"names no deepspeed_config_file with torch_autocast .*zero3\.json"),
    ):
        mine.write_text(text)
        with pytest.raises(ValueError, match=said):
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
