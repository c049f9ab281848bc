"""Checkpoints with 8-bit or 4-bit weights, in the compressed-tensors format that vLLM serves on a CPU as on a GPU.

It calibrates on no data: every weight goes to the nearest of the steps that its row or group has. What that costs, eval
says. A stage runs this file as a process of its own, so that the memory of it ends there.

    python -m pipeline.quantisation SOURCE DEST int8
"""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from pipeline import child
from pipeline.roles import Role
from pipeline.student import copy_texts

PLAIN = "bfloat16"
# int8: weights of 8 bits with a step for each row, and inputs rounded to 8 bits token by token as they come; int4:
# weights of 4 bits with a step for each group, and inputs as they are. vLLM's CPU build has kernels for these two.
PRESETS = {"int8": "W8A8", "int4": "W4A16"}
GROUP = 32  # weights of int4 with a step in common
# Of the largest weight of a group, what the outermost step stands for: clipping a few leaves finer steps to the rest.
CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
HEAD = "lm_head"  # kept as it is, like the embeddings


class QuantisationError(ValueError):
    """A checkpoint cannot have such weights; the message says what was found, expected, and the fix."""


def fewer_bits(config: Any) -> bool:
    """Whether an export's config asks for weights of fewer bits than a checkpoint has."""
    return any(form != PLAIN for form in config.weights)


def role_of(form: str, role: Role) -> Role:
    """The role that an export in a format is asked with: weights of fewer bits are what they are, and say so."""
    return role if form == PLAIN else role.model_copy(update={"quantization": None})


def weight_bytes(folder: Path) -> int:
    """Bytes of a model folder's weights on the disk."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def steps(weight: Any, bits: int, group: int | None) -> Any:
    """The step between two neighbouring numbers, float32 of [rows, groups of a row], for weights [rows, columns].

    group: columns with a step in common; None: a row has one. Of a few candidates, the one that leaves the smallest
    squared error. Numbers go from -2^(bits - 1) to 2^(bits - 1) - 1.
    """
    import torch

    parts = weight.float().unflatten(1, (-1, group or weight.shape[1]))
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    largest = parts.abs().amax(dim=-1).clamp(min=torch.finfo(torch.bfloat16).tiny)
    best, least = largest, torch.full_like(largest, float("inf"))
    for clip in CLIPS:
        step = (largest * clip / (high + 0.5)).bfloat16().float()  # as it will be stored
        rounded = (parts / step[..., None]).round().clamp(low, high) * step[..., None]
        error = (rounded - parts).square().sum(dim=-1)
        best, least = torch.where(error < least, step, best), torch.minimum(error, least)
    return best


def quantise(source: Path, dest: Path, form: str) -> None:
    """Write `dest` (a new folder) from the checkpoint `source`: its linear layers as `form` (int8 or int4), all else as
    bfloat16, generation configuration, tokenizer and chat template as they are.

    Raises QuantisationError for layers whose sizes the format does not divide.
    """
    import torch
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config, preset_name_to_scheme
    from transformers import AutoModelForCausalLM

    # In float32: the library divides in the dtype of the weights, and eight bits of a bfloat16 quotient are off by one.
    model: Any = AutoModelForCausalLM.from_pretrained(str(source), dtype=torch.float32, local_files_only=True)
    scheme = preset_name_to_scheme(PRESETS[form], ["Linear"])
    if form == "int4":
        scheme.weights.group_size = GROUP
        _check_sizes(model)
    apply_quantization_config(model, QuantizationConfig(config_groups={"group_0": scheme}, ignore=[HEAD]))
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, "quantization_scheme"):
                weights = scheme.weights
                module.weight_scale.copy_(steps(module.weight, weights.num_bits, weights.group_size))
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.to(torch.bfloat16).save_pretrained(dest)  # what is no whole number by now
    compressor.update_config(str(dest))
    copy_texts(source, dest)


def _check_sizes(model: Any) -> None:
    from torch.nn import Linear

    for name, module in model.named_modules():
        if isinstance(module, Linear) and not name.endswith(HEAD):
            odd = [size for size in (module.in_features, module.out_features) if size % GROUP]
            if odd:
                raise QuantisationError(
                    f"{name} has {module.out_features} rows of {module.in_features} weights; expected multiples of "
                    f"{GROUP} for int4. Export int8 alone"
                )


def cast(source: Path, dest: Path) -> None:
    """Write `dest` (a new folder) from the checkpoint `source` with all its weights as bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(str(source), dtype=torch.bfloat16, local_files_only=True)
    model.save_pretrained(dest)
    copy_texts(source, dest)


def write(source: Path, dest: Path, form: str) -> None:
    """Write `dest` (a new folder) from the checkpoint `source`: its weights as `form`, bfloat16, int8 or int4.

    A checkpoint that is of bfloat16 already is not copied: the folder's files are its files. Raises QuantisationError.
    """
    if form == PLAIN and json.loads((source / "config.json").read_text(encoding="utf-8")).get("dtype") == PLAIN:
        dest.mkdir(parents=True)
        for path in source.iterdir():
            try:
                os.link(path, dest / path.name)
            except OSError:  # a file system without hard links
                shutil.copyfile(path, dest / path.name)
        return
    if why := child.failure("pipeline.quantisation", source.resolve(), dest.resolve(), form):
        raise QuantisationError(f"{source} cannot be written as {form}: {why.last.partition('Error: ')[2] or why}.")


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    places, asked = (Path(sys.argv[1]), Path(sys.argv[2])), sys.argv[3]
    if asked == PLAIN:
        cast(*places)
    else:
        quantise(*places, asked)
