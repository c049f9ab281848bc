"""A student made from another model: some of its layers, as DistilBERT was (arXiv 1910.01108), and tokens for the tags.

`models.py` decides where it lies and runs this file as a process of its own, so that the memory and the torch of it end
there. It fetches nothing and trains nothing.

    python -m pipeline.student SOURCE DEST '{"layers": [0, 2], "think_tokens": false}'
"""

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import child
from pipeline.think import CLOSE, OPEN

# Raised by hand when the same source and values would become other weights or other tokens.
VERSION = 1
RECORD = "seqdistill-student.json"  # what it was made from, in numbers; no loader of a model reads it
# What a configuration says of each layer by itself, and what it says in a way that numbers taken out would change.
PER_LAYER = ("layer_types", "no_rope_layers", "mlp_layer_types")
UNEVEN = ("mlp_only_layers", "moe_layers", "first_k_dense_replace")
TEXTS = ("*.json", "*.jinja", "*.model", "*.txt")  # what stands beside the weights of a model


class StudentError(ValueError):
    """A student cannot be made as asked; the message says what was found, expected, and the fix."""


def evenly(count: int, total: int) -> list[int]:
    """`count` of `total` layers with equal steps between them, the first and the last included; one alone is the first.

    6 of 12 are DistilBERT's 0, 2, 4, 7, 9, 11.
    """
    steps = max(count - 1, 1)
    return [(number * (total - 1) + steps // 2) // steps for number in range(count)]


def chosen(config: Mapping[str, Any], layers: int | Sequence[int]) -> list[int]:
    """The numbers of the layers that stay, from a model's config.json and what the recipe says.

    Raises StudentError for a model without plain numbered layers, and for more layers, or others, than it has.
    """
    total = config.get("num_hidden_layers")
    names = config.get("architectures") or ["no architecture"]
    if not isinstance(total, int) or not names[0].endswith("ForCausalLM"):
        raise StudentError(
            f"found {names[0]} with {total} layers; expected a causal language model of the Llama or Qwen kind, which "
            f"has num_hidden_layers in its config.json. Name another model, or unset student.layers"
        )
    if config.get("decoder_sparse_step", 1) != 1 or any(config.get(name) for name in UNEVEN):
        raise StudentError(
            f"{names[0]} mixes layers with and without experts by their numbers, which change when some are taken "
            f"out; expected layers of one kind. Name another model, or unset student.layers"
        )
    found = evenly(layers, total) if isinstance(layers, int) else list(layers)
    if len(found) > total or any(number >= total for number in found):
        asked = f"{layers} layers" if isinstance(layers, int) else f"layer {max(found)}"
        raise StudentError(
            f"student.layers asks for {asked}; the model has {total}, numbered 0 to {total - 1}. Choose among them"
        )
    return found


def sliced(config: Mapping[str, Any], layers: Sequence[int]) -> dict[str, Any]:
    """A model's config.json for these of its layers alone, in rising order."""
    found = dict(config)
    for name in PER_LAYER:
        if config.get(name):
            found[name] = [config[name][number] for number in layers]
    if "max_window_layers" in config:  # the first layer with a sliding window, where there are some
        found["max_window_layers"] = sum(number < config["max_window_layers"] for number in layers)
    return found | {"num_hidden_layers": len(layers)}


def make(source: Path, dest: Path, layers: Sequence[int] | None, think_tokens: bool) -> None:
    """Write `dest` (a new folder) from the model folder `source`, in the source's own dtype.

    layers: the numbers of those that stay, rising; None keeps all. think_tokens: the think tags become a token each.
    Embeddings, the final norm, the output head, tokenizer and chat template are the source's.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(
        str(source), dtype="auto", local_files_only=True, trust_remote_code=False
    )
    record: dict[str, Any] = {"source_parameters": _count(model), "source_layers": model.config.num_hidden_layers}
    if layers is not None:
        _keep(model, source, layers)
    dest.mkdir(parents=True)
    copy_texts(source, dest)
    added: list[str] = []
    if think_tokens:
        tokenizer = AutoTokenizer.from_pretrained(str(source), local_files_only=True, trust_remote_code=False)
        added = add_tokens(model, tokenizer, (OPEN, CLOSE))
        tokenizer.save_pretrained(dest)
    model.save_pretrained(dest)
    record |= {"parameters": _count(model), "layers": layers, "added_tokens": added}
    (dest / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def copy_texts(source: Path, dest: Path) -> None:
    """Copy what says how the model in a folder is asked: tokenizer, chat template, generation configuration.

    Files that `dest` has already stay as they are.
    """
    for path in {path for pattern in TEXTS for path in source.glob(pattern)}:
        of_weights = path.name.startswith(("config.", "model.", "seqdistill-")) or path.name.endswith(".index.json")
        if not of_weights and not (dest / path.name).exists():
            shutil.copyfile(path, dest / path.name)


def _count(model: Any) -> int:
    """The parameters of a model, those that two modules share counted once."""
    return sum(weight.numel() for weight in model.parameters())


def _keep(model: Any, source: Path, layers: Sequence[int]) -> None:
    from torch.nn import ModuleList

    decoder = model.get_decoder()
    decoder.layers = ModuleList(decoder.layers[number] for number in layers)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    # Of every sixth layer, say, another pattern would remain: what each layer is was worked out when it was read.
    config |= {name: found for name in PER_LAYER if (found := getattr(model.config, name, None))}
    model.config = type(model.config).from_dict(sliced(config, layers))


def add_tokens(model: Any, tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """Give each text that the tokenizer cuts into several pieces a token of its own; returns those that got one.

    Its embedding, and its row of the output head where that is another matrix, is the mean of its pieces': its logit is
    then the mean of theirs and never above the largest of them, so that greedy words stay what they were.
    """
    import torch
    from tokenizers import AddedToken

    pieces = {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts}
    pieces = {text: ids for text, ids in pieces.items() if len(ids) > 1}
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in pieces])
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:  # many models have rows to spare
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        for weight in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            rows = {text: weight[ids].float().mean(dim=0) for text, ids in pieces.items()}
            for text, row in rows.items():
                weight[tokenizer.convert_tokens_to_ids(text)] = row.to(weight.dtype)
    return list(pieces)


def run_make(source: Path, dest: Path, layers: Sequence[int] | None, think_tokens: bool) -> None:
    """`make` in a process of its own. Raises StudentError with the last line of its error."""
    values = json.dumps({"layers": layers, "think_tokens": think_tokens})
    if why := child.failure("pipeline.student", source.resolve(), dest.resolve(), values):
        raise StudentError(f"making a student of {source} ended with {why}")


def figures(folder: Path) -> dict[str, Any]:
    """The parameters of a model folder, from the heads of its safetensors; and, of a made student, its record with the
    compression ratio: parameters of what it was made from over its own.
    """
    if (folder / RECORD).is_file():
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return {**record, "compression_ratio": record["source_parameters"] / record["parameters"]}
    return {"parameters": sum(map(_stored, folder.glob("*.safetensors")))}


def _stored(path: Path) -> int:
    """The numbers that a safetensors file holds. Its head is a length of eight bytes and as much JSON."""
    with open(path, "rb") as file:
        head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    total = 0
    for name, tensor in head.items():
        if name != "__metadata__":
            count = 1
            for size in tensor["shape"]:
                count *= size
            total += count
    return total


def line(found: Mapping[str, Any]) -> str:
    """`figures` for a person."""
    said = f"student: {found['parameters'] / 1e6:,.1f} M parameters"
    if "source_parameters" not in found:
        return said
    layers = found["layers"]
    part = "all its layers" if layers is None else f"layers {', '.join(map(str, layers))} of {found['source_layers']}"
    tokens = f", and the tokens {' '.join(found['added_tokens'])}" if found["added_tokens"] else ""
    return (
        f"{said}, made from {found['source_parameters'] / 1e6:,.1f} M with {part}{tokens}: "
        f"{found['compression_ratio']:.2f} times smaller"
    )


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    asked = json.loads(sys.argv[3])
    make(Path(sys.argv[1]), Path(sys.argv[2]), asked["layers"], asked["think_tokens"])
