"""What inner states are compared by: each term and its gradient against plain float64 loops, and the layer maps."""

import math
from collections.abc import Callable
from typing import Any

import pytest

Numbers = list[list[float]]


def differences(loss: Callable[[Any], float], values: Any, step: float = 1e-6) -> Any:
    """The gradient of a loss at float64 values, by central differences of the loss as another has written it."""
    import torch

    found = torch.zeros_like(values)
    for place in range(values.numel()):
        moved = [values.clone(), values.clone()]
        moved[0].view(-1)[place] += step
        moved[1].view(-1)[place] -= step
        found.view(-1)[place] = (loss(moved[0]) - loss(moved[1])) / (2 * step)
    return found


def plain_mse(student: Numbers, teacher: Numbers) -> float:
    squares = [
        (a - b) ** 2 for one, other in zip(student, teacher, strict=True) for a, b in zip(one, other, strict=True)
    ]
    return sum(squares) / len(squares)


def plain_cosine(student: Numbers, teacher: Numbers) -> float:
    total = 0.0
    for one, other in zip(student, teacher, strict=True):
        product = sum(a * b for a, b in zip(one, other, strict=True))
        total += 1 - product / math.sqrt(sum(a * a for a in one) * sum(b * b for b in other))
    return total / len(student)


def plain_distances(student: Numbers, teacher: Numbers) -> float:
    def relative(points: Numbers) -> list[float]:
        found = [math.dist(points[i], points[j]) for i in range(len(points)) for j in range(i)]
        return [distance * len(found) / sum(found) for distance in found]

    gaps = [abs(a - b) for a, b in zip(relative(student), relative(teacher), strict=True)]
    return sum(0.5 * gap**2 if gap <= 1 else gap - 0.5 for gap in gaps) / len(gaps)


def plain_similarities(student: Numbers, teacher: Numbers) -> float:
    def rows(points: Numbers) -> Numbers:
        products = [[sum(a * b for a, b in zip(one, other, strict=True)) for other in points] for one in points]
        return [[value / math.sqrt(sum(v * v for v in row)) for value in row] for row in products]

    return plain_mse(rows(student), rows(teacher))


STATES = {
    "hidden_mse": (plain_mse, 5),
    "hidden_cosine": (plain_cosine, 5),
    "distance_relations": (plain_distances, 3),
    "similarity_relations": (plain_similarities, 3),
}


@pytest.mark.parametrize("name", list(STATES))
def test_a_term_of_hidden_states_and_its_gradient_are_those_of_plain_loops(name: str) -> None:
    import torch

    from pipeline.objectives import terms

    plain, width = STATES[name]
    torch.manual_seed(0)
    student = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    teacher = 3 * torch.randn(4, width, dtype=torch.float64)
    found = getattr(terms, name)(student, teacher)
    assert found.item() == pytest.approx(plain(student.tolist(), teacher.tolist()), rel=1e-9)
    found.backward()
    expected = differences(lambda moved: plain(moved.tolist(), teacher.tolist()), student.detach())
    assert torch.allclose(student.grad, expected, atol=1e-7)


def plain_attention(kind: str, student: Any, teacher: Any) -> float:
    """Of attention scores of the student [queries][heads][keys] and attention probabilities of the teacher."""
    total, maps = 0.0, 0
    for one, other in zip(student, teacher, strict=True):
        for scores, theirs in zip(one, other, strict=True):
            whole = sum(math.exp(score) for score in scores)
            ours = [math.exp(score) / whole for score in scores]
            pairs = list(zip(theirs, ours, strict=True))
            if kind == "kl":
                total += sum(p * math.log(p / q) for p, q in pairs if p > 0)
            else:
                total += sum((p - q) ** 2 for p, q in pairs)
            maps += 1
    return total / maps


@pytest.mark.parametrize("kind", ["kl", "mse"])
def test_a_term_of_attention_and_its_gradient_are_those_of_plain_loops(kind: str) -> None:
    import torch

    from pipeline.objectives import terms

    torch.manual_seed(1)
    scores = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 2, 4, dtype=torch.float64)
    teacher[:, :, 3] = -math.inf  # a key that is yet to come
    teacher = teacher.softmax(-1)
    found = getattr(terms, f"attention_{kind}")(scores.softmax(-1), teacher)
    assert found.item() == pytest.approx(plain_attention(kind, scores.tolist(), teacher.tolist()), rel=1e-9)
    found.backward()
    expected = differences(lambda moved: plain_attention(kind, moved.tolist(), teacher.tolist()), scores.detach())
    assert torch.allclose(scores.grad, expected, atol=1e-7)


