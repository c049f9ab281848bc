"""The shelf of objectives: what a student minimises, and the table of those that ship.

It imports none of them (`load` does, by name), and trains nothing (`training/`).
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from pipeline.section import Section

if TYPE_CHECKING:
    import torch

OBJECTIVES: Mapping[str, str] = MappingProxyType(
    {
        "sft": "pipeline.objectives.sft",
        "soft_labels": "pipeline.objectives.soft_labels",
        "features": "pipeline.objectives.features",
        "mutual": "pipeline.objectives.mutual",
        "on_policy": "pipeline.objectives.on_policy",  # no loss over given tokens: no `make`, but a trainer of its own
    }
)
IGNORED = -100  # the label of a token that is not learnt; torch's and transformers' convention


def _no_second(role: str) -> Any:
    raise LookupError(f"this training has no {role}")


@dataclass(frozen=True)
class Context:
    """What an objective may know of the training that it is made for."""

    student: Any  # the model to train, its adapter on it
    tokenizer: Any  # the student's
    compute_dtype: "torch.dtype"  # of products in forward and backward: bfloat16 is autocast, float32 is not
    folder: Callable[[str], Path]  # a role's name -> the folder of its model, for those that the stage declares
    attention: str = "sdpa"  # how the student attends, as transformers names it
    seed: int = 0
    targets: Path | None = None  # where the soft targets of the examples lie (`targets.py`), for one that learns them
    second: Callable[[str], Any] = _no_second  # a role's name -> its model, to be trained as the student is


class Loss(NamedTuple):
    """The loss of a batch."""

    total: "torch.Tensor"  # float32, summed over the learnt positions, in nats
    positions: int  # how many those are
    # What steps and evaluations report as means: name -> (sum, of how many), added up over parts and batches. Detached.
    # `cross_entropy` is what the guard of sane losses goes by, where a loss has one beside other terms.
    figures: Mapping[str, tuple[Any, int]] = MappingProxyType({})


class Objective(Protocol):
    """What is minimised in one training. Objectives inherit from it for what it answers by itself."""

    def loss(self, model: Any, batch: Mapping[str, Any], moment: float) -> Loss:
        """The loss of a student over a batch, with gradients where torch records them.

        model: the student, in the wrapping of accelerate where it has one; run it by `forward.states`, whole, with the
        loss of its logits, so that its wrapping sees all of it. batch: tensors [rows, longest] `input_ids`,
        `attention_mask` and `labels` (not shifted; IGNORED where nothing is learnt), and the ids of its examples in
        order, under `ids`. moment: the share of training done, for schedules; 1.0 in an evaluation, so that losses of
        one training compare.
        """

    def modules(self) -> Mapping[str, "torch.nn.Module"]:
        """What is trained beside the student: projections, or a second student; the same modules at every call.

        The trainer puts them on its device, trains all their parameters that require gradients (clipped together with
        the student's, decayed as the student's are), saves those with every checkpoint, and loads them from one that it
        goes on from or takes as the best; buffers and frozen weights are as they were made. They are no part of the
        finished student. On one process only: gradients of theirs are not summed over several.
        """
        return {}


class Shelved(Protocol):
    """A module of the shelf. Importing it imports no torch."""

    Config: type[Section]  # its section of a recipe: sft.<its name>

    def make(self, config: Any, context: Context) -> Objective:
        """The objective for one training."""


def load(name: str) -> Shelved:
    """The module of a name in OBJECTIVES. Raises ValueError for another."""
    if name not in OBJECTIVES:
        raise ValueError(f"no objective is called {name!r}; expected one of {', '.join(OBJECTIVES)}")
    return cast(Shelved, importlib.import_module(OBJECTIVES[name]))
