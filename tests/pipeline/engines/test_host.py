"""What crosses between an engine's process and the one that uses it, however either of them ends."""

import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from pipeline.engines import Completion, Request
from pipeline.engines.host import Hosted, Place
from pipeline.engines.lifeline import descendants
from pipeline.roles import EngineExec, Role, Sampling
from tests.pipeline.engines.sparing import sparing
from tests.pipeline.engines.test_lifeline import eventually, gone

WINDOW = 3


class Counting:
    """An engine for the other process: answers with what it was asked, the oldest first, once nothing more comes."""

    def __init__(self, seed: int, place: Place) -> None:
        self.figures = {"asked": 0.0}
        self.window = WINDOW
        self.name = f"{place.number} of {place.of} with seed {seed}"

    def stream(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        running: list[Request] = []
        waiting = iter(requests)
        while True:
            while len(running) < self.window and (request := next(waiting, None)) is not None:
                running.append(request)
                self.figures["asked"] += 1
            oldest = running.pop(0)
            if oldest.prompt == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if oldest.prompt == "fail":
                raise RuntimeError("the weights are tired")
            time.sleep(0.001)
            text = self.name if oldest.prompt == "who" else f"heard {oldest.prompt}"
            yield Completion(oldest.id, text, [os.getpid()], "stop", None, 1, len(running))


def load(role: Role, model: Path, seed: int, place: Place) -> Counting:
    os.write(1, b"the engine's libraries speak")
    if role.model == "broken":
        raise ValueError("no such weights")
    return Counting(seed, place)


def start(tmp_path: Path, model: str = "any", replicas: int = 1) -> Hosted:
    role = Role(model=model, exec=EngineExec(replicas=replicas))
    return Hosted(__name__, role, tmp_path, 40, tmp_path / "logs" / "engine.log")


def requests(*prompts: str) -> list[Request]:
    return [Request(f"{number:032x}", prompt, None, [], Sampling(), 5, 0, "") for number, prompt in enumerate(prompts)]


def test_every_request_is_answered_once_and_the_engine_speaks_to_its_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    engine = start(tmp_path)
    taken: list[str] = []

    def asked() -> Iterator[Request]:
        for request in requests(*map(str, range(50))):
            taken.append(request.id)
            yield request

    answers = []
    for answer in engine.stream(asked()):
        answers.append(answer)
        assert len(taken) <= len(answers) + WINDOW, "more was taken than the engine has room for"
    assert sorted((each.id, each.text) for each in answers) == [
        (request.id, f"heard {request.prompt}") for request in requests(*map(str, range(50)))
    ]
    assert engine.figures["asked"] == 50
    assert {tuple(each.token_ids or ()) for each in answers} != {(os.getpid(),)}
    assert [each.text for each in engine.stream(requests("again"))] == ["heard again"]
    engine.close()
    engine.close()
    assert capfd.readouterr() == ("", "")
    assert "the engine's libraries speak" in (tmp_path / "logs" / "engine.log").read_text()


def test_its_process_ends_when_it_is_closed_even_with_work_in_flight(tmp_path: Path) -> None:
    before = descendants(os.getpid())
    engine = start(tmp_path)
    below = {pid: born for pid, born in descendants(os.getpid()).items() if pid not in before}
    assert len(below) == 2  # the engine, and the watch beside it
    next(engine.stream(requests("1", "2", "3")))
    engine.close()
    assert eventually(lambda: gone(below))


def test_an_engine_that_does_not_come_up_says_why_and_where_its_log_is(tmp_path: Path) -> None:
    before = descendants(os.getpid())
    with pytest.raises(ValueError, match=r"did not start with .*: no such weights\. Its log is .*engine\.log"):
        start(tmp_path, "broken")
    assert descendants(os.getpid()) == before


@pytest.mark.parametrize(
    ("prompt", "cause"), [("die", "its process was killed by signal 9"), ("fail", "the weights are tired")]
)
def test_an_engine_that_dies_is_an_error_after_all_that_it_had_finished(
    tmp_path: Path, prompt: str, cause: str
) -> None:
    engine = start(tmp_path)
    answers = engine.stream(requests("1", "2", prompt, "4"))
    assert [next(answers).text, next(answers).text] == ["heard 1", "heard 2"]
    with pytest.raises(ValueError, match=rf"died while generating: {cause}\. Its log is .*run again for the others"):
        next(answers)
    engine.close()


def test_replicas_share_one_queue_and_siblings_stay_together(tmp_path: Path) -> None:
    engine = start(tmp_path, replicas=2)
    prompts = [f"problem {number // 2}" for number in range(60)]
    served: dict[str, set[int]] = {}
    ids = []
    for answer in engine.stream(requests(*prompts)):
        ids.append(answer.id)
        served.setdefault(answer.text, set()).update(answer.token_ids or ())
    assert sorted(ids) == [request.id for request in requests(*prompts)]
    assert len(set.union(*served.values())) == 2, "one of the replicas had nothing to do"
    assert all(len(pids) == 1 for pids in served.values())
    assert engine.figures == {"asked": 60}
    named = {answer.text for answer in engine.stream(requests("who", "x", "y", "who"))}
    assert named == {"0 of 2 with seed 40", "1 of 2 with seed 41", "heard x", "heard y"}
    engine.close()
    logs = [tmp_path / "logs" / f"engine-{number}.log" for number in (0, 1)]
    assert all("libraries speak" in log.read_text() for log in logs)


@pytest.mark.parametrize("replicas", [1, 2])
def test_no_request_at_the_moment_is_not_the_end(tmp_path: Path, replicas: int) -> None:
    engine = start(tmp_path, replicas=replicas)
    asked = requests(*map(str, range(20)))
    found: list[Completion] = []
    for each in engine.stream(sparing(asked, found, 2)):
        found.append(each)
    engine.close()
    assert sorted(each.id for each in found) == [each.id for each in asked]


def test_when_one_replica_dies_the_others_end_too(tmp_path: Path) -> None:
    engine = start(tmp_path, replicas=2)
    answers = engine.stream(requests("1", "die", "2", "3"))
    with pytest.raises(ValueError, match=r"killed by signal 9\. Its log is .*engine-\d\.log"):
        list(answers)
    engine.close()
