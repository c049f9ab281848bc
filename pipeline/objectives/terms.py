"""What a student's inner states are compared by: hidden states, attention maps, relations of a batch; and layer maps.

It runs no model (`features.py` does), weighs nothing, and picks no positions.

Every function works in float32, or in float64 where it is given that, whatever the dtype the models computed in. Only
the student's side is meant to have gradients.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Layers = Literal["uniform", "last"] | Sequence[tuple[int, int]]


def _exact(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def layer_pairs(layers: Layers, student: int, teacher: int) -> list[tuple[int, int]]:
    """(student's layer, teacher's layer) pairs for models of so many layers, both counted from 0.

    "uniform": each of the student's layers by the teacher's that stands as deep, its last by the last (TinyBERT, arXiv
    1909.10351); "last": the last ones alone (MiniLM, arXiv 2002.10957); or the pairs themselves. Raises ValueError for
    a pair that one of the models does not have, for none at all, and for "uniform" where the student is the deeper one.
    """
    if layers == "last":
        return [(student - 1, teacher - 1)]
    if layers == "uniform":
        if student > teacher:
            raise ValueError(
                f"layers is uniform with a student of {student} layers and a teacher of {teacher}; expected no fewer "
                f"in the teacher. Write the pairs out: [[student's layer, teacher's layer], ...], or set layers: last."
            )
        return [(layer, -(-(layer + 1) * teacher // student) - 1) for layer in range(student)]
    pairs = [(int(one), int(other)) for one, other in layers]
    wrong = [pair for pair in pairs if not (0 <= pair[0] < student and 0 <= pair[1] < teacher)]
    if wrong or not pairs:
        found = f"the pair {list(wrong[0])}" if wrong else "no pair"
        raise ValueError(
            f"layers holds {found}; expected pairs [student's layer, teacher's layer], counted from 0, with layers "
            f"below {student} and {teacher}. Mend the pairs, or set layers: uniform."
        )
    return pairs


def hidden_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared difference of hidden states [positions, width] (TinyBERT, arXiv 1909.10351, equation 8)."""
    return F.mse_loss(_exact(student), _exact(teacher))


def hidden_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine of hidden states [positions, width], mean over positions (DistilBERT, arXiv 1910.01108, section 2)."""
    return (1 - F.cosine_similarity(_exact(student), _exact(teacher), dim=-1)).mean()


def attention_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) in nats of attention probabilities [queries, heads, keys], mean over queries and heads.

    MiniLM, arXiv 2002.10957, equation 4. A probability that the student has at 0 counts as float32's least normal
    number, since its softmax underflows where the teacher's need not.
    """
    ours, theirs = _exact(student), _exact(teacher)
    least = torch.finfo(torch.float32).tiny
    return (torch.xlogy(theirs, theirs) - theirs * ours.clamp_min(least).log()).sum(-1).mean()


def attention_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """The squared difference of attention probabilities [queries, heads, keys], mean over queries and heads.

    TinyBERT, arXiv 1909.10351, equation 7, but of probabilities, and summed over keys: a mean over them would shrink
    with every key that a query gives nothing, padding among them.
    """
    return (_exact(student) - _exact(teacher)).square().sum(-1).mean()


def sequence_means(hidden: Tensor, positions: Tensor) -> Tensor:
    """The mean hidden state [sequences, width] over each sequence's positions.

    hidden: [sequences, length, width]; positions: [sequences, length] bool. A sequence without positions is left out.
    """
    kept = positions.any(dim=1)
    weights = positions[kept].to(_exact(hidden).dtype)
    return torch.einsum("sl,slw->sw", weights, _exact(hidden[kept])) / weights.sum(dim=1, keepdim=True)


def distance_relations(student: Tensor, teacher: Tensor) -> Tensor:
    """How the distances between sequences differ: Huber loss of them, each over its model's mean, mean over pairs.

    Relational KD, arXiv 1904.05068, equations 5 to 8. student: [sequences, width]; teacher: [sequences, another width].
    Fewer than three sequences have no relation by distance: the loss is 0.
    """
    return F.huber_loss(_distances(student), _distances(teacher)) if len(student) > 2 else _nothing(student)


def _distances(points: Tensor) -> Tensor:
    """Of all pairs, over their mean."""
    one, other = torch.triu_indices(len(points), len(points), offset=1, device=points.device)
    distances: Tensor = torch.linalg.vector_norm(_exact(points)[one] - _exact(points)[other], dim=-1)
    mean = distances.mean()
    return distances / torch.where(mean > 0, mean, 1.0)


def similarity_relations(student: Tensor, teacher: Tensor) -> Tensor:
    """How the similarities between sequences differ: squared, mean over all pairs, a sequence with itself included.

    Similarity-preserving KD, arXiv 1907.09682, equations 2 to 4: products of all pairs, each row normalised. Shapes as
    for `distance_relations`; the loss of one sequence is 0.
    """
    return F.mse_loss(_similarities(student), _similarities(teacher)) if len(student) > 1 else _nothing(student)


def _similarities(points: Tensor) -> Tensor:
    products = _exact(points) @ _exact(points).T
    return F.normalize(products, dim=1)


def _nothing(student: Tensor) -> Tensor:
    """0, with gradients of 0."""
    return _exact(student).sum() * 0
