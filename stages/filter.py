"""filter: reads how each trace is written (its form, its length, its repetitions) and gives one verdict per trace.

It does not know whether an answer is right (`verify` does) and drops nothing (`mix` does).
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import field_validator

from pipeline.records import VERDICT
from pipeline.roles import thinkers
from pipeline.rules import RULES, Rule, load
from pipeline.rules.limits import Limits
from pipeline.rules.trace import Trace, Traces
from pipeline.shards import as_table
from pipeline.stage import Inputs, Output, Progress, Reads, Stage, StageError

# What is judged at once. Patterns are compiled for each batch, and the words of all its traces are held.
BATCH_TRACES, BATCH_CHARS = 1024, 2_000_000


class Config(Limits):
    """Which rules apply. Their thresholds, each with its default, are those of `pipeline.rules.limits`."""

    rules: tuple[str, ...] = tuple(RULES)  # names from pipeline.rules.RULES; a trace that breaks any of them fails

    @field_validator("rules")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in RULES:
                near = get_close_matches(name, RULES, n=1, cutoff=0.0)[0]
                raise ValueError(f"there is no rule {name!r}; did you mean {near!r}? The rules are {', '.join(RULES)}")
        return names


def judge(ids: Sequence[str], traces: Traces, rules: Mapping[str, Rule], limits: Limits) -> list[dict[str, Any]]:
    """VERDICT rows of a batch: every rule that a trace breaks is a reason; `detail` holds the figures behind each."""
    broken = {name: rule(traces, limits) for name, rule in rules.items()}
    verdicts = []
    for place, trace_id in enumerate(ids):
        reasons = {name: found[place] for name, found in broken.items() if place in found}
        verdicts.append(
            {
                "id": trace_id,
                "outcome": "fail" if reasons else "pass",
                "reasons": list(reasons),
                "score": None,
                "detail": json.dumps(reasons, sort_keys=True, ensure_ascii=False) if reasons else "{}",
            }
        )
    return verdicts


class Lengths:
    """The lengths of the traces that ended by themselves, by problem."""

    def __init__(self, tables: Iterable[pa.Table], least_others: int) -> None:
        self._least = least_others
        self._lengths: dict[str, list[int]] = defaultdict(list)
        for table in tables:
            ended = table.filter(pc.equal(table["finish"], "stop"))
            for problem_id, tokens in zip(
                ended["problem_id"].to_pylist(), ended["completion_tokens"].to_pylist(), strict=True
            ):
                self._lengths[problem_id].append(tokens or 0)

    def others(self, row: Mapping[str, Any]) -> float | None:
        """The median of the lengths of a problem's traces but this one; None where there are too few."""
        lengths = list(self._lengths.get(row["problem_id"], ()))
        if row["finish"] == "stop":
            lengths.remove(row["completion_tokens"] or 0)
        return float(median(lengths)) if len(lengths) >= self._least else None


def trace_of(
    row: Mapping[str, Any],
    problems: Mapping[str, tuple[str, str]],
    thinking: Mapping[str, bool],
    lengths: Lengths | None = None,
) -> Trace:
    """The trace of a row. `problems` gives domain and text by id, `thinking` goes by the teacher's label. Raises
    StageError where its problem is not there.
    """
    if row["problem_id"] not in problems:
        raise StageError(
            f"Trace {row['id']} answers problem {row['problem_id']}, which seed/problems does not hold. Run stage "
            f"generate again, so that both come from one set of problems."
        )
    domain, text = problems[row["problem_id"]]
    return Trace(
        raw=row["raw"] or "",
        finish=row["finish"],
        completion_tokens=row["completion_tokens"] or 0,
        thinking=thinking[row["teacher"]],
        domain=domain or "",
        problem=text or "",
        prompt=row["prompt"] or "",
        others_tokens=None if lengths is None else lengths.others(row),
    )


def run(config: Config, inputs: Inputs, output: Output) -> None:
    """Judge the traces batch by batch. `counts` holds the traces that pass, and how many break each rule."""
    # In the table's order, whatever the recipe's: the first reason of a verdict is the one the funnel shows.
    rules = {name: load(name) for name in RULES if name in config.rules}
    columns = [inputs.table("problems").column(name).to_pylist() for name in ("id", "domain", "text")]
    problems = {key: (domain, text) for key, domain, text in zip(*columns, strict=True)}
    thinking = thinkers(inputs.teachers)
    lengths = Lengths(inputs.batches("lengths"), config.length_ratio_others) if compares_lengths(config) else None
    output.counts.update(dict.fromkeys(("pass", *rules), 0))
    done = 0
    for table in inputs.batches("traces", 2048):
        ids = iter(table["id"].to_pylist())
        verdicts = []
        for batch in batches(trace_of(row, problems, thinking, lengths) for row in table.to_pylist()):
            verdicts += judge(list(islice(ids, len(batch))), Traces(batch), rules, config)
        for verdict in verdicts:
            output.counts.update(verdict["reasons"] or ["pass"])
        output.write("verdicts", as_table(verdicts, VERDICT))
        done += len(verdicts)
        output.progress(Progress(done, None, "traces"))


def batches(traces: Iterable[Trace]) -> Iterator[list[Trace]]:
    """The traces in lists of BATCH_TRACES at most, cut where they hold BATCH_CHARS."""
    batch: list[Trace] = []
    chars = 0
    for trace in traces:
        batch.append(trace)
        chars += len(trace.raw)
        if len(batch) == BATCH_TRACES or chars >= BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def compares_lengths(config: Config) -> bool:
    """Whether a rule needs the lengths of a problem's other traces."""
    return config.length_ratio is not None


STAGE = Stage(
    name="filter",
    version=5,
    config=Config,
    run=run,
    reads={
        "traces": Reads(
            "generate", "traces", ("id", "problem_id", "teacher", "prompt", "raw", "finish", "completion_tokens")
        ),
        "lengths": Reads("generate", "traces", ("problem_id", "finish", "completion_tokens"), when=compares_lengths),
        "problems": Reads("seed", "problems", ("id", "domain", "text")),
    },
    writes={"verdicts": VERDICT},
    roles={"teachers": ("thinking",)},
)
