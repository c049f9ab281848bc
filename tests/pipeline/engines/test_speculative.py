"""Guessed tokens: greedy words are those of the model alone, labels follow them, and guesses are counted."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipeline import templates
from pipeline.engines import Completion, Engine, Request, start
from pipeline.engines.vllm import speculative_config, with_guesser
from pipeline.roles import Role, Sampling, Speculative
from pipeline.soft_labels import unpack
from tests import tiny

GREEDY = Sampling(temperature=0.0, top_p=1.0)
GUESSING = Speculative(method="ngram", num_speculative_tokens=3, prompt_lookup_min=1, prompt_lookup_max=3)
ROUNDING = 0.06  # of a packed logprob near -5, at most
# No token stands twice: after each, the guess is the one that follows it here.
ONCE = [int(token) for token in np.random.default_rng(3).permutation(np.arange(5, 350))[:200]]


@dataclass
class Guessing:
    """A tiny random model in vLLM, which guesses, and in transformers, which says what it should have done."""

    engine: Engine
    model: Any
    tokenizer: Any

    def logprobs(self, rows: list[list[int]]) -> npt.NDArray[np.float32]:
        """Of the token after each of some rows of one length: [N, V]."""
        import torch

        with torch.inference_mode():
            logits = self.model(torch.tensor(rows)).logits[:, -1]
        return np.asarray(logits.log_softmax(-1).numpy())


@pytest.fixture(scope="module")
def guessing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guessing]:
    import torch
    from transformers import AutoModelForCausalLM

    place = tmp_path_factory.mktemp("guessing")
    folder = tiny.build(place / "tiny")
    role = Role(
        model="tiny",
        dtype="float32",
        max_model_len=512,
        exec={"max_num_seqs": 64, "kv_cache_gib": 1, "speculative": GUESSING},
    )
    engine = start(role, folder, 5, place / "engine.log")
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        yield Guessing(engine, model, templates.load_tokenizer(folder))
    finally:
        engine.close()


def asked(number: int, ids: list[int], sampling: Sampling, max_tokens: int, **more: Any) -> Request:
    return Request(f"{number:032x}", "", ids, [], sampling, max_tokens, 0, "", **more)


def ids_of(answer: Completion) -> list[int]:
    assert answer.token_ids is not None
    return answer.token_ids


def greedy(guessing: Guessing, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(guessing.logprobs([ids])[0].argmax()))
    return ids[len(prompt) :]


def test_greedy_words_are_those_of_the_model_alone_and_the_guesses_are_counted(guessing: Guessing) -> None:
    prompts = [[9, 8, 7, 9, 8], [100, 101] * 8, ONCE[:50], [50] * 20, list(range(60, 90)) * 2]
    before = dict(guessing.engine.figures)
    requests = [asked(number, prompt, GREEDY, 60) for number, prompt in enumerate(prompts)]
    found = {int(each.id, 16): ids_of(each) for each in guessing.engine.stream(requests)}
    for number, prompt in enumerate(prompts):
        assert found[number] == greedy(guessing, prompt, len(found[number]))
    after = guessing.engine.figures
    guessed, accepted = (after[key] - before.get(key, 0) for key in ("guessed_tokens", "accepted_tokens"))
    assert 0 < accepted <= guessed
    assert accepted > 60  # a tiny model goes round in circles


@pytest.mark.xfail(
    reason="vLLM 0.32's CPU build judges guesses at no set temperature; `vllm.check_sampling` refuses it"
)
def test_a_guess_is_taken_as_often_as_the_model_says(guessing: Guessing) -> None:
    """The second token, which a guess follows the first to: where this passes, the refusal can go."""
    count = 600
    sampling = Sampling(temperature=1.0, top_p=1.0)
    answers = guessing.engine.stream(asked(number, ONCE, sampling, 2) for number in range(count))
    pairs = Counter(tuple(ids_of(answer)[:2]) for answer in answers)
    first = np.exp(guessing.logprobs([ONCE])[0])
    second = np.exp(guessing.logprobs([[*ONCE, token] for token in range(len(first))]))
    taken = sum(pairs[pair] for pair in pairwise(ONCE))
    share = sum(float(first[one] * second[one, two]) for one, two in pairwise(ONCE))
    assert abs(taken - share * count) < 5 * sqrt(share * (1 - share) * count) + 1


def test_each_token_of_a_step_has_its_label(guessing: Guessing) -> None:
    prompt = list(range(60, 90)) * 2
    before = guessing.engine.figures["accepted_tokens"]
    (answer,) = guessing.engine.stream([asked(1, prompt, GREEDY, 40, logprobs=5)])
    assert guessing.engine.figures["accepted_tokens"] > before
    ids = ids_of(answer)
    assert answer.labels is not None
    labels = unpack(answer.labels)
    assert labels.sampled.tolist() == ids
    exact = np.stack([guessing.logprobs([prompt + ids[:place]])[0] for place in range(len(ids))])
    assert np.abs(exact[np.arange(len(ids)), ids] - labels.sampled_logprobs).max() < ROUNDING
    likeliest = np.argsort(exact, axis=1)[:, -5:]
    assert (np.sort(labels.ids, axis=1) == np.sort(likeliest, axis=1)).all(axis=1).mean() > 0.9


def test_a_stored_completion_is_scored_where_the_engine_guesses_too(guessing: Guessing) -> None:
    made = asked(1, [100, 101] * 8, GREEDY, 40, logprobs=5)
    (answer,) = guessing.engine.stream([made])
    (scored,) = guessing.engine.stream([replace(made, score_ids=ids_of(answer))])
    assert answer.labels is not None
    assert scored.labels is not None
    assert unpack(scored.labels).sampled.tolist() == ids_of(answer)
    difference = unpack(scored.labels).sampled_logprobs - unpack(answer.labels).sampled_logprobs
    assert np.abs(difference).max() < 2 * ROUNDING


def test_nothing_guessed_stays_behind_a_stop_string(guessing: Guessing) -> None:
    prompts = [[token] * 16 for token in range(40, 340, 10)]
    answers = list(guessing.engine.stream(asked(number, prompt, GREEDY, 60) for number, prompt in enumerate(prompts)))
    readable = [answer for answer in answers if "\ufffd" not in answer.text and len(answer.text) > 20]
    assert readable
    for plain in readable:
        for place in range(10, 18):  # wherever in a step the string ends
            stop = plain.text[place : place + 2]
            sampling = GREEDY.model_copy(update={"stop": (stop,)})
            (answer,) = guessing.engine.stream([asked(99, prompts[int(plain.id, 16)], sampling, 60)])
            assert (answer.finish, answer.text) == ("stop", plain.text[: plain.text.find(stop)])
            ids = ids_of(answer)
            assert ids == ids_of(plain)[: len(ids)]
            assert stop in templates.decode(guessing.tokenizer, ids)
            assert stop not in templates.decode(guessing.tokenizer, ids[:-1])


def test_every_value_of_a_method_reaches_vllm_under_its_own_name(tmp_path: Path) -> None:
    assert speculative_config(GUESSING) == {
        "method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1, "prompt_lookup_max": 3,
    }  # fmt: skip
    drafting = Speculative(method="draft_model", model=str(tiny.build(tmp_path / "draft")), num_speculative_tokens=2)
    assert speculative_config(drafting) == {
        "method": "draft_model", "num_speculative_tokens": 2, "model": str(tmp_path / "draft"),
    }  # fmt: skip


def test_a_guessing_model_is_named_as_any_other_and_found_before_the_engine_starts(tmp_path: Path) -> None:
    tiny.build(tmp_path / "models" / "draft")
    role = Role(model="m", exec={"speculative": {"method": "draft_model", "model": "models/draft"}})
    found = with_guesser(role, tmp_path).exec.speculative
    assert found is not None
    assert found.model == str(tmp_path / "models" / "draft")
    missing = Role(model="m", exec={"speculative": {"method": "draft_model", "model": "models/drfat"}})
    with pytest.raises(ValueError, match="No model 'models/drfat'"):
        with_guesser(missing, tmp_path)
