"""filter: reads how each trace is written (its form, its length, its repetitions) and gives one verdict per trace.

It does not know whether an answer is right (`verify` does) and drops nothing (`mix` does).
"""

import json
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import field_validator

from pipeline.records import VERDICT
from pipeline.roles import thinkers
from pipeline.rules import RULES, Rule, load
from pipeline.rules.limits import Limits
from pipeline.rules.trace import Trace
from pipeline.shards import as_table
from pipeline.stage import Inputs, Output, Progress, Reads, Stage, StageError


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


def judge(trace_id: str, trace: Trace, rules: Mapping[str, Rule], limits: Limits) -> dict[str, Any]:
    """One VERDICT row: every rule the trace breaks is a reason, and `detail` holds the figures behind each."""
    broken = {name: figures for name, rule in rules.items() if (figures := rule(trace, limits)) is not None}
    return {
        "id": trace_id,
        "outcome": "fail" if broken else "pass",
        "reasons": list(broken),
        "score": None,
        "detail": json.dumps(broken, sort_keys=True, ensure_ascii=False),
    }


def trace_of(row: Mapping[str, Any], domains: Mapping[str, str], thinking: Mapping[str, bool]) -> Trace:
    """The trace of a row; `thinking` goes by the teacher's label. Raises StageError where its problem is not there."""
    domain = domains.get(row["problem_id"])
    if domain is None:
        raise StageError(
            f"Trace {row['id']} answers problem {row['problem_id']}, which seed/problems does not hold. Run stage "
            f"generate again, so that both come from one set of problems."
        )
    return Trace(row["raw"] or "", row["finish"], row["completion_tokens"] or 0, thinking[row["teacher"]], domain)


def run(config: Config, inputs: Inputs, output: Output) -> None:
    """Judge the traces batch by batch. `counts` holds the traces that pass, and how many break each rule."""
    # In the table's order, whatever the recipe's: the first reason of a verdict is the one the funnel shows.
    rules = {name: load(name) for name in RULES if name in config.rules}
    problems = inputs.table("problems")
    domains = dict(zip(problems.column("id").to_pylist(), problems.column("domain").to_pylist(), strict=True))
    thinking = thinkers(inputs.teachers)
    output.counts.update(dict.fromkeys(("pass", *rules), 0))
    done = 0
    for table in inputs.batches("traces"):
        verdicts = [judge(row["id"], trace_of(row, domains, thinking), rules, config) for row in table.to_pylist()]
        for verdict in verdicts:
            output.counts.update(verdict["reasons"] or ["pass"])
        output.write("verdicts", as_table(verdicts, VERDICT))
        done += len(verdicts)
        output.progress(Progress(done, None, "traces"))


STAGE = Stage(
    name="filter",
    version=2,
    config=Config,
    run=run,
    reads={
        "traces": Reads("generate", "traces", ("id", "problem_id", "teacher", "raw", "finish", "completion_tokens")),
        "problems": Reads("seed", "problems", ("id", "domain")),
    },
    writes={"verdicts": VERDICT},
    roles={"teachers": ("thinking",)},
)
