import pytest

from pipeline.text import final_answer
from pipeline.think import CLOSE, OPEN, TraceFormat, assemble, has_tags, lay_out, split, writes_tags
from tests.pipeline.test_text_answers import ANSWERS


@pytest.mark.parametrize(
    ("raw", "reasoning", "answer", "faults"),
    [
        ("<think>a</think>b", "a", "b", ()),
        ("a</think>b", "a", "b", ()),  # the prompt opened the tag
        ("<think>a", "a", "", ("think_unclosed",)),
        ("a", "a", "", ("think_missing",)),
        ("<think>a</think>b</think>c", "a", "b</think>c", ("think_doubled",)),
        ("<think><think>a</think>b", "<think>a", "b", ("think_doubled",)),
        ("<think> \n</think>b", " \n", "b", ("think_empty",)),
        ("</think>b", "", "b", ("think_empty",)),
        ("a</think>b<think>", "a", "b<think>", ()),
    ],
)
def test_a_thinking_completion_splits_at_its_closing_tag(
    raw: str, reasoning: str, answer: str, faults: tuple[str, ...]
) -> None:
    parts = split(raw, thinking=True)
    assert raw[slice(*parts.reasoning)] == reasoning
    assert raw[slice(*parts.answer)] == answer
    assert parts.faults == faults


def test_a_plain_completion_splits_before_the_line_of_its_answer() -> None:
    raw = "3+4=7\n7+1=8\nSo \\boxed{8}."
    parts = split(raw, thinking=False)
    assert raw[slice(*parts.reasoning)] == "3+4=7\n7+1=8\n"
    assert raw[slice(*parts.answer)] == "So \\boxed{8}."
    assert parts.faults == ()


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("3+4=7\n\\boxed{7}", f"{OPEN}\n3+4=7\n{CLOSE}\n\n\\boxed{{7}}"),
        (" 3+4=\\boxed{7}. ", f"{OPEN}\n3+4=\\boxed{{7}}.\n{CLOSE}\n\n\\boxed{{7}}"),
        ("The answer is 7.", f"{OPEN}\nThe answer is 7.\n{CLOSE}\n\nThe answer is 7."),
        ("3+4=7, so the answer is 7.", f"{OPEN}\n3+4=7, so the answer is 7.\n{CLOSE}\n\nthe answer is 7."),
        ("3+4=7\n**Final Answer:**\n\n7\n", f"{OPEN}\n3+4=7\n{CLOSE}\n\n**Final Answer:**\n\n7"),
        ("3+4=7\nIt is\n\\[\n\\boxed{7}\n\\]", f"{OPEN}\n3+4=7\nIt is\n{CLOSE}\n\n\\[\n\\boxed{{7}}\n\\]"),
        ("Answer: positive", f"{OPEN}\nAnswer: positive\n{CLOSE}\n\nAnswer: positive"),
        ("Box \\boxed{ 7 }", f"{OPEN}\nBox \\boxed{{ 7 }}\n{CLOSE}\n\n\\boxed{{ 7 }}"),
    ],
)
def test_the_think_format_wraps_a_plain_trace(raw: str, text: str) -> None:
    assert assemble(raw, lay_out(raw, thinking=False, trace_format="think")) == text


PROGRAM = "```python\nprint('The answer is: ', 3)\n```"


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (f"I add.\n{PROGRAM}\nDone.", f"{OPEN}\nI add.\n{CLOSE}\n\n{PROGRAM}\nDone."),
        (f"{PROGRAM}\nor\n  {PROGRAM}", f"{OPEN}\n{PROGRAM}\nor\n{CLOSE}\n\n{PROGRAM}"),
        (PROGRAM, f"{OPEN}\n{PROGRAM}\n{CLOSE}\n\n{PROGRAM}"),
        ("I give up.", f"{OPEN}\nI give up.\n{CLOSE}\n\n"),
    ],
)
def test_the_answer_of_a_program_is_its_last_code_block(raw: str, text: str) -> None:
    assert assemble(raw, lay_out(raw, thinking=False, trace_format="think", code=True)) == text


