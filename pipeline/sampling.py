"""The loop that gets what a model is asked: shared by the stages that sample, whichever engine answers.

It writes no dataset. A stage hands it a way to start an engine, which it uses only if something is missing.
"""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from itertools import chain
from pathlib import Path
from typing import Any

from pipeline import engines, templates
from pipeline.engines import Completion, Engine, Request
from pipeline.key_index import KeyIndex
from pipeline.orders import Order, Row, Step, lacking, samples
from pipeline.records import content_id
from pipeline.roles import LOCAL
from pipeline.schedule import Decision, Schedule
from pipeline.store import Store
from pipeline.text import cut

Show = Callable[[int, int, str], None]
CAUSE_LENGTH = 400  # of what a failed completion is said to have failed of
REPLACED = "\ufffd"  # what stands in a text for half a character


@dataclass
class Figures:
    """What a call of `complete` did. Seconds are of the engine at work, without its start."""

    wanted: int = 0
    doubled: int = 0  # asks of a second problem with the same prompt
    reused: int = 0
    bought: int = 0
    errors: int = 0
    truncated: int = 0  # of those bought
    added: int = 0  # of those bought: more tokens for what was cut off
    spared: int = 0  # of those wanted: not asked, since enough were right
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    start_seconds: float = 0.0
    engine_seed: int | None = None
    torn_records: int = 0
    causes: Counter[str] = field(default_factory=Counter)  # of the errors
    engine: dict[str, float] = field(default_factory=dict)

    @property
    def tokens_per_s(self) -> float:
        return self.completion_tokens / self.seconds if self.seconds else 0.0

    @property
    def cause(self) -> str:
        """The commonest, where some failed."""
        return next((cause for cause, _ in self.causes.most_common(1)), "")

    def facts(self) -> dict[str, Any]:
        """As JSON values for a manifest."""
        return {
            **{each.name: getattr(self, each.name) for each in fields(self) if each.name != "causes"},
            "cause": self.cause,
            "seconds": round(self.seconds, 3),
            "start_seconds": round(self.start_seconds, 3),
            "tokens_per_s": round(self.tokens_per_s, 1),
        }


def in_one_go(facts: Mapping[str, Any]) -> bool:
    """Whether nearly all completions were made now, by the figures of a manifest: a few are no measure of many."""
    return bool(facts.get("bought", 0) > 20 * facts.get("reused", 0))


def together(parts: Sequence[Figures]) -> Figures:
    """The figures of several calls as those of one; the engine's own figures are added up too."""
    total = Figures(engine_seed=parts[0].engine_seed if len(parts) == 1 else None)
    for part in parts:
        for each in fields(Figures):
            if each.name not in ("engine_seed", "engine"):
                setattr(total, each.name, getattr(total, each.name) + getattr(part, each.name))
        for name, value in part.engine.items():
            total.engine[name] = total.engine.get(name, 0.0) + value
    return total


def engine_seed(pending: Iterable[str]) -> int:
    """A seed from the ids still to make: another set of them never replays the samples of this one."""
    total = sum(int(each, 16) for each in pending) % 2**128  # in any order, and none of them held
    return int(content_id("engine seed", f"{total:032x}"), 16) % 2**31


def buy(
    orders: Sequence[Order],
    root: Path,
    files: Callable[[], Path | None],
    log: Path,
    progress: Show,
    error_share_limit: float = 1.0,
) -> tuple[Store, Figures, list[tuple[Order, Decision]]]:
    """Have the engine of the orders' role make what the store of their weights lacks.

    root: the folder of the completion stores. files: finds what the engine reads (`orders.engine_files`), called only
    if one is started. log: where the engine's own words go. Else as `complete`. Returns the store as it is then, too.
    """
    first = orders[0]
    store = Store(root, first.weights)
    figures, decisions = complete(
        orders,
        store,
        lambda seed: engines.start(first.role, files(), seed, log),
        progress,
        error_share_limit,
    )
    return store, figures, decisions


