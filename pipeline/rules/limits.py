"""The thresholds of the rules, as the recipe's `filter` section states them. It judges nothing."""

from typing import Literal

from pydantic import Field

from pipeline.section import Section

# Languages that the rules tell apart: by their script, or (those written in Latin letters) by their function words.
Language = Literal[
    "en", "de", "fr", "es", "it", "pt", "nl", "sv", "da", "pl", "cs", "ro", "tr", "id", "vi", "fi", "hu",
    "zh", "ja", "ko", "ru", "el", "ar", "he", "hi", "th",
]  # fmt: skip


class Limits(Section):
    """What the rules compare with. A rule that is not asked for leaves its limits unused."""

    min_tokens: int = Field(1, ge=0)  # a completion of fewer tokens is too_short; 1: only an empty one is
    max_tokens: int | None = Field(None, ge=1)  # a completion of more tokens is too_long; null: no limit
    length_ratio: float | None = Field(
        None, gt=1
    )  # short_for_problem, long_for_problem: tokens against the median of the problem's other traces; null: no limit
    length_ratio_others: int = Field(3, ge=1)  # that median says nothing of fewer other traces that ended by themselves
    paragraph_chars: int | None = Field(4000, ge=1)  # long_paragraph: characters without a line break; null: no limit
    loop_times: int = Field(4, ge=2)  # looping_tail: a tail that says the same so many times on end is a loop
    loop_min_words: int = Field(24, ge=2)  # looping_tail: a loop covers at least so many words
    loop_max_period: int = Field(512, ge=1)  # looping_tail: words of the longest unit of a loop
    ngram_words: int = Field(10, ge=2)  # repeated_ngrams: words of the n-grams that are counted
    repeated_ngram_share: float = Field(
        0.5, gt=0, le=1
    )  # repeated_ngrams: words in n-grams seen before may be this share
    repeated_line_share: float = Field(
        0.3, gt=0, le=1
    )  # repeated_lines: characters in lines seen before may be this share
    repetition_min_words: int = Field(60, ge=1)  # repeated_ngrams, repeated_lines: shares of shorter texts say nothing
    conclusion_chars: int = Field(
        300, ge=1
    )  # answer_differs: the reasoning's own conclusion stands in its last characters
    foreign_words: int = Field(3, ge=0)  # languages_mixed: words of other languages that may stand in a reasoning
    foreign_function_words: int = Field(
        1, ge=0
    )  # languages_mixed: as many of them may be function words, which no name is
    # language_differs: the language of the reasoning; problem: that of the problem; any: none in particular
    reasoning_language: Language | Literal["any", "problem"] = "any"
    leaked_words: int = Field(
        8, ge=3
    )  # prompt_leaked: a sentence of the prompt with so many words is never said by chance
    code_free_domains: tuple[str, ...] = ("math",)  # code_block: domains in which code fences are not wanted
