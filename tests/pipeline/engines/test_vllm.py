"""vLLM itself, with a small real model, and with a tiny random one where an engine of its own is needed."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipeline import models, templates
from pipeline.engines import Completion, Request
from pipeline.engines.host import Place
from pipeline.engines.lifeline import descendants
from pipeline.engines.vllm import Vllm, params_of, part, sampling_params, visible_gpus
from pipeline.orders import Order, Row, asks, last_id, stored
from pipeline.roles import Sampling, Teacher
from pipeline.sampling import REPLACED, complete
from pipeline.soft_labels import SoftLabels, unpack
from pipeline.store import Store, writing
from pipeline.think import CLOSE, OPEN, split
from tests import tiny
from tests.pipeline.engines.conftest import MODEL, ROOT, Running
from tests.pipeline.engines.test_lifeline import eventually, gone
from tests.workload import Kept

SAMPLING = Sampling(temperature=0.8, top_p=0.95)
STORY = "Tell me a story about a fox and a stone."


def request(
    running: Running,
    number: int,
    text: str,
    sampling: Sampling = SAMPLING,
    max_tokens: int = 24,
    logprobs: int = 0,
) -> Request:
    messages = templates.conversation("{problem}", text)
    prompt, ids = templates.render(running.tokenizer, messages), templates.prompt_ids(running.tokenizer, messages)
    return Request(f"{number:032x}", prompt, ids, messages, sampling, max_tokens, 0, text, logprobs=logprobs)


def is_text_of(running: Running, text: str, token_ids: list[int]) -> bool:
    """Whether a text is that of its tokens. The half of a character that a limit cut, and the space before it, are held
    back.
    """
    text, whole = text.rstrip(REPLACED), templates.decode(running.tokenizer, token_ids)
    return whole.startswith(text) and whole[len(text) :].strip(f"{REPLACED} ") == ""


def test_more_requests_than_its_window_are_each_answered_once_and_decode_to_their_text(vllm_engine: Running) -> None:
    taken: list[str] = []

    def watched() -> Iterator[Request]:
        for number in range(40):
            asked = request(vllm_engine, number, f"What is {number // 4} plus {number % 7}?")
            taken.append(asked.id)
            yield asked

    found = []
    for answer in vllm_engine.engine.stream(watched()):
        assert len(taken) - len(found) <= 24  # one and a half times max_num_seqs
        found.append(answer)
    assert sorted(each.id for each in found) == sorted(taken)
    for each in found:
        assert each.token_ids is not None
        assert each.completion_tokens == len(each.token_ids) <= 24
        ids = each.token_ids[:-1] if each.finish == "stop" else each.token_ids
        assert is_text_of(vllm_engine, each.text, ids)
        assert each.finish == ("stop" if each.token_ids[-1] == vllm_engine.tokenizer.eos_token_id else "length")


def test_prompt_token_ids_are_used_as_they_are(vllm_engine: Running) -> None:
    asked = request(vllm_engine, 1, "What is 2 plus 2?", Sampling(temperature=0.0))
    assert asked.prompt_token_ids is not None
    answer = next(vllm_engine.engine.stream([asked]))
    assert answer.prompt_tokens == len(asked.prompt_token_ids)
    doubled = Request("2" * 32, asked.prompt, asked.prompt_token_ids * 2, [], asked.sampling, 4, 0, "")
    assert next(vllm_engine.engine.stream([doubled])).prompt_tokens == 2 * len(asked.prompt_token_ids)


def test_siblings_share_their_prompt(vllm_engine: Running) -> None:
    text = "What is the sum of seven apples and nine pears? Think step by step and keep it short. " * 3
    before = dict(vllm_engine.engine.figures)
    list(vllm_engine.engine.stream(request(vllm_engine, number, text) for number in range(8)))
    after = vllm_engine.engine.figures
    assert after["cached_prompt_tokens"] > before["cached_prompt_tokens"]


def test_a_prompt_longer_than_the_context_is_an_error_and_the_others_go_on(vllm_engine: Running) -> None:
    long = Request("f" * 32, "", list(range(5, 700)), [], SAMPLING, 5, 0, "")
    found = list(vllm_engine.engine.stream([long, request(vllm_engine, 1, "What is 1 plus 1?")]))
    assert {each.id: each.finish == "error" for each in found} == {"f" * 32: True, f"{1:032x}": False}
    cause = next(each.cause for each in found if each.finish == "error")
    assert cause is not None
    assert "maximum context length" in cause


def story(running: Running, text: str, samples: int, **changes: Any) -> Order:
    made = Order(
        role=Teacher(model=MODEL, max_model_len=512),
        weights="w",
        problems=lambda: [{"id": "p", "text": text, "task": "story"}],
        texts={"question": "{problem}"},
        tokenizer=running.tokenizer,
        sampling=Sampling(temperature=1.0),
        samples=samples,
        max_tokens=24,
    )
    return replace(made, **changes)


def test_a_continued_completion_is_its_own_tokens_and_text_from_the_start(vllm_engine: Running, tmp_path: Path) -> None:
    text = "Repeat these words: żółw 🐢🐢🐢 žluťoučký kůň 🦊🪨🐎 日本語の勉強 🐢 żółw 🦊"
    order = story(vllm_engine, text, 16, max_tokens=7, truncated="continue", second_limit=40)
    with writing(tmp_path, "w") as store:
        figures, _ = complete([order], store, lambda seed: Kept(vllm_engine.engine), lambda *_: None)
    store = Store(tmp_path, "w")
    found = last_rows(order, store)
    continued = [row for row in found if row["parent_trace_id"] is not None]
    assert len(continued) == figures.added > 8
    for row in continued:
        parent = store.get(row["parent_trace_id"])
        assert parent is not None
        assert row["token_ids"][:7] == parent["token_ids"]
        assert len(row["token_ids"]) == row["completion_tokens"] <= 40
        ids = row["token_ids"][:-1] if row["finish"] == "stop" else row["token_ids"]
        assert is_text_of(vllm_engine, row["raw"], ids)


def test_raising_n_gives_new_samples_and_leaves_the_old_ones_as_they_were(vllm_engine: Running, tmp_path: Path) -> None:
    def sampled(samples: int) -> dict[str, str]:
        order = story(vllm_engine, "Tell me a story about a fox and a stone.", samples)
        with writing(tmp_path, "w") as store:
            complete([order], store, lambda seed: Kept(vllm_engine.engine), lambda *_: None)
        store = Store(tmp_path, "w")
        return {row["id"]: row["raw"] for row in store.rows(ask.id for ask in asks(order))}

    four, eight = sampled(4), sampled(8)
    assert {key: eight[key] for key in four} == four
    assert len(set(eight.values())) == 8


OPENED = f"{OPEN}\n"  # as the templates of thinking models end a prompt; the line's end is a token, and counts


def thinking(running: Running, number: int, budget: int | None, logprobs: int = 0) -> Request:
    """A request whose prompt has opened the reasoning, and that may not end by itself for long."""
    asked = request(running, number, STORY, SAMPLING.model_copy(update={"min_tokens": 40}), 48, logprobs)
    prompt = asked.prompt + OPENED
    ids = templates.encode(running.tokenizer, prompt)
    return replace(asked, prompt=prompt, prompt_token_ids=ids, thinking_budget=budget)


def tag(running: Running, text: str) -> int:
    (token,) = templates.encode(running.tokenizer, text)
    return token


def test_reasoning_is_closed_at_its_budget_and_the_answer_goes_on(vllm_engine: Running) -> None:
    close = tag(vllm_engine, CLOSE)
    budgets = [1, 2, 7, 23, 100, None] * 3  # side by side in one batch, each counted for itself
    asked = [thinking(vllm_engine, number, budget) for number, budget in enumerate(budgets)]
    found = {int(each.id, 16): each for each in vllm_engine.engine.stream(asked)}
    for number, budget in enumerate(budgets):
        answer = found[number]
        assert answer.token_ids is not None
        assert answer.completion_tokens == len(answer.token_ids) >= 40
        ended = answer.finish == "stop"
        assert is_text_of(vllm_engine, answer.text, answer.token_ids[: -1 if ended else None])
        if budget in (100, None):  # more than there is room for: it would have gone on
            assert close not in answer.token_ids
            continue
        assert answer.token_ids.index(close) == budget - 1
        assert split(answer.text, thinking=True).faults in ((), ("think_empty",))
        assert split(answer.text, thinking=True).answer[1] == len(answer.text)


def test_a_closing_tag_put_in_has_a_label_as_any_other_token(vllm_engine: Running) -> None:
    close = tag(vllm_engine, CLOSE)
    answer = next(vllm_engine.engine.stream([thinking(vllm_engine, 1, 9, logprobs=5)]))
    labels = labels_of(answer)
    assert answer.token_ids is not None
    assert labels.sampled.tolist() == answer.token_ids
    assert answer.token_ids[8] == close
    assert labels.sampled_logprobs[8] < -5  # raw: what the model thought of it


def test_a_continuation_counts_its_parents_reasoning_towards_the_budget(vllm_engine: Running, tmp_path: Path) -> None:
    close = tag(vllm_engine, CLOSE)
    opening = tiny.CHAT_TEMPLATE.replace("assistant\n", f"assistant\n{OPENED}")
    tokenizer = templates.load_tokenizer(vllm_engine.model, opening)
    order = story(
        vllm_engine,
        STORY,
        8,
        role=Teacher(model=MODEL, max_model_len=512, thinking=True, thinking_budget=12),
        tokenizer=tokenizer,
        sampling=Sampling(temperature=1.0, min_tokens=30),
        max_tokens=7,
        truncated="continue",
        second_limit=40,
    )
    with writing(tmp_path, "w") as store:
        complete([order], store, lambda seed: Kept(vllm_engine.engine), lambda *_: None)
    store = Store(tmp_path, "w")
    found = last_rows(order, store)
    assert len(found) == 8
    for row in found:
        parent = store.get(row["parent_trace_id"])
        assert parent is not None
        assert (parent["finish"], len(parent["token_ids"]), close in parent["token_ids"]) == ("length", 7, False)
        assert row["token_ids"][:7] == parent["token_ids"]
        assert row["token_ids"].index(close) == 11
        assert row["completion_tokens"] == len(row["token_ids"])
        ids = row["token_ids"][: -1 if row["finish"] == "stop" else None]
        assert is_text_of(vllm_engine, row["raw"], ids)


def last_rows(order: Order, store: Store) -> list[Row]:
    """What the store holds last of all samples of an order."""
    return list(stored(order, store, {last_id(order, ask, store): ask for ask in asks(order)}))


def test_its_libraries_speak_to_the_log_alone(vllm_engine: Running, capfd: pytest.CaptureFixture[str]) -> None:
    list(vllm_engine.engine.stream([request(vllm_engine, 1, "What is 1 plus 1?")]))
    assert capfd.readouterr() == ("", "")
    assert "engine" in vllm_engine.log.read_text()


def labels_of(answer: Completion) -> SoftLabels:
    assert answer.labels is not None
    return unpack(answer.labels)


def exact_logprobs(running: Running, asked: Request, token_ids: list[int]) -> npt.NDArray[np.float32]:
    """The whole vocabulary's raw logprobs of each token of a completion [T, V], by transformers in float32 on the same
    weights, which are bfloat16.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(models.fetch(MODEL, ROOT, lambda line: None), dtype=torch.float32)
    prompt = asked.prompt_token_ids or []
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + token_ids])).logits[0, len(prompt) - 1 : -1]
    return np.asarray(logits.log_softmax(-1, dtype=torch.float32).numpy())


