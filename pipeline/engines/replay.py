"""Canned answers from a JSONL file, for tests and for trying a recipe without a model.

It samples nothing: `temperature` and its like are ignored. A token is a run of non-space with the space after it.
"""

import json
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.engines import Completion, Request, failed
from pipeline.roles import Role

_TOKEN = re.compile(r"\s*\S+\s*")
NOTHING_CANNED = "no canned answer"


def start(role: Role, model: Path | None, seed: int, log: Path | None) -> "Replay":
    """Read the file of canned answers at `model`, else at the role's model; the seed changes nothing."""
    return Replay(read_answers(model if model is not None else Path(role.model)), role.exec.delay_s)


def read_answers(path: Path) -> dict[str, list[str]]:
    """Problem text -> completions, from lines {"text": ..., "completions": [...]}.

    Raises ValueError that names file and line for anything else.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a file; the replay engine needs a JSONL file of canned answers as its model")
    answers: dict[str, list[str]] = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                text, completions = _parse(line, f"{path}, line {number}")
                answers[text] = completions
    return answers


def _parse(line: str, where: str) -> tuple[str, list[str]]:
    expected = 'expected {"text": "a problem\'s text", "completions": ["an answer", ...]}'
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: not JSON ({error}); {expected}") from error
    completions = row.get("completions") if isinstance(row, dict) else None
    if not isinstance(completions, list) or not all(isinstance(each, str) for each in completions):
        raise ValueError(f"{where}: found {line.strip()[:80]}; {expected}")
    if not isinstance(row.get("text"), str):
        raise ValueError(f"{where}: no text; {expected}")
    if any("\ud800" <= sign <= "\udfff" for text in (row["text"], *completions) for sign in text):
        raise ValueError(f"{where}: half of a surrogate pair (\\ud8..), which no store can hold; {expected}")
    return row["text"], completions


class Replay:
    """Answers sample i of a problem with its completion i, from the start again where there are fewer."""

    def __init__(self, answers: dict[str, list[str]], delay_s: float = 0.0) -> None:
        self.figures: dict[str, float] = {}
        self._answers = answers
        self._delay_s = delay_s

    def stream(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """See `Engine`."""
        for request in requests:
            if request is None:  # nothing is in flight here that could be waited for
                continue
            if self._delay_s:
                time.sleep(self._delay_s)
            yield self._answer(request)

    def _answer(self, request: Request) -> Completion:
        completions = self._answers.get(request.problem_text)
        if not completions:
            return failed(request, NOTHING_CANNED)
        text = completions[request.sample % len(completions)].removeprefix(request.begun)
        tokens = _TOKEN.findall(text)
        cut = len(tokens) > request.max_tokens
        return Completion(
            id=request.id,
            text="".join(tokens[: request.max_tokens]) if cut else text,
            token_ids=None,
            finish="length" if cut else "stop",
            cause=None,
            prompt_tokens=len(_TOKEN.findall(request.prompt)),
            completion_tokens=min(len(tokens), request.max_tokens),
        )

    def close(self) -> None:
        self.figures = {}
