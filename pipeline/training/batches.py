"""Batches by length under a token budget or by count, in an order that a seed fixes, and their parts that go through
the student at once; it holds no tokens and imports no torch.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import count


def epoch_batches(
    lengths: Sequence[int],
    batch_tokens: int,
    seed: int,
    epoch: int,
    pool_batches: int,
    batch_examples: int | None = None,
    places: Sequence[float] | None = None,
) -> list[list[int]]:
    """Indices of one epoch's batches, each index once. The same arguments give the same batches.

    Examples are shuffled, then sorted by length within pools of about `pool_batches` batches, then cut into batches
    whose size padding included (examples x longest) stays within `batch_tokens`, then the batches are shuffled. An
    example longer than the budget is a batch of its own. With `batch_examples` the shuffled examples are cut into
    batches of so many, whatever their lengths.

    With `places`, one of each example, the pools come in their order (a curriculum, Bengio et al. 2009): examples are
    shuffled within a pool alone, and batches of `batch_examples` not at all.
    """
    rng = random.Random(f"{seed}-{epoch}")
    order = list(range(len(lengths)))
    rng.shuffle(order)
    if places is not None:
        order.sort(key=lambda index: places[index])
    if batch_examples is not None:
        return [order[start : start + batch_examples] for start in range(0, len(order), batch_examples)]
    pools = [
        _cut(sorted(pool, key=lambda index: lengths[index]), lengths, batch_tokens)
        for pool in _pools(order, lengths, batch_tokens * pool_batches)
    ]
    if places is None:
        pools = [[batch for pool in pools for batch in pool]]
    for batches in pools:
        rng.shuffle(batches)
    return [batch for batches in pools for batch in batches]


def _pools(order: Sequence[int], lengths: Sequence[int], pool_tokens: int) -> Iterator[list[int]]:
    pool: list[int] = []
    tokens = 0
    for index in order:
        pool.append(index)
        tokens += lengths[index]
        if tokens >= pool_tokens:
            yield pool
            pool, tokens = [], 0
    if pool:
        yield pool


def _cut(ascending: Sequence[int], lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Consecutive runs of a list sorted by length, as long as the budget allows."""
    batches: list[list[int]] = []
    for index in ascending:
        if batches and (len(batches[-1]) + 1) * lengths[index] <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def within(of_epoch: Callable[[int], list[list[int]]], learnt: Sequence[int], budget: int) -> list[list[int]]:
    """The batches of epoch after epoch, up to where the tokens learnt in them are nearest to a budget.

    of_epoch: an epoch's batches by its number, from 0 on. learnt: the tokens to learn of each example.
    """
    found: list[list[int]] = []
    left = budget
    for epoch in count() if any(learnt) else ():
        for batch in of_epoch(epoch):
            tokens = sum(learnt[index] for index in batch)
            if left < tokens / 2:
                return found
            found.append(batch)
            left -= tokens
    return found


def parts(batch: Sequence[int], lengths: Sequence[int], batch_tokens: int, packed: bool = False) -> list[list[int]]:
    """A batch in parts that go through the student one after another, each within `batch_tokens` positions.

    Shorter examples come first. Padded to its longest example, a part has examples x longest positions; packed, the
    sum of their lengths. An example longer than the budget is a part of its own.
    """
    ascending = sorted(batch, key=lambda index: lengths[index])
    if not packed:
        return _cut(ascending, lengths, batch_tokens)
    found: list[list[int]] = []
    room = 0
    for index in ascending:
        if not found or lengths[index] > room:
            found.append([])
            room = batch_tokens
        found[-1].append(index)
        room -= lengths[index]
    return found


def padding_share(batches: Sequence[Sequence[int]], lengths: Sequence[int]) -> float:
    """The share of positions that hold padding when each batch is padded to its longest example."""
    padded = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)
    real = sum(lengths[index] for batch in batches for index in batch)
    return 1 - real / padded if padded else 0.0
