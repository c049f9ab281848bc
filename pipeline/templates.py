"""Prompt rendering: the one place that turns a problem into the tokens a model is given, to generate, train and eval.

It reads no prompt files (a stage is handed their text), runs no model, and knows no dataset.
"""

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from pipeline.think import OPEN

PROBLEM_FIELD = "{problem}"
# The date of every template that writes one: a prompt, and so a trace's id, must not depend on the day.
FIXED_DATE = datetime.datetime(2024, 7, 26)

_CLOCK_CALL = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
_TURN = re.compile(r"^<<(user|assistant)>>[ \t]*$", re.MULTILINE)
_MARK = "MARKEDREPLY"

Messages = Sequence[Mapping[str, str]]


class EndTokenInside(ValueError):
    """A completion contains the token that ends a reply before its end."""


def conversation(template: str, problem: str, system: str | None = None) -> list[dict[str, str]]:
    """The messages that put a problem to a model.

    A template is the text of one user turn, with the problem where {problem} stands (other braces stay). Worked
    examples may come before as turns of their own, each headed by a line "<<user>>" or "<<assistant>>"; the last
    turn is the user's and holds {problem}. system None leaves the system message to the chat template. Raises
    ValueError for a template of another shape.
    """
    turns = _turns(template)
    roles = [role for role, _ in turns]
    if roles != ["user", "assistant"] * (len(turns) // 2) + ["user"] or PROBLEM_FIELD not in turns[-1][1]:
        raise ValueError(
            f"a prompt template ends with a user turn that contains {PROBLEM_FIELD}, after any number of user and "
            f"assistant turns; found the turns {roles} in {template[:80]!r}. Mend the file in prompts/."
        )
    opening = [] if system is None else [{"role": "system", "content": system.strip()}]
    spoken = [{"role": role, "content": text} for role, text in turns[:-1]]
    return [*opening, *spoken, {"role": "user", "content": turns[-1][1].replace(PROBLEM_FIELD, problem)}]


def worked_examples(template: str) -> list[tuple[str, str]]:
    """The questions that a template answers itself, without what it puts around {problem} in its last turn, each with
    its reply.

    Raises ValueError for a template of another shape than `conversation` takes.
    """
    *shown, asked = [turn["content"] for turn in conversation(template, PROBLEM_FIELD)]
    before, _, after = asked.partition(PROBLEM_FIELD)
    questions = [
        text.removeprefix(before).removesuffix(after) if text.startswith(before) and text.endswith(after) else text
        for text in shown[::2]
    ]
    return list(zip(questions, shown[1::2], strict=True))


def _turns(template: str) -> list[tuple[str, str]]:
    """(role, text) of a template's turns, white space around each trimmed; without a heading it is one user turn."""
    head, *rest = _TURN.split(template.strip())
    turns = [("user", head.strip())] if head.strip() or not rest else []
    return turns + [(role, text.strip()) for role, text in zip(rest[::2], rest[1::2], strict=True)]


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of a local model folder as it is, with a chat template or without."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)


def load_tokenizer(folder: Path, chat_template: str | None = None) -> Any:
    """The tokenizer of a local model folder, its template with a fixed date.

    chat_template is the text of a template that replaces the model's own. Raises ValueError where there is none.
    """
    tokenizer = read_tokenizer(folder)
    template = chat_template if chat_template is not None else tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise ValueError(
            f"the tokenizer in {folder} has no chat template; expected one to render prompts with. Put one under "
            f"prompts/chat/ and name it as the role's chat_template."
        )
    tokenizer.chat_template = pin_date(template)
    return tokenizer


def pin_date(chat_template: str) -> str:
    """The template with each call of the clock replaced by FIXED_DATE in the format it asks for.

    A call this cannot see (its format is no literal) stays, and `render` refuses it.
    """
    return _CLOCK_CALL.sub(lambda call: f'"{FIXED_DATE.strftime(call[2])}"', chat_template)


def render(tokenizer: Any, messages: Messages) -> str:
    """The text a model continues: the conversation in its chat template, generation prompt added.

    Raises ValueError for a template that reads the clock, and for one that is malformed or refuses the conversation.
    """
    return _apply(tokenizer, messages, generation_prompt=True)


def render_whole(tokenizer: Any, messages: Messages, completion: str) -> str:
    """The conversation with its reply, as the template alone would write it (it may drop or rewrite reasoning)."""
    return _apply(tokenizer, [*messages, {"role": "assistant", "content": completion}], generation_prompt=False)


def _apply(tokenizer: Any, messages: Messages, generation_prompt: bool) -> str:
    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=generation_prompt,
            strftime_now=_refuse_clock,
        )
    except jinja2.TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise ValueError(
            f"the chat template refuses a conversation of the turns {roles}: {error}. Change the role's system or "
            f"prompt, or name another chat_template."
        ) from error
    assert isinstance(text, str)
    return text


