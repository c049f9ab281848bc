"""The soft-label loss against a dense one in float64 that shares no line with it, and its schedules."""

import math
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.objectives.soft_labels import Config

VOCABULARY = 23


def drawn(positions: int = 6, seed: int = 0, peak: float = 3.0) -> tuple[Any, Any, Any]:
    """Student's logits and teacher's logprobs [positions, vocabulary] in float64, and targets."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    student = peak * torch.randn(positions, VOCABULARY, generator=draw, dtype=torch.float64)
    teacher = (peak * torch.randn(positions, VOCABULARY, generator=draw, dtype=torch.float64)).log_softmax(1)
    return student, teacher, torch.randint(0, VOCABULARY, (positions,), generator=draw)


def labels(teacher: Any, k: int, covered: Any = None, spare: int = 0) -> Any:
    """The teacher's k likeliest candidates as the loss takes them, `spare` unused places among them."""
    import torch

    from pipeline.objectives.divergence import Labels

    positions = len(teacher)
    found = teacher.topk(k, dim=1)
    ids = torch.full((positions, k + spare), -1)
    logprobs = torch.full((positions, k + spare + 1), -torch.inf)
    places = torch.arange(k) + spare  # the unused ones come first
    ids[:, places] = found.indices
    logprobs[:, places] = found.values.float()
    tail = (1 - found.values.exp().sum(1)).clamp_min(0) if k < VOCABULARY else torch.zeros(positions)
    logprobs[:, -1] = tail.log().float()
    covered = torch.ones(positions, dtype=torch.bool) if covered is None else covered
    ids[~covered] = -1
    logprobs[~covered] = -torch.inf
    logprobs[~covered, -1] = 0
    return Labels(covered, ids, logprobs)


def dense(student: Any, teacher: Any, targets: Any, k: int, temperature: float, alpha: float, covered: Any) -> Any:
    """Every probability written out, candidates by candidates, in float64."""
    import torch

    total = student.new_zeros(())
    for logits, wanted, target, soft in zip(student, teacher, targets, covered, strict=True):
        masses = torch.exp(logits) / torch.exp(logits).sum()
        hard = -torch.log(masses[target])
        if not soft:
            total = total + hard
            continue
        chosen = torch.argsort(wanted, descending=True)[:k]
        others = torch.tensor([each for each in range(VOCABULARY) if each not in chosen.tolist()], dtype=torch.long)
        ours = [masses[each] for each in chosen]
        theirs = [wanted[each].exp() for each in chosen]
        if len(others):
            ours.append(masses[others].sum())
            theirs.append(wanted[others].exp().sum())
        ours, theirs = (torch.stack(part) ** (1 / temperature) for part in (ours, theirs))
        ours, theirs = ours / ours.sum(), theirs / theirs.sum()
        divergence = (theirs * (theirs / ours).log()).sum()
        total = total + alpha * temperature**2 * divergence + (1 - alpha) * hard
    return total


