r"""Rules about text that belongs to the prompt, not to the reasoning: instructions, worked examples, a system message,
the tokens of a chat template.

The problem itself may be said again. A sentence is found where it stands word for word, white space and case aside;
one that is told in other words is not.
"""

import json
import re
from functools import lru_cache

from pipeline.rules.limits import Limits
from pipeline.rules.trace import Broken, Trace, Traces
from pipeline.rules.words import folded

# Tokens of the common chat templates, and headings of the Alpaca template. Plain <s> is a tag of HTML too.
_TOKENS = (
    r"<\|(?:im_start|im_end|im_sep|endoftext|begin_of_text|end_of_text|start_header_id|end_header_id|eot_id|eom_id"
    r"|user|assistant|system|end|end_of_turn|start|channel|message|return)\|>"
    r"|<\x{ff5c}[^<>\x{ff5c}\n]{1,40}\x{ff5c}>"  # DeepSeek writes full-width bars
    r"|\[/?INST\]|<</?SYS>>|</s>|<(?:start|end)_of_turn>|<(?:bos|eos|pad)>"
    r"|(?m:^### (?:Instruction|Input|Response):)"
    r"|\n\n(?:Human|Assistant): "
)
_TURN = re.compile(r"\0|<\|[a-z_]{1,30}\|>|<\uff5c[^<>\uff5c\n]{1,40}\uff5c>|\[/?INST\]|<(?:start|end)_of_turn>")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s")
_ROLE = re.compile(r"\A\s*(?:system|user|assistant|model)\n")


def chat_token(traces: Traces, limits: Limits) -> Broken:
    """It holds a token of a chat template, or a heading of an instruction template."""
    return traces.find(_TOKENS)


def prompt_leaked(traces: Traces, limits: Limits) -> Broken:
    """It says a whole sentence of the prompt, or a whole worked example, other than the problem's own."""
    found: Broken = {}
    for place, one in traces:
        said = _leaked(one, limits.leaked_words) if one.prompt and one.problem else None
        if said is not None:
            found[place] = {"text": said[:200]}
    return found


def _leaked(trace: Trace, least_words: int) -> str | None:
    parts = _around(trace.prompt, trace.problem)
    passages = () if parts is None else _passages(*parts, least_words)
    if not passages:
        return None
    asked = _plain(trace.problem)
    return next((one for one in passages if one in trace.squeezed and one not in asked), None)


def _around(prompt: str, problem: str) -> tuple[str, str] | None:
    """What stands before and after the problem; None where the prompt holds it in another form, so that it cannot be
    told from the rest.
    """
    if prompt.startswith('[{"'):  # messages, as a server gets them
        prompt = "\0".join(message["content"] for message in json.loads(prompt))
    before, found, after = prompt.rpartition(problem)
    return (before, after) if found else None


@lru_cache(maxsize=256)
def _passages(before: str, after: str, least_words: int) -> tuple[str, ...]:
    """Turns, lines and sentences around the problem that are long enough, as `_plain` makes them."""
    passages: dict[str, None] = {}
    for turn in (turn for side in (before, after) for turn in _TURN.split(side)):
        lines = _ROLE.sub("", turn).splitlines()
        for text in (" ".join(lines), *lines, *(part for line in lines for part in _SENTENCE_END.split(line))):
            plain = _plain(text).strip("\"'.!?: ")
            if plain.count(" ") + 1 >= least_words:
                passages[plain] = None
    return tuple(passages)


def _plain(text: str) -> str:
    return " ".join(folded(text).split())
