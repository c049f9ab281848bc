"""Which endpoint is asked next, and when a circuit opens and closes, on a clock that the test holds."""

from pipeline.engines.endpoints import (
    FAILURES_TO_OPEN,
    FIRST_COOLING_S,
    FIRST_PROBES,
    FIRST_REST_S,
    LONGEST_COOLING_S,
    LONGEST_REST_S,
    PROBES,
    RESTS,
    Endpoint,
    Endpoints,
    Turn,
)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def made(count: int = 1) -> tuple[Endpoints, Clock]:
    clock = Clock()
    return Endpoints([f"http://host-{number}/v1/" for number in range(count)], clock=clock), clock


def taken(endpoints: Endpoints, *failed_at: Endpoint) -> Turn:
    turn = endpoints.take(failed_at)
    assert turn is not None
    return turn


def broken(endpoints: Endpoints) -> None:
    """Fail at the only endpoint until its circuit opens."""
    for _ in range(FAILURES_TO_OPEN):
        endpoints.failed(taken(endpoints), "refused")


def failed_probe(endpoints: Endpoints, clock: Clock) -> float:
    """Wait until a probe may go, let it fail; the seconds waited."""
    waited = endpoints.wait_s()
    assert waited is not None
    clock.now += waited
    turn = taken(endpoints)
    assert turn.probe
    endpoints.failed(turn, "refused again")
    return waited


def test_the_endpoint_with_the_fewest_requests_in_flight_is_next() -> None:
    endpoints, _ = made(3)
    turns = [taken(endpoints) for _ in range(7)]
    assert [one.in_flight for one in endpoints.all] == [3, 2, 2]
    for turn in turns:
        if turn.endpoint is endpoints.all[1]:
            endpoints.answered(turn)
    assert [taken(endpoints).endpoint.url for _ in range(2)] == ["http://host-1/v1"] * 2
    assert [one.in_flight for one in endpoints.all] == [3, 2, 2]


def test_idle_endpoints_take_turns() -> None:
    endpoints, _ = made(2)
    for _ in range(6):
        endpoints.answered(taken(endpoints))
    assert [one.sent for one in endpoints.all] == [3, 3]


def test_a_circuit_opens_after_failures_in_a_row_only() -> None:
    endpoints, _ = made()
    for _ in range(3):
        for _ in range(FAILURES_TO_OPEN - 1):
            endpoints.failed(taken(endpoints), "refused")
        endpoints.answered(taken(endpoints))
    assert endpoints.circuits_opened == 0
    broken(endpoints)
    assert endpoints.circuits_opened == 1
    assert endpoints.take() is None
    assert endpoints.wait_s() == FIRST_COOLING_S


def test_after_cooling_one_probe_goes_and_its_answer_closes_the_circuit() -> None:
    endpoints, clock = made()
    broken(endpoints)
    clock.now += FIRST_COOLING_S
    probe = taken(endpoints)
    assert probe.probe
    assert endpoints.take() is None
    assert endpoints.wait_s() is None, "only the end of the probe decides"
    endpoints.answered(probe)
    assert not taken(endpoints).probe
    assert not taken(endpoints).probe


def test_a_probe_that_was_called_off_lets_another_go() -> None:
    endpoints, clock = made()
    broken(endpoints)
    clock.now += FIRST_COOLING_S
    endpoints.left(taken(endpoints))
    assert taken(endpoints).probe


def test_each_failed_probe_doubles_the_cooling_time_up_to_a_limit() -> None:
    endpoints, clock = made()
    endpoints.answered(taken(endpoints))
    broken(endpoints)
    waits = [failed_probe(endpoints, clock) for _ in range(40)]
    assert waits == [min(LONGEST_COOLING_S, FIRST_COOLING_S * 2**number) for number in range(40)]
    assert endpoints.failed_probes == 40
    assert endpoints.circuits_opened == 1


def test_what_was_sent_before_the_circuit_opened_does_not_open_it_further() -> None:
    endpoints, _ = made()
    early = [taken(endpoints) for _ in range(FAILURES_TO_OPEN + 10)]
    for turn in early:
        endpoints.failed(turn, "refused")
    assert endpoints.wait_s() == FIRST_COOLING_S
    assert endpoints.all[0].in_flight == 0


def test_a_late_answer_to_what_was_sent_before_closes_the_circuit() -> None:
    endpoints, _ = made()
    early = taken(endpoints)
    broken(endpoints)
    endpoints.answered(early)
    assert not taken(endpoints).probe


def test_an_open_circuit_leaves_all_to_the_others() -> None:
    endpoints, _ = made(2)
    first = endpoints.all[0]
    while not first.opened:
        turn = taken(endpoints)
        if turn.endpoint is first:
            endpoints.failed(turn, "refused")
        else:
            endpoints.answered(turn)
    before = first.sent
    assert {taken(endpoints).endpoint.url for _ in range(20)} == {"http://host-1/v1"}
    assert first.sent == before


def test_a_retry_goes_elsewhere_and_is_no_probe_where_it_can_choose() -> None:
    endpoints, clock = made(2)
    first, second = endpoints.all
    for _ in range(4):
        assert taken(endpoints, first).endpoint is second
    for _ in range(FAILURES_TO_OPEN):
        endpoints.failed(taken(endpoints, first), "refused")
    clock.now += FIRST_COOLING_S
    assert taken(endpoints, first).endpoint is first, "a live one before a probe"
    assert taken(endpoints).endpoint is first
    for _ in range(5):
        taken(endpoints, first)
    turn = taken(endpoints)
    assert (turn.endpoint, turn.probe) == (second, True)


