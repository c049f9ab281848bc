"""Trainings that two processes do one after another, since starting the processes costs more than any of them.

accelerate shards a student on GPUs alone, and leaves it whole elsewhere without a word. What it calls, torch's
`fully_shard`, needs none: here it is made to call it on a CPU.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

from pipeline.training import checkpoints
from stages import sft
from tests.desk import interrupted_at_save


class Job(NamedTuple):
    """A function with its arguments, in processes that share a student or in such as do not."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    sharded: bool


def in_turn(jobs: list[Job]) -> list[Any]:
    """What the jobs return."""
    found = []
    for job in jobs:
        with sharding(job.sharded):
            found.append(job.function(*job.arguments))
    return found


@contextmanager
def sharding(wanted: bool) -> Iterator[None]:
    """accelerate as it is when a process starts, sharding a student on a CPU or not."""
    from accelerate import DistributedType
    from accelerate.state import AcceleratorState, GradientState, PartialState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    begin = AcceleratorState.__init__

    def beginning(self: Any, *arguments: Any, fsdp_plugin: Any = None, **named: Any) -> None:
        begin(self, *arguments, fsdp_plugin=fsdp_plugin, **named)
        if fsdp_plugin is not None:
            PartialState._shared_state["distributed_type"] = self.distributed_type = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin

    with (
        mock.patch.dict(os.environ, {"ACCELERATE_USE_FSDP": str(wanted).lower()}),
        mock.patch.object(AcceleratorState, "__init__", beginning),
    ):
        yield


def cut_and_resumed(*arguments: Any) -> Any:
    """What `sft.train` returns of a training that went on from its first checkpoint. `arguments` are its.

    Then it is begun again from its last one, as if it had stopped early there; what comes of that lies in `ended`.
    """
    from pipeline.training import trainer

    with interrupted_at_save():
        sft.train(*arguments)
    config, inputs, output, tokenizer, material, _, places = arguments
    last = checkpoints.newest(output.work / "trainer")
    with sharding(True):
        found = sft.train(config, inputs, output, tokenizer, material, last, places)
    last = checkpoints.newest(output.work / "trainer")
    places = {"checkpoint": output.folder / "ended"}
    with sharding(True), mock.patch.object(trainer, "stopped", return_value=True):
        sft.train(config, inputs, output, tokenizer, material, last, places)
    return found


def difference(family: str, tied: bool) -> dict[str, float]:
    """How far loss and gradients of a sharded model are from those of all logits of the whole one, by name; each
    process has half of the rows.
    """
    import copy

    import torch
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard
    from transformers import AutoModelForCausalLM

    from pipeline.objectives import sft as objective
    from tests.pipeline.objectives.test_forward import batch, dense, student

    if not dist.is_initialized():
        dist.init_process_group("gloo")
    shape = student(tie_word_embeddings=tied).config.to_dict() | {"model_type": family}
    torch.manual_seed(0)
    whole = AutoModelForCausalLM.from_config(type_of(family)(**shape), attn_implementation="eager")
    model = copy.deepcopy(whole)
    for part in (*model.model.layers, *(() if tied else (model.lm_head,)), model):
        fully_shard(part, reshard_after_forward=True)
    given = batch(rows=6)
    mine = {name: value[dist.get_rank() :: dist.get_world_size()] for name, value in given.items()}
    total = objective.CrossEntropy(torch.float32).loss(model, mine, 0.0).total
    (total * dist.get_world_size()).backward()  # gradients are averaged over processes
    total = total.detach()
    dist.all_reduce(total)
    wanted = dense(whole, given)
    wanted.backward()
    found = {"loss": abs(float(total / wanted) - 1)}
    gradients = {name: value.grad for name, value in whole.named_parameters()}
    for name, value in model.named_parameters():
        found[name] = float((value.grad.full_tensor() - gradients.pop(name)).abs().max())
    assert not gradients
    return found


def type_of(family: str) -> Any:
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[family]
