"""The client against a small server that speaks the protocol, and misbehaves on demand."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pipeline.engines import Completion, Request, start
from pipeline.engines.openai import OpenAIServers, completion, retry_after_s
from pipeline.roles import Role, Sampling

Reply = tuple[int, dict[str, str], bytes] | None  # status, headers, body; None: the connection is cut


def chat(text: str | None, finish: str = "stop", **message: Any) -> bytes:
    choice = {"message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 11, "completion_tokens": 7}}).encode()


def fine(body: dict[str, Any], headers: Any) -> Reply:
    return 200, {}, chat(f"answer to {body['messages'][-1]['content']}")


@contextmanager
def server(answer: Callable[[dict[str, Any], Any], Reply]) -> Iterator[str]:
    """A server on a free port; yields its base URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/v1/chat/completions"
            reply = answer(body, self.headers)
            if reply is None:
                self.close_connection = True
                self.connection.shutdown(2)
                return
            status, headers, content = reply
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}/v1"
    finally:
        httpd.shutdown()
        httpd.server_close()


def role(*urls: str, **settings: Any) -> Role:
    return Role(model="a-model", engine="openai", exec={"base_urls": urls, "concurrency": 4, **settings})


def requests(count: int, sampling: Sampling | None = None) -> list[Request]:
    return [
        Request(f"{n:032x}", "", None, [{"role": "user", "content": f"q{n}"}], sampling or Sampling(), 50, n, f"q{n}")
        for n in range(count)
    ]


def answers(made: Role, asked: list[Request], tries: int = 4) -> dict[str, Completion]:
    engine = OpenAIServers(made, tries=tries, first_pause_s=0.001)
    try:
        found = list(engine.stream(iter(asked)))
    finally:
        engine.close()
    assert sorted(each.id for each in found) == sorted(each.id for each in asked)
    return {each.id: each for each in found}


def test_every_request_is_answered_once_with_its_own_answer() -> None:
    asked = requests(30)
    with server(fine) as url:
        found = answers(role(url), asked)
    assert {each.id: f"answer to q{each.sample}" for each in asked} == {key: one.text for key, one in found.items()}
    assert {(one.finish, one.prompt_tokens, one.completion_tokens) for one in found.values()} == {("stop", 11, 7)}


def test_every_sampling_value_is_sent() -> None:
    seen: list[dict[str, Any]] = []

    def remember(body: dict[str, Any], headers: Any) -> Reply:
        seen.append(body)
        return fine(body, headers)

    sampling = Sampling(temperature=0.0, top_p=0.9, presence_penalty=0.5, stop=("END",), min_tokens=2)
    with server(remember) as url:
        answers(role(url), requests(1, sampling))
    expected = {**sampling.model_dump(mode="json"), "top_k": -1, "stop": ["END"], "max_tokens": 50, "n": 1}
    assert {key: seen[0][key] for key in expected} == expected
    assert seen[0]["model"] == "a-model"


def test_no_more_than_concurrency_requests_are_taken_before_an_answer() -> None:
    release = threading.Event()
    taken: list[int] = []

    def wait(body: dict[str, Any], headers: Any) -> Reply:
        release.wait(30)
        return fine(body, headers)

    def watched() -> Iterator[Request]:
        for request in requests(20):
            taken.append(request.sample)
            if len(taken) == 4:
                release.set()
            yield request

    with server(wait) as url:
        engine = OpenAIServers(role(url))
        stream = engine.stream(watched())
        next(stream)
        assert len(taken) == 4
        assert len(list(stream)) == 19
        engine.close()


def test_load_is_spread_over_servers() -> None:
    hits = [0, 0]

    def counted(place: int) -> Callable[[dict[str, Any], Any], Reply]:
        def answer(body: dict[str, Any], headers: Any) -> Reply:
            hits[place] += 1
            return fine(body, headers)

        return answer

    with server(counted(0)) as one, server(counted(1)) as two:
        answers(role(one, f"{two}/"), requests(12))
    assert hits == [6, 6]


@pytest.mark.parametrize(
    "trouble",
    [
        (429, {"Retry-After": "0"}, b"slow down"),
        (500, {}, b"oops"),
        (529, {}, b"overloaded"),
        None,
        (200, {}, b"{not json"),
        (200, {}, b'{"choices": []}'),
        (200, {}, b'{"choices": [{"message": {"content": 3}, "finish_reason": "stop"}]}'),
    ],
)
def test_what_may_pass_is_tried_again(trouble: Reply) -> None:
    tried: dict[str, int] = {}

    def sometimes(body: dict[str, Any], headers: Any) -> Reply:
        question = body["messages"][-1]["content"]
        tried[question] = tried.get(question, 0) + 1
        return trouble if tried[question] <= 2 else fine(body, headers)

    with server(sometimes) as url:
        found = answers(role(url), requests(5))
    assert {one.finish for one in found.values()} == {"stop"}
    assert set(tried.values()) == {3}


