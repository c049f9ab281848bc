"""Any OpenAI-compatible server (vLLM serve, SGLang, hosted models) through its chat completions.

It renders no prompts (the server applies its own chat template) and stores no key: that stands in the environment.
"""

import os
import queue
import random
import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engines import Completion, Request, failed
from pipeline.roles import Role, Sampling
from pipeline.think import CLOSE, OPEN

if TYPE_CHECKING:
    import httpx

TRIES = 6
FIRST_PAUSE_S = 0.5  # doubled with each try, with jitter of as much again
LONGEST_PAUSE_S = 60.0
LONGEST_RETRY_AFTER_S = 600.0
TEMPORARY = frozenset({408, 409, 425, 429, 500, 502, 503, 504})


def start(role: Role, model: Path | None, seed: int, log: Path | None) -> "OpenAIServers":
    """Connect to the role's base_urls; the seed is not sent (servers differ in what they do with one)."""
    if not role.exec.base_urls:
        raise ValueError(
            f"engine openai needs the address of a server for {role.model}; found exec.base_urls empty. Add one that "
            f'ends in /v1: exec: {{base_urls: ["http://localhost:8000/v1"]}}.'
        )
    return OpenAIServers(role)


class Temporary(Exception):
    """A failure that another try may mend; `pause_s` is how long the server asked to be left alone."""

    def __init__(self, cause: str, pause_s: float | None = None) -> None:
        super().__init__(cause)
        self.pause_s = pause_s


class Permanent(Exception):
    """A failure that no other try will mend."""


class OpenAIServers:
    """Requests to one or several servers, each request to the next server in turn, `concurrency` of them at a time."""

    def __init__(self, role: Role, tries: int = TRIES, first_pause_s: float = FIRST_PAUSE_S) -> None:
        import httpx

        self.figures: dict[str, float] = {"retries": 0}
        self._role, self._tries, self._first_pause_s = role, tries, first_pause_s
        key = os.environ.get(role.exec.api_key_variable)
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=role.exec.timeout_s,
            limits=httpx.Limits(max_connections=role.exec.concurrency),
        )
        self._servers = cycle([url.rstrip("/") for url in role.exec.base_urls])
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._tasks: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Completion | BaseException] = queue.SimpleQueue()
        # Daemons: a request that hangs until its time-out must not keep an interrupted program from ending.
        for _ in range(role.exec.concurrency):
            threading.Thread(target=self._work, name="openai-request", daemon=True).start()

    def stream(self, requests: Iterable[Request]) -> Iterator[Completion]:
        waiting, running = iter(requests), 0
        while True:
            while running < self._role.exec.concurrency and (request := next(waiting, None)) is not None:
                self._tasks.put(request)
                running += 1
            if not running:
                return
            answer = self._answers.get()
            running -= 1
            if isinstance(answer, BaseException):
                raise answer
            yield answer

    def _work(self) -> None:
        while (request := self._tasks.get()) is not None and not self._closed.is_set():
            try:
                self._answers.put(self._complete(request))
            except Exception as error:  # a defect here must reach the thread that waits, not end this one unseen
                self._answers.put(error)

    def _complete(self, request: Request) -> Completion:
        cause = ""
        for number in range(self._tries):
            try:
                return self._ask(request)
            except Permanent as error:
                return failed(request, str(error))
            except Temporary as error:
                cause = str(error)
                if number + 1 < self._tries:
                    self._pause(number, error.pause_s)
            if self._closed.is_set():
                break
        return failed(request, f"after {self._tries} tries: {cause}")

    def _pause(self, number: int, asked_s: float | None) -> None:
        own = min(LONGEST_PAUSE_S, self._first_pause_s * 2**number)
        pause = own * (1 + random.random())  # jitter, so that refused requests do not come back together
        if asked_s is not None:
            pause = max(min(asked_s, LONGEST_RETRY_AFTER_S), pause)
        with self._lock:
            self.figures["retries"] += 1
        self._closed.wait(pause)

    def _ask(self, request: Request) -> Completion:
        import httpx

        with self._lock:
            server = next(self._servers)
        try:
            answer = self._client.post(f"{server}/chat/completions", json=body(self._role.model, request))
        except httpx.HTTPError as error:
            raise Temporary(f"{type(error).__name__} from {server}: {error}") from error
        if answer.status_code in TEMPORARY or answer.status_code > 504:
            raise Temporary(_refusal(answer), retry_after_s(answer.headers.get("retry-after")))
        if answer.status_code != 200:
            raise Permanent(f"{_refusal(answer)}{self._about_key(answer.status_code)}")
        try:
            return completion(request, answer.json())
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise Temporary(f"{server} answered no chat completion ({error}): {answer.text[:200]}") from error

    def _about_key(self, status: int) -> str:
        name = self._role.exec.api_key_variable
        if status not in (401, 403):
            return ""
        return f" (the key came from {name})" if os.environ.get(name) else f" (no key: {name} is not set)"

    def close(self) -> None:
        self._closed.set()
        for _ in range(self._role.exec.concurrency):
            self._tasks.put(None)
        self._client.close()


def body(model: str, request: Request) -> dict[str, Any]:
    """The JSON of a request, every sampling value in it, so that no server default slips in."""
    sampling: Sampling = request.sampling
    return {
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


def completion(request: Request, answer: Any) -> Completion:
    """A server's chat completion as ours. Raises ValueError, LookupError or TypeError for anything else.

    Reasoning that the server took out of the text is put back between think tags.
    """
    choice = answer["choices"][0]
    message, finish = choice["message"], choice["finish_reason"]
    if finish not in ("stop", "length"):
        raise Permanent(f"the server ended it with {finish!r}")
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    text = message.get("content") or ""
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
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        completion_tokens=int(usage.get("completion_tokens") or 0),
    )


def retry_after_s(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or a date (RFC 9110, section 10.2.3); None for neither."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp())


def _refusal(answer: "httpx.Response") -> str:
    return f"HTTP {answer.status_code} from {answer.request.url.host}: {answer.text[:200].strip()}"
