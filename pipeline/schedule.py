"""Which request goes out next: the samples of the orders one after the other, and what their answers call for.

It starts no engine and stores nothing (`sampling.py` does both).
"""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from itertools import groupby
from queue import Empty, SimpleQueue

from pipeline import templates
from pipeline.engines import Request
from pipeline.key_index import KeyIndex
from pipeline.orders import Ask, Order, Row, Step, asks, last_id, missing
from pipeline.roles import thinking_budget
from pipeline.store import Store

WAITING = 256  # answers that may wait for their verdicts before more problems are begun
GATHERING_S = 0.02  # after one verdict, for the next, while the engine has nothing to do


@dataclass(frozen=True)
class Decision:
    """How the sampling of one problem ended: its samples by outcome, and how many more it would get today.

    `would_add` is not 0 only for a problem that was decided earlier, on answers that are judged otherwise now.
    """

    problem_id: str
    first_trace_id: str
    asked: int
    outcomes: Counter[str]
    would_add: int


@dataclass
class Course:
    """The samples of one problem: all at once, or a few at a time until enough of them are right."""

    order: Order
    asks: Sequence[Ask]
    number: int
    asked: int = 0
    running: int = 0  # of those asked, on their way or being judged
    closed: bool = False
    outcomes: Counter[str] = field(default_factory=Counter)

    def advance(self, store: Store) -> Iterator[tuple[Ask, Step | None]]:
        """The samples to go on with now, each with its request, or with None where it is stored and to be judged. No
        more of them are on their way than could still be needed.
        """
        while self.asked < len(self.asks) and not self._enough():
            ask = self.asks[self.asked]
            self.asked += 1
            step = missing(self.order, ask, store)
            if step is not None or self.order.enough is not None:
                self.running += 1
                yield ask, step

    def _enough(self) -> bool:
        enough = self.order.enough
        if enough is None or self.asks[0].id in self.order.settled:
            return False
        return self.outcomes["pass"] + self.running >= enough.right

    def decision(self) -> Decision | None:
        """None where nothing was to decide, or samples are still on their way or being judged."""
        if self.order.enough is None or self.running:
            return None
        more = 0 if self.outcomes["pass"] >= self.order.enough.right else self.order.samples - self.asked
        first = self.asks[0]
        return Decision(first.problem_id, first.id, self.asked, self.outcomes, more)


