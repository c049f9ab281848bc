"""Examples without reasoning, ready made: questions with their answers from files or Hub sets, put beside the traces.

They are not judged; a row is refused where it is unusable, stands twice, or repeats a held-out problem
or an item of a benchmark.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field

from pipeline.records import content_id
from pipeline.similarity.ngrams import Overlap, Reference
from pipeline.sources import SOURCES, Candidate, FileSource, HubSource, digests
from pipeline.sources.file import existing

GeneralSource = Annotated[FileSource | HubSource, Field(discriminator="kind")]


@dataclass
class General:
    """The rows that can be used, and why the others cannot."""

    rows: list[Candidate] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)  # by reason


def read(
    sources: Sequence[FileSource | HubSource],
    root: Path,
    held_out: Iterable[Reference],
    benchmarks: Iterable[Reference],
) -> General:
    """The rows of all sources that repeat no held-out problem and no benchmark's item. Raises SourceError where a
    source cannot be read.
    """
    found = General()
    forbidden = {"held_out_overlap": Overlap(held_out), "benchmark_overlap": Overlap(benchmarks)}
    seen: set[str] = set()
    for row in _rows(sources, root):
        key = example_id(row)
        reason = row.fault
        if reason is None and key in seen:
            reason = "duplicate"
        if reason is None:
            said = f"{row.text}\n{row.answer}"
            reason = next((name for name, overlap in forbidden.items() if overlap.find(said)), None)
        if reason is not None:
            found.rejected[reason] += 1
            continue
        seen.add(key)
        found.rows.append(row)
    return found


def _rows(sources: Sequence[FileSource | HubSource], root: Path) -> Iterator[Candidate]:
    for source in sources:
        yield from SOURCES[source.kind].candidates(source, root)


def refuse_missing(sources: Sequence[FileSource | HubSource], root: Path) -> None:
    """Raise SourceError where a source's file is not there."""
    for source in sources:
        if isinstance(source, FileSource):
            existing(source, root)


def example_id(row: Candidate) -> str:
    """The id of the example that a row becomes."""
    return content_id("general", row.id, row.answer)


def digests_of(general: Sequence[FileSource | HubSource], root: Path) -> dict[str, str]:
    """What the sources only name: digests of files and folders."""
    return digests({f"general.{origin}": source for origin, source in enumerate(general)}, root)
