"""What a source yields: a candidate for a problem, or the reason why a row cannot be one.

It judges no candidate against another (`selection.py` does).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pipeline.canonical import canonical_keys
from pipeline.records import content_id
from pipeline.text import squeeze

TRAIN = "train"
PROGRAM = "code"  # the verifier of programs, whose answers are judged by tests alone


class SourceError(ValueError):
    """A source cannot be read, and the user can mend it: the message says what was found, expected, and the fix."""


@dataclass(frozen=True)
class Candidate:
    """A row of a source as found. `fault` is the slug of a reason against it; then its other fields may be empty."""

    text: str
    answer: str
    domain: str
    task: str
    verifier: str
    verifier_data: str  # canonical JSON
    source: str
    license: str
    split: str
    place: str  # where in the source it stood: "line 7", "item 12"
    metadata: Mapping[str, Any] = field(default_factory=dict)  # what a generator says of its item
    fault: str | None = None
    detail: str = ""
    parent_id: str | None = None  # the problem it was rewritten from
    augmentation: str | None = None  # how it was rewritten

    @cached_property
    def id(self) -> str:
        """The problem's id. It hashes the squeezed text, so that re-wrapping a file gives the same problems."""
        return content_id("problem", squeeze(self.text))

    @cached_property
    def keys(self) -> frozenset[str]:
        """Every canonical key that the problem goes by."""
        # A program solves no exercise of these; whatever else has no answer may be one whose answer nobody knows.
        answer = self.answer if self.answer or self.verifier == PROGRAM else None
        keys = canonical_keys(self.task, self.text, self.metadata, answer)
        # Rewritten, an exercise may have become one of another task, whatever the answer that it inherited.
        return keys if self.parent_id is None else keys | canonical_keys("", self.text)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces. What JSON lacks becomes what is nearest: a list, a plain number, a text."""
    return json.dumps(_plain(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((_plain(item) for item in value), key=repr)
    if value is None or type(value) in (str, int, float, bool):
        return value
    if hasattr(value, "tolist"):  # numpy's scalars and arrays
        return _plain(value.tolist())
    return str(value)