class Schedule:
    """The requests of several orders of one model, for an engine's `stream`, and what is known of those in flight.

    judges: where answers are judged, so that the engine is fed and its answers are stored while a verdict takes its
    time. What is asked does not depend on the order in which verdicts come.
    """

    def __init__(self, orders: Sequence[Order], store: Store, judges: Executor) -> None:
        self.spared = 0  # samples that decisions made unnecessary
        self.added = 0  # requests that answers called for: more tokens for what was cut off
        self._orders, self._store, self._judges = orders, store, judges
        self._courses = 0
        self._ended: dict[int, tuple[Order, Decision]] = {}  # by a course's number
        self._judging = 0
        self._verdicts: SimpleQueue[tuple[Course, Future[str]]] = SimpleQueue()
        self._decided = KeyIndex()  # the first samples of problems whose sampling is to end, or did
        self._running: dict[str, tuple[Course, Step]] = {}  # those in _next included
        self._next: deque[str] = deque()
        self._rendered: tuple[str, list[int] | None] = ("", None)

    def __len__(self) -> int:
        """Requests that wait for an answer."""
        return len(self._running)

    @property
    def decisions(self) -> list[tuple[Order, Decision]]:
        """How the sampling of each problem ended, in the problems' order."""
        return [self._ended[number] for number in sorted(self._ended)]

    def requests(self) -> Iterator[Request | None]:
        """Every request, as there is room for it; None where all that is left waits for an answer.

        What an answer calls for goes before new problems: its prefix is still in the engine's cache.
        """
        for order in self._orders:
            for _, group in groupby(asks(order), key=lambda ask: (ask.problem_id, ask.prompt)):
                course = Course(order, list(group), self._courses)
                if order.enough is not None and not self._decided.add(bytes.fromhex(course.asks[0].id)):
                    continue  # another problem or teacher has this prompt, and its samples decide for both
                self._courses += 1
                for each in course.advance(self._store):  # one by one: what is not handed out yet another may store
                    self._begin(course, *each)
                    yield from self._planned()
                self._close(course)
                self._hear(wait=False)
                yield from self._planned()
                while self._judging >= WAITING:
                    yield from self._later()
        while self._running or self._judging:
            yield from self._later()

    def _later(self) -> Iterator[Request | None]:
        """What verdicts call for: None where there is nothing yet, and never while the engine has nothing in hand."""
        self._hear(wait=not self._running)
        if self._next:
            yield from self._planned()
        elif self._running:
            yield None

    def _begin(self, course: Course, ask: Ask, step: Step | None) -> None:
        if step is None:
            self._judge(course, ask)
        else:
            self._plan(course, step)

    def _judge(self, course: Course, ask: Ask) -> None:
        """Have a sample judged whose last row is stored. Without a need for right answers nothing is judged."""
        if course.order.enough is None:
            course.running -= 1
            self._close(course)
            return
        row = self._store.get(last_id(course.order, ask, self._store))
        assert row is not None
        self._judging += 1
        verdict = self._judges.submit(course.order.enough.judge, ask.problem_id, row)
        verdict.add_done_callback(lambda done: self._verdicts.put((course, done)))

    def _hear(self, wait: bool) -> None:
        """Count the verdicts that have come, and plan what they call for.

        wait: for the first, if any is due, and for those on its heels: an idle engine gets more than one request.
        """
        pause_s = None
        while self._judging:
            try:
                course, verdict = self._verdicts.get(block=wait, timeout=pause_s)
            except Empty:
                return
            pause_s = GATHERING_S
            self._judging -= 1
            course.running -= 1
            course.outcomes[verdict.result()] += 1
            for each in course.advance(self._store):
                self._begin(course, *each)
            self._close(course)

    def _plan(self, course: Course, step: Step) -> None:
        if step.id in self._running:  # of another problem with the same prompt: it is asked once
            course.running -= 1
        else:
            self._running[step.id] = course, step
            self._next.append(step.id)

    def _planned(self) -> Iterator[Request]:
        while self._next:
            yield self._request(*self._running[self._next.popleft()])

    def _request(self, course: Course, step: Step) -> Request:
        order, ask = course.order, step.ask
        if order.tokenizer is not None and (self._rendered[1] is None or ask.prompt != self._rendered[0]):
            self._rendered = ask.prompt, templates.encode(order.tokenizer, ask.prompt)
        ids = None if order.tokenizer is None else self._rendered[1]
        request = Request(
            id=step.id,
            prompt=ask.prompt,
            prompt_token_ids=ids,
            messages=ask.messages,
            sampling=order.sampling,
            max_tokens=step.limit,
            sample=ask.sample,
            problem_text=ask.problem_text,
            # Those of a continuation would lack the tokens of its parent: the whole is scored when all is made.
            logprobs=order.logprobs if step.parent is None else 0,
            thinking_budget=thinking_budget(order.role),
        )
        return request if step.parent is None else _continued(request, step.parent)

    def running(self, request_id: str) -> tuple[Order, Step]:
        """What a request in flight was made for."""
        course, step = self._running[request_id]
        return course.order, step

    def take(self, request_id: str, failed: bool) -> None:
        """Note that the answer to a request is stored, and plan what it calls for: nothing where it failed, and never
        what was just asked, which an answer no better than the one stored before would call for without end.
        """
        course, step = self._running.pop(request_id)
        more = None if failed else missing(course.order, step.ask, self._store)
        if more is not None and (more.id, more.limit) != (step.id, step.limit):
            self.added += 1
            self._plan(course, more)
            return
        self._judge(course, step.ask)

    def _close(self, course: Course) -> None:
        decision = course.decision()
        if decision is not None and not course.closed:
            course.closed = True
            rest = course.asks[decision.asked :]
            self.spared += sum(missing(course.order, ask, self._store) is not None for ask in rest)
            self._ended[course.number] = course.order, decision


def _continued(request: Request, parent: Row) -> Request:
    """The request for the rest of a completion: what is written already counts as prompt, and towards the limits."""
    written = list(parent["token_ids"] or ())
    count = parent["completion_tokens"]
    sampling = request.sampling.model_copy(update={"min_tokens": max(0, request.sampling.min_tokens - count)})
    return replace(
        request,
        prompt=request.prompt + parent["raw"],
        prompt_token_ids=None if request.prompt_token_ids is None else [*request.prompt_token_ids, *written],
        sampling=sampling,
        max_tokens=request.max_tokens - count,
        begun=parent["raw"],
    )
