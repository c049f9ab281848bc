"""The look at training data before a GPU hour is spent: what survives the length limit, the template and the tokens.

It trains nothing and repairs nothing; it says what is broken and the fix.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from pipeline.section import Section
from pipeline.templates import decode, encode, ending_ids, prompt_ids, render_whole, rewritten
from pipeline.think import CLOSE, OPEN
from pipeline.training.encode import IGNORED, Encoded

TEMPLATE_SAMPLE = 2000  # examples rendered a second time to see what the template does to them
SHOWN_CHARS = 60  # of a text in a message
_EMPTY_THINK = re.compile(rf"{re.escape(OPEN)}\s*{re.escape(CLOSE)}")


class Limits(Section):
    """How much may be broken before training is refused."""

    later: ClassVar[frozenset[str]] = frozenset({"max_padding_share"})

    max_too_long_share: float = Field(0.05, ge=0, le=1)  # examples over max_length, which are dropped, never cut
    max_broken_share: float = Field(0.0, ge=0, le=1)  # examples without closing tag or answer
    template_keeps_reasoning: bool = True  # refuse a chat template that drops or rewrites a reply's reasoning
    max_padding_share: float = Field(0.5, ge=0, le=1)  # of the positions of all batches; computed and thrown away


class Audit(Section):
    """What was found. Shares are of all examples, those over the limit included, unless said otherwise."""

    examples: int
    too_long: int
    reasoned: int  # examples with a think tag
    broken: int  # reasoned examples within the limit without closing tag or answer
    closing_tag_share: float  # closing tag within max_length; of the reasoned
    answer_share: float  # something after the closing tag, within max_length; of the reasoned
    end_token_share: float  # end token within max_length
    # End token learnt exactly once, at the end, or (of a cut-off example) not at all; of those within max_length.
    end_token_in_loss_share: float
    cut_off: int  # examples within max_length that teach no end, since their trace was cut off
    loss_tokens: int  # tokens learnt in one epoch
    prompt_tokens: int
    longest: int
    template_kept_share: float  # completion stands unchanged in what the chat template makes of it; of those rendered
    round_trip_share: float  # the template writes byte for byte what is trained on; of those rendered
    rewritten: tuple[str, str] | None  # of the first one that is not: what is trained on, and what the template writes
    empty_think: int  # examples with an empty think block in prompt or completion; of those rendered
    decoded_share: float  # completion tokens decode to the completion's text (Unicode NFC); of those rendered
    prompt_parity_share: float  # what is not learnt equals the tokens an evaluation sends; of those rendered
    system_share: float  # system message equals the student's; of those within max_length
    domains: dict[str, tuple[int, int]]  # examples over the limit, and all of them, by domain
    padding_share: float  # of the positions of all batches


def audit(
    tokenizer: Any,
    fitting: Sequence[Encoded],
    longer: Sequence[Encoded],
    max_length: int,
    system: str | None,
    padding_share: float = 0.0,
) -> Audit:
    """Measure encoded examples; `system` is the system message an evaluation of the student would send, `padding_share`
    what share of the batches' positions is padding.
    """
    everything = [*fitting, *longer]
    reasoned = [example for example in everything if OPEN in example.text or CLOSE in example.text]
    ending = ending_ids(tokenizer)
    rendered = fitting[:: max(1, len(fitting) // TEMPLATE_SAMPLE)]
    parted = [rewritten(tokenizer, one.messages, one.text, ending) for one in rendered]
    over, domains = Counter(one.domain for one in longer), Counter(one.domain for one in everything)
    return Audit(
        examples=len(everything),
        too_long=len(longer),
        reasoned=len(reasoned),
        broken=sum(not _answered(one) for one in reasoned if one.length <= max_length),
        closing_tag_share=_share(reasoned, lambda one: _reach(tokenizer, one, closing=True) <= max_length),
        answer_share=_share(reasoned, lambda one: _answered(one) and _reach(tokenizer, one) <= max_length),
        end_token_share=_share(everything, lambda one: one.length <= max_length and one.ended),
        end_token_in_loss_share=_share(fitting, lambda one: _learns_to_stop(one, ending[-1]) is one.ended),
        cut_off=sum(not example.ended for example in fitting),
        loss_tokens=sum(len(example.completion) for example in fitting),
        prompt_tokens=sum(len(example.prompt) for example in fitting),
        longest=max((example.length for example in everything), default=0),
        template_kept_share=_share(rendered, lambda one: one.text in render_whole(tokenizer, one.messages, one.text)),
        round_trip_share=sum(found is None for found in parted) / len(parted) if parted else 1.0,
        rewritten=next((found for found in parted if found is not None), None),
        empty_think=sum(bool(_EMPTY_THINK.search(decode(tokenizer, one.input_ids))) for one in rendered),
        decoded_share=_share(rendered, lambda one: _decodes(tokenizer, one)),
        prompt_parity_share=_share(rendered, lambda one: _not_learnt(one) == prompt_ids(tokenizer, one.messages)),
        system_share=_share(fitting, lambda one: _system(one.messages) == system),
        domains={name: (over[name], domains[name]) for name in sorted(domains)},
        padding_share=padding_share,
    )


def _share(examples: Sequence[Encoded], holds: Any) -> float:
    return sum(bool(holds(example)) for example in examples) / len(examples) if examples else 1.0


def _reach(tokenizer: Any, example: Encoded, closing: bool = False) -> float:
    """Tokens up to the end of the reply, or (closing) of its closing tag; infinite without one."""
    if CLOSE not in example.text:
        return float("inf")
    if not closing:
        return example.length - example.ended
    return len(example.prompt) + len(encode(tokenizer, example.text[: example.text.find(CLOSE) + len(CLOSE)]))


def _answered(example: Encoded) -> bool:
    return bool(example.text.rpartition(CLOSE)[2].strip()) and CLOSE in example.text


def _learns_to_stop(example: Encoded, end: int) -> bool | None:
    """Whether the end token is learnt once, at the end; None where it is learnt anywhere else, or more than once."""
    learnt = [label for label in example.labels if label == end]
    if not learnt:
        return False
    return True if len(learnt) == 1 and example.labels[-1] == end else None


def _not_learnt(example: Encoded) -> list[int]:
    pairs = zip(example.input_ids, example.labels, strict=True)
    return [token for token, label in pairs if label == IGNORED]


def _decodes(tokenizer: Any, example: Encoded) -> bool:
    text = decode(tokenizer, example.completion[: len(example.completion) - example.ended])
    wanted, found = (unicodedata.normalize("NFC", part).strip() for part in (example.text, text))
    return wanted.endswith(found) and (wanted == found or wanted.startswith(OPEN))


def _system(messages: Sequence[Mapping[str, str]]) -> str | None:
    return messages[0]["content"] if messages and messages[0]["role"] == "system" else None


def faults(found: Audit, limits: Limits) -> list[str]:
    """What is broken, each with its fix; empty where training may start."""
    checks = (
        (
            found.too_long <= limits.max_too_long_share * found.examples,
            f"{found.too_long} of {found.examples} examples are longer than max_length (the longest: {found.longest} "
            f"tokens; by domain: {_over(found)}) and would be dropped; at most {limits.max_too_long_share:.1%} may be. "
            f"Raise sft.max_length, or drop long traces in filter.",
        ),
        (
            found.broken <= limits.max_broken_share * found.examples,
            f"{found.broken} of {found.reasoned} examples with reasoning have no closing think tag, or no answer after "
            f"it. Filter traces with malformed think tags or without an answer.",
        ),
        (
            found.end_token_in_loss_share == 1.0,
            f"only {found.end_token_in_loss_share:.1%} of the examples learn the end token exactly once, at their end "
            f"(those of cut-off traces: not at all); the student would not learn when to stop. Name a "
            f"student.chat_template that ends a reply with one token.",
        ),
        (
            found.template_kept_share == 1.0 or not limits.template_keeps_reasoning,
            f"the chat template leaves only {found.template_kept_share:.1%} of the completions unchanged: it drops or "
            f"rewrites reasoning, and whoever formats a conversation with it loses what was taught. Name a "
            f"student.chat_template that keeps it, or set sft.audit.template_keeps_reasoning to false.",
        ),
        (
            found.round_trip_share == 1.0 or found.template_kept_share < 1.0 or not limits.template_keeps_reasoning,
            f"only {found.round_trip_share:.1%} of the examples are, byte for byte, what the chat template makes of "
            f"them: where training has {_shown(found.rewritten, 0)}, the template writes {_shown(found.rewritten, 1)}, "
            f"and a server that formats with it says what was never taught. Name a student.chat_template that writes "
            f"a reply as it stands (an empty think block also goes where mix.trace_format is think), or set "
            f"sft.audit.template_keeps_reasoning to false.",
        ),
        (
            found.empty_think <= limits.max_broken_share * found.examples,
            f"{found.empty_think} examples have an empty think block in what the student reads or learns, which "
            f"teaches not to reason. Name a student.chat_template that puts none in the prompt, and filter traces with "
            f"think_empty.",
        ),
        (
            found.decoded_share == 1.0,
            f"only {found.decoded_share:.1%} of the completions survive being tokenised and decoded. Use a student "
            f"whose tokenizer keeps text as it is.",
        ),
        (
            found.prompt_parity_share == 1.0,
            f"only {found.prompt_parity_share:.1%} of the training prompts are the tokens an evaluation would send. "
            f"Use a chat template whose generation prompt does not depend on the reply.",
        ),
        (
            found.system_share == 1.0,
            f"only {found.system_share:.1%} of the examples carry the system message that an evaluation of the student "
            f"would send. Rebuild mix with the same student.system.",
        ),
        (
            found.padding_share <= limits.max_padding_share,
            f"{found.padding_share:.1%} of the batches' positions would be padding; at most "
            f"{limits.max_padding_share:.1%} may be. Raise sft.pool_batches or sft.batch_tokens; where "
            f"sft.batch_examples says how many make a batch, lower sft.batch_tokens, or set sft.exec.layout: packed.",
        ),
        (found.loss_tokens > 0, "no token would be learnt. Look at the examples: seqdistill peek RECIPE mix."),
    )
    return [message for holds, message in checks if not holds]


def _over(found: Audit) -> str:
    listed = sorted(found.domains.items(), key=lambda item: (-item[1][0], item[0]))
    return ", ".join(f"{name or 'unnamed'} {long} of {count}" for name, (long, count) in listed if long)


def _shown(parted: tuple[str, str] | None, side: int) -> str:
    text = parted[side] if parted else ""
    return repr(text[:SHOWN_CHARS] + ("…" if len(text) > SHOWN_CHARS else ""))


def lines(found: Audit) -> list[str]:
    """The audit for a person."""
    over = f"; by domain: {_over(found)}" if found.too_long else ""
    cut = f"; {found.cut_off} were cut off and teach no end" if found.cut_off else ""
    return [
        f"audit: {found.examples} examples, {found.too_long} over the length limit (dropped{over}), the longest of "
        f"{found.longest} tokens",
        f"audit: {found.loss_tokens} tokens learnt per epoch, {found.prompt_tokens} prompt tokens not learnt; "
        f"{found.padding_share:.1%} of the positions are padding",
        f"audit: within the limit: closing tag {found.closing_tag_share:.1%}, answer {found.answer_share:.1%} (of "
        f"{found.reasoned} with reasoning), end token {found.end_token_share:.1%}",
        f"audit: end token learnt as it should be {found.end_token_in_loss_share:.1%}{cut}; the template writes what "
        f"is trained on {found.round_trip_share:.1%}; prompt is the evaluation's {found.prompt_parity_share:.1%}",
    ]
