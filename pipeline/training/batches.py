"""Batches by length under a token budget, in an order that a seed fixes; it holds no tokens and imports no torch."""

import random
from collections.abc import Iterator, Sequence


def epoch_batches(
    lengths: Sequence[int],
    batch_tokens: int,
    seed: int,
    epoch: int,
    pool_batches: int,
    places: Sequence[float] | None = None,
) -> list[list[int]]:
    """Indices of one epoch's batches, each index once. The same arguments give the same batches.

    Examples are shuffled, then sorted by length within pools of about `pool_batches` batches, then cut into batches
    whose size padding included (examples x longest) stays within `batch_tokens`, then the batches are shuffled. An
    example longer than the budget is a batch of its own.

    With `places`, one of each example, the pools come in their order (a curriculum, Bengio et al. 2009): examples are
    shuffled within a pool alone.
    """
    rng = random.Random(f"{seed}-{epoch}")
    order = list(range(len(lengths)))
    rng.shuffle(order)
    if places is not None:
        order.sort(key=lambda index: places[index])
    pools: list[list[list[int]]] = []
    for pool in _pools(order, lengths, batch_tokens * pool_batches):
        pools.append(_cut(sorted(pool, key=lambda index: lengths[index]), lengths, batch_tokens))
    if places is None:
        pools = [[batch for cut in pools for batch in cut]]
    for cut in pools:
        rng.shuffle(cut)
    return [batch for cut in pools for batch in cut]


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


def all_batches(
    lengths: Sequence[int],
    batch_tokens: int,
    seed: int,
    epochs: int,
    pool_batches: int,
    places: Sequence[float] | None = None,
) -> list[list[int]]:
    """The batches of a whole training, epoch after epoch; an epoch's number of batches may differ by a few."""
    return [
        batch
        for epoch in range(epochs)
        for batch in epoch_batches(lengths, batch_tokens, seed, epoch, pool_batches, places)
    ]


def padding_share(batches: Sequence[Sequence[int]], lengths: Sequence[int]) -> float:
    """The share of positions that hold padding when each batch is padded to its longest example."""
    padded = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)
    real = sum(lengths[index] for batch in batches for index in batch)
    return 1 - real / padded if padded else 0.0
