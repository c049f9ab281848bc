"""What is asked of a model, and the loop that gets it: shared by the stages that sample, whichever engine answers.

It writes no dataset. A stage hands it a way to start an engine, which it uses only if something is missing.
"""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline import templates
from pipeline.engines import Completion, Engine, Request
from pipeline.records import content_id
from pipeline.roles import Role, Sampling
from pipeline.store import Entry, Store

Row = Mapping[str, Any]
# Engines that run here: they are given token ids and a seed. A server applies its own chat template and keeps its seed.
LOCAL = ("vllm", "hf")


@dataclass(frozen=True)
class Order:
    """What one model is asked: which problems, how it is prompted and sampled, how often, and up to how many tokens.

    `problems` gives rows with id, text and task anew at each call; `texts` holds the templates that `prompt_names`
    names; `tokenizer` is None for a server or canned answers.
    """

    role: Role
    weights: str
    problems: Callable[[], Iterable[Row]]
    texts: Mapping[str, str]
    tokenizer: Any
    sampling: Sampling
    samples: int
    max_tokens: int
    logprobs: int = 0  # candidates of each token to label with their logprobs


@dataclass(frozen=True, slots=True)
class Ask:
    """One sample of one problem, known by what could change the model's words."""

    id: str
    problem_id: str
    sample: int
    prompt: str
    messages: list[dict[str, str]]
    problem_text: str


@dataclass
class Figures:
    """What a call of `complete` did. Seconds are of the engine at work, without its start."""

    wanted: int = 0
    reused: int = 0
    bought: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    start_seconds: float = 0.0
    engine_seed: int | None = None
    torn_records: int = 0
    engine: dict[str, float] = field(default_factory=dict)

    @property
    def tokens_per_s(self) -> float:
        return self.completion_tokens / self.seconds if self.seconds else 0.0

    def facts(self) -> dict[str, Any]:
        """As JSON values for a manifest."""
        return {
            **asdict(self),
            "seconds": round(self.seconds, 3),
            "start_seconds": round(self.start_seconds, 3),
            "tokens_per_s": round(self.tokens_per_s, 1),
        }


def prompt_names(role: Role) -> tuple[str, ...]:
    """The templates in prompts/ that a role's prompts are made of."""
    names = [role.prompt, *role.task_prompts.values()]
    if role.system is not None:
        names.append(role.system)
    if role.chat_template is not None:
        names.append(f"chat/{role.chat_template}")
    return tuple(dict.fromkeys(names))


def open_tokenizer(role: Role, model: Callable[[], Path], texts: Mapping[str, str]) -> Any:
    """The tokenizer that renders a role's prompts, or None where its engine is given messages.

    `model` finds the local folder and is called only where it is needed. Raises ValueError for a chat_template that the
    engine would ignore.
    """
    if role.engine in LOCAL:
        template = None if role.chat_template is None else texts[f"chat/{role.chat_template}"]
        return templates.load_tokenizer(model(), template)
    if role.chat_template is not None:
        raise ValueError(
            f"engine {role.engine} applies no chat template of ours; found chat_template: {role.chat_template}. Unset "
            f"it, or use one of {', '.join(LOCAL)}."
        )
    return None


def engine_files(role: Role, model: Callable[[], Path]) -> Path | None:
    """What a role's engine reads: a model folder, a file of canned answers, or nothing for a server.

    `model` finds it and is called only where it is needed.
    """
    return None if role.engine == "openai" else model()


def conversation(role: Role, texts: Mapping[str, str], problem: Row) -> list[dict[str, str]]:
    """The messages that put a problem (its `text` and `task`) to a role."""
    template = texts[role.task_prompts.get(problem["task"], role.prompt)]
    return templates.conversation(template, problem["text"], None if role.system is None else texts[role.system])


def asks(order: Order) -> Iterator[Ask]:
    """All samples of the order's problems, the samples of one problem together."""
    role, sampling = order.role, order.sampling.model_dump(mode="json")
    for problem in order.problems():
        messages = conversation(role, order.texts, problem)
        if order.tokenizer is None:
            prompt = json.dumps(messages, ensure_ascii=False)
        else:
            prompt = templates.render(order.tokenizer, messages)
        for sample in range(order.samples):
            yield Ask(
                id=trace_id(prompt, order.weights, role, sampling, sample),
                problem_id=problem["id"],
                sample=sample,
                prompt=prompt,
                messages=messages,
                problem_text=problem["text"],
            )


def trace_id(prompt: str, weights: str, role: Role, sampling: Mapping[str, Any], sample: int) -> str:
    """A content id of all that could change the model's words.

    max_tokens is left out (a completion that ended by itself serves any limit), and so is all that says where or how
    fast an engine runs, its seed included.
    """
    return content_id(
        "trace", prompt, weights, role.dtype, role.quantization, role.max_model_len, dict(sampling), sample
    )


def served(entry: Entry | None, max_tokens: int) -> bool:
    """Whether a stored completion answers a request for up to `max_tokens` tokens.

    One that ended by itself always does; a truncated one where it was given as much room (the model's context may have
    ended it before the limit, and would again); a failed one never.
    """
    if entry is None or entry.finish == "error":
        return False
    return entry.finish == "stop" or entry.limit >= max_tokens


