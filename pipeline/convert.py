"""A program that turns a GGUF file into a folder of bf16 safetensors with tokenizer and chat template.

`mirror.py` runs it as a process of its own, so that the memory and the torch of a conversion end with it. It fetches
nothing and checks no digest.

    python -m pipeline.convert weights.gguf DEST END_TOKEN [END_TOKEN ...]
"""

import os
import sys
from pathlib import Path
from typing import Any

# Raised by hand when the same file would become other weights, other tokens or another end of a completion.
VERSION = 1


def convert(source: Path, dest: Path, end_tokens: list[str]) -> None:
    """Write `dest` (a new folder) from the GGUF file `source`. A completion ends at any of `end_tokens`.

    Raises ValueError where the file's tokenizer lacks one of them or has no chat template.
    """
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    tokenizer = tokenizer_of(source)
    # The formats' own arithmetic is float32; each weight is rounded to bf16 once.
    model: Any = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    _forget_quantization(model)
    model.generation_config.eos_token_id = [_token_id(tokenizer, token) for token in end_tokens]
    model.save_pretrained(dest)
    tokenizer.save_pretrained(dest)


def tokenizer_of(source: Path) -> Any:
    """The tokenizer of a GGUF file, with its chat template. Raises ValueError where there is none."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    _restore_pre_tokenizer(tokenizer, source)
    if not tokenizer.chat_template:
        raise ValueError(f"{source} has no chat template; expected one, since prompts are rendered with it.")
    return tokenizer


def _forget_quantization(model: Any) -> None:
    """The weights are plain now, but transformers keeps calling them quantised and then refuses to save them."""
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):
        if name in vars(model):
            delattr(model, name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def _restore_pre_tokenizer(tokenizer: Any, source: Path) -> None:
    """SmolLM splits digits before anything else; transformers' reader of GGUF files leaves that step out.

    Without it white space before a number becomes other tokens than the model was trained on. The step is the one of
    the published tokenizer.json, and llama.cpp's for the name "smollm".
    """
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    field = GGUFReader(source).get_field("tokenizer.ggml.pre")
    if field is not None and field.contents() == "smollm":
        backend = tokenizer.backend_tokenizer
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])


def _token_id(tokenizer: Any, token: str) -> int:
    number = tokenizer.get_vocab().get(token)
    if number is None:
        raise ValueError(f"The tokenizer has no token {token!r}; correct end_tokens in data/models.yaml.")
    return int(number)


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    convert(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
