"""Have the teachers write completions for every training problem: n of each, or until enough of them are right.

It drops and cuts nothing: a truncated or failed completion is a row that says so. Where a truncated one was continued,
its continuation is the row, and names it.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Set
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow.compute as pc
from pydantic import Field, model_validator

from pipeline import engines, labelling, orders, sampling, traces, verifiers, wanted
from pipeline import pilot as pilots
from pipeline.adaptive import DECIDED, REFERENCE, Adaptive, References, decision_row, judging, references, settled
from pipeline.key_index import KeyIndex
from pipeline.manifest import Manifest
from pipeline.orders import Enough, Order, Row, Truncated
from pipeline.readings import Reading, of_model
from pipeline.records import DECISION, SOFT_LABELS, TRACE, content_id
from pipeline.roles import LOCAL, WORDS, Role, Sampling, Teacher, thinking_budget
from pipeline.routing import KNOWN_LIMIT, Route, fitting, idle
from pipeline.sampling import Figures
from pipeline.schedule import Decision
from pipeline.section import Section, declared
from pipeline.shards import as_table
from pipeline.stage import Bill, Failures, Inputs, Output, Progress, Reads, Stage, StageError
from pipeline.store import Store
from pipeline.verifiers.pool import Pool, processors


class Config(Section):
    """How much is asked of the teachers, and how their words are drawn."""

    later: ClassVar[frozenset[str]] = frozenset({"unverifiable_variants", "labelled_by"})

    samples: int = Field(4, ge=1)  # completions of each problem; raising it asks only for the new ones
    adaptive: Adaptive | None = None  # null: always `samples`; else at most so many
    sampling: Sampling = Sampling()
    max_tokens: int = Field(1024, ge=1)  # of one completion; raising it asks only for the truncated ones again
    # A truncated completion stays as it is, is asked for again with up to second_max_tokens, or is continued to there.
    truncated: Truncated = "keep"
    second_max_tokens: int | None = Field(None, ge=1)
    assign: Literal["all", "one"] = "all"  # with several teachers: all that fit a problem answer it, or one of them
    routes: dict[str, Route] = {}  # teacher -> its problems, "teacher" being the main one; without a route: all
    error_share_limit: float = Field(0.05, ge=0, le=1)  # more failed completions than this fail the stage
    # Those of seed.augment whose answer nobody knows. `mix` drops their traces, unless its verification is off.
    unverifiable_variants: Literal["skip", "ask"] = "skip"
    # The likeliest candidates of each token, kept with their raw logprobs; a stored completion without them is scored.
    logprobs: int = Field(0, ge=0, le=engines.LOGPROBS_LIMIT)
    # Whose candidates: those of the trace's own teacher; of all teachers; or of those named here ("teacher" is the main
    # one) beside its own. The others score a trace, after the prompt that they would be asked with themselves.
    labelled_by: Literal["own", "all"] | tuple[str, ...] = "own"

    @model_validator(mode="after")
    def _limits(self) -> "Config":
        second = self.second_max_tokens
        if self.truncated != "keep" and (second is None or second <= self.max_tokens):
            raise ValueError(
                f"truncated is {self.truncated!r} with second_max_tokens {second}; expected a number above max_tokens "
                f"({self.max_tokens}), the tokens of the whole completion"
            )
        if self.truncated == "keep" and second is not None:
            raise ValueError(
                f"second_max_tokens is {second} beside truncated: keep, which asks once alone. Set truncated: again or "
                f"continue, or leave it out"
            )
        if self.truncated == "continue" and (self.sampling.presence_penalty or self.sampling.frequency_penalty):
            raise ValueError(
                "truncated: continue cannot keep presence_penalty and frequency_penalty, which count the words of one "
                "request alone; set both to 0, or take truncated: again"
            )
        if self.labelled_by != "own" and not self.logprobs:
            raise ValueError(
                "labelled_by names who labels the traces, and logprobs is 0: there are no labels. Set logprobs (50, "
                "say), or leave labelled_by out"
            )
        return self

    def labels(self, teacher: str, of: str) -> bool:
        """Whether a teacher labels the traces of one, both by their names."""
        return teacher == of or self.labelled_by == "all" or teacher in self.further_labellers()

    def labellers(self, teachers: Collection[str]) -> int:
        """How many of the teachers label a trace, at most."""
        return max(sum(self.labels(name, of) for name in teachers) for of in teachers)

    def label_bytes(self, teachers: Collection[str]) -> float:
        """Bytes on disk that the soft labels of a token take, about."""
        return pilots.LABEL_BYTES * self.logprobs * self.labellers(teachers)

    def further_labellers(self) -> tuple[str, ...]:
        """The teachers that are named to label others' traces too."""
        return self.labelled_by if isinstance(self.labelled_by, tuple) else ()

    def tokens_limit(self) -> int:
        """The most tokens that can be made for one sample, a second request included."""
        second = self.second_max_tokens or 0
        return {"keep": self.max_tokens, "again": self.max_tokens + second, "continue": second}[self.truncated]

    def by_domain(self) -> bool:
        return any(route.domains for route in self.routes.values())

    def skips(self) -> bool:
        return self.unverifiable_variants == "skip"

    def judges(self) -> bool:
        return self.adaptive is not None


