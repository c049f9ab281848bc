"""Examples in tokens: what is learnt is the completion with its end token, all of it or nothing."""

from typing import Any

import pytest

from pipeline import templates
from pipeline.templates import end_token_id, prompt_ids
from pipeline.training.encode import IGNORED, Encoded, digest, encode
from tests import tiny


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny.tokenizer()


def test_labels_cover_exactly_the_completion_and_its_end_token(tokenizer: Any) -> None:
    rows = tiny.examples(5)
    fitting, longer, left_out = encode(tokenizer, rows, 200)
    assert (len(fitting), longer, left_out) == (5, [], [])
    for row, example in zip(rows, fitting, strict=True):
        learnt = [label for label in example.labels if label != IGNORED]
        assert tokenizer.decode(learnt) == row["completion"][0]["content"] + "<|im_end|>"  # type: ignore[index]
        assert learnt[-1] == end_token_id(tokenizer)
        assert len(example.labels) == len(example.input_ids)
        unlearnt = example.labels.index(learnt[0]) if learnt[0] != IGNORED else 0
        assert example.input_ids[:unlearnt] == prompt_ids(tokenizer, row["prompt"])  # type: ignore[arg-type]
        assert example.input_ids[unlearnt:] == learnt


def test_an_example_that_does_not_fit_is_left_out_whole(tokenizer: Any) -> None:
    rows = tiny.examples(5)
    lengths = [one.length for one in encode(tokenizer, rows, 10_000)[0]]
    limit = sorted(lengths)[2]
    fitting, longer, left_out = encode(tokenizer, rows, limit)
    assert [one.length for one in fitting] == [length for length in lengths if length <= limit]
    assert [one.length for one in longer] == [length for length in lengths if length > limit]
    assert {(one.reason, one.tokens) for one in left_out} == {
        ("too_long", length) for length in lengths if length > limit
    }


def test_rows_that_cannot_be_learnt_are_named(tokenizer: Any) -> None:
    inside, twice, good = tiny.examples(3)
    inside["completion"] = [{"role": "assistant", "content": "one<|im_end|>two"}]
    twice["completion"] = [{"role": "assistant", "content": "one"}, {"role": "user", "content": "two"}]
    fitting, _, left_out = encode(tokenizer, [inside, twice, good], 200)
    assert [one.id for one in fitting] == [good["id"]]
    assert [(one.id, one.reason) for one in left_out] == [
        (inside["id"], "end_token_inside"),
        (twice["id"], "no_single_reply"),
    ]


def test_what_ends_a_reply_is_looked_up_once_for_all_examples(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered, real = [], templates.render_whole
    monkeypatch.setattr(templates, "render_whole", lambda *given: rendered.append(given) or real(*given))
    encode(tokenizer, tiny.examples(5), 200)
    assert len(rendered) == 1


def test_a_digest_changes_with_ids_tokens_order_and_what_is_learnt() -> None:
    one, two = Encoded("a", (), "", [1, 2], [3]), Encoded("b", (), "", [1, 2], [3])
    variants = [
        [one, two],
        [two, one],
        [one],
        [one, Encoded("c", (), "", [1, 2], [3])],
        [one, Encoded("b", (), "", [1], [2, 3])],
        [one, Encoded("b", (), "", [1, 2], [4])],
        [],
    ]
    assert len({digest(variant) for variant in variants}) == len(variants)
    assert digest(variants[0]) == digest([Encoded("a", (), "other text", [1, 2], [3]), two])
