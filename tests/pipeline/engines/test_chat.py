"""The chat completions protocol on its own: answers, refusals and Retry-After, as servers write them."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from pipeline.engines import Request
from pipeline.engines.chat import NAMEABLE, NEUTRAL, Permanent, body, completion, refused, retry_after_s
from pipeline.roles import Sampling


def request(sampling: Sampling | None = None) -> Request:
    return Request("0" * 32, "", None, [{"role": "user", "content": "q"}], sampling or Sampling(), 50, 0, "q")


@pytest.mark.parametrize(
    ("message", "finish", "text"),
    [
        ({"content": "4"}, "stop", "4"),
        ({"content": "4", "reasoning_content": None}, "stop", "4"),
        ({"content": "\n\n4", "reasoning_content": "2 and 2"}, "stop", "<think>2 and 2</think>\n\n4"),
        ({"content": "4", "reasoning": "2 and 2\n"}, "stop", "<think>2 and 2\n</think>4"),
        ({"content": None, "reasoning_content": "2 and"}, "length", "<think>2 and"),
        ({"content": None}, "length", ""),
        ({"content": "half \ud83d a sign"}, "stop", "half \ufffd a sign"),
    ],
)
def test_reasoning_that_a_server_took_out_is_put_back(message: dict[str, Any], finish: str, text: str) -> None:
    answer = {"choices": [{"message": message, "finish_reason": finish}]}
    found = completion(request(), answer)
    assert (found.text, found.finish, found.completion_tokens) == (text, finish, 0)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("7", 7.0),
        (" 1.5", 1.5),
        ("9" * 400, float("inf")),
        ("soon", None),
        ("-3", None),
        ("Sat, 21 Nov 2026 16:00:00 +" + "9" * 30, None),
    ],
)
def test_retry_after_in_seconds(value: str | None, seconds: float | None) -> None:
    assert retry_after_s(value) == seconds


def test_retry_after_as_a_date() -> None:
    later = retry_after_s(format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True))
    assert later is not None
    assert 60 < later <= 90
    assert retry_after_s(format_datetime(datetime.now(UTC) - timedelta(seconds=90), usegmt=True)) == 0.0


def test_the_neutral_values_are_the_defaults_of_a_recipe() -> None:
    assert {name: getattr(Sampling(), name) for name in NEUTRAL} == NEUTRAL
    assert set(NAMEABLE) <= set(body("m", request()))


MESSAGES = (
    (
        {"error": {"message": "Unrecognized request arguments supplied: min_p, top_k", "param": None}},
        {"min_p", "top_k"},
    ),
    ({"error": {"message": "Unknown parameter: 'top_k'.", "param": "top_k", "code": "unknown_parameter"}}, {"top_k"}),
    (
        {
            "detail": [
                {"type": "extra_forbidden", "loc": ["body", "min_tokens"], "msg": "Extra inputs are not permitted"}
            ]
        },
        {"min_tokens"},
    ),
    (
        {"message": {"detail": [{"loc": ["body", "top_k"], "msg": "Extra inputs are not permitted", "input": -1}]}},
        {"top_k"},
    ),
    ({"error": {"message": "property 'repetition_penalty' is unsupported"}}, {"repetition_penalty"}),
    ([{"error": {"message": 'Invalid JSON payload received. Unknown name "top_k": Cannot find field.'}}], {"top_k"}),
    (
        {"detail": "Additional properties are not allowed ('skip_special_tokens' was unexpected)"},
        {"skip_special_tokens"},
    ),
    # not about an unknown field
    ({"error": {"message": "top_k must be at least 1"}}, set()),
    ({"error": {"message": "Unsupported value: 'top_k' does not support -1"}}, set()),
    ({"error": {"message": "model not supported in this region"}}, set()),
    ({"error": {"message": "the top_k_limit is unknown"}}, set()),
    # what a server repeats of the request is not what it complains of
    ({"detail": [{"type": "missing", "msg": "unknown model", "input": {"top_k": -1, "note": "min_p"}}]}, set()),
    ({"detail": [{"loc": ["top_k"], "msg": "not permitted"}, {"loc": ["min_p"], "msg": "is not a number"}]}, {"top_k"}),
)


@pytest.mark.parametrize(("answer", "names"), MESSAGES)
def test_what_a_server_does_not_know_is_read_from_its_refusal(answer: Any, names: set[str]) -> None:
    sampling = Sampling()
    assert refused(json.dumps(answer), body("m", request(sampling)), sampling) == names


@pytest.mark.parametrize("text", ["", "no", "[" * 100_000, '{"error": null}', "3"])
def test_a_refusal_of_any_shape_is_read(text: str) -> None:
    assert refused(text, body("m", request()), Sampling()) == set()


def test_a_refusal_in_plain_text_is_read() -> None:
    assert refused("unexpected keyword argument 'min_p'", body("m", request()), Sampling()) == {"min_p"}


@pytest.mark.parametrize(
    ("sampling", "text", "found"),
    [
        (Sampling(top_k=20), "unknown field top_k", "found top_k 20, refused"),
        (Sampling(min_p=0.1, top_k=5), "unsupported: top_k, min_p", "found top_k 5, min_p 0.1, refused"),
        (Sampling(temperature=0.6), "temperature is not supported with this model", "found temperature 0.6, refused"),
        (Sampling(), "unknown field max_tokens", "found max_tokens, refused"),
    ],
)
def test_a_value_that_matters_and_is_refused_is_permanent_and_named(sampling: Sampling, text: str, found: str) -> None:
    with pytest.raises(Permanent, match="expected one that takes it") as error:
        refused(text, body("m", request(sampling)), sampling)
    assert str(error.value).startswith(found)
    assert text in str(error.value)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_k=7, min_p=0.1, min_tokens=3, repetition_penalty=1.1)])
def test_only_neutral_values_are_ever_left_out(sampling: Sampling) -> None:
    whole, without = body("m", request(sampling)), body("m", request(sampling), NAMEABLE)
    assert without.pop("max_completion_tokens") == whole.pop("max_tokens")
    gone = set(whole) - set(without)
    assert gone == {name for name in NEUTRAL if getattr(sampling, name) == NEUTRAL[name]} | {"skip_special_tokens"}
    assert without == {name: value for name, value in whole.items() if name not in gone}
