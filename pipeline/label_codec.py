"""The encoding of a block of soft labels: ids exact, logprobs as fine as they weigh.

It keeps no checksum (`soft_labels.py` does); `label_model.py` codes the numbers it makes.

A logprob's level grows with -logprob in steps of `STEP` nats at mass 1 and, as mass falls, in proportion to the root of
1 / mass, which puts the same KL divergence on every candidate; from mass STEP^2 on a step is one nat. So no logprob is
off by more than half a nat. Where the likeliest candidate has `LED` of the mass or more, it is what the others and the
tail leave of 1, and needs no level. Elsewhere decoded masses and tail are made to add up to 1.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline import label_model
from pipeline.label_model import NOTHING, Ints

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

STEP = 1 / 160
LED = 0.6
_EDGE = -2 * np.log(STEP)  # nats; from here on a step is one
_EDGE_LEVEL = 2 / STEP - 2
_ROOM = 160  # bytes of a candidate at the worst odds


class Block(NamedTuple):
    """The labels of some tokens (see `soft_labels.SoftLabels`)."""

    sampled: npt.NDArray[np.int32]
    sampled_logprobs: Floats
    ids: npt.NDArray[np.int32]
    logprobs: Floats
    tail: Floats


def encode(block: Block) -> bytes:
    """A block in few bytes. Raises ValueError for a logprob that is not a number, and for a candidate named twice."""
    tokens, k = block.ids.shape
    levels = _levels(block.logprobs.astype(np.float64))
    ids = block.ids.astype(np.int64)
    order = np.argsort(levels << 32 | ids, axis=1)
    levels, ids = np.take_along_axis(levels, order, 1), np.take_along_axis(ids, order, 1)
    tops = np.exp(block.logprobs.max(axis=1).astype(np.float64)) >= LED
    floors = levels[:, -1].copy()
    levels[tops, 0] = label_model.TOP
    names, places = np.unique(ids, return_inverse=True)
    places = places.reshape(tokens, k)
    if (np.diff(np.sort(places, axis=1), axis=1) == 0).any():
        raise ValueError("a token's candidates must differ; found one twice")
    hits = ids == block.sampled[:, None]
    with np.errstate(divide="ignore"):
        tails = _levels(np.log(block.tail.astype(np.float64)))
    told = label_model.Block(
        ids=ids,
        levels=levels,
        tops=tops.astype(np.int64),
        floors=floors,
        tails=tails,
        ranks=np.where(hits.any(axis=1), hits.argmax(axis=1), k).astype(np.int64),
        sampled=block.sampled.astype(np.int64),
        own=_levels(block.sampled_logprobs.astype(np.float64)),
        names=names,
        places=places,
    )
    coder = label_model.writer(tokens * k * _ROOM, label_model.ODDS)
    label_model.tell(coder, told, label_model.memory(tokens, k, len(names)))
    return label_model.written(coder)


def decode(content: bytes, tokens: int, k: int) -> Block:
    """The block that was encoded: ids as they were, by falling logprob and rising id; logprobs near what they were.

    Raises ValueError for bytes that are no block of so many tokens with k candidates.
    """

    def none(*shape: int) -> Ints:
        return np.zeros(shape, np.int64)

    told = label_model.Block(
        ids=none(tokens, k),
        levels=none(tokens, k),
        tops=none(tokens),
        floors=none(tokens),
        tails=none(tokens),
        ranks=none(tokens),
        sampled=none(tokens),
        own=none(tokens),
        names=none(1),
        places=none(tokens, k),
    )
    coder = label_model.reader(content, label_model.ODDS)
    if not label_model.tell(coder, told, label_model.memory(tokens, k, 1)):
        raise ValueError(f"these {len(content)} bytes are no soft labels of {tokens} tokens with k = {k}")
    logprobs, tail = _balanced(_logprobs(told.levels), np.exp(_logprobs(told.tails)), told.tops == 1)
    inside = np.minimum(told.ranks, k - 1)
    own = np.where(told.ranks < k, logprobs[np.arange(tokens), inside], _logprobs(told.own))
    return Block(
        told.sampled.astype(np.int32),
        own.astype(np.float32),
        told.ids.astype(np.int32),
        logprobs.astype(np.float32),
        tail.astype(np.float32),
    )


def _levels(logprobs: Doubles) -> Ints:
    """The level of each logprob."""
    if np.isnan(logprobs).any():
        raise ValueError("a logprob is not a number; the model's logits are broken")
    nats = np.maximum(0.0, np.where(np.isneginf(logprobs), 0.0, -logprobs))
    fine = (1 - np.exp(-np.minimum(nats, _EDGE) / 2)) * 2 / STEP
    scaled = np.where(nats < _EDGE, fine, _EDGE_LEVEL + nats - _EDGE)
    levels = np.minimum(np.floor(scaled), NOTHING - 1)
    return np.where(np.isneginf(logprobs), NOTHING, levels).astype(np.int64)


def _middles() -> Doubles:
    """The logprob in the middle of each level; that of TOP, which comes last, is not known."""
    middles = np.arange(NOTHING + 2) + 0.5
    fine = 2 * np.log1p(-np.minimum(middles, _EDGE_LEVEL) * STEP / 2)
    logprobs = np.where(middles < _EDGE_LEVEL, fine, _EDGE_LEVEL - _EDGE - middles)
    logprobs[NOTHING:] = -np.inf
    return np.asarray(logprobs)


_MIDDLES = _middles()


def _logprobs(levels: Ints) -> Doubles:
    return np.asarray(_MIDDLES[levels])


def _balanced(logprobs: Doubles, tail: Doubles, tops: npt.NDArray[np.bool_]) -> tuple[Doubles, Doubles]:
    """Logprobs [T, k] and tails [T] whose masses add up to 1: by TOP, or as the smaller of both parts has it."""
    masses = np.exp(logprobs).sum(axis=1)
    logprobs[tops, 0] = np.log(np.maximum(1.0 - masses - tail, np.finfo(np.float64).tiny)[tops])
    led = ~tops & (tail <= 0.5) & (masses > 0)
    shift = np.log(np.where(led, (1.0 - tail) / np.where(masses > 0, masses, 1.0), 1.0))
    return logprobs + shift[:, None], np.where(tops | led, tail, np.maximum(0.0, 1.0 - masses))
