"""How much each of several teachers counts, as a recipe says it.

It mixes nothing, and knows no token (`mixture.py`).
"""

import math
from collections.abc import Collection

from pydantic import field_validator

from pipeline.section import Section
from pipeline.text import closest


class Weights(Section):
    """How much each teacher's word counts beside the others'. Only their ratios matter, and only where they differ.

    A teacher that is not named counts 1; one of weight 0 takes no part.
    """

    teachers: dict[str, float] = {}  # teacher's label -> its weight
    domains: dict[str, dict[str, float]] = {}  # domain -> teacher's label -> its weight there instead

    @field_validator("teachers")
    @classmethod
    def _countable(cls, weights: dict[str, float]) -> dict[str, float]:
        wrong = {name: weight for name, weight in weights.items() if not (math.isfinite(weight) and weight >= 0)}
        if wrong:
            raise ValueError(f"found the weights {wrong}; expected finite numbers of at least 0")
        return weights

    @field_validator("domains")
    @classmethod
    def _countable_everywhere(cls, domains: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        for weights in domains.values():
            cls._countable(weights)
        return domains

    def of(self, teacher: str, domain: str | None) -> float:
        """The weight of a teacher in a domain, or where none is known."""
        return self.domains.get(domain or "", {}).get(teacher, self.teachers.get(teacher, 1.0))

    def without(self, teachers: Collection[str]) -> "Weights":
        """The same with nothing said of these teachers."""

        def rest(weights: dict[str, float]) -> dict[str, float]:
            return {name: weight for name, weight in weights.items() if name not in teachers}

        domains = {domain: left for domain, weights in self.domains.items() if (left := rest(weights))}
        return Weights(teachers=rest(self.teachers), domains=domains)

    def check(self, teachers: Collection[str], domains: Collection[str]) -> None:
        """Raises ValueError for a weight of a teacher or in a domain that is not among these."""
        named = [("teacher", name, teachers) for name in self.teachers]
        for domain, weights in self.domains.items():
            named += [("domain", domain, domains), *(("teacher", name, teachers) for name in weights)]
        for kind, name, known in named:
            if name not in known:
                near = closest(name, known)
                raise ValueError(
                    f"found a weight of the {kind} {name!r}; expected one of {', '.join(sorted(known)) or 'none'}"
                    f"{f': did you mean {near!r}?' if near else '.'}"
                )
