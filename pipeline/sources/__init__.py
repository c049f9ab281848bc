"""The shelf of sources: the table of kinds, each a module with a config of its own and `candidates(source, root)`.

It imports neither generators nor dataset libraries (the sources do, when they are read), and judges nothing.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Protocol

from pydantic import Field

from pipeline.digests import Digests, remembered
from pipeline.sources import file, hub, reasoning_gym
from pipeline.sources.candidate import TRAIN, Candidate, SourceError, canonical_json
from pipeline.sources.file import FileSource
from pipeline.sources.hub import HubSource
from pipeline.sources.reasoning_gym import ReasoningGymSource


class Kind(Protocol):
    """What the module of a kind of source does, beside its config."""

    def candidates(self, source: Any, root: Path, /) -> Iterator[Candidate]:
        """The source's candidates in order; relative paths start at `root`."""

    def digest(self, source: Any, root: Path, known: Digests, /) -> str | None:
        """What decides the candidates and is not in the config: None where that says it all."""


SOURCES: dict[str, Kind] = {"reasoning_gym": reasoning_gym, "file": file, "hub": hub}
Source = Annotated[ReasoningGymSource | FileSource | HubSource, Field(discriminator="kind")]


def digests(sources: Mapping[str, Source], root: Path) -> dict[str, str]:
    """What decides the candidates of sources whose config only names it, by the sources' names here."""
    known = remembered(root)
    found = {name: SOURCES[source.kind].digest(source, root, known) for name, source in sources.items()}
    return {name: digest for name, digest in found.items() if digest is not None}


__all__ = [
    "SOURCES",
    "TRAIN",
    "Candidate",
    "FileSource",
    "HubSource",
    "ReasoningGymSource",
    "Source",
    "SourceError",
    "canonical_json",
    "digests",
]
