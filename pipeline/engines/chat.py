"""The chat completions protocol: a request as JSON, an answer as a completion, and what a refusal says.

It sends nothing and knows no addresses: `openai.py` does.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from pipeline.engines import Completion, Request
from pipeline.roles import Sampling
from pipeline.think import CLOSE, OPEN

# Sampling values that leave the model's own distribution as it is, in a recipe's words. Only these may be left out.
NEUTRAL = {
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "min_tokens": 0,
}
NAMEABLE = (*NEUTRAL, "temperature", "top_p", "max_tokens", "skip_special_tokens")
NEWER_LIMIT = "max_completion_tokens"  # what some hosted models call max_tokens, which they refuse
COUNT_LIMIT = 10**9  # a journal's records have no room for longer counts

# How servers say that they do not know a field. One that refuses its value knows it, and has a default of its own.
_UNKNOWN = re.compile(
    r"unknown|unrecogni[sz]ed|unsupported|(?:not|n't) support|not permitted|extra_forbidden|unexpected|cannot find"
    r"|additional propert|no such",
    re.IGNORECASE,
)
_VALUE = re.compile(
    r"(?<![a-z])values?(?![a-z])|must be|should be|at least|at most|between|out of range", re.IGNORECASE
)
_ECHO = frozenset({"input", "body", "request", "ctx"})  # keys under which a refusal repeats what it was sent
# Endings of a server that was stopped, broke off, or (DeepSeek's) had no room for the request.
_BROKEN_OFF = (None, "abort", "aborted", "error", "insufficient_system_resource")
_SAID_LIMIT = 4000  # characters of a refusal that are read


class Permanent(Exception):
    """A failure that no other try will mend."""


def body(model: str, request: Request, refused: Collection[str] = ()) -> dict[str, Any]:
    """The JSON of a request, every sampling value in it, so that no server default slips in.

    `refused` names fields that the server does not know. Those with a neutral value are left out; the others stay, for
    the server to refuse.
    """
    sampling: Sampling = request.sampling
    made = {
        "model": model,
        "messages": request.messages,
        "n": 1,
        "max_tokens": request.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or -1,  # -1 is "no limit" to every server that knows the field; 0 is not
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "min_tokens": sampling.min_tokens,
        "stop": list(sampling.stop) or None,
        "skip_special_tokens": False,
    }
    if "max_tokens" in refused:
        made[NEWER_LIMIT] = made["max_tokens"]
    return {name: value for name, value in made.items() if name not in refused or not _spare(name, sampling)}


def _spare(name: str, sampling: Sampling) -> bool:
    """Whether a field may be left out where the server does not know it.

    skip_special_tokens keeps think tags that a tokenizer counts among them. A server without the field gives reasoning
    in a field of its own, if at all. max_tokens goes by its newer name instead.
    """
    if name in NEUTRAL:
        return bool(getattr(sampling, name) == NEUTRAL[name])
    return name in ("skip_special_tokens", "max_tokens")


def refused(text: str, sent: Collection[str], sampling: Sampling) -> frozenset[str]:
    """The fields of `sent` that the text of a refusal (HTTP 400 or 422) says its server does not know.

    Empty where it was about something else. Raises Permanent where one of them has a value that matters.
    """
    named = frozenset(
        name
        for said in _said(text)
        if _UNKNOWN.search(said) and not _VALUE.search(said)
        for name in NAMEABLE
        if name in sent and re.search(rf"(?<!\w){name}(?!\w)", said)
    )
    matter = [name for name in NAMEABLE if name in named and not _spare(name, sampling)]
    if "max_tokens" in named and NEWER_LIMIT not in text:
        matter.append("max_tokens")
    if matter:
        found = ", ".join(f"{name} {getattr(sampling, name, '')}".strip() for name in matter)
        neutral = ", ".join(f"{name}: {NEUTRAL[name]}" for name in matter if name in NEUTRAL)
        raise Permanent(
            f"found {found}, refused by the server; expected one that takes it, for what shapes the words is never "
            f"left out. Set {neutral or 'a value that it takes'} in the recipe's sampling, or use another server. It "
            f"said: {text[:200].strip()}"
        )
    return named


def _said(text: str) -> Iterator[str]:
    """What a refusal says, one complaint at a time: the strings of each JSON object together, else the text itself."""
    try:
        waiting = [json.loads(text)]
    except (ValueError, RecursionError):
        waiting = [text]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            yield part[:_SAID_LIMIT]
        elif isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            values = [value for key, value in part.items() if key not in _ECHO]
            yield " ".join(_strings(values))[:_SAID_LIMIT]
            waiting += [value for value in values if isinstance(value, dict | list)]


def _strings(values: list[Any]) -> Iterator[str]:
    """Strings, also those of lists of strings (the place of a complaint is such a list)."""
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            yield from (each for each in value if isinstance(each, str))


def completion(request: Request, answer: Any) -> Completion:
    """A server's chat completion as ours: reasoning that it took out of the text is put back between think tags.

    Raises ValueError, LookupError, TypeError or AttributeError for anything else, and Permanent for an ending that
    another try would meet again.
    """
    choice = answer["choices"][0]
    message, finish = choice["message"], choice["finish_reason"]
    if finish in _BROKEN_OFF:
        raise ValueError(f"it ended with {finish!r}")
    if finish not in ("stop", "length"):
        raise Permanent(f"the server ended it with {finish!r}")
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    text = message.get("content") or ""
    if isinstance(text, list):
        thought, text = _chunks(text)
        reasoning = reasoning or thought or None
    if not isinstance(text, str) or not isinstance(reasoning, str | None):
        raise TypeError("content is no text")
    if reasoning:
        unfinished = not text and finish == "length"
        text = f"{OPEN}{reasoning}" if unfinished else f"{OPEN}{reasoning}{CLOSE}{text}"
    usage = answer.get("usage") or {}
    return Completion(
        id=request.id,
        text=text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"),  # JSON may escape half a character
        token_ids=None,
        finish=finish,
        cause=None,
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_completion_tokens(usage),
    )


def _chunks(content: Sequence[Any]) -> tuple[str, str]:
    """Reasoning and text of a content in chunks, as Mistral's reasoning models write it."""
    said: dict[str, list[str]] = {"thinking": [], "text": []}
    for chunk in content:
        inner = chunk["thinking"] if chunk["type"] == "thinking" else chunk["text"]
        said[chunk["type"]] += [inner] if isinstance(inner, str) else [part["text"] for part in inner]
    return "".join(said["thinking"]), "".join(said["text"])


def _completion_tokens(usage: Mapping[str, Any]) -> int:
    """Tokens of a completion, reasoning included: some servers count that in the total alone."""
    found = _count(usage.get("completion_tokens"))
    prompt, total = _count(usage.get("prompt_tokens")), _count(usage.get("total_tokens"))
    return max(found, total - prompt) if prompt else found


def _count(value: Any) -> int:
    """A count of tokens; 0, unknown, for what is none: an answer is worth more than its count."""
    try:
        count = int(value)
        return count if count == float(value) and 0 <= count < COUNT_LIMIT else 0
    except (TypeError, ValueError, OverflowError):
        return 0


def retry_after_s(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or a date (RFC 9110, section 10.2.3); None for neither."""
    if value is None:
        return None
    if re.fullmatch(r"\s*[0-9]+(?:\.[0-9]*)?\s*", value):  # some servers give parts of a second
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return max(0.0, (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp())
