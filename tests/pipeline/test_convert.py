"""What comes out of the real mirror of the demo's student: its file's weights, and the tokens it was trained on."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import models

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder() -> Path:
    """The converted student; fetched (90 MB) where no test before did."""
    return models.fetch("smollm2-135m-instruct", ROOT, lambda line: None)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("12345", ["1", "2", "3", "4", "5"]),
        ("+ 78", ["+", "Ġ", "7", "8"]),
        ("a:\n\n5", ["a", ":", "ĊĊ", "5"]),
        ("a\n\nb", ["a", "Ċ", "Ċ", "b"]),
        ("<|im_end|>\n", ["<|im_end|>", "Ċ"]),
    ],
)
def test_digits_are_split_before_anything_else_as_the_model_was_trained(
    tokenizer: Any, text: str, tokens: list[str]
) -> None:
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == tokens
    assert tokenizer.decode(ids) == text


def test_the_chat_template_comes_along(tokenizer: Any) -> None:
    shown = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert shown.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_the_folder_is_plain_bf16_safetensors_that_end_at_the_declared_tokens(folder: Path) -> None:
    from safetensors import safe_open

    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [2]
    with safe_open(folder / "model.safetensors", "pt") as weights:
        kinds = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118 - no mapping
    assert kinds == {"BF16"}
