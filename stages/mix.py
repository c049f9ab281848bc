"""mix: the only stage that drops traces; it turns those that passed every judge into training examples.

It judges nothing itself. What became of each trace is written to `fates`, with the first reason in the funnel's order
and all the others.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from pipeline.orders import conversation, prompt_names
from pipeline.records import EXAMPLE, FATE, content_id
from pipeline.roles import Role, thinkers
from pipeline.section import Section
from pipeline.shards import as_table
from pipeline.stage import Inputs, Output, Reads, Stage, StageError
from pipeline.think import TraceFormat, assemble, lay_out

# The order in which the funnel asks for a trace's first reason. How a trace is written comes before whether it is
# right, since a truncated trace is wrong because it was truncated.
FUNNEL = ("filter", "verify", "dedupe", "decontaminate", "mix")


class Config(Section):
    """Which traces become examples, and how they are written."""

    verification: Literal["on", "off"] = (
        "on"  # off: wrong and undecided traces stay in, so that the effect can be measured
    )
    prefer: Literal["first", "shortest"] = "shortest"  # which of a problem's traces come first where there is a cap
    traces_per_problem: int | None = Field(None, ge=1)  # the cap; null: all
    # Of several teachers: all traces of a problem compete under one cap; each teacher has the cap for itself; or only
    # the teacher whose answers to the problem are right most often is heard.
    ensemble: Literal["pool", "each", "best"] = "pool"
    trace_format: TraceFormat = "think"  # think: reasoning in think tags, then the answer; plain: the text as it came
    validation_share: float = Field(0.05, ge=0, lt=1)  # share of problems kept for validation


@dataclass(frozen=True)
class Candidate:
    """What the decision about a trace needs to know of it."""

    id: str
    problem_id: str
    sample: int
    completion_tokens: int
    reasons: tuple[tuple[str, str], ...]  # (stage, slug), in the funnel's order
    survivor: str | None  # the trace it duplicates
    teacher: str = ""
    right: bool | None = None  # its answer; None: undecided

    @property
    def good(self) -> bool:
        """Nothing speaks against it but that it repeats another trace."""
        return all(stage == "dedupe" for stage, _ in self.reasons)


def merged_reasons(verdicts: Mapping[str, Mapping[str, Any]], verification: bool) -> tuple[tuple[str, str], ...]:
    """All (stage, reason) pairs that speak against a trace, in the funnel's order, from its verdict of each stage."""
    stages = [stage for stage in FUNNEL if stage in verdicts and (stage != "verify" or verification)]
    return tuple(
        (stage, reason)
        for stage in stages
        if verdicts[stage]["outcome"] != "pass"
        for reason in (verdicts[stage]["reasons"] or [verdicts[stage]["outcome"]])
    )


def revive(candidates: list[Candidate]) -> list[Candidate]:
    """Give a duplicate its place back where the trace it repeats was dropped for another reason: of all duplicates of
    a dropped trace that nothing else speaks against, the shortest (then the smallest id) loses its duplicate reasons.
    """
    by_id = {candidate.id: candidate for candidate in candidates}
    heirs: dict[str, Candidate] = {}
    for candidate in sorted(candidates, key=lambda one: (one.completion_tokens, one.id)):
        only_duplicate = candidate.reasons and all(stage == "dedupe" for stage, _ in candidate.reasons)
        if only_duplicate and candidate.survivor in by_id and by_id[candidate.survivor].reasons:
            heirs.setdefault(candidate.survivor, candidate)
    revived = {heir.id for heir in heirs.values()}
    return [replace(one, reasons=(), survivor=None) if one.id in revived else one for one in candidates]


def hear_best(candidates: list[Candidate]) -> list[Candidate]:
    """Add weaker_teacher to the good traces whose teacher is not the best on their problem.

    The best has the highest share of right answers among its decided ones; of equals, the one whose good traces are
    shorter on average, then the first by name. A teacher without a good trace is not compared.
    """
    groups: dict[str, dict[str, list[Candidate]]] = {}
    for one in candidates:
        groups.setdefault(one.problem_id, {}).setdefault(one.teacher, []).append(one)
    best = {
        problem: min(teachers, key=lambda name: _rank(name, teachers[name])) for problem, teachers in groups.items()
    }
    weaker = (("mix", "weaker_teacher"),)
    return [
        replace(one, reasons=one.reasons + weaker) if one.good and one.teacher != best[one.problem_id] else one
        for one in candidates
    ]


