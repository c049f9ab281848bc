"""dedupe: finds traces of one problem that say the same, word for word or nearly (or, where a model is named, in other
words), and names the one to keep.

It compares no traces of different problems and drops nothing (`mix` does).
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from sys import intern
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, field_validator

from pipeline.embedding import Embedder, Semantic, identity, opened
from pipeline.manifest import Shard
from pipeline.records import SIGNATURE, VERDICT
from pipeline.section import Section
from pipeline.shards import as_table
from pipeline.similarity.meaning import Vectors, numbers_of, same_meaning
from pipeline.similarity.minhash import Shingling, Signatures
from pipeline.similarity.repeats import Finder
from pipeline.similarity.signed import Signed
from pipeline.stage import Inputs, Output, Progress, Reads, Roles, Stage, StageError

ROWS = 8192
KEPT_SHARE = 0.5  # a shard of signatures with fewer in use than this is written anew

Quality = Literal["right", "shortest", "pass_rate", "first_teacher"]


class Config(Section):
    """When two traces of a problem count as the same, and which of them stays."""

    later: ClassVar[frozenset[str]] = frozenset({"shingle_characters", "survivor", "semantic"})

    near: bool = True  # also near-duplicates; false: only traces with the same words, numbers and signs in order
    threshold: float = Field(0.8, gt=0, le=1)  # near: Jaccard of the sets of shingles, from here on
    shingle_words: int = Field(5, ge=1)  # near: words of a shingle; a shorter text compares whole
    # near: characters of a shingle, in place of words: for scripts without spaces between words.
    shingle_characters: int | None = Field(None, ge=1)
    # What makes a trace the one to keep, the most important first: that it is right, has the fewest tokens, comes from
    # the teacher that is right on its problem most often, or from the teacher that the recipe names first. Of equals
    # the smallest id stays.
    survivor: tuple[Quality, ...] = ("right", "shortest")

    # Also traces that say the same in other words with the same numbers in order, by a model's vectors; null: none.
    semantic: Semantic | None = None

    @field_validator("survivor")
    @classmethod
    def _each_once(cls, survivor: tuple[Quality, ...]) -> tuple[Quality, ...]:
        doubled = [name for name, count in Counter(survivor).items() if count > 1]
        if doubled:
            raise ValueError(f"survivor names {doubled[0]!r} twice; the second one could decide nothing: leave it out")
        return survivor

    @property
    def shingling(self) -> Shingling:
        """How traces are compared."""
        if self.shingle_characters is not None:
            return Shingling(self.threshold, self.shingle_characters, "character")
        return Shingling(self.threshold, self.shingle_words)


@dataclass(frozen=True, slots=True)
class Sample:
    """What decides whether a trace is kept rather than its duplicates."""

    id: str
    problem_id: str
    teacher: str
    completion_tokens: int
    outcome: str  # pass | fail | undecided


Ranking = Callable[[Sample], tuple[Any, ...]]


def ranking(config: Config, samples: Sequence[Sample], teachers: Sequence[str]) -> Ranking:
    """The key to sort traces by: the smallest survives. `teachers` are the labels of the recipe's, in its order."""
    right: Counter[tuple[str, str]] = Counter()
    decided: Counter[tuple[str, str]] = Counter()
    for sample in samples if "pass_rate" in config.survivor else ():
        right[sample.problem_id, sample.teacher] += sample.outcome == "pass"
        decided[sample.problem_id, sample.teacher] += sample.outcome != "undecided"
    place = {label: at for at, label in reversed(list(enumerate(teachers)))}

    def pass_rate(sample: Sample) -> float:
        return right[sample.problem_id, sample.teacher] / max(1, decided[sample.problem_id, sample.teacher])

    values: dict[str, Callable[[Sample], float]] = {
        "right": lambda sample: sample.outcome != "pass",
        "shortest": lambda sample: sample.completion_tokens,
        "pass_rate": lambda sample: -pass_rate(sample),
        "first_teacher": lambda sample: place.get(sample.teacher, len(place)),
    }
    wanted = [values[name] for name in config.survivor]
    return lambda sample: (*(value(sample) for value in wanted), sample.id)


