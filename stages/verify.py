"""verify: what each trace answered, judged against the reference answer of its problem, and how often each problem was
answered rightly.

It drops no trace (`mix` does) and judges nothing but the final answer (`filter` looks at the rest). Verdicts: pass;
fail with wrong_answer or answer_missing, and for programs program_failed, time_limit, memory_limit or output_limit;
undecided with gold_unparseable, answer_unparseable, unverifiable, verifier_timeout, verifier_memory, verifier_crash or
generation_error. Undecided is never counted as wrong.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from pydantic import Field

from pipeline.records import PASS_RATE, VERDICT
from pipeline.roles import thinkers
from pipeline.section import Section
from pipeline.shards import as_table
from pipeline.stage import Inputs, Output, Progress, Reads, Stage, StageError
from pipeline.verifiers import VERIFIERS, VERSION, lacking
from pipeline.verifiers.judging import Answered, judge_rows
from pipeline.verifiers.pool import Pool, PoolError, processors

ROWS = 2048  # verdicts written at once


class VerifyExec(Section):
    """How fast it runs."""

    workers: int | None = Field(None, ge=1)  # processes that judge; null: one for each processor


class Config(Section):
    """What bounds a verifier. A slow or greedy comparison is undecided, so the limits are part of what is written."""

    timeout_s: float = Field(10.0, gt=0)  # wall-clock time of one answer; loading the verifier does not count
    memory_mib: int = Field(1024, ge=64)  # memory that judging one answer may add to its process
    exec: VerifyExec = VerifyExec()


@dataclass
class Tally:
    """How the traces of each problem were judged: problem id -> outcome -> count."""

    problems: dict[str, Counter[str]] = field(default_factory=dict)
    by_verifier: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, problem_id: str, verifier: str, outcome: str) -> None:
        self.problems.setdefault(problem_id, Counter())[outcome] += 1
        self.by_verifier.setdefault(verifier, Counter())[outcome] += 1


def pass_rates(problems: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """PASS_RATE rows, one for each problem with traces, sorted by id. The rate is right / (right + wrong): undecided
    traces say nothing of a problem. None where none was decided.
    """
    rows = []
    for problem_id, outcomes in sorted(problems.items()):
        right, wrong = outcomes.get("pass", 0), outcomes.get("fail", 0)
        rows.append(
            {
                "id": problem_id,
                "right": right,
                "wrong": wrong,
                "undecided": outcomes.get("undecided", 0),
                "pass_rate": right / (right + wrong) if right + wrong else None,
            }
        )
    return rows


def references(problems: pa.Table) -> dict[str, tuple[str, str, str]]:
    """Problem id -> (reference answer, verifier, verifier_data). Raises StageError for a verifier that is not there."""
    for verifier in problems["verifier"].unique().to_pylist():
        if verifier not in VERIFIERS:
            known = ", ".join(sorted(VERIFIERS))
            raise StageError(
                f"some problems ask for the verifier {verifier!r}, which does not exist: name one of {known} in the "
                "sources of `seed`, and run seed again"
            )
    columns = [problems[name].to_pylist() for name in ("id", "answer", "verifier", "verifier_data")]
    return {id: (answer, verifier, data or "{}") for id, answer, verifier, data in zip(*columns, strict=True)}


def answered(
    batches: Iterator[pa.Table],
    known: Mapping[str, tuple[str, str, str]],
    thinking: Mapping[str, bool],
    problem_of: dict[str, str],
) -> Iterator[Answered]:
    """The traces as the judges take them. `thinking` goes by the teacher's label; `problem_of` is told which problem
    each belongs to.
    """
    for batch in batches:
        for row in batch.to_pylist():
            if row["problem_id"] not in known:
                raise StageError(
                    f"trace {row['id']} answers problem {row['problem_id']}, which seed did not write: "
                    "run generate again"
                )
            answer, verifier, data = known[row["problem_id"]]
            problem_of[row["id"]] = row["problem_id"]
            yield Answered(row["id"], row["raw"] or "", row["finish"], thinking[row["teacher"]], answer, verifier, data)


def run(config: Config, inputs: Inputs, output: Output) -> None:
    """Judge the traces as they stream by. `counts` holds the traces that pass, and how many each other reason has."""
    problems = inputs.table("problems")
    known = references(problems)
    if why := lacking(problems["verifier"].unique().to_pylist()):
        raise StageError(f"Some problems cannot be judged on this machine: {why}")
    problem_of: dict[str, str] = {}
    rows = answered(inputs.batches("traces"), known, thinkers(inputs.teachers), problem_of)
    tally = Tally()
    written: list[dict[str, Any]] = []
    try:
        with Pool(config.exec.workers or processors(), config.timeout_s, config.memory_mib) as pool:
            for done, verdict in enumerate(judge_rows(rows, pool), start=1):
                problem_id = problem_of.pop(verdict["id"])
                tally.add(problem_id, known[problem_id][1], verdict["outcome"])
                output.counts.update(verdict["reasons"] or ["pass"])
                written.append(verdict)
                if len(written) == ROWS:
                    output.write("verdicts", as_table(written, VERDICT))
                    written = []
                output.progress(Progress(done, None, "traces"))
    except PoolError as error:
        raise StageError(str(error)) from error
    output.write("verdicts", as_table(written, VERDICT))
    output.write("pass_rates", as_table(pass_rates(tally.problems), PASS_RATE))
    output.facts.update(figures(tally))


def figures(tally: Tally) -> dict[str, Any]:
    """What the manifest says: traces by outcome, in all and for each verifier, and how problems fared."""
    outcomes = sum(tally.problems.values(), Counter[str]())
    return {
        "right": outcomes["pass"],
        "wrong": outcomes["fail"],
        "undecided": outcomes["undecided"],
        "problems": len(tally.problems),
        "problems_solved": sum(1 for counts in tally.problems.values() if counts["pass"]),
        "by_verifier": {name: dict(sorted(counts.items())) for name, counts in sorted(tally.by_verifier.items())},
    }


STAGE = Stage(
    name="verify",
    version=VERSION,
    config=Config,
    run=run,
    reads={
        "problems": Reads("seed", "problems", ("id", "answer", "verifier", "verifier_data")),
        "traces": Reads("generate", "traces", ("id", "problem_id", "teacher", "raw", "finish")),
    },
    writes={"verdicts": VERDICT, "pass_rates": PASS_RATE},
    roles={"teachers": ("thinking",)},
)
