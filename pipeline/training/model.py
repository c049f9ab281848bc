"""The student on its way in and out: loading it for training, and writing the folder that vLLM serves.

It neither trains (`trainer.py`) nor chooses weights (`models.py`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pipeline.templates import end_token_id

Attention = Literal["eager", "sdpa", "flash_attention_2"]


def load(
    folder: Path, dtype: str, attention: Attention, adapter: Mapping[str, Any] | None, seed: int, checkpointing: bool
) -> Any:
    """A student to train, its parameters in `dtype` ("float32" or "bfloat16").

    adapter: the arguments of a LoRA adapter (r, lora_alpha, lora_dropout, target_modules) put on frozen weights, its
    own weights drawn from `seed`; None trains all weights. checkpointing: activations will be recomputed.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=getattr(torch, dtype), attn_implementation=attention, local_files_only=True
    )
    model.config.use_cache = False
    if adapter is None:
        return model
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    wrapped: Any = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **adapter))
    if checkpointing:
        wrapped.enable_input_require_grads()  # the frozen embedding would leave recomputed layers without gradients
    return wrapped


def positions(folder: Path) -> int | None:
    """The longest sequence the model's configuration allows, in tokens; None where it sets no limit."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    limit = getattr(config, "max_position_embeddings", None)
    return None if limit is None else int(limit)


def quiet() -> None:
    """No bars and notices of transformers: a stage shows its own progress, and tied weights are no missing keys."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def save(model: Any, tokenizer: Any, folder: Path, dtype: str) -> None:
    """Write weights (an adapter merged in, as `dtype`), configurations and tokenizer with its chat template.

    Both the generation configuration and the tokenizer name the token that ends a reply, so that a server stops there.
    """
    import torch

    if hasattr(model, "merge_and_unload"):
        model = model.float().merge_and_unload()  # summed in float32; rounded once, below
    model = model.to(getattr(torch, dtype))
    end = end_token_id(tokenizer)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    known = model.generation_config.eos_token_id
    others = [token for token in ([known] if isinstance(known, int) else known or []) if token != end]
    model.generation_config.eos_token_id = [end, *others] if others else end
    model.config.eos_token_id = model.generation_config.eos_token_id
    model.config.use_cache = True
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
