"""Batches: each example once an epoch, within the budget, in an order that the seed alone decides."""

import pytest

from pipeline.training.batches import epoch_batches, padding_share, parts, within

LENGTHS = [(7 * number * number) % 211 + 20 for number in range(300)]


def test_every_example_is_in_every_epoch_once() -> None:
    for epoch in range(3):
        batches = epoch_batches(LENGTHS, 1024, seed=5, epoch=epoch, pool_batches=8)
        assert sorted(index for batch in batches for index in batch) == list(range(len(LENGTHS)))


def test_no_batch_is_over_the_budget_unless_one_example_is() -> None:
    lengths = [*LENGTHS, 5000]
    batches = epoch_batches(lengths, 1024, seed=5, epoch=0, pool_batches=8)
    sizes = {tuple(batch): len(batch) * max(lengths[index] for index in batch) for batch in batches}
    assert [batch for batch, size in sizes.items() if size > 1024] == [(300,)]


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    first = epoch_batches(LENGTHS, 1024, seed=5, epoch=1, pool_batches=8)
    assert first == epoch_batches(list(LENGTHS), 1024, seed=5, epoch=1, pool_batches=8)
    assert first != epoch_batches(LENGTHS, 1024, seed=5, epoch=2, pool_batches=8)
    assert first != epoch_batches(LENGTHS, 1024, seed=6, epoch=1, pool_batches=8)


@pytest.mark.parametrize("budget", [1, 40, 7_000, 60_000])
def test_a_budget_takes_as_many_epochs_as_it_needs_and_is_missed_by_half_a_batch_at_most(budget: int) -> None:
    epochs = [epoch_batches(LENGTHS, 1024, seed=5, epoch=epoch, pool_batches=8) for epoch in range(9)]
    learnt = [length // 3 for length in LENGTHS]
    found = within(epochs.__getitem__, learnt, budget)
    assert found == [batch for epoch in epochs for batch in epoch][: len(found)]
    tokens = [sum(learnt[index] for index in batch) for batch in found]
    assert abs(sum(tokens) - budget) <= max([1024 // 3, *tokens]) / 2


def test_nothing_to_learn_fills_no_budget() -> None:
    assert within(lambda epoch: [[0]], [0], 10) == []


def test_with_places_the_pools_come_in_their_order_in_every_epoch() -> None:
    places = [(13 * index % 300) / 300 for index in range(300)]
    epochs = [
        epoch_batches([100] * 300, 1000, seed=5, epoch=epoch, pool_batches=8, places=places) for epoch in range(2)
    ]
    for batches in epochs:
        order = [places[index] for batch in batches for index in batch]
        pools = [order[start : start + 80] for start in range(0, 300, 80)]
        assert [place for pool in pools for place in sorted(pool)] == sorted(places)
        assert pools[0] != sorted(pools[0])
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize(
    ("batches", "share"),
    [([[0, 1], [2]], 10 / 70), ([[0], [1], [2]], 0.0), ([[0, 1, 2]], 30 / 90), ([], 0.0)],
)
def test_padding_share(batches: list[list[int]], share: float) -> None:
    assert padding_share(batches, [10, 20, 30]) == pytest.approx(share)


def test_pools_pad_little() -> None:
    pooled = epoch_batches(LENGTHS, 1024, seed=5, epoch=0, pool_batches=16)
    unsorted = epoch_batches(LENGTHS, 1024, seed=5, epoch=0, pool_batches=1)
    assert padding_share(pooled, LENGTHS) < 0.1 < padding_share(unsorted, LENGTHS)


def test_batches_by_count_hold_every_example_once_whatever_its_length() -> None:
    batches = epoch_batches(LENGTHS, 1024, seed=5, epoch=0, pool_batches=8, batch_examples=64)
    assert [len(batch) for batch in batches] == [64, 64, 64, 64, 44]
    assert sorted(index for batch in batches for index in batch) == list(range(len(LENGTHS)))
    assert batches != epoch_batches(LENGTHS, 1024, seed=5, epoch=1, pool_batches=8, batch_examples=64)


@pytest.mark.parametrize("packed", [False, True])
def test_the_parts_of_a_batch_are_the_batch_and_fit(packed: bool) -> None:
    lengths = [*LENGTHS, 5000]
    batch = list(range(len(lengths)))
    found = parts(batch, lengths, 1024, packed)
    assert sorted(index for part in found for index in part) == batch
    sizes = [
        sum(lengths[index] for index in part) if packed else len(part) * max(lengths[index] for index in part)
        for part in found
    ]
    assert [part for part, size in zip(found, sizes, strict=True) if size > 1024] == [[300]]
    assert len(found) <= sum(lengths) / 1024 * 1.3 + 1


def test_packing_takes_no_more_parts_than_padding_and_a_planned_batch_is_one_part() -> None:
    batch = list(range(64))
    assert len(parts(batch, LENGTHS, 1024, packed=True)) <= len(parts(batch, LENGTHS, 1024))
    for planned in epoch_batches(LENGTHS, 1024, seed=5, epoch=0, pool_batches=8):
        assert parts(planned, LENGTHS, 1024) == [planned]
