"""Benchmarks: files and Hub sets of questions that nothing may be trained on, and their items as references.

It compares nothing with them (`similarity/ngrams.py` does), and does not know who asks.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, model_validator

from pipeline.section import Section
from pipeline.similarity.ngrams import Reference
from pipeline.sources import digests, file, hub
from pipeline.sources.candidate import TRAIN, SourceError
from pipeline.sources.columns import Columns
from pipeline.sources.file import FileSource
from pipeline.sources.hub import HubSource


class Benchmark(Section):
    """A file, or a dataset on the Hub, with a question a row."""

    unhashed: ClassVar[frozenset[str]] = frozenset({"path"})
    later: ClassVar[frozenset[str]] = frozenset({"hub", "subset", "hub_split", "revision"})

    name: str = Field(min_length=1)  # how verdicts call it
    path: str | None = None  # .jsonl, .csv or .parquet; relative paths start at the project's folder
    column: str = "text"  # the column with the question
    hub: str | None = None  # in place of a path: owner/name, or an absolute path to a copy of the dataset's folder
    subset: str | None = None  # hub: the dataset's configuration, where it has several
    hub_split: str = "test"  # hub: the dataset's own split
    revision: str = ""  # hub: a commit, 40 hex digits

    @model_validator(mode="after")
    def _can_be_read(self) -> "Benchmark":
        if (self.path is None) == (self.hub is None):
            found = "neither path nor hub" if self.path is None else "both path and hub"
            raise ValueError(f"benchmark {self.name!r} has {found}; give one of them")
        _ = self.source  # refuses an unknown ending, and a revision that is no commit
        return self

    @property
    def source(self) -> FileSource | HubSource:
        """Where its rows come from. The question's column also stands for the answer, which nobody asks for."""
        columns = Columns(text=self.column, answer=self.column)
        if self.path is not None:
            return FileSource(kind="file", path=self.path, name=self.name, columns=columns)
        more: dict[str, Any] = {"subset": self.subset, "hub_split": self.hub_split, "revision": self.revision}
        return HubSource(kind="hub", name=str(self.hub), columns=columns, **more)

    def references(self, root: Path) -> list[Reference]:
        """Its questions. Raises SourceError where it cannot be read, has no such column, or holds no question."""
        source = self.source
        read = file.candidates(source, root) if isinstance(source, FileSource) else hub.candidates(source, root)
        try:
            rows = list(read)
        except SourceError as error:
            raise SourceError(f"benchmark {self.name!r}: {error}") from error
        usable = [row for row in rows if row.fault is None]
        if not usable:
            raise SourceError(
                f"benchmark {self.name!r}: none of {len(rows)} rows of {self.path or self.hub} has text in column "
                f"{self.column!r}; name the column that holds the questions"
            )
        return [Reference(self.name, row.place, row.text, self.name) for row in usable]


def _names_differ(benchmarks: tuple[Benchmark, ...]) -> tuple[Benchmark, ...]:
    doubled = [name for name, count in Counter(benchmark.name for benchmark in benchmarks).items() if count > 1]
    if doubled:
        raise ValueError(f"two benchmarks are named {doubled[0]!r}; verdicts could not tell them apart: rename one")
    return benchmarks


Benchmarks = Annotated[tuple[Benchmark, ...], AfterValidator(_names_differ)]


def references(benchmarks: Iterable[Benchmark], root: Path, taken: Collection[str]) -> list[Reference]:
    """The questions of all benchmarks. Raises SourceError where one has a name that is taken, or cannot be used."""
    found: list[Reference] = []
    for benchmark in benchmarks:
        if benchmark.name in taken:
            raise SourceError(
                f"benchmark {benchmark.name!r} is called like another set that is looked for in this run, a held-out "
                f"block or a benchmark of seed; verdicts could not tell them apart. Rename it, or leave it out here."
            )
        found += benchmark.references(root)
    return found


def refuse_missing(benchmarks: Iterable[Benchmark], root: Path) -> None:
    """Raise SourceError where a benchmark's file is not there."""
    for benchmark in benchmarks:
        source = benchmark.source
        if isinstance(source, FileSource):
            try:
                file.existing(source, root)
            except SourceError as error:
                raise SourceError(f"benchmark {benchmark.name!r}: {error}") from error


def held_out(problems: Iterable[Mapping[str, Any]]) -> list[Reference]:
    """The problems (id, text, task, split) that nothing is trained on: each block a set, each task a group."""
    return [Reference(row["split"], row["id"], row["text"], row["task"]) for row in problems if row["split"] != TRAIN]


def kept(items: Iterable[Mapping[str, Any]]) -> list[Reference]:
    """Items of benchmarks as `seed` wrote them (benchmark, item, text)."""
    return [Reference(row["benchmark"], row["item"], row["text"], row["benchmark"]) for row in items]


def digests_of(benchmarks: Iterable[Benchmark], root: Path) -> dict[str, str]:
    """The digest of what each benchmark holds, by its name; "missing" where there is nothing. A commit needs none."""
    return digests({benchmark.name: benchmark.source for benchmark in benchmarks}, root)
