"""Chat templates with quirks: training reads and learns what the template writes, byte for byte, or is refused."""

import datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.templates import conversation, load_tokenizer, pin_date, prompt_ids
from pipeline.training.audit import Audit, Limits, audit, faults, lines
from pipeline.training.encode import Encoded, encode
from tests import quirks, tiny

ROOT = Path(__file__).resolve().parents[3]
HELD = sorted(path for path in (ROOT / "data" / "models").glob("*") if (path / "tokenizer.json").is_file())
Rows = list[dict[str, Any]]


def plain(rows: Rows) -> Rows:
    """The same examples without reasoning."""
    for row in rows:
        said = row["completion"][0]["content"].rpartition("\n")[2]
        row["completion"] = [{"role": "assistant", "content": said}]
    return rows


def look(rows: Rows, template: str, limit: int = 400) -> Audit:
    return audited(tiny.tokenizer(pin_date(template)), rows, limit)


def audited(tokenizer: Any, rows: Rows, limit: int = 400) -> Audit:
    fitting, longer, _ = encode(tokenizer, rows, limit)
    return audit(tokenizer, fitting, longer, limit, None)


@pytest.mark.parametrize("template", quirks.SOUND.values(), ids=list(quirks.SOUND))
def test_reasoning_is_trained_on_as_the_template_writes_it(template: str) -> None:
    found = look(tiny.examples(6), template)
    assert faults(found, Limits()) == []
    assert (found.round_trip_share, found.empty_think, found.end_token_in_loss_share) == (1.0, 0, 1.0)


def test_reasoning_stripped_from_earlier_turns_is_stripped_in_training_as_in_evaluation() -> None:
    asked = "<<user>>\nWhat is 1 + 1?\n<<assistant>>\n<think>\n1 + 1 = 2\n</think>\n\nIt is 2.\n<<user>>\n{problem}"
    rows = [{**row, "prompt": conversation(asked, "What is 2 + 2?")} for row in tiny.examples(3)]
    tokenizer = tiny.tokenizer(quirks.STRIPPING)
    fitting, _, _ = encode(tokenizer, rows, 400)
    assert {"1 + 1 = 2" in tokenizer.decode(one.prompt) for one in fitting} == {False}
    assert {"It is 2." in tokenizer.decode(one.prompt) for one in fitting} == {True}
    assert faults(audited(tokenizer, rows), Limits()) == []


@pytest.mark.parametrize(
    ("rows", "template", "says"),
    [
        # The template would put an empty think block before a reply that was learnt without one.
        (plain(tiny.examples(4)), quirks.STRIPPING, [r"the template writes '<think>\n\n</think>\n\n"]),
        # The prompt of training and evaluation opens reasoning that never comes.
        (plain(tiny.examples(4)), quirks.PREFILLED, [r"training has '<think>\n"]),
        (tiny.examples(4), quirks.DROPPING, ["drops or rewrites reasoning"]),
        (
            tiny.examples(4),
            quirks.SILENCED,
            [r"training has '\n</think>\n\n", "4 examples have an empty think block in what the student reads"],
        ),
        (
            [{**row, "completion": [{"role": "assistant", "content": "It is 4.\n"}]} for row in tiny.examples(4)],
            quirks.DATED,
            ["drops or rewrites reasoning"],
        ),
    ],
)
def test_what_the_template_would_write_otherwise_is_refused_with_where_they_part(
    rows: Rows, template: str, says: list[str]
) -> None:
    messages = faults(look(rows, template), Limits())
    assert len(messages) == len(says)
    assert [part in message for part, message in zip(says, messages, strict=True)] == [True] * len(says)
    if len(says) == 1:
        assert faults(look(rows, template), Limits(template_keeps_reasoning=False)) == []


def test_no_prompt_depends_on_the_day() -> None:
    tokenizer = tiny.tokenizer(pin_date(quirks.DATED))
    (example,) = encode(tokenizer, tiny.examples(1), 400)[0]
    text = tokenizer.decode(example.prompt)
    assert "Today is 26 Jul 2024." in text
    assert datetime.date.today().strftime("%d %b %Y") not in text


@pytest.mark.parametrize("template", quirks.SOUND.values(), ids=list(quirks.SOUND))
def test_a_saved_student_is_asked_with_the_tokens_it_was_trained_on(template: str, tmp_path: Path) -> None:
    """The folder that training writes, opened as an evaluation opens it."""
    tokenizer = tiny.tokenizer(template)
    tokenizer.save_pretrained(tmp_path / "student")
    trained = load_tokenizer(tmp_path / "student")
    trained.save_pretrained(tmp_path / "checkpoint")
    asked = load_tokenizer(tmp_path / "checkpoint")
    rows: Rows = tiny.examples(3)
    fitting, _, _ = encode(trained, rows, 400)
    assert [one.prompt for one in fitting] == [prompt_ids(asked, row["prompt"]) for row in rows]