def training_problems(
    config: Config, inputs: Inputs, domains: Mapping[str, str], skipped: Set[str]
) -> Iterator[tuple[Row, list[str]]]:
    """The problems of the split "train", in the order seed wrote them, each with the teachers that answer it."""
    for table in inputs.batches("problems"):
        for row in table.to_pylist():
            if row["split"] == "train" and row["id"] not in skipped:
                yield row, fitting(inputs.teachers, config.routes, config.assign == "one", row, domains)


def problems_of(
    config: Config, inputs: Inputs, domains: Mapping[str, str], skipped: Set[str], teacher: str
) -> Iterator[Row]:
    """The training problems that a teacher answers."""
    return (row for row, found in training_problems(config, inputs, domains, skipped) if teacher in found)


def unrouted(config: Config, inputs: Inputs) -> Counter[str]:
    """How many training problems no teacher answers, by their domain, or by their task where routes name none."""
    if not set(config.routes) >= set(inputs.teachers):  # a teacher without a route gets every problem
        return Counter()
    domains = domains_of(config, inputs)
    found = training_problems(config, inputs, domains, skipped_of(config, inputs))
    return Counter(domains.get(row["id"]) or row["task"] for row, teachers in found if not teachers)


def check_routes(config: Config, inputs: Inputs, domains: Mapping[str, str]) -> None:
    """Raise StageError where a route is for a teacher that there is none of, or for domains or tasks of no problem."""
    for key, named in (("routes", config.routes), ("labelled_by", config.further_labellers())):
        unknown = [name for name in named if name not in inputs.teachers]
        if unknown:
            raise StageError(
                f"generate.{key} names {unknown[0]!r}; expected one of {', '.join(inputs.teachers)}. Add it to "
                f"more_teachers, or mend the name."
            )
    if not config.routes:
        return
    tasks = {task for table in inputs.batches("problems") for task in table.column("task").to_pylist()}
    if why := idle(config.routes, set(domains.values()), tasks):
        raise StageError(f"generate.routes.{why}")


def domains_of(config: Config, inputs: Inputs) -> dict[str, str]:
    """Problem id -> domain, where a route asks for it."""
    if not config.by_domain():
        return {}
    table = inputs.table("domains")
    return dict(zip(table.column("id").to_pylist(), table.column("domain").to_pylist(), strict=True))


def skipped_of(config: Config, inputs: Inputs) -> set[str]:
    """The ids of variants that nobody can verify, where no traces of them are wanted."""
    if not config.skips():
        return set()
    rows = (row for table in inputs.batches("variants") for row in table.to_pylist())
    return {row["id"] for row in rows if row.get("parent_id") and row["verifier"] == verifiers.UNVERIFIABLE}