def _rank(teacher: str, traces: list[Candidate]) -> tuple[float, float, str]:
    decided = [one for one in traces if one.right is not None]
    share = sum(bool(one.right) for one in decided) / len(decided) if decided else 0.0
    lengths = [one.completion_tokens for one in traces if one.good]
    return (-share, sum(lengths) / len(lengths), teacher) if lengths else (1.0, 0.0, teacher)


def over_cap(candidates: list[Candidate], cap: int | None, prefer: str, each: bool = False) -> set[str]:
    """Ids of the passing traces that a cap per problem (`each`: per problem and teacher) leaves out."""
    if cap is None:
        return set()
    groups: dict[tuple[str, str], list[Candidate]] = {}
    for candidate in candidates:
        if not candidate.reasons:
            key = candidate.problem_id, candidate.teacher if each else ""
            groups.setdefault(key, []).append(candidate)
    left_out = set()
    for group in groups.values():
        group.sort(key=lambda one: (one.completion_tokens if prefer == "shortest" else one.sample, one.sample, one.id))
        left_out |= {one.id for one in group[cap:]}
    return left_out


def in_validation(problem_id: str, share: float) -> bool:
    """Whether a problem is kept for validation: by its id alone, so that growing a set moves no problem."""
    return int(content_id("validation", problem_id), 16) < share * 2**128


