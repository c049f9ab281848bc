"""Prompt rendering: one function for every prompt, one end token, no clock."""

from pathlib import Path
from typing import Any

import pytest

from pipeline import templates
from tests import tiny

QUESTION = templates.conversation("{problem}", "What is 12 + 30?")
REPLY = "<think>\n12 + 30 = 42\n</think>\n\nThe answer is \\boxed{42}."


@pytest.fixture(scope="module")
def plain() -> Any:
    return tiny.tokenizer()


def with_template(chat_template: str) -> Any:
    return tiny.tokenizer(chat_template)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    ("template", "turns"),
    [
        ("Solve {problem}", [user("Solve 2 {y}")]),
        (" {problem} in \\boxed{} {x} {problem}\n", [user("2 {y} in \\boxed{} {x} 2 {y}")]),
        (
            "<<user>>\nA {problem}\n<<assistant>>\nB\n<<user>>\nSolve {problem}",
            [user("A {problem}"), assistant("B"), user("Solve 2 {y}")],
        ),
    ],
)
def test_a_template_is_turns_with_the_problem_in_the_last(template: str, turns: list[dict[str, str]]) -> None:
    assert templates.conversation(template, "2 {y}") == turns
    system = {"role": "system", "content": "Be brief."}
    assert templates.conversation(template, "2 {y}", "Be brief.\n") == [system, *turns]


@pytest.mark.parametrize(
    "template", ["Solve {this}.", "", "<<user>>\n{problem}\n<<assistant>>\nB", "<<user>>\n{problem}\n<<user>>\nB"]
)
def test_a_template_that_does_not_end_with_the_problem_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r"contains \{problem\}"):
        templates.conversation(template, "1 + 1")


@pytest.mark.parametrize(
    ("template", "examples"),
    [
        ("Solve {problem}", []),
        (
            "<<user>>\n1 + 1\n<<assistant>>\n2\n<<user>>\n3 + 3\n<<assistant>>\n6\n<<user>>\n{problem}",
            [("1 + 1", "2"), ("3 + 3", "6")],
        ),
        ("<<user>>\nSolve 1 + 1 now.\n<<assistant>>\n2\n<<user>>\nSolve {problem} now.", [("1 + 1", "2")]),
        ("<<user>>\nWhat is 1 + 1\n<<assistant>>\n2\n<<user>>\nSolve {problem}", [("What is 1 + 1", "2")]),
    ],
)
def test_the_questions_of_worked_examples_stand_bare(template: str, examples: list[tuple[str, str]]) -> None:
    assert templates.worked_examples(template) == examples


def test_a_prompt_ends_where_the_reply_begins(plain: Any) -> None:
    text = templates.render(plain, QUESTION)
    assert text == "<|im_start|>user\nWhat is 12 + 30?<|im_end|>\n<|im_start|>assistant\n"
    assert plain.decode(templates.prompt_ids(plain, QUESTION)) == text


def test_special_tokens_are_not_added_a_second_time() -> None:
    from tokenizers.processors import TemplateProcessing

    adding = tiny.tokenizer()
    adding.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", adding.bos_token_id)]
    )
    assert adding("x")["input_ids"][0] == adding.bos_token_id
    ids = templates.prompt_ids(adding, QUESTION)
    assert ids == templates.prompt_ids(tiny.tokenizer(), QUESTION)
    assert ids.count(adding.bos_token_id) == 2  # one for the user's turn, one for the reply's


@pytest.mark.parametrize("reply", [REPLY, REPLY + "<|im_end|>"])
def test_an_example_is_the_evaluations_prompt_and_the_reply_with_one_end_token(plain: Any, reply: str) -> None:
    prompt, completion = templates.example_ids(plain, QUESTION, reply, templates.ending_ids(plain))
    assert prompt == templates.prompt_ids(plain, QUESTION)
    assert plain.decode(completion) == REPLY + "<|im_end|>"
    assert completion.count(templates.end_token_id(plain)) == 1