@pytest.mark.parametrize("raw", ["<think>\na\n</think>\n\nb", "a</think>b", "<think>a</think>\nb\n"])
def test_the_think_format_of_a_thinking_trace_has_each_tag_once(raw: str) -> None:
    text = assemble(raw, lay_out(raw, thinking=True, trace_format="think"))
    assert text == f"{OPEN}\na\n{CLOSE}\n\nb"


def test_every_span_is_a_copy_of_the_raw_text_or_says_that_it_was_inserted() -> None:
    raw = "1+1=2\n\\boxed{2}"
    for span in lay_out(raw, thinking=False, trace_format="think"):
        assert (span["text"] is None) == (span["start"] is not None)
    assert assemble(raw, lay_out(raw, thinking=False, trace_format="plain")) == raw


def test_reasoning_that_was_cut_off_is_not_closed_for_the_teacher() -> None:
    def text(raw: str, thinking: bool, ended: bool) -> str:
        return assemble(raw, lay_out(raw, thinking, "think", ended=ended))

    assert text("<think>First, 1 + 1", thinking=True, ended=False) == "<think>\nFirst, 1 + 1"
    assert text("First, 1 + 1", thinking=False, ended=False) == "<think>\nFirst, 1 + 1"
    assert text("<think>add</think>It is", thinking=True, ended=False) == "<think>\nadd\n</think>\n\nIt is"
    assert text("add\nso \\boxed{2} and", thinking=False, ended=False) == "<think>\nadd\n</think>\n\nso \\boxed{2} and"


@pytest.mark.parametrize(
    ("raw", "thinking", "code", "text"),
    [
        ("1 + 1 = 2, so \\boxed{2}.", False, False, "\\boxed{2}"),
        ("Add them.\nThe answer is 2.", False, False, "The answer is 2."),
        ("Add them.\n**Answer:**\n$$\n2\n$$\nDone.", False, False, "**Answer:**\n$$\n2\n$$"),
        ("```python\nprint(2)\n```", False, False, ""),
        ("<think>Add them.</think>\nIt is \\boxed{2}.", True, False, "It is \\boxed{2}."),
        ("Add.\n```python\nprint(2)\n```", False, True, "```python\nprint(2)\n```"),
        ("No idea at all", False, False, ""),
        ("<think>Add", True, False, ""),
    ],
)
def test_the_answer_format_leaves_the_reasoning_out(raw: str, thinking: bool, code: bool, text: str) -> None:
    assert assemble(raw, lay_out(raw, thinking, "answer", code)) == text


@pytest.mark.parametrize(("raw", "answer"), ANSWERS)
@pytest.mark.parametrize("before", ["", "First I add.\n"])
@pytest.mark.parametrize("trace_format", ["think", "answer"])
def test_what_is_read_as_the_final_answer_is_read_so_after_the_reasoning_too(
    raw: str, answer: str | None, before: str, trace_format: TraceFormat
) -> None:
    """By a filter in the teacher's trace, by an evaluation in what the student is taught to say."""
    text = assemble(before + raw, lay_out(before + raw, False, trace_format)).rpartition(CLOSE)[2]
    assert final_answer(text) == answer
    assert final_answer((before + raw)[slice(*split(before + raw, False).answer)]) == answer


@pytest.mark.parametrize(
    ("trace_format", "teachers", "tags"),
    [
        ("think", [False], True),
        ("answer", [True], False),
        ("plain", [False, False], False),
        ("plain", [True, True], True),
        ("plain", [True, False], None),
    ],
)
def test_a_student_writes_tags_where_its_traces_have_them(
    trace_format: TraceFormat, teachers: list[bool], tags: bool | None
) -> None:
    assert writes_tags(trace_format, teachers) is tags
    raws = {True: f"{OPEN}a{CLOSE}b", False: "b"}
    texts = [assemble(raws[thinks], lay_out(raws[thinks], thinks, trace_format)) for thinks in teachers]
    assert {has_tags(text) for text in texts if text} <= ({True, False} if tags is None else {tags})
