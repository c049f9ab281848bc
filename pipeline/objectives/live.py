"""Cross-entropy together with KL divergence from another model that is in memory: whole distributions, in chunks.

It holds no more of either model's logits than a chunk, and knows nothing of stored labels.
"""

from typing import Any

import torch
from torch import Tensor

from pipeline.objectives import forward
from pipeline.objectives.sft import cross_entropy


class Other:
    """Another model's logits at the same positions, made a chunk at a time as they are asked for, without gradients."""

    def __init__(self, model: Any, hidden: Tensor, compute_dtype: torch.dtype) -> None:
        self._head = forward.bare(model).get_output_embeddings()
        self._hidden = hidden.detach()
        self._mixed = compute_dtype != torch.float32
        self._made: Tensor | None = None
        self._start = 0  # the position of the first row made

    def logits(self, rows: slice) -> Tensor:
        """Logits [rows, vocabulary] of some positions, in the dtype that the model makes them in."""
        made = self._made
        if made is None or not self._start <= rows.start <= rows.stop <= self._start + len(made):
            self._made = made = None  # the last chunk goes before the next one comes
            size = max(rows.stop - rows.start, forward.CHUNK_ENTRIES // self._head.weight.shape[0])
            some = self._hidden[rows.start : rows.start + size]
            with torch.no_grad(), torch.autocast(some.device.type, dtype=torch.bfloat16, enabled=self._mixed):
                self._made = made = self._head(some)
            self._start = rows.start
        return made[rows.start - self._start : rows.stop - self._start]


class Toward:
    """A chunk loss (see `forward.chunked`): hard x cross-entropy + soft x T^2 KL(other || own), summed, in nats.

    Hinton et al., arXiv 1503.02531: T divides both models' logits, and T^2 keeps the gradient's size. Where the models'
    vocabularies are padded to different sizes, the divergence is that of the first `shared` tokens. Without another
    model it is the cross-entropy alone. `sums` holds what the two were in all chunks so far, unweighted.
    """

    def __init__(
        self, targets: Tensor, other: Other | None, hard: float, soft: float, temperature: float, shared: int
    ) -> None:
        self._cross_entropy = cross_entropy(targets)
        self._other, self._shared = other, shared
        self._hard, self._soft, self._temperature = hard, soft, temperature
        self.sums = {"cross_entropy": torch.zeros((), device=targets.device)}
        if other is not None:
            self.sums["divergence"] = torch.zeros((), device=targets.device)

    def __call__(self, logits: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        if self._other is None:
            return self._alone(logits, rows)
        theirs = self._other.logits(rows).float()
        width = logits.shape[1] if logits.shape == theirs.shape else self._shared
        divergence, pull = soft_kl(logits[:, :width], theirs[:, :width], self._temperature)
        self.sums["divergence"] += divergence
        hard, gradient = self._alone(logits, rows)
        gradient[:, :width].add_(pull, alpha=self._soft)
        return hard + self._soft * divergence, gradient

    def _alone(self, logits: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """The weighted cross-entropy and its gradient, which takes the logits' memory."""
        hard, gradient = self._cross_entropy(logits, rows)
        self.sums["cross_entropy"] += hard
        return self._hard * hard, gradient.mul_(self._hard)


def soft_kl(own: Tensor, other: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """T^2 KL(other || own) of logits [rows, vocabulary], summed, and its gradient by own, T (q - p)."""
    log_p = torch.log_softmax(other / temperature, dim=1)
    log_q = torch.log_softmax(own / temperature, dim=1)
    p = log_p.exp()
    total = temperature**2 * (p * log_p.sub_(log_q)).sum()
    return total, log_q.exp_().sub_(p).mul_(temperature)
