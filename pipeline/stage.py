"""The contract of a stage: what it reads and writes, what it is told, and what it may call.

It holds no order of stages (`plan.py`) and runs none (`runner.py`).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import pyarrow as pa

from pipeline.manifest import Manifest, Shard
from pipeline.roles import Judge, Peer, Role, Student, Teacher
from pipeline.rounds import Standing
from pipeline.section import Section


class StageError(Exception):
    """A stage cannot go on, and the user can mend it: the message says what was found, expected, and the fix."""


@dataclass(frozen=True)
class Reads:
    """Something another stage wrote: columns of a dataset, an artifact, or (both empty) all of it.

    Columns that runs were made without are named in `later`: where they were not written, rows lack them. So it is with
    those in `told`, which enter no identity: they change what the stage says of its work, or tell nothing new.
    """

    stage: str
    dataset: str = ""
    columns: tuple[str, ...] = ()
    artifact: str = ""
    when: Callable[[Any], bool] = lambda config: True  # whether a stage with this config reads it
    given: Callable[[Any], bool] = lambda config: True  # whether `stage` has something to read, by its own config
    later: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    facts: bool = False  # all that its manifest says: how it went as well as what came of it


@dataclass(frozen=True)
class Progress:
    """A moment of a running stage, for display: `done` of `total` (None: unknown) `unit`s, and a few live figures."""

    done: int
    total: int | None
    unit: str
    note: str = ""


@dataclass(frozen=True)
class Bill:
    """What a changed stage would reuse, buy (at most) and no longer use: completions, and an estimate of tokens."""

    wanted: int
    reused: int
    missing: int
    dropped: int
    tokens: int | None = None  # of those missing; None where no completion of the model is known to go by

    def __str__(self) -> str:
        tokens = f", about {self.tokens:,} tokens" if self.tokens else ""
        return (
            f"Of {self.wanted:,} completions wanted, {self.reused:,} are in the store and would be reused; "
            f"{self.missing:,} must be bought{tokens}; {self.dropped:,} bought ones would no longer be used (they stay "
            f"in the store)."
        )


@dataclass(frozen=True)
class Failures:
    """What failed for good of a finished stage's requests to models, and the commonest cause."""

    count: int = 0
    cause: str = ""

    @classmethod
    def among(cls, asked: Iterable[Mapping[str, Any]]) -> "Failures":
        """Those of some calls of `sampling.buy`, by the facts of their figures."""
        failed = [one for one in asked if one.get("errors")]
        most = max(failed, key=lambda one: int(one["errors"]), default={})
        return cls(sum(one["errors"] for one in failed), str(most.get("cause", "")))


class Inputs(Protocol):
    """What a stage may know: its declared inputs, roles, prompts and models, nothing else."""

    @property
    def teacher(self) -> Teacher: ...

    @property
    def teachers(self) -> Mapping[str, Teacher]:
        """All teachers by name, the one called "teacher" first."""

    @property
    def student(self) -> Student: ...

    @property
    def judge(self) -> Judge | None:
        """The model that is asked for opinions, where the recipe has one."""

    @property
    def peer(self) -> Peer | None:
        """The second student, where the recipe has one."""

    def table(self, name: str) -> pa.Table:
        """All rows of a declared dataset, its declared columns only."""

    def batches(self, name: str, rows: int = 8192) -> Iterator[pa.Table]:
        """The rows of a declared dataset in tables of at most `rows` rows."""

    def folder(self, name: str) -> Path:
        """The folder of a declared artifact; its files were checked by size."""

    def manifest(self, name: str) -> Manifest:
        """The manifest behind a declared input."""

    def has(self, name: str) -> bool:
        """Whether a declared input is read in this run (`Reads.when` and `Reads.given`)."""

    def rounds(self) -> tuple[Standing, list[Manifest]] | None:
        """How the run's rounds stand, and the manifest of each one's eval; None for a run without rounds."""

    def prompt(self, name: str) -> str:
        """The text of a declared prompt template; "chat/x" for a chat template."""

    def weights(self, role: str) -> str:
        """The identity of a model's weights, by its name: a digest or a hub commit."""

    def model(self, role: str) -> Path:
        """A local folder with a model's weights and tokenizer, by its name, fetched and converted where needed."""

    @property
    def store(self) -> Path:
        """The folder of completion stores, shared by all runs."""

    @property
    def root(self) -> Path:
        """The folder that relative paths of a recipe start from."""


