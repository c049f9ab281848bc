"""Supervised fine-tuning: the cross-entropy of the teacher's own tokens.

It picks no positions (`forward.py` does) and needs nothing of the batch beyond them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.objectives import Context, Loss, Objective
from pipeline.section import Section

if TYPE_CHECKING:
    import torch


class Config(Section):
    """Nothing to choose."""


@dataclass(frozen=True)
class CrossEntropy(Objective):
    """The negative log-probability of each learnt token."""

    compute_dtype: "torch.dtype"

    def loss(self, model: Any, batch: Mapping[str, Any], moment: float) -> Loss:
        """See `Objective.loss`."""
        from pipeline.objectives import forward

        targets = forward.targets(batch)
        found = forward.states(model, batch, self.compute_dtype, cross_entropy(targets))
        return Loss(found.total, len(targets))


def make(config: Config, context: Context) -> Objective:
    """The objective for one training."""
    return CrossEntropy(context.compute_dtype)


def cross_entropy(targets: "torch.Tensor") -> Callable[["torch.Tensor", slice], tuple["torch.Tensor", "torch.Tensor"]]:
    """The summed cross-entropy against targets [positions], as `forward.chunked` wants it."""

    def loss(logits: "torch.Tensor", rows: slice) -> tuple["torch.Tensor", "torch.Tensor"]:
        wanted = targets[rows, None]
        picked = logits.gather(1, wanted)
        highest = logits.amax(1, keepdim=True)
        masses = logits.sub_(highest).exp_()  # each exponential is taken once, for the loss and for its gradient
        whole = masses.sum(1, keepdim=True)
        total = (whole.log() + highest - picked).sum()
        gradient = masses.div_(whole)
        gradient.scatter_add_(1, wanted, gradient.new_full((), -1.0).expand(wanted.shape))
        return total, gradient

    return loss
