"""What one model is asked: the samples of an order with their ids, and what the store lacks of them.

It renders prompts and compares ids; it starts no engine and decides no order of requests (`schedule.py`).
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

from pipeline import templates
from pipeline.engines import vllm
from pipeline.records import content_id
from pipeline.roles import LOCAL, Role, Sampling, thinking_budget
from pipeline.store import Entry, Store
from pipeline.think import CLOSE, OPEN

Row = Mapping[str, Any]
ROWS = 256  # stored rows held in memory at once: with long completions a megabyte each
# What becomes of a completion that its limit cut off: nothing, a second request with more tokens, or the rest of it.
Truncated = Literal["keep", "again", "continue"]


@dataclass(frozen=True)
class Enough:
    """When a problem needs no more samples: at `right` right answers.

    `judge` takes a problem's id and the stored row of a completion, and says pass, fail or undecided; it is called from
    several threads at once.
    """

    right: int
    judge: Callable[[str, Row], str]


@dataclass(frozen=True)
class Order:
    """What one model is asked: which problems, how it is prompted and sampled, how often, and up to how many tokens.

    `problems` gives rows with id, text and task anew at each call; `texts` holds the templates that `prompt_names`
    names; `tokenizer` is None for a server or canned answers. `second_limit` is the tokens, in all, of a completion
    that is asked for again or continued; `enough` ends a problem's sampling before `samples` are made. `settled`
    holds, for problems whose sampling was ended earlier, by the id of their first sample how many they were given: they
    get no more. `noted` gives its samples as an earlier call of `asks` found them.
    """

    role: Role
    weights: str
    problems: Callable[[], Iterable[Row]]
    texts: Mapping[str, str]
    tokenizer: Any
    sampling: Sampling
    samples: int
    max_tokens: int
    truncated: Truncated = "keep"
    second_limit: int = 0
    enough: Enough | None = None
    settled: Mapping[str, int] = field(default_factory=dict)
    logprobs: int = 0  # candidates of each token to label with their logprobs
    noted: Callable[[], Iterable["Sample"]] | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for what its engine would refuse request by request, or do wrong."""
        if self.role.engine == "vllm":
            vllm.check_sampling(self.role, self.sampling)


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of one problem, known by what could change the model's words."""

    id: str
    problem_id: str
    sample: int


@dataclass(frozen=True, slots=True)
class Ask(Sample):
    """A sample with what its engine is given."""

    prompt: str
    messages: list[dict[str, str]]
    problem_text: str
    task: str


@dataclass(frozen=True, slots=True)
class Step:
    """One request that a sample calls for; `parent` is the stored row that it continues."""

    ask: Ask
    id: str
    limit: int  # tokens of the completion, those of its parent included
    parent: Row | None = None


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

    `model` finds the local folder and is called only where it is needed. Raises ValueError for a thinking budget that
    could not be counted.
    """
    if role.engine in LOCAL:
        template = None if role.chat_template is None else texts[f"chat/{role.chat_template}"]
        tokenizer = templates.load_tokenizer(model(), template)
        if thinking_budget(role) is not None:
            _check_tags(role, tokenizer)
        return tokenizer
    return None


def _check_tags(role: Role, tokenizer: Any) -> None:
    """Raises ValueError where the engine could miss a think tag: one of several tokens may end within another's."""
    for tag in (OPEN, CLOSE):
        count = len(templates.encode(tokenizer, tag))
        if count != 1:
            raise ValueError(
                f"thinking_budget needs think tags that are one token each, and the tokenizer of {role.label} makes "
                f"{count} of {tag}: before a line's end they would be others, and the reasoning would go on uncounted "
                f"or be closed twice. Unset thinking_budget, or name a teacher whose tokenizer has the tags."
            )


def engine_files(role: Role, model: Callable[[], Path]) -> Path | None:
    """What a role's engine reads: a model folder, a file of canned answers, or nothing for a server.

    `model` finds it and is called only where it is needed.
    """
    return None if role.engine == "openai" else model()


def conversation(role: Role, texts: Mapping[str, str], problem: Row) -> list[dict[str, str]]:
    """The messages that put a problem (its `text` and `task`) to a role."""
    template = texts[role.task_prompts.get(problem["task"], role.prompt)]
    return templates.conversation(template, problem["text"], None if role.system is None else texts[role.system])


Asked = TypeVar("Asked", bound=Sample)


def asks(order: Order) -> Iterator[Ask]:
    """All samples of the order's problems, the samples of one problem together."""
    return _given(order, _asks(order))


def _given(order: Order, some: Iterable[Asked]) -> Iterator[Asked]:
    """Samples without those that a settled problem was not given."""
    limit = order.samples
    for one in some:
        if one.sample == 0:
            limit = order.settled.get(one.id, order.samples)
        if one.sample < limit:
            yield one


def _asks(order: Order) -> Iterator[Ask]:
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
                task=problem["task"],
            )