def engine_seed(pending: Iterable[str]) -> int:
    """A seed from the ids still to make: another set of them never replays the samples of this one."""
    return int(content_id("engine seed", sorted(pending)), 16) % 2**31


def complete(
    orders: Sequence[Order],
    store: Store,
    start: Callable[[int], Engine],
    progress: Callable[[int, int, str], None],
    error_share_limit: float = 1.0,
) -> Figures:
    """Make every completion of the orders that the store lacks; each is in the store as soon as it has finished.

    The orders are of the same weights, those of the store, and one engine serves them all. start makes it from its
    seed, and is called only if something is missing; progress is told completions done, completions wanted, and a note.
    Raises ValueError as soon as more than error_share_limit of the completions wanted have failed for good.
    """
    wanted: set[str] = set()
    pending: set[str] = set()
    for order in orders:
        for ask in asks(order):
            wanted.add(ask.id)
            if not served(store.entry(ask.id), order.max_tokens):
                pending.add(ask.id)
    figures = Figures(wanted=len(wanted), reused=len(wanted) - len(pending), torn_records=store.torn)
    if not pending:
        return figures
    figures.engine_seed = engine_seed(pending)
    begun = time.monotonic()
    progress(figures.reused, figures.wanted, "starting the engine")
    engine = start(figures.engine_seed)
    figures.start_seconds = time.monotonic() - begun
    try:
        _stream(orders, store, engine, pending, figures, progress, error_share_limit)
    finally:
        figures.engine = dict(engine.figures)
        engine.close()
    return figures


def _stream(
    orders: Sequence[Order],
    store: Store,
    engine: Engine,
    pending: set[str],
    figures: Figures,
    progress: Callable[[int, int, str], None],
    error_share_limit: float,
) -> None:
    running: dict[str, tuple[Order, Ask]] = {}
    causes: Counter[str] = Counter()
    allowed = math.floor(error_share_limit * figures.wanted)
    begun = time.monotonic()
    for completion in engine.stream(_requests(orders, pending, running)):
        if completion.labels is not None:  # first, so that none is stored without its labels
            store.labels.append(completion.id, completion.labels)
        store.append(record(*running.pop(completion.id), completion, figures.engine_seed))
        figures.bought += 1
        figures.prompt_tokens += completion.prompt_tokens
        figures.completion_tokens += completion.completion_tokens
        figures.seconds = time.monotonic() - begun
        if completion.finish == "error":
            figures.errors += 1
            causes[(completion.cause or "unknown")[:200]] += 1
            if figures.errors > allowed:
                raise ValueError(_too_many(figures, causes, error_share_limit))
        progress(figures.reused + figures.bought, figures.wanted, _note(figures))
    if running:
        raise RuntimeError(f"engine {orders[0].role.engine} ended without an answer to {len(running)} requests")


def _requests(orders: Sequence[Order], pending: set[str], running: dict[str, tuple[Order, Ask]]) -> Iterator[Request]:
    """The pending requests one by one; each goes from `pending` to `running` as it is taken."""
    prompt, ids = "", None
    for order, ask in ((each, ask) for each in orders for ask in asks(each)):
        if ask.id not in pending:
            continue
        pending.remove(ask.id)
        running[ask.id] = order, ask
        if order.tokenizer is not None and (ids is None or ask.prompt != prompt):
            prompt, ids = ask.prompt, templates.prompt_ids(order.tokenizer, ask.messages)
        yield Request(
            id=ask.id,
            prompt=ask.prompt,
            prompt_token_ids=ids,
            messages=ask.messages,
            sampling=order.sampling,
            max_tokens=order.max_tokens,
            sample=ask.sample,
            problem_text=ask.problem_text,
            logprobs=order.logprobs,
        )


def record(order: Order, ask: Ask, completion: Completion, seed: int | None) -> dict[str, Any]:
    """A row of the traces (see `records.TRACE`), and the `limit` of tokens it was asked with."""
    return {
        "id": ask.id,
        "finish": completion.finish,
        "completion_tokens": completion.completion_tokens,
        "limit": order.max_tokens,
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


def stored(order: Order, store: Store, some: Iterable[Ask]) -> list[dict[str, Any]]:
    """The stored rows of some asks, in their order, as this run knows the problem and the model."""
    wanted = list(some)
    rows = {row["id"]: row for row in store.rows(ask.id for ask in wanted)}
    known = {"teacher": order.role.label, "weights": order.weights, "parent_trace_id": None}
    return [
        {**rows[ask.id], **known, "problem_id": ask.problem_id, "sample": ask.sample}
        for ask in wanted
        if ask.id in rows
    ]


def _note(figures: Figures) -> str:
    left_s = figures.seconds / figures.bought * (figures.wanted - figures.reused - figures.bought)
    failed = f", {figures.errors} failed" if figures.errors else ""
    return f"{figures.tokens_per_s:,.0f} tokens/s, {_span(left_s)} left{failed}"


def _span(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _too_many(figures: Figures, causes: Counter[str], limit: float) -> str:
    cause, count = causes.most_common(1)[0]
    return (
        f"{figures.errors} of {figures.wanted} completions failed, more than error_share_limit ({limit:g}) allows; "
        f"{count} of them: {cause}. What finished is stored: mend the cause and run again, and only what is missing is "
        f"asked for."
    )
