"""What is taken out of shared text, and what stays, as a table."""

import pytest

from pipeline.page.scrub import scrub, scrub_text


@pytest.mark.parametrize(
    ("text", "shared"),
    [
        ("/home/ann/models/qwen", "qwen"),
        ("/home/ann/my data/sums two.csv", "sums two.csv"),
        ("~/models/x", "x"),
        ("../../ann/x.csv", "x.csv"),
        ("C:\\Users\\ann\\m", "m"),
        ("file:///home/ann/x.csv", "x.csv"),
        ("read /home/ann/x.jsonl: 3 rows", "read x.jsonl: 3 rows"),
        ("path=/tmp/x/y", "path=y"),
        ("http://10.0.0.3:8000/v1", "(a local server)"),
        ("http://gpu.lan:8000/v1 and https://api.example.com/v1", "(a local server) and https://api.example.com/v1"),
        ("https://ann:pw@example.org/x", "https://example.org/x"),
        ("on my-host.", "on (host)."),
        ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B"),
        ("data/problems/a.jsonl", "data/problems/a.jsonl"),
        ("https://example.org/datasets/x", "https://example.org/datasets/x"),
        ("</think> a/b 3/4 1 / 2 7 /2 \\boxed{3/4}", "</think> a/b 3/4 1 / 2 7 /2 \\boxed{3/4}"),
    ],
)
def test_scrubbing_a_text(text: str, shared: str) -> None:
    assert scrub_text(text, "my-host") == shared


def test_scrubbing_reaches_keys_and_lists() -> None:
    assert scrub({"/home/ann/a.csv": ["/home/ann/b.csv", 3, None]}) == {"a.csv": ["b.csv", 3, None]}
