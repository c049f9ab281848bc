from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tokenizers.decoders import DecodeStream

from pipeline.engines import Completion, Engine, Request
from pipeline.engines.replay import Replay
from pipeline.orders import Ask, Order, asks, completions, conversation, open_tokenizer, prompt_names, served, stored
from pipeline.roles import Sampling, Student, Teacher
from pipeline.sampling import Figures, complete, engine_seed
from pipeline.store import Entry, Store, writing
from tests import tiny

TEXTS = {"question": "Q: {problem}", "short": "Short: {problem}", "calm": "Be calm."}


class Watched:
    """The replay engine, telling what it was asked and that it was closed."""

    def __init__(self, answers: dict[str, list[str]]) -> None:
        self.inner = Replay(answers)
        self.figures = {"hits": 1.0}
        self.asked: list[Request] = []
        self.closed = False

    def stream(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        def seen() -> Iterator[Request | None]:
            for request in requests:
                if request is not None:
                    self.asked.append(request)
                yield request

        return self.inner.stream(seen())

    def close(self) -> None:
        self.closed = True


def problems(*numbers: int) -> list[dict[str, Any]]:
    return [{"id": f"p{number}", "text": f"{number}+1?", "task": "sum"} for number in numbers]


def order(*numbers: int, **changes: Any) -> Order:
    made = Order(
        role=Teacher(model="canned.jsonl", engine="replay"),
        weights="digest",
        problems=lambda: problems(*numbers),
        texts=TEXTS,
        tokenizer=None,
        sampling=Sampling(temperature=0.6),
        samples=2,
        max_tokens=100,
    )
    return replace(made, **changes)


ANSWERS = {f"{number}+1?": [f"one more is {number + 1} ({sample})" for sample in range(8)] for number in range(6)}


def bought(
    root: Path, made: Order, *others: Order, answers: dict[str, list[str]] | None = None
) -> tuple[list[str], Figures]:
    """Complete orders; the ids that were asked of the engine, in order, and the figures."""
    engines: list[Watched] = []

    def start(seed: int) -> Engine:
        assert 0 <= seed < 2**31
        engines.append(Watched(ANSWERS if answers is None else answers))
        return engines[-1]

    with writing(root, made.weights) as store:
        figures, _ = complete([made, *others], store, start, lambda done, total, note: None)
    assert all(engine.closed for engine in engines)
    return [request.id for engine in engines for request in engine.asked], figures


def ids(made: Order) -> list[str]:
    return [ask.id for ask in asks(made)]


def test_samples_of_a_problem_are_together_and_every_id_differs() -> None:
    made = list(asks(order(1, 2, samples=3)))
    assert [(ask.problem_id, ask.sample) for ask in made] == [
        (problem, sample) for problem in ("p1", "p2") for sample in range(3)
    ]
    assert len({ask.id for ask in made}) == 6


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"max_tokens": 7}, True),
        ({"role": Teacher(model="elsewhere", engine="replay", exec={"delay_s": 3})}, True),
        ({"role": Student(model="canned.jsonl", engine="replay")}, True),
        ({"weights": "other"}, False),
        ({"sampling": Sampling(temperature=0.7)}, False),
        ({"sampling": Sampling(temperature=0.6, stop=("END",))}, False),
        ({"role": Teacher(model="canned.jsonl", engine="replay", prompt="short")}, False),
        ({"role": Teacher(model="canned.jsonl", engine="replay", system="calm")}, False),
        ({"role": Teacher(model="canned.jsonl", engine="replay", task_prompts={"sum": "short"})}, False),
        ({"role": Teacher(model="canned.jsonl", engine="replay", task_prompts={"gcd": "short"})}, True),
        ({"role": Teacher(model="canned.jsonl", engine="replay", dtype="float32")}, False),
        ({"role": Teacher(model="canned.jsonl", engine="replay", max_model_len=512)}, False),
        ({"role": Teacher(model="canned.jsonl", engine="replay", quantization="fp8")}, False),
        ({"role": Teacher(model="canned.jsonl", thinking=True)}, True),
        ({"role": Teacher(model="canned.jsonl", thinking=True, thinking_budget=64)}, False),
    ],
)
def test_an_id_changes_with_what_could_change_the_words_and_with_nothing_else(
    changes: dict[str, Any], same: bool
) -> None:
    before, after = ids(order(1, 2)), ids(order(1, 2, **changes))
    assert (before == after) is same
    assert same or not set(before) & set(after)


