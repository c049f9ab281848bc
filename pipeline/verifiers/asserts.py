"""Asserts taken apart: the expression that is evaluated beside a program, and what its value must be.

It runs no program. What is expected stays here; an assert whose truth would be decided beside the program, where the
program can decide it, is refused.
"""

import ast
import builtins
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.verifiers.calls import UnreadableError, decode

Relation = Literal["equal", "same", "among", "within", "near", "close", "true"]
_DISTANCES: dict[type[ast.cmpop], Relation] = {ast.Lt: "within", ast.LtE: "near"}


@dataclass(frozen=True)
class Check:
    """One assert. `constants` are the expressions of what it expects: a value, or a value and its tolerances."""

    assertion: str  # as written
    expression: str  # evaluated beside the program
    relation: Relation
    constants: tuple[str, ...]
    is_call: bool  # of one of the program's own functions, bare: only its answer decides


def parse(assertion: str, setup: str = "") -> Check:
    """An assert as a check. `setup` is what runs before the program: its imports may stand in what is expected.

    Understood are `x == constant`, `x is None` (True, False), `x in constant`, `abs(x - constant) < constant`,
    `math.isclose(x, constant)`, `f(...)` and `not f(...)`, in either order. Raises ValueError for any other.
    """
    try:
        (statement,) = ast.parse(assertion.strip()).body
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ValueError(f"not one assert statement: {assertion[:200]!r}") from error
    if not isinstance(statement, ast.Assert):
        raise ValueError(f"not an assert statement: {assertion[:200]!r}")
    known = {*dir(builtins), "math", *_imported(setup)}
    found = _taken_apart(statement.test, known)
    if found is None:
        raise ValueError(f"an assert of a form that is not understood: {assertion[:200]!r}")
    tested, relation, constants = found
    if any(_decides(node, known | _bound(tested)) for node in ast.walk(tested)):
        raise ValueError(f"an assert that a program could decide itself: it works on the answer: {assertion[:200]!r}")
    check = Check(assertion, ast.unparse(tested), relation, tuple(map(ast.unparse, constants)), _is_call(tested, known))
    if relation == "true":
        _must_be_call(check)
    return check


def _imported(setup: str) -> set[str]:
    return {
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(ast.parse(setup))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }


def _taken_apart(test: ast.expr, known: set[str]) -> tuple[ast.expr, Relation, list[ast.expr]] | None:
    """What is tested, how, and what is expected."""
    match test:
        case ast.Compare(ast.Call(ast.Name("abs"), [ast.BinOp(one, ast.Sub(), other)], []), [sign], [bound]):
            if type(sign) in _DISTANCES and _is_constant(bound, known):
                return _sided(one, other, known, _DISTANCES[type(sign)], [bound])
        case ast.Compare(left, [ast.Eq()], [right]):
            return _sided(left, right, known, "equal")
        case ast.Compare(left, [ast.Is()], [ast.Constant(None | True | False) as right]):
            return left, "same", [right]
        case ast.Compare(left, [ast.In()], [right]) if _is_constant(right, known):
            return left, "among", [right]
        case ast.Call(ast.Attribute(ast.Name("math"), "isclose"), [one, other], keywords):
            tolerances = {word.arg: word.value for word in keywords}
            if set(tolerances) <= {"rel_tol", "abs_tol"} and all(_is_constant(v, known) for v in tolerances.values()):
                relative = tolerances.get("rel_tol", ast.Constant(1e-09))
                return _sided(one, other, known, "close", [relative, tolerances.get("abs_tol", ast.Constant(0.0))])
        case ast.UnaryOp(ast.Not(), tested):
            return tested, "true", [ast.Constant(False)]
        case ast.Call():
            return test, "true", [ast.Constant(True)]
    return None


def _sided(
    one: ast.expr, other: ast.expr, known: set[str], relation: Relation, more: Sequence[ast.expr] = ()
) -> tuple[ast.expr, Relation, list[ast.expr]] | None:
    """Of two sides the one that is a constant is expected, the other is tested."""
    if _is_constant(other, known):
        return one, relation, [other, *more]
    return (other, relation, [one, *more]) if _is_constant(one, known) else None


