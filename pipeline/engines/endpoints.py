"""The addresses that one model is served at: which of them the next request goes to, and which are left alone for now.

It sends nothing and waits for nothing: the engine does both, and reports here what came of it.

Each endpoint stands behind a circuit breaker (M. T. Nygard, Release It!, 2nd edition 2018, chapter 5). A closed circuit
lets requests through; after FAILURES_TO_OPEN failures in a row it opens, and the endpoint gets none for a cooling time;
then one request goes to it as a probe, which closes the circuit or opens it again for twice as long.

A server that refuses for want of room (HTTP 429) is not broken: it rests, then gets half as many requests at a time,
and with each answer a little more (additive increase, multiplicative decrease: D. M. Chiu and R. Jain, Analysis of the
increase and decrease algorithms for congestion avoidance in computer networks, 1989).
"""

import math
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

FAILURES_TO_OPEN = 5
FIRST_COOLING_S = 2.0  # doubled with each probe that fails
LONGEST_COOLING_S = 60.0
FIRST_REST_S = 2.0  # where a server without room does not say for how long; doubled until it answers one request
LONGEST_REST_S = 60.0
# Failed probes in a row after which an endpoint counts as dead. One that answered before may be restarting, which takes
# minutes; one that never did is more likely a wrong address, which its user should hear of soon.
PROBES, FIRST_PROBES = 8, 3
RESTS = 8  # in a row, four minutes at least, after which a server without room counts as dead too


@dataclass(eq=False)
class Endpoint:
    """One address and what is known of it. Times are those of the clock of its `Endpoints`."""

    url: str
    in_flight: int = 0
    sent: int = 0
    served: int = 0  # requests that it answered with a completion
    room: float = math.inf  # requests in flight that it is taken to have room for; at least 1
    rests: int = 0  # in a row for want of room
    halved_at: int = 0  # requests sent when its room was last halved
    failures: int = 0  # in a row, while the circuit is closed
    opened: int = 0  # times in a row that the circuit opened; 0: it is closed
    probed: bool = False  # a probe is under way
    cools_until_s: float = 0.0
    rests_until_s: float = 0.0  # as the server asked, or for want of room
    answered: bool = False  # ever
    cause: str = ""  # of its last failure
    refused: frozenset[str] = frozenset()  # fields that its server does not know (`chat.refused`)

    @property
    def dead(self) -> bool:
        full = self.rests > RESTS and not self.in_flight
        return full or self.opened > (PROBES if self.answered else FIRST_PROBES)

    @property
    def ending(self) -> str:
        """What is known of how it came to be dead."""
        rests, probes = f"no room after {self.rests - 1} rests", f"{self.opened - 1} probes failed"
        return f"{self.cause or self.url} ({rests if self.rests > RESTS else probes})"

    @property
    def full(self) -> bool:
        """Whether it has no room for another request, or for another probe."""
        return self.probed if self.opened else self.in_flight + 1 > self.room


@dataclass(frozen=True)
class Turn:
    """One request's place at an endpoint, handed back through exactly one of served, answered, crowded, failed and
    left."""

    endpoint: Endpoint
    probe: bool
    number: int  # of those sent to that endpoint, from 1


class Endpoints:
    """All endpoints of a model. Not for several threads at once."""

    def __init__(
        self,
        urls: Iterable[str],
        first_cooling_s: float = FIRST_COOLING_S,
        first_rest_s: float = FIRST_REST_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.all = [Endpoint(url.rstrip("/")) for url in urls]
        self.circuits_opened = 0
        self.failed_probes = 0
        self._first_cooling_s, self._first_rest_s, self._clock = first_cooling_s, first_rest_s, clock

    @property
    def any_closed(self) -> bool:
        """Whether any circuit lets requests through."""
        return any(not one.opened for one in self.all)

    def take(self, failed_at: Collection[Endpoint] = ()) -> Turn | None:
        """A turn at the endpoint with the fewest requests in flight, or None where none may be asked now.

        `failed_at` are those where the request failed before: it goes elsewhere where it can, and not as a probe.
        """
        now = self._clock()
        free = [one for one in self.all if self._free_at_s(one) <= now and not one.full]
        if not free:
            return None
        retry = bool(failed_at)
        best = min(free, key=lambda one: (retry and one.opened > 0, one in failed_at, one.in_flight, one.sent))
        best.in_flight += 1
        best.sent += 1
        probe = best.opened > 0
        best.probed = best.probed or probe
        return Turn(best, probe, best.sent)

    def served(self, turn: Turn) -> None:
        """The server gave a completion: it has room for a little more."""
        self.answered(turn)
        one = turn.endpoint
        one.served += 1
        one.rests = 0
        one.room += 1 / one.room

    def crowded(self, turn: Turn, cause: str) -> None:
        """The server has no room: it rests. Refusals of what was in flight with the first refused tell nothing new."""
        one = turn.endpoint
        if turn.number > one.halved_at:
            one.halved_at = one.sent
            one.room = max(1.0, min(one.room, one.in_flight) / 2)
            rest_s = min(LONGEST_REST_S, self._first_rest_s * 2 ** min(one.rests, 30))
            one.rests += 1
            self.rest(one, rest_s)
        self.answered(turn)
        one.cause = cause

    def answered(self, turn: Turn) -> None:
        """The server gave an answer, be it a refusal: it lives, and its circuit closes."""
        one = self._back(turn)
        one.answered, one.failures, one.opened, one.cools_until_s = True, 0, 0, 0.0

    def failed(self, turn: Turn, cause: str) -> None:
        """The server gave no answer, or none that can be used."""
        one = self._back(turn)
        one.cause = cause
        if one.opened:
            # What was sent before the circuit opened tells nothing new; only the probe does.
            if turn.probe:
                self.failed_probes += 1
                self._open(one)
            return
        one.failures += 1
        if one.failures >= FAILURES_TO_OPEN:
            self.circuits_opened += 1
            self._open(one)

    def left(self, turn: Turn) -> None:
        """The request was called off before its end was known."""
        self._back(turn)

    def rest(self, endpoint: Endpoint, pause_s: float) -> None:
        """Leave an endpoint alone for as long as its server asked: new requests too (RFC 6585, section 4)."""
        endpoint.rests_until_s = max(endpoint.rests_until_s, self._clock() + pause_s)

    def wait_s(self) -> float | None:
        """Seconds until an endpoint may be asked; None where the end of a probe or of a request decides that."""
        times = [self._free_at_s(one) for one in self.all if not one.full]
        return max(0.0, min(times) - self._clock()) if times else None

    def obituary(self) -> str | None:
        """Why no request can be answered, once every endpoint is dead and none is about to be probed; else None."""
        now = self._clock()
        if not all(one.dead and not one.probed and self._free_at_s(one) > now for one in self.all):
            return None
        found = "; ".join(one.ending for one in self.all)
        several = "one of these servers" if len(self.all) > 1 else "this server"
        return (
            f"no server answers; found {found}; expected a completion from {several}. Start it again or mend "
            f"exec.base_urls, then run again: only what is missing is asked for."
        )

    def _back(self, turn: Turn) -> Endpoint:
        turn.endpoint.in_flight -= 1
        if turn.probe:
            turn.endpoint.probed = False
        return turn.endpoint

    def _open(self, one: Endpoint) -> None:
        cooling_s = min(LONGEST_COOLING_S, self._first_cooling_s * 2 ** min(one.opened, 30))
        one.opened += 1
        one.failures = 0
        one.cools_until_s = self._clock() + cooling_s

    def _free_at_s(self, one: Endpoint) -> float:
        return max(one.cools_until_s, one.rests_until_s)
