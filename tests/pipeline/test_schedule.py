"""Second requests for what was cut off, and samples asked for only while they are needed."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import schedule
from pipeline.engines import Completion, Request, failed
from pipeline.engines.replay import Replay
from pipeline.orders import Enough, Order, Row, Truncated, asks, continuation_id, last_id, missing, stored
from pipeline.roles import Sampling, Teacher
from pipeline.sampling import Figures, complete
from pipeline.schedule import Decision
from pipeline.store import Store, writing

COUNTING = "one two three four five six seven eight"


def order(*problems: str, **changes: Any) -> Order:
    made = Order(
        role=Teacher(model="canned.jsonl", engine="replay"),
        weights="digest",
        problems=lambda: [{"id": f"id of {text}", "text": text, "task": "t"} for text in problems],
        texts={"question": "Q: {problem}"},
        tokenizer=None,
        sampling=Sampling(),
        samples=1,
        max_tokens=3,
    )
    return replace(made, **changes)


class Window:
    """The replay engine with several requests in flight, answered latest first; notes what it was asked."""

    def __init__(self, answers: Mapping[str, list[str]], size: int, fails: Callable[[Request], bool]) -> None:
        self.figures: dict[str, float] = {}
        self.asked: list[Request] = []
        self.most = 0
        self._replay, self._size, self._fails = Replay(dict(answers)), size, fails

    def stream(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        waiting, running = iter(requests), list[Request]()
        while True:
            while len(running) < self._size and (request := next(waiting, None)) is not None:
                running.append(request)
                self.asked.append(request)
            assert running or next(waiting, self) is self, "told to wait for what is not in flight"
            self.most = max(self.most, len(running))
            if not running:
                return
            request = running.pop()
            yield failed(request, "refused") if self._fails(request) else next(self._replay.stream([request]))

    def close(self) -> None:
        """Nothing is held."""


def run(
    folder: Path,
    asked: Order,
    answers: Mapping[str, list[str]],
    size: int = 4,
    fails: Callable[[Request], bool] = lambda request: False,
) -> tuple[Window, Figures, list[Decision]]:
    engine = Window(answers, size, fails)
    totals = []
    with writing(folder, "digest") as store:
        figures, decisions = complete([asked], store, lambda seed: engine, lambda *now: totals.append(now))
    if totals and not figures.errors:
        assert totals[-1][0] == totals[-1][1]  # the last line of progress says that all is done
    return engine, figures, [decision for _, decision in decisions]


def rows(folder: Path, asked: Order) -> list[dict[str, Any]]:
    store = Store(folder, "digest")
    return stored(asked, store, {last_id(asked, ask, store): ask for ask in asks(asked)})


def cut_off(how: Truncated, **changes: Any) -> Order:
    return order("count", "short", truncated=how, second_limit=6, **changes)


ANSWERS = {"count": [COUNTING], "short": ["one two"]}


def test_what_is_cut_off_stays_so_unless_the_order_says_otherwise(tmp_path: Path) -> None:
    _, figures, _ = run(tmp_path, cut_off("keep"), ANSWERS)
    assert [(row["raw"], row["finish"]) for row in rows(tmp_path, cut_off("keep"))] == [
        ("one two three ", "length"),
        ("one two", "stop"),
    ]
    assert (figures.bought, figures.added) == (2, 0)


def test_asked_again_it_is_the_same_trace_with_more_tokens(tmp_path: Path) -> None:
    first, _, _ = run(tmp_path, cut_off("keep"), ANSWERS)
    engine, figures, _ = run(tmp_path, cut_off("again"), ANSWERS)
    assert [(each.id, each.max_tokens, each.begun) for each in engine.asked] == [(first.asked[0].id, 6, "")]
    assert [(row["raw"], row["parent_trace_id"]) for row in rows(tmp_path, cut_off("again"))] == [
        ("one two three four five six ", None),
        ("one two", None),
    ]
    assert run(tmp_path, cut_off("again"), ANSWERS)[1].bought == 0
    assert (figures.wanted, figures.reused, figures.bought, figures.added) == (2, 1, 1, 0)


def test_within_one_run_the_second_request_follows_the_first(tmp_path: Path) -> None:
    engine, figures, _ = run(tmp_path, cut_off("again"), ANSWERS, size=1)
    assert [(each.problem_text, each.max_tokens) for each in engine.asked] == [("count", 3), ("count", 6), ("short", 3)]
    assert (figures.wanted, figures.bought, figures.added) == (2, 3, 1)


def test_continued_it_is_a_new_trace_that_names_its_parent_and_holds_all_words(tmp_path: Path) -> None:
    engine, figures, _ = run(tmp_path, cut_off("continue"), ANSWERS)
    parent = Store(tmp_path, "digest").get(engine.asked[0].id)
    assert parent is not None
    child, short = rows(tmp_path, cut_off("continue"))
    assert (child["id"], child["parent_trace_id"]) == (continuation_id(parent), parent["id"])
    assert (child["raw"], child["completion_tokens"], child["finish"], child["limit"]) == (
        "one two three four five six ",
        6,
        "length",
        6,
    )
    assert short["parent_trace_id"] is None
    assert parent["raw"] == "one two three "
    second = engine.asked[-1]
    assert (second.begun, second.max_tokens, second.prompt) == (
        "one two three ",
        3,
        engine.asked[0].prompt + parent["raw"],
    )
    assert figures.completion_tokens == 3 + 2 + 3
    assert run(tmp_path, cut_off("continue"), ANSWERS)[1].bought == 0


def test_what_was_continued_to_its_end_stays_where_the_first_limit_is_raised(tmp_path: Path) -> None:
    run(tmp_path, cut_off("continue"), ANSWERS)
    before = rows(tmp_path, cut_off("continue"))
    raised = replace(cut_off("continue"), max_tokens=5)
    assert run(tmp_path, raised, ANSWERS)[1].bought == 0
    assert rows(tmp_path, raised) == before
    assert run(tmp_path, replace(raised, second_limit=9), ANSWERS)[1].bought > 0


def test_a_continuation_that_ends_by_itself_has_ended(tmp_path: Path) -> None:
    run(tmp_path, cut_off("continue"), {**ANSWERS, "count": ["one two three four"]})
    assert [(row["raw"], row["finish"]) for row in rows(tmp_path, cut_off("continue"))] == [
        ("one two three four", "stop"),
        ("one two", "stop"),
    ]


def test_min_tokens_counts_what_is_written_already(tmp_path: Path) -> None:
    made = cut_off("continue", sampling=Sampling(min_tokens=5))
    engine, _, _ = run(tmp_path, made, ANSWERS)
    assert [each.sampling.min_tokens for each in engine.asked if each.problem_text == "count"] == [5, 2]


@pytest.mark.parametrize("how", ["again", "continue"])
def test_a_second_request_that_fails_leaves_the_first_answer_and_is_made_once_a_run(
    tmp_path: Path, how: Truncated
) -> None:
    engine, figures, _ = run(
        tmp_path, cut_off(how), ANSWERS, fails=lambda each: each.max_tokens != 3 or bool(each.begun)
    )
    assert len(engine.asked) == 3
    assert figures.errors == 1
    assert [row["raw"] for row in rows(tmp_path, cut_off(how))] == ["one two three ", "one two"]
    assert len(run(tmp_path, cut_off(how), ANSWERS)[0].asked) == 1


def test_what_the_context_cut_off_does_not_grow(tmp_path: Path) -> None:
    made = cut_off("continue")
    with writing(tmp_path, "digest") as store:
        ask = next(asks(made))
        row = {
            "id": ask.id,
            "finish": "length",
            "completion_tokens": 2,
            "limit": 3,
            "raw": "one two ",
            "token_ids": None,
        }
        store.append(row)
        assert missing(made, ask, store) is None


class Shorter(Window):
    """Ends every answer early and says that it was cut off, as a server does that was started with less context."""

    def __init__(self, tokens: int) -> None:
        super().__init__({}, 1, lambda request: False)
        self._tokens = tokens

    def stream(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        for request in requests:
            if request is not None:
                self.asked.append(request)
                assert len(self.asked) < 9, "asked without end"
                yield Completion(request.id, "one ", None, "length", None, 1, self._tokens)


@pytest.mark.parametrize("tokens", [0, 1, 3])
@pytest.mark.parametrize(
    "more", [order("count", max_tokens=6), order("count", truncated="again", second_limit=6)], ids=["raised", "again"]
)
def test_an_answer_no_better_than_the_stored_one_is_asked_for_once_a_run(
    tmp_path: Path, more: Order, tokens: int
) -> None:
    run(tmp_path, order("count"), ANSWERS)
    engine = Shorter(tokens)
    with writing(tmp_path, "digest") as store:
        figures, _ = complete([more], store, lambda seed: engine, lambda *_: None)
    assert (len(engine.asked), figures.bought) == (1, 1)
    assert [row["raw"] for row in rows(tmp_path, more)] == ["one two three " if tokens < 3 else "one "]


def adaptive(right: int, samples: int, settled: Mapping[str, int] | None = None, good: str = "good") -> Order:
    return order(
        "easy",
        "mixed",
        "hard",
        samples=samples,
        max_tokens=50,
        enough=Enough(right, lambda problem_id, row: "pass" if row["raw"] == good else "fail"),
        settled=settled or {},
    )


MIXED = {"easy": ["good"], "mixed": ["bad", "good"], "hard": ["bad"]}


@pytest.mark.parametrize("size", [1, 2, 7])
def test_a_problem_is_asked_until_enough_are_right_and_no_more(tmp_path: Path, size: int) -> None:
    engine, figures, decisions = run(tmp_path, adaptive(2, 6), MIXED, size)
    assert Counter(each.problem_text for each in engine.asked) == {"easy": 2, "mixed": 4, "hard": 6}
    assert {each.problem_id: (each.asked, dict(each.outcomes), each.would_add) for each in decisions} == {
        "id of easy": (2, {"pass": 2}, 0),
        "id of mixed": (4, {"pass": 2, "fail": 2}, 0),
        "id of hard": (6, {"fail": 6}, 0),
    }
    assert (figures.bought, figures.spared) == (12, 6)


def test_of_two_problems_with_one_prompt_the_first_decides_and_no_sample_is_bought_for_the_second(
    tmp_path: Path,
) -> None:
    made = adaptive(2, 6)
    twins = [{"id": name, "text": "mixed", "task": "t"} for name in ("first", "second")]
    engine, figures, decisions = run(tmp_path, replace(made, problems=lambda: twins), MIXED, 7)
    assert [(each.problem_id, each.asked) for each in decisions] == [("first", 4)]
    assert (len(engine.asked), figures.bought, figures.spared) == (4, 4, 2)


def test_decisions_come_out_alike_from_the_store_and_buy_nothing(tmp_path: Path) -> None:
    _, _, first = run(tmp_path, adaptive(2, 6), MIXED)
    engine, figures, again = run(tmp_path, adaptive(2, 6), MIXED)
    assert (engine.asked, figures.bought) == ([], 0)
    assert sorted(first, key=str) == sorted(again, key=str)


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(request: Request) -> bool:
        if request.problem_text == "hard" and request.sample == 2:
            raise Killed
        return False

    with pytest.raises(Killed):
        run(tmp_path, adaptive(2, 6), MIXED, 1, kill)
    before = len(Store(tmp_path, "digest"))
    engine, _, decisions = run(tmp_path, adaptive(2, 6), MIXED)
    assert len(engine.asked) == 12 - before
    assert sorted(each.asked for each in decisions) == [2, 4, 6]


def test_another_judge_lists_what_it_would_add_to_settled_problems_and_buys_nothing(tmp_path: Path) -> None:
    _, _, first = run(tmp_path, adaptive(2, 6), MIXED)
    settled = {each.first_trace_id: each.asked for each in first}
    engine, _, again = run(tmp_path, adaptive(2, 6, settled, good="bad"), MIXED)
    assert engine.asked == []
    assert {each.problem_id: (each.asked, each.would_add) for each in again} == {
        "id of easy": (2, 4),
        "id of mixed": (4, 0),
        "id of hard": (6, 0),
    }
    engine, _, _ = run(tmp_path, adaptive(2, 6, good="bad"), MIXED)
    assert Counter(each.problem_text for each in engine.asked) == {"easy": 4}


def test_failed_samples_are_no_right_ones(tmp_path: Path) -> None:
    engine, _, decisions = run(tmp_path, adaptive(1, 3), MIXED, fails=lambda each: each.problem_text == "easy")
    assert Counter(each.problem_text for each in engine.asked)["easy"] == 3
    assert {each.problem_id: each.asked for each in decisions}["id of easy"] == 3


def judged(made: Order, judge: Callable[[str, Row], str]) -> Order:
    assert made.enough is not None
    return replace(made, enough=Enough(made.enough.right, judge))


def test_a_verdict_that_takes_its_time_holds_back_neither_requests_nor_answers(tmp_path: Path) -> None:
    others = threading.Event()

    def judge(problem_id: str, row: Row) -> str:
        if problem_id == "id of easy":
            assert others.wait(60), "nothing else was judged meanwhile"
        elif problem_id == "id of hard":
            others.set()
        return "pass" if row["raw"] == "good" else "fail"

    engine, _, decisions = run(tmp_path, judged(adaptive(1, 1), judge), MIXED, 1)
    assert [each.problem_text for each in engine.asked] == ["easy", "mixed", "hard"]
    assert [each.problem_id for each in decisions] == ["id of easy", "id of mixed", "id of hard"]


@pytest.mark.parametrize("seed", range(5))
def test_what_is_asked_does_not_depend_on_when_verdicts_come(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(seed)
    monkeypatch.setattr(schedule, "WAITING", draw.choice([1, 3, 256]))
    names = [f"p{number}" for number in range(20)]
    answers = {name: [draw.choice(["good", "bad"]) for _ in range(7)] for name in names}

    def judge(problem_id: str, row: Row) -> str:
        time.sleep(draw.random() / 500)
        return "pass" if row["raw"] == "good" else "fail"

    problems = [{"id": name, "text": name, "task": "t"} for name in names]
    made = replace(judged(adaptive(2, 7), judge), problems=lambda: problems)
    expected = {name: next((n for n in range(8) if given[:n].count("good") == 2), 7) for name, given in answers.items()}
    engine, figures, first = run(tmp_path, made, answers, draw.choice([1, 4, 30]))
    assert Counter(each.problem_text for each in engine.asked) == expected
    assert figures.spared == 20 * 7 - sum(expected.values())
    _, figures, again = run(tmp_path, made, answers)
    assert figures.bought == 0
    assert [each.problem_id for each in first] == names
    assert again == first


def test_no_more_answers_wait_for_their_verdicts_than_a_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "WAITING", 3)
    waiting, most, submit = set[Any](), [], ThreadPoolExecutor.submit

    def judge(problem_id: str, row: Row) -> str:
        time.sleep(0.001)
        waiting.discard(problem_id)
        return "fail"

    def counting(self: ThreadPoolExecutor, *work: Any) -> Any:
        waiting.add(work[1])
        most.append(len(waiting))
        return submit(self, *work)

    problems = [{"id": f"p{number}", "text": f"p{number}", "task": "t"} for number in range(60)]
    made = replace(judged(adaptive(1, 1), judge), problems=lambda: problems)
    run(tmp_path, made, {each["text"]: ["bad"] for each in problems}, 60)
    monkeypatch.setattr(ThreadPoolExecutor, "submit", counting)
    run(tmp_path, made, {})
    assert len(most) == 60
    assert max(most) <= 3


def test_a_judge_that_cannot_judge_stops_the_sampling(tmp_path: Path) -> None:
    def judge(problem_id: str, row: Row) -> str:
        raise ValueError("the verifier cannot be loaded")

    with pytest.raises(ValueError, match="cannot be loaded"):
        run(tmp_path, judged(adaptive(1, 1), judge), MIXED)
