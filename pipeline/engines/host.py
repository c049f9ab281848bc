"""A process of its own for an engine: what its libraries load, print and leak stays there, and ends with it.

It judges no request and keeps no completion. What crosses between the two processes is pickled, over a socket pair that
nobody else can reach. A module that can be hosted has `load(role, model, seed, place)`, which gives a `Loaded`.
"""

import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NoReturn, Protocol

from pipeline.engines import ASK_AGAIN_S, Completion, Request
from pipeline.engines.lifeline import Lifeline
from pipeline.roles import Role

# Not `-m`: what this module pickles must be known by its own name on both sides.
_MAIN = "import sys; from pipeline.engines import host; host.serve(host.Connection(int(sys.argv[1])))"
CLOSE_S = 10.0  # what an engine gets to end by itself before it is killed


class Loaded(Protocol):
    """An engine inside its process."""

    figures: dict[str, float]  # of its own work since it started; those of several replicas are added up
    window: int  # requests it wants in flight, so that none of its places is ever empty

    def stream(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """As `Engine.stream`."""


@dataclass(frozen=True)
class Place:
    """Which of the replicas an engine is: it takes its own part of the machine's devices or cores, and of the seeds."""

    number: int = 0
    of: int = 1


@dataclass(frozen=True)
class _Job:
    module: str
    role: Role
    model: Path
    seed: int
    place: Place


@dataclass(frozen=True)
class _Failure:
    """How the engine's process reports an error that a person should read."""

    message: str


class Hosted:
    """An engine whose work is done in processes of their own: `exec.replicas` of them over one queue (see `Engine`)."""

    def __init__(self, module: str, role: Role, model: Path, seed: int, log: Path | None) -> None:
        """Start it and wait until it is up. Raises ValueError with the log's place where it does not come up."""
        self.figures: dict[str, float] = {}
        self._name, log = role.engine, log or Path(tempfile.gettempdir()) / f"{role.engine}-{os.getpid()}.log"
        self._replicas: list[_Replica] = []
        self._lifeline: Lifeline | None = Lifeline()
        count = role.exec.replicas
        try:
            for number in range(count):
                own = log if count == 1 else log.with_stem(f"{log.stem}-{number}")
                self._replicas.append(_Replica(_Job(module, role, model, seed + number, Place(number, count)), own))
            for replica in self._replicas:  # they come up side by side
                replica.wait_until_up()
            self._lifeline.up()
        except BaseException as error:
            self.close()
            if isinstance(error, ValueError):
                raise ValueError(f"{self._name} did not start with {model}: {error}") from error
            raise

    def stream(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """See `Engine`. Raises ValueError where the engine dies; what it had finished has been yielded."""
        waiting = iter(requests)
        replica, last = self._replicas[0], ""
        while True:
            pause_s = None
            while free := [each for each in self._replicas if each.running < each.window]:
                request = next(waiting, None)
                if request is None:
                    pause_s = ASK_AGAIN_S
                    break
                # Siblings go where the first of them went, over its window if need be: there their prefix is known.
                if request.prompt != last:
                    replica, last = min(free, key=lambda each: each.running), request.prompt
                replica.send(request)
            busy = {each.connection: each for each in self._replicas if each.running}
            if not busy:
                return
            for ready in wait(list(busy), pause_s):
                yield self._completion(busy[ready])  # type: ignore[index]

    def _completion(self, replica: "_Replica") -> Completion:
        try:
            completion: Completion
            completion, replica.figures = replica.receive()
        except ValueError as error:
            raise ValueError(
                f"{self._name} died while generating: {error}. All completions it had finished are stored: run again "
                f"for the others, with a smaller max_num_seqs or max_model_len if memory ran out."
            ) from error
        replica.running -= 1
        names = {name: 0.0 for each in self._replicas for name in each.figures}
        self.figures = {name: sum(each.figures.get(name, 0.0) for each in self._replicas) for name in names}
        return completion

    def close(self) -> None:
        """See `Engine`. The processes end at once: they hold nothing that is not sent already."""
        for replica in self._replicas:
            replica.close()
        if self._lifeline is not None:
            self._lifeline.cut()
            self._lifeline = None


class _Replica:
    """One process, as the other side sees it."""

    def __init__(self, job: _Job, log: Path) -> None:
        self.running = self.window = 0
        self.figures: dict[str, float] = {}
        self._log = log
        ours, theirs = socket.socketpair()
        self.connection = Connection(ours.detach())
        with theirs:
            self._process = _spawn(theirs, log)
        self.connection.send(job)

    def wait_until_up(self) -> None:
        self.window = int(self.receive())

    def send(self, request: Request) -> None:
        self.running += 1
        with suppress(OSError):  # its process has ended: the next receive says how
            self.connection.send(request)

    def receive(self) -> Any:
        """The next message of the engine's process. Raises ValueError for its failures and its end."""
        try:
            message = self.connection.recv()
        except (EOFError, OSError) as error:
            code = self._process.wait()
            how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            raise ValueError(f"its process {how}. Its log is {self._log}") from error
        if isinstance(message, _Failure):
            raise ValueError(f"{message.message}. Its log is {self._log}")
        return message

    def close(self) -> None:
        self.connection.close()
        try:
            self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _spawn(theirs: socket.socket, log: Path) -> "subprocess.Popen[bytes]":
    """A Python of its own that serves at one end of the socket pair and writes to the log alone."""
    log.parent.mkdir(parents=True, exist_ok=True)
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    with open(log, "ab") as file:
        return subprocess.Popen(
            [sys.executable, "-c", _MAIN, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=os.environ | {"PYTHONPATH": path},
            pass_fds=[theirs.fileno()],
        )


class _Inbox:
    """The requests as they come in, for an engine that must not wait while it has work in flight."""

    def __init__(self, connection: Connection) -> None:
        self.running = 0
        self._connection = connection
        self._queue: queue.SimpleQueue[Request] = queue.SimpleQueue()
        threading.Thread(target=self._receive, name="requests", daemon=True).start()

    def _receive(self) -> NoReturn:
        try:
            while True:
                self._queue.put(self._connection.recv())
        except (EOFError, OSError):
            os._exit(0)  # nobody listens any more; children of the engine are the lifeline's

    def __iter__(self) -> Iterator[Request | None]:
        while True:
            try:
                request = self._queue.get(block=not self.running)
            except queue.Empty:
                yield None
                continue
            self.running += 1
            yield request


def serve(connection: Connection) -> None:
    """Load the engine that the first message names, and answer every request until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; only the process in front decides
    job: _Job = connection.recv()
    try:
        engine: Loaded = import_module(job.module).load(job.role, job.model, job.seed, job.place)
        connection.send(engine.window)
        inbox = _Inbox(connection)
        for completion in engine.stream(inbox):
            inbox.running -= 1
            connection.send((completion, engine.figures))
    except Exception as error:
        connection.send(_Failure(f"{error}"))
        raise