def complete(
    orders: Sequence[Order],
    store: Store,
    start: Callable[[int], Engine],
    progress: Show,
    error_share_limit: float = 1.0,
) -> tuple[Figures, list[tuple[Order, Decision]]]:
    """Make every completion of the orders that the store lacks; each is in the store as soon as it has finished.

    The orders are of the same weights, those of the store, and one engine serves them all. start makes it from its
    seed, and is called only if something is missing; only then is the store locked, so that who has all it needs reads
    beside one who writes. progress is told completions done, completions wanted, and a note. Returns figures, and how
    the sampling of each problem ended where an order has `enough`. Raises ValueError as soon as more than
    error_share_limit of the completions wanted have failed for good, and lock.Locked where another process writes to
    the store.
    """
    figures = Figures()
    with ExitStack() as stack:
        judges = ThreadPoolExecutor(thread_name_prefix="judge")  # its threads begin with the first answer to judge
        stack.callback(judges.shutdown, wait=False, cancel_futures=True)
        schedule = Schedule(orders, store, judges)
        requests = schedule.requests()
        first = next(requests, None)
        if first is not None:  # another process may have stored it before the lock is taken: then it is made twice
            stack.enter_context(store.appending())
        figures.torn_records = store.torn
        seed = engine_seed(_pending(orders, store, figures))
        if first is not None:
            figures.engine_seed = seed
            begun = time.monotonic()
            progress(figures.reused, figures.wanted, "starting the engine")
            engine = start(seed)
            figures.start_seconds = time.monotonic() - begun
            progress(figures.reused, figures.wanted, "waiting for the first answers")
            try:
                _stream(schedule, store, engine, chain([first], requests), figures, progress, error_share_limit)
            finally:
                figures.engine = dict(engine.figures)
                engine.close()
    figures.added, figures.spared = schedule.added, schedule.spared
    return figures, schedule.decisions


def _pending(orders: Sequence[Order], store: Store, figures: Figures) -> Iterator[str]:
    """The ids that the store lacks, each once; counts in `figures` what is wanted and what is there."""
    seen = KeyIndex()  # by two problems with one prompt an id is wanted once
    for order in orders:
        for sample in samples(order):
            if not seen.add(bytes.fromhex(sample.id)):
                figures.doubled += 1
                continue
            lacks = lacking(order, sample, store)
            if lacks is not None:
                yield lacks[0]
            else:
                figures.reused += 1
    figures.wanted = len(seen)


def _stream(
    schedule: Schedule,
    store: Store,
    engine: Engine,
    requests: Iterable[Request | None],
    figures: Figures,
    progress: Show,
    error_share_limit: float,
) -> None:
    allowed = math.floor(error_share_limit * figures.wanted)
    begun = time.monotonic()

    def tell() -> None:
        total = figures.wanted + schedule.added - schedule.spared
        progress(figures.reused + figures.bought, total, _note(figures, total, len(schedule), engine.figures))

    for completion in engine.stream(requests):
        order, step = schedule.running(completion.id)
        if completion.labels is not None:  # first, so that none is stored without its labels
            store.labels.append(completion.id, completion.labels)
        store.append(record(order, step, completion, figures.engine_seed))
        schedule.take(completion.id, completion.finish == "error")
        figures.bought += 1
        figures.prompt_tokens += completion.prompt_tokens
        figures.completion_tokens += completion.completion_tokens
        figures.seconds = time.monotonic() - begun
        figures.truncated += completion.finish == "length"
        if completion.finish == "error":
            figures.errors += 1
            figures.causes[cut(completion.cause or "unknown", CAUSE_LENGTH)] += 1
            if figures.errors > allowed:
                raise ValueError(_too_many(figures, error_share_limit))
        tell()
    if len(schedule):
        raise RuntimeError(f"the engine ended without an answer to {len(schedule)} requests")
    tell()  # the last verdicts came after the last answer


