"""The shelf of engines: what each is given and gives back, and the table of those that ship.

It imports none of them (`start` does, by name), and keeps nothing of what they answer (`store.py` does).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal, Protocol

from pipeline.roles import Role, Sampling

# name -> the module whose `start` makes the engine
ENGINES = {
    "vllm": "pipeline.engines.vllm",
    "hf": "pipeline.engines.hf",
    "openai": "pipeline.engines.openai",
    "replay": "pipeline.engines.replay",
}

LOGPROBS_LIMIT = 1000  # candidates of a token that may be asked for
ASK_AGAIN_S = 0.2  # for requests, where there were none at the moment

Finish = Literal["stop", "length", "error"]


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to make: n is always 1, so that each sample ends, and is stored, by itself."""

    id: str
    prompt: str  # as rendered; for a server without templates the messages as JSON
    prompt_token_ids: list[int] | None  # used as they are where present; None where there is no local tokenizer
    messages: list[dict[str, str]]
    sampling: Sampling
    max_tokens: int
    sample: int
    problem_text: str
    begun: str = ""  # the start of the completion, at the end of the prompt already: only the rest is asked for
    logprobs: int = 0  # candidates of each token to label; 0: none
    thinking_budget: int | None = None  # tokens of reasoning, those of `begun` included, after which it is closed
    score_ids: list[int] | None = None  # a completion whose tokens are to be labelled; nothing is generated then


@dataclass(frozen=True, slots=True)
class Completion:
    """The answer to a request.

    `text` is what the model wrote, special tokens included (a tokenizer may count think tags among them), without the
    end token or stop string that ended it; `token_ids` hold the end token too. Counts are 0 where a server gives none.
    """

    id: str
    text: str
    token_ids: list[int] | None
    finish: Finish
    cause: str | None  # of an error
    prompt_tokens: int
    completion_tokens: int
    labels: bytes | None = None  # packed (`soft_labels.pack`), where the request wants logprobs


def failed(request: Request, cause: str) -> Completion:
    """The answer to a request that failed for good."""
    return Completion(request.id, "", None, "error", cause, len(request.prompt_token_ids or ()), 0)


class Engine(Protocol):
    """Something that completes prompts."""

    figures: dict[str, float]  # live: what the engine knows of its own work, in units its keys name

    def stream(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """The completions as they finish, in any order. Requests are taken as there is room for them, no sooner.

        None in place of a request says that there is none at the moment. It comes only while some are in flight, and
        `requests` is asked again after the next completion, or ASK_AGAIN_S later where nothing else is to be done.
        """

    def close(self) -> None:
        """Stop and free everything the engine held; another one may be started afterwards. Safe to call twice."""


def start(role: Role, model: Path | None, seed: int, log: Path | None = None) -> Engine:
    """Start the engine that a role names.

    model: the local folder of weights and tokenizer (vllm, hf), or the file of canned answers (replay); None for a
    server. seed: of the engine as a whole, 0 to 2^31 - 1. log: a file for what the engine's libraries have to say.
    Raises ValueError where the engine cannot run what the role asks for.
    """
    engine: Engine = import_module(ENGINES[role.engine]).start(role, model, seed, log)
    return engine
