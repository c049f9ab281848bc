"""The shelf of sources: the table of kinds, each a module with a config of its own and `candidates(source, root)`.

It imports neither generators nor dataset libraries (the sources do, when they are read), and judges nothing.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from pipeline.sources import file, hub, reasoning_gym
from pipeline.sources.candidate import TRAIN, Candidate, SourceError, canonical_json
from pipeline.sources.file import FileSource
from pipeline.sources.hub import HubSource
from pipeline.sources.reasoning_gym import ReasoningGymSource

# kind -> what yields the source's candidates in order; relative paths start at the folder
SOURCES: dict[str, Callable[[Any, Path], Iterator[Candidate]]] = {
    "reasoning_gym": reasoning_gym.candidates,
    "file": file.candidates,
    "hub": hub.candidates,
}
Source = Annotated[ReasoningGymSource | FileSource | HubSource, Field(discriminator="kind")]

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
]
