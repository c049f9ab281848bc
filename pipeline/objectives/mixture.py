"""One distribution of several teachers for the tokens of a completion: the weighted mean of theirs.

It aligns nothing (`alignment.py`), and knows no teacher by name (`weights.py`): the targets it is given are of one
completion, in the student's vocabulary.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.objectives.alignment import UNUSED, Targets, summed

Shares = npt.NDArray[np.float64]


def shares(targets: Sequence[Targets], weights: Sequence[float]) -> Shares:
    """What each teacher counts at each token [S, teachers]: the weights of those that cover it, made to sum to 1.

    targets are of the same S tokens; weights are finite and at least 0. All are 0 at a token that no teacher with a
    weight covers. Raises ValueError for targets of different completions and for weights that are none.
    """
    sizes = {len(each.tail) for each in targets}
    if len(sizes) != 1 or len(weights) != len(targets):
        raise ValueError(
            f"found targets of {sorted(sizes)} tokens and {len(weights)} weights for {len(targets)} teachers; expected "
            f"targets of the same tokens and a weight of each teacher."
        )
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise ValueError(f"found the weights {list(weights)}; expected finite numbers of at least 0")
    found = np.stack([float(weight) * each.covered for weight, each in zip(weights, targets, strict=True)], axis=1)
    total = found.sum(axis=1, keepdims=True)
    return np.asarray(np.divide(found, total, out=np.zeros_like(found), where=total > 0))


def mixture(targets: Sequence[Targets], counts: Shares) -> Targets:
    """The weighted mean of several teachers' distributions for the S tokens of one completion, by their `shares`.

    targets may be of any k each, any number of them covered. A token where all shares are 0 is not covered.

    The candidates are those of all teachers together. What a teacher thinks of a token that is none of its own
    candidates is not known: it lies between 0 and the smaller of its tail and its least candidate's mass. It is taken
    as 0 and stays in the tail, where it is counted in any case. So the mixture's tail is the weighted mean of the
    teachers' tails, a candidate's mass is the weighted sum over the teachers that name it, and all add up to 1. A
    candidate that every teacher names has the exact mean; no other is too high, and none is too low by more than the
    shares of the teachers that do not name it, each times that bound. k is as large as the largest union.
    """
    with np.errstate(divide="ignore"):
        logs = np.log(counts)
    heard = counts > 0
    ids, logprobs = summed(
        np.concatenate(
            [np.where(takes[:, None], each.ids, UNUSED) for takes, each in zip(heard.T, targets, strict=True)], axis=1
        ),
        np.concatenate(
            [
                np.where(takes[:, None], each.logprobs + log[:, None], -np.inf)
                for takes, log, each in zip(heard.T, logs.T, targets, strict=True)
            ],
            axis=1,
        ),
    )
    k = max(1, int((ids != UNUSED).sum(axis=1).max(initial=0)))
    covered = np.asarray(heard.any(axis=1))
    tails = np.stack([each.tail for each in targets], axis=1)
    tail = np.where(covered, (counts * tails).sum(axis=1), 1.0).astype(np.float32)
    return Targets(covered, ids[:, :k], logprobs[:, :k], tail)
