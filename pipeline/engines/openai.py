"""Any OpenAI-compatible server (vLLM serve, SGLang, hosted models) through its chat completions.

It renders no prompts (the server applies its own chat template) and stores no key: that stands in the environment.
"""

import asyncio
import os
import queue
import random
import threading
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Literal

import httpx

from pipeline.engines import ASK_AGAIN_S, Completion, Request, chat, failed
from pipeline.engines.chat import Permanent
from pipeline.engines.endpoints import FIRST_COOLING_S, FIRST_REST_S, Endpoint, Endpoints, Turn
from pipeline.roles import Role

TRIES = 6
# A refusal for want of room is no try where the server answered others meanwhile: the turn of this one comes. So many
# of them are free, for some servers refuse a request that is too large for their limits in the same way.
BUSY_TRIES = 20
FIRST_PAUSE_S = 0.5  # doubled with each try, with jitter of as much again
LONGEST_PAUSE_S = 60.0
LONGEST_RETRY_AFTER_S = 600.0
CONNECT_LIMIT_S = 30.0  # an address where nobody answers is noticed sooner than a long completion that never ends
# what a server asks for that is not broken, by HTTP status
WANTS: dict[int, Literal["time", "room"]] = {408: "time", 409: "time", 425: "time", 429: "room"}
REFUSED = frozenset({400, 422})
REFUSING = frozenset({401, 402, 403, 404})  # no fault of the request: the key, the balance, or the name of the model


def start(role: Role, model: Path | None, seed: int, log: Path | None) -> "OpenAIServers":
    """Make ready to ask the role's base_urls; the seed is not sent (servers differ in what they do with one).

    Raises ValueError where there are none, one is no address, or the key is none that a header can hold.
    """
    if not role.exec.base_urls:
        raise ValueError(
            f"engine openai needs the address of a server for {role.model}; found exec.base_urls empty. Add one that "
            f'ends in /v1: exec: {{base_urls: ["http://localhost:8000/v1"]}}.'
        )
    for number, address in enumerate(role.exec.base_urls, start=1):
        _check(address, number, role.exec.api_key_variable)
    return OpenAIServers(role)


def _check(address: str, number: int, variable: str) -> None:
    """Refuse what is no address, and one with a password in it, without repeating that."""
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise ValueError(f"address {number} of exec.base_urls is none: {error}. Write http://HOST:PORT/v1.") from error
    if url.userinfo:
        raise ValueError(
            f"address {number} of exec.base_urls holds a user or password; expected only an address, for a recipe is "
            f"shared. Put the key into the environment variable {variable}."
        )
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"found {address!r} in exec.base_urls; expected an address like http://localhost:8000/v1")


def _key(variable: str) -> str:
    """The key in the environment, empty where there is none. One that no header can hold is refused unrepeated."""
    key = os.environ.get(variable, "").strip()  # a key read from a file brings the end of its line along
    if not key.isascii() or not key.isprintable():
        raise ValueError(
            f"the key in {variable} holds a character that no HTTP header can; expected printable ASCII. Set it again."
        )
    return key


class Temporary(Exception):
    """A failure that another try may mend.

    `wants` is set where the server lives and only asks for time, or for fewer requests. `pause_s`: how long it says to
    leave it alone, where it does.
    """

    def __init__(self, cause: str, wants: Literal["time", "room"] | None = None, pause_s: float | None = None) -> None:
        super().__init__(cause)
        self.wants, self.pause_s = wants, pause_s


