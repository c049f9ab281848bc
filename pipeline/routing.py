"""Which teachers answer a problem, where a recipe has several.

It asks none of them anything.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pydantic import Field

from pipeline.records import content_id
from pipeline.section import Section
from pipeline.text import closest

KNOWN_LIMIT = 12  # domains or tasks in one line for a person

Row = Mapping[str, Any]


class Route(Section):
    """Which problems a teacher gets; an empty list means all."""

    domains: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    share: float = Field(1.0, gt=0)  # with assign: one, its weight against the other teachers that fit the problem


def fitting(
    teachers: Iterable[str], routes: Mapping[str, Route], one: bool, problem: Row, domains: Mapping[str, str]
) -> list[str]:
    """The names of the teachers that answer a problem (a row with id and task); `domains` gives its domain by its id.

    Where only one may, it is drawn by its share from the problem's id alone (weighted rendezvous hashing: D. G.
    Thaler, C. V. Ravishankar, 1998): another teacher takes problems over, but moves none between the others.
    """
    found = [name for name in teachers if _fits(routes.get(name, Route()), problem, domains)]
    if not one or len(found) < 2:
        return found

    def weight(name: str) -> float:
        drawn = (int(content_id("assign", problem["id"], name), 16) + 1) / (2**128 + 1)
        return -routes.get(name, Route()).share / math.log(drawn)

    return [max(found, key=weight)]


def _fits(route: Route, problem: Row, domains: Mapping[str, str]) -> bool:
    if route.tasks and problem["task"] not in route.tasks:
        return False
    return not route.domains or domains[problem["id"]] in route.domains


def idle(routes: Mapping[str, Route], domains: Collection[str], tasks: Collection[str]) -> str:
    """What is wrong with the first route whose domains, or tasks, no problem has, in words; empty where none is. A
    route may know of more than the problems at hand are.
    """
    for name, route in routes.items():
        for kind, named, known in (("domain", route.domains, domains), ("task", route.tasks, tasks)):
            if named and set(named).isdisjoint(known):
                near = closest(named[0], known)
                meant = f"did you mean {near!r}? " if near else ""
                some = ", ".join(sorted(filter(None, known))[:KNOWN_LIMIT])
                return (
                    f"{name} is for the {kind} {' or '.join(map(repr, named))}, and no problem has it; {meant}Known: "
                    f"{some}. Mend the name, or leave it out."
                )
    return ""
