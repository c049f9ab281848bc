"""The stored completions that a teacher labels, its own or another teacher's, as that teacher reads them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from pipeline import templates
from pipeline.orders import Ask, Order, Row, answered, asks, completions, conversation
from pipeline.records import content_id
from pipeline.soft_labels import hash_tokens, vocabulary_fingerprint
from pipeline.store import Store


@dataclass(frozen=True, eq=False)
class Reading:
    """What one teacher labels: the traces of an order, its own or another teacher's.

    by: its own order, whose prompts it reads them after. store: of its model; the labels lie there. of: whose traces
    they are, which lie in the store `traces`.
    """

    by: Order
    store: Store
    of: Order
    traces: Store

    @property
    def own(self) -> bool:
        """Whether they are its own traces."""
        return self.by is self.of

    @cached_property
    def vocabulary(self) -> str:
        """The fingerprint of the vocabulary that the labels are of."""
        return vocabulary_fingerprint(self.by.tokenizer)

    @cached_property
    def _shared(self) -> bool:
        """Whether the traces' token ids are the labelling teacher's too."""
        return self.own or self.vocabulary == vocabulary_fingerprint(self.of.tokenizer)

    @cached_property
    def _ends(self) -> tuple[int, frozenset[int]]:
        """The token that ends a reply of the labelling teacher's, and those that end one in the traces."""
        ours, theirs = (templates.end_token_id(order.tokenizer) for order in (self.by, self.of))
        return ours, frozenset({theirs, self.of.tokenizer.eos_token_id})

    def heard(self) -> Iterator[tuple[Ask, Row, list[dict[str, str]], str]]:
        """The stored completions, each with what was asked, and with the messages and the prompt that the labelling
        teacher reads it after: those that would put the same problem to it.
        """
        for ask, row in answered(self.of, self.traces, asks(self.of)):
            if self.own:
                yield ask, row, ask.messages, ask.prompt
                continue
            problem = {"text": ask.problem_text, "task": ask.task}
            messages = conversation(self.by.role, self.by.texts, problem)
            yield ask, row, messages, templates.render(self.by.tokenizer, messages)

    def key(self, row: Row, prompt: str) -> str:
        """What a completion's labels are filed under: the id of a trace of its own, else a content id of all that could
        change what the teacher says of it.
        """
        if self.own:
            return str(row["id"])
        role = self.by.role
        return content_id(
            "labels", row["id"], prompt, self.by.weights, role.dtype, role.quantization, role.max_model_len
        )

    def tokens(self, row: Row) -> list[int] | None:
        """A completion's tokens as the labelling teacher reads them, its end token last where the trace ended with one.

        With another vocabulary its text is encoded; None where that cannot be done without changing it.
        """
        if self._shared:
            return list(row["token_ids"])
        tokenizer, (end, ends) = self.by.tokenizer, self._ends
        token_ids = templates.encode(tokenizer, row["raw"])
        if templates.decode(tokenizer, token_ids) != row["raw"]:
            return None
        ended = row["finish"] == "stop" and not ends.isdisjoint(row["token_ids"][-1:])
        return [*token_ids, end] if ended else token_ids


def of_model(
    group: Iterable[str], stored: Mapping[str, tuple[Order, Store]], root: Path, labels: Callable[[str, str], bool]
) -> list[Reading]:
    """What the teachers that one model serves label, all in that model's store as it is now.

    group: their names. stored: by a teacher's name its order, and the store where its traces are. root: where stores
    are. labels: whether the first teacher labels the traces of the second, both by their names.
    """
    names = list(group)
    store = Store(root, stored[names[0]][0].weights)
    return [Reading(stored[name][0], store, *stored[of]) for name in names for of in stored if labels(name, of)]


class Told(NamedTuple):
    """A stored completion to label: its trace, what its labels are filed under, and how many candidates of its tokens
    are known (0: none). token_ids is None where the teacher cannot read it.
    """

    trace_id: str
    key: str
    token_ids: list[int] | None
    token_hash: bytes
    k: int


def told(reading: Reading) -> Iterator[Told]:
    """The stored completions of a reading that have token ids, each once, in the order of their samples."""
    seen: set[str] = set()
    rows: Iterable[tuple[Row, str]]
    if reading.own:  # no prompt has to be rendered
        rows = ((row, row["id"]) for row in completions(reading.of, reading.traces))
    else:
        rows = ((row, reading.key(row, prompt)) for _, row, _, prompt in reading.heard())
    for row, key in rows:
        if key not in seen and row["finish"] != "error" and row["token_ids"] is not None:
            seen.add(key)
            token_ids = reading.tokens(row)
            token_hash = hash_tokens(token_ids or ())
            k = 0 if token_ids is None else reading.store.labels.k(key, token_hash)
            yield Told(row["id"], key, token_ids, token_hash, k)