def orders_of(
    config: Config, inputs: Inputs, output: Output, enough: Mapping[str, Enough] | None = None
) -> dict[str, Order]:
    """What this run asks of each teacher, by its name. Raises StageError where a route or an engine does not fit."""
    domains, skipped = domains_of(config, inputs), skipped_of(config, inputs)
    check_routes(config, inputs, domains)
    earlier = (row for _, table in output.previous("decisions", DECIDED) for row in table.to_pylist())
    decided = settled(config.adaptive, config.samples, earlier)
    made = {}
    for name, teacher in inputs.teachers.items():
        if config.truncated == "continue" and teacher.engine not in (*LOCAL, "replay"):
            raise StageError(
                f"generate.truncated is continue, which hands the tokens written so far back to the engine; engine "
                f"{teacher.engine} of {name} takes none. Set generate.truncated: again, or use vllm."
            )
        texts = {prompt: inputs.prompt(prompt) for prompt in orders.prompt_names(teacher)}
        tokenizer = orders.open_tokenizer(teacher, partial(inputs.model, name), texts)
        made[name] = Order(
            role=teacher,
            weights=inputs.weights(name),
            problems=partial(problems_of, config, inputs, domains, skipped, name),
            texts=texts,
            tokenizer=tokenizer,
            sampling=config.sampling,
            samples=config.samples,
            max_tokens=config.max_tokens,
            truncated=config.truncated,
            second_limit=config.second_max_tokens or 0,
            enough=(enough or {}).get(name),
            settled=decided,
            logprobs=labelling.allowed(teacher, tokenizer, config.logprobs),
        )
    return made


def bill(config: Config, inputs: Inputs, output: Output) -> Bill:
    """What a run with these values would reuse, buy (at most), and no longer use, before anything is spent."""
    ids = KeyIndex()  # those asked for, and of the continuations that stand in their place
    count, reused, tokens = 0, 0, 0.0
    unknown = False
    for order in orders_of(config, inputs, output).values():
        store = Store(inputs.store, order.weights)
        mean = store.mean_tokens()
        for ask in orders.asks(order):
            if not ids.add(bytes.fromhex(ask.id)):
                continue
            count += 1
            ids.add(bytes.fromhex(orders.last_id(order, ask, store)))
            if orders.missing(order, ask, store) is None:
                reused += 1
            else:
                tokens += mean or 0
                unknown = unknown or mean is None
    return Bill(
        wanted=count,
        reused=reused,
        missing=count - reused,
        dropped=sum(key not in ids for key in bought(inputs, output)),
        tokens=None if unknown else round(tokens),
    )


def bought(inputs: Inputs, output: Output) -> KeyIndex:
    """The ids this run paid for: of its last manifest, and what a killed attempt stored. Failed ones cost nothing."""
    ids = KeyIndex()
    for _, table in output.previous("traces", ("id", "finish")):
        traces.enter(ids, table.filter(pc.not_equal(table.column("finish"), "error")))
    for trace_id in wanted.paid(output.work / wanted.FOLDER, inputs.store):
        ids.add(bytes.fromhex(trace_id))
    return ids


def engine_key(order: Order) -> str:
    """Orders with the same key are served by one engine."""
    keys = {"engine", "dtype", "quantization", "max_model_len", "exec"}
    role = order.role.model_dump(mode="json", include=keys)
    return content_id(order.weights, role, thinking_budget(order.role) is not None)


def names(config: Any, roles: Mapping[str, Role]) -> tuple[str, ...]:
    """The templates the teachers' prompts are made of."""
    used = [name for role in roles.values() if isinstance(role, Teacher) for name in orders.prompt_names(role)]
    return tuple(dict.fromkeys(used))


def judge_version(config: Config, root: Path) -> dict[str, str]:
    """Decisions depend on what the verifiers say."""
    return verifiers.version(config, root) if config.judges() else {}


def judgeable(inputs: Inputs) -> References:
    """What answers are judged by (see `references`). Raises StageError where this machine cannot judge some."""
    known = references(inputs.table("references"))
    if why := verifiers.lacking(verifier for _, verifier, _ in known.values()):
        raise StageError(f"Some problems cannot be judged on this machine: {why}")
    return known


