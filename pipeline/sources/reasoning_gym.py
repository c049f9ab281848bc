"""Problems drawn from a task of reasoning-gym: item i is made from the source's seed plus i, gold answers checked.

It does not know which seeds are held out, and rejects no item for another's sake (`selection.py` does).
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline import expression
from pipeline.digests import Digests
from pipeline.section import Section
from pipeline.sources.candidate import TRAIN, Candidate, SourceError, canonical_json
from pipeline.sources.columns import nearest

LICENSE = "Apache-2.0"
_VERIFIER = "reasoning_gym"
# Fields of every task's own config that the source says instead.
_TAKEN = {"seed": "seed", "size": "count"}
# A few tasks lay their items out by the size of the data set; blocks of one size give the same items for any count.
_BLOCK = 1000


class ReasoningGymSource(Section):
    """A task of reasoning-gym and how many problems of it to draw."""

    kind: Literal["reasoning_gym"]
    task: str  # as reasoning-gym names it
    config: dict[str, Any] = Field(
        default={}
    )  # fields of the task's own config; the rest keep reasoning-gym's defaults
    seed: int = Field(default=1, ge=0)  # item i is made from seed + i; blocks of held-out seeds stay 10^9 away
    count: int = Field(ge=1, le=100_000_000)  # training problems
    domain: str = "math"

    @model_validator(mode="after")
    def _leaves_seed_and_size(self) -> "ReasoningGymSource":
        for key, field in _TAKEN.items():
            if key in self.config:
                raise ValueError(f"config.{key} of task {self.task!r} is set; set the source's own `{field}` instead")
        return self


def version() -> str:
    """The version of the installed reasoning-gym; another version may draw other items from the same seeds."""
    return metadata.version("reasoning-gym")


def candidates(source: ReasoningGymSource, root: Path) -> Iterator[Candidate]:
    """The items of seed, seed + 1, ... without end, one at a time. Raises SourceError for an unknown task or config.

    An item is faulty where the generator fails on it, where its gold answer is not the answer, or where its own
    scorer does not give the gold answer 1.0 after the entry went through JSON.
    """
    label = f"reasoning-gym {version()} {source.task}"
    for start in count(source.seed, _BLOCK):
        dataset = _dataset(source, start)
        for index in range(_BLOCK):
            yield _item(source, label, dataset, start, index)


def digest(source: ReasoningGymSource, root: Path, known: Digests) -> None:
    """None: the version that items are drawn with is one for all sources (`version`)."""


def _dataset(source: ReasoningGymSource, seed: int) -> Any:
    from reasoning_gym.factory import DATASETS, create_dataset

    if source.task not in DATASETS:
        raise SourceError(
            f"reasoning-gym {version()} has no task {source.task!r}{nearest(source.task, DATASETS)}. Its tasks: "
            f"{', '.join(sorted(DATASETS))}"
        )
    fields = [name for name in DATASETS[source.task][1].__dataclass_fields__ if name not in _TAKEN]
    for key in source.config:
        if key not in fields:
            raise SourceError(
                f"task {source.task!r} has no config field {key!r}{nearest(key, fields)}. Its fields: "
                f"{', '.join(fields)}"
            )
    try:
        return create_dataset(source.task, seed=seed, size=_BLOCK, **source.config)
    except (AssertionError, ValueError, TypeError) as error:
        raise SourceError(
            f"task {source.task!r} refuses its config {json.dumps(source.config)}: {error}. Its fields: "
            f"{', '.join(fields)}"
        ) from error


def _item(source: ReasoningGymSource, label: str, dataset: Any, seed: int, index: int) -> Candidate:
    place = f"item {seed + index}"
    try:
        entry = dataset[index]
        fault, detail = None, ""
    # A generator is other people's code, drawn from at random: one bad item must not cost the others.
    except Exception as error:
        entry = {"question": "", "answer": "", "metadata": {}}
        fault, detail = "generator_failed", f"{type(error).__name__}: {error}"
    kept = {key: entry.get(key) for key in ("question", "answer", "metadata")}
    data = canonical_json({"task": source.task, "entry": kept})
    text, answer = str(kept["question"] or ""), "" if kept["answer"] is None else str(kept["answer"])
    found = kept["metadata"] if isinstance(kept["metadata"], Mapping) else {}
    if fault is None:
        fault, detail = _fault(source.task, dataset, text, answer, found, data)
    return Candidate(
        text=text,
        answer=answer,
        domain=source.domain,
        task=source.task,
        verifier=_VERIFIER,
        verifier_data=data,
        source=label,
        license=LICENSE,
        split=TRAIN,
        place=place,
        metadata=found,
        fault=fault,
        detail=detail,
    )


def _fault(
    task: str, dataset: Any, text: str, answer: str, found: Mapping[str, Any], data: str
) -> tuple[str | None, str]:
    if not text.strip():
        return "text_empty", ""
    if not answer.strip():
        return "answer_missing", ""
    try:
        right = true_answer(task, found, answer)
    except ZeroDivisionError:
        return "answer_wrong", f"the gold answer is {answer}; the problem divides by zero"
    if right is not None and right != _number(answer):
        return "answer_wrong", f"the gold answer is {answer}; the right one is {right}"
    try:
        score = dataset.score_answer(answer, json.loads(data)["entry"])
    # As above: the scorer is other people's code, and what it raises says that it cannot judge this item.
    except Exception as error:
        return "answer_unscorable", f"{type(error).__name__}: {error}"
    return (None, "") if score == 1.0 else ("answer_unscorable", f"the scorer gives the gold answer {score}")


def true_answer(task: str, found: Mapping[str, Any], answer: str) -> Fraction | None:
    """The right answer of an item, computed here; None for tasks without a sum to do, and where it cannot be told.

    Release 0.1.25 needs it: without parentheses, basic_arithmetic prints divisors other than those it divided by, and
    works from left to right where products come first, so that more than a third of its gold answers are wrong.
    Raises ZeroDivisionError where the item divides by zero.
    """
    compute = GOLDS.get(task)
    if compute is None or _number(answer) is None:
        return None
    try:
        return compute(found, answer)
    except (KeyError, TypeError, ValueError):
        return None


def _number(text: str) -> Fraction | None:
    try:
        return Fraction(text.replace(",", "").strip())
    except (ValueError, ZeroDivisionError):
        return None


def _expression(found: Mapping[str, Any], answer: str) -> Fraction | None:
    tree = expression.parse(found["expression"])
    return None if tree is None else expression.value(tree)


def _gcd(found: Mapping[str, Any], answer: str) -> Fraction | None:
    return Fraction(math.gcd(*found["numbers"]))


def _lcm(found: Mapping[str, Any], answer: str) -> Fraction | None:
    return Fraction(math.lcm(*found["numbers"]))


def _equation(found: Mapping[str, Any], answer: str) -> Fraction | None:
    """The root of a linear equation, by the secant through 0 and 1; None where the answer solves another kind."""
    left, right = (expression.parse(side) for side in found["equation"].split("="))
    if left is None or right is None:
        return None

    def off(x: Fraction) -> Fraction:
        return expression.value(left, {found["variable"]: x}) - expression.value(right, {found["variable"]: x})

    start, slope = off(Fraction(0)), off(Fraction(1)) - off(Fraction(0))
    given = Fraction(answer)
    if off(given) == 0:
        return given
    root = -start / slope if slope else None
    return root if root is not None and off(root) == 0 else None


# Tasks whose gold answers are computed again: from an item's metadata and gold answer to the right answer.
GOLDS: dict[str, Callable[[Mapping[str, Any], str], Fraction | None]] = {
    "chain_sum": _expression,
    "decimal_chain_sum": _expression,
    "basic_arithmetic": _expression,
    "products": _expression,
    "simple_equations": _equation,
    "gcd": _gcd,
    "lcm": _lcm,
}
