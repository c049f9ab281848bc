"""mix: the only stage that drops traces; it turns those that passed every judge into training examples.

It judges nothing itself. What became of each trace is written to `fates`, with the first reason in the funnel's order
and all the others. Its own reasons: too_easy, too_hard, pass_rate_unknown (the problem's pass rate), weaker_teacher,
over_cap (enough of its problem), over_share (enough of its kind), no_share (its kind was given no share).
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from sys import intern
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field, field_validator

from pipeline import general
from pipeline.blending import Shortage
from pipeline.choosing import Candidate, Prefer, Reasons, hear_best, in_band, over_cap, pass_rates, ranks, revive
from pipeline.general import General, GeneralSource
from pipeline.orders import conversation, prompt_names
from pipeline.records import EXAMPLE, FATE, content_id
from pipeline.roles import Role, thinkers
from pipeline.shards import as_table
from pipeline.shares import Decision, Shares, blended
from pipeline.sources import Candidate as Row
from pipeline.sources import SourceError
from pipeline.sources.benchmark import held_out, kept
from pipeline.stage import Inputs, Output, Progress, Reads, Stage, StageError
from pipeline.think import TraceFormat, assemble, inserted, lay_out
from pipeline.verdicts import Verdicts, joined

# The order in which the funnel asks for a trace's first reason. How a trace is written comes before whether it is
# right, since a truncated trace is wrong because it was truncated.
FUNNEL = ("filter", "verify", "dedupe", "decontaminate", "mix")
# What verification: off drops all the same: there is no answer to learn.
UNPARSED = ("answer_missing", "answer_unparseable", "generation_error")
ROWS = 8192  # fates written at once


class Config(Shares):
    """Which traces become examples, and how they are written."""

    later: ClassVar[frozenset[str]] = Shares.later | {"pass_rate_band", "general", "curriculum"}

    # off: wrong and undecided traces stay in, so that the effect can be measured; those without an answer do not
    verification: Literal["on", "off"] = "on"
    prefer: Prefer = "shortest"  # which of a problem's traces come first where there is a cap or a share
    traces_per_problem: int | None = Field(None, ge=1)  # the cap; null: all
    # Of several teachers: all traces of a problem compete under one cap; each teacher has the cap for itself; or only
    # the teacher whose answers to the problem are right most often is heard.
    ensemble: Literal["pool", "each", "best"] = "pool"
    # Only problems whose share of right answers is within these two, ends included; null: all.
    pass_rate_band: tuple[float, float] | None = None
    # Ready-made examples without reasoning, as they are; their domain (defaults.domain) may have a share.
    general: tuple[GeneralSource, ...] = ()
    # In which order the student meets the examples: by the problem's pass rate, then length; by length; null: in none.
    curriculum: Literal["easy_first", "hard_first", "short_first"] | None = None
    # think: reasoning in think tags, then the answer; plain: the text as it came; answer: the answer alone
    trace_format: TraceFormat = "think"
    validation_share: float = Field(0.05, ge=0, lt=1)  # share of problems kept for validation

    @field_validator("pass_rate_band")
    @classmethod
    def _is_a_band(cls, band: tuple[float, float] | None) -> tuple[float, float] | None:
        if band is not None and not 0 <= band[0] <= band[1] <= 1:
            raise ValueError(f"pass_rate_band is {list(band)}; expected [lowest, highest], both from 0 to 1")
        return band


def merged_reasons(verdicts: Mapping[str, Mapping[str, Any]], verification: bool) -> tuple[tuple[str, str], ...]:
    """All (stage, reason) pairs that speak against a trace, in the funnel's order, from its verdict of each stage."""
    return tuple(
        (stage, reason)
        for stage in FUNNEL
        if stage in verdicts and verdicts[stage]["outcome"] != "pass"
        for reason in (verdicts[stage]["reasons"] or [verdicts[stage]["outcome"]])
        if stage != "verify" or verification or reason in UNPARSED
    )