def ours(student: Any, given: Any, targets: Any, temperature: float, alpha: float) -> tuple[float, Any]:
    """Value and gradient of the loss, in two blocks."""
    import torch

    from pipeline.objectives.divergence import Blend

    blend = Blend(targets, given, temperature, alpha)
    parts = [blend(student[rows].detach().float(), rows) for rows in (slice(0, 2), slice(2, len(student)))]
    return float(sum(value for value, _ in parts)), torch.cat([gradient for _, gradient in parts])


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("k", [1, 5, VOCABULARY - 1, VOCABULARY])
def test_value_and_gradient_are_those_of_the_dense_loss(k: int, alpha: float, temperature: float) -> None:
    import torch

    student, teacher, targets = drawn()
    covered = torch.tensor([True, True, False, True, False, True])
    exact = dense(student.requires_grad_(), teacher, targets, k, temperature, alpha, covered)
    (wanted,) = torch.autograd.grad(exact, student)
    value, gradient = ours(student, labels(teacher, k, covered, spare=2), targets, temperature, alpha)
    assert value == pytest.approx(float(exact), rel=1e-5)
    assert torch.allclose(gradient.double(), wanted, atol=2e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_with_all_tokens_as_candidates_it_is_the_tempered_divergence_of_all_tokens(temperature: float) -> None:
    import torch

    student, teacher, targets = drawn(40, seed=1)
    exact = torch.nn.functional.kl_div(
        (student / temperature).log_softmax(1), (teacher / temperature).log_softmax(1), log_target=True, reduction="sum"
    )
    value, _ = ours(student, labels(teacher, VOCABULARY), targets, temperature, 1.0)
    assert value / temperature**2 / 40 == pytest.approx(float(exact) / 40, abs=1e-5)


@pytest.mark.parametrize("k", [3, VOCABULARY])
@pytest.mark.parametrize("peak", [0.0, 3.0, 30.0])
def test_the_divergence_of_a_student_that_says_what_its_teacher_says_is_0_and_draws_nowhere(
    k: int, peak: float
) -> None:
    import torch

    from pipeline.objectives.divergence import divergences

    _, teacher, targets = drawn(50, seed=2, peak=peak)
    value, gradient = ours(teacher, labels(teacher, k), targets, 1.0, 1.0)
    assert 0 <= value < 1e-6
    assert gradient.abs().max() < 1e-5
    drift = teacher.float() + 1e-7 * torch.randn(teacher.shape, generator=torch.Generator().manual_seed(3))
    assert (divergences(teacher.float().log_softmax(1), drift.log_softmax(1)) >= 0).all()


@pytest.mark.parametrize("gap", [20.0, 90.0, 500.0])
def test_a_tail_of_next_to_nothing_leaves_value_and_gradient_finite(gap: float) -> None:
    """The student's candidates are so likely that 1 minus their mass is 0 in float32, while the teacher has a tail."""
    import torch

    student, teacher, targets = drawn(seed=4)
    chosen = teacher.topk(5, dim=1).indices
    targets = chosen[:, 0]
    student = student.scatter(1, chosen, student.gather(1, chosen) + gap)
    given = labels(teacher, 5)
    value, gradient = ours(student, given, targets, 1.0, 1.0)
    tail = given.logprobs[:, -1].exp()
    assert math.isfinite(value)
    assert value > 0.5 * gap * float(tail.sum())  # what the teacher gives the tail costs its full logarithm
    assert torch.isfinite(gradient).all()
    outside = gradient.scatter(1, chosen, 0.0)
    assert torch.allclose(outside.sum(1), -tail, atol=1e-5)  # and draws as strongly as it can


def test_a_tail_that_rounding_left_where_every_token_is_a_candidate_is_none() -> None:
    student, teacher, targets = drawn(seed=5)
    given, rounded = labels(teacher, VOCABULARY), labels(teacher, VOCABULARY)
    rounded.logprobs[:, -1] = math.log(1e-6)
    assert ours(student, rounded, targets, 2.0, 0.7)[0] == ours(student, given, targets, 2.0, 0.7)[0]


def test_figures_are_the_sums_of_both_parts() -> None:
    import torch

    from pipeline.objectives.divergence import Blend

    student, teacher, targets = drawn(seed=6)
    covered = torch.tensor([True, True, False, True, False, True])
    given = labels(teacher, 5, covered)
    blend = Blend(targets, given, 2.0, 0.3)
    blend(student.float(), slice(0, 6))
    entropy, positions = blend.figures["cross_entropy"]
    divergence, some = blend.figures["divergence"]
    assert (positions, some) == (6, 4)
    assert float(entropy) == pytest.approx(float(dense(student, teacher, targets, 5, 2.0, 0.0, covered)), rel=1e-5)
    soft = dense(student, teacher, targets, 5, 2.0, 1.0, covered)
    hard = dense(student[~covered], teacher[~covered], targets[~covered], 5, 2.0, 0.0, covered[~covered])
    assert 4 * float(divergence) == pytest.approx(float(soft - hard), rel=1e-5)


@pytest.mark.parametrize(
    ("values", "moments"),
    [
        ({"alpha": 0.3, "temperature": 2.0}, {0.0: (2.0, 0.3), 0.99: (2.0, 0.3), 1.0: (2.0, 0.3)}),
        (
            {"temperature": {"start": 4.0, "end": 1.0}, "alpha": {"start": 0.2, "end": 1.0}},
            {0.0: (4.0, 0.2), 0.5: (2.5, 0.6), 1.0: (1.0, 1.0)},
        ),
        (
            {"temperature": {"start": 4.0, "end": 1.0, "shape": "cosine"}, "alpha": 1.0},
            {0.0: (4.0, 1.0), 0.5: (2.5, 1.0), 1 / 3: (3.25, 1.0), 1.0: (1.0, 1.0)},
        ),
        (
            {"temperature": {"start": 4.0, "end": 2.0}, "alpha": 0.5, "hard_share": 0.5},
            {0.0: (1.0, 0.0), 0.49: (1.0, 0.0), 0.5: (4.0, 0.5), 0.75: (3.0, 0.5), 1.0: (2.0, 0.5)},
        ),
    ],
)
def test_temperature_and_alpha_follow_their_schedules(
    values: dict[str, Any], moments: dict[float, tuple[float, float]]
) -> None:
    config = Config(**values)
    for moment, wanted in moments.items():
        assert config.at(moment) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"temperature": 0.0}, "temperature is 0.0; expected a number above 0"),
        ({"temperature": {"start": 2.0, "end": 0.0}}, "expected a number above 0"),
        ({"alpha": 1.5}, "alpha is 1.5; expected a share"),
        ({"alpha": {"start": -0.1, "end": 1.0}}, "expected a share"),
        ({"hard_share": 1.0}, "less than 1"),
        ({"alpha": {"start": 0.0, "end": 1.0, "shape": "steps"}}, "'linear' or 'cosine'"),
    ],
)
def test_values_that_mean_nothing_are_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Config(**values)
