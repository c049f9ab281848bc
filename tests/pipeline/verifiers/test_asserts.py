"""Asserts are taken apart so that what is expected stays outside, and refused where that cannot be."""

from typing import Any

import pytest

from pipeline.verifiers import asserts
from pipeline.verifiers.asserts import equal, holds, literals, parse, settle
from pipeline.verifiers.calls import UnreadableError, decode, encode


@pytest.mark.parametrize(
    ("assertion", "expression", "relation", "expected"),
    [
        ("assert f(1) == 2", "f(1)", "equal", [2]),
        ("assert 2 == f(1)", "f(1)", "equal", [2]),
        ("assert f([1], key='a') == (1, -2.5), 'message'", "f([1], key='a')", "equal", [(1, -2.5)]),
        ("assert sorted(f(3)) == [1, 2]", "sorted(f(3))", "equal", [[1, 2]]),
        ("assert f(1) is None", "f(1)", "same", [None]),
        ("assert f(1) is True", "f(1)", "same", [True]),
        ("assert f(1) == True", "f(1)", "equal", [True]),
        ("assert f(1) in {1, 2}", "f(1)", "among", [{1, 2}]),
        ("assert abs(f(2) - 1.41) < 0.01", "f(2)", "within", [1.41, 0.01]),
        ("assert abs(1.41 - f(2)) <= 0.01", "f(2)", "near", [1.41, 0.01]),
        ("assert math.isclose(f(2), 1.41)", "f(2)", "close", [1.41, 1e-09, 0.0]),
        ("assert math.isclose(1.41, f(2), abs_tol=0.1)", "f(2)", "close", [1.41, 1e-09, 0.1]),
        ("assert f(1)", "f(1)", "true", [True]),
        ("assert not Stack().empty()", "Stack().empty()", "true", [False]),
        ("assert f([x for x in range(3)]) == 3", "f([x for x in range(3)])", "equal", [3]),
        ("assert [f(n + 1) for n in (1, 2)] == [3, 4]", "[f(n + 1) for n in (1, 2)]", "equal", [[3, 4]]),
        ("assert f(10 ** 9 + 7) == 1", "f(10 ** 9 + 7)", "equal", [1]),
        ("assert f(1) + f(2) == 3", "f(1) + f(2)", "equal", [3]),
    ],
)
def test_an_assert_is_an_expression_and_what_it_must_be(
    assertion: str, expression: str, relation: str, expected: list[Any]
) -> None:
    check = parse(assertion)
    assert (check.expression, check.relation, literals(check)) == (expression, relation, expected)
    settle(check, literals(check))


@pytest.mark.parametrize(
    "assertion",
    [
        "assert (f(1) == 2) == True",
        "assert [f(1) == 2] == [True]",
        "assert int(f(1) == 2) == 1",
        "assert f(1) - 2 == 0",
        "assert round(f(2) - 1.41, 2) == 0",
        "assert 4 % f(1) == 0",
        "assert isinstance(f(1), int)",
        "assert isinstance(f(1), int) == True",
        "assert all(f(n) for n in range(3))",
        "assert f(1).__eq__(2)",
        "assert (not f(1)) is True",
        "assert f(1) == 1 and f(2) == 2",
        "assert f(1) == f(1)",
        "assert f(1) != 2",
        "assert f(1) > 2",
        "assert 1 < f(1) < 3",
        "assert f(1) is not None",
        "assert abs(f(1) - f(2)) < 1",
        "assert abs(f(1) - 'x') < 1",
        "assert f(1) in 3",
        "assert x",
        "assert True",
        "f(1) == 2",
        "assert f(1) == 2; assert f(2) == 3",
        "import os",
        "assert",
        "assert (" + "(" * 500 + ")",
        "",
    ],
)
def test_an_assert_that_a_program_could_decide_or_nobody_understands_is_refused(assertion: str) -> None:
    with pytest.raises(ValueError, match=r"assert|no number|holds nothing"):
        settle(parse(assertion), literals(parse(assertion)))


def test_what_the_setup_imports_may_be_expected() -> None:
    check = parse("assert f(1) == Fraction(1, 2)", "from fractions import Fraction")
    assert check.constants == ("Fraction(1, 2)",)
    with pytest.raises(ValueError, match="not a literal"):
        literals(check)
    with pytest.raises(ValueError, match="not understood"):
        parse("assert f(1) == Fraction(1, 2)")


