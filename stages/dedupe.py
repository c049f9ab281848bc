"""dedupe: finds traces of one problem that say the same, word for word or nearly, and names the one to keep.

It compares no traces of different problems and drops nothing (`mix` does).
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from pipeline.records import VERDICT
from pipeline.section import Section
from pipeline.shards import as_table
from pipeline.similarity.minhash import near_duplicates
from pipeline.stage import Inputs, Output, Progress, Reads, Stage, StageError
from pipeline.text import fold


class Config(Section):
    """When two traces of a problem count as the same. Traces whose numbers differ never do."""

    near: bool = True  # also near-duplicates; false: only texts that are equal but for case and white space
    threshold: float = Field(0.8, gt=0, le=1)  # near: Jaccard of the sets of word shingles, from here on
    shingle_words: int = Field(5, ge=1)  # near: words of a shingle; a shorter text compares whole


@dataclass(frozen=True)
class Sample:
    """A trace and what decides whether it is kept rather than its duplicates."""

    id: str
    raw: str
    right: bool
    completion_tokens: int

    @property
    def rank(self) -> tuple[bool, int, str]:
        """The smallest survives: a right one, then the fewest tokens, then the smallest id."""
        return (not self.right, self.completion_tokens, self.id)


@dataclass(frozen=True)
class Duplicate:
    """What a trace repeats: a trace that is kept, and how much of it."""

    reason: str  # duplicate_exact | duplicate_near
    survivor: str
    jaccard: float


def duplicates(samples: Iterable[Sample], config: Config) -> dict[str, Duplicate]:
    """The traces of one problem that repeat another one, by id.

    Best first, a trace is kept unless it is at least `threshold` like one that was kept before: so the order of rows
    is nothing, every duplicate names a trace that is kept, and a chain of small steps does not swallow its far end.
    """
    ranked = sorted(samples, key=lambda sample: sample.rank)
    first_of: dict[str, Sample] = {}
    copies: dict[str, str] = {}
    for sample in ranked:
        first = first_of.setdefault(fold(sample.raw), sample)
        if first is not sample:
            copies[sample.id] = first.id
    found = _near(list(first_of.values()), config) if config.near else {}
    for copy, first_id in copies.items():
        near = found.get(first_id)
        found[copy] = Duplicate("duplicate_exact", near.survivor if near else first_id, near.jaccard if near else 1.0)
    return found


def _near(ranked: Sequence[Sample], config: Config) -> dict[str, Duplicate]:
    better: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for left, right, jaccard in near_duplicates([one.raw for one in ranked], config.threshold, config.shingle_words):
        better[right].append((-jaccard, left))
    found: dict[str, Duplicate] = {}
    for place in sorted(better):
        kept = [(-jaccard, left) for jaccard, left in sorted(better[place]) if ranked[left].id not in found]
        if kept:
            jaccard, left = kept[0]
            found[ranked[place].id] = Duplicate("duplicate_near", ranked[left].id, jaccard)
    return found


def verdict(trace_id: str, duplicate: Duplicate | None) -> dict[str, Any]:
    """One VERDICT row; `score` is the Jaccard index with the survivor, null for a trace that repeats none."""
    detail = {"survivor": duplicate.survivor, "jaccard": round(duplicate.jaccard, 4)} if duplicate else {}
    return {
        "id": trace_id,
        "outcome": "fail" if duplicate else "pass",
        "reasons": [duplicate.reason] if duplicate else [],
        "score": duplicate.jaccard if duplicate else None,
        "detail": json.dumps(detail),
    }


def sample_of(row: Mapping[str, Any], outcomes: Mapping[str, str]) -> Sample:
    """A trace's row with what `verify` said of it. Raises StageError where it said nothing."""
    outcome = outcomes.get(row["id"])
    if outcome is None:
        raise StageError(f"Trace {row['id']} has no verdict in verify/verdicts. Run stage verify again.")
    return Sample(row["id"], row["raw"] or "", outcome == "pass", row["completion_tokens"] or 0)


def run(config: Config, inputs: Inputs, output: Output) -> None:
    """Compare the traces of each problem. `counts` holds the traces by reason, and those that pass."""
    verified = inputs.table("verified")
    outcomes = dict(zip(verified.column("id").to_pylist(), verified.column("outcome").to_pylist(), strict=True))
    problems: dict[str, list[Sample]] = defaultdict(list)
    for table in inputs.batches("traces"):
        for row in table.to_pylist():
            problems[row["problem_id"]].append(sample_of(row, outcomes))
    output.counts.update({"pass": 0, "duplicate_exact": 0, "duplicate_near": 0})
    for done, problem_id in enumerate(sorted(problems), start=1):
        samples = problems[problem_id]
        found = duplicates(samples, config)
        rows = [verdict(sample.id, found.get(sample.id)) for sample in samples]
        output.counts.update(row["reasons"][0] if row["reasons"] else "pass" for row in rows)
        output.write("verdicts", as_table(rows, VERDICT))
        output.progress(Progress(done, len(problems), "problems"))


STAGE = Stage(
    name="dedupe",
    version=1,
    config=Config,
    run=run,
    reads={
        "traces": Reads("generate", "traces", ("id", "problem_id", "raw", "completion_tokens")),
        "verified": Reads("verify", "verdicts", ("id", "outcome")),
    },
    writes={"verdicts": VERDICT},
)
