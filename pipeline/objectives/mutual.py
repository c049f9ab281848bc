"""Deep mutual learning: two students trained together, each on the traces and on what the other thinks of them.

Zhang et al. 2018, arXiv 1706.00384. It chooses no second student: that is the recipe's `peer`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipeline.objectives import Context, Loss, Objective
from pipeline.section import Section

if TYPE_CHECKING:
    import torch

TWIN = (
    "found a peer with the student's own weights; expected others: on the same batches the two would stay one model, "
    "and teach each other nothing. Choose another peer.model, or set sft.method: lora, whose adapters are drawn by "
    "different seeds."
)


class Config(Section):
    """How much the students listen to each other."""

    weight: float = Field(1.0, gt=0)  # of the divergence from the other student, beside the cross-entropy
    temperature: float = Field(1.0, gt=0)  # divides both students' logits


def make(config: Config, context: Context) -> Objective:
    """The objective for one training, with the peer in memory, trained as the student is.

    Raises ValueError for a peer of another vocabulary, and for one that is the student over again.
    """
    from pipeline.objectives import companion, forward

    companion.refuse_other_vocabulary(context.tokenizer, context.folder("peer"), "peer")
    peer = context.second("peer")
    forward.refuse_changed_logits(peer)
    if companion.equal(context.student, peer):
        raise ValueError(TWIN)
    return Mutual(config, peer, len(context.tokenizer), context.compute_dtype)


@dataclass(frozen=True)
class Mutual(Objective):
    """Each student's cross-entropy + weight x T^2 KL(other || own), the other's distribution taken as it is."""

    config: Config
    peer: Any
    vocabulary: int  # tokens that both know; what is beyond is padding
    compute_dtype: "torch.dtype"

    def modules(self) -> Mapping[str, "torch.nn.Module"]:
        """The peer."""
        return {"peer": self.peer}

    def loss(self, model: Any, batch: Mapping[str, Any], moment: float) -> Loss:
        """See `Objective.loss`. The value is the student's own; the gradients are both students'."""
        from pipeline.objectives import forward, live

        pair = (model, self.peer)
        targets = forward.targets(batch)
        hidden = [forward.states(one, batch, self.compute_dtype).hidden for one in pair]
        totals, sums = [], []
        for own, other in ((0, 1), (1, 0)):
            shown = live.Other(pair[other], hidden[other], self.compute_dtype)
            toward = live.Toward(targets, shown, 1.0, self.config.weight, self.config.temperature, self.vocabulary)
            totals.append(forward.chunked(pair[own], hidden[own], toward, self.compute_dtype))
            sums.append(toward.sums)
        count = len(targets)
        figures = sums[0] | {f"peer_{name}": value for name, value in sums[1].items()}
        # The best checkpoint is the student's best, whatever becomes of the peer.
        total = totals[0] + (totals[1] - totals[1].detach())
        return Loss(total, count, {name: (value, count) for name, value in figures.items()})