@pytest.mark.parametrize("folder", HELD, ids=lambda path: path.name)
def test_the_templates_of_the_models_at_hand_write_what_is_trained_on(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    text = "<think>\n«3 × 4 = 12»\n\n\u00e9 e\u0301 \t x\u00b2  \U0001f600\n</think>\n\n\\boxed{12}"
    rows = [*tiny.examples(3), *plain(tiny.examples(1))]
    rows[2] = {**rows[2], "completion": [{"role": "assistant", "content": text}]}
    found = audited(tokenizer, rows)
    assert (found.round_trip_share, found.decoded_share, found.end_token_in_loss_share) == (1.0, 1.0, 1.0)
    assert [message for message in faults(found, Limits()) if "system message" not in message] == []


def test_a_cut_off_trace_does_not_teach_to_stop() -> None:
    rows = tiny.examples(4)
    rows[1] = {**rows[1], "finish": "length"}
    rows[2] = {**rows[2], "finish": "stop"}
    tokenizer = tiny.tokenizer()
    fitting, _, _ = encode(tokenizer, rows, 400)
    end = tokenizer.eos_token_id
    assert [end in one.labels for one in fitting] == [True, False, True, True]
    assert tokenizer.decode(fitting[1].completion) == rows[1]["completion"][0]["content"]  # type: ignore[index]
    found = audit(tokenizer, fitting, [], 400, None)
    assert (found.cut_off, found.end_token_share, found.end_token_in_loss_share) == (1, 0.75, 1.0)
    assert faults(found, Limits()) == []
    assert "1 were cut off and teach no end" in lines(found)[-1]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda one, end: Encoded(one.id, one.messages, one.text, one.prompt, one.completion, ended=False),
        lambda one, end: Encoded(one.id, one.messages, one.text, one.prompt, one.completion[:-1]),
        lambda one, end: Encoded(one.id, one.messages, one.text, one.prompt, [end, *one.completion]),
    ],
    ids=["of a cut-off one", "never", "twice"],
)
def test_an_end_that_is_learnt_in_the_wrong_place_is_found(wrong: Any) -> None:
    tokenizer = tiny.tokenizer()
    (example, other), _, _ = encode(tokenizer, tiny.examples(2), 400)
    found = audit(tokenizer, [wrong(example, tokenizer.eos_token_id), other], [], 400, None)
    assert found.end_token_in_loss_share == 0.5
    assert any("would not learn when to stop" in message for message in faults(found, Limits()))


def test_an_example_that_says_nothing_is_left_out() -> None:
    rows = [{**row, "finish": "length"} for row in tiny.examples(2)]
    rows[0]["completion"] = [{"role": "assistant", "content": ""}]
    fitting, _, left_out = encode(tiny.tokenizer(), rows, 400)
    assert [one.id for one in fitting] == [rows[1]["id"]]
    assert [(one.id, one.reason) for one in left_out] == [(rows[0]["id"], "nothing_said")]


def test_examples_over_the_limit_are_listed_by_domain() -> None:
    rows = [{**row, "domain": "code" if number < 3 else "math"} for number, row in enumerate(tiny.examples(8))]
    for row in (rows[0], rows[1], rows[4]):
        row["completion"] = [{"role": "assistant", "content": "<think>\n" + "so " * 300 + "\n</think>\n\nIt is 4."}]
    tokenizer = tiny.tokenizer()
    found = audited(tokenizer, rows, 200)
    assert found.domains == {"code": (2, 3), "math": (1, 5)}
    assert "3 over the length limit (dropped; by domain: code 2 of 3, math 1 of 5)" in lines(found)[0]
    assert any("by domain: code 2 of 3, math 1 of 5" in message for message in faults(found, Limits()))
    assert {one.domain for one in encode(tokenizer, rows, 200)[2]} == {"code", "math"}


def test_batches_that_are_mostly_padding_are_refused() -> None:
    tokenizer = tiny.tokenizer()
    fitting, longer, _ = encode(tokenizer, tiny.examples(3), 400)
    found = audit(tokenizer, fitting, longer, 400, None, padding_share=0.6)
    assert "60.0% of the positions are padding" in lines(found)[1]
    assert ["Raise sft.pool_batches" in message for message in faults(found, Limits())] == [True]
    assert faults(found, Limits(max_padding_share=0.7)) == []
