"""The student on its way in and out: loading it for training, and writing the folder that vLLM serves.

It neither trains (`trainer.py`) nor chooses weights (`models.py`).
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pipeline.templates import end_token_id
from pipeline.text import closest

Attention = Literal["eager", "sdpa", "flash_attention_2"]


def load(
    folder: Path,
    dtype: str,
    attention: Attention,
    adapter: Mapping[str, Any] | None,
    seed: int,
    checkpointing: bool,
    four_bits: bool = False,
) -> Any:
    """A student to train, its parameters in `dtype` ("float32" or "bfloat16").

    adapter: the arguments of a LoRA adapter (r, lora_alpha, lora_dropout, target_modules) put on frozen weights, its
    own weights drawn from `seed`; None trains all weights. checkpointing: activations will be recomputed. four_bits:
    the frozen weights are held as 4-bit normal floats, twice quantised, as in QLoRA (arXiv 2305.14314); on a GPU alone.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=getattr(torch, dtype),
            attn_implementation=attention,
            local_files_only=True,
            **(_four_bits() if four_bits else {}),
        )
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{folder} cannot be read as a model: {error}. Restore its files, or fetch it again."
        ) from error
    model.config.use_cache = False
    allow_sampling(model.generation_config)
    if adapter is None:
        return model
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if four_bits:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=checkpointing)
    _refuse_idle(model, adapter["target_modules"])
    torch.manual_seed(seed)
    wrapped: Any = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **adapter))
    if checkpointing:
        wrapped.enable_input_require_grads()  # the frozen embedding would leave recomputed layers without gradients
    return wrapped


def _refuse_idle(model: Any, targets: Iterable[str]) -> None:
    """Raises ValueError for a target of an adapter that no layer is called by: PEFT passes over it in silence."""
    layers = {name: module for name, module in model.named_modules() if name and not list(module.children())}
    weighing = {name.rpartition(".")[2] for name, layer in layers.items() if getattr(layer, "weight", None) is not None}
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in layers):
            near = closest(target, weighing)
            raise ValueError(
                f"sft.lora.targets has {target!r}, and no layer of the student is called so. "
                f"{f'Did you mean {near!r}? ' if near else ''}Those with weights: {', '.join(sorted(weighing))}."
            )


def allow_sampling(config: Any) -> None:
    """Let a generation configuration sample that has values of sampling and does not say so: it could not be saved."""
    try:
        config.validate(strict=True)
    except ValueError:
        config.do_sample = True


def _four_bits() -> dict[str, Any]:
    import torch
    from transformers import BitsAndBytesConfig

    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": quantised, "device_map": {"": torch.cuda.current_device()}}


@contextmanager
def unrounded(model: Any) -> Iterator[None]:
    """After it the adapter of a model with 4-bit weights is what it was before, though TRL's trainers cast it to
    bfloat16 as they are made: there most steps of a small learning rate would be rounded away.
    """
    four_bits = getattr(model, "is_loaded_in_4bit", False)
    adapter = [(weight, weight.data) for weight in model.parameters() if four_bits and weight.requires_grad]
    yield
    for weight, values in adapter:
        weight.data = values.to(weight.device)


def merged(model: Any) -> Any:
    """The model with its LoRA adapter summed in. One on quantised weights is summed onto the weights that they were
    made from, which are read again.

    Weights keep their dtype: what was trained in bfloat16 may have no room in float32. torch adds the adapter's float32
    to them in float32 all the same, and rounds the sum once.
    """
    if getattr(model.get_base_model(), "is_quantized", False):
        model = onto_its_source(model)
    return model.merge_and_unload()


def onto_its_source(model: Any, weights: Mapping[str, Any] | None = None) -> Any:
    """The adapter of a model, on the weights of the folder that the model was read from, in float32 on the CPU.

    weights: those of a sharded model, gathered, the adapter's among them; None: the model holds its adapter whole.
    """
    import torch
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    config = model.peft_config[model.active_adapter]
    source: Any = AutoModelForCausalLM.from_pretrained(
        config.base_model_name_or_path, dtype=torch.float32, local_files_only=True
    )
    allow_sampling(source.generation_config)
    found = get_peft_model_state_dict(model, state_dict=weights, save_embedding_layers=False)
    wrapped: Any = get_peft_model(source, config)
    set_peft_model_state_dict(wrapped, {name: value.cpu() for name, value in found.items()})
    return wrapped


def whole(model: Any, weights: Mapping[str, Any]) -> Any:
    """A sharded model as one that this process holds, on the CPU; `weights` are its own, gathered."""
    import torch
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()  # or what is read from now on would be sharded too, and wait for the other processes
    if hasattr(model, "merge_and_unload"):
        return onto_its_source(model, weights)
    classes: Any = MODEL_FOR_CAUSAL_LM_MAPPING
    with torch.device("meta"):
        made = classes[type(model.config)](model.config)
    made.load_state_dict(weights, assign=True)
    made.tie_weights()
    made.generation_config = model.generation_config
    return made


def quiet() -> None:
    """No bars and notices of transformers: a stage shows its own progress, and tied weights are no missing keys."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def save(model: Any, tokenizer: Any, folder: Path, dtype: str, weights: Mapping[str, Any] | None = None) -> None:
    """Write weights (an adapter merged in, as `dtype`), configurations and tokenizer with its chat template.

    weights: those of a sharded model, gathered; None: the model holds them.
    Both the generation configuration and the tokenizer name the token that ends a reply, so that a server stops there.
    """
    import torch

    if weights is not None:
        model = whole(model, weights)
    if hasattr(model, "merge_and_unload"):
        model = merged(model.float() if dtype == "float32" else model)
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