def test_what_never_passes_becomes_an_error_with_its_cause() -> None:
    with server(lambda body, headers: (503, {}, b"down for good")) as url:
        found = answers(role(url), requests(2), tries=3)
    for one in found.values():
        assert (one.finish, one.text, one.token_ids) == ("error", "", None)
        assert one.cause is not None
        assert one.cause.startswith("after 3 tries: HTTP 503")
        assert "down for good" in one.cause


def test_nobody_at_the_address_is_an_error_with_its_cause() -> None:
    found = answers(role("http://127.0.0.1:9/v1"), requests(1), tries=2)
    assert "ConnectError from http://127.0.0.1:9/v1" in (next(iter(found.values())).cause or "")


def test_a_server_that_hangs_is_an_error_after_the_time_limit() -> None:
    hold = threading.Event()

    def hang(body: dict[str, Any], headers: Any) -> Reply:
        hold.wait(30)
        return fine(body, headers)

    with server(hang) as url:
        found = answers(role(url, timeout_s=0.1), requests(1), tries=2)
        hold.set()
    assert "ReadTimeout" in (next(iter(found.values())).cause or "")


@pytest.mark.parametrize(
    ("status", "hint"), [(401, "no key: SOME_KEY is not set"), (400, "HTTP 400"), (404, "HTTP 404")]
)
def test_what_no_retry_mends_is_asked_once(status: int, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOME_KEY", raising=False)
    calls: list[int] = []

    def refuse(body: dict[str, Any], headers: Any) -> Reply:
        calls.append(1)
        return status, {}, b"no"

    with server(refuse) as url:
        found = answers(role(url, api_key_variable="SOME_KEY"), requests(1))
    assert len(calls) == 1
    assert hint in (next(iter(found.values())).cause or "")


def test_the_key_comes_from_the_environment_and_reaches_no_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "a-secret")
    seen: list[str] = []

    def refuse(body: dict[str, Any], headers: Any) -> Reply:
        seen.append(headers["Authorization"])
        return 403, {}, b"no"

    with server(refuse) as url:
        found = answers(role(url, api_key_variable="SOME_KEY"), requests(1))
    assert seen == ["Bearer a-secret"]
    assert "a-secret" not in repr(found)
    assert "the key came from SOME_KEY" in (next(iter(found.values())).cause or "")


@pytest.mark.parametrize(
    ("message", "finish", "text"),
    [
        ({"content": "4"}, "stop", "4"),
        ({"content": "4", "reasoning_content": None}, "stop", "4"),
        ({"content": "\n\n4", "reasoning_content": "2 and 2"}, "stop", "<think>2 and 2</think>\n\n4"),
        ({"content": "4", "reasoning": "2 and 2\n"}, "stop", "<think>2 and 2\n</think>4"),
        ({"content": None, "reasoning_content": "2 and"}, "length", "<think>2 and"),
        ({"content": None}, "length", ""),
        ({"content": "half \ud83d a sign"}, "stop", "half \ufffd a sign"),
    ],
)
def test_reasoning_that_a_server_took_out_is_put_back(message: dict[str, Any], finish: str, text: str) -> None:
    answer = {"choices": [{"message": message, "finish_reason": finish}]}
    found = completion(requests(1)[0], answer)
    assert (found.text, found.finish, found.completion_tokens) == (text, finish, 0)


def test_an_ending_that_is_neither_stop_nor_length_is_an_error() -> None:
    with server(lambda body, headers: (200, {}, chat("partly", "content_filter"))) as url:
        found = answers(role(url), requests(1))
    assert [(one.finish, one.cause) for one in found.values()] == [
        ("error", "the server ended it with 'content_filter'")
    ]


@pytest.mark.parametrize(("value", "seconds"), [(None, None), ("7", 7.0), ("soon", None), ("-3", None)])
def test_retry_after_in_seconds(value: str | None, seconds: float | None) -> None:
    assert retry_after_s(value) == seconds


def test_retry_after_as_a_date() -> None:
    later = retry_after_s(format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True))
    assert later is not None
    assert 60 < later <= 90
    assert retry_after_s(format_datetime(datetime.now(UTC) - timedelta(seconds=90), usegmt=True)) == 0.0


def test_retry_after_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    tried: list[int] = []

    def once(body: dict[str, Any], headers: Any) -> Reply:
        tried.append(1)
        return (429, {"Retry-After": "17"}, b"") if len(tried) == 1 else fine(body, headers)

    with server(once) as url:
        engine = OpenAIServers(role(url), first_pause_s=0.001)
        monkeypatch.setattr(engine._closed, "wait", lambda pause: pauses.append(pause))
        assert [one.finish for one in engine.stream(requests(1))] == ["stop"]
        engine.close()
    assert pauses == [17.0]
    assert engine.figures == {"retries": 1}


def test_without_an_address_it_does_not_start() -> None:
    with pytest.raises(ValueError, match=r"found exec\.base_urls empty"):
        start(Role(model="m", engine="openai"), None, 0)