class OpenAIServers:
    """Requests to one or several servers, each to the one with the fewest in flight, `concurrency` of them at a time.

    A thread of its own runs them: a time limit that nothing outlasts is what asyncio can keep and a blocking call not.
    """

    def __init__(
        self,
        role: Role,
        tries: int = TRIES,
        first_pause_s: float = FIRST_PAUSE_S,
        first_cooling_s: float = FIRST_COOLING_S,
        first_rest_s: float = FIRST_REST_S,
    ) -> None:
        self.figures: dict[str, float] = {"retries": 0, "circuits_opened": 0, "failed_probes": 0}
        self._role, self._tries, self._first_pause_s = role, tries, first_pause_s
        self._endpoints = Endpoints(role.exec.base_urls, first_cooling_s, first_rest_s)
        self._key = _key(role.exec.api_key_variable)
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx.Timeout(None, connect=min(CONNECT_LIMIT_S, role.exec.timeout_s)),
            limits=httpx.Limits(),  # none: `concurrency` is the limit
        )
        self._changed = asyncio.Event()  # pulses when what `Endpoints` knows has changed
        self._loop = asyncio.new_event_loop()
        # A daemon: an interrupted program that could not close it still ends.
        self._thread = threading.Thread(target=self._loop.run_forever, name="openai-requests", daemon=True)
        self._thread.start()

    def stream(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """See `Engine`."""
        waiting = iter(requests)
        running: set[Future[Completion]] = set()
        ended: queue.SimpleQueue[Future[Completion]] = queue.SimpleQueue()
        try:
            while True:
                pause_s = None
                while len(running) < self._role.exec.concurrency:
                    request = next(waiting, None)
                    if request is None:
                        pause_s = ASK_AGAIN_S
                        break
                    task = asyncio.run_coroutine_threadsafe(self._complete(request), self._loop)
                    running.add(task)
                    task.add_done_callback(ended.put)
                if not running:
                    return
                with suppress(queue.Empty):
                    task = ended.get(timeout=pause_s)
                    running.remove(task)
                    yield task.result()  # a defect here is raised where it is seen
        finally:
            for task in running:
                task.cancel()

    def close(self) -> None:
        """See `Engine`. What is in flight is called off."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()

    async def _complete(self, request: Request) -> Completion:
        """Try until an answer comes, or it is clear that none will."""
        tries = waits = 0
        served: dict[Endpoint, int] = {}  # what each had served when it last failed this request
        try:
            while True:
                turn = await self._turn(served)
                try:
                    return await self._ask(turn, request)
                except Temporary as error:
                    crowded = error.wants == "room"
                    if crowded and waits < BUSY_TRIES and turn.endpoint.served > served.get(turn.endpoint, 0):
                        waits += 1
                    else:
                        tries += 1
                    served[turn.endpoint] = turn.endpoint.served
                    if tries >= self._tries:
                        cause = f"after {tries + waits} tries: {error}"
                        break
                self.figures["retries"] += 1
                if not crowded:  # there the server rests, and all requests wait for it
                    await self._back_off(tries)
        except Permanent as error:
            cause = str(error)
        if self._key:
            cause = cause.replace(self._key, "***")  # some servers repeat the key that they refuse
        return failed(request, cause)

    async def _back_off(self, number: int) -> None:
        """The request's own pause before it is tried again for the `number`th time."""
        # Where every circuit is open their cooling is the pause. With one of its own as well, a request would always
        # come back too late to see that all servers are cooling, and dead.
        if self._endpoints.any_closed:
            pause_s = min(LONGEST_PAUSE_S, self._first_pause_s * 2 ** (number - 1))
            await asyncio.sleep(pause_s * (1 + random.random()))  # jitter: refused requests do not return together

    async def _turn(self, failed_at: Collection[Endpoint]) -> Turn:
        """Wait, which is no try, for an endpoint that may be asked. Raises Permanent once all are dead."""
        while (turn := self._endpoints.take(failed_at)) is None:
            obituary = self._endpoints.obituary()
            if obituary is not None:
                raise Permanent(obituary)
            wait_s = self._endpoints.wait_s()
            if wait_s is not None:
                wait_s += random.random() * self._first_pause_s
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
        return turn

    async def _ask(self, turn: Turn, request: Request) -> Completion:
        """One try, and what it says of the endpoint. Raises Temporary and Permanent."""
        endpoints = self._endpoints
        try:
            completion = await self._answer(turn.endpoint, request)
        except Temporary as error:
            pause_s = None if error.pause_s is None else min(error.pause_s, LONGEST_RETRY_AFTER_S)
            if error.wants == "room":
                endpoints.crowded(turn, str(error))
            elif error.wants == "time":
                endpoints.answered(turn)
            else:
                endpoints.failed(turn, str(error))
            if pause_s is not None:
                endpoints.rest(turn.endpoint, pause_s)
            raise
        except Permanent:
            endpoints.answered(turn)
            raise
        except BaseException:  # called off, or a defect: neither tells anything of the server
            endpoints.left(turn)
            raise
        else:
            endpoints.served(turn)
            return completion
        finally:
            self.figures["circuits_opened"] = endpoints.circuits_opened
            self.figures["failed_probes"] = endpoints.failed_probes
            self._changed.set()
            self._changed.clear()

    async def _answer(self, endpoint: Endpoint, request: Request) -> Completion:
        """The completion from one endpoint, asked again at once without fields that its server does not know."""
        refused = endpoint.refused
        while True:
            body = chat.body(self._role.model, request, refused)
            response = await self._post(endpoint, body)
            if response.status_code not in REFUSED:
                break
            more = chat.refused(_text(response), body, request.sampling)
            if not more:
                break
            refused |= more
        completion = self._completion(endpoint, request, response)
        # Only now: had the refusals been about something else, this would have failed too.
        for name in refused - endpoint.refused:
            key = f"servers_without_{name}"  # in the manifest of what was sampled: nothing is left out unseen
            self.figures[key] = self.figures.get(key, 0) + 1
        endpoint.refused |= refused
        return completion

    async def _post(self, endpoint: Endpoint, body: dict[str, object]) -> httpx.Response:
        limit_s = self._role.exec.timeout_s
        try:
            async with asyncio.timeout(limit_s):
                return await self._client.post(f"{endpoint.url}/chat/completions", json=body)
        except TimeoutError as error:
            raise Temporary(f"no whole answer from {endpoint.url} within {limit_s:g} s (exec.timeout_s)") from error
        except (httpx.HTTPError, OSError) as error:
            raise Temporary(f"{type(error).__name__} from {endpoint.url}: {error}") from error

    def _completion(self, endpoint: Endpoint, request: Request, response: httpx.Response) -> Completion:
        status, said = response.status_code, _text(response)[:200].strip()
        refusal = f"HTTP {status} from {endpoint.url}: {said}"
        if status in WANTS or status >= 500:
            raise Temporary(refusal, WANTS.get(status), chat.retry_after_s(response.headers.get("retry-after")))
        if status in (401, 403):
            name = self._role.exec.api_key_variable
            refusal += f" (the key came from {name})" if self._key else f" (no key: {name} is not set)"
        if status in REFUSING and len(self._endpoints.all) > 1:
            raise Temporary(refusal)  # another one may answer, and this one refuses all the faster
        if status != 200:
            raise Permanent(refusal)
        try:
            return chat.completion(request, response.json())
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise Temporary(f"{endpoint.url} answered no chat completion ({error}): {said}") from error


def _text(response: httpx.Response) -> str:
    """What a server says, whatever encoding it claims: characters that a store can hold."""
    return response.content.decode("utf-8", "replace")
