import json
from pathlib import Path

import pytest

from pipeline.engines import Completion, Request, start
from pipeline.engines.replay import NOTHING_CANNED, Replay, read_answers
from pipeline.roles import Role, Sampling


def request(sample: int, text: str = "1+1?", max_tokens: int = 100) -> Request:
    return Request(f"{sample:032x}", "a rendered prompt", None, [], Sampling(), max_tokens, sample, text)


def test_sample_i_takes_completion_i_from_the_start_again() -> None:
    engine = Replay({"1+1?": ["one", "two", "three"]})
    answers = engine.stream(request(sample) for sample in range(5))
    assert [answer.text for answer in answers] == ["one", "two", "three", "one", "two"]


def test_no_request_at_the_moment_is_not_the_end() -> None:
    answers = Replay({"1+1?": ["one", "two"]}).stream([request(0), None, None, request(1)])
    assert [answer.text for answer in answers] == ["one", "two"]


def test_a_problem_without_an_answer_is_an_error_with_its_cause() -> None:
    answer = next(Replay({}).stream([request(0)]))
    assert (answer.finish, answer.cause, answer.text) == ("error", NOTHING_CANNED, "")


@pytest.mark.parametrize(
    ("max_tokens", "text", "finish", "tokens"),
    [(4, " 2 plus 2  is", "length", 4), (5, " 2 plus 2  is 4\n", "stop", 5), (9, " 2 plus 2  is 4\n", "stop", 5)],
)
def test_a_token_is_a_word_and_the_limit_cuts(max_tokens: int, text: str, finish: str, tokens: int) -> None:
    answer = next(Replay({"1+1?": [" 2 plus 2  is 4\n"]}).stream([request(0, max_tokens=max_tokens)]))
    assert (answer.text.rstrip(" "), answer.finish, answer.completion_tokens) == (text, finish, tokens)
    assert answer.prompt_tokens == 3


def test_it_starts_from_a_file_beside_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "canned.jsonl"
    path.write_text(json.dumps({"text": "1+1?", "completions": ["2"]}) + "\n\n")
    engine = start(Role(model="somewhere/else.jsonl", engine="replay"), path, 7)
    assert list(engine.stream([request(0)])) == [Completion(request(0).id, "2", None, "stop", None, 3, 1)]


@pytest.mark.parametrize(
    "line",
    [
        '{"text": "1+1?"',
        '["1+1?", "2"]',
        '{"completions": ["2"]}',
        '{"text": "1+1?", "completions": "2"}',
        '{"text": 3}',
        '{"text": "1+1?", "completions": ["2 \\ud83d"]}',
        '{"text": "1+1? \\ud83d", "completions": ["2"]}',
    ],
)
def test_a_line_of_another_shape_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "canned.jsonl"
    path.write_text('{"text": "1+1?", "completions": []}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"line 2.*expected"):
        read_answers(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.jsonl is not a file"):
        start(Role(model=str(tmp_path / "none.jsonl"), engine="replay"), None, 0)
