"""A model in memory beside the student: refused where it speaks another vocabulary, and loaded frozen where it teaches.

It computes no loss.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from pipeline.soft_labels import vocabulary_fingerprint
from pipeline.templates import read_tokenizer


def refuse_other_vocabulary(tokenizer: Any, folder: Path, role: str) -> None:
    """Raises ValueError where the model in a folder has another vocabulary than the student.

    Both models will read the same token ids, and a token id of one would be another word to the other.
    """
    other = read_tokenizer(folder)
    ours, theirs = vocabulary_fingerprint(tokenizer), vocabulary_fingerprint(other)
    if ours != theirs:
        raise ValueError(
            f"found a {role} of another vocabulary ({len(other)} tokens, {theirs[:12]}) than the student's "
            f"({len(tokenizer)} tokens, {ours[:12]}); expected the same, since both read the same token ids. Choose a "
            f"{role}.model of the student's family, or an objective that needs no common tokenizer: sft."
        )


def frozen(folder: Path, dtype: torch.dtype, attention: str) -> Any:
    """The model in a folder, in evaluation mode, its parameters in `dtype` and without gradients."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=dtype, attn_implementation=attention, local_files_only=True
    )
    model.config.use_cache = False
    return model.eval().requires_grad_(False)


def equal(model: Any, other: Any) -> bool:
    """Whether two models have the same parameters, name by name and value by value."""
    ours, theirs = dict(model.named_parameters()), dict(other.named_parameters())
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())