def test_labels_are_the_raw_logprobs_of_the_tokens_that_were_sampled(vllm_engine: Running) -> None:
    hot = Sampling(temperature=1.5, top_p=0.5, presence_penalty=1.0)  # none of which a raw logprob shows
    asked = request(vllm_engine, 1, STORY, hot, logprobs=50)
    answer = next(vllm_engine.engine.stream([asked]))
    assert answer.token_ids is not None
    labels = labels_of(answer)
    assert labels.sampled.tolist() == answer.token_ids
    exact = exact_logprobs(vllm_engine, asked, answer.token_ids)
    assert labels.ids.shape == (len(answer.token_ids), 50)
    near = np.take_along_axis(exact, labels.ids.astype(np.int64), axis=1)
    # The engine rounds to bfloat16, in every layer. Of 40 completions the .95 quantile was .14 to .23, the mean .05 to
    # .08, the largest .25 to .88; transformers in bfloat16 was .12 to .19, .05 to .07 and .20 to .63 apart.
    likely = labels.logprobs > -8
    apart = np.abs(near - labels.logprobs)[likely]
    assert np.quantile(apart, 0.95) < 0.35
    assert apart.max() < 1.5
    assert apart.mean() < 0.12
    assert np.abs(1 - np.exp(near).sum(axis=1) - labels.tail).max() < 0.05
    # Of a token shifted by one place they are something else altogether.
    shifted = np.take_along_axis(exact[1:], labels.ids[:-1].astype(np.int64), axis=1)
    assert np.abs(shifted - labels.logprobs[:-1])[likely[:-1]].mean() > 1


