"""Rounds: the stages from generate to eval again, each time with the last student as a further teacher.

It runs nothing (`runner.py` does) and lays nothing on the disk (`run.py` does): what a recipe says of rounds, what the
last student is as a teacher, and when to stop.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline.roles import Role, Student, Teacher
from pipeline.section import Section

LAST_STUDENT = "last_student"  # a teacher's name, and the label that its traces carry


class Rounds(Section):
    """How many rounds there are at most, and how they differ. `rounds: 3` is short for `rounds: {count: 3}`."""

    count: int = Field(1, ge=1, le=100)  # 1: a run without rounds
    split: str = "dev"  # the block whose scores decide; eval.split is left for the student of the chosen round
    least_gain: float = Field(0.0, ge=0, lt=1)  # a round that raises pass@1 by no more than this is the last
    # Whether the recipe's teachers stay beside the last student from the second round on; their traces are stored.
    keep_teachers: bool = True
    # What a round's student starts from: the untouched student, or the last round's. Started afresh, two rounds'
    # students differ by their data alone, and no round trains on what an earlier one overfitted (STaR does so for that
    # reason: Zelikman et al. 2022, arXiv 2203.14465).
    start: Literal["base", "last"] = "base"

    @model_validator(mode="before")
    @classmethod
    def _a_number_is_their_count(cls, values: Any) -> Any:
        return {"count": values} if isinstance(values, int) and not isinstance(values, bool) else values


@dataclass(frozen=True)
class Standing:
    """What the rounds so far came to."""

    accuracies: tuple[float, ...]  # pass@1 of each round's student on the deciding block
    chosen: int  # number of the round with the best, the first of equals; 1 where none is scored yet
    ended: bool  # no further round is run
    why: str  # it ended, or goes on; for a person


def standing(rounds: Rounds, accuracies: Sequence[float]) -> Standing:
    """Where rounds stand by their pass@1 in order; what came after the round that did not rise is left out."""
    found: list[float] = []
    for accuracy in accuracies:
        best = max(found, default=None)
        found.append(accuracy)
        if best is not None and accuracy <= best + rounds.least_gain:
            why = f"{rounds.split} pass@1 stopped rising in round {len(found)}: {accuracy:.3f} after {best:.3f}"
            return Standing(tuple(found), _best(found), True, why)
    if len(found) >= rounds.count:
        return Standing(tuple(found), _best(found), True, f"all {rounds.count} rounds were run")
    return Standing(tuple(found), _best(found), False, f"{len(found)} of at most {rounds.count} rounds are scored")


def _best(accuracies: Sequence[float]) -> int:
    return accuracies.index(max(accuracies)) + 1 if accuracies else 1


def as_teacher(student: Student, thinking: bool) -> Teacher:
    """A trained student as a teacher: asked with the prompts it was trained on, by the engine that examines it.

    thinking: it learnt to write think tags by itself.
    """
    known = {name: getattr(student, name) for name in Role.model_fields if name != "model"}
    return Teacher(model=LAST_STUDENT, thinking=thinking, **known)
