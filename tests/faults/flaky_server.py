"""The openai engine against real local servers that mistreat 30 % of requests, and die: nothing is lost or invented.

    python -m tests.faults.flaky_server [--requests 500] [--share 0.3] [--seed 0]

Three rehearsals, each through `sampling.complete` into a store on the disk: one server; two of which one dies halfway;
two that both die halfway. After each the store is read anew and compared with what the servers sent, then a rerun
against a server without faults must ask for exactly what failed. It measures no speed. The last line is JSON; exit
code 1 where a bar is missed.
"""

import argparse
import hashlib
import json
import random
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pipeline.engines.openai import OpenAIServers
from pipeline.orders import Order, asks
from pipeline.roles import Sampling, Teacher
from pipeline.sampling import Figures, complete
from pipeline.store import Store, writing
from pipeline.think import CLOSE, OPEN

TIMEOUT_S = 1.0
WEIGHTS = "served"


class Listening(ThreadingHTTPServer):
    request_queue_size = 128  # with the default of 5 the system itself drops connections, for a second or more


class Flaky:
    """A server on a free port that mistreats a share of its requests, and remembers each answer that it sent whole."""

    def __init__(self, name: str, share: float, seed: int) -> None:
        self.name, self.share, self.seed = name, share, seed
        self.sent: dict[str, set[str]] = {}  # prompt -> answers, as a store should hold them
        self.mistreated: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()  # by prompt
        self.ended = threading.Event()
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._http = Listening(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def die(self) -> None:
        """Take no more connections and cut those that are open, whatever is under way on them."""
        if self.ended.is_set():
            return
        self.ended.set()
        self._http.shutdown()
        self._http.server_close()
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                with server._lock:
                    server._connections.add(self.connection)

            def finish(self) -> None:
                with server._lock:
                    server._connections.discard(self.connection)
                with suppress(OSError):
                    super().finish()

            def do_POST(self) -> None:
                with suppress(OSError):  # the other side gave up, or this server died
                    asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                    server._treat(self, asked["messages"][-1]["content"])

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler

    def _treat(self, handler: BaseHTTPRequestHandler, prompt: str) -> None:
        with self._lock:
            number = self.asked[prompt]
            self.asked[prompt] += 1
        draw = random.Random(f"{self.seed} {self.name} {prompt} {number}")
        stored, content = self._answer(prompt, number, draw)
        if draw.random() < self.share:
            kind = draw.choice(list(MISTREATMENTS))
            with self._lock:
                self.mistreated[kind] += 1
            MISTREATMENTS[kind](self, handler, content)
            return
        with self._lock:
            self.sent.setdefault(prompt, set()).add(stored)
        reply(handler, 200, content)

    def _answer(self, prompt: str, number: int, draw: random.Random) -> tuple[str, bytes]:
        """An answer like no other: as a store should hold it, and as the JSON that is sent."""
        mark = hashlib.sha256(f"{self.name} {prompt} {number}".encode()).hexdigest()
        text = f"{mark} żółw \U0001f422 \x00 " + "so " * draw.randrange(1000)
        message: dict[str, Any] = {"role": "assistant", "content": text}
        stored = text
        if draw.random() < 0.5:
            message[draw.choice(["reasoning_content", "reasoning"])] = f"thinking of {mark}"
            stored = f"{OPEN}thinking of {mark}{CLOSE}{text}"
        answer = {
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 9},
        }
        return stored, json.dumps(answer).encode()


def reply(handler: BaseHTTPRequestHandler, status: int, content: bytes, **headers: str) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(content)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(content)


def cut(server: Flaky, handler: BaseHTTPRequestHandler, content: bytes) -> None:
    handler.close_connection = True