class Output(Protocol):
    """Where a stage writes."""

    folder: Path  # the stage's own folder
    work: Path  # for state that a killed stage resumes from; not part of what it wrote
    counts: Counter[str]  # rows by reason, for the manifest
    facts: dict[str, Any]  # figures for the manifest and the report; JSON values

    def write(self, dataset: str, table: pa.Table) -> None:
        """Append rows; they go to disk as new shards, in this order, and count once the manifest names them."""

    def previous(self, dataset: str, columns: Sequence[str] = ("id",)) -> list[tuple[Shard, pa.Table]]:
        """The shards of the last manifest with some columns of their rows, for a stage that adds rows."""

    def keep(self, dataset: str, shard: Shard) -> None:
        """Take a shard of the last manifest over as it is."""

    def artifact(self, name: str) -> Path:
        """An empty folder for files; sealed (sha256 of each) when the stage ends."""

    def progress(self, moment: Progress) -> None:
        """Show how far the stage is. Cheap enough for every row."""

    def say(self, line: str) -> None:
        """Show a line that a person should read."""


def no_names(config: Any, roles: Mapping[str, Role]) -> tuple[str, ...]:
    """A stage that uses no prompts."""
    return ()


def no_refusal(config: Any, roles: Mapping[str, Role], root: Path) -> None:
    """A stage that any valid recipe can run."""


def no_failures(manifest: Manifest) -> Failures:
    """A stage that asks no model."""
    return Failures()


def no_contents(config: Any, root: Path) -> dict[str, str]:
    """A stage whose config names no files."""
    return {}


Roles = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Stage:
    """A stage, whole. `run(config, inputs, output)` is a function over tables."""

    name: str
    version: int  # raised by hand when the same input would give another output; code is not hashed
    config: type[Section]
    run: Callable[[Any, Inputs, Output], None]
    reads: Mapping[str, Reads]
    writes: Mapping[str, pa.Schema] = field(default_factory=dict)
    artifacts: tuple[str, ...] = ()
    more_artifacts: tuple[str, ...] = ()  # that only some configs make
    # Role -> the keys that can change the output; of its config where that decides which. A role is "teacher",
    # "student", "teachers" for all teachers, or "judge" or "peer", where there is one. Without keys it decides nothing.
    roles: Roles | Callable[[Any], Roles] = field(default_factory=dict)
    weights: tuple[str, ...] | Callable[[Any], tuple[str, ...]] = ()  # roles whose weights it runs; likewise
    prompts: Callable[[Any, Mapping[str, Role]], tuple[str, ...]] = no_names
    # Digests of the files that a config names: their content is identity, their path is not.
    contents: Callable[[Any, Path], dict[str, str]] = no_contents
    # Raises StageError or ValueError for what its run would refuse, where the recipe, the files it names (relative ones
    # from the folder) or this machine say so: asked before any stage is run.
    refuse: Callable[[Any, Mapping[str, Role], Path], None] = no_refusal
    shows_rounds: bool = False  # it reads the scores of every round, where there are rounds
    on_stale: Literal["rebuild", "ask"] = "rebuild"  # ask: costs too much to do again unasked
    idle: frozenset[str] = frozenset()  # keys of its config (a.b) with other values a run that was cut off goes on
    bill: Callable[[Any, Inputs, Output], Bill] | None = None  # for a stage that reuses by id what it once bought
    # What failed of a run of it that finished. Forced, it is run for that though it is fresh, and asks for it again.
    failures: Callable[[Manifest], Failures] = no_failures
    # For a stage that spends: do a share of its work, which is kept, and say as JSON what the whole will take.
    pilot: Callable[[Any, Inputs, Output, float], dict[str, Any]] | None = None

    def roles_of(self, config: Any) -> Roles:
        """The roles it knows, each with its keys that can change the output."""
        return self.roles(config) if callable(self.roles) else self.roles

    def weights_of(self, config: Any) -> tuple[str, ...]:
        """The roles whose weights it runs."""
        return self.weights(config) if callable(self.weights) else self.weights
