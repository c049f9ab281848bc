"""The client against a small server that speaks the protocol, and misbehaves on demand."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.engines import Completion, Request, start
from pipeline.engines.endpoints import FAILURES_TO_OPEN, FIRST_REST_S
from pipeline.engines.openai import OpenAIServers
from pipeline.orders import Order
from pipeline.roles import Role, Sampling, Teacher
from pipeline.sampling import complete
from pipeline.store import writing
from tests.pipeline.engines.sparing import sparing

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

    with listening(Handler) as url:
        yield url


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}/v1"
    finally:
        httpd.shutdown()
        httpd.server_close()


def _cause(found: dict[str, Completion]) -> str:
    """The cause of the first answer, of whatever request."""
    return next(iter(found.values())).cause or ""


def role(*urls: str, **settings: Any) -> Role:
    return Role(model="a-model", engine="openai", exec={"base_urls": urls, "concurrency": 4, **settings})


def requests(count: int, sampling: Sampling | None = None) -> list[Request]:
    return [
        Request(f"{n:032x}", "", None, [{"role": "user", "content": f"q{n}"}], sampling or Sampling(), 50, n, f"q{n}")
        for n in range(count)
    ]


def quick(made: Role, tries: int = 4) -> OpenAIServers:
    """The engine with pauses of milliseconds."""
    return OpenAIServers(made, tries, first_pause_s=0.001, first_cooling_s=0.001, first_rest_s=0.004)


def answers(made: Role, asked: list[Request], tries: int = 4) -> dict[str, Completion]:
    engine = quick(made, tries)
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


def test_no_request_at_the_moment_is_not_the_end() -> None:
    asked = requests(20)
    found: list[Completion] = []
    with server(fine) as url:
        engine = OpenAIServers(role(url))
        for each in engine.stream(sparing(asked, found, 3)):
            found.append(each)
        engine.close()
    assert sorted(each.id for each in found) == [each.id for each in asked]


def test_requests_are_asked_for_again_while_one_takes_its_time() -> None:
    second = threading.Event()

    def answer(body: dict[str, Any], headers: Any) -> Reply:
        if body["messages"][-1]["content"] == "q0":
            assert second.wait(60), "nothing else came meanwhile"
        else:
            second.set()
        return fine(body, headers)

    first, later = requests(2)
    with server(answer) as url:
        engine = quick(role(url))
        found = list(engine.stream(iter([first, None, None, later])))
        engine.close()
    assert sorted(one.text for one in found) == ["answer to q0", "answer to q1"]


def test_load_goes_where_the_fewest_requests_are_in_flight() -> None:
    hits = [0, 0]
    enough = threading.Event()

    def slow(body: dict[str, Any], headers: Any) -> Reply:
        hits[0] += 1
        enough.wait(30)
        return fine(body, headers)

    def quick(body: dict[str, Any], headers: Any) -> Reply:
        hits[1] += 1
        if hits[1] == 10:
            enough.set()
        return fine(body, headers)

    with server(slow) as one, server(quick) as two:
        answers(role(one, f"{two}/"), requests(13))
    assert hits[0] <= 3  # two of the four in flight, and one more at the end
    assert sum(hits) == 13


def test_a_dead_server_is_left_alone_and_no_request_is_lost() -> None:
    with server(fine) as url:
        engine = OpenAIServers(role("http://127.0.0.1:9/v1", url), first_pause_s=0.001, first_cooling_s=60.0)
        found = list(engine.stream(requests(60)))
        dead = engine._endpoints.all[0]
        engine.close()
    assert {one.finish for one in found} == {"stop"}
    assert engine.figures["circuits_opened"] == 1
    assert engine.figures["failed_probes"] == 0
    assert FAILURES_TO_OPEN <= dead.sent < FAILURES_TO_OPEN + 4


def test_a_server_that_comes_back_is_asked_again() -> None:
    answered: list[int] = []

    def away(body: dict[str, Any], headers: Any) -> Reply:
        answered.append(1)
        return None if 10 < len(answered) <= 18 else fine(body, headers)

    with server(away) as url:
        engine = OpenAIServers(role(url), tries=20, first_pause_s=0.001, first_cooling_s=0.01)
        found = list(engine.stream(requests(40)))
        engine.close()
    assert {one.finish for one in found} == {"stop"}
    assert engine.figures["circuits_opened"] >= 1


def test_when_every_server_is_dead_requests_fail_with_what_to_do() -> None:
    found = answers(role("http://127.0.0.1:9/v1", "http://127.0.0.1:10/v1"), requests(40), tries=30)
    assert len(found) == 40
    for one in found.values():
        assert one.finish == "error"
        assert "no server answers; found ConnectError from http://127.0.0.1:9/v1" in (one.cause or "")
        assert "expected a completion from one of these servers. Start it again or mend" in (one.cause or "")


@pytest.mark.parametrize(
    "trouble",
    [
        (429, {"Retry-After": "0"}, b"slow down"),
        (500, {}, b"oops"),
        (529, {}, b"overloaded"),
        (200, {}, chat("", "abort")),
        (200, {}, b"[" * 100_000),
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
        found = answers(role(url), requests(2))  # too few to open its circuit
    assert {one.finish for one in found.values()} == {"stop"}
    assert set(tried.values()) == {3}


def test_a_server_with_little_room_loses_no_request() -> None:
    room = threading.Semaphore(1)

    def narrow(body: dict[str, Any], headers: Any) -> Reply:
        if not room.acquire(blocking=False):
            return 429, {}, b"too many requests"
        try:
            time.sleep(0.01)
            return fine(body, headers)
        finally:
            room.release()

    with server(narrow) as url:
        engine = quick(role(url, concurrency=16), tries=6)
        found = list(engine.stream(iter(requests(48))))
        engine.close()
    assert Counter(one.finish for one in found) == {"stop": 48}
    assert engine.figures["retries"] > 0


def test_a_request_that_alone_is_refused_for_want_of_room_fails_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.engines.openai.BUSY_TRIES", 5)

    refused: list[int] = []

    def too_large(body: dict[str, Any], headers: Any) -> Reply:
        if body["messages"][-1]["content"] != "q0":
            time.sleep(0.001)
            return fine(body, headers)
        refused.append(1)
        return 429, {}, b"too large"

    with server(too_large) as url:
        found = answers(role(url, concurrency=2), requests(100), tries=2)
    (cause,) = [one.cause for one in found.values() if one.finish == "error"]
    assert (cause or "").startswith(f"after {len(refused)} tries: HTTP 429")
    assert len(refused) <= 7


def test_a_server_that_never_has_room_fails_all_requests_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def full(body: dict[str, Any], headers: Any) -> Reply:
        calls.append(1)
        return 429, {"Retry-After": "0"}, b'{"error": {"code": "insufficient_quota"}}'

    monkeypatch.setattr("pipeline.engines.endpoints.RESTS", 4)
    with server(full) as url:
        found = answers(role(url, concurrency=16), requests(64), tries=6)
    assert len(calls) < 40
    for one in found.values():
        assert "no server answers; found HTTP 429" in (one.cause or "")
        assert "insufficient_quota" in (one.cause or "")
        assert "(no room after 4 rests)" in (one.cause or "")


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
    assert "after 2 tries: ConnectError from http://127.0.0.1:9/v1" in (next(iter(found.values())).cause or "")


def test_a_server_that_hangs_is_an_error_after_the_time_limit() -> None:
    hold = threading.Event()

    def hang(body: dict[str, Any], headers: Any) -> Reply:
        hold.wait(30)
        return fine(body, headers)

    with server(hang) as url:
        found = answers(role(url, timeout_s=0.1), requests(1), tries=2)
        hold.set()
    assert _cause(found) == f"after 2 tries: no whole answer from {url} within 0.1 s (exec.timeout_s)"


@pytest.mark.parametrize("part", ["headers", "body"])
def test_a_server_that_dribbles_is_cut_at_the_time_limit(part: str) -> None:
    ended = threading.Event()

    class Dribble(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            if part == "body":
                self.wfile.write(b"Content-Length: 100000\r\n\r\n")
            with suppress(OSError):
                while not ended.wait(0.01):
                    self.wfile.write(b" " if part == "body" else b"X-More: 1\r\n")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with listening(Dribble) as url:
        found = answers(role(url, timeout_s=0.3), requests(2), tries=2)
        ended.set()
    assert f"no whole answer from {url} within 0.3 s" in _cause(found)


def test_closing_in_the_middle_calls_off_what_hangs() -> None:
    hold = threading.Event()

    def hang(body: dict[str, Any], headers: Any) -> Reply:
        if body["messages"][-1]["content"] != "q0":
            hold.wait(30)
        return fine(body, headers)

    with server(hang) as url:
        engine = OpenAIServers(role(url))
        stream = engine.stream(requests(9))
        assert next(stream).text == "answer to q0"
        engine.close()
        engine.close()
        assert not engine._thread.is_alive()
        assert [one.in_flight for one in engine._endpoints.all] == [0]
        hold.set()


def picky(*known: str) -> tuple[Callable[[dict[str, Any], Any], Reply], list[dict[str, Any]]]:
    """A hosted server that refuses, one at a time, what it does not know; and what it was sent."""
    seen: list[dict[str, Any]] = []

    def answer(body: dict[str, Any], headers: Any) -> Reply:
        seen.append(body)
        for name in body:
            if name not in (*HOSTED, *known):
                error = {"message": f"Unrecognized request argument supplied: {name}", "param": None}
                return 400, {}, json.dumps({"error": error}).encode()
        return fine(body, headers)

    return answer, seen


HOSTED = ("model", "messages", "n", "max_tokens", "temperature", "top_p", "stop", "presence_penalty")


def test_neutral_values_that_a_server_does_not_know_are_left_out_and_that_is_remembered() -> None:
    answer, seen = picky("frequency_penalty")
    with server(answer) as url:
        engine = OpenAIServers(role(url, concurrency=1))
        assert [one.finish for one in engine.stream(requests(5, Sampling(presence_penalty=0.5)))] == ["stop"] * 5
        engine.close()
    left_out = ("min_p", "min_tokens", "repetition_penalty", "skip_special_tokens", "top_k")
    assert [len(body) for body in seen] == [14, 13, 12, 11, 10, 9, 9, 9, 9, 9]
    assert seen[-1]["presence_penalty"] == 0.5
    assert {key for key in engine.figures if key.startswith("servers_without_")} == {
        f"servers_without_{name}" for name in left_out
    }
    assert engine.figures["retries"] == 0


def test_each_server_is_sent_all_that_it_knows() -> None:
    answer, seen = picky()
    bodies: list[dict[str, Any]] = []

    def knows_all(body: dict[str, Any], headers: Any) -> Reply:
        bodies.append(body)
        return fine(body, headers)

    with server(answer) as one, server(knows_all) as two:
        answers(role(one, two, concurrency=1), requests(10))
    assert len(seen[-1]) == len(HOSTED)
    assert {len(body) for body in bodies} == {14}


def test_a_value_that_matters_is_never_left_out() -> None:
    answer, seen = picky("min_p", "repetition_penalty", "frequency_penalty", "min_tokens", "skip_special_tokens")
    with server(answer) as url:
        engine = OpenAIServers(role(url))
        neutral = list(engine.stream(requests(3)))  # that top_k is unknown is remembered now
        sharp = list(engine.stream(requests(3, Sampling(top_k=20))))
        engine.close()
    assert [one.finish for one in neutral + sharp] == ["stop"] * 3 + ["error"] * 3
    assert {body["top_k"] for body in seen[-3:]} == {20}
    for one in sharp:
        assert (one.cause or "").startswith("found top_k 20, refused by the server; expected one that takes it")
        assert "Set top_k: 0 in the recipe's sampling, or use another server" in (one.cause or "")


def test_a_refusal_about_something_else_leaves_nothing_out_for_good() -> None:
    calls: list[dict[str, Any]] = []

    def refuse(body: dict[str, Any], headers: Any) -> Reply:
        calls.append(body)
        if len(calls) <= 2:
            return 400, {}, b"unknown trouble with top_k and more"
        return fine(body, headers)

    with server(refuse) as url:
        found = answers(role(url, concurrency=1), requests(2))
    assert sorted(one.finish for one in found.values()) == ["error", "stop"]
    assert calls[-1]["top_k"] == -1


def test_a_model_that_wants_the_newer_name_of_max_tokens_gets_it() -> None:
    seen: list[dict[str, Any]] = []

    def newer(body: dict[str, Any], headers: Any) -> Reply:
        seen.append(body)
        if "max_tokens" in body:
            text = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'."
            return 400, {}, json.dumps({"error": {"message": text}}).encode()
        return fine(body, headers)

    with server(newer) as url:
        answers(role(url, concurrency=1), requests(3))
    assert [body.get("max_completion_tokens") for body in seen] == [None, 50, 50, 50]


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
        return 403, {}, f"you sent {headers['Authorization']}".encode()

    with server(refuse) as url:
        found = answers(role(url, api_key_variable="SOME_KEY"), requests(1))
    assert seen == ["Bearer a-secret"]
    assert "a-secret" not in repr(found)
    assert "you sent Bearer ***" in _cause(found)
    assert "the key came from SOME_KEY" in (next(iter(found.values())).cause or "")


def test_a_key_loses_the_end_of_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "a-secret\n")
    seen: list[str] = []

    def remember(body: dict[str, Any], headers: Any) -> Reply:
        seen.append(headers["Authorization"])
        return fine(body, headers)

    with server(remember) as url:
        answers(role(url, api_key_variable="SOME_KEY"), requests(1))
    assert seen == ["Bearer a-secret"]


@pytest.mark.parametrize("key", ["a-sécret", "a\nsecret"])
def test_a_key_that_no_header_can_hold_is_refused_unrepeated(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", key)
    with pytest.raises(ValueError, match="the key in SOME_KEY holds a character") as refusal:
        start(role("http://localhost:8000/v1", api_key_variable="SOME_KEY"), None, 0)
    assert "cret" not in str(refusal.value)


def test_what_a_server_says_can_always_be_stored(tmp_path: Path) -> None:
    # JSON may escape half of a character, which no encoding holds.
    said = {
        "text": (200, {}, chat("half \ud83d a sign")),
        "reasoning": (200, {}, chat("4", reasoning="\ud83d")),
        "whole": (200, {}, chat("a \U0001f422")),
        "ending": (200, {}, chat("", "\ud83d")),
        "refusal": (404, {"Content-Type": "text/plain; charset=utf-7"}, b"+2D0- \xed\xa0\xbd \xff"),
        "counts": (200, {}, json.dumps({**json.loads(chat("4")), "usage": {"completion_tokens": 10**9}}).encode()),
    }
    with server(lambda body, headers: said[body["messages"][-1]["content"]]) as url:
        made = Order(
            role=Teacher(model="a-model", engine="openai", exec={"base_urls": (url,)}),
            weights="served",
            problems=lambda: ({"id": name, "text": name, "task": "any"} for name in said),
            texts={"question": "{problem}"},
            tokenizer=None,
            sampling=Sampling(),
            samples=1,
            max_tokens=50,
        )
        with writing(tmp_path, "served") as store:
            complete([made], store, lambda seed: quick(made.role), lambda *_: None)
            rows = {row["problem_id"]: row for row in store.rows(store.ids())}
    assert {name: row["raw"] for name, row in rows.items() if row["finish"] != "error"} == {
        "text": "half \ufffd a sign",
        "reasoning": "<think>\ufffd</think>4",
        "whole": "a \U0001f422",
        "counts": "4",
    }
    assert rows["ending"]["cause"] == r"the server ended it with '\ud83d'"
    assert rows["refusal"]["cause"].endswith("+2D0- \ufffd\ufffd\ufffd \ufffd")
    assert rows["counts"]["completion_tokens"] == 0, "unknown: a count costs no answer"


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"completion_tokens": 7}, 7),
        ({"completion_tokens": 7.0, "prompt_tokens": "11"}, 7),
        ({"completion_tokens": 200, "prompt_tokens": 11, "total_tokens": 1035}, 1024),  # reasoning in the total alone
        ({"completion_tokens": 200, "total_tokens": 1035}, 200),
        ({"completion_tokens": -1}, 0),
        ({"completion_tokens": 7.5}, 0),
        ({"completion_tokens": "many"}, 0),
        (None, 0),
    ],
)
def test_tokens_are_counted_as_servers_tell_them_and_no_count_costs_an_answer(usage: Any, tokens: int) -> None:
    said = {**json.loads(chat("4", "length")), "usage": usage}
    with server(lambda body, headers: (200, {}, json.dumps(said).encode())) as url:
        (found,) = answers(role(url), requests(1)).values()
    assert (found.text, found.finish, found.completion_tokens) == ("4", "length", tokens)


def test_a_content_in_chunks_is_put_together() -> None:
    chunks = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "2 and"}, {"type": "text", "text": " 2"}]},
        {"type": "text", "text": "4"},
    ]
    said = json.loads(chat("4"))
    said["choices"][0]["message"]["content"] = chunks
    with server(lambda body, headers: (200, {}, json.dumps(said).encode())) as url:
        (found,) = answers(role(url), requests(1)).values()
    assert found.text == "<think>2 and 2</think>4"


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_of_several_servers_one_that_refuses_costs_no_request(status: int) -> None:
    def slow(body: dict[str, Any], headers: Any) -> Reply:
        time.sleep(0.01)
        return fine(body, headers)

    with server(slow) as good, server(lambda body, headers: (status, {}, b"no")) as bad:
        found = answers(role(good, bad, concurrency=4), requests(40))
    assert Counter(one.finish for one in found.values()) == {"stop": 40}


def test_a_server_without_room_is_asked_again() -> None:
    endings = iter(["insufficient_system_resource", "stop"])
    with server(lambda body, headers: (200, {}, chat("4", next(endings)))) as url:
        (found,) = answers(role(url), requests(1)).values()
    assert (found.text, found.finish) == ("4", "stop")


def test_an_ending_that_is_neither_stop_nor_length_is_an_error() -> None:
    with server(lambda body, headers: (200, {}, chat("partly", "content_filter"))) as url:
        found = answers(role(url), requests(1))
    assert [(one.finish, one.cause) for one in found.values()] == [
        ("error", "the server ended it with 'content_filter'")
    ]


def test_retry_after_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[tuple[str, float]] = []
    tried: list[int] = []

    def once(body: dict[str, Any], headers: Any) -> Reply:
        tried.append(1)
        return (429, {"Retry-After": "17"}, b"") if len(tried) == 1 else fine(body, headers)

    with server(once) as url:
        engine = OpenAIServers(role(url), first_pause_s=0.001)
        monkeypatch.setattr(engine._endpoints, "rest", lambda endpoint, pause_s: rests.append((endpoint.url, pause_s)))
        assert [one.finish for one in engine.stream(requests(1))] == ["stop"]
        engine.close()
    assert rests == [(url, FIRST_REST_S), (url, 17.0)]
    assert engine.figures == {"retries": 1, "circuits_opened": 0, "failed_probes": 0}


def test_no_request_is_sent_while_the_server_asks_for_rest() -> None:
    came: list[float] = []

    def once(body: dict[str, Any], headers: Any) -> Reply:
        came.append(time.monotonic())
        return (503, {"Retry-After": "1"}, b"") if len(came) == 1 else fine(body, headers)

    with server(once) as url:
        answers(role(url, concurrency=1), requests(3))
    assert came[1] - came[0] >= 1


def test_without_an_address_it_does_not_start() -> None:
    with pytest.raises(ValueError, match=r"found exec\.base_urls empty"):
        start(Role(model="m", engine="openai"), None, 0)


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("http://me:secret@host/v1", "holds a user or password"),
        ("localhost:8000/v1", "found 'localhost:8000/v1'"),
        ("http://host:port/v1", "address 1 of exec.base_urls is none"),
    ],
)
def test_what_is_no_address_is_refused_at_the_start(address: str, found: str) -> None:
    with pytest.raises(ValueError, match=r"exec\.base_urls") as refusal:
        start(role(address), None, 0)
    assert found in str(refusal.value)
    assert "secret" not in str(refusal.value)