def test_an_end_token_inside_a_reply_is_refused(plain: Any) -> None:
    with pytest.raises(templates.EndTokenInside, match="Filter the trace"):
        templates.example_ids(plain, QUESTION, "one<|im_end|>two", templates.ending_ids(plain))


@pytest.mark.parametrize("opened", ["<think>\n", "<think>"])
def test_a_tag_that_the_prompt_opens_is_not_learnt_again(opened: str) -> None:
    opening = with_template(
        tiny.CHAT_TEMPLATE.replace("assistant\\n' }}{% endif", f"assistant\\n{opened}' }}}}{{% endif")
    )
    prompt, completion = templates.example_ids(opening, QUESTION, REPLY, templates.ending_ids(opening))
    assert opening.decode(prompt + completion).count("<think>") == 1
    assert prompt == templates.prompt_ids(opening, QUESTION)


def test_the_end_token_is_what_the_template_writes_after_a_reply(plain: Any) -> None:
    assert plain.convert_ids_to_tokens(templates.end_token_id(plain)) == "<|im_end|>"
    other = with_template(tiny.CHAT_TEMPLATE.replace("<|im_end|>", "<|endoftext|>"))
    assert other.convert_ids_to_tokens(templates.end_token_id(other)) == "<|endoftext|>"


def test_without_a_token_after_the_reply_the_end_is_eos_and_never_padding() -> None:
    bare = with_template("{% for message in messages %}{{ message['content'] }}\n{% endfor %}")
    assert templates.end_token_id(bare) == bare.eos_token_id
    bare.eos_token = None
    with pytest.raises(ValueError, match="ends a reply"):
        templates.end_token_id(bare)


def test_a_date_is_the_same_on_every_day() -> None:
    dated = "{% if strftime_now is defined %}{% set today = strftime_now('%d %b %Y') %}{% endif %}{{ today }}: "
    pinned = with_template(templates.pin_date(dated + tiny.CHAT_TEMPLATE))
    assert templates.render(pinned, QUESTION).startswith("26 Jul 2024: <|im_start|>user")


def test_a_clock_that_cannot_be_pinned_is_refused() -> None:
    hidden = templates.pin_date("{% set form = '%d %b' %}{{ strftime_now(form) }}" + tiny.CHAT_TEMPLATE)
    with pytest.raises(ValueError, match="reads the clock"):
        templates.render(with_template(hidden), QUESTION)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ raise_exception('System role not supported') }}", "System role not supported"),
        ("{% for message in messages %}", "Unexpected end of template"),
        ("{{ messages[7].content.strip() }}", "list object has no element 7"),
    ],
)
def test_a_template_that_refuses_a_conversation_is_an_error_with_its_own_words_and_the_fix(
    template: str, says: str
) -> None:
    refusing = with_template(template)
    with pytest.raises(ValueError, match=rf"turns system, user: .*{says}.*name another chat_template"):
        templates.render(refusing, templates.conversation("{problem}", "1 + 1", "Be brief."))


def test_a_loaded_tokenizer_takes_the_roles_template_and_needs_one(tmp_path: Path) -> None:
    own = with_template("{{ strftime_now('%Y') }}" + tiny.CHAT_TEMPLATE)
    own.save_pretrained(tmp_path)
    assert templates.render(templates.load_tokenizer(tmp_path), QUESTION).startswith("2024<|im_start|>")
    assert templates.render(templates.load_tokenizer(tmp_path, tiny.CHAT_TEMPLATE), QUESTION).startswith("<|im_start|>")
    own.chat_template = None
    own.save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match="no chat template"):
        templates.load_tokenizer(tmp_path / "bare")


def test_a_whole_conversation_shows_what_the_template_drops(plain: Any) -> None:
    dropping = with_template(tiny.DROPPING_TEMPLATE)
    assert REPLY in templates.render_whole(plain, QUESTION, REPLY)
    assert "12 + 30 = 42" not in templates.render_whole(dropping, QUESTION, REPLY)
    assert templates.prompt_ids(dropping, QUESTION) == templates.prompt_ids(plain, QUESTION)
