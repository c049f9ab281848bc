"""The verifier `code`: a Python program, judged by what it prints, or by what its functions return.

It runs nothing itself (`pipeline.sandbox` does, and only where it can isolate). What is expected never enters the
sandbox: a program is given inputs, what comes out is compared here. A program over its limits is wrong; a sandbox that
breaks says nothing of the program, which is then undecided.
"""

import json
import math
import re
import signal
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from pipeline import sandbox
from pipeline.sandbox import MIB, Ending, Limits, SandboxError
from pipeline.section import Section
from pipeline.verifiers import Judgement, asserts, calls, right, undecided, wrong
from pipeline.verifiers.asserts import Check

SHOWN = 200  # characters of an output kept in a verdict
WALL_FACTOR = 2.0  # how much longer than its time limit a program may take that waits, or shares a busy machine
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")


class Case(Section):
    """One run of a program."""

    input: str = ""  # its standard input
    output: str  # what it prints, up to white space


class Tests(Section):
    """A problem's `verifier_data`: either `cases` or `asserts`."""

    cases: tuple[Case, ...] = ()  # a run for each
    asserts: tuple[str, ...] = ()  # of the forms in `asserts.parse`; one run for all of them
    setup: str = ""  # statements before the program, for the asserts: imports, say
    time_limit_s: float = Field(3.0, gt=0)  # processor time of a run; twice as long by the clock
    memory_mib: int = Field(512, ge=64)  # address space of a run
    float_tolerance: float | None = Field(None, gt=0)  # relative or absolute; null: as text, or as Python's ==
    layout: bool = False  # white space between and before words counts, as in a drawing

    @model_validator(mode="after")
    def _has_one_kind(self) -> "Tests":
        if bool(self.cases) == bool(self.asserts):
            raise ValueError("expected either `cases` or `asserts`, with one at least")
        return self

    def limits(self, output_bytes: int) -> Limits:
        wall_s = WALL_FACTOR * self.time_limit_s
        return Limits(self.time_limit_s, wall_s, self.memory_mib, output_bytes=output_bytes)


def lacking() -> str:
    """What this machine lacks to run programs, with the fix; empty where nothing is."""
    return sandbox.lacking()


def prepare() -> None:
    """Raise SandboxError where programs cannot be run in isolation."""
    if why := lacking():
        raise SandboxError(why)


def unusable(data: dict[str, Any]) -> str:
    """Why programs cannot be judged by a problem's `verifier_data`, as far as it is known without running anything;
    empty where they can.
    """
    try:
        tests = Tests.model_validate(data)
        for assertion in tests.asserts:
            asserts.parse(assertion, tests.setup)
    except ValidationError as error:
        return _complaint(error)
    except SyntaxError as error:
        return f"the setup is no Python: {error}"
    except ValueError as error:
        return str(error)
    return ""