def samples(order: Order) -> Iterable[Sample]:
    """All samples of the order's problems, as `asks` has them; no prompt is rendered where they are noted."""
    return asks(order) if order.noted is None else _given(order, order.noted())


def trace_id(prompt: str, weights: str, role: Role, sampling: Mapping[str, Any], sample: int) -> str:
    """A content id of all that could change the model's words.

    max_tokens is left out (a completion that ended by itself serves any limit), and so is all that says where or how
    fast an engine runs, its seed included. Without a thinking budget the id is as it was before there were any.
    """
    parts = ["trace", prompt, weights, role.dtype, role.quantization, role.max_model_len, dict(sampling), sample]
    budget = thinking_budget(role)
    return content_id(*parts, *([] if budget is None else [{"thinking_budget": budget}]))


def continuation_id(parent: Row) -> str:
    """The id of the trace that goes on where a stored one was cut off: it depends on the words it goes on from."""
    return content_id("continuation", parent["id"], parent["token_ids"] or parent["raw"])


def served(entry: Entry | None, max_tokens: int) -> bool:
    """Whether a stored completion answers a request for up to `max_tokens` tokens.

    One that ended by itself always does; a truncated one where it was given as much room, or where not its limit ended
    it but the model's context, which would again; a failed one never.
    """
    if entry is None or entry.finish == "error":
        return False
    return entry.finish == "stop" or entry.limit >= max_tokens or 0 < entry.tokens < entry.limit


def missing(order: Order, ask: Ask, store: Store) -> Step | None:
    """The next request that a sample needs, None where the store has all of it."""
    found = lacking(order, ask, store)
    return None if found is None else Step(ask, *found)


def lacking(order: Order, sample: Sample, store: Store) -> tuple[str, int, Row | None] | None:
    """What `missing` asks for: the id, the limit of tokens, and the stored row that is continued, where one is.

    What its model's context cut off, not its limit, cannot grow: it is neither continued nor asked for again.
    """
    entry = store.entry(sample.id)
    if not served(entry, order.max_tokens):
        if order.truncated == "continue" and entry is not None and entry.finish == "length":
            parent = store.get(sample.id)
            assert parent is not None
            if served(store.entry(continuation_id(parent)), order.second_limit):
                return None  # it is whole, wherever its first part ended
        return sample.id, order.max_tokens, None
    assert entry is not None
    if order.truncated == "keep" or served(entry, order.second_limit):
        return None
    if order.truncated == "again":
        return sample.id, order.second_limit, None
    parent = store.get(sample.id)
    assert parent is not None
    child = continuation_id(parent)
    return None if served(store.entry(child), order.second_limit) else (child, order.second_limit, parent)


def last_id(order: Order, sample: Sample, store: Store) -> str:
    """The id of what the store holds of a sample: its continuation where there is one, else its own."""
    entry = store.entry(sample.id)
    if order.truncated != "continue" or entry is None or entry.finish != "length":
        return sample.id
    parent = store.get(sample.id)
    assert parent is not None
    child = continuation_id(parent)
    found = store.entry(child)
    return sample.id if found is None or found.finish == "error" else child


def stored(order: Order, store: Store, some: Mapping[str, Sample]) -> list[dict[str, Any]]:
    """The stored rows of some samples by their last ids, in their order, as this run knows problem and model."""
    rows = {row["id"]: row for row in store.rows(some)}
    known = {"teacher": order.role.label, "weights": order.weights}
    return [
        {**rows[key], **known, "problem_id": sample.problem_id, "sample": sample.sample}
        for key, sample in some.items()
        if key in rows
    ]


def answered(order: Order, store: Store, some_samples: Iterable[Asked]) -> Iterator[tuple[Asked, dict[str, Any]]]:
    """Those of an order's samples that the store holds, each with its row, in their order; a few are held at once."""
    rest = iter(some_samples)
    while some := {last_id(order, sample, store): sample for sample in islice(rest, ROWS)}:
        for row in stored(order, store, some):
            yield some[row["id"]], row


def completions(order: Order, store: Store) -> Iterator[dict[str, Any]]:
    """The rows that the store holds of all samples of an order, in their order."""
    return (row for _, row in answered(order, store, samples(order)))


def cut(order: Order, row: dict[str, Any]) -> dict[str, Any]:
    """A stored row as the order's max_tokens would have left it, where it was made with a higher limit.

    Raises ValueError for one that holds no token ids to cut by.
    """
    if row["completion_tokens"] <= order.max_tokens:
        return row
    if order.tokenizer is None or row["token_ids"] is None:
        raise ValueError(
            f"found a stored answer of {order.role.label} with {row['completion_tokens']} tokens, and max_tokens "
            f"{order.max_tokens}; without token ids it cannot be cut to compare like with like. Set max_tokens to at "
            f"least {row['completion_tokens']}."
        )
    ids = row["token_ids"][: order.max_tokens]
    text = templates.decode(order.tokenizer, ids)
    return {**row, "token_ids": ids, "raw": text, "completion_tokens": len(ids), "finish": "length"}