def cut_in_the_body(server: Flaky, handler: BaseHTTPRequestHandler, content: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content[: len(content) // 2])
    handler.close_connection = True


def hang(server: Flaky, handler: BaseHTTPRequestHandler, content: bytes) -> None:
    server.ended.wait(60)
    handler.close_connection = True


def dribble(server: Flaky, handler: BaseHTTPRequestHandler, content: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    for at in range(len(content) - 1):
        if server.ended.wait(0.1):
            break
        handler.wfile.write(content[at : at + 1])
    handler.close_connection = True


MISTREATMENTS: dict[str, Callable[[Flaky, BaseHTTPRequestHandler, bytes], None]] = {
    "429": lambda server, handler, content: reply(handler, 429, b"slow down"),
    "429 with Retry-After": lambda server, handler, content: reply(handler, 429, b"slow down", Retry_After="1"),
    "500": lambda server, handler, content: reply(handler, 500, b"oops"),
    "cut": cut,
    "cut in the body": cut_in_the_body,
    "garbage": lambda server, handler, content: reply(handler, 200, content[: len(content) // 2] + b"\xff{"),
    "no completion": lambda server, handler, content: reply(handler, 200, b'{"choices": []}'),
    "hang": hang,
    "dribble": dribble,
}


@contextmanager
def running(name: str, share: float, seed: int) -> Iterator[Flaky]:
    server = Flaky(name, share, seed)
    try:
        yield server
    finally:
        server.die()


def order(servers: Sequence[Flaky], count: int) -> Order:
    """`count` requests, two samples of each problem."""
    execution = {"base_urls": tuple(server.url for server in servers), "concurrency": 16, "timeout_s": TIMEOUT_S}
    return Order(
        role=Teacher(model="served", engine="openai", exec=execution),
        weights=WEIGHTS,
        problems=lambda: ({"id": f"p{n}", "text": f"How much is {n} + {n}?", "task": "sum"} for n in range(count // 2)),
        texts={"question": "{problem}"},
        tokenizer=None,
        sampling=Sampling(),
        samples=2,
        max_tokens=2000,
    )


def bought(root: Path, made: Order, halfway: Callable[[], None] = lambda: None) -> Figures:
    def progress(done: int, total: int, note: str) -> None:
        if done == total // 2:
            halfway()

    with writing(root, WEIGHTS) as store:
        return complete(
            [made],
            store,
            # as it ships, but for the lengths of its pauses
            lambda seed: OpenAIServers(made.role, first_pause_s=0.02, first_cooling_s=0.02, first_rest_s=0.08),
            progress,
        )[0]


def rows(root: Path) -> dict[str, dict[str, Any]]:
    store = Store(root, WEIGHTS)
    return {row["id"]: row for row in store.rows(store.ids())}


def records(root: Path) -> Counter[str]:
    """How many records each id has in the journals."""
    lines = [line for path in Store(root, WEIGHTS).folder.glob("*.log") for line in path.read_bytes().splitlines()]
    return Counter(json.loads(line[9:])["id"] for line in lines)


def faults(root: Path, made: Order, sent: dict[str, set[str]]) -> list[str]:
    """What is wrong with a store after its first run: a line for each row lost, invented, doubled, altered or mute."""
    wanted = {ask.id: ask.messages[-1]["content"] for ask in asks(made)}
    found = rows(root)
    wrong = [f"lost: {each}" for each in wanted.keys() - found.keys()]
    wrong += [f"invented: {each}" for each in found.keys() - wanted.keys()]
    wrong += [f"recorded {count} times: {each}" for each, count in records(root).items() if count != 1]
    texts = Counter(row["raw"] for row in found.values() if row["finish"] != "error")
    wrong += [f"one answer stored {count} times: {text[:64]}" for text, count in texts.items() if count != 1]
    for each, prompt in wanted.items():
        row = found.get(each)
        if row is None:
            continue
        if row["finish"] == "error":
            if row["raw"] or not row["cause"]:
                wrong.append(f"an error with a text or without a cause: {each}")
        elif row["finish"] != "stop" or row["raw"] not in sent.get(prompt, ()):
            wrong.append(f"not what the server sent: {each} holds {row['raw'][:64]!r}")
    return wrong


def rerun_faults(root: Path, count: int, seed: int) -> tuple[list[str], int]:
    """What is wrong with a rerun against a server without faults, and how many completions it asked for."""
    before = rows(root)
    failed = {each for each, row in before.items() if row["finish"] == "error"}
    with running("faultless", 0.0, seed) as server:
        again = order([server], count)
        figures = bought(root, again)
        asked = sum(server.asked.values())
    after = rows(root)
    wrong = [f"failed again: {each}" for each in after if after[each]["finish"] == "error"]
    wrong += [f"changed: {each}" for each in before.keys() - failed if after[each] != before[each]]
    wrong += [
        f"not what the server sent: {each}"
        for each in failed
        if after[each]["raw"] not in server.sent.get(json.loads(after[each]["prompt"])[-1]["content"], ())
    ]
    if not figures.bought == asked == len(failed):
        wrong.append(f"{len(failed)} had failed; {figures.bought} were bought and {asked} requests came")
    return wrong, asked


def rehearse(bar: str, count: int, share: float, seed: int, servers: int, dying: int) -> dict[str, Any]:
    """One rehearsal: `servers` of them, of which `dying` die halfway. The result as a bar, faults counted."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        root = Path(folder)
        made = [stack.enter_context(running(f"server {number}", share, seed)) for number in range(servers)]
        asked = order(made, count)

        def kill() -> None:
            for server in made[:dying]:
                server.die()

        figures = bought(root, asked, kill)
        sent: dict[str, set[str]] = {}
        for server in made:
            for prompt, answers in server.sent.items():
                sent.setdefault(prompt, set()).update(answers)
        wrong = faults(root, asked, sent)
        again, asked_again = rerun_faults(root, count, seed)
        wrong += again
        mistreated = sum((server.mistreated for server in made), Counter[str]())
        requests = sum(server.asked.total() for server in made)
        causes = Counter(str(row["cause"])[:60] for row in rows(root).values() if row["finish"] == "error")
    return {
        "bar": bar,
        "value": len(wrong),
        "limit": 0,
        "n": count,
        "spread": None,
        "ok": not wrong and figures.wanted == count,
        "faults": wrong[:5],
        "errors": figures.errors,
        "asked_again": asked_again,
        "requests": requests,
        "mistreated_share": round(mistreated.total() / requests, 3),
        "mistreated": dict(mistreated),
        "causes_left": dict(causes),
        "engine": figures.engine,
        "seconds": round(time.monotonic() - begun, 1),
    }


REHEARSALS = (
    ("one server", 1, 0),
    ("two servers, one dies halfway", 2, 1),
    ("two servers, both die halfway", 2, 2),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500, help="of each rehearsal")
    parser.add_argument("--share", type=float, default=0.3, help="of requests that are mistreated")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    results = []
    for name, servers, dying in REHEARSALS:
        bar = f"{name}, {chosen.share:.0%} of requests mistreated: rows lost, invented, doubled, altered or mute"
        results.append(rehearse(bar, chosen.requests, chosen.share, chosen.seed, servers, dying))
        sys.stdout.write(f"{name}: {results[-1]['value']} faults, {results[-1]['seconds']} s\n")
        sys.stdout.flush()
    sys.stdout.write(json.dumps(results) + "\n")
    return 0 if all(result["ok"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
