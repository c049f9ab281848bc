"""Made-up soft labels, and how far decoded ones are from the exact ones."""

import numpy as np
import numpy.typing as npt

from pipeline.soft_labels import SoftLabels, masses_left


def made_up(tokens: int, k: int, vocabulary: int, peak: float = 4.0, seed: int = 1) -> SoftLabels:
    """Labels from random logits over a vocabulary: the higher the peak, the surer the model. A token in ten is sampled
    from outside the candidates where there is an outside."""
    draw = np.random.default_rng(seed)
    whole = max(vocabulary, k)
    seen = min(whole, max(2000, k))  # candidates come from so many tokens
    some = np.sort(draw.choice(whole, seen, replace=False))
    logits = draw.normal(0, 2, (tokens, seen))
    logits[np.arange(tokens), draw.integers(0, seen, tokens)] += peak * 2
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)) if tokens else logits
    order = np.argsort(-logprobs, axis=1)
    sorted_logprobs = np.take_along_axis(logprobs, order, axis=1)
    places = np.minimum(draw.geometric(0.6, tokens) - 1, k - 1)
    if k < seen:
        places = np.where(draw.random(tokens) < 0.1, draw.integers(k, seen, tokens), places)
    rows = np.arange(tokens)
    given = sorted_logprobs[:, :k].astype(np.float32)
    return SoftLabels(
        some[order[rows, places]].astype(np.int32),
        sorted_logprobs[rows, places].astype(np.float32),
        some[order[:, :k]].astype(np.int32),
        given,
        masses_left(given),
    )


def kl(exact: SoftLabels, decoded: SoftLabels) -> npt.NDArray[np.float64]:
    """KL(exact || decoded) of each token in nats, over its candidates and the tail as one outcome more."""
    by_id = [np.argsort(labels.ids, axis=1) for labels in (exact, decoded)]
    ours = np.take_along_axis(exact.logprobs.astype(float), by_id[0], axis=1)
    theirs = np.take_along_axis(decoded.logprobs.astype(float), by_id[1], axis=1)
    left = 1 - np.exp(ours).sum(axis=1)
    tail = np.where(left > 1e-6, left, 0.0)  # float32 knows no smaller rest of 1
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = np.where(np.exp(ours) > 0, np.exp(ours) * (ours - theirs), 0.0).sum(axis=1)
        rest = np.where(tail > 0, tail * (np.log(tail) - np.log(decoded.tail.astype(float))), 0.0)
    return np.asarray(inside + rest)
