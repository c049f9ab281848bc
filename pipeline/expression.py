"""Arithmetic expressions as trees: parsed from text, brought to a normal form, and given their exact value.

It knows no task and no problem text (`canonical.py` does), and evaluates nothing but numbers, + - * / and names.
"""

import ast
from collections.abc import Iterator, Mapping
from fractions import Fraction

# Longer texts are no exercises, and this bounds the depth of every recursion below.
LIMIT = 400

# What print puts for *, / and -: the times sign, middle dot, division sign, minus sign, en dash.
_SIGNS = str.maketrans({"\u00d7": "*", "\u00b7": "*", "\u00f7": "/", "\u2212": "-", "\u2013": "-"})
_NODES = (ast.BinOp, ast.UnaryOp, ast.Name, ast.Load, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.UAdd, ast.USub)


def plain(text: str) -> str:
    """The text with the signs of print replaced by those of a keyboard."""
    return text.translate(_SIGNS)


def parse(text: str) -> ast.expr | None:
    """The tree of an expression of numbers, names, + - * / and parentheses; None where the text is anything else."""
    text = plain(text).strip()
    if len(text) > LIMIT:
        return None
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return tree if all(isinstance(node, _NODES) or _is_number(node) for node in ast.walk(tree)) else None


def names(*trees: ast.expr) -> set[str]:
    """The names of variables in the trees."""
    return {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}


def numbers(tree: ast.expr) -> int:
    """How many numbers stand in the tree."""
    return sum(_is_number(node) for node in ast.walk(tree))


def normal(tree: ast.expr, renamed: Mapping[str, str] | None = None) -> str:
    """A text that is equal for expressions that differ only in the order of what commutes.

    Sums and differences become sorted signed terms, products and quotients sorted factors, nested ones flattened
    (5 - (2 - 3) is +*3+*5-*2), and the signs of factors join before their product; numbers keep their values, names
    become what `renamed` says.
    """
    terms = sorted(_terms(tree, 1, renamed or {}))
    return "".join(terms)


def value(tree: ast.expr, variables: Mapping[str, Fraction] | None = None) -> Fraction:
    """The exact value. Raises ZeroDivisionError, and KeyError for a name that is not in `variables`."""
    if isinstance(tree, ast.Constant):
        return Fraction(repr(tree.value))
    if isinstance(tree, ast.Name):
        return (variables or {})[tree.id]
    if isinstance(tree, ast.UnaryOp):
        operand = value(tree.operand, variables)
        return -operand if isinstance(tree.op, ast.USub) else operand
    assert isinstance(tree, ast.BinOp)
    left, right = value(tree.left, variables), value(tree.right, variables)
    if isinstance(tree.op, ast.Add):
        return left + right
    if isinstance(tree.op, ast.Sub):
        return left - right
    return left * right if isinstance(tree.op, ast.Mult) else left / right


def _is_number(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def _terms(tree: ast.expr, sign: int, renamed: Mapping[str, str]) -> Iterator[str]:
    if isinstance(tree, ast.UnaryOp):
        yield from _terms(tree.operand, -sign if isinstance(tree.op, ast.USub) else sign, renamed)
    elif isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Add | ast.Sub):
        yield from _terms(tree.left, sign, renamed)
        yield from _terms(tree.right, -sign if isinstance(tree.op, ast.Sub) else sign, renamed)
    else:
        minus, factors = _factors(tree, "*", renamed)
        yield ("-" if minus == (sign > 0) else "+") + "".join(sorted(factors))


def _factors(tree: ast.expr, side: str, renamed: Mapping[str, str]) -> tuple[bool, list[str]]:
    """Whether a product is negated, and its factors: "*" leads one above the line and "/" one below it."""
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Mult | ast.Div):
        below = {"*": "/", "/": "*"}[side]
        minus, factors = _factors(tree.left, side, renamed)
        other_minus, others = _factors(tree.right, below if isinstance(tree.op, ast.Div) else side, renamed)
        return minus != other_minus, factors + others
    if isinstance(tree, ast.UnaryOp):
        minus, factors = _factors(tree.operand, side, renamed)
        return minus != isinstance(tree.op, ast.USub), factors
    if isinstance(tree, ast.Constant):
        return False, [f"{side}{tree.value!r}"]
    if isinstance(tree, ast.Name):
        return False, [f"{side}{renamed.get(tree.id, tree.id)}"]
    return False, [f"{side}({normal(tree, renamed)})"]