def in_validation(problem_id: str, share: float) -> bool:
    """Whether a problem is kept for validation: by its id alone, so that growing a set moves no problem."""
    return int(content_id("validation", problem_id), 16) < share * 2**128


def origin(problem: Mapping[str, Any]) -> str:
    """The id that decides a problem's side. A rewriting goes where its parent goes: training sees no validation problem
    in other words.
    """
    return str(problem.get("parent_id") or problem["id"])


def funnel(counts: Mapping[tuple[str, str] | None, int]) -> list[dict[str, Any]]:
    """Rows {stage, reason, traces} in the funnel's order, most frequent first within a stage; the last one is "kept".
    `counts` say how many traces have a first (stage, reason); None: they are kept. The rows add up to them all.
    """
    dropped = [(found, count) for found, count in counts.items() if found is not None]
    dropped.sort(key=lambda item: (FUNNEL.index(item[0][0]), -item[1], item[0]))
    rows = [{"stage": stage, "reason": reason, "traces": count} for (stage, reason), count in dropped]
    return [*rows, {"stage": "mix", "reason": "kept", "traces": counts.get(None, 0)}]


def funnels(decided: Sequence[Candidate], group_of: Callable[[Candidate], str]) -> dict[str, list[dict[str, Any]]]:
    """A funnel for each group of traces."""
    counts: dict[str, Counter[tuple[str, str] | None]] = {}
    for one in decided:
        counts.setdefault(group_of(one), Counter())[one.first] += 1
    return {group: funnel(counts[group]) for group in sorted(counts)}


def example(
    trace: dict[str, Any], problem: dict[str, Any], prompt: list[dict[str, str]], config: Config, thinking: bool
) -> dict[str, Any]:
    """One EXAMPLE row: the student's prompt, the laid-out trace and where both come from."""
    ended = trace["finish"] != "length"
    spans = lay_out(trace["raw"], thinking, config.trace_format, problem["verifier"] == "code", ended)
    return {
        "id": trace["id"],
        "problem_id": trace["problem_id"],
        "parent_id": problem.get("parent_id"),
        "prompt": prompt,
        "completion": [{"role": "assistant", "content": assemble(trace["raw"], spans)}],
        "spans": spans,
        "finish": trace["finish"],
        "split": "validation" if in_validation(origin(problem), config.validation_share) else "train",
        **{key: problem[key] for key in ("domain", "task", "answer", "source", "license")},
        **{key: trace[key] for key in ("teacher", "weights", "sampling")},
    }


def candidates(config: Config, inputs: Inputs) -> list[Candidate]:
    """Every trace with all that speaks against it. Raises StageError where a judge's verdicts do not fit the traces."""
    columns = ("id", "problem_id", "sample", "completion_tokens", "teacher")
    traces = pa.concat_tables(table.select(columns) for table in inputs.batches("traces"))
    said = {stage: judged(inputs, stage, traces["id"]) for stage in FUNNEL if stage != "mix"}
    right = [{"pass": True, "fail": False}.get(outcome) for outcome, _ in said["verify"].kinds]
    survivors = {place: json.loads(text).get("survivor") for place, text in said["dedupe"].details.items()}
    rating = ratings(inputs) if config.prefer == "judge" else {}
    against: dict[tuple[int, ...], Reasons] = {}  # by the codes of all verdicts, few of which are different
    found = []
    values = zip(*(traces[name].to_pylist() for name in columns), strict=True)
    codes = zip(*(verdicts.codes.tolist() for verdicts in said.values()), strict=True)
    of_verify = list(said).index("verify")
    for place, ((trace_id, problem_id, sample, tokens, teacher), each) in enumerate(zip(values, codes, strict=True)):
        if each not in against:
            against[each] = all_reasons(said, each, config.verification == "on")
        found.append(
            Candidate(
                id=trace_id,
                problem_id=intern(problem_id),  # once for all its traces
                sample=sample,
                completion_tokens=tokens,
                reasons=against[each],
                survivor=survivors.get(place),
                teacher=intern(teacher or ""),
                right=right[each[of_verify]],
                rating=rating.get(trace_id),
            )
        )
    return found


