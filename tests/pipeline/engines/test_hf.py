from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import templates
from pipeline.engines import Completion, Engine, Request, start
from pipeline.engines.hf import generation_values
from pipeline.roles import Role, Sampling
from tests import tiny
from tests.pipeline.engines.sparing import sparing


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build(tmp_path_factory.mktemp("tiny"))


def role(**settings: Any) -> Role:
    return Role(model="tiny", engine="hf", dtype="float32", max_model_len=128, exec={"max_num_seqs": 3}, **settings)


def requests(folder: Path, count: int, sampling: Sampling, max_tokens: int = 12) -> Iterator[Request]:
    tokenizer = templates.load_tokenizer(folder)
    for number in range(count):
        messages = templates.conversation("{problem}", f"What is {number} + {'1' * number}?")
        prompt, ids = templates.render(tokenizer, messages), templates.prompt_ids(tokenizer, messages)
        yield Request(f"{number:032x}", prompt, ids, messages, sampling, max_tokens, 0, "")


def texts(engine: Engine, asked: Iterator[Request]) -> dict[str, str]:
    return {each.id: each.text for each in engine.stream(asked)}


def test_every_request_is_answered_once_and_its_tokens_decode_to_its_text(folder: Path) -> None:
    engine, tokenizer = start(role(), folder, 1), templates.load_tokenizer(folder)
    found = list(engine.stream(requests(folder, 7, Sampling(temperature=1.0))))
    engine.close()
    assert sorted(each.id for each in found) == [f"{number:032x}" for number in range(7)]
    for each in found:
        assert each.token_ids is not None
        assert 0 < each.completion_tokens == len(each.token_ids) <= 12
        ids = each.token_ids[:-1] if each.finish == "stop" else each.token_ids
        assert each.text == tokenizer.decode(ids, skip_special_tokens=False)
        assert (each.finish == "length") is (tokenizer.eos_token_id not in each.token_ids)


def test_where_there_is_no_request_at_the_moment_the_batch_goes_as_it_is(folder: Path) -> None:
    engine, asked = start(role(), folder, 1), list(requests(folder, 7, Sampling()))
    found: list[Completion] = []
    for each in engine.stream(sparing(asked, found, 2)):
        found.append(each)
    engine.close()
    assert sorted(each.id for each in found) == [each.id for each in asked]


def test_greedy_answers_do_not_depend_on_their_batch(folder: Path) -> None:
    asked = list(requests(folder, 4, Sampling(temperature=0.0)))
    engine = start(role(), folder, 1)
    together = texts(engine, iter(asked))
    alone = {each.id: next(engine.stream([each])).text for each in asked}
    engine.close()
    assert together == alone


def test_the_seed_decides_the_samples(folder: Path) -> None:
    drawn = []
    for seed in (1, 1, 2):
        engine = start(role(), folder, seed)
        drawn.append(texts(engine, requests(folder, 3, Sampling(temperature=1.0))))
        engine.close()
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_stop_string_ends_a_text_before_it(folder: Path) -> None:
    engine = start(role(), folder, 1)
    (asked,) = requests(folder, 1, Sampling(temperature=0.0))
    plain = next(engine.stream([asked])).text
    stop = plain[3]
    (stopping,) = requests(folder, 1, Sampling(temperature=0.0, stop=(stop,)))
    stopped = next(engine.stream([stopping]))
    engine.close()
    assert (stopped.text, stopped.finish) == (plain[: plain.index(stop)], "stop")


def test_a_prompt_that_leaves_no_room_is_an_error(folder: Path) -> None:
    engine = start(role(), folder, 1)
    long = Request("f" * 32, "", [5] * 128, [], Sampling(), 5, 0, "")
    found = next(engine.stream([long]))
    engine.close()
    assert (found.finish, found.cause) == ("error", "the prompt fills max_model_len (128)")


@pytest.mark.parametrize("values", [{"presence_penalty": 0.5}, {"frequency_penalty": -1.0}])
def test_penalties_it_does_not_have_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="use engine vllm"):
        generation_values(Sampling(**values))


def test_a_quantization_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="quantization 'fp8' is vLLM's"):
        start(role(quantization="fp8"), folder, 1)
