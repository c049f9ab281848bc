"""The loss of soft and hard targets together, and its gradient by a student's logits, computed in float32 throughout.

It runs no student (`forward.py`), reads no stored targets (`targets.py`) and knows no schedule (`soft_labels.py`).
"""

from dataclasses import dataclass

import torch

# Below it the divergence of an outcome is taken from a series, where subtraction would leave nothing but rounding.
_NEAR = 1 / 32


@dataclass(frozen=True, eq=False)
class Labels:
    """A teacher's distributions at N learnt positions, k candidates each; all on the student's device.

    covered [N] bool: where there is one. ids [N, k] int64: the candidates in the student's vocabulary, each once, -1
    where there is none. logprobs [N, k + 1] float32: theirs (-inf where there is none), and last that of all other
    tokens together; of a position that is not covered 0 in the last place, and -inf elsewhere.
    """

    covered: torch.Tensor
    ids: torch.Tensor
    logprobs: torch.Tensor


class Blend:
    """A chunk loss (`forward.ChunkLoss`): alpha * T^2 * KL(teacher || student) + (1 - alpha) * cross-entropy.

    Where a position is not covered it is the cross-entropy, undivided. T^2 keeps the size of the soft targets'
    gradients as T grows (Hinton et al. 2015, arXiv 1503.02531).

    A position has k + 1 outcomes: the candidates, and any other token. Of the teacher only their masses are stored; of
    the student they are taken from its logits. Both are raised to 1 / T and made to sum to 1 *as distributions over
    these outcomes*: how the teacher's tail was made up is not known, so that neither is its tempered mass, while the
    divergence of two distributions over the same outcomes is never negative, is 0 exactly where they are the same, and
    at k = vocabulary, where no token is left over, is that of the tempered distributions over all tokens. Truncated
    labels that leave the tail out, or scale the candidates up to 1, have none of that: the student is drawn away from
    what the teacher does (arXiv 2503.16870).

    Each outcome's part, t log(t / q) - t + q, is itself never negative, and the parts sum to the divergence since both
    masses sum to 1: so no rounding makes a loss below 0. With s_j a candidate's logit, and for the tail the logarithm
    of the sum of the exponentials of all other logits, q = softmax(s / T), and the gradient by s_j is (q_j - t_j) / T.
    It is finite however small the tail: no logarithm of 1 minus something is taken.
    """

    def __init__(self, targets: torch.Tensor, labels: Labels, temperature: float, alpha: float) -> None:
        """targets [N] int64: the tokens that follow."""
        self.targets, self.labels = targets, labels
        self.temperature, self.alpha = temperature, alpha
        self.positions = len(targets)
        self.covered = int(labels.covered.sum())
        self.cross_entropy = labels.logprobs.new_zeros(())  # sums over the positions seen so far
        self.divergence = labels.logprobs.new_zeros(())

    @property
    def figures(self) -> dict[str, tuple[torch.Tensor, int]]:
        """The cross-entropy of all positions, and the divergence (at the temperature, without T^2) of those covered."""
        return {
            "cross_entropy": (self.cross_entropy, self.positions),
            "divergence": (self.divergence, self.covered),
        }

    def __call__(self, logits: torch.Tensor, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """The summed loss of logits [rows, vocabulary] at the positions `rows`, and its gradient in their place."""
        covered, ids = self.labels.covered[rows, None], self.labels.ids[rows]
        targets = self.targets[rows, None]
        used = ids >= 0
        at = used.nonzero(as_tuple=True)[0], ids[used]
        picked = logits.gather(1, targets)
        named = logits.gather(1, ids.clamp_min(0)).masked_fill_(~used, -torch.inf)
        logits[at] = -torch.inf
        rest, masses, left = _rest(logits)
        scores = torch.cat([named, rest], dim=1)
        told = self.labels.logprobs[rows]
        # Where every token is a candidate there is no other: a tail is what rounding left of the teacher's masses.
        told = torch.cat([told[:, :-1], told[:, -1:].masked_fill(left == 0, -torch.inf)], dim=1)

        teacher = torch.log_softmax(told / self.temperature, dim=1)
        student = torch.log_softmax(scores / self.temperature, dim=1)
        divergence = divergences(teacher, student)
        entropy = scores.logsumexp(1, keepdim=True) - picked
        soft = covered * self.alpha
        hard = 1 - soft
        self.divergence = self.divergence + divergence.sum()
        self.cross_entropy = self.cross_entropy + entropy.sum()
        total = (soft * self.temperature**2 * divergence[:, None] + hard * entropy).sum()

        by_score = soft * self.temperature * (student.exp() - teacher.exp()) + hard * torch.softmax(scores, dim=1)
        gradient = masses.mul_(torch.where(left == 0, 0.0, by_score[:, -1:] / left))
        gradient[at] = by_score[:, :-1][used]
        gradient.scatter_add_(1, targets, -hard.expand(targets.shape))
        return total, gradient


def _rest(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of logits [rows, vocabulary] that are -inf where they do not count: the logarithm of the sum of exponentials
    [rows, 1], the exponentials themselves over that of the highest (in the logits' place), and their sum [rows, 1].
    """
    highest = logits.amax(1, keepdim=True)
    highest = highest.masked_fill_(highest == -torch.inf, 0.0)
    masses = logits.sub_(highest).exp_()
    left = masses.sum(1, keepdim=True)
    return highest + left.log(), masses, left


def divergences(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student) of each row of log-probabilities [rows, outcomes], in nats; never below 0.

    An outcome without mass is -inf. What the teacher gives mass to and the student none makes it infinite.
    """
    theirs, ours = teacher.exp(), student.exp()
    has = theirs >= torch.finfo(theirs.dtype).tiny  # less is nothing, and would not multiply exactly
    ratio = torch.where(has, student - teacher, 0.0)
    series = ratio * ratio * (1 / 2 + ratio * (1 / 6 + ratio * (1 / 24 + ratio / 120)))
    near, middle = theirs * series, theirs * (torch.expm1(ratio.clamp(max=1.0)) - ratio)
    far = ours - theirs - theirs * ratio
    parts = torch.where(ratio.abs() < _NEAR, near, torch.where(ratio.abs() <= 1, middle, far))
    return torch.where(has, parts, ours).sum(1)