class Traces:
    """The traces as the stage streams by them: what ranks them, and their signatures; their texts stay on the disk."""

    def __init__(self, config: Config, inputs: Inputs, output: Output) -> None:
        self.samples: list[Sample] = []
        self._inputs = inputs
        outcomes: dict[str, str] = {}
        for table in inputs.batches("verified"):
            said = map(intern, table.column("outcome").to_pylist())
            outcomes |= zip(table.column("id").to_pylist(), said, strict=True)
        memory = Memory(config.shingling, output)
        rows = [np.zeros(0, dtype=np.int64)]
        for table in inputs.batches("traces", ROWS):
            rows.append(memory.rows([raw or "" for raw in table.column("raw").to_pylist()]))
            self.samples += [sample_of(row, outcomes) for row in table.drop_columns("raw").to_pylist()]
            output.progress(Progress(len(self.samples), None, "traces read"))
        memory.close()
        self._rows, self._memory = np.concatenate(rows), memory

    def signatures(self, order: Sequence[int]) -> Signatures:
        """The signatures of the traces in an order. They are handed out once, and not kept here beside it."""
        found = self._memory.signatures(self._rows[order])
        del self._memory
        return found

    def meanings(self, rows: Collection[int], embedder: Embedder) -> tuple[Vectors, list[bytes]]:
        """The vectors of some rows, in the order of the traces, and the numbers of each."""
        vectors: list[Vectors] = []
        numbers: list[bytes] = []
        for texts in self._texts(rows):
            vectors.append(embedder.of(list(texts.values())))
            numbers += map(numbers_of, texts.values())
        return np.concatenate(vectors), numbers

    def texts(self, rows: Collection[int]) -> dict[int, str]:
        """The raw texts of some rows."""
        return {row: text for texts in self._texts(rows) for row, text in texts.items()}

    def _texts(self, rows: Collection[int]) -> Iterator[dict[int, str]]:
        start = 0
        for table in self._inputs.batches("traces", ROWS):
            wanted = [row for row in range(start, start + table.num_rows) if row in rows]
            column = table.column("raw")
            yield {row: column[row - start].as_py() or "" for row in wanted}
            start += table.num_rows


