"""A trace as the rules see it: its text, its parts and words, each computed once. It judges nothing."""

from dataclasses import dataclass
from functools import cached_property

from pipeline.text import words
from pipeline.think import Split, split


@dataclass(frozen=True)
class Trace:
    """One completion of a teacher, and of its problem what rules may depend on."""

    raw: str
    finish: str  # stop | length | error
    completion_tokens: int
    thinking: bool  # the teacher writes think tags by itself
    domain: str = ""

    @cached_property
    def parts(self) -> Split:
        """Where reasoning and answer stand, and what is wrong with the think tags."""
        return split(self.raw, self.thinking)

    @cached_property
    def words(self) -> list[str]:
        """The words, numbers and signs of the whole completion."""
        return words(self.raw)
