"""Traces as the rules see them: single rows, and a batch of them as columns. It judges nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.rules.words import folded, words
from pipeline.text import final_answer
from pipeline.think import Split, split

Broken = dict[int, dict[str, Any]]
"""The traces of a batch that break a rule: their place in it -> the figures that broke it, as JSON values."""


@dataclass(frozen=True)
class Trace:
    """One completion of a teacher, and of its problem what rules may depend on."""

    raw: str
    finish: str  # stop | length | error
    completion_tokens: int
    thinking: bool  # the teacher writes think tags by itself
    domain: str = ""
    problem: str = ""  # the problem's text
    prompt: str = ""  # as rendered, or the messages as JSON
    others_tokens: float | None = None  # median of the problem's other traces that ended by themselves; None: too few

    @cached_property
    def parts(self) -> Split:
        """Where reasoning and answer stand, and what is wrong with the think tags."""
        return split(self.raw, self.thinking)

    @property
    def reasoning(self) -> str:
        return self.raw[slice(*self.parts.reasoning)]

    @property
    def answer(self) -> str:
        """What stands after the reasoning."""
        return self.raw[slice(*self.parts.answer)]

    @cached_property
    def final(self) -> str | None:
        """The final answer as written after the reasoning (see `pipeline.text.answer_span`), or None."""
        return final_answer(self.answer)

    @cached_property
    def folded(self) -> str:
        """The completion, folded; its lines are kept."""
        return folded(self.raw)

    @cached_property
    def _parts_between_spaces(self) -> list[str]:
        return self.folded.split()

    @cached_property
    def squeezed(self) -> str:
        """The completion, folded, with one space for any white space."""
        return " ".join(self._parts_between_spaces)

    @cached_property
    def words(self) -> list[str]:
        """The words of the whole completion, folded."""
        return words(self.folded, self._parts_between_spaces)


class Traces:
    """A batch of traces. What several rules need of a trace is computed once and kept: keep batches small."""

    def __init__(self, rows: Sequence[Trace]) -> None:
        self.rows = rows
        self.raw = pa.array([row.raw for row in rows], pa.large_string())

    def __iter__(self) -> Iterator[tuple[int, Trace]]:
        return enumerate(self.rows)

    def search(self, pattern: str, ignore_case: bool = False) -> Iterator[tuple[int, Trace]]:
        """The traces whose completion has a match of an RE2 pattern, with their places. RE2 has no backtracking: the
        time is linear in the text whatever the pattern and the text are.
        """
        found = pc.match_substring_regex(self.raw, pattern, ignore_case=ignore_case)
        for place in pc.indices_nonzero(found).to_pylist():
            yield place, self.rows[place]

    def find(self, pattern: str, ignore_case: bool = False) -> Broken:
        """Where the first match of an RE2 pattern starts in each completion with one, in characters, and its text."""
        places = [place for place, _ in self.search(pattern, ignore_case)]
        if not places:
            return {}
        column = self.raw.take(places)
        named = ("(?i)" if ignore_case else "") + f"(?P<text>{pattern})"
        starts = pc.find_substring_regex(column, pattern, ignore_case=ignore_case).to_pylist()
        texts = pc.struct_field(pc.extract_regex(column, named), "text").to_pylist()
        return {
            place: {"at": len(self.rows[place].raw.encode()[:start].decode()), "text": text}
            for place, start, text in zip(places, starts, texts, strict=True)
        }