def test_each_request_of_a_batch_gets_the_candidates_it_asked_for(vllm_engine: Running) -> None:
    wanted = [0, 1, 5, 50, 0, 200]
    asked = [request(vllm_engine, number, STORY, logprobs=k) for number, k in enumerate(wanted)]
    found = {int(each.id, 16): each for each in vllm_engine.engine.stream(asked)}
    for number, k in enumerate(wanted):
        if not k:
            assert found[number].labels is None
            continue
        labels = labels_of(found[number])
        assert labels.sampled.tolist() == found[number].token_ids
        assert labels.ids.shape[1] == k
        assert all(len(set(row)) == k for row in labels.ids.tolist())


def test_a_greedy_token_is_its_first_candidate(vllm_engine: Running) -> None:
    labels = labels_of(
        next(vllm_engine.engine.stream([request(vllm_engine, 1, STORY, Sampling(temperature=0.0), 24, 5)]))
    )
    assert (
        labels.sampled == labels.ids[:, 0]
    ).mean() > 0.9  # two may round to one logprob: then the lower id comes first


@pytest.mark.parametrize("max_tokens", [1, 2, 24, 512])
def test_a_stored_completion_scored_later_gets_the_labels_it_would_have_had(
    vllm_engine: Running, max_tokens: int
) -> None:
    """512 is the context: what fills it to the last token is scored too. It is in the prefix cache then, own tokens and
    all, which have no logits there: it is scored once more without.
    """
    asked = request(vllm_engine, 1, STORY, Sampling(temperature=1.0, min_tokens=max_tokens), max_tokens, 20)
    made = next(vllm_engine.engine.stream([asked]))
    scored = next(vllm_engine.engine.stream([replace(asked, id="5" * 32, score_ids=made.token_ids)]))
    assert (scored.finish, scored.text, scored.token_ids) == ("stop", "", made.token_ids)
    ours, theirs = labels_of(made), labels_of(scored)
    assert theirs.sampled.tolist() == made.token_ids
    assert np.abs(ours.sampled_logprobs - theirs.sampled_logprobs)[ours.sampled_logprobs > -8].max() < 0.5
    assert np.abs(ours.tail - theirs.tail).mean() < 0.02
    both = [len(set(one) & set(two)) for one, two in zip(ours.ids.tolist(), theirs.ids.tolist(), strict=True)]
    assert np.mean(both) > 18


