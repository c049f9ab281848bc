import pytest

from pipeline.verifiers.exact import judge


@pytest.mark.parametrize(
    ("gold", "given", "outcome"),
    [
        ("Paris", "paris", "right"),
        ("Paris", " PARIS. ", "right"),
        ("Paris", r"\text{Paris}", "right"),
        ("Paris", "**Paris**", "right"),
        ("Paris", '"Paris"', "right"),
        ("Paris.", "Paris", "right"),
        ("Paris, France", "**Paris**, France", "right"),
        ("Paris, France", "Paris**, France", "right"),
        ("2**3", "2**3", "right"),
        ("new  york", "New York", "right"),
        ("-7", "−7", "right"),
        ("[1, 2]", "$[1, 2]$", "right"),
        ("Paris", "Paris, France", "wrong"),
        ("Paris", "Lyon", "wrong"),
        ("12", "21", "wrong"),
        ("2**3", "23", "wrong"),
        ("2 ** 3", "2 3", "wrong"),
        ("f(x, **kwargs)", "f(x, kwargs)", "wrong"),
        ("src/**/x.py", "src//x.py", "wrong"),
        ("-7", "7", "wrong"),
        ("1234", "1,234", "wrong"),
        ("10²", "102", "wrong"),
        ("1.5", "15", "wrong"),
        ("", "x", "undecided"),
        (" $ $ ", "x", "undecided"),
    ],
)
def test_the_same_text_is_right_whatever_its_typography(gold: str, given: str, outcome: str) -> None:
    assert judge(given, gold, {}).outcome == outcome


def test_an_empty_reference_decides_nothing() -> None:
    assert judge("", "", {}).reason == "gold_unparseable"