def ratings(inputs: Inputs) -> dict[str, float]:
    """The judge model's rating of each trace that has one. Raises StageError where none has."""
    try:
        tables = list(inputs.batches("ratings"))
    except KeyError:  # of a verify that was run before it could rate
        tables = []
    found = {
        trace_id: score
        for table in tables
        for trace_id, score in zip(table["id"].to_pylist(), table["score"].to_pylist(), strict=True)
        if score is not None
    }
    if not found:
        raise StageError(
            "mix.prefer is judge, and verify has no rating of any trace. Set verify.rate: true and name a model under "
            "`judge`, or prefer shortest, diverse or first."
        )
    return found


def judged(inputs: Inputs, stage: str, trace_ids: pa.ChunkedArray) -> Verdicts:
    """A stage's verdicts beside the traces. Raises StageError where a trace has none, or a verdict no trace."""
    found = joined(trace_ids, inputs.batches(stage), with_details=stage == "dedupe")
    missing = found.missing()
    if missing is not None:
        raise StageError(
            f"Trace {trace_ids[missing].as_py()} has no verdict of {stage}; every judge gives one per trace. Run stage "
            f"{stage} again."
        )
    if found.strange:
        raise StageError(
            f"{found.strange} verdicts of {stage} are about traces that generate/traces does not hold "
            f"({len(trace_ids)} traces); every judge gives one per trace. Run stage {stage} again."
        )
    return found


def all_reasons(said: Mapping[str, Verdicts], codes: Sequence[int], verification: bool) -> Reasons:
    """What the verdicts with some codes, one of each stage, say against a trace."""
    kinds = {stage: verdicts.kinds[code] for (stage, verdicts), code in zip(said.items(), codes, strict=True)}
    verdicts = {stage: {"outcome": outcome, "reasons": reasons} for stage, (outcome, reasons) in kinds.items()}
    return merged_reasons(verdicts, verification)


def decide(
    config: Config, inputs: Inputs, problems: Mapping[str, Mapping[str, Any]], rows: Sequence[Row] = ()
) -> Decision:
    """Decide all. `problems` go by id; `rows` are the general set's. Raises StageError where shares cannot be held."""
    decided = in_band(candidates(config, inputs), config.pass_rate_band)
    decided = revive(hear_best(decided) if config.ensemble == "best" else decided)
    each = config.ensemble == "each"
    crowded = config.prefer == "diverse" and (config.traces_per_problem is not None or config.blends)
    texts = texts_of(inputs, {one.id for one in decided if not one.reasons}) if crowded else None
    places = ranks(decided, config.prefer if crowded or config.prefer != "diverse" else "first", each, texts)
    left_out = over_cap(places, config.traces_per_problem)
    decided = [one.without("over_cap") if one.id in left_out else one for one in decided]
    try:
        return blended(
            config,
            decided,
            places,
            {key: problem["domain"] for key, problem in problems.items()},
            rows,
            lambda key: in_validation(origin(problems[key]) if key in problems else key, config.validation_share),
        )
    except Shortage as error:
        raise StageError(str(error)) from error


def texts_of(inputs: Inputs, ids: set[str]) -> dict[str, str]:
    """The raw text of some traces."""
    return {
        key: raw or ""
        for table in inputs.batches("traces")
        for key, raw in zip(table["id"].to_pylist(), table["raw"].to_pylist(), strict=True)
        if key in ids
    }


def fate(one: Candidate, task: str) -> dict[str, Any]:
    """The FATE row of a trace."""
    stage, reason = one.first or (None, None)
    return {
        "id": one.id,
        "problem_id": one.problem_id,
        "task": task,
        "kept": not one.reasons,
        "stage": stage,
        "reason": reason,
        "reasons": [reason for _, reason in one.reasons],
    }


