"""Several teachers' targets as one: the weighted mean of what they are known to say, and no mass beyond it."""

import math
from typing import Any

import numpy as np
import pytest

from pipeline.objectives.alignment import UNUSED, Targets, uncovered
from pipeline.objectives.mixture import mixture, shares


def made_up(tokens: int, k: int, vocabulary: int, seed: int, covered_share: float = 0.7) -> Targets:
    """Random targets, with holes among the candidates as a map across tokenizers leaves them."""
    draw = np.random.default_rng(seed)
    made = uncovered(tokens, k)
    for row in np.flatnonzero(draw.random(tokens) < covered_share):
        masses = draw.dirichlet(np.full(k + 1, 0.4))
        ids = draw.choice(vocabulary, k, replace=False)
        unused = draw.random(k) < 0.2
        made.covered[row] = True
        made.ids[row] = np.where(unused, UNUSED, ids)
        made.logprobs[row] = np.where(unused, -np.inf, np.log(masses[:k]))
        made.tail[row] = masses[k] + masses[:k][unused].sum()
    return made


def plainly(targets: list[Targets], weights: list[float], row: int) -> tuple[dict[int, float], float] | None:
    """A token's candidates with their masses, and the tail."""
    heard = [(weight, each) for weight, each in zip(weights, targets, strict=True) if each.covered[row] and weight]
    if not heard:
        return None
    total = math.fsum(weight for weight, _ in heard)
    masses: dict[int, float] = {}
    for weight, each in heard:
        for candidate, logprob in zip(each.ids[row].tolist(), each.logprobs[row].tolist(), strict=True):
            if candidate != UNUSED:
                masses[candidate] = masses.get(candidate, 0.0) + weight / total * math.exp(logprob)
    return masses, math.fsum(weight / total * float(each.tail[row]) for weight, each in heard)


def told(targets: Targets, row: int) -> tuple[dict[int, float], float] | None:
    if not targets.covered[row]:
        return None
    used = targets.ids[row] != UNUSED
    assert len(set(targets.ids[row][used].tolist())) == used.sum()
    assert (targets.logprobs[row][~used] == -np.inf).all()
    masses = np.exp(targets.logprobs[row][used].astype(float)).tolist()
    return dict(zip(targets.ids[row][used].tolist(), masses, strict=True)), float(targets.tail[row])


@pytest.mark.parametrize("weights", [[1, 1, 1], [3, 1, 0.5], [1, 0, 2], [0, 0, 1], [0, 0, 0]])
def test_a_mixture_is_the_mean_of_those_that_cover_a_token(weights: list[float]) -> None:
    targets = [made_up(60, k, 12, seed) for seed, k in enumerate((3, 5, 8))]
    found = mixture(targets, shares(targets, weights))
    for row in range(60):
        one, other = told(found, row), plainly(targets, weights, row)
        if one is None or other is None:
            assert one is other
            assert (found.ids[row] == UNUSED).all()
            assert found.tail[row] == 1
        else:
            assert one[0] == pytest.approx(other[0], rel=1e-5)
            assert one[1] == pytest.approx(other[1], rel=1e-5)
    masses = np.exp(found.logprobs.astype(float)).sum(axis=1) + found.tail
    assert masses == pytest.approx(1, abs=1e-5)


def test_a_candidate_is_never_above_the_true_mean_and_below_it_by_no_more_than_the_bound() -> None:
    draw = np.random.default_rng(1)
    tokens, vocabulary, k, weights = 50, 30, 6, np.array([0.7, 0.3])
    dense = draw.dirichlet(np.full(vocabulary, 0.3), (2, tokens))
    targets = []
    for one in dense:
        ids = np.argsort(-one, axis=1)[:, :k].astype(np.int32)
        masses = np.take_along_axis(one, ids, axis=1)
        targets.append(
            Targets(
                np.ones(tokens, np.bool_),
                ids,
                np.log(masses).astype(np.float32),
                (1 - masses.sum(axis=1)).astype(np.float32),
            )
        )
    found = mixture(targets, shares(targets, weights.tolist()))
    true = np.einsum("t,tnv->nv", weights, dense)
    for row in range(tokens):
        read = told(found, row)
        assert read is not None
        for candidate, mass in read[0].items():
            bound = sum(
                weight * min(each.tail[row], math.exp(each.logprobs[row, -1]))
                for weight, each in zip(weights, targets, strict=True)
                if candidate not in each.ids[row]
            )
            assert true[row, candidate] - bound - 1e-6 <= mass <= true[row, candidate] + 1e-6


def test_one_teacher_alone_is_left_as_it_is_but_for_the_order() -> None:
    only = made_up(40, 6, 20, seed=3)
    targets = [only, made_up(40, 4, 20, seed=4)]
    found = mixture(targets, shares(targets, [2.0, 0.0]))
    assert (found.covered == only.covered).all()
    for row in range(40):
        one, other = told(found, row), told(only, row)
        assert one == other or (one and other and one[0] == pytest.approx(other[0], rel=1e-6) and one[1] == other[1])


def test_what_cannot_be_mixed_is_refused() -> None:
    one, longer = made_up(5, 3, 9, 1), made_up(6, 3, 9, 1)
    cases: tuple[tuple[Any, Any], ...] = (
        ([one, longer], [1, 1]),
        ([one, one], [1]),
        ([], []),
        ([one], [-1.0]),
        ([one], [math.nan]),
    )
    for targets, weights in cases:
        with pytest.raises(ValueError, match="expected"):
            shares(targets, weights)
