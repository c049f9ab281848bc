"""The formulas against small cases by hand, and the intervals against what they promise: coverage, by simulation."""

import itertools
import math

import numpy as np
import pytest

from pipeline.statistics import (
    Estimate,
    gap_recovered,
    majority,
    mean_interval,
    paired_interval,
    pass_at_k,
    t_quantile,
    wilson,
)


@pytest.mark.parametrize(
    ("n", "c", "k", "value"),
    [(1, 0, 1, 0.0), (1, 1, 1, 1.0), (10, 3, 1, 0.3), (4, 2, 4, 1.0), (4, 0, 4, 0.0), (5, 1, 5, 1.0), (4, 1, 2, 0.5)],
)
def test_pass_at_k_of_small_cases(n: int, c: int, k: int, value: float) -> None:
    assert pass_at_k(n, c, k) == pytest.approx(value, abs=1e-15)


def test_pass_at_k_is_the_share_of_draws_with_a_right_one() -> None:
    draws = list(itertools.combinations([1, 1, 0, 0, 0, 0, 0], 3))
    assert pass_at_k(7, 2, 3) == pytest.approx(sum(any(draw) for draw in draws) / len(draws))


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 5), (4, 1, 0)])
def test_pass_at_k_refuses_impossible_counts(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"pass@{k} of {c} right among {n}"):
        pass_at_k(n, c, k)


@pytest.mark.parametrize(
    ("votes", "winner"),
    [
        ([], None),
        ([None, None], None),
        (["7"], 0),
        (["3", "7", "7"], 1),
        (["3", "7"], 0),
        ([None, None, None, "7"], 3),
        (["3", "7", None, "7", "3", "3"], 0),
    ],
)
def test_the_majority_is_the_first_vote_for_the_most_common_choice(votes: list[str | None], winner: int | None) -> None:
    assert majority(votes) == winner


@pytest.mark.parametrize(
    ("degrees", "value", "within"),
    [
        (1, 12.7062, 1e-3),
        (2, 4.30265, 1e-4),
        (3, 3.18245, 4e-3),
        (6, 2.44691, 2e-4),
        (29, 2.04523, 1e-5),
        (255, 1.96931, 1e-5),
    ],
)
def test_t_quantiles_agree_with_the_printed_tables(degrees: int, value: float, within: float) -> None:
    assert t_quantile(0.975, degrees) == pytest.approx(value, abs=within)


def test_one_answer_a_question_gives_the_wilson_interval() -> None:
    found = mean_interval([1.0] * 30 + [0.0] * 70)
    t2, size = t_quantile(0.975, 99) ** 2, 99
    centre = (0.3 + t2 / (2 * size)) / (1 + t2 / size)
    half = math.sqrt(t2 * (0.3 * 0.7 / size + t2 / (4 * size**2))) / (1 + t2 / size)
    assert (found.value, found.low, found.high) == pytest.approx((0.3, centre - half, centre + half))


@pytest.mark.parametrize(
    ("right", "samples", "expected"),
    [
        (0, 0, (None, None, None)),
        (0, 10, (0.0, 0.0, 0.2775)),
        (10, 10, (1.0, 0.7225, 1.0)),
        (8, 10, (0.8, 0.4902, 0.9433)),
        (1, 1, (1.0, 0.2065, 1.0)),
    ],
)
def test_a_pass_rate_has_the_score_interval(
    right: int, samples: int, expected: tuple[float | None, float | None, float | None]
) -> None:
    found = wilson(right, samples)
    if samples:
        assert (found.value, found.low, found.high) == pytest.approx(expected, abs=5e-5)
    else:
        assert (found.value, found.low, found.high) == expected


def test_a_pass_rate_refuses_impossible_counts() -> None:
    with pytest.raises(ValueError, match="3 right among 2 samples"):
        wilson(3, 2)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_right_or_all_wrong_still_has_a_width(share: float) -> None:
    found = mean_interval([share] * 20, samples=8)
    assert found.value == share
    assert found.low <= share <= found.high
    assert 0.1 < found.high - found.low < 0.25


def test_equal_shares_count_as_at_most_one_answer_a_sample() -> None:
    alike, pooled = mean_interval([0.5] * 20, samples=4), mean_interval([0.0, 1.0] * 40)
    assert alike.low == pytest.approx(pooled.low, abs=0.01)


def test_without_questions_nothing_is_claimed() -> None:
    assert mean_interval([]) == paired_interval([], []) == gap_recovered([], [], []) == Estimate(None, None, None)
    assert mean_interval([1.0]) == Estimate(1.0, 0.0, 1.0)
    assert paired_interval([1.0], [0.0]) == Estimate(1.0, -1.0, 1.0)


def test_the_paired_interval_is_the_t_interval_of_the_differences() -> None:
    a, b = [0.5, 1.0, 0.0, 0.5], [0.0, 1.0, 0.0, 0.25]
    half = t_quantile(0.975, 3) * float(np.std([0.5, 0.0, 0.0, 0.25], ddof=1)) / 2
    found = paired_interval(a, b)
    assert (found.value, found.low, found.high) == pytest.approx((0.1875, 0.1875 - half, 0.1875 + half))