def _is_constant(node: ast.expr, known: set[str]) -> bool:
    """Whether it names nothing that a program could define: built-in functions, math, and what the setup imports."""
    return {name.id for name in ast.walk(node) if isinstance(name, ast.Name)} <= known | _bound(node)


def _bound(node: ast.expr) -> set[str]:
    """The names that comprehensions within it bind."""
    return {name.id for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)}


def _decides(node: ast.AST, known: set[str]) -> bool:
    """Whether it works on what a program gave with a constant: f(2) - 4 is what f's value makes of it, and that 4 would
    be told to the program.
    """
    if isinstance(node, ast.BinOp):
        return _is_constant(node.left, known) != _is_constant(node.right, known)
    return isinstance(node, ast.Compare | ast.BoolOp | ast.Not | ast.NamedExpr)


def _is_call(node: ast.expr, known: set[str]) -> bool:
    match node:
        case ast.Call(ast.Name(name)):
            return name not in known
        case ast.Call(ast.Attribute(_, name)):
            return not name.startswith("_")
    return False


def _must_be_call(check: Check) -> None:
    if not check.is_call:
        raise ValueError(f"an assert that a program could decide itself, true or false: {check.assertion[:200]!r}")


def literals(check: Check) -> list[Any]:
    """What a check expects, where it is written as literals. Raises ValueError where it must be evaluated."""
    try:
        return [ast.literal_eval(constant) for constant in check.constants]
    except (ValueError, SyntaxError, TypeError, RecursionError) as error:
        raise ValueError("not a literal") from error


def settle(check: Check, expected: list[Any]) -> None:
    """Raise ValueError where a check does not fit what it expects: a program could guess it, or nothing can meet it."""
    if isinstance(expected[0], bool) and check.relation != "true":
        _must_be_call(check)
    if check.relation == "among" and not isinstance(expected[0], str | list | tuple | set | frozenset | dict):
        raise ValueError(f"`in` something that holds nothing: {check.assertion[:200]!r}")
    if check.relation in ("within", "near", "close") and not all(_is_number(value) for value in expected):
        raise ValueError(f"a tolerance around something that is no number: {check.assertion[:200]!r}")


def holds(check: Check, expected: list[Any], data: Any, tolerance: float | None) -> tuple[bool, str]:
    """Whether data from beside the program is what a check expects, and the value as a person reads it.

    Equal is what Python's == says of plain values; with a tolerance numbers may differ, relative or absolute, by it.
    """
    try:
        value = decode(data)
        return _holds(check, expected, value, tolerance), repr(value)
    except UnreadableError as error:
        return False, str(error)
    except (RecursionError, OverflowError, ValueError) as error:  # nested too deep, too many digits to show
        return False, f"{type(error).__name__}: {error}"


def _holds(check: Check, expected: list[Any], value: Any, tolerance: float | None) -> bool:
    wanted = expected[0]
    if check.relation == "true":
        return bool(value) is wanted
    if check.relation == "same":
        return value is wanted
    if check.relation == "among":
        if isinstance(wanted, str):
            return isinstance(value, str) and value in wanted
        return any(equal(value, one, tolerance) for one in wanted)
    if check.relation == "equal":
        return equal(value, wanted, tolerance)
    if not _is_number(value):
        return False
    if check.relation != "close":
        distance, bound = abs(value - wanted), expected[1]
        return bool(distance < bound if check.relation == "within" else distance <= bound)
    return math.isclose(value, wanted, rel_tol=expected[1], abs_tol=expected[2])


def equal(one: Any, other: Any, tolerance: float | None) -> bool:
    """Python's == of two plain values; with a tolerance, numbers anywhere within them may differ by it."""
    if tolerance is None or isinstance(one, bool) or isinstance(other, bool):
        return bool(one == other)
    if _is_number(one) and _is_number(other):
        return math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance)
    if isinstance(one, list | tuple) and type(one) is type(other) and len(one) == len(other):
        return all(equal(item, twin, tolerance) for item, twin in zip(one, other, strict=True))
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return all(equal(item, other[key], tolerance) for key, item in one.items())
    return bool(one == other)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