def sequence(config: Config, decided: Sequence[Candidate]) -> dict[str, float]:
    """The place of each kept trace in the order asked for, from 0 (first) to below 1; empty where none is."""
    if config.curriculum is None:
        return {}
    rates = pass_rates(decided)

    def key(one: Candidate) -> tuple[float, float, str]:
        rate = rates[one.problem_id]
        ease = 0.0 if rate is None or config.curriculum == "short_first" else rate
        sign = -1 if config.curriculum == "hard_first" else 1
        return (-sign * ease, sign * one.completion_tokens, one.id)

    kept = sorted((one for one in decided if not one.reasons), key=key)
    return {one.id: place / len(kept) for place, one in enumerate(kept)}


def examples(
    config: Config,
    inputs: Inputs,
    problems: Mapping[str, dict[str, Any]],
    times: Mapping[str, int],
    places: Mapping[str, float],
) -> Iterator[pa.Table]:
    """The traces taken as tables of EXAMPLE rows, repeats beside each other."""
    student, thinking = inputs.student, thinkers(inputs.teachers)
    texts = {name: inputs.prompt(name) for name in prompt_names(student)}
    for table in inputs.batches("traces"):
        rows = []
        taken = pa.array([trace_id in times for trace_id in table["id"].to_pylist()], pa.bool_())
        for trace in table.filter(taken).to_pylist():
            problem = problems[trace["problem_id"]]
            prompt = conversation(student, texts, problem)
            made = example(trace, problem, prompt, config, thinking[trace["teacher"]])
            rows += repeated({**made, "place": places.get(trace["id"])}, times[trace["id"]])
        yield as_table(rows, EXAMPLE)


def repeated(row: dict[str, Any], times: int) -> list[dict[str, Any]]:
    """An EXAMPLE row so many times, each with an id of its own."""
    return [row, *({**row, "id": f"{row['id']}+{number}"} for number in range(1, times))]


def general_examples(
    config: Config, inputs: Inputs, rows: Sequence[Row], times: Mapping[str, int]
) -> Iterator[pa.Table]:
    """The general set's rows that are taken, as tables of EXAMPLE rows. No teacher wrote them; in an order they stand
    evenly among the traces.
    """
    student = inputs.student
    texts = {name: inputs.prompt(name) for name in prompt_names(student)}
    ids = {general.example_id(row): row for row in rows}
    taken = {key: row for key, row in ids.items() if key in times}
    made = []
    for number, (key, row) in enumerate(taken.items()):
        prompt = conversation(student, texts, {"text": row.text, "task": row.task})
        one = {
            **dict.fromkeys(EXAMPLE.names),
            "id": key,
            "problem_id": row.id,
            "prompt": prompt,
            "completion": [{"role": "assistant", "content": row.answer}],
            "spans": [inserted(row.answer)],
            "split": "validation" if in_validation(row.id, config.validation_share) else "train",
            "place": None if config.curriculum is None else (number + 0.5) / len(taken),
            **{name: getattr(row, name) for name in ("domain", "task", "answer", "source", "license")},
        }
        made += repeated(one, times[key])
    if made:
        yield as_table(made, EXAMPLE)


def prompts(config: Config, roles: Mapping[str, Role]) -> tuple[str, ...]:
    """The student's templates, which make the prompts of the examples."""
    return prompt_names(roles["student"])


def read_general(config: Config, inputs: Inputs) -> General:
    """The general set, where the recipe has one. Raises StageError where it cannot be read."""
    if not config.general:
        return General()
    forbidden = held_out(inputs.table("held_out").to_pylist()), kept(inputs.table("references").to_pylist())
    try:
        return general.read(config.general, inputs.root, *forbidden)
    except SourceError as error:
        raise StageError(str(error)) from error


