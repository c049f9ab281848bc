"""Soft labels: the student learns the teacher's distribution at each token beside the token, from stored candidates.

No teacher is in memory. It aligns no tokens and finds no labels (`training/pairing.py` does, before the first step).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from pipeline.objectives import Context, Loss, Objective
from pipeline.objectives.targets import Stored
from pipeline.objectives.weights import Weights
from pipeline.section import Section

if TYPE_CHECKING:
    import torch


class Schedule(Section):
    """A value that changes as training goes on, from its first soft step to its end."""

    start: float
    end: float
    shape: Literal["linear", "cosine"] = "linear"  # cosine: slow at both ends

    def at(self, share: float) -> float:
        """The value when a share of the way is gone."""
        gone = share if self.shape == "linear" else (1 - math.cos(math.pi * share)) / 2
        return self.start + (self.end - self.start) * gone


class Config(Section):
    """How much the teachers' distributions count, and how much may lack them."""

    later: ClassVar[frozenset[str]] = frozenset({"weights"})

    temperature: float | Schedule = 1.0  # both distributions are raised to 1 / temperature: higher hears more of the
    # unlikely candidates
    alpha: float | Schedule = 0.5  # share of the soft targets in the loss; the hard ones have the rest
    hard_share: float = Field(0.0, ge=0, lt=1)  # of training, at its beginning, with hard targets alone
    min_covered_share: float = Field(0.5, ge=0, le=1)  # of the tokens learnt from traces; fewer refuse to train
    max_unlabelled_share: float = Field(0.0, ge=0, le=1)  # of the traces learnt from; those take hard targets alone
    weights: Weights = Weights()  # of the teachers, where several labelled a trace

    @field_validator("temperature")
    @classmethod
    def _above_zero(cls, value: "float | Schedule") -> "float | Schedule":
        if min(_ends(value)) <= 0 or not all(map(math.isfinite, _ends(value))):
            raise ValueError(f"temperature is {value}; expected a number above 0, or a start and an end above 0")
        return value

    @field_validator("alpha")
    @classmethod
    def _share(cls, value: "float | Schedule") -> "float | Schedule":
        if not all(0 <= end <= 1 for end in _ends(value)):
            raise ValueError(f"alpha is {value}; expected a share from 0 to 1, or a start and an end from 0 to 1")
        return value

    def at(self, moment: float) -> tuple[float, float]:
        """(temperature, alpha) when a share `moment` of training is done; alpha is 0 while only hard targets count."""
        if moment < self.hard_share:
            return 1.0, 0.0
        share = (moment - self.hard_share) / (1 - self.hard_share)
        temperature, alpha = (
            value.at(share) if isinstance(value, Schedule) else value for value in (self.temperature, self.alpha)
        )
        return temperature, alpha


def _ends(value: float | Schedule) -> tuple[float, float]:
    return (value.start, value.end) if isinstance(value, Schedule) else (value, value)


@dataclass(frozen=True)
class SoftTargets(Objective):
    """The divergence from stored distributions and the cross-entropy, blended (see `divergence.Blend`)."""

    config: Config
    stored: Stored
    compute_dtype: "torch.dtype"

    def loss(self, model: Any, batch: Mapping[str, Any], moment: float) -> Loss:
        """See `Objective.loss`. Raises ValueError where a batch's tokens are not those that labels are stored for."""
        import torch

        from pipeline.objectives import forward, sft
        from pipeline.objectives.divergence import Blend

        targets = forward.targets(batch)
        temperature, alpha = self.config.at(moment)
        if alpha == 0 and torch.is_grad_enabled():
            found = forward.states(model, batch, self.compute_dtype, sft.cross_entropy(targets))
            return Loss(found.total, len(targets), {"cross_entropy": (found.total.detach(), len(targets))})
        blend = Blend(targets, self.labels(batch, targets), temperature, alpha)
        found = forward.states(model, batch, self.compute_dtype, blend)
        return Loss(found.total, len(targets), blend.figures)

    def labels(self, batch: Mapping[str, Any], targets: "torch.Tensor") -> Any:
        """The labels of a batch's learnt positions, on the device of its targets."""
        import torch

        from pipeline.objectives.divergence import Labels

        found = self.stored.of(batch["ids"], targets.tolist())
        covered, ids, logprobs = (torch.from_numpy(array).to(targets.device) for array in found)
        return Labels(covered, ids.long(), logprobs)


def make(config: Config, context: Context) -> Objective:
    """The objective for one training. Raises ValueError for labels that name tokens the student's head has not."""
    if context.targets is None:
        raise ValueError("objective soft_labels was given no stored targets; expected the folder they were written to")
    stored = Stored(context.targets)
    entries = context.student.config.get_text_config().vocab_size
    if stored.highest_id >= entries:
        raise ValueError(
            f"the stored soft labels name the token {stored.highest_id}, and the student's output head has {entries}; "
            f"expected tokens of its own. Its tokenizer and its weights do not belong together."
        )
    return SoftTargets(config, stored, context.compute_dtype)
