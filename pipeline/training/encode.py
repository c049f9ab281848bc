"""Training examples as token ids, made by the same function that makes the prompts of an evaluation.

It cuts nothing: what does not fit the length limit is set apart with a reason.
"""

import hashlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline import objectives
from pipeline.templates import EndTokenInside, ending_ids, example_ids

IGNORED = objectives.IGNORED


@dataclass(frozen=True)
class Encoded:
    """An example in tokens; `text` is the completion as the trace has it.

    `completion` ends with the end token where the trace `ended` by itself: one that was cut off must not teach to stop.
    """

    id: str
    messages: tuple[Mapping[str, str], ...]
    text: str
    prompt: list[int]
    completion: list[int]
    ended: bool = True
    domain: str = ""

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.completion)

    @property
    def input_ids(self) -> list[int]:
        return self.prompt + self.completion

    @property
    def labels(self) -> list[int]:
        """All of the completion is learnt, the prompt is not. One label per input id, not shifted."""
        return [IGNORED] * len(self.prompt) + self.completion


@dataclass(frozen=True)
class LeftOut:
    """An example that cannot be trained on: too_long | end_token_inside | no_single_reply | nothing_said."""

    id: str
    reason: str
    tokens: int
    domain: str = ""


def encode(
    tokenizer: Any, rows: Iterable[Mapping[str, Any]], max_length: int, prompts_alone: bool = False
) -> tuple[list[Encoded], list[Encoded], list[LeftOut]]:
    """Examples that fit max_length tokens (prompts_alone: whose prompts do), those that are longer, and an entry for
    every row left out.

    rows have `id`, and `prompt` and `completion` as lists of {role, content}; a completion is one assistant message.
    `finish` and `domain` may be missing; a completion whose finish is "length" was cut off.
    """
    ending = ending_ids(tokenizer)
    fitting: list[Encoded] = []
    longer: list[Encoded] = []
    left_out: list[LeftOut] = []
    for row in rows:
        example = _encoded(tokenizer, row, ending)
        if isinstance(example, LeftOut):
            left_out.append(example)
        elif (length := len(example.prompt) if prompts_alone else example.length) > max_length:
            longer.append(example)
            left_out.append(LeftOut(example.id, "too_long", length, example.domain))
        else:
            fitting.append(example)
    return fitting, longer, left_out


def _encoded(tokenizer: Any, row: Mapping[str, Any], ending: Sequence[int]) -> Encoded | LeftOut:
    reply: Sequence[Mapping[str, str]] = row["completion"]
    ended, domain = row.get("finish") != "length", row.get("domain") or ""
    if len(reply) != 1 or reply[0]["role"] != "assistant":
        return LeftOut(row["id"], "no_single_reply", 0, domain)
    text = reply[0]["content"]
    try:
        prompt, completion = example_ids(tokenizer, row["prompt"], text, ending, ended)
    except EndTokenInside:
        return LeftOut(row["id"], "end_token_inside", 0, domain)
    if not completion:
        return LeftOut(row["id"], "nothing_said", 0, domain)
    return Encoded(row["id"], tuple(row["prompt"]), text, prompt, completion, ended, domain)


def digest(examples: Iterable[Encoded]) -> str:
    """A 128-bit hex digest of examples in their order: ids, tokens, and which of them are learnt."""
    state = hashlib.blake2b(digest_size=16)
    for example in examples:
        state.update(f"{example.id}\0{len(example.prompt)}\0{len(example.completion)}\0".encode())
        state.update(array("q", example.input_ids).tobytes())
    return state.hexdigest()