def _complaint(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"verifier_data: {place + ': ' if place else ''}{first['msg']}"


def judge(given: str, gold: str, data: dict[str, Any]) -> Judgement:
    """`given` is the program's text, `data` are `Tests`; the reference is not used.

    Right where every case or assert is met. Wrong at the first that is not: wrong_answer, program_failed (an exception,
    an exit status, no answer), time_limit, memory_limit or output_limit. Undecided where the tests cannot be read; a
    sandbox that breaks raises SandboxError.
    """
    try:
        tests = Tests.model_validate(data)
        settled = _settled(tests.asserts, tests.setup) if tests.asserts else ()
    except ValidationError as error:
        return undecided("gold_unparseable", error=_complaint(error))
    except ValueError as error:
        return undecided("gold_unparseable", error=str(error))
    return _called(given, tests, settled) if tests.asserts else _printed(given, tests)


def _printed(program: str, tests: Tests) -> Judgement:
    for place, case in enumerate(tests.cases, start=1):
        limits = tests.limits(MIB + 2 * len(case.output.encode("utf-8", "replace")))
        stdin = case.input.encode("utf-8", "replace")
        ending = sandbox.run([sandbox.PROGRAM], limits, program, stdin)
        failure = failed(ending, limits)
        if failure is not None:
            return _wrong(*failure, case=place)
        printed = ending.output.decode("utf-8", "replace")
        if not same_output(printed, case.output, tests.float_tolerance, tests.layout):
            return wrong(case=place, printed=printed[:SHOWN], expected=case.output[:SHOWN])
    return right()


def _called(program: str, tests: Tests, settled: tuple[tuple[Check, list[Any]], ...]) -> Judgement:
    expressions = [check.expression for check, _ in settled]
    limits = tests.limits(MIB + 16 * sum(map(len, tests.asserts)))
    ending = _evaluated(program, tests.setup, expressions, limits)
    lines = _lines(ending.output)
    if lines[:1] == [["loaded"]]:
        for (check, expected), line in zip(settled, lines[1:], strict=False):
            if line[0] != "value":
                break
            met, shown = asserts.holds(check, expected, line[1], tests.float_tolerance)
            if not met:
                return wrong(assertion=check.assertion[:SHOWN], value=shown[:SHOWN])
        else:
            if len(lines) > len(settled):
                return right()
    failure = failed(ending, limits)
    if failure is None and lines and lines[-1][0] == "raised":
        failure = _raised(*lines[-1][1:])
    return _wrong(*(failure or ("program_failed", "it ended before it had answered")))


def _evaluated(program: str, setup: str, expressions: list[str], limits: Limits) -> Ending:
    """Expressions beside a program. The evaluator's text is an argument; the program, and nothing else, its input."""
    asked = {"setup": setup, "program": program, "expressions": expressions}
    return sandbox.run(["-c", _evaluator()], limits, stdin=json.dumps(asked).encode("ascii"))


@lru_cache(maxsize=1)
def _evaluator() -> str:
    return Path(calls.__file__).read_text(encoding="utf-8")


def _lines(output: bytes) -> list[calls.Line]:
    """The whole lines of an evaluator, up to the first that is none of its own."""
    lines: list[calls.Line] = []
    for text in output.split(b"\n")[:-1]:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            return lines
        lengths = {"loaded": 1, "value": 2, "raised": 3}
        kind = line[0] if isinstance(line, list) and line else None
        if not isinstance(kind, str) or len(line) != lengths.get(kind):
            return lines
        lines.append(line)
    return lines


@lru_cache(maxsize=256)
def _settled(assertions: tuple[str, ...], setup: str) -> tuple[tuple[Check, list[Any]], ...]:
    """Each assert and what it expects, once for all answers to a problem. What is no literal is evaluated in a sandbox
    where no program is. Raises ValueError for an assert that cannot be used.
    """
    try:
        checks = [asserts.parse(assertion, setup) for assertion in assertions]
    except SyntaxError as error:
        raise ValueError(f"the setup is no Python: {error}") from error
    settled = []
    for check in checks:
        try:
            expected = asserts.literals(check)
        except ValueError:
            expected = _constants(check, setup)
        asserts.settle(check, expected)
        settled.append((check, expected))
    return tuple(settled)


def _constants(check: Check, setup: str) -> list[Any]:
    limits = Limits(output_bytes=16 * MIB)
    ending = _evaluated("", f"import math\n{setup}", list(check.constants), limits)
    lines = _lines(ending.output)
    values = [line[1] for line in lines if line[0] == "value"]
    if len(values) != len(check.constants):
        why = failed(ending, limits) or lines[-1:] or "it gave no value"
        raise ValueError(f"what this assert expects cannot be evaluated ({why}): {check.assertion[:SHOWN]}")
    return [calls.decode(value) for value in values]


def failed(ending: Ending, limits: Limits) -> tuple[str, str] | None:
    """The slug and the words for a program that did not end well; None for one that did.

    Raises SandboxError for one that was killed though it was within its limits: the machine ran out of memory, say.
    """
    if ending.limit == "output":
        return "output_limit", f"more than {limits.output_bytes} bytes"
    killed = ending.status == 128 + signal.SIGKILL
    if ending.limit == "time" or ending.status == 128 + signal.SIGXCPU or (killed and ending.wall_s >= limits.cpu_s):
        return "time_limit", f"longer than {limits.cpu_s:g} s of processor time or {limits.wall_s:g} s"
    if killed:
        raise SandboxError("the program was killed within its limits")
    if ending.status == 0:
        return None
    said = ending.errors.strip().rpartition("\n")[2]
    if said.startswith("MemoryError"):
        return "memory_limit", f"more than {limits.memory_mib} MiB"
    return "program_failed", said[:SHOWN] or f"exit status {ending.status}"


def _raised(name: Any, text: Any) -> tuple[str, str]:
    if name == "MemoryError":
        return "memory_limit", "MemoryError"
    return "program_failed", f"{name}: {text}"[:SHOWN]


def _wrong(reason: str, error: str, **detail: Any) -> Judgement:
    return Judgement("wrong", reason, 0.0, {"error": error, **detail})


def same_output(printed: str, expected: str, tolerance: float | None = None, layout: bool = False) -> bool:
    """Whether two outputs have the same words line by line. Empty lines at the end do not count, nor does white space
    but for its place between words; with `layout` only white space at the ends of lines does not. With a tolerance two
    numbers in one place may differ by it, relative or absolute.
    """
    mine, theirs = (_rows(text, layout) for text in (printed, expected))
    if tolerance is None or len(mine) != len(theirs):
        return mine == theirs
    return all(
        len(row) == len(twin) and all(_same_word(word, other, tolerance) for word, other in zip(row, twin, strict=True))
        for row, twin in zip(mine, theirs, strict=True)
    )


def _rows(text: str, layout: bool) -> list[list[str]]:
    rows = [re.split(r"(\s+)", line.rstrip()) if layout else line.split() for line in text.rstrip().split("\n")]
    return rows


def _same_word(word: str, other: str, tolerance: float) -> bool:
    if word == other:
        return True
    if not _NUMBER.fullmatch(word) or not _NUMBER.fullmatch(other):
        return False
    return math.isclose(float(word), float(other), rel_tol=tolerance, abs_tol=tolerance)