def test_an_endpoint_that_asks_for_rest_gets_no_request_until_then() -> None:
    endpoints, clock = made(2)
    first, second = endpoints.all
    endpoints.rest(first, 17.0)
    endpoints.rest(first, 3.0)
    assert {taken(endpoints).endpoint for _ in range(5)} == {second}
    endpoints.rest(second, 30.0)
    assert endpoints.take() is None
    assert endpoints.wait_s() == 17.0
    clock.now += 17.0
    assert {taken(endpoints).endpoint for _ in range(5)} == {first}


def test_an_answer_does_not_cut_the_rest_short() -> None:
    endpoints, _ = made()
    turn = taken(endpoints)
    endpoints.rest(turn.endpoint, 17.0)
    endpoints.answered(turn)
    assert endpoints.take() is None


def test_an_address_that_never_answered_is_dead_sooner_than_one_that_did() -> None:
    for lived, probes in ((False, FIRST_PROBES), (True, PROBES)):
        endpoints, clock = made()
        if lived:
            endpoints.answered(taken(endpoints))
        broken(endpoints)
        for _ in range(probes):
            assert endpoints.obituary() is None
            failed_probe(endpoints, clock)
        said = endpoints.obituary()
        assert said is not None
        assert f"found refused again ({probes} probes failed); expected a completion" in said


def test_the_dead_are_still_probed_and_may_come_back() -> None:
    endpoints, clock = made()
    broken(endpoints)
    for _ in range(FIRST_PROBES):
        failed_probe(endpoints, clock)
    assert endpoints.obituary() is not None
    assert not endpoints.any_closed
    clock.now += endpoints.wait_s() or 0.0
    assert endpoints.obituary() is None, "a probe is due"
    probe = taken(endpoints)
    assert endpoints.obituary() is None, "a probe is under way"
    endpoints.answered(probe)
    assert endpoints.any_closed
    assert not taken(endpoints).probe


def test_while_one_endpoint_lives_there_is_no_obituary() -> None:
    endpoints, clock = made(2)
    first, second = endpoints.all
    endpoints.rest(second, 1e6)
    broken(endpoints)
    for _ in range(PROBES):
        endpoints.failed(taken(endpoints), "refused") if first.cools_until_s <= clock.now else None
        clock.now += LONGEST_COOLING_S
    assert first.dead
    assert endpoints.obituary() is None


def test_a_server_without_room_rests_longer_and_longer_until_it_serves_one() -> None:
    endpoints, clock = made()
    rests = []
    for _ in range(8):
        endpoints.crowded(taken(endpoints), "full")
        assert endpoints.take() is None
        waited = endpoints.wait_s()
        assert waited is not None
        rests.append(waited)
        clock.now += waited
    assert rests == [2, 4, 8, 16, 32, LONGEST_REST_S, LONGEST_REST_S, LONGEST_REST_S]
    endpoints.served(taken(endpoints))
    endpoints.crowded(taken(endpoints), "full")
    assert endpoints.wait_s() == FIRST_REST_S


def test_a_server_without_room_gets_half_as_many_requests_and_with_each_answer_more() -> None:
    endpoints, clock = made()
    (one,) = endpoints.all
    turns = [taken(endpoints) for _ in range(16)]
    for turn in turns[:6]:  # of what was in flight together only the first refusal tells something
        endpoints.crowded(turn, "full")
    assert (one.in_flight, one.room, endpoints.wait_s()) == (10, 8, None)
    clock.now += FIRST_REST_S
    for turn in turns[6:9]:
        assert endpoints.take() is None
        endpoints.served(turn)
    assert 8 < one.room < 9
    assert one.in_flight == 7
    taken(endpoints)
    assert endpoints.take() is None


def test_the_rest_that_a_server_asks_for_is_kept_and_one_request_always_has_room() -> None:
    endpoints, clock = made()
    for _ in range(3):
        turn = taken(endpoints)
        endpoints.crowded(turn, "full")
        endpoints.rest(turn.endpoint, 17.0)
        assert endpoints.wait_s() == 17
        clock.now += 17
    assert endpoints.all[0].room == 1
    assert endpoints.wait_s() == 0


def test_a_probe_needs_no_room() -> None:
    endpoints, clock = made()
    turns = [taken(endpoints) for _ in range(8)]
    endpoints.crowded(turns[0], "full")
    clock.now += FIRST_REST_S
    for turn in turns[1:6]:
        endpoints.failed(turn, "cut")
    clock.now += FIRST_COOLING_S
    assert taken(endpoints).probe
    assert endpoints.take() is None


def test_refusals_that_come_late_say_no_more_than_the_first() -> None:
    endpoints, clock = made()
    (one,) = endpoints.all
    turns = [taken(endpoints) for _ in range(16)]
    for turn in turns[:8]:
        endpoints.crowded(turn, "full")
        clock.now += 10
    assert (one.room, one.rests) == (8, 1)
    for turn in turns[8:]:
        endpoints.served(turn)
    endpoints.crowded(taken(endpoints), "full")
    assert (one.room, one.rests) == (1, 1)


def test_a_server_that_has_no_room_for_minutes_counts_as_dead_but_not_while_it_works_on_something() -> None:
    endpoints, clock = made()
    long = taken(endpoints)
    clock.now += 1
    for _ in range(RESTS + 1):
        endpoints.all[0].room = 2
        endpoints.crowded(taken(endpoints), "HTTP 429")
        waited = endpoints.wait_s()
        clock.now += FIRST_REST_S * 2**9 if waited is None else waited
    assert endpoints.obituary() is None
    endpoints.served(long)
    for _ in range(RESTS + 1):
        assert endpoints.obituary() is None
        waited = endpoints.wait_s()
        assert waited is not None
        clock.now += waited
        endpoints.crowded(taken(endpoints), "HTTP 429")
    assert "found HTTP 429 (no room after 8 rests)" in (endpoints.obituary() or "")