def test_a_prompt_is_read_once_for_all_completions_of_it_that_are_scored(vllm_engine: Running) -> None:
    asked = replace(request(vllm_engine, 1, STORY * 8, Sampling(), 1, 5), prompt="")
    assert asked.prompt_token_ids is not None
    prompt = asked.prompt_token_ids
    twins = [replace(asked, id=f"{number:032x}", score_ids=[*prompt[number : number + 40]]) for number in range(3)]
    first = {one.id: labels_of(one) for one in vllm_engine.engine.stream(twins)}
    before = dict(vllm_engine.engine.figures)
    last = replace(twins[0], id="9" * 32, score_ids=prompt[3:43])
    again = [*vllm_engine.engine.stream([last]), *vllm_engine.engine.stream(twins[:1])]
    now = vllm_engine.engine.figures
    # The last one's own tokens are new; the first one's are in the cache, from which none of them is taken.
    assert 0 < now["cached_prompt_tokens"] - before["cached_prompt_tokens"] <= len(prompt)
    assert np.allclose(labels_of(again[1]).tail, first[twins[0].id].tail, atol=0.02)
    assert labels_of(again[0]).sampled.tolist() == prompt[3:43]


def test_more_candidates_than_the_vocabulary_has_are_an_error(tmp_path: Path) -> None:
    class Tiny:
        def get_vocab_size(self) -> int:
            return 400

    class Never:
        model_config = Tiny()

    asked = Request("1" * 32, "", [5, 6], [], SAMPLING, 5, 0, "", logprobs=401)
    refused = Vllm._add(None, Never(), asked)  # type: ignore[arg-type]
    assert refused is not None
    assert refused.cause == "refused by vLLM: logprobs = 401, and the vocabulary has 400 tokens"


