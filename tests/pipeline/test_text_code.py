"""Which code block of a completion is its program."""

import pytest

from pipeline.text import code_span, final_code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\nx = 1\n```", "x = 1\n"),
        ("a\n```python\nx = 1\n```\nb\n```Python3\ny = 2\n```\nc", "y = 2\n"),
        ("```py\nx = 1\n```\n```\n1\n```", "x = 1\n"),
        ("```\nx = 1\n```\n```bash\nls\n```", "x = 1\n"),
        ("```\nx = 1\n```\n```\ny = 2\n```", "y = 2\n"),
        ("```json\n{}\n```", None),
        ("~~~python title=a.py\nx = 1\n~~~", "x = 1\n"),
        ("````python\n```\nx = 1\n```\n````", "```\nx = 1\n```\n"),
        ("1. so\n   ```python\n   def f():\n       return 1\n   ```", "def f():\n    return 1\n"),
        ("```python\r\nx = 1\r\n```\r\n", "x = 1\r\n"),
        ("```python\nx = 1", None),
        ("```python\nx = 1\n```\n```python\ny =", "x = 1\n"),
        ("```python\n\n```", None),
        ("```python\n```", None),
        ("use `x = 1` or ```x = 2```", None),
        ("x = 1", None),
        ("", None),
    ],
)
def test_the_last_whole_python_block_is_the_program(text: str, code: str | None) -> None:
    assert final_code(text) == code


def test_a_million_fences_take_no_square_of_their_time() -> None:
    assert code_span("```python\nx\n```\n" * 100_000) is not None
    assert code_span("`" * 1_000_000) is None
