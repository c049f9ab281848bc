"""Expressions over a program, evaluated: what runs inside the sandbox, and how values travel out of it.

It compares nothing and is told no expected value. The text of this file is what runs inside, so it imports the standard
library alone; a hostile program can make it say anything, but then it must know what to say.
"""

import json
import os
import sys
from collections.abc import Callable, Set
from types import ModuleType
from typing import Any

ERROR_LIMIT = 500  # characters of an exception's text
NAME = "program"  # of the module that a program becomes: what stands under `__name__ == "__main__"` does not run

Line = list[Any]
"""["loaded"] once the program stands, then for each expression ["value", data]; and instead of either, as the last one,
["raised", the exception's name, its text]."""


class UnreadableError(ValueError):
    """A value is not plain, or data is not one."""


def encode(value: Any) -> Any:
    """A plain value as JSON data: None, truth values, numbers, text, bytes, and lists, tuples, sets and dicts of such.

    Raises UnreadableError for a value of any other type; a type derived from one of these counts as it.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return {"int": format(int(value), "x")}  # decimal digits are limited, and slow
    if isinstance(value, float):
        return {"float": float.hex(value)}
    if isinstance(value, complex):
        return {"complex": [float.hex(value.real), float.hex(value.imag)]}
    if isinstance(value, bytes | bytearray):
        return {"bytes": value.hex()}
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    for kind, name in ((list, "list"), (tuple, "tuple"), (Set, "set")):
        if isinstance(value, kind):
            return {name: [encode(item) for item in value]}
    raise UnreadableError(f"a {type(value).__name__} cannot be compared")


def decode(data: Any) -> Any:
    """The value that `encode` made data of. Sets are frozen. Raises UnreadableError for any other data."""
    if data is None or isinstance(data, bool | str):
        return data
    try:
        ((kind, content),) = data.items()
        return _READERS[kind](content)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise UnreadableError(f"no plain value: {str(data)[:80]}") from error


_READERS: dict[str, Callable[[Any], Any]] = {
    "int": lambda content: int(content, 16),
    "float": lambda content: float.fromhex(content),
    "complex": lambda content: complex(*map(float.fromhex, content)),
    "bytes": lambda content: bytes.fromhex(content),
    "list": lambda content: [decode(item) for item in content],
    "tuple": lambda content: tuple(decode(item) for item in content),
    "set": lambda content: frozenset(decode(item) for item in content),
    "dict": lambda content: {decode(key): decode(item) for key, item in content},
}


def serve() -> None:
    """Inside: take {"setup", "program", "expressions"} as JSON from standard input, and write a Line for each to
    standard output, which the program itself does not get: what it prints goes nowhere.
    """
    asked = json.load(sys.stdin)
    channel = os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)

    def tell(line: Line) -> None:
        data = json.dumps(line).encode("ascii") + b"\n"
        while data:
            data = data[os.write(channel, data) :]

    module = sys.modules[NAME] = ModuleType(NAME)  # dataclasses look their module up
    try:
        for text in (asked["setup"], asked["program"]):
            exec(compile(text, f"{NAME}.py", "exec"), module.__dict__)
        tell(["loaded"])
        for expression in asked["expressions"]:
            tell(["value", encode(eval(compile(expression, "test", "eval"), module.__dict__))])
    except BaseException as error:
        tell(["raised", type(error).__name__, str(error)[:ERROR_LIMIT]])
    os._exit(0)


if __name__ == "__main__":
    serve()