def test_every_sampling_value_reaches_vllm() -> None:
    sampling = Sampling(
        temperature=0.3, top_p=0.4, top_k=5, min_p=0.1, repetition_penalty=1.2, presence_penalty=0.3,
        frequency_penalty=0.2, min_tokens=3, stop=("END",),
    )  # fmt: skip
    params = sampling_params(sampling, 77)
    given = sampling.model_dump() | {"stop": ["END"], "max_tokens": 77, "n": 1, "seed": None}
    assert {key: getattr(params, key) for key in given} == given
    assert params.thinking_token_budget is None


def test_a_budget_reaches_vllm_where_something_is_generated_and_not_where_it_is_scored() -> None:
    asked = Request("1" * 32, "", [5, 6], [], SAMPLING, 5, 0, "", thinking_budget=9)
    assert params_of(asked).thinking_token_budget == 9
    assert params_of(replace(asked, score_ids=[7, 8], logprobs=3)).thinking_token_budget is None


@pytest.mark.parametrize(
    ("devices", "least", "place", "found"),
    [
        ("abcd", 1, Place(), "abcd"),
        ("abcd", 2, Place(0, 2), "ab"),
        ("abcd", 2, Place(1, 2), "cd"),
        ("abcde", 1, Place(1, 2), "cd"),
        ("ab", 1, Place(1, 2), "b"),
    ],
)
def test_a_replica_takes_its_own_part_of_the_devices(devices: str, least: int, place: Place, found: str) -> None:
    assert part(devices, least, place) == list(found)


def test_more_replicas_than_devices_are_refused() -> None:
    with pytest.raises(ValueError, match=r"replicas is 3 with 2 device\(s\) for each, but only 4 can be used"):
        part("abcd", 2, Place(0, 3))


def test_the_gpus_are_those_that_the_environment_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7")
    assert visible_gpus() == ["4", "GPU-7"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


ENGINE_SCRIPT = """
import os, sys, time
from pathlib import Path
from pipeline.engines import Request, start
from pipeline.engines.lifeline import descendants
from pipeline.roles import Role, Sampling

def main():
    os.sched_setaffinity(0, range(os.cpu_count()))  # each replica needs a core, and the tests may have been given one
    folder, log = Path(sys.argv[1]), Path(sys.argv[2])
    role = Role(model="tiny", max_model_len=128, exec={"max_num_seqs": 4, "kv_cache_gib": 1, "replicas": 2})
    for seed in (1, 2):
        engine = start(role, folder, seed, log)
        asked = [Request(f"{n:032x}", "", [5, 6, 7 + n], [], Sampling(), 8, 0, "") for n in range(6)]
        answered = sorted(each.id for each in engine.stream(asked)) == [each.id for each in asked]
        if seed == 1:
            engine.close()
        print(answered, len(descendants(os.getpid())), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    main()
"""


def test_a_second_engine_starts_where_one_was_closed_and_nothing_outlives_a_sigkill(tmp_path: Path) -> None:
    script = tmp_path / "engine_script.py"
    script.write_text(ENGINE_SCRIPT)
    command = [sys.executable, str(script), str(tiny.build(tmp_path / "tiny")), str(tmp_path / "log")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    assert running.stdout is not None
    try:
        closed = running.stdout.readline()
        assert closed == "True 0\n", (tmp_path / "log-0").read_text()
        # Two replicas, and the watch beside them.
        assert running.stdout.readline() == "True 3\n", (tmp_path / "log-0").read_text()
        below = descendants(running.pid)
    finally:
        running.kill()
        running.wait()
        running.stdout.close()
    assert eventually(lambda: gone(below))
