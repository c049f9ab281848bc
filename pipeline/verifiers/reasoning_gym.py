"""The verifier `reasoning_gym`: the scorer of the task that made the problem; right means a score of 1.

A scorer that cannot score its own answer, or that accepts anything, decides nothing here.
"""

from functools import lru_cache
from typing import Any, Protocol

from pipeline.text import fold
from pipeline.verifiers import Judgement, right, undecided, wrong
from pipeline.verifiers.plain import numbers, plain

NONSENSE = "zzz"  # an answer to no task


class Task(Protocol):
    def score_answer(self, answer: str, entry: dict[str, Any]) -> float: ...


def prepare() -> None:
    """Import reasoning-gym, which takes more than a second."""
    import reasoning_gym  # noqa: F401


def judge(given: str, gold: str, data: dict[str, Any]) -> Judgement:
    """`data` is {"task": name, "entry": {question, answer, metadata}}: scorers need the entry they made.

    The scorer hears the answer as written and without its typography ("$x = 5$" is also 5), and the best counts; less
    than 1 is wrong, with the score kept. Where the reference is one number, an answer with several is wrong: some
    scorers look for the number anywhere. Where nothing scores 1, the reference must: otherwise it is the scorer that
    fails, and the answer is undecided.
    """
    try:
        task, entry = _task(data["task"]), data["entry"]
    except (KeyError, ValueError) as error:
        return undecided("gold_unparseable", error=f"no scorer: {type(error).__name__}: {error}")
    scores = [_score(task, reading, entry) for reading in readings(given, gold)]
    if 1.0 in scores:
        return _trusted(task, given, gold, entry)
    # JSON made lists of the tuples that some scorers compare with.
    restored = _tuples(entry)
    if entry.get("answer") is not None and _score(task, entry["answer"], entry) != 1.0:
        if _score(task, entry["answer"], restored) != 1.0:
            return undecided("gold_unparseable", error="the scorer does not accept the task's own answer")
        scores = [_score(task, reading, restored) for reading in readings(given, gold)]
        if 1.0 in scores:
            return _trusted(task, given, gold, restored)
    known = [score for score in scores if score is not None]
    return wrong(max(known)) if known else undecided("answer_unparseable", error="the scorer failed on the answer")


def readings(given: str, gold: str) -> list[str]:
    """The ways to read one answer that cannot make a wrong one right: as written, without typography, and, where the
    reference is a number, the right-hand side of an equation without signs between thousands."""
    found = [given, plain(given)]
    if _is_number(gold):
        value = plain(found[-1].rpartition("=")[2])
        found += [value, value.replace(",", "")] if _is_number(value) else []
        several = len(set(numbers(found[-1]))) > 1
        found = [] if several else found
    return list(dict.fromkeys(found)) or [""]


def _trusted(task: Task, given: str, gold: str, entry: dict[str, Any]) -> Judgement:
    """Right, unless the scorer accepts nonsense as well; then only the reference's own text is right."""
    if _score(task, NONSENSE, entry) != 1.0 or fold(plain(given)) == fold(plain(gold)):
        return right()
    return wrong()


def _is_number(text: str) -> bool:
    return numbers(text) == [text]


def _score(task: Task, answer: str, entry: dict[str, Any]) -> float | None:
    """The task's score, or None where its scorer fails."""
    try:
        return float(task.score_answer(answer, entry))
    except MemoryError:
        raise
    except Exception:
        return None


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return value


@lru_cache(maxsize=256)
def _task(name: str) -> Task:
    from reasoning_gym import create_dataset

    task: Task = create_dataset(name, seed=0)
    return task
