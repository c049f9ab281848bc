"""One distribution of several teachers for the tokens of a completion.

It aligns nothing (`alignment.py`): the targets it is given are of one completion, in the student's vocabulary.
"""

import math
from collections.abc import Sequence

import numpy as np

from pipeline.objectives.alignment import UNUSED, Targets, summed


def mixture(targets: Sequence[Targets], weights: Sequence[float]) -> Targets:
    """The weighted mean of several teachers' distributions for the tokens of one completion.

    targets hold the same S tokens, with any k each; weights are finite and at least 0. At each token the weights are
    those of the teachers that cover it, made to sum to 1; a token that none of them covers is not covered.

    The candidates are those of all teachers together. What a teacher thinks of a token that is none of its own
    candidates is not known: it lies between 0 and the smaller of its tail and its least candidate's mass. It is taken
    as 0 and stays in the tail, where it is counted in any case. So a candidate's mass is never too high, it is too low
    by at most the share of the teachers that do not name it times those bounds, the masses add up to 1, and a
    candidate that all of them name has the exact mean. k is as large as the largest union. Raises ValueError for
    targets of different completions and for weights that are none.
    """
    sizes = {len(each.tail) for each in targets}
    if len(sizes) != 1 or len(weights) != len(targets):
        raise ValueError(
            f"found targets of {sorted(sizes)} tokens and {len(weights)} weights for {len(targets)} teachers; expected "
            f"targets of the same tokens and a weight of each teacher."
        )
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise ValueError(f"found the weights {list(weights)}; expected finite numbers of at least 0")
    shares = np.stack([float(weight) * each.covered for weight, each in zip(weights, targets, strict=True)], axis=1)
    total = shares.sum(axis=1)
    covered = total > 0
    shares[covered] /= total[covered, None]
    with np.errstate(divide="ignore"):
        logs = np.log(shares)
    heard = [share > 0 for share in shares.T]
    ids, logprobs = summed(
        np.concatenate(
            [np.where(takes[:, None], each.ids, UNUSED) for takes, each in zip(heard, targets, strict=True)], axis=1
        ),
        np.concatenate(
            [
                np.where(takes[:, None], each.logprobs + log[:, None], -np.inf)
                for takes, log, each in zip(heard, logs.T, targets, strict=True)
            ],
            axis=1,
        ),
    )
    k = max(1, int((ids != UNUSED).sum(axis=1).max(initial=0)))
    tails = np.stack([each.tail for each in targets], axis=1)
    tail = np.where(covered, (shares * tails).sum(axis=1), 1.0).astype(np.float32)
    return Targets(covered, ids[:, :k], logprobs[:, :k], tail)