@pytest.mark.parametrize("kind", ["kl", "mse"])
def test_keys_that_nobody_looks_at_change_no_attention_term(kind: str) -> None:
    import torch

    from pipeline.objectives import terms

    term = getattr(terms, f"attention_{kind}")
    torch.manual_seed(2)
    student, teacher = torch.randn(3, 2, 4).softmax(-1), torch.randn(3, 2, 4).softmax(-1)
    wider = [torch.nn.functional.pad(one, (0, 5)).requires_grad_() for one in (student, teacher)]
    found = term(*wider)
    assert found.item() == pytest.approx(term(student, teacher).item(), rel=1e-6)
    found.backward()
    assert wider[0].grad is not None
    assert wider[0].grad.isfinite().all()


def test_equal_states_cost_nothing() -> None:
    import torch

    from pipeline.objectives import terms

    states = torch.randn(5, 6)
    maps = torch.randn(5, 2, 3).softmax(-1)
    for name in STATES:
        assert getattr(terms, name)(states, states).item() == pytest.approx(0, abs=1e-6)
    for name in ("attention_kl", "attention_mse"):
        assert getattr(terms, name)(maps, maps).item() == pytest.approx(0, abs=1e-6)


def test_relations_see_neither_the_size_nor_the_direction_of_states() -> None:
    import torch

    from pipeline.objectives import terms

    states = torch.randn(5, 6)
    turned = 7 * states @ torch.linalg.qr(torch.randn(6, 6))[0]
    assert terms.distance_relations(turned, states).item() == pytest.approx(0, abs=1e-6)
    assert terms.similarity_relations(turned, states).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("name", "count"), [("distance_relations", 2), ("similarity_relations", 1)])
@pytest.mark.parametrize("repeated", [False, True])
def test_a_batch_without_relations_has_a_loss_and_gradients_of_nothing(name: str, count: int, repeated: bool) -> None:
    import torch

    from pipeline.objectives import terms

    states = (torch.ones(4, 6) if repeated else torch.randn(count, 6)).requires_grad_()
    teacher = torch.ones(4, 3) if repeated else torch.randn(count, 3)
    loss = getattr(terms, name)(states, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert states.grad is not None
    assert states.grad.abs().max() < 1e-6


def test_a_sequence_is_the_mean_of_its_positions() -> None:
    import torch

    from pipeline.objectives import terms

    hidden = torch.randn(3, 4, 2)
    positions = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.bool)
    found = terms.sequence_means(hidden, positions)
    assert torch.allclose(found, torch.stack([(hidden[0, 1] + hidden[0, 2]) / 2, hidden[2, 3]]))


def test_terms_are_computed_in_float32() -> None:
    import torch

    from pipeline.objectives import terms

    states = torch.randn(4, 6, dtype=torch.bfloat16)
    assert {getattr(terms, name)(states, states).dtype for name in STATES} == {torch.float32}


@pytest.mark.parametrize(
    ("layers", "student", "teacher", "pairs"),
    [
        ("uniform", 4, 12, [(0, 2), (1, 5), (2, 8), (3, 11)]),
        ("uniform", 4, 24, [(0, 5), (1, 11), (2, 17), (3, 23)]),
        ("uniform", 3, 3, [(0, 0), (1, 1), (2, 2)]),
        ("uniform", 3, 5, [(0, 1), (1, 3), (2, 4)]),
        ("last", 4, 12, [(3, 11)]),
        (((0, 3), (1, 0)), 2, 4, [(0, 3), (1, 0)]),
    ],
)
def test_layers_are_mapped(layers: Any, student: int, teacher: int, pairs: list[tuple[int, int]]) -> None:
    from pipeline.objectives import terms

    assert terms.layer_pairs(layers, student, teacher) == pairs


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (((0, 4),), r"the pair \[0, 4\].* below 2 and 4"),
        (((2, 0),), r"the pair \[2, 0\]"),
        (((-1, 0),), r"the pair \[-1, 0\]"),
        ((), "no pair"),
    ],
)
def test_layers_that_are_not_there_are_refused(layers: Any, said: str) -> None:
    from pipeline.objectives import terms

    with pytest.raises(ValueError, match=said):
        terms.layer_pairs(layers, 2, 4)
    with pytest.raises(ValueError, match="student of 5 layers and a teacher of 4"):
        terms.layer_pairs("uniform", 5, 4)