def test_a_problem_keeps_its_ids_whatever_stands_around_it() -> None:
    alone, among = ids(order(2)), ids(order(3, 2, 1))
    assert among[2:4] == alone
    assert ids(order(2, samples=5))[:2] == alone


def test_raising_n_and_adding_or_reordering_problems_asks_only_for_what_is_new(tmp_path: Path) -> None:
    first, figures = bought(tmp_path, order(1, 2))
    assert (len(first), figures.wanted, figures.reused, figures.bought) == (4, 4, 0, 4)
    assert bought(tmp_path, order(2, 1))[0] == []
    more, figures = bought(tmp_path, order(1, 2, samples=3))
    assert (len(more), figures.reused) == (2, 4)
    assert not set(more) & set(first)
    added, _ = bought(tmp_path, order(5, 1, 2, samples=3))
    assert added == ids(order(5, samples=3))
    hotter, _ = bought(tmp_path, order(1, 2, sampling=Sampling(temperature=0.9)))
    assert len(hotter) == 4
    assert not set(hotter) & set(first)


def test_orders_of_one_model_share_an_engine_and_what_both_ask_is_asked_once(tmp_path: Path) -> None:
    calm = order(2, 3, role=Teacher(model="canned.jsonl", engine="replay", system="calm"))
    asked, figures = bought(tmp_path, order(1, 2), calm, order(2, 5))
    assert asked == [*ids(order(1, 2)), *ids(calm), *ids(order(5))]
    assert figures.wanted == figures.bought == len(asked) == 10
    assert len({row["engine_seed"] for each in asked if (row := Store(tmp_path, "digest").get(each))}) == 1
    assert bought(tmp_path, order(5), calm)[0] == []


def test_an_engine_is_started_only_if_something_is_missing(tmp_path: Path) -> None:
    bought(tmp_path, order(1))

    def start(seed: int) -> Engine:
        raise AssertionError("nothing is missing")

    with writing(tmp_path, "digest") as store:
        figures, _ = complete([order(1)], store, start, lambda *_: None)
    assert (figures.reused, figures.engine_seed, figures.tokens_per_s) == (2, None, 0.0)


def test_more_tokens_ask_again_for_the_truncated_ones_alone(tmp_path: Path) -> None:
    answers = {"1+1?": ["2", "a long way to 2"], "2+1?": ["3", "3"]}
    made = order(1, 2, max_tokens=3)
    bought(tmp_path, made, answers=answers)
    truncated = ids(made)[1]
    assert Store(tmp_path, "digest").entry(truncated) == Entry("length", 3, 3)
    assert bought(tmp_path, order(1, 2, max_tokens=2), answers=answers)[0] == []
    assert bought(tmp_path, order(1, 2, max_tokens=50), answers=answers)[0] == [truncated]
    row = Store(tmp_path, "digest").get(truncated)
    assert row is not None
    assert row["raw"] == "a long way to 2"
    assert bought(tmp_path, made, answers=answers)[0] == []


def test_failed_requests_are_stored_with_their_cause_and_asked_again(tmp_path: Path) -> None:
    missing, figures = bought(tmp_path, order(1, 99))
    assert (figures.errors, figures.bought) == (2, 4)
    failed = Store(tmp_path, "digest").get(missing[2])
    assert failed is not None
    assert (failed["finish"], failed["cause"]) == ("error", "no canned answer")
    again, figures = bought(tmp_path, order(1, 99), answers={**ANSWERS, "99+1?": ["100"]})
    assert (again, figures.errors) == (missing[2:], 0)


def test_too_many_failures_end_it_at_once_and_keep_what_finished(tmp_path: Path) -> None:
    watched = Watched(ANSWERS)
    with (
        pytest.raises(ValueError, match=r"3 of 8 completions failed, more than error_share_limit \(0.25\).*no canned"),
        writing(tmp_path, "digest") as store,
    ):
        complete([order(1, 98, 99, 2)], store, lambda seed: watched, lambda *_: None, error_share_limit=0.25)
    assert watched.closed
    assert len(watched.asked) == 5
    assert bought(tmp_path, order(1))[0] == []


