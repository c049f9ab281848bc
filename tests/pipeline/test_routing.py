"""Which teachers answer a problem."""

import pytest

from pipeline.routing import Route, fitting

POOL = [{"id": f"p{number}", "task": "sum"} for number in range(400)]


def test_shares_split_the_problems_and_another_teacher_moves_none_between_the_others() -> None:
    routes = {"other": Route(share=3.0)}
    first = [fitting(["teacher", "other"], routes, True, row, {}) for row in POOL]
    assert {len(each) for each in first} == {1}
    assert 250 < sum(each == ["other"] for each in first) < 350
    grown = [fitting(["teacher", "other", "third"], routes, True, row, {}) for row in POOL]
    moved = [(old, new) for old, new in zip(first, grown, strict=True) if old != new]
    assert {new[0] for _, new in moved} == {"third"}
    assert 40 < len(moved) < 130


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        ({}, ["a", "b"]),
        ({"a": Route(domains=("maths",))}, ["a", "b"]),
        ({"a": Route(domains=("law",))}, ["b"]),
        ({"a": Route(tasks=("sum", "gcd")), "b": Route(tasks=("gcd",))}, ["a"]),
        ({"a": Route(domains=("maths",), tasks=("gcd",)), "b": Route(domains=("law",))}, []),
    ],
)
def test_a_route_names_domains_and_tasks(routes: dict[str, Route], expected: list[str]) -> None:
    assert fitting(["a", "b"], routes, False, POOL[0], {"p0": "maths"}) == expected
