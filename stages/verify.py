"""verify: what each trace answered, judged against the reference answer of its problem, and how often each problem was
answered rightly.

It drops no trace (`mix` does) and judges nothing but the final answer (`filter` looks at the rest). Verdicts: pass;
fail with wrong_answer or answer_missing, and for programs program_failed, time_limit, memory_limit or output_limit;
undecided with gold_unparseable, answer_unparseable, unverifiable,
verifier_timeout, verifier_memory, verifier_crash or generation_error. Undecided is never counted as wrong. With
`pseudo_golds`, traces of unverifiable problems are judged against what most of them say: pass, fail with
minority_answer, or undecided with no_majority. Of the verifier `judge` are judge_unasked, judge_addressed, judge_alone,
judge_disagrees, judge_unparseable, judge_failed and judge_untrusted, all undecided. `ratings` holds what a judge model
thinks of the right traces, where the recipe asks for it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipeline import adaptive, orders
from pipeline.ballots import Agreement
from pipeline.golds import PSEUDO, SUSPECTED, Attempts, Doubt, PseudoGolds
from pipeline.opinions import JUDGE, JudgeModel, Panel
from pipeline.ratings import PROMPT as RATE
from pipeline.ratings import Work, rated
from pipeline.records import PASS_RATE, RATING, VERDICT
from pipeline.roles import WORDS, Judge, Role, thinkers
from pipeline.section import Section
from pipeline.shards import as_table
from pipeline.stage import Failures, Inputs, Output, Progress, Reads, Stage, StageError
from pipeline.statistics import wilson
from pipeline.verifiers import VERIFIERS, lacking, version
from pipeline.verifiers.judging import Answered, judge_rows
from pipeline.verifiers.pool import Pool, PoolError, processors

ROWS = 2048  # verdicts written at once


class VerifyExec(Section):
    """How fast it runs."""

    workers: int | None = Field(None, ge=1)  # processes that judge; null: one for each processor


class Config(Section):
    """What bounds a verifier, and what the traces may say of a reference answer. A slow or greedy comparison is
    undecided, so the limits are part of what is written."""

    later: ClassVar[frozenset[str]] = frozenset({"rate"})

    timeout_s: float = Field(10.0, gt=0)  # wall-clock time of one answer; loading the verifier does not count
    memory_mib: int = Field(1024, ge=64)  # memory that judging one answer may add to its process
    doubt: Doubt = Doubt()
    # Judge the traces of unverifiable problems by their majority; null: they stay undecided.
    pseudo_golds: PseudoGolds | None = None
    # Have the judge model rate right traces from 1 to 10, for mix.prefer: judge.
    rate: bool = False
    exec: VerifyExec = VerifyExec()


@dataclass
class Tally:
    """How the traces of each problem were judged: problem id -> outcome -> count, and what most of them say where
    that stands against its reference answer, or for it.
    """

    problems: dict[str, Counter[str]] = field(default_factory=dict)
    by_verifier: dict[str, Counter[str]] = field(default_factory=dict)
    agreed: dict[str, tuple[str, Agreement]] = field(default_factory=dict)  # problem id -> reason and answer

    def add(self, problem_id: str, verifier: str, outcome: str) -> None:
        self.problems.setdefault(problem_id, Counter())[outcome] += 1
        self.by_verifier.setdefault(verifier, Counter())[outcome] += 1


def pass_rates(tally: Tally) -> list[dict[str, Any]]:
    """PASS_RATE rows, one for each problem with traces, sorted by id. Undecided traces say nothing of a rate."""
    rows = []
    for problem_id, outcomes in sorted(tally.problems.items()):
        right, wrong = outcomes["pass"], outcomes["fail"]
        rate = wilson(right, right + wrong)
        reason, agreed = tally.agreed.get(problem_id, (None, None))
        rows.append(
            {
                "id": problem_id,
                "right": right,
                "wrong": wrong,
                "undecided": outcomes["undecided"],
                "pass_rate": rate.value,
                "pass_rate_low": rate.low,
                "pass_rate_high": rate.high,
                "reasons": [] if reason is None else [reason],
                "agreed_answer": None if agreed is None else agreed.answer,
                "agreed_count": None if agreed is None else agreed.count,
            }
        )
    return rows


def references(problems: pa.Table) -> adaptive.References:
    """Problem id -> (reference answer, verifier, verifier_data). Raises StageError for a verifier that is not there."""
    for verifier in problems["verifier"].unique().to_pylist():
        if verifier not in VERIFIERS:
            known = ", ".join(sorted(VERIFIERS))
            raise StageError(
                f"some problems ask for the verifier {verifier!r}, which does not exist: name one of {known} in the "
                "sources of `seed`, and run seed again"
            )
    return adaptive.references(problems)


def answered(
    batches: Iterator[pa.Table],
    known: adaptive.References,
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


def judged(
    config: Config,
    inputs: Inputs,
    output: Output,
    known: adaptive.References,
    free: Mapping[str, str],
    tally: Tally,
) -> Iterator[dict[str, Any]]:
    """The verdict of every trace, those that wait for a pseudo-gold or for an opinion last. Tells `tally` of all."""
    problem_of: dict[str, str] = {}
    rows = answered(inputs.batches("traces"), known, thinkers(inputs.teachers), problem_of)
    attempts, panel = Attempts(config.doubt, config.pseudo_golds), Panel()
    with Pool(config.exec.workers or processors(), config.timeout_s, config.memory_mib) as pool:
        for verdict in judge_rows(rows, pool):
            problem_id = problem_of.pop(verdict["id"])
            gold, verifier, _ = known[problem_id]
            if problem_id in free and panel.take(problem_id, free[problem_id], gold, verdict):
                continue
            if not attempts.take(problem_id, verifier, verdict):
                tally.add(problem_id, verifier, verdict["outcome"])
                yield verdict
        for problem_id, verdict, majority in attempts.decided(pool):
            tally.add(problem_id, known[problem_id][1], verdict["outcome"])
            if majority is not None:
                tally.agreed[problem_id] = (PSEUDO, majority)
            yield verdict
        tally.agreed |= {key: (SUSPECTED, agreed) for key, agreed in attempts.suspected(pool).items()}
    if free:
        model = JudgeModel(inputs, output)
        for problem_id, verdict in panel.decided(model):
            tally.add(problem_id, JUDGE, verdict["outcome"])
            yield verdict
        output.facts["opinions"] = model.figures


def free_answers(problems: pa.Table, judge: Judge | None) -> dict[str, str]:
    """Problem id -> text, of the problems whose answers a judge model is asked about; none without such a model."""
    asked = problems.filter(pc.equal(problems["verifier"], JUDGE))
    if judge is None or not asked.num_rows:
        return {}
    return dict(zip(asked["id"].to_pylist(), asked["text"].to_pylist(), strict=True))


def ratings(inputs: Inputs, output: Output, problems: pa.Table, right: Set[str]) -> Iterator[dict[str, Any]]:
    """RATING rows of the right traces."""
    texts = dict(zip(problems["id"].to_pylist(), problems["text"].to_pylist(), strict=True))
    works = [
        Work(row["id"], texts[row["problem_id"]], row["raw"] or "")
        for table in inputs.batches("traces")
        for row in table.to_pylist()
        if row["id"] in right
    ]
    model = JudgeModel(inputs, output, "ratings", RATE)
    given = 0
    for trace_id, score in rated(works, model):
        given += score is not None
        yield {"id": trace_id, "score": score}
    output.facts["ratings"] = {"right": len(works), "rated": given, **model.figures}
    if works and not given:
        output.say("The judge model rated no trace: it calls texts that say nothing good, or answers in another form.")


def refuse_unrated(config: Config, judge: bool) -> None:
    """Raise StageError where traces are to be rated, and there is no judge model to do so."""
    if config.rate and not judge:
        raise StageError("verify.rate is true, and no model is named to rate. Name one under `judge`, or unset it.")


def refuse(config: Config, roles: Mapping[str, Role], root: Path) -> None:
    """Raise StageError where the recipe names no model for what it wants."""
    refuse_unrated(config, JUDGE in roles)


def run(config: Config, inputs: Inputs, output: Output) -> None:
    """Judge the traces as they stream by. `counts` holds the traces that pass, and how many each other reason has."""
    refuse_unrated(config, inputs.judge is not None)
    problems = inputs.table("problems")
    if why := lacking(problems["verifier"].unique().to_pylist()):
        raise StageError(f"Some problems cannot be judged on this machine: {why}")
    known, free = references(problems), free_answers(problems, inputs.judge)
    tally = Tally()
    written: list[dict[str, Any]] = []
    right: set[str] = set()
    try:
        for done, verdict in enumerate(judged(config, inputs, output, known, free, tally), start=1):
            output.counts.update(verdict["reasons"] or ["pass"])
            written.append(verdict)
            if config.rate and verdict["outcome"] == "pass":
                right.add(verdict["id"])
            if len(written) == ROWS:
                output.write("verdicts", as_table(written, VERDICT))
                written = []
            output.progress(Progress(done, None, "traces"))
    except PoolError as error:
        raise StageError(str(error)) from error
    output.write("verdicts", as_table(written, VERDICT))
    output.write("pass_rates", as_table(pass_rates(tally), PASS_RATE))
    if config.rate:
        output.write("ratings", as_table(list(ratings(inputs, output, problems, right)), RATING))
    output.facts.update(figures(tally))
    if output.counts["judge_unasked"]:
        output.say(
            f"{output.counts['judge_unasked']} answers wait for an opinion: name a model under `judge` in the recipe."
        )
    if output.facts["golds_suspected"]:
        output.say(
            f"{output.facts['golds_suspected']} reference answers may be wrong: the traces agree on another. Read them "
            f"with: seqdistill peek RECIPE verify --reason {SUSPECTED}"
        )


def figures(tally: Tally) -> dict[str, Any]:
    """What the manifest says: traces by outcome, in all and for each verifier, and how problems fared."""
    outcomes = sum(tally.problems.values(), Counter[str]())
    return {
        "right": outcomes["pass"],
        "wrong": outcomes["fail"],
        "undecided": outcomes["undecided"],
        "problems": len(tally.problems),
        "problems_solved": sum(1 for counts in tally.problems.values() if counts["pass"]),
        "golds_suspected": sum(reason == SUSPECTED for reason, _ in tally.agreed.values()),
        "pseudo_golds": sum(reason == PSEUDO for reason, _ in tally.agreed.values()),
        "by_verifier": {name: dict(sorted(counts.items())) for name, counts in sorted(tally.by_verifier.items())},
    }


def prompts(config: Config, roles: Mapping[str, Role]) -> tuple[str, ...]:
    """The templates of the judge model's questions, where the recipe has one."""
    if JUDGE not in roles:
        return ()
    asked = [roles[JUDGE], *([roles[JUDGE].model_copy(update={"prompt": RATE})] if config.rate else [])]
    return tuple(dict.fromkeys(name for role in asked for name in orders.prompt_names(role)))


STAGE = Stage(
    name="verify",
    version=2,
    config=Config,
    run=run,
    reads={
        "problems": Reads("seed", "problems", ("id", "text", "answer", "verifier", "verifier_data")),
        "traces": Reads("generate", "traces", ("id", "problem_id", "teacher", "raw", "finish")),
    },
    writes={"verdicts": VERDICT, "pass_rates": PASS_RATE, "ratings": RATING},
    roles={"teachers": ("thinking",), JUDGE: (*WORDS, "thinking", "sampling", "max_tokens")},
    weights=(JUDGE,),
    prompts=prompts,
    contents=version,
    refuse=refuse,
    failures=lambda manifest: Failures.among(manifest.facts.get(key, {}) for key in ("opinions", "ratings")),
)