def run(config: Config, inputs: Inputs, output: Output) -> None:
    """Decide every trace's fate, then write the kept ones as examples."""
    problems = {row["id"]: row for row in inputs.table("problems").to_pylist()}
    ready = read_general(config, inputs)
    decision = decide(config, inputs, problems, ready.rows)
    decided = decision.candidates
    for start in range(0, len(decided), ROWS):
        rows = [fate(one, problems[one.problem_id]["task"]) for one in decided[start : start + ROWS]]
        output.write("fates", as_table(rows, FATE))
    counts = Counter(one.first for one in decided)
    for found, count in counts.items():
        output.counts["kept" if found is None else found[1]] += count
    if not counts[None]:
        top = ", ".join(f"{name} ({count})" for name, count in output.counts.most_common(3))
        raise StageError(
            f"None of {len(decided)} traces is left; the commonest reasons: {top}. Read "
            f"some with: seqdistill peek RECIPE verify. Then change the prompt, the sampling or the rules."
        )
    places = sequence(config, decided)
    splits: Counter[str] = Counter()
    for tables in (
        examples(config, inputs, problems, decision.times, places),
        general_examples(config, inputs, ready.rows, decision.times),
    ):
        for table in tables:
            splits.update(table.column("split").to_pylist())
            output.write("examples", table)
            output.progress(Progress(splits.total(), None, "examples"))
    for row in decision.blend:
        if row["share_asked"] and not row["available"]:
            output.say(f"mix.domain_shares asks for {row['share_asked']:.1%} of {row['domain']}, and there is none.")
    output.facts.update(
        funnel=funnel(counts),
        funnel_by_task=funnels(decided, lambda one: problems[one.problem_id]["task"]),
        funnel_by_domain=funnels(decided, lambda one: problems[one.problem_id]["domain"]),
        funnel_by_teacher=funnels(decided, lambda one: one.teacher),
        blend=decision.blend,
        general=general_facts(config, ready, decision.times),
        examples=dict(splits),
        problems_covered=len({one.problem_id for one in decided if not one.reasons}),
    )


def general_facts(config: Config, ready: General, times: Mapping[str, int]) -> dict[str, int]:
    """What became of the general set's rows: by reason, kept, and over_share for those that shares left no room for."""
    kept = sum(general.example_id(row) in times for row in ready.rows)
    found = {**ready.rejected, "over_share": len(ready.rows) - kept, "kept": kept}
    return {reason: count for reason, count in sorted(found.items()) if count} if config.general else {}


def contents(config: Config, root: Path) -> dict[str, str]:
    """Digests of the general set's files."""
    return general.digests_of(config.general, root)


def refuse(config: Config, roles: Mapping[str, Role], root: Path) -> None:
    """Raise SourceError where a file of the general set is not there."""
    general.refuse_missing(config.general, root)


def by_judge(config: Config) -> bool:
    """Whether ratings decide."""
    return config.prefer == "judge"


def with_general(config: Config) -> bool:
    """Whether the recipe adds a general set."""
    return bool(config.general)


_VERDICT_COLUMNS = ("id", "outcome", "reasons", "detail")

STAGE = Stage(
    name="mix",
    version=6,
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
            ("id", "problem_id", "sample", "completion_tokens", "raw", "finish", "teacher", "weights", "sampling"),
        ),
        "held_out": Reads("seed", "problems", ("id", "text", "task", "split"), when=with_general),
        "references": Reads("seed", "references", ("benchmark", "item", "text"), when=with_general),
        "verify": Reads("verify", "verdicts", _VERDICT_COLUMNS),
        "ratings": Reads("verify", "ratings", ("id", "score"), when=by_judge),
        "filter": Reads("filter", "verdicts", _VERDICT_COLUMNS),
        "dedupe": Reads("dedupe", "verdicts", _VERDICT_COLUMNS),
        "decontaminate": Reads("decontaminate", "verdicts", _VERDICT_COLUMNS),
    },
    writes={"examples": EXAMPLE, "fates": FATE},
    roles={"student": ("prompt", "task_prompts", "system", "chat_template"), "teachers": ("thinking",)},
    prompts=prompts,
    contents=contents,
    refuse=refuse,
)
