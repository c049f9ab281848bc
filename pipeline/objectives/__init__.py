"""The shelf of objectives: what a student minimises, and the table of those that ship.

It imports none of them (`load` does, by name), and trains nothing (`training/`).
"""

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from torch import Tensor

OBJECTIVES: Mapping[str, str] = MappingProxyType({"sft": "pipeline.objectives.sft"})


class Objective(Protocol):
    """A module with one function, `loss`."""

    def loss(self, logits: "Tensor", targets: "Tensor", batch: Mapping[str, Any]) -> "Tensor":
        """The summed loss over the positions a student learns from, in nats.

        logits: [positions, vocabulary]; targets: [positions], the token that follows each position. batch holds the
        whole batch, trace ids under "ids", for an objective that looks up more by trace.
        """


def load(name: str) -> Objective:
    """The objective of a name in OBJECTIVES. Raises ValueError for another."""
    if name not in OBJECTIVES:
        raise ValueError(f"no objective is called {name!r}; expected one of {', '.join(OBJECTIVES)}")
    return cast(Objective, importlib.import_module(OBJECTIVES[name]))