class Memory:
    """Signatures of the last run are taken over; new ones are written beside them."""

    def __init__(self, shingling: Shingling, output: Output) -> None:
        self._signed, self._output = Signed(shingling), output
        self._before: list[tuple[Shard, pa.Table, int, int]] = []
        try:
            before = output.previous("signatures", SIGNATURE.names)
        except ValueError:  # a shard is gone or torn: what it held is made again
            before = []
        for shard, table in before:
            keys = [bytes.fromhex(key) for key in table.column("id").to_pylist()]
            first, end = self._signed.take_over(keys, table.column("packed").to_pylist())
            self._before.append((shard, table, first, end))

    def rows(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """The rows that the signatures of texts have here, in order."""
        rows, made = self._signed.of(texts)
        if made:
            written = [{"id": key.hex(), "packed": packed} for key, packed in made.items()]
            self._output.write("signatures", as_table(written, SIGNATURE))
        return rows

    def signatures(self, rows: npt.NDArray[np.int64]) -> Signatures:
        """The signatures in some rows."""
        return self._signed.signatures(rows)

    def close(self) -> None:
        """Keep the shards that are still of use, and say how much was."""
        for shard, table, first, end in self._before:
            asked = self._signed.asked(first, end)
            if asked.sum() >= KEPT_SHARE * max(1, len(asked)):
                self._output.keep("signatures", shard)
            elif asked.any():
                self._output.write("signatures", table.filter(pa.array(asked)))
        self._output.facts.update(signatures_made=self._signed.made, signatures_reused=self._signed.reused)


@dataclass(frozen=True)
class Copy:
    """What a trace repeats, and why that is said."""

    of: int  # the row of the trace that is kept
    reason: Literal["duplicate_exact", "duplicate_near", "duplicate_semantic"]
    score: float  # Jaccard index, or cosine


def verdict(trace_id: str, survivor: str, copy: Copy | None) -> dict[str, Any]:
    """One VERDICT row; `score` is the likeness to the survivor, null for a trace that repeats none."""
    measure = "cosine" if copy and copy.reason == "duplicate_semantic" else "jaccard"
    return {
        "id": trace_id,
        "outcome": "fail" if copy else "pass",
        "reasons": [copy.reason] if copy else [],
        "score": copy.score if copy else None,
        "detail": json.dumps({"survivor": survivor, measure: round(copy.score, 4)} if copy else {}),
    }


def sample_of(row: Mapping[str, Any], outcomes: Mapping[str, str]) -> Sample:
    """A trace's row with what `verify` said of it. Raises StageError where it said nothing."""
    outcome = outcomes.get(row["id"])
    if outcome is None:
        raise StageError(f"Trace {row['id']} has no verdict in verify/verdicts. Run stage verify again.")
    problem, teacher = intern(row["problem_id"]), intern(row["teacher"] or "")  # once for all their traces
    return Sample(row["id"], problem, teacher, row["completion_tokens"] or 0, outcome)


def duplicates(traces: Traces, rank: Ranking, config: Config) -> dict[int, Copy]:
    """The traces that repeat another one of their problem by their words, by row.

    The order of rows decides nothing (see `Finder`).
    """
    samples = traces.samples
    order = sorted(range(len(samples)), key=lambda row: rank(samples[row]))
    numbers: dict[str, int] = {}
    groups = [numbers.setdefault(samples[row].problem_id, len(numbers)) for row in order]
    finder = Finder(config.shingling, traces.signatures(order), groups)
    if config.near:
        known = traces.texts({order[place] for place in finder.wanted()})
        found = finder.find(lambda place: known[order[place]])
    else:
        found = finder.exact()
    return {
        order[place]: Copy(
            order[repeat.of], "duplicate_exact" if repeat.exact else "duplicate_near", float(repeat.jaccard)
        )
        for place, repeat in found.items()
    }


def paraphrases(
    traces: Traces, rank: Ranking, semantic: Semantic, found: Mapping[int, Copy], embedder: Callable[[], Embedder]
) -> dict[int, Copy]:
    """The same with the traces that repeat another one by their meaning. Whatever repeats one of these names the trace
    that is kept.
    """
    samples = traces.samples
    left = [row for row in range(len(samples)) if row not in found]
    rivals = Counter(samples[row].problem_id for row in left)
    left = [row for row in left if rivals[samples[row].problem_id] > 1]
    if not left:
        return dict(found)
    vectors, numbers = traces.meanings(set(left), embedder())
    order = sorted(range(len(left)), key=lambda place: rank(samples[left[place]]))
    keys = [(samples[left[place]].problem_id, numbers[place]) for place in order]
    alike = {
        left[order[at]]: Copy(left[order[kept]], "duplicate_semantic", cosine)
        for at, (kept, cosine) in same_meaning(vectors[order], keys, semantic.threshold).items()
    }
    named = {row: replace(copy, of=alike[copy.of].of) if copy.of in alike else copy for row, copy in found.items()}
    return named | alike


def run(config: Config, inputs: Inputs, output: Output) -> None:
    """Compare the traces of each problem. `counts` holds the traces by reason, and those that pass."""
    traces = Traces(config, inputs, output)
    samples = traces.samples
    teachers = [one.label for one in inputs.teachers.values()] if "first_teacher" in config.survivor else []
    rank = ranking(config, samples, teachers)
    found = duplicates(traces, rank, config)
    output.counts.update({"pass": 0, "duplicate_exact": 0, "duplicate_near": 0})
    if config.semantic is not None:
        found = paraphrases(traces, rank, config.semantic, found, opened(config.semantic, inputs.root, output.say))
        output.counts["duplicate_semantic"] = 0
    for start in range(0, len(samples), ROWS):
        rows = []
        for row, sample in enumerate(samples[start : start + ROWS], start=start):
            copy = found.get(row)
            rows.append(verdict(sample.id, samples[copy.of].id if copy else sample.id, copy))
        output.counts.update(row["reasons"][0] if row["reasons"] else "pass" for row in rows)
        output.write("verdicts", as_table(rows, VERDICT))
        output.progress(Progress(start + len(rows), len(samples), "traces"))


def contents(config: Config, root: Path) -> dict[str, str]:
    """The identity of the model that says what texts mean, where one is asked."""
    return identity(config.semantic, root)


def roles(config: Config) -> Roles:
    """The teachers' names, where their order decides."""
    return {"teachers": ("label", "place")} if "first_teacher" in config.survivor else {}


STAGE = Stage(
    name="dedupe",
    version=2,
    config=Config,
    run=run,
    reads={
        "traces": Reads("generate", "traces", ("id", "problem_id", "teacher", "raw", "completion_tokens")),
        "verified": Reads("verify", "verdicts", ("id", "outcome")),
    },
    writes={"verdicts": VERDICT, "signatures": SIGNATURE},
    roles=roles,
    contents=contents,
)
