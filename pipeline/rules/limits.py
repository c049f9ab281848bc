"""The thresholds of the rules, as the recipe's `filter` section states them. It judges nothing."""

from pydantic import Field

from pipeline.section import Section


class Limits(Section):
    """What the rules compare with. A rule that is not asked for leaves its limits unused."""

    min_tokens: int = Field(1, ge=0)  # a completion of fewer tokens is too_short; 1: only an empty one is
    max_tokens: int | None = Field(None, ge=1)  # a completion of more tokens is too_long; null: no limit
    ngram_words: int = Field(10, ge=2)  # repetition: words of the n-grams that are counted
    repeated_ngram_share: float = Field(0.5, gt=0, le=1)  # repetition: words in n-grams seen before may be this share
    repeated_line_share: float = Field(0.3, gt=0, le=1)  # repetition: characters in lines seen before may be this share
    repetition_min_words: int = Field(60, ge=1)  # repetition: shares of shorter texts say nothing
    loop_times: int = Field(4, ge=2)  # repetition: a tail that says the same so many times on end is a loop
    loop_min_words: int = Field(24, ge=2)  # repetition: a loop covers at least so many words
    loop_max_period: int = Field(64, ge=1)  # repetition: words of the longest unit of a loop
    code_free_domains: tuple[str, ...] = ("math",)  # code_block: domains in which code fences are not wanted
