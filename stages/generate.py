"""Have the teacher write n completions for every training problem.

It judges nothing and cuts nothing: a truncated or failed completion is a row that says so.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa
from pydantic import Field

from pipeline import engines, labelling, sampling
from pipeline.engines import Engine
from pipeline.manifest import Shard, write_durably
from pipeline.records import SOFT_LABELS, TRACE
from pipeline.roles import Role, Sampling
from pipeline.sampling import Ask, Order
from pipeline.section import Section
from pipeline.shards import as_table, column_sums
from pipeline.stage import Bill, Inputs, Output, Progress, Reads, Stage
from pipeline.store import Store, writing

ROWS = 4096  # traces held in memory while they go from the store to shards
WANTED_FILE = "wanted.txt"


class Config(Section):
    """How much is asked of the teacher, and how its words are drawn."""

    samples: int = Field(4, ge=1)  # completions of each problem; raising it asks only for the new ones
    sampling: Sampling = Sampling()
    max_tokens: int = Field(1024, ge=1)  # of one completion; raising it asks only for the truncated ones again
    error_share_limit: float = Field(0.05, ge=0, le=1)  # more failed completions than this fail the stage
    # The likeliest candidates of each token, kept with their raw logprobs; a stored completion without them is scored.
    logprobs: int = Field(0, ge=0, le=engines.LOGPROBS_LIMIT)


def training_problems(inputs: Inputs) -> Iterator[Mapping[str, Any]]:
    """The problems of the split "train", in the order seed wrote them."""
    for table in inputs.batches("problems"):
        for row in table.to_pylist():
            if row["split"] == "train":
                yield row


def order_of(config: Config, inputs: Inputs) -> Order:
    """What this run asks of the teacher."""
    teacher = inputs.teacher
    texts = {name: inputs.prompt(name) for name in sampling.prompt_names(teacher)}
    tokenizer = sampling.open_tokenizer(teacher, lambda: inputs.model("teacher"), texts)
    return Order(
        role=teacher,
        weights=inputs.weights("teacher"),
        problems=partial(training_problems, inputs),
        texts=texts,
        tokenizer=tokenizer,
        sampling=config.sampling,
        samples=config.samples,
        max_tokens=config.max_tokens,
        logprobs=labelling.allowed(teacher, tokenizer, config.logprobs),
    )


def bill(config: Config, inputs: Inputs, output: Output) -> Bill:
    """What a run with these values would reuse, buy, and no longer use, before anything is spent."""
    order = order_of(config, inputs)
    wanted = {ask.id for ask in sampling.asks(order)}
    store = Store(inputs.store, order.weights)
    reused = sum(sampling.served(store.entry(trace_id), config.max_tokens) for trace_id in wanted)
    missing = len(wanted) - reused
    mean = store.mean_tokens()
    return Bill(
        wanted=len(wanted),
        reused=reused,
        missing=missing,
        dropped=len(bought(inputs, output) - wanted),
        tokens=None if mean is None else round(missing * mean),
    )


def bought(inputs: Inputs, output: Output) -> set[str]:
    """The ids this run paid for: of its last manifest, and what a killed attempt stored. Failed ones cost nothing."""
    rows = (row for _, table in output.previous("traces", ("id", "finish")) for row in table.to_pylist())
    ids = {row["id"] for row in rows if row["finish"] != "error"}
    path = output.work / WANTED_FILE
    if path.exists():
        weights, *wanted = path.read_text(encoding="utf-8").splitlines()
        store = Store(inputs.store, weights)
        for trace_id in wanted:
            entry = store.entry(trace_id)
            if entry is not None and entry.finish != "error":
                ids.add(trace_id)
    return ids


def unchanged(shard: Shard, ids: list[str], wanted: Mapping[str, Ask], store: Store, teacher: str) -> bool:
    """Whether a shard of the last manifest holds exactly the rows that would be written for its ids now.

    Compared by the shard's own column fingerprints, over columns that are known without reading a journal.
    """
    entries = [store.entry(trace_id) for trace_id in ids if trace_id in wanted]
    known = [entry for entry in entries if entry is not None]
    if len(known) != len(ids):
        return False
    table = pa.table(
        {
            "id": ids,
            "problem_id": [wanted[trace_id].problem_id for trace_id in ids],
            "teacher": [teacher] * len(ids),
            "finish": [entry.finish for entry in known],
            "completion_tokens": [entry.tokens for entry in known],
        }
    )
    return all(shard.columns.get(name) == f"{value:032x}" for name, value in column_sums(table).items())


def write_traces(order: Order, output: Output, store: Store) -> Counter[str]:
    """Keep what the last manifest holds unchanged, and write all else from the store. Returns traces by finish."""
    wanted: dict[str, Ask] = {}
    for ask in sampling.asks(order):
        wanted.setdefault(ask.id, ask)
    finishes = Counter(entry.finish for trace_id in wanted if (entry := store.entry(trace_id)) is not None)
    for shard, table in output.previous("traces"):
        ids = table.column("id").to_pylist()
        if unchanged(shard, ids, wanted, store, order.role.label):
            output.keep("traces", shard)
            for trace_id in ids:
                del wanted[trace_id]
    rest = iter(wanted.values())
    while some := list(islice(rest, ROWS)):
        output.write("traces", as_table(sampling.stored(order, store, some), TRACE))
    return finishes


def write_labels(order: Order, output: Output, store: Store, start: Callable[[Role, int], Engine]) -> dict[str, Any]:
    """Score what was stored without labels, then write the labels of all completions. Returns figures."""
    figures = labelling.score(
        order,
        store,
        start,
        lambda done, total, note: output.progress(Progress(done, total, "labels", note)),
    )
    if figures.failed:
        output.say(f"{figures.failed} completions have no soft labels: {figures.cause}")
    count = labelling.write(
        order,
        store,
        output.previous("soft_labels"),
        lambda shard: output.keep("soft_labels", shard),
        lambda table: output.write("soft_labels", table),
    )
    return {**figures.facts(), "labels": count}


def names(config: Any, roles: Mapping[str, Role]) -> tuple[str, ...]:
    """The templates the teacher's prompts are made of."""
    return sampling.prompt_names(roles["teacher"])