def test_an_interrupt_keeps_what_finished_and_closes_the_engine(tmp_path: Path) -> None:
    watched = Watched(ANSWERS)

    def progress(done: int, total: int, note: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), writing(tmp_path, "digest") as store:
        complete([order(1, 2)], store, lambda seed: watched, progress)
    assert watched.closed
    assert bought(tmp_path, order(1, 2))[0] == ids(order(1, 2))[3:]


def test_the_seed_follows_the_pending_ids_so_that_more_samples_are_no_copies(tmp_path: Path) -> None:
    _, first = bought(tmp_path, order(1))
    _, second = bought(tmp_path, order(1, samples=3))
    assert first.engine_seed == engine_seed(ids(order(1)))
    assert first.engine_seed != second.engine_seed


def test_the_seed_does_not_depend_on_the_order_of_the_ids() -> None:
    pending = ids(order(1, 2, 3, 4))
    assert engine_seed(pending) == engine_seed(reversed(pending)) != engine_seed(pending[1:])


def test_an_engine_that_swallows_a_request_is_found_out(tmp_path: Path) -> None:
    class Forgetful(Watched):
        def stream(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
            list(iter(partial(next, iter(requests)), None))  # all there are at the moment
            return iter(())

    with pytest.raises(RuntimeError, match="without an answer to 2 requests"), writing(tmp_path, "digest") as store:
        complete([order(1)], store, lambda seed: Forgetful({}), lambda *_: None)


def test_stored_rows_come_in_the_order_asked_as_this_run_knows_them(tmp_path: Path) -> None:
    bought(tmp_path, order(1, 2))
    rows: list[Mapping[str, Any]] = [{**row, "id": f"new-{row['id']}"} for row in problems(2, 1)]
    renamed = order(role=Teacher(model="new-name.jsonl", engine="replay"), problems=lambda: rows)
    wanted: list[Ask] = list(asks(renamed))
    found = stored(renamed, Store(tmp_path, "digest"), {ask.id: ask for ask in wanted})
    assert [(row["id"], row["problem_id"], row["teacher"]) for row in found] == [
        (ask.id, ask.problem_id, "new-name.jsonl") for ask in wanted
    ]
    assert [row["raw"] for row in found] == [*ANSWERS["2+1?"][:2], *ANSWERS["1+1?"][:2]]


@pytest.mark.parametrize(
    ("entry", "max_tokens", "expected"),
    [
        (None, 10, False),
        (Entry("stop", 3, 10), 999, True),
        (Entry("stop", 30, 100), 10, True),
        (Entry("length", 10, 10), 10, True),
        (Entry("length", 10, 10), 9, True),
        (Entry("length", 10, 10), 11, False),
        (Entry("length", 7, 10), 10, True),  # the context ended it, and would again
        (Entry("length", 7, 10), 11, True),
        (Entry("length", 0, 10), 11, False),  # how many tokens it has is not known
        (Entry("error", 0, 10), 1, False),
    ],
)
def test_what_serves(entry: Entry | None, max_tokens: int, expected: bool) -> None:
    assert served(entry, max_tokens) is expected


def test_the_prompts_of_a_role_are_named_once_each() -> None:
    role = Teacher(model="m", system="calm", chat_template="plain", task_prompts={"sum": "short", "gcd": "short"})
    assert prompt_names(role) == ("question", "short", "calm", "chat/plain")


def test_a_task_may_have_a_prompt_of_its_own() -> None:
    role = Teacher(model="m", system="calm", task_prompts={"sum": "short"})
    assert conversation(role, TEXTS, {"text": "1+1?", "task": "sum"}) == [
        {"role": "system", "content": "Be calm."},
        {"role": "user", "content": "Short: 1+1?"},
    ]


def test_a_chat_template_that_a_server_would_ignore_is_refused() -> None:
    def model() -> Path:
        raise AssertionError("a server has no local model")

    assert open_tokenizer(Teacher(model="m", engine="openai"), model, {}) is None
    with pytest.raises(ValueError, match="chat_template is 'plain' with engine openai, which applies none of ours"):
        Teacher(model="m", engine="openai", chat_template="plain")


def test_a_thinking_budget_needs_tags_that_are_one_token_each(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tokenizer = tiny.tokenizer()
    tokenizer.save_pretrained(folder)
    role = Teacher(model="m", thinking=True, thinking_budget=64)
    assert open_tokenizer(role.model_copy(update={"thinking_budget": None}), lambda: folder, {}) is not None
    with pytest.raises(ValueError, match=r"the tokenizer of m makes \d+ of <think>: .* Unset thinking_budget"):
        open_tokenizer(role, lambda: folder, {})
    tokenizer.add_tokens(["<think>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"\d+ of </think>"):
        open_tokenizer(role, lambda: folder, {})
    tokenizer.add_tokens(["</think>"])
    tokenizer.save_pretrained(folder)
    assert open_tokenizer(role, lambda: folder, {}) is not None


@pytest.mark.parametrize(
    ("sampling", "on_cpu", "says"),
    [
        (Sampling(min_p=0.1, temperature=0.0), True, r"sampling has min_p 0\.1, and m has exec\.speculative"),
        (Sampling(min_p=0.1), False, r"sampling has min_p 0\.1, and m has exec\.speculative"),
        (Sampling(temperature=0.6), True, r"sampling has temperature 0\.6, and m has exec\.speculative; vLLM's CPU"),
        (Sampling(temperature=0.6), False, None),
        (Sampling(temperature=0.0), True, None),
    ],
)
def test_guessed_tokens_are_refused_where_they_would_change_what_is_drawn(
    sampling: Sampling, on_cpu: bool, says: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.engines.vllm.on_cpu", lambda: on_cpu)
    guessing = Teacher(model="m", exec={"speculative": {"method": "ngram"}})
    with nullcontext() if says is None else pytest.raises(ValueError, match=says):
        assert ids(order(1, role=guessing, sampling=sampling)) == ids(order(1, sampling=sampling))
    order(1, role=Teacher(model="m"), sampling=sampling)


class Streaming:
    """An engine that writes one answer, and tells its text as vLLM's detokenizer streams it.

    The answer is its text's tokens and those that end it, of which the engine's text holds nothing.
    """

    def __init__(self, tokenizer: Any, answer: list[int], ends: list[int]) -> None:
        self.figures: dict[str, float] = {}
        self.tokenizer, self.answer, self.ends = tokenizer, answer, ends
        self.base: int | None = None  # tokens of the prompt alone

    def told(self, prompt: list[int], tokens: list[int]) -> str:
        """The text of tokens that follow a prompt, as FastIncrementalDetokenizer of vLLM 0.32 makes it."""
        inner, text = self.tokenizer.backend_tokenizer, ""
        stream = DecodeStream(ids=prompt, skip_special_tokens=False)
        for token in tokens:
            try:
                text += stream.step(inner, token) or ""
            except Exception:
                stream = DecodeStream(skip_special_tokens=False)
                text += stream.step(inner, token) or ""
        return text

    def stream(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        for request in requests:
            assert request is not None
            assert request.prompt_token_ids is not None
            prompt = request.prompt_token_ids
            self.base = len(prompt) if self.base is None else self.base
            done = len(prompt) - self.base
            tokens = [*self.answer, *self.ends][done : done + request.max_tokens]
            text = self.told(prompt, self.answer[done : done + request.max_tokens])
            finish = "stop" if done + len(tokens) == len(self.answer) + len(self.ends) else "length"
            yield Completion(request.id, text, tokens, finish, None, len(prompt), len(tokens))

    def close(self) -> None:
        """Nothing is held."""


@pytest.mark.parametrize("stop", [None, "END"])
def test_a_continuation_is_whole_wherever_the_limit_cut_its_parent(tmp_path: Path, stop: str | None) -> None:
    tokenizer = tiny.tokenizer()
    text = "a 🐢ż🪨 日本 개발🦊. 12"
    answer = tokenizer(text)["input_ids"]
    ends = [tokenizer.eos_token_id] if stop is None else tokenizer(stop)["input_ids"]
    assert len(answer) > 3 * len(text) / 2  # most characters are several tokens
    for limit in range(1, len(answer)):
        asked = order(
            1,
            samples=1,
            tokenizer=tokenizer,
            sampling=Sampling(stop=() if stop is None else (stop,)),
            max_tokens=limit,
            truncated="continue",
            second_limit=100,
        )
        with writing(tmp_path / f"{limit}", "w") as store:
            complete([asked], store, lambda seed: Streaming(tokenizer, answer, ends), lambda *_: None)
        [row] = completions(asked, Store(tmp_path / f"{limit}", "w"))
        assert (row["raw"], row["finish"], row["token_ids"]) == (text, "stop", [*answer, *ends])
