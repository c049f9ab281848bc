"""mix: the only stage that drops traces; it turns those that passed every judge into training examples.

It judges nothing itself. What became of each trace is written to `fates`, with the first reason in the funnel's order
and all the others. Its own reasons: too_easy, too_hard, pass_rate_unknown (the problem's pass rate), weaker_teacher,
over_cap (enough of its problem), over_share (enough of its kind), no_share (its kind was given no share).
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from pipeline import general
from pipeline.blending import Item, Kind, Short, Shortage, kind_shares, quotas, taken
from pipeline.choosing import Candidate, Prefer, hear_best, in_band, over_cap, pass_rates, ranks, revive
from pipeline.general import General, GeneralSource
from pipeline.orders import conversation, prompt_names
from pipeline.records import EXAMPLE, FATE, content_id
from pipeline.roles import Role, thinkers
from pipeline.section import Section
from pipeline.shards import as_table
from pipeline.sources import Candidate as Row
from pipeline.sources import SourceError
from pipeline.stage import Inputs, Output, Reads, Stage, StageError
from pipeline.think import TraceFormat, assemble, inserted, lay_out

# The order in which the funnel asks for a trace's first reason. How a trace is written comes before whether it is
# right, since a truncated trace is wrong because it was truncated.
FUNNEL = ("filter", "verify", "dedupe", "decontaminate", "mix")
# What verification: off drops all the same: there is no answer to learn.
UNPARSED = ("answer_missing", "answer_unparseable", "generation_error")
SORTED_ROWS = 20_000  # examples held at once where their order is not that of the traces

Shares = dict[str, float]


class Config(Section):
    """Which traces become examples, and how they are written."""

    later: ClassVar[frozenset[str]] = frozenset(
        {
            "pass_rate_band",
            "domain_shares",
            "teacher_shares",
            "long_share",
            "long_tokens",
            "shares_by",
            "size",
            "short",
            "repeat_limit",
            "general",
            "order",
        }
    )

    # off: wrong and undecided traces stay in, so that the effect can be measured; those without an answer do not
    verification: Literal["on", "off"] = "on"
    prefer: Prefer = "shortest"  # which of a problem's traces come first where there is a cap or a share
    traces_per_problem: int | None = Field(None, ge=1)  # the cap; null: all
    # Of several teachers: all traces of a problem compete under one cap; each teacher has the cap for itself; or only
    # the teacher whose answers to the problem are right most often is heard.
    ensemble: Literal["pool", "each", "best"] = "pool"
    # Only problems whose share of right answers is within these two, ends included; null: all.
    pass_rate_band: tuple[float, float] | None = None
    domain_shares: Shares = {}  # domain -> its share of the examples, together 1; empty: as they come
    teacher_shares: Shares = {}  # teacher's label -> its share of each domain, among those that answered it
    long_share: float | None = Field(None, ge=0, le=1)  # share of long traces in each domain and teacher; null: any
    long_tokens: int = Field(2048, ge=1)  # completion tokens from which on a trace is long
    shares_by: Literal["rows", "tokens"] = "rows"  # what shares and `size` count: examples, or their completion tokens
    size: int | None = Field(None, ge=1)  # how many there shall be where there are shares; null: as many as they allow
    # Where a kind runs short of its share of `size`: stop; take less of all, so that the shares hold; take its examples
    # again. Without a size the first two take what the scarcest kind allows.
    short: Short = "error"
    repeat_limit: int = Field(4, ge=1)  # short: repeat takes an example so many times at most
    # Ready-made examples without reasoning, as they are; their domain (defaults.domain) may have a share.
    general: tuple[GeneralSource, ...] = ()
    # In which order the examples stand: as the traces do; by the problem's pass rate, then length; by length.
    order: Literal["traces", "easy_first", "hard_first", "short_first"] = "traces"
    # think: reasoning in think tags, then the answer; plain: the text as it came; answer: the answer alone
    trace_format: TraceFormat = "think"
    validation_share: float = Field(0.05, ge=0, lt=1)  # share of problems kept for validation

    @model_validator(mode="after")
    def _is_possible(self) -> "Config":
        for name, shares in (("domain_shares", self.domain_shares), ("teacher_shares", self.teacher_shares)):
            if shares and (min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-6):
                raise ValueError(f"{name} are {shares}, which sum to {sum(shares.values()):g}; expected shares of 1")
        band = self.pass_rate_band
        if band is not None and not 0 <= band[0] <= band[1] <= 1:
            raise ValueError(f"pass_rate_band is {list(band)}; expected [lowest, highest], both from 0 to 1")
        if self.size is not None and not self.blends:
            raise ValueError(
                f"size is {self.size}, and no kind has a share: give domain_shares, teacher_shares or long_share, or "
                f"leave size out"
            )
        return self

    @property
    def blends(self) -> bool:
        """Whether kinds of examples have shares."""
        return bool(self.domain_shares or self.teacher_shares) or self.long_share is not None


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
    ended = trace["finish"] != "length"
    spans = lay_out(trace["raw"], thinking, config.trace_format, problem["verifier"] == "code", ended)
    # A rewriting goes where its parent goes: training sees no validation problem in other words.
    parent_id = problem.get("parent_id")
    return {
        "id": trace["id"],
        "problem_id": trace["problem_id"],
        "parent_id": parent_id,
        "prompt": prompt,
        "completion": [{"role": "assistant", "content": assemble(trace["raw"], spans)}],
        "spans": spans,
        "finish": trace["finish"],
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
            score = verdicts["verify"].get("judge_score")
            found.append(Candidate(**trace, reasons=reasons, survivor=survivor, right=right, judge_score=score))
    return found


@dataclass(frozen=True)
class Decision:
    """What becomes of every trace, and of every row of the general set."""

    candidates: list[Candidate]  # with all reasons against them
    times: Mapping[str, int]  # id of an example -> how often it is taken
    blend: list[dict[str, Any]]  # of each kind: its share as asked for and as it came out


def decide(config: Config, inputs: Inputs, domains: Mapping[str, str], rows: Sequence[Row] = ()) -> Decision:
    """Decide all. `domains` go by problem id; `rows` are the general set's. Raises StageError where a judge's score or
    enough examples are missing.
    """
    decided = in_band(candidates(config, inputs), config.pass_rate_band)
    if config.prefer == "judge" and all(one.judge_score is None for one in decided):
        raise StageError(
            "mix.prefer is judge, and verify/verdicts has no judge_score of any trace. Have a judge score them, or "
            "prefer shortest, diverse or first."
        )
    decided = revive(hear_best(decided) if config.ensemble == "best" else decided)
    each = config.ensemble == "each"
    crowded = config.prefer == "diverse" and (config.traces_per_problem is not None or config.blends)
    texts = texts_of(inputs, {one.id for one in decided if not one.reasons}) if crowded else None
    places = ranks(decided, config.prefer if crowded or config.prefer != "diverse" else "first", each, texts)
    left_out = over_cap(places, config.traces_per_problem)
    decided = [one.without("over_cap") if one.id in left_out else one for one in decided]
    return blended(config, decided, places, domains, rows)


def texts_of(inputs: Inputs, ids: set[str]) -> dict[str, str]:
    """The raw text of some traces."""
    return {
        key: raw or ""
        for table in inputs.batches("traces")
        for key, raw in zip(table["id"].to_pylist(), table["raw"].to_pylist(), strict=True)
        if key in ids
    }


def blended(
    config: Config,
    decided: list[Candidate],
    places: Mapping[str, int],
    domains: Mapping[str, str],
    rows: Sequence[Row] = (),
) -> Decision:
    """Add over_share or no_share to the passing traces that shares leave no room for, and say how often each other
    example is taken.
    """
    passing = [one for one in decided if not one.reasons]
    if not config.blends:
        return Decision(decided, {**dict.fromkeys((one.id for one in passing), 1), **_once(rows)}, [])
    items = [
        Item(one.id, kind_of(config, one, domains[one.problem_id]), *_size(config, one, places)) for one in passing
    ]
    if config.domain_shares:
        items += general_items(config, rows, {domains[one.problem_id] for one in passing})
    shares = kind_shares((item.kind for item in items), dimensions(config))
    available: Counter[Kind] = Counter()
    for item in items:
        available[item.kind] += item.amount
    missing = {(name, *[None] * 2): share for name, share in config.domain_shares.items() if share > 0}
    there = {kind[0] for kind in available}
    asked = {kind: share for kind, share in missing.items() if kind[0] not in there and config.short == "error"}
    try:
        quota = quotas(available, shares | asked, config.size, config.short, config.repeat_limit)
    except Shortage as error:
        raise StageError(
            f"mix cannot hold its shares, counted in {config.shares_by}: {error}. Lower size, change the shares, make "
            f"more traces, or set mix.short to take_less or repeat."
        ) from error
    if not all(quota.values()) and asked:
        raise StageError(
            f"mix cannot hold its shares: nothing passed of {', '.join(str(kind[0]) for kind in asked)}. Change "
            f"domain_shares, or set mix.short to take_less or repeat."
        )
    times = taken(items, quota, config.repeat_limit if config.short == "repeat" else 1)
    kinds = {item.id: item.kind for item in items}
    final = [
        one.without("over_share" if shares[kinds[one.id]] else "no_share")
        if one.id in kinds and one.id not in times
        else one
        for one in decided
    ]
    if not config.domain_shares:
        times.update(_once(rows))
    return Decision(final, times, blend_facts(items, shares, times))


def _once(rows: Sequence[Row]) -> dict[str, int]:
    return {general.example_id(row): 1 for row in rows}


def _size(config: Config, one: Candidate, places: Mapping[str, int]) -> tuple[int, int]:
    return (one.completion_tokens if config.shares_by == "tokens" else 1), places[one.id]


def kind_of(config: Config, one: Candidate, domain: str) -> Kind:
    """What a trace is in each dimension that has shares."""
    length = "long" if one.completion_tokens >= config.long_tokens else "short"
    return (
        domain if config.domain_shares else None,
        one.teacher if config.teacher_shares else None,
        length if config.long_share is not None else None,
    )


def dimensions(config: Config) -> tuple[Shares, Shares, Shares]:
    """The shares of each dimension of `kind_of`."""
    long = config.long_share or 0.0
    return config.domain_shares, config.teacher_shares, {"long": long, "short": 1 - long}


def general_items(config: Config, rows: Sequence[Row], domains: set[str]) -> list[Item]:
    """The general set's rows as items; their tokens are estimated as a quarter of their characters. Raises StageError
    where a domain is that of traces too.
    """
    clash = domains & {row.domain for row in rows}
    if clash:
        raise StageError(
            f"the domain {min(clash)!r} is one of traces and of mix.general too, so its share would be of both. Give "
            f"the general set a domain of its own (defaults.domain)."
        )
    by_tokens = config.shares_by == "tokens"
    return [
        Item(general.example_id(row), (row.domain, None, None), max(1, len(row.answer) // 4) if by_tokens else 1)
        for row in rows
    ]


def blend_facts(items: Sequence[Item], shares: Mapping[Kind, float], times: Mapping[str, int]) -> list[dict[str, Any]]:
    """Of each kind: what there was, what was taken (repeats counted), the share asked for and the share it has."""
    there: Counter[Kind] = Counter()
    got: Counter[Kind] = Counter()
    for item in items:
        there[item.kind] += item.amount
        got[item.kind] += item.amount * times.get(item.id, 0)
    whole = sum(got.values()) or 1
    return [
        {
            "domain": kind[0],
            "teacher": kind[1],
            "length": kind[2],
            "available": there[kind],
            "taken": got[kind],
            "share_asked": round(shares[kind], 6),
            "share": round(got[kind] / whole, 6),
        }
        for kind in sorted(there, key=lambda kind: tuple(value or "" for value in kind))
    ]


def fates_of(decided: Sequence[Candidate], tasks: Mapping[str, str]) -> list[dict[str, Any]]:
    """One FATE row per trace."""
    return [
        {
            "id": one.id,
            "problem_id": one.problem_id,
            "task": tasks[one.problem_id],
            "kept": not one.reasons,
            "stage": one.reasons[0][0] if one.reasons else None,
            "reason": one.reasons[0][1] if one.reasons else None,
            "reasons": [reason for _, reason in one.reasons],
        }
        for one in decided
    ]


def sequence(config: Config, decided: Sequence[Candidate]) -> dict[str, int] | None:
    """The place of each kept trace in the order of the examples; None for the order of the traces."""
    if config.order == "traces":
        return None
    rates = pass_rates(decided)

    def key(one: Candidate) -> tuple[float, float, str]:
        rate = rates[one.problem_id]
        ease = 0.0 if rate is None or config.order == "short_first" else rate
        sign = -1 if config.order == "hard_first" else 1
        return (-sign * ease, sign * one.completion_tokens, one.id)

    kept = sorted((one for one in decided if not one.reasons), key=key)
    return {one.id: place for place, one in enumerate(kept)}


def examples(
    config: Config,
    inputs: Inputs,
    problems: Mapping[str, dict[str, Any]],
    times: Mapping[str, int],
    places: Mapping[str, int] | None = None,
) -> Iterator[pa.Table]:
    """The traces taken as tables of EXAMPLE rows, repeats beside each other: in the order of the traces, or in that of
    their `places`, for which the traces are read once for every SORTED_ROWS examples.
    """
    if places is None:
        for rows in _rows_of(config, inputs, problems, times):
            yield as_table(rows, EXAMPLE)
        return
    ordered = iter(sorted((key for key in places if key in times), key=lambda key: places[key]))
    while some := list(islice(ordered, SORTED_ROWS)):
        wanted = {key: times[key] for key in some}
        block = [row for rows in _rows_of(config, inputs, problems, wanted) for row in rows]
        block.sort(key=lambda row: places[row["id"].partition("+")[0]])
        yield as_table(block, EXAMPLE)


def _rows_of(
    config: Config, inputs: Inputs, problems: Mapping[str, dict[str, Any]], times: Mapping[str, int]
) -> Iterator[list[dict[str, Any]]]:
    student, thinking = inputs.student, thinkers(inputs.teachers)
    texts = {name: inputs.prompt(name) for name in prompt_names(student)}
    for table in inputs.batches("traces"):
        rows = []
        for trace in table.to_pylist():
            if trace["id"] in times:
                problem = problems[trace["problem_id"]]
                prompt = conversation(student, texts, problem)
                made = example(trace, problem, prompt, config, thinking[trace["teacher"]])
                rows += repeated(made, times[trace["id"]])
        yield rows


def repeated(row: dict[str, Any], times: int) -> list[dict[str, Any]]:
    """An EXAMPLE row so many times, each with an id of its own; once where it is for validation."""
    more = range(1, times if row["split"] == "train" else 1)
    return [row, *({**row, "id": f"{row['id']}+{number}"} for number in more)]


def general_examples(
    config: Config, inputs: Inputs, rows: Sequence[Row], times: Mapping[str, int]
) -> Iterator[pa.Table]:
    """The general set's rows that are taken, as tables of EXAMPLE rows. No teacher wrote them."""
    student = inputs.student
    texts = {name: inputs.prompt(name) for name in prompt_names(student)}
    made = []
    for row in rows:
        key = general.example_id(row)
        if key not in times:
            continue
        prompt = conversation(student, texts, {"text": row.text, "task": row.task})
        one = {
            **dict.fromkeys(EXAMPLE.names),
            "id": key,
            "problem_id": row.id,
            "prompt": prompt,
            "completion": [{"role": "assistant", "content": row.answer}],
            "spans": [inserted(row.answer)],
            "split": "validation" if in_validation(row.id, config.validation_share) else "train",
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
    held_out = general.held_out(inputs.table("held_out").to_pylist())
    try:
        return general.read(config.general, inputs.root, held_out)
    except SourceError as error:
        raise StageError(str(error)) from error


def run(config: Config, inputs: Inputs, output: Output) -> None:
    """Decide every trace's fate, then write the kept ones as examples."""
    problems = {row["id"]: row for row in inputs.table("problems").to_pylist()}
    ready = read_general(config, inputs)
    decision = decide(config, inputs, {key: row["domain"] for key, row in problems.items()}, ready.rows)
    fates = fates_of(decision.candidates, {key: row["task"] for key, row in problems.items()})
    output.write("fates", as_table(fates, FATE))
    if not any(fate["kept"] for fate in fates):
        top = ", ".join(f"{name} ({n})" for name, n in Counter(fate["reason"] for fate in fates).most_common(3))
        raise StageError(
            f"None of {len(fates)} traces is left; the commonest reasons: {top}. Read "
            f"some with: seqdistill peek RECIPE verify. Then change the prompt, the sampling or the rules."
        )
    places = sequence(config, decision.candidates)
    splits: Counter[str] = Counter()
    for tables in (
        examples(config, inputs, problems, decision.times, places),
        general_examples(config, inputs, ready.rows, decision.times),
    ):
        for table in tables:
            splits.update(table.column("split").to_pylist())
            output.write("examples", table)
    output.counts.update({fate["reason"] or "kept": 0 for fate in fates})
    output.counts.update(fate["reason"] or "kept" for fate in fates)
    output.facts.update(
        funnel=funnel(fates),
        funnel_by_task=funnels(fates, [fate["task"] for fate in fates]),
        funnel_by_domain=funnels(fates, [problems[fate["problem_id"]]["domain"] for fate in fates]),
        funnel_by_teacher=funnels(fates, [one.teacher for one in decision.candidates]),
        blend=decision.blend,
        general=general_facts(config, ready, decision.times),
        examples=dict(splits),
        problems_covered=len({fate["problem_id"] for fate in fates if fate["kept"]}),
    )


def funnels(fates: Sequence[dict[str, Any]], groups: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """A funnel for each group; `groups` says the group of each fate."""
    found: dict[str, list[dict[str, Any]]] = {}
    for fate, group in zip(fates, groups, strict=True):
        found.setdefault(group, []).append(fate)
    return {group: funnel(found[group]) for group in sorted(found)}


def general_facts(config: Config, ready: General, times: Mapping[str, int]) -> dict[str, int]:
    """What became of the general set's rows: by reason, kept, and over_share for those that shares left no room for."""
    kept = sum(general.example_id(row) in times for row in ready.rows)
    found = {**ready.rejected, "over_share": len(ready.rows) - kept, "kept": kept}
    return {reason: count for reason, count in sorted(found.items()) if count} if config.general else {}


def contents(config: Config, root: Path) -> dict[str, str]:
    """Digests of the general set's files."""
    return general.digests(config.general, root)


def with_general(config: Config) -> bool:
    """Whether the recipe adds a general set."""
    return bool(config.general)


_VERDICT_COLUMNS = ("id", "outcome", "reasons", "detail")

STAGE = Stage(
    name="mix",
    version=3,
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
        "verify": Reads("verify", "verdicts", _VERDICT_COLUMNS, later=("judge_score",)),
        "filter": Reads("filter", "verdicts", _VERDICT_COLUMNS),
        "dedupe": Reads("dedupe", "verdicts", _VERDICT_COLUMNS),
        "decontaminate": Reads("decontaminate", "verdicts", _VERDICT_COLUMNS),
    },
    writes={"examples": EXAMPLE, "fates": FATE},
    roles={"student": ("prompt", "task_prompts", "system", "chat_template"), "teachers": ("thinking",)},
    prompts=prompts,
    contents=contents,
)