def funnel(fates: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows {stage, reason, traces} in the funnel's order, most frequent first within a stage; the last one is "kept".
    They add up to the number of traces.
    """
    counts = Counter((fate["stage"], fate["reason"]) for fate in fates if not fate["kept"])
    rows = [
        {"stage": stage, "reason": reason, "traces": count}
        for (stage, reason), count in sorted(
            counts.items(), key=lambda item: (FUNNEL.index(item[0][0]), -item[1], item[0])
        )
    ]
    return [*rows, {"stage": "mix", "reason": "kept", "traces": sum(fate["kept"] for fate in fates)}]


def example(
    trace: dict[str, Any], problem: dict[str, Any], prompt: list[dict[str, str]], config: Config, thinking: bool
) -> dict[str, Any]:
    """One EXAMPLE row: the student's prompt, the laid-out trace and where both come from."""
    spans = lay_out(trace["raw"], thinking, config.trace_format, code=problem["verifier"] == "code")
    # A rewriting goes where its parent goes: training sees no validation problem in other words.
    parent_id = problem.get("parent_id")
    return {
        "id": trace["id"],
        "problem_id": trace["problem_id"],
        "parent_id": parent_id,
        "prompt": prompt,
        "completion": [{"role": "assistant", "content": assemble(trace["raw"], spans)}],
        "spans": spans,
        "split": "validation" if in_validation(parent_id or problem["id"], config.validation_share) else "train",
        **{key: problem[key] for key in ("domain", "task", "answer", "source", "license")},
        **{key: trace[key] for key in ("teacher", "weights", "sampling")},
    }


def candidates(config: Config, inputs: Inputs) -> list[Candidate]:
    """Every trace with all that speaks against it. Raises StageError where a judge's verdict is missing."""
    judged = {stage: {row["id"]: row for row in inputs.table(stage).to_pylist()} for stage in FUNNEL if stage != "mix"}
    found = []
    for table in inputs.batches("traces"):
        for trace in table.select(["id", "problem_id", "sample", "completion_tokens", "teacher"]).to_pylist():
            missing = [stage for stage, verdicts in judged.items() if trace["id"] not in verdicts]
            if missing:
                raise StageError(
                    f"Trace {trace['id']} has no verdict of {', '.join(missing)}; every judge gives one per trace. Run "
                    f"stage {missing[0]} again."
                )
            verdicts = {stage: rows[trace["id"]] for stage, rows in judged.items()}
            reasons = merged_reasons(verdicts, config.verification == "on")
            survivor = json.loads(verdicts["dedupe"]["detail"] or "{}").get("survivor")
            right = {"pass": True, "fail": False}.get(verdicts["verify"]["outcome"])
            found.append(Candidate(**trace, reasons=reasons, survivor=survivor, right=right))
    return found


def decide(config: Config, inputs: Inputs, tasks: Mapping[str, str]) -> list[dict[str, Any]]:
    """One FATE row per trace."""
    decided = candidates(config, inputs)
    decided = revive(hear_best(decided) if config.ensemble == "best" else decided)
    left_out = over_cap(decided, config.traces_per_problem, config.prefer, each=config.ensemble == "each")
    fates = []
    for one in decided:
        reasons = [*one.reasons, *([("mix", "over_cap")] if one.id in left_out else [])]
        first = reasons[0] if reasons else (None, None)
        fates.append(
            {
                "id": one.id,
                "problem_id": one.problem_id,
                "task": tasks[one.problem_id],
                "kept": not reasons,
                "stage": first[0],
                "reason": first[1],
                "reasons": [reason for _, reason in reasons],
            }
        )
    return fates


def examples(
    config: Config, inputs: Inputs, problems: Mapping[str, dict[str, Any]], kept: set[str]
) -> Iterator[pa.Table]:
    """The kept traces as tables of EXAMPLE rows."""
    student, thinking = inputs.student, thinkers(inputs.teachers)
    texts = {name: inputs.prompt(name) for name in prompt_names(student)}
    for table in inputs.batches("traces"):
        rows = []
        for trace in table.to_pylist():
            if trace["id"] in kept:
                problem = problems[trace["problem_id"]]
                prompt = conversation(student, texts, problem)
                rows.append(example(trace, problem, prompt, config, thinking[trace["teacher"]]))
        yield as_table(rows, EXAMPLE)


def prompts(config: Config, roles: Mapping[str, Role]) -> tuple[str, ...]:
    """The student's templates, which make the prompts of the examples."""
    return prompt_names(roles["student"])


def run(config: Config, inputs: Inputs, output: Output) -> None:
    """Decide every trace's fate, then write the kept ones as examples."""
    problems = {row["id"]: row for row in inputs.table("problems").to_pylist()}
    fates = decide(config, inputs, {key: row["task"] for key, row in problems.items()})
    output.write("fates", as_table(fates, FATE))
    kept = {fate["id"] for fate in fates if fate["kept"]}
    splits: Counter[str] = Counter()
    for table in examples(config, inputs, problems, kept):
        splits.update(table.column("split").to_pylist())
        output.write("examples", table)
    if not kept:
        top = ", ".join(f"{name} ({n})" for name, n in Counter(fate["reason"] for fate in fates).most_common(3))
        raise StageError(
            f"None of {len(fates)} traces is left; the commonest reasons: {top}. Read "
            f"some with: seqdistill peek RECIPE verify. Then change the prompt, the sampling or the rules."
        )
    output.counts.update({fate["reason"] or "kept": 0 for fate in fates})
    output.counts.update(fate["reason"] or "kept" for fate in fates)
    tasks = sorted({fate["task"] for fate in fates})
    output.facts.update(
        funnel=funnel(fates),
        funnel_by_task={task: funnel([fate for fate in fates if fate["task"] == task]) for task in tasks},
        examples=dict(splits),
        problems_covered=len({fate["problem_id"] for fate in fates if fate["kept"]}),
    )


_VERDICT_COLUMNS = ("id", "outcome", "reasons", "detail")

STAGE = Stage(
    name="mix",
    version=2,
    config=Config,
    run=run,
    reads={
        "problems": Reads(
            "seed",
            "problems",
            ("id", "text", "answer", "domain", "task", "source", "license", "verifier"),
            later=("parent_id",),
        ),
        "traces": Reads(
            "generate",
            "traces",
            ("id", "problem_id", "sample", "completion_tokens", "raw", "teacher", "weights", "sampling"),
        ),
        "verify": Reads("verify", "verdicts", _VERDICT_COLUMNS),
        "filter": Reads("filter", "verdicts", _VERDICT_COLUMNS),
        "dedupe": Reads("dedupe", "verdicts", _VERDICT_COLUMNS),
        "decontaminate": Reads("decontaminate", "verdicts", _VERDICT_COLUMNS),
    },
    writes={"examples": EXAMPLE, "fates": FATE},
    roles={"student": ("prompt", "task_prompts", "system", "chat_template"), "teachers": ("thinking",)},
    prompts=prompts,
)
