"""How much each of several teachers counts, as a recipe says it.

It mixes nothing (`mixture.py`).
"""

import math
from collections.abc import Collection, Sequence

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

    def of(self, teachers: Sequence[str], domain: str) -> list[float]:
        """The weight of each of these teachers in a domain."""
        there = self.teachers | self.domains.get(domain, {})
        return [there.get(teacher, 1.0) for teacher in teachers]

    def check(self, teachers: Collection[str], domains: Collection[str]) -> None:
        """Raises ValueError for a weight of a teacher or in a domain that a run has not."""
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