def test_what_questions_have_in_common_cancels() -> None:
    hard = [0.0, 0.1, 0.9, 1.0, 0.5, 0.3, 0.7, 0.2]
    found = paired_interval([share * 0.9 + 0.1 for share in hard], [share * 0.9 for share in hard])
    assert found.value == pytest.approx(0.1)
    assert paired_interval([1.0, 0.9] * 4, [0.9, 0.7] * 4).low > 0.1


def test_equal_differences_still_have_a_width() -> None:
    found = paired_interval([1.0] * 40, [1.0] * 40)
    assert found.value == 0.0
    assert found.low == pytest.approx(-found.high)
    assert 0.02 < found.high < 0.15


def test_what_floating_point_leaves_over_is_no_difference_and_no_gap() -> None:
    third = 1 / 3
    teacher, base, student = (0.0, 3 * third, third), (1.0, third, 0.0), (third, third, third)
    assert sum(teacher) - sum(base) == pytest.approx(0, abs=1e-12)
    assert gap_recovered(student, base, teacher) == Estimate(None, None, None)
    found = paired_interval([2 / 3, 1, 2 / 3, 1], [third, 2 / 3, third, 2 / 3])
    assert found.high - found.low > 0.5


def test_different_questions_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="2 questions beside 3"):
        paired_interval([0.0, 1.0, 1.0], [0.0, 1.0])


def test_the_gap_recovered_is_the_ratio_of_the_means() -> None:
    rng = np.random.default_rng(3)
    teacher, base = rng.binomial(1, 0.6, 256), rng.binomial(1, 0.05, 256)
    student = rng.binomial(1, 0.4, 256)
    found = gap_recovered(student, base, teacher)
    assert found.value == pytest.approx((student.mean() - base.mean()) / (teacher.mean() - base.mean()))
    assert 0.3 < found.low < found.value < found.high < 1.0
    assert found == gap_recovered(student, base, teacher)


def test_without_a_gap_there_is_no_ratio() -> None:
    assert gap_recovered([1.0, 0.0], [1.0, 0.0], [0.0, 1.0]) == Estimate(None, None, None)


def test_a_gap_that_may_be_none_leaves_the_ratio_unbounded() -> None:
    found = gap_recovered([1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0])
    assert found.value == 0.0
    assert (found.low, found.high) == (None, None)


@pytest.mark.parametrize(
    ("student", "base", "teacher", "value"),
    [
        ([0.0], [0.0], [1.0], 0.0),
        ([0.0, 1.0] * 50, [0.0, 1.0] * 50, [1.0, 1.0] * 50, 0.0),
        ([1.0] * 6, [0.0] * 6, [1.0] * 6, 1.0),
    ],
)
def test_questions_that_all_say_the_same_bound_no_gap(
    student: list[float], base: list[float], teacher: list[float], value: float
) -> None:
    assert gap_recovered(student, base, teacher) == Estimate(value, None, None)


COVERED = 0.93  # of a nominal .95; 2,000 simulations have a standard error of .005


@pytest.mark.parametrize(
    ("questions", "samples", "shape"),
    [(30, 16, (0.5, 0.5)), (30, 16, (1.0, 1.0)), (30, 16, (3.0, 0.3)), (30, 1, (0.5, 0.5)), (256, 1, (0.3, 3.0))],
)
def test_the_interval_of_accuracy_covers_what_it_claims(
    questions: int, samples: int, shape: tuple[float, float]
) -> None:
    rng = np.random.default_rng(11)
    truth = shape[0] / sum(shape)
    trials = rng.binomial(samples, rng.beta(*shape, size=(2000, questions))) / samples
    found = [mean_interval(trial, samples) for trial in trials]
    assert np.mean([one.low <= truth <= one.high for one in found]) >= COVERED


def test_a_pooled_interval_would_not_cover() -> None:
    """The check on the check: the simulation tells a right interval from the wrong one that peers print."""
    rng = np.random.default_rng(11)
    trials = rng.binomial(16, rng.beta(0.5, 0.5, size=(2000, 30))) / 16
    mean = trials.mean(axis=1)
    half = 1.96 * np.sqrt(mean * (1 - mean) / (30 * 16))
    assert np.mean(np.abs(mean - 0.5) <= half) < 0.6


@pytest.mark.parametrize(("questions", "samples"), [(30, 16), (256, 1)])
def test_the_paired_interval_covers_what_it_claims(questions: int, samples: int) -> None:
    rng = np.random.default_rng(12)
    hard = rng.beta(0.6, 0.6, size=(2000, questions))
    better = rng.binomial(samples, 0.3 + 0.7 * hard) / samples
    worse = rng.binomial(samples, hard) / samples
    found = [paired_interval(a, b) for a, b in zip(better, worse, strict=True)]
    assert np.mean([one.low <= 0.15 <= one.high for one in found]) >= COVERED


def test_the_gap_recovered_covers_what_it_claims() -> None:
    rng = np.random.default_rng(13)
    found = []
    for _ in range(200):
        hard = rng.beta(0.8, 0.8, 128)
        found.append(gap_recovered(*(rng.binomial(1, share * hard) for share in (0.6, 0.1, 0.9))))
    truth = (0.6 - 0.1) / (0.9 - 0.1)
    assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.92