def run(config: Config, inputs: Inputs, output: Output) -> None:
    """Ask for what the stores lack, then write this run's traces from them."""
    rule = config.adaptive
    tell_unrouted(config, inputs, output)
    with Pool(max(1, processors() // 2), rule.timeout_s, rule.memory_mib) if rule else nullcontext() as pool:
        enough: dict[str, Enough] = {}
        if rule is not None and pool is not None:
            known = judgeable(inputs)
            for name, teacher in inputs.teachers.items():
                enough[name] = Enough(rule.right, judging(known, pool, teacher.thinking))
        made = wanted.note(output.work / wanted.FOLDER, orders_of(config, inputs, output, enough))
        groups: dict[str, dict[str, Order]] = {}
        for name, order in made.items():
            groups.setdefault(engine_key(order), {})[name] = order
        stored: dict[str, tuple[Order, Store]] = {}
        facts = {}
        ended: dict[str, tuple[Order, Decision]] = {}  # by a problem's first sample
        for group in groups.values():
            store, figures, more = buy(config, inputs, output, group)
            facts[next(iter(group))] = figures
            stored |= {name: (order, store) for name, order in group.items()}
            for one in more:
                ended.setdefault(one[1].first_trace_id, one)  # of several teachers with one prompt the first decides
    decisions = [] if rule is None else [decision_row(rule, *one) for one in ended.values()]
    if rule is not None:
        stored = given(stored, decisions)
    output.counts.update(
        traces.write(
            list(stored.values()),
            output.previous("traces"),
            partial(output.keep, "traces"),
            partial(output.write, "traces"),
        )
    )
    if config.logprobs:
        output.facts["soft_labels"] = label(config, inputs, output, groups.values(), stored)
    output.write("decisions", as_table(decisions, DECISION))
    report(output, partial(pilots.subject, declared(config), made), facts, decisions)
    if skipped := skipped_of(config, inputs):
        output.facts["unverifiable_skipped"] = len(skipped)
        output.say(
            f"{len(skipped):,} variants whose answer nobody knows were not asked: mix drops their traces. Where its "
            f"verification is off, ask them with --set generate.unverifiable_variants=ask."
        )


def tell_unrouted(config: Config, inputs: Inputs, output: Output) -> None:
    """Say, before anything is bought, what no teacher will be asked."""
    if left := unrouted(config, inputs):
        output.facts["unrouted"] = dict(left.most_common())
        some = ", ".join(f"{name} {count:,}" for name, count in left.most_common(KNOWN_LIMIT))
        output.say(
            f"{left.total():,} training problems fit no teacher's route and are not asked ({some}). Add a route for "
            f"them to generate.routes, or a teacher without one."
        )


def given(
    stored: Mapping[str, tuple[Order, Store]], decisions: Iterable[Mapping[str, Any]]
) -> dict[str, tuple[Order, Store]]:
    """The orders with the samples alone that each problem was given: what else a store holds of them, from a pilot or
    another run, would let the problem count for more.
    """
    asked = {row["first_trace_id"]: row["asked"] for row in decisions}
    return {name: (replace(order, settled=asked), store) for name, (order, store) in stored.items()}


def buy(
    config: Config, inputs: Inputs, output: Output, group: Mapping[str, Order]
) -> tuple[Store, Figures, list[tuple[Order, Decision]]]:
    """Have one engine make what the store lacks of these orders; returns the store as it is then."""
    name = next(iter(group))
    told = "" if len(inputs.teachers) == 1 else f"{', '.join(group)}: "
    return sampling.buy(
        list(group.values()),
        inputs.store,
        files_of(inputs, name),
        log_of(output, name),
        lambda done, total, note: output.progress(Progress(done, total, "completions", told + note)),
        config.error_share_limit,
    )


def files_of(inputs: Inputs, name: str) -> Callable[[], Path | None]:
    """What finds the files that the engine of a teacher, by its name, reads."""
    return partial(orders.engine_files, inputs.teachers[name], partial(inputs.model, name))


def log_of(output: Output, name: str) -> Path:
    """Where the engine of a teacher writes what it has to say."""
    return output.work / ("engine.log" if name == "teacher" else f"engine-{name}.log")


def engine_of(inputs: Inputs, output: Output, name: str, role: Role, seed: int) -> engines.Engine:
    """The engine of a teacher, by its name, with other values of its role."""
    return engines.start(role, files_of(inputs, name)(), seed, log_of(output, name))


def label(
    config: Config,
    inputs: Inputs,
    output: Output,
    groups: Iterable[Iterable[str]],
    stored: Mapping[str, tuple[Order, Store]],
) -> dict[str, Any]:
    """Score what was stored without labels, then write the labels of all traces. Returns figures.

    groups: the names of the teachers that one engine serves. stored: by a teacher's name its order, and the store where
    its traces are.
    """
    total = labelling.Figures()
    read: list[Reading] = []
    for group in map(list, groups):
        readings = of_model(group, stored, inputs.store, config.labels)
        labelling.score(
            readings,
            partial(engine_of, inputs, output, group[0]),
            lambda done, of, note: output.progress(Progress(done, of, "labels", note)),
            total,
        )
        read += readings
    if total.failed:
        output.say(f"{total.failed:,} traces have no soft labels of a teacher: {total.cause}")
    count = labelling.write(
        read,
        output.previous("soft_labels"),
        partial(output.keep, "soft_labels"),
        partial(output.write, "soft_labels"),
    )
    return {**total.facts(), "labelled": count.total()} | ({"labelled_by": dict(count)} if len(count) > 1 else {})


def pilot(config: Config, inputs: Inputs, output: Output, share: float) -> dict[str, Any]:
    """Have the teachers answer a share of the problems, which stays in the store, and say what the whole will take.

    Returns what is written to pilot.json: predictions of `pilot.predict` and what they rest on. Adaptive sampling is
    not rehearsed: with it, the predictions are those of `samples` for every problem, and so bounds from above.
    """
    tell_unrouted(config, inputs, output)
    made = orders_of(config.model_copy(update={"adaptive": None}), inputs, output)
    ids = list(dict.fromkeys(row["id"] for order in made.values() for row in order.problems()))
    part = pilots.chosen(ids, share)
    sampled: list[pilots.Sampled] = []
    figures = []
    known = judgeable(inputs)
    with Pool(processors(), 10.0, 1024) as pool:
        for name, order in made.items():
            few = replace(order, problems=partial(_among, order, part))
            store, found, _ = buy(config, inputs, output, {name: few})
            figures.append(found)
            judge = judging(known, pool, inputs.teachers[name].thinking)
            sampled += pilots.measured(orders.completions(few, store), judge)
    weights = {name: order.weights for name, order in made.items()}
    speed, about = sampling.together(figures).tokens_per_s, pilots.subject(declared(config), made)
    if config.labelled_by != "own":
        output.say("The hours leave out the further teachers' scoring, which a pilot does not rehearse.")
    labels = config.label_bytes(inputs.teachers)
    return pilots.note(output.folder, about, share, weights, sampled, len(ids), speed, labels)


def _among(order: Order, part: set[str]) -> Iterator[Row]:
    return (row for row in order.problems() if row["id"] in part)


def failures(manifest: Manifest) -> Failures:
    """Completions that failed, and labels that the engine refused."""
    found, labels = Failures.among([manifest.facts]), manifest.facts.get("soft_labels", {})
    refused = labels.get("labels_failed", 0) - labels.get("labels_unreadable", 0)
    return replace(found, count=found.count + refused)


def report(
    output: Output, about: Callable[[], str], figures: Mapping[str, Figures], decisions: list[dict[str, Any]]
) -> None:
    """Facts for the manifest, and what a person should hear. `about` tells what a pilot must have been of to say
    something of this run.
    """
    output.facts.update(sampling.together(list(figures.values())).facts())
    predicted = pilots.read(output.folder, about)
    if predicted is not None:
        output.facts["pilot"] = predicted
    if len(figures) > 1:
        output.facts["teachers"] = {name: one.facts() for name, one in figures.items()}
    doubled = sum(one.doubled for one in figures.values())
    if doubled:
        output.say(f"{doubled:,} samples are of prompts that two problems ask; the first problem keeps their traces.")
    listed = [row for row in decisions if row["would_add"]]
    if listed:
        more = sum(row["would_add"] for row in listed)
        output.facts["would_add"] = {"problems": len(listed), "samples": more}
        output.say(
            f"{len(listed):,} problems were decided on answers that are judged otherwise today; up to {more:,} more "
            f"samples are not bought, but listed in generate/decisions. To buy them: --set "
            f"generate.adaptive.decisions=renew."
        )


STAGE = Stage(
    name="generate",
    version=2,
    config=Config,
    run=run,
    reads={
        "problems": Reads("seed", "problems", ("id", "text", "task", "split")),
        "domains": Reads("seed", "problems", ("id", "domain"), when=Config.by_domain),
        "references": Reads("seed", "problems", REFERENCE, when=Config.judges),
        "variants": Reads("seed", "problems", ("id", "verifier"), when=Config.skips, later=("parent_id",)),
    },
    writes={"traces": TRACE, "decisions": DECISION, "soft_labels": SOFT_LABELS},
    roles={"teachers": (*WORDS, "thinking_budget", "label")},
    weights=("teachers",),
    prompts=names,
    contents=judge_version,
    on_stale="ask",
    bill=bill,
    failures=failures,
    pilot=pilot,
)