def record(order: Order, step: Step, completion: Completion, seed: int | None) -> dict[str, Any]:
    """A row of the traces (see `records.TRACE`), and the `limit` of tokens it was asked with."""
    ask = step.ask
    row = {
        "id": step.id,
        "finish": completion.finish,
        "completion_tokens": completion.completion_tokens,
        "limit": step.limit,
        "problem_id": ask.problem_id,
        "sample": ask.sample,
        "teacher": order.role.label,
        "weights": order.weights,
        "prompt": ask.prompt,
        "raw": completion.text,
        "token_ids": completion.token_ids,
        "cause": completion.cause,
        "prompt_tokens": completion.prompt_tokens,
        "sampling": json.dumps(order.sampling.model_dump(mode="json"), sort_keys=True),
        "engine_seed": seed if order.role.engine in LOCAL else None,  # of any other it says nothing
        "parent_trace_id": None,
    }
    return row if step.parent is None else {**row, **_whole(order, step.parent, completion)}


def _whole(order: Order, parent: Row, completion: Completion) -> dict[str, Any]:
    """What the row of a continuation has of its own: the trace from its start, in the order it was written."""
    before, after = parent["token_ids"], completion.token_ids
    return {
        "parent_trace_id": parent["id"],
        "raw": _joined(order, parent, completion) if completion.finish != "error" else "",
        "token_ids": None if before is None or after is None else [*before, *after],
        "completion_tokens": parent["completion_tokens"] + completion.completion_tokens,
        "prompt_tokens": parent["prompt_tokens"],
    }


def _joined(order: Order, parent: Row, completion: Completion) -> str:
    """The text of both parts. Where the cut went through a character, both texts lack it and the token ids have it.

    An engine's text is of no use there: one that follows half a character may begin with the prompt.
    """
    text: str = parent["raw"] + completion.text
    if order.tokenizer is None or parent["token_ids"] is None or completion.token_ids is None:
        return text
    ids = [*parent["token_ids"], *completion.token_ids]
    whole = templates.decode(order.tokenizer, ids)
    if whole.startswith(text):
        return text
    if completion.finish != "stop":
        return whole.rstrip(REPLACED)
    last = ids[-1]
    if last in order.tokenizer.all_special_ids and not completion.text.endswith(
        templates.decode(order.tokenizer, [last])
    ):
        return templates.decode(order.tokenizer, ids[:-1])
    found = max((whole.rfind(stop) for stop in order.sampling.stop), default=-1)
    return whole if found < 0 else whole[:found]


def _note(figures: Figures, total: int, running: int, engine: Mapping[str, float]) -> str:
    """What a person wants to see of a long generation, in one line; what is unknown or nothing is left out."""
    prompt_speed = figures.prompt_tokens / figures.seconds if figures.seconds else 0.0
    parts = [f"{running:,} running"]
    if figures.errors:
        parts.append(f"{figures.errors:,} failed")
    parts.append(f"{figures.tokens_per_s:,.0f} tokens/s (prompts {prompt_speed:,.0f})")
    if engine.get("prompt_tokens"):
        parts.append(f"prefix cache {engine.get('cached_prompt_tokens', 0.0) / engine['prompt_tokens']:.0%}")
    parts.append(f"cut off {figures.truncated / figures.bought:.1%}")
    if figures.bought < running:  # the first of those that run side by side say nothing of the others
        return ", ".join([*parts, "time left not known yet"])
    left_s = figures.seconds / figures.bought * (total - figures.reused - figures.bought)
    return ", ".join([*parts, f"{_span(left_s)} left"])


def _span(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _too_many(figures: Figures, limit: float) -> str:
    return (
        f"{figures.errors} of {figures.wanted} completions failed, more than error_share_limit ({limit:g}) allows; "
        f"{figures.causes[figures.cause]} of them: {figures.cause}. What finished is stored: mend the cause and run "
        f"again, and only what is missing is asked for."
    )