@pytest.mark.parametrize(
    ("assertion", "value", "tolerance", "met"),
    [
        ("assert f(1) == 2", 2, None, True),
        ("assert f(1) == 2", 2.0, None, True),
        ("assert f(1) == 2", "2", None, False),
        ("assert f(1) == 1", True, None, True),
        ("assert f(1) == (1, 2)", [1, 2], None, False),
        ("assert f(1) == {1, 2}", {2, 1}, None, True),
        ("assert f(1) == {'a': [1]}", {"a": [1]}, None, True),
        ("assert f(1) == {'a': [1]}", {"a": [1], "b": 2}, None, False),
        ("assert f(1) == 0.3", 0.1 + 0.2, None, False),
        ("assert f(1) == 0.3", 0.1 + 0.2, 1e-9, True),
        ("assert f(1) == [(0.3, {'a': 0.3})]", [(0.1 + 0.2, {"a": 0.1 + 0.2})], 1e-9, True),
        ("assert f(1) == [0.3]", [0.3, 0.3], 1e-9, False),
        ("assert f(1) == True", 1.0000000001, 1e-6, False),
        ("assert f(1) == 1e308", 10**400, 1e-6, False),
        ("assert f(1) is True", 1, None, False),
        ("assert f(1) is True", True, None, True),
        ("assert f(1) is None", 0, None, False),
        ("assert f(1)", [0], None, True),
        ("assert f(1)", [], None, False),
        ("assert not f(1)", "", None, True),
        ("assert f(1) in [1, 2]", 2, None, True),
        ("assert f(1) in [1, 2]", [1], None, False),
        ("assert f(1) in 'abc'", "bc", None, True),
        ("assert f(1) in 'abc'", 1, None, False),
        ("assert abs(f(1) - 5) < 1", 6, None, False),
        ("assert abs(f(1) - 5) <= 1", 6, None, True),
        ("assert abs(f(1) - 5) < 1", float("nan"), None, False),
        ("assert abs(f(1) - 5) < 1", "5", None, False),
        ("assert abs(f(1) - 5.0) < 1", 10**400, None, False),
        ("assert math.isclose(f(1), 5)", 5 + 1e-12, None, True),
        ("assert math.isclose(f(1), 5)", 5.1, None, False),
    ],
)
def test_a_value_meets_an_assert_as_it_would_in_python(
    assertion: str, value: Any, tolerance: float | None, met: bool
) -> None:
    check = parse(assertion)
    assert holds(check, literals(check), encode(value), tolerance)[0] is met


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -(2**70),
        10**4000,
        0.1,
        -0.0,
        float("inf"),
        1j,
        "",
        "\ud800 \x00 é",
        b"\xff",
        [],
        [1, [2]],
        (1,),
        {"a": (1, None)},
        {(1, 2): [3]},
    ],
)
def test_a_plain_value_travels_whole(value: Any) -> None:
    found = decode(encode(value))
    assert found == value
    assert type(found) is type(value)


def test_types_derived_from_plain_ones_count_as_them() -> None:
    from collections import Counter, OrderedDict, namedtuple
    from enum import IntEnum

    pair = namedtuple("pair", "a b")
    level = IntEnum("level", "LOW HIGH")
    values = [
        Counter("aab"),
        OrderedDict(a=1),
        pair(1, 2),
        level.HIGH,
        {"a": 1}.keys(),
        frozenset([1]),
        bytearray(b"x"),
    ]
    assert [decode(encode(value)) for value in values] == [{"a": 2, "b": 1}, {"a": 1}, (1, 2), 2, {"a"}, {1}, b"x"]


@pytest.mark.parametrize("value", [object(), range(3), iter([]), [object()], {1: print}, NotImplemented])
def test_what_is_not_plain_is_refused(value: Any) -> None:
    with pytest.raises(UnreadableError):
        encode(value)


@pytest.mark.parametrize(
    "data",
    [
        1,
        1.5,
        [1],
        {},
        {"int": 1},
        {"int": "x"},
        {"int": "1", "float": "1"},
        {"evil": 1},
        {"set": [{"list": []}]},
        {"dict": [[{"list": []}, 1]]},
        {"dict": [1]},
        {"list": 3},
        {"bytes": "x"},
        {"float": "0x1p99999"},
    ],
)
def test_data_that_nobody_encoded_is_refused(data: Any) -> None:
    with pytest.raises(UnreadableError):
        decode(data)
    check = parse("assert f(1) == 1")
    assert asserts.holds(check, [1], data, None)[0] is False


def test_a_tolerance_asks_for_the_same_shape() -> None:
    assert equal([1.0, (2.0,)], [1.0 + 1e-12, (2.0,)], 1e-9)
    assert not equal([1.0, [2.0]], [1.0, (2.0,)], 1e-9)
    assert not equal({"a": 1.0}, {"b": 1.0}, 1e-9)
    assert equal({1, 2}, frozenset({1, 2}), 1e-9)
