"""A warm pool of worker processes that can be killed: verifiers run there, each item within its own limits.

It knows no verifier and no verdict row. A worker that hangs, dies or grows past its limit costs one item, the one in
hand: that item is undecided with the cause, the rest of its batch is judged by another worker.
"""

import json
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from queue import SimpleQueue
from types import TracebackType

from pipeline.verifiers import Judgement, undecided
from pipeline.verifiers.process import Process

BATCH = 32  # items sent to a worker at once
WINDOW = 4 * BATCH  # items in flight for each worker
LOAD_LIMIT_S = 300.0  # to import a verifier: its libraries may lie on a cold disk


class PoolError(ValueError):
    """A verifier cannot be loaded, or no process can be started to run it: nothing can be judged."""


@dataclass(frozen=True)
class Item:
    """An answer to judge."""

    verifier: str  # a name on the shelf, or "module:function"
    given: str  # the final answer as the model wrote it
    gold: str  # the reference answer
    data: str = "{}"  # the problem's verifier_data, JSON


@dataclass
class _Call:
    """One caller's `judge`, with what came back for it."""

    results: SimpleQueue[tuple[int, Judgement | Exception]] = field(default_factory=SimpleQueue)
    over: bool = False  # the caller went away: what is left of it need not be judged


@dataclass
class _Task:
    call: _Call
    index: int
    item: Item


@dataclass
class _Worker:
    """A process, the tasks it holds (the first is in hand), and when its patience ends (None: idle)."""

    process: Process
    batch: deque[_Task] = field(default_factory=deque)
    deadline: float | None = None
    ready: bool = False
    loading: bool = False