def run(config: Config, inputs: Inputs, output: Output) -> None:
    """Ask for what the store lacks, then write this run's traces from it."""
    teacher, order = inputs.teacher, order_of(config, inputs)
    ids = [ask.id for ask in sampling.asks(order)]
    if len(set(ids)) != len(ids):
        output.say(
            f"{len(ids) - len(set(ids))} prompts are asked by two problems; the first problem keeps their traces."
        )
    # Written before a token is spent: after a kill, a changed recipe still knows what this one had bought.
    write_durably(output.work / WANTED_FILE, "\n".join([order.weights, *ids]) + "\n")
    files = sampling.engine_files(teacher, lambda: inputs.model("teacher"))
    log = output.work / "engine.log"
    with writing(inputs.store, order.weights) as store:
        figures = sampling.complete(
            [order],
            store,
            lambda seed: engines.start(teacher, files, seed, log),
            lambda done, total, note: output.progress(Progress(done, total, "completions", note)),
            config.error_share_limit,
        )
        finishes = write_traces(order, output, store)
        if order.logprobs:
            output.facts.update(
                write_labels(order, output, store, lambda role, seed: engines.start(role, files, seed, log))
            )
    output.counts.update(finishes)
    output.facts.update(figures.facts())


WORDS = (
    "engine",
    "prompt",
    "system",
    "chat_template",
    "dtype",
    "quantization",
    "max_model_len",
    "task_prompts",
)

STAGE = Stage(
    name="generate",
    version=1,
    config=Config,
    run=run,
    reads={"problems": Reads("seed", "problems", ("id", "text", "task", "split"))},
    writes={"traces": TRACE, "soft_labels": SOFT_LABELS},
    roles={"teacher": WORDS},
    weights=("teacher",),
    prompts=names,
    on_stale="ask",
    bill=bill,
)
