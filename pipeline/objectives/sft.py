"""Supervised fine-tuning: the cross-entropy of the teacher's own tokens.

It picks no positions (`training/trainer.py` does) and needs nothing of the batch beyond them.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def loss(logits: "Tensor", targets: "Tensor", batch: Mapping[str, Any]) -> "Tensor":
    """Summed cross-entropy in nats, computed in float32 whatever dtype the logits [positions, vocabulary] come in."""
    import torch.nn.functional as F

    return F.cross_entropy(logits.float(), targets, reduction="sum")