def _refuse_clock(_format: str) -> str:
    raise ValueError(
        "the chat template reads the clock (strftime_now), so its prompts would change from day to day; expected a "
        "fixed date. Put a copy of the template with a date in place of the call under prompts/chat/ and name it as "
        "the role's chat_template."
    )


def prompt_ids(tokenizer: Any, messages: Messages) -> list[int]:
    """Token ids of the rendered prompt; the template writes the special tokens, none is added a second time."""
    return encode(tokenizer, render(tokenizer, messages))


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text, nothing added."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def decode(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """The text of token ids, special tokens and spaces as they are."""
    return str(tokenizer.decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def example_ids(
    tokenizer: Any, messages: Messages, completion: str, ending: Sequence[int], ended: bool = True
) -> tuple[list[int], list[int]]:
    """Token ids of a training example: the prompt (equal to `prompt_ids`) and the completion with its end token.

    `ending` is what `ending_ids` says, which is the same for all examples; a completion that was cut off (not `ended`)
    gets none. The two parts are tokenised apart, as a model that continues the prompt sees them. Where the template's
    generation prompt already opens the think tag, the completion's own is left out. Raises EndTokenInside where the end
    token stands within the completion: no model could ever reach what follows it.
    """
    text = render(tokenizer, messages)
    reply = encode(tokenizer, _without_opened_tag(text, completion))
    if reply and reply[-1] == ending[-1]:
        reply.pop()
    if ending[-1] in reply:
        raise EndTokenInside(
            f"a completion contains the end token {tokenizer.decode([ending[-1]])!r} in its middle; expected it only "
            f"at its end. Filter the trace."
        )
    return encode(tokenizer, text), [*reply, *ending] if ended else reply


def rewritten(tokenizer: Any, messages: Messages, completion: str, ending: Sequence[int]) -> tuple[str, str] | None:
    """Where the template alone would write a conversation with its reply otherwise than `example_ids` does, byte for
    byte: what is trained on and what the template writes, both from where they part; None where they agree.

    White space after the end token is not compared. Raises as `render` does.
    """
    end = decode(tokenizer, ending)
    said = completion.removesuffix(decode(tokenizer, ending[-1:]))
    prompt = render(tokenizer, messages)
    trained = prompt + _without_opened_tag(prompt, said)
    whole = render_whole(tokenizer, messages, said)
    if whole.startswith(trained) and (whole[len(trained) :].removeprefix(end).strip() == ""):
        return None
    alike = zip(trained, whole, strict=False)
    common = next((place for place, (one, other) in enumerate(alike) if one != other), min(len(trained), len(whole)))
    return (trained + end)[common:], whole[common:]


def _without_opened_tag(prompt: str, completion: str) -> str:
    opened = prompt[prompt.rfind(OPEN) :] if OPEN in prompt else ""
    if opened.strip() != OPEN or not completion.startswith(OPEN):
        return completion
    return completion.removeprefix(opened if completion.startswith(opened) else OPEN)


def same_tokenizer(one: Any, other: Any) -> bool:
    """Whether two tokenizers give every text the same ids: the same tokens by id, and the same model behind them."""
    if one.get_vocab() != other.get_vocab():
        return False
    first, second = (json.loads(each.backend_tokenizer.to_str()) for each in (one, other))
    return all(first[part] == second[part] for part in ("model", "pre_tokenizer", "normalizer"))


def end_token_id(tokenizer: Any) -> int:
    """The token that ends an assistant turn: the first special token the template writes after a reply, else EOS.

    Raises ValueError where there is neither; a padding token alone ends nothing.
    """
    return ending_ids(tokenizer)[-1]


def ending_ids(tokenizer: Any) -> list[int]:
    """What the template writes between a reply and the end of its turn, the end token last; raises as `end_token_id`.

    It renders, tokenises and looks through all special tokens: to be asked once for a tokenizer.
    """
    whole = render_whole(tokenizer, [{"role": "user", "content": "question"}], _MARK)
    tail = encode(tokenizer, whole[whole.find(_MARK) + len(_MARK) :]) if _MARK in whole else []
    special = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    for position, token_id in enumerate(tail):
        if token_id in special:
            return tail[: position + 1]
    if tokenizer.eos_token_id is None:
        raise ValueError(
            "neither the chat template nor the tokenizer names a token that ends a reply; expected a special token "
            "after the assistant's message, or an eos_token. Name a chat_template that writes one."
        )
    return [int(tokenizer.eos_token_id)]