class Pool:
    """`with Pool(workers, timeout_s, memory_mib) as pool`, then `pool.judge(items)` from any thread, also from several
    at once.

    `timeout_s` bounds the wall-clock time of one item; loading a verifier does not count. `memory_mib` bounds the
    address space that one item may add to a worker (MiB). One thread of the pool keeps the clock and starts, feeds and
    kills the workers, so that a slow caller delays no limit.
    """

    def __init__(self, workers: int, timeout_s: float, memory_mib: int) -> None:
        self._limit, self._timeout_s, self._memory_mib = max(1, workers), timeout_s, memory_mib
        self._workers: list[_Worker] = []
        self._pending: deque[_Task] = deque()
        self._inbox: deque[_Task] = deque()
        self._lock = threading.Lock()
        self._rung = self._closing = False
        self._failure: Exception | None = None
        self._thread: threading.Thread | None = None
        self._bell, self._ear = _bell()

    def __enter__(self) -> "Pool":
        self._thread = threading.Thread(target=self._serve, name="verifiers", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._closing = True
            self._ring()
        if self._thread is not None:
            self._thread.join()
        self._bell.close()
        self._ear.close()

    def judge(self, items: Iterable[Item | Judgement]) -> Iterator[tuple[int, Judgement]]:
        """(position, judgement) of every item, each once, as they are decided. Items are taken as they are needed, a
        few hundred ahead. An item that is a Judgement already comes back as it is.

        Raises PoolError (a ValueError) where a verifier cannot be loaded or no worker can be started.
        """
        call, flying = _Call(), 0
        try:
            for index, item in enumerate(items):
                if isinstance(item, Judgement):
                    yield index, item
                    continue
                self._submit(_Task(call, index, item))
                flying += 1
                while flying >= WINDOW * self._limit or not call.results.empty():
                    yield _result(call)
                    flying -= 1
            for _ in range(flying):
                yield _result(call)
        finally:
            call.over = True

    def _submit(self, task: _Task) -> None:
        with self._lock:
            if self._failure is not None:
                raise self._failure
            if self._thread is None or self._closing:
                raise RuntimeError("this pool is not open: use it in a with statement")
            self._inbox.append(task)
            self._ring()

    def _ring(self) -> None:
        if not self._rung:
            self._rung = True
            self._bell.send_bytes(b"!")

    # Everything below runs in the pool's own thread.

    def _serve(self) -> None:
        failure: Exception = RuntimeError("the pool was closed while items were still being judged")
        try:
            while self._take_inbox():
                self._feed()
                speakers = {worker.process.connection: worker for worker in self._workers}
                for ready in wait([self._ear, *speakers], self._patience()):
                    if ready is not self._ear:
                        self._hear(speakers[ready])  # type: ignore[index]
                self._enforce()
        except Exception as error:
            failure = error
        finally:
            self._end(failure)

    def _take_inbox(self) -> bool:
        """Move what callers submitted to the pending tasks; False when the pool closes."""
        with self._lock:
            if self._rung:
                self._ear.recv_bytes()
                self._rung = False
            self._pending.extend(self._inbox)
            self._inbox.clear()
            return not self._closing

    def _feed(self) -> None:
        """Give each idle worker a batch, and start workers while there is more to do than they can take."""
        for worker in list(self._workers):
            if worker.ready and not worker.batch:
                self._hand_over(worker)
        starting = sum(not worker.ready for worker in self._workers)
        for _ in range(min(self._limit - len(self._workers), len(self._pending) - starting)):
            process = Process(self._memory_mib)
            self._workers.append(_Worker(process, deadline=time.monotonic() + LOAD_LIMIT_S))

    def _hand_over(self, worker: _Worker) -> None:
        size = max(1, min(BATCH, len(self._pending) // (2 * self._limit)))
        while self._pending and len(worker.batch) < size:
            task = self._pending.popleft()
            if not task.call.over:
                worker.batch.append(task)
        if not worker.batch:
            return
        try:
            # The worker reads a whole batch before it judges, so this never waits for a verifier.
            worker.process.send([[t.item.verifier, t.item.given, t.item.gold, t.item.data] for t in worker.batch])
        except OSError:  # it died idle: no item is to blame
            self._discard(worker)
        else:
            worker.deadline = time.monotonic() + self._timeout_s

    def _patience(self) -> float | None:
        deadlines = [worker.deadline for worker in self._workers if worker.deadline is not None]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _hear(self, worker: _Worker) -> None:
        try:
            kind, *rest = json.loads(worker.process.connection.recv_bytes())
        except (EOFError, OSError):
            self._mourn(worker)
            return
        now = time.monotonic()
        if kind == "ready":
            worker.ready, worker.deadline = True, None
        elif kind == "load":
            worker.loading, worker.deadline = True, now + LOAD_LIMIT_S
        elif kind == "loaded":
            worker.loading, worker.deadline = False, now + self._timeout_s
        elif kind == "unloadable":
            self._unloadable(worker, str(rest[0]))
        else:
            outcome, reason, score, detail, worn = rest
            self._decide(worker, Judgement(outcome, reason, score, detail))
            worker.deadline = now + self._timeout_s if worker.batch else None
            if worn:
                self._discard(worker)

    def _enforce(self) -> None:
        """Kill every worker that is out of time and has nothing to say."""
        now = time.monotonic()
        for worker in list(self._workers):
            late = worker.deadline is not None and worker.deadline <= now
            if not late or worker.process.connection.poll():
                continue
            if not worker.ready:
                raise PoolError(f"a verifier process did not start within {LOAD_LIMIT_S:.0f} s")
            if worker.loading:
                self._unloadable(worker, f"importing it took more than {LOAD_LIMIT_S:.0f} s")
                continue
            self._decide(worker, undecided("verifier_timeout", error=f"no answer within {self._timeout_s:g} s"))
            self._discard(worker)

    def _mourn(self, worker: _Worker) -> None:
        """A worker's process ended by itself."""
        ending = worker.process.ending()
        if not worker.ready:
            raise PoolError(f"a verifier process could not start ({ending}): {worker.process.last_words()}")
        if worker.loading:
            self._unloadable(worker, f"importing it ended its process ({ending})")
            return
        if worker.batch:
            self._decide(worker, undecided("verifier_crash", error=f"its process ended: {ending}"))
        self._discard(worker)

    def _decide(self, worker: _Worker, judgement: Judgement) -> None:
        task = worker.batch.popleft()
        task.call.results.put((task.index, judgement))

    def _unloadable(self, worker: _Worker, why: str) -> None:
        task = worker.batch.popleft()
        message = f"verifier {task.item.verifier!r} cannot be loaded: {why}. Install what it needs, or use another."
        task.call.results.put((task.index, PoolError(message)))
        self._discard(worker)

    def _discard(self, worker: _Worker) -> None:
        """End a worker; what it had not begun goes back to the head of the queue."""
        self._workers.remove(worker)
        worker.process.kill()
        self._pending.extendleft(reversed(worker.batch))
        worker.batch.clear()

    def _end(self, failure: Exception) -> None:
        with self._lock:
            self._failure = failure
            left = [*self._pending, *self._inbox]
        for worker in self._workers:
            worker.process.kill()
            left.extend(worker.batch)
        for task in left:
            task.call.results.put((task.index, failure))


def _bell() -> tuple[Connection, Connection]:
    ear, bell = Pipe(duplex=False)
    return bell, ear


def _result(call: _Call) -> tuple[int, Judgement]:
    index, judgement = call.results.get()
    if isinstance(judgement, Exception):
        raise judgement
    return index, judgement


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))
