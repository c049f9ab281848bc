"""The statistics of evaluation: pass@k, intervals over questions, paired differences, the share of a gap recovered.

It knows no models or stages. A question is the unit of every interval here: answers to one question are not
independent, and intervals that pool them are far too narrow (Miller 2024, "Adding Error Bars to Evals").
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 10_000
_RESAMPLES_AT_ONCE = 500
_NOTHING = 1e-9  # sums of shares such as 2/3 that differ by less are equal: a single answer makes far more


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval. None: the questions cannot say (no question, no gap, no bound on that side)."""

    value: float | None
    low: float | None
    high: float | None

    @property
    def interval(self) -> list[float | None]:
        return [self.low, self.high]


NOTHING = Estimate(None, None, None)


def pass_at_k(n: int, c: int, k: int) -> float:
    """The unbiased estimate of the chance that at least one of k samples is right, from c right ones among n.

    1 - C(n-c, k) / C(n, k) (Chen et al. 2021, "Evaluating Large Language Models Trained on Code", eq. 1).
    Raises ValueError unless 0 <= c <= n and 1 <= k <= n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(
            f"pass@{k} of {c} right among {n} samples; expected 0 <= right <= samples and 1 <= k <= samples"
        )
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def majority(votes: Sequence[Hashable | None]) -> int | None:
    """The position of the first vote for the most common choice (cons@k; Wang et al. 2022, "Self-Consistency").

    None votes are abstentions. Ties go to the choice that was voted for first, which is fair where votes come in
    random order. None where nobody votes.
    """
    first: dict[Hashable, int] = {}
    count: dict[Hashable, int] = {}
    for position, vote in enumerate(votes):
        if vote is not None:
            first.setdefault(vote, position)
            count[vote] = count.get(vote, 0) + 1
    if not count:
        return None
    return first[max(count, key=lambda vote: (count[vote], -first[vote]))]


def wilson(right: int, samples: int) -> Estimate:
    """The share of right ones among independent samples, with its 95 % score interval (Wilson 1927, "Probable
    Inference"). NOTHING without samples; raises ValueError unless 0 <= right <= samples.
    """
    if not 0 <= right <= samples:
        raise ValueError(f"{right} right among {samples} samples; expected 0 <= right <= samples")
    if samples == 0:
        return NOTHING
    share, z2 = right / samples, NormalDist().inv_cdf((1 + CONFIDENCE) / 2) ** 2
    centre = (share + z2 / (2 * samples)) / (1 + z2 / samples)
    half = math.sqrt(z2 * (share * (1 - share) / samples + z2 / (4 * samples * samples))) / (1 + z2 / samples)
    return Estimate(share, 0.0 if right == 0 else centre - half, 1.0 if right == samples else centre + half)


def t_quantile(probability: float, degrees: int) -> float:
    """The quantile of Student's t. Exact for 1 and 2 degrees of freedom, else the series of Abramowitz and Stegun
    26.7.5 (at .975 within .004 of the true value at 3 degrees, within .0002 from 6 on).
    """
    if degrees < 1:
        raise ValueError(f"{degrees} degrees of freedom; expected at least 1")
    if degrees == 1:
        return math.tan(math.pi * (probability - 0.5))
    if degrees == 2:
        return (2 * probability - 1) / math.sqrt(2 * probability * (1 - probability))
    z: float = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / float(degrees) ** power for power, term in enumerate(terms, 1))


def scaled_mean(values: Sequence[float], factor: float) -> Estimate:
    """factor x the mean of values of any size, with Student's t interval (of one value: no bounds)."""
    found = np.asarray(values, dtype=np.float64)
    if len(found) == 0:
        return NOTHING
    mean = float(found.mean()) * factor
    if len(found) == 1:
        return Estimate(mean, None, None)
    half = _t(len(found) - 1) * float(found.std(ddof=1)) / math.sqrt(len(found)) * factor
    return Estimate(mean, max(0.0, mean - half), mean + half)


def mean_interval(per_question: Sequence[float], samples: int = 1) -> Estimate:
    """Accuracy with its 95 % interval, from each question's share of right answers (0 to 1).

    The spread between questions gives the standard error, which is that of errors clustered by question when each
    question counts once (Miller 2024, section 2.2). It is turned into an effective number of independent answers,
    accuracy (1 - accuracy) / error^2, for a Wilson score interval with the t quantile of the questions, so that it
    stays inside 0..1 and keeps a width when every answer is right or wrong. With no spread to go by, a question
    counts as one answer; the effective number never exceeds questions x `samples` (answers per question).
    """
    shares = np.asarray(per_question, dtype=np.float64)
    questions = len(shares)
    if questions == 0:
        return NOTHING
    mean = float(shares.mean())
    if questions == 1:
        return Estimate(mean, 0.0, 1.0)
    error2 = float(shares.var(ddof=1)) / questions
    mixed = 0.0 < mean < 1.0
    limit = questions * max(samples, 1)
    size = questions if not mixed else limit if error2 == 0.0 else min(mean * (1 - mean) / error2, limit)
    t2 = _t(questions - 1) ** 2
    centre = (mean + t2 / (2 * size)) / (1 + t2 / size)
    half = math.sqrt(t2 * (mean * (1 - mean) / size + t2 / (4 * size * size))) / (1 + t2 / size)
    low = 0.0 if mean == 0.0 else max(centre - half, 0.0)
    high = 1.0 if mean == 1.0 else min(centre + half, 1.0)
    return Estimate(mean, low, high)


def paired_interval(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """The mean of a - b over questions, which both answered in this order, with its 95 % t interval (Miller 2024,
    section 4: what questions have in common cancels).

    Where all differences are equal their spread says nothing; then two further questions, +1 and -1, stand in for
    the interval's sake (Bonett and Price 2012), so that it keeps a width. Raises ValueError for unequal lengths.
    """
    differences = _paired(a) - _paired(b, len(a))
    questions = len(differences)
    if questions == 0:
        return NOTHING
    mean = float(differences.mean())
    if questions == 1:
        return Estimate(mean, -1.0, 1.0)
    if float(np.ptp(differences)) < _NOTHING:
        differences = np.append(differences, (1.0, -1.0))
    centre = float(differences.mean())
    half = _t(len(differences) - 1) * math.sqrt(float(differences.var(ddof=1)) / len(differences))
    return Estimate(mean, max(centre - half, -1.0), min(centre + half, 1.0))


def gap_recovered(student: Sequence[float], base: Sequence[float], teacher: Sequence[float], seed: int = 0) -> Estimate:
    """(student - base) / (teacher - base) over the same questions, with a percentile bootstrap over questions.

    10,000 resamples, the same for the same seed (Efron and Tibshirani 1993, chapter 13). A resample in which the
    teacher is not above the base could have any ratio: it counts as below the lower bound and above the upper one.
    A bound that falls on such resamples is None, and so is the value without a gap; both bounds are where all resamples
    have one ratio (one question, or a student that answers every question as the base or as the teacher does), whose
    spread says nothing. Raises ValueError for unequal lengths.
    """
    floor = _paired(base, len(student))
    gains, gaps = _paired(student) - floor, _paired(teacher, len(student)) - floor
    questions = len(gains)
    if questions == 0 or gaps.sum() < _NOTHING:
        return NOTHING
    draw = np.random.default_rng(seed)
    low, high = np.empty(RESAMPLES), np.empty(RESAMPLES)
    for start in range(0, RESAMPLES, _RESAMPLES_AT_ONCE):
        picked = draw.integers(0, questions, size=(_RESAMPLES_AT_ONCE, questions))
        gain, gap = gains[picked].sum(axis=1), gaps[picked].sum(axis=1)
        here = slice(start, start + _RESAMPLES_AT_ONCE)
        open_gap = gap > _NOTHING
        ratio = np.divide(gain, gap, out=np.zeros_like(gain), where=open_gap)
        low[here] = np.where(open_gap, ratio, -np.inf)
        high[here] = np.where(open_gap, ratio, np.inf)
    tail, value = (1 - CONFIDENCE) / 2, float(gains.sum() / gaps.sum())
    known = low[np.isfinite(low)]
    if not len(known) or float(np.ptp(known)) < _NOTHING:
        return Estimate(value, None, None)
    return Estimate(
        value,
        _finite(float(np.quantile(low, tail, method="inverted_cdf"))),
        _finite(float(np.quantile(high, 1 - tail, method="inverted_cdf"))),
    )


def _t(degrees: int) -> float:
    return t_quantile((1 + CONFIDENCE) / 2, degrees)


def _paired(values: Sequence[float], length: int | None = None) -> np.ndarray:
    if length is not None and len(values) != length:
        raise ValueError(f"{len(values)} questions beside {length}; a paired comparison needs the same questions")
    return np.asarray(values, dtype=np.float64)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
