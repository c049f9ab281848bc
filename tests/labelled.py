"""A few labelled traces as generate and mix leave them: rows, labels in a store, and examples laid out from traces."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import templates
from pipeline.records import label_id
from pipeline.soft_labels import SoftLabels, head, pack, vocabulary_fingerprint
from pipeline.store import partition, writing
from pipeline.think import assemble, lay_out
from tests.pipeline.labels import made_up

WEIGHTS = "digest"
K = 6


@dataclass
class Labelled:
    """Rows of the datasets that sft reads, by the names it reads them under; labels lie in `store`."""

    store: Path
    examples: list[dict[str, Any]] = field(default_factory=list)
    traces: list[dict[str, Any]] = field(default_factory=list)
    labels: list[dict[str, Any]] = field(default_factory=list)


def text(number: int) -> str:
    """What a teacher writes: sums, and an answer in the last line."""
    left, right = 3 * number + 1, number * number % 17
    steps = "".join(f"{left} + {step} = {left + step}\n" for step in range(right % 4 + 1))
    return f"{steps}The answer is \\boxed{{{left + right}}}."


def spread(token_ids: list[int], seed: int, vocabulary: int) -> SoftLabels:
    """Labels of random candidates."""
    found = made_up(len(token_ids), K, vocabulary, seed=seed)
    return SoftLabels(
        np.array(token_ids, np.int32), found.sampled_logprobs, found.ids % vocabulary, found.logprobs, found.tail
    )


def sure(token_ids: list[int]) -> SoftLabels:
    """Labels that give each token all of the mass."""
    sampled = np.array(token_ids, np.int32)
    none = np.zeros(len(sampled), np.float32)
    return SoftLabels(sampled, none, sampled[:, None], none[:, None], none)


def put(
    store: Path, trace_id: str, labels: SoftLabels, teacher: Any, key: str | None = None, **changes: Any
) -> dict[str, Any]:
    """Store labels, those of another teacher than the trace's own under a key; the row that says where they lie."""
    packed, key = pack(labels), key or trace_id
    with writing(store, WEIGHTS) as opened:
        opened.labels.append(key, packed)
    said = head(packed)
    row = {
        "id": label_id(trace_id, key),
        "teacher": "teacher",
        "vocabulary": vocabulary_fingerprint(teacher),
        "token_hash": said.token_hash.hex(),
        "k": said.k,
        "tokens": said.tokens,
        "folder": partition(store, WEIGHTS).name,
        "check": said.check,
    }
    return row | changes


def make(folder: Path, teacher: Any, count: int, validation: int = 0, certain: bool = False) -> Labelled:
    """Traces of a teacher with this tokenizer, labelled; `certain`: its labels say what it wrote, and nothing else.

    The second example stands there twice, as mix repeats them.
    """
    found = Labelled(folder / "store")
    for number in range(count + validation):
        key, raw = f"{number + 1:032x}", text(number)
        token_ids = [*templates.encode(teacher, raw), teacher.eos_token_id]
        labels = sure(token_ids) if certain else spread(token_ids, number, len(teacher))
        found.labels.append(put(found.store, key, labels, teacher))
        found.traces.append({"id": key, "raw": raw, "token_ids": token_ids, "finish": "stop"})
        spans = lay_out(raw, False, "think")
        found.examples.append(
            {
                "id": key,
                "prompt": [{"role": "user", "content": f"What is {3 * number + 1} + {number * number % 17}?"}],
                "completion": [{"role": "assistant", "content": assemble(raw, spans)}],
                "spans": spans,
                "teacher": "teacher",
                "split": "train" if number < count else "validation",
            }
        )
    found.examples.append(found.examples[1] | {"id": found.examples[1]["id"] + "+1"})
    return found
