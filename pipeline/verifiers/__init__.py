"""The shelf of verifiers: the table of those that ship, and what one of them says of an answer.

It imports none of them (`load` does, by name) and starts no process (`pool.py` does).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

VERSION = 4  # raised by hand when the same answer would be judged otherwise
UNVERIFIABLE = "unverifiable"  # of a problem whose answer nobody knows
# name -> the module whose `judge` is the verifier
VERIFIERS = {
    "math": "pipeline.verifiers.math",
    "exact": "pipeline.verifiers.exact",
    "choice": "pipeline.verifiers.choice",
    "label": "pipeline.verifiers.label",
    "span": "pipeline.verifiers.span",
    "translation": "pipeline.verifiers.translation",
    "judge": "pipeline.verifiers.judge",
    "reasoning_gym": "pipeline.verifiers.reasoning_gym",
    "code": "pipeline.verifiers.code",
    UNVERIFIABLE: "pipeline.verifiers.unverifiable",
}


@dataclass(frozen=True)
class Judgement:
    """What a verifier says: `reason` is a slug and stands where the answer is not right; `score` is 0 to 1, or None
    where there is none; `detail` holds JSON values.
    """

    outcome: Literal["right", "wrong", "undecided"]
    reason: str | None = None
    score: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)


Verifier = Callable[[str, str, dict[str, Any]], Judgement]
"""A verifier takes the final answer as the model wrote it, the reference answer, and the problem's `verifier_data`."""


def right(score: float = 1.0, **detail: Any) -> Judgement:
    return Judgement("right", None, score, detail)


def wrong(score: float = 0.0, **detail: Any) -> Judgement:
    return Judgement("wrong", "wrong_answer", score, detail)


def undecided(reason: str, **detail: Any) -> Judgement:
    """Neither right nor wrong: gold_unparseable, answer_unparseable, unverifiable, or a failure of the verifier."""
    return Judgement("undecided", reason, None, detail)


def load(name: str) -> Verifier:
    """The verifier of a name in VERIFIERS, ready to judge: a module that has a `prepare` imports its libraries there,
    so that no item's limits pay for it. Raises ValueError for any other name, ImportError where a library is missing.
    """
    if name not in VERIFIERS:
        raise ValueError(f"there is no verifier named {name!r}: use one of {', '.join(sorted(VERIFIERS))}")
    module = import_module(VERIFIERS[name])
    if hasattr(module, "prepare"):
        module.prepare()
    verifier: Verifier = module.judge
    return verifier


def lacking(names: Iterable[str]) -> str:
    """What this machine lacks to judge with these verifiers, with the fix, for who is about to begin; empty where
    nothing is. A module that has a `lacking` says it.
    """
    modules = (import_module(VERIFIERS[name]) for name in sorted(set(names) & VERIFIERS.keys()))
    return " ".join(filter(None, (module.lacking() for module in modules if hasattr(module, "lacking"))))


def version(config: Any, root: Path) -> dict[str, str]:
    """What a stage that judges says of its `contents`: where the verifiers changed, what it wrote is stale."""
    return {"verifiers": str(VERSION)}


def unusable(name: str, data: dict[str, Any]) -> str:
    """What is wrong with a problem's `verifier_data` for a verifier, in words; empty where nothing is known to be. A
    module that has an `unusable` says it.
    """
    module = import_module(VERIFIERS[name])
    return str(module.unusable(data)) if hasattr(module, "unusable") else ""
