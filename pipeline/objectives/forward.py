"""Running a student for an objective: its hidden states where it learns, and its output head a chunk at a time.

It knows no objective, and keeps nothing between batches.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch.utils.checkpoint import checkpoint

from pipeline.objectives import IGNORED

# Logits that stand in memory at once, in the dtype they are computed in; and as float32 while a loss works on them. On
# a CPU the latter stay in its cache.
CHUNK_ENTRIES = 1 << 26
BLOCK_ENTRIES = {"cpu": 1 << 20}
BLOCK_ENTRIES_ELSEWHERE = 1 << 25

# Of some logits [rows, vocabulary] and of which positions they are: the summed loss, and its gradient by the logits.
ChunkLoss = Callable[[torch.Tensor, slice], tuple[torch.Tensor, torch.Tensor]]

# What some models do to logits behind their output head, by its name in their configuration.
_BEHIND_HEAD = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier", "lm_head_multiplier")


@dataclass(frozen=True)
class States:
    """A student's answer to a batch.

    total: float32, without dimension: the summed loss of its logits, 0 where none was asked for. hidden [positions,
    width]: the final hidden state of the learnt positions, rows of the batch one after another. layers: where asked
    for, the hidden states [rows, longest, width] from the embedding to the last layer, that one normalised; attentions:
    likewise each layer's attention [rows, heads, longest, longest], which only attention `eager` gives.
    """

    total: torch.Tensor
    hidden: torch.Tensor
    layers: tuple[torch.Tensor, ...] | None
    attentions: tuple[torch.Tensor, ...] | None


def bare(model: Any) -> Any:
    """The model in the wrapping that accelerate puts around it; an adapter's wrapping stays."""
    return extract_model_from_parallel(model)


def refuse_changed_logits(model: Any) -> None:
    """Raises ValueError for a model whose logits are not what its output head makes: chunks would be wrong."""
    config = bare(model).config.get_text_config()
    changed = {name: getattr(config, name, None) for name in _BEHIND_HEAD}
    found = {name: value for name, value in changed.items() if value not in (None, 1.0)}
    if found:
        name, value = next(iter(found.items()))
        raise ValueError(
            f"the student changes its logits behind its output head ({name}: {value}); expected a model of the Llama "
            f"or Qwen class, whose logits are the head's product. Choose another student.model."
        )


def targets(batch: Mapping[str, Any]) -> torch.Tensor:
    """The token [positions] int64 that follows each learnt position, rows of a batch one after another."""
    labels: torch.Tensor = batch["labels"][:, 1:]
    return labels[labels != IGNORED]


def states(
    model: Any,
    batch: Mapping[str, Any],
    compute_dtype: torch.dtype,
    loss: ChunkLoss | None = None,
    layers: bool = False,
    attentions: bool = False,
) -> States:
    """Run a model, whole and in its wrapping, over a batch (see `Objective.loss`), with a loss of its logits.

    The loss is taken in the output head's place, by `chunked` and of learnt positions alone: the head's product is the
    largest of a small model, and its result the largest tensor of any. It is taken within the call of the head, since
    only there its weight is whole where the model is sharded over processes.
    """
    learnt = torch.nn.functional.pad(batch["labels"][:, 1:] != IGNORED, (0, 1))
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "ids")}
    if layers:
        inputs["output_hidden_states"] = True
    if attentions:
        inputs["output_attentions"] = True
    kept: list[torch.Tensor] = []

    def in_place_of_logits(hidden: torch.Tensor) -> torch.Tensor:
        kept.append(hidden[learnt])
        if loss is None:
            return kept[0]
        with torch.autocast(hidden.device.type, enabled=False):  # chunks say what they are computed in
            return chunked(model, kept[0], loss, compute_dtype)

    mixed = compute_dtype != torch.float32
    with (
        _answering(bare(model).get_output_embeddings(), in_place_of_logits),
        torch.autocast(learnt.device.type, dtype=torch.bfloat16, enabled=mixed),
    ):
        found = model(**inputs, use_cache=False)
    total = kept[0].new_zeros((), dtype=torch.float32) if loss is None else found.logits
    return States(total, kept[0], found.get("hidden_states"), found.get("attentions"))


@contextmanager
def _answering(head: Any, answer: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Within it a model's output head gives `answer` of its input. Hooks on it, that gather its weight, run as ever."""
    head.forward = answer
    try:
        yield
    finally:
        del head.forward


def chunked(model: Any, hidden: torch.Tensor, loss: ChunkLoss, compute_dtype: torch.dtype) -> torch.Tensor:
    """The summed loss (float32, no dimension) of a model's logits at hidden states [positions, width].

    loss is given logits in float32, which are its own to change, and the slice of positions they are of; it returns a
    sum and the gradient of that sum by the logits, which may be the same memory. Memory grows with CHUNK_ENTRIES, not
    with positions x vocabulary: the gradient is taken forward, while a chunk's logits are there, so that no product is
    made twice (as Cut Cross-Entropy and Liger Kernel do, arXiv 2411.09009 and 2410.10989). By itself it is for a model
    that this process holds whole.
    """
    head = bare(model).get_output_embeddings()
    if type(head).forward is not torch.nn.Linear.forward or head.bias is not None:
        size = max(1, CHUNK_ENTRIES // bare(model).config.get_text_config().vocab_size)
        return _recomputed(partial(type(head).forward, head), hidden, loss, compute_dtype, size)
    dtype = compute_dtype if compute_dtype != torch.float32 else head.weight.dtype
    if torch.is_grad_enabled():
        found: torch.Tensor = _Chunked.apply(hidden, head.weight, loss, dtype)  # type: ignore[no-untyped-call]
        return found
    return _sweep(hidden, head.weight, loss, dtype, False, False)[0]


class _Chunked(torch.autograd.Function):
    """A loss whose gradients by hidden states and head weight are computed together with it."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, loss: ChunkLoss, dtype: torch.dtype) -> Any:
        total, *ctx.gradients = _sweep(hidden, weight, loss, dtype, *ctx.needs_input_grad[:2])
        ctx.dtypes = hidden.dtype, weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, scale: torch.Tensor) -> Any:
        gradients = [
            None if gradient is None else gradient.mul_(scale).to(dtype)
            for gradient, dtype in zip(ctx.gradients, ctx.dtypes, strict=True)
        ]
        ctx.gradients = None  # they were scaled where they lie, and serve once
        return (*gradients, None, None)


def _sweep(
    hidden: torch.Tensor, weight: torch.Tensor, loss: ChunkLoss, dtype: torch.dtype, by_hidden: bool, by_weight: bool
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """The summed loss, and its gradients (float32) by hidden states and by weight where they are wanted."""
    size = max(1, CHUNK_ENTRIES // len(weight))
    cast = weight.to(dtype)
    total = hidden.new_zeros((), dtype=torch.float32)
    hidden_gradient = torch.zeros_like(hidden, dtype=torch.float32) if by_hidden else None
    weight_gradient = None
    for start in range(0, len(hidden), size):
        some = hidden[start : start + size].to(dtype)
        logits = some @ cast.T
        total += _to_gradient(logits, start, loss)
        if hidden_gradient is not None:
            hidden_gradient[start : start + size] = logits @ cast
        if by_weight:
            part = logits.T @ some
            weight_gradient = part.float() if weight_gradient is None else weight_gradient.add_(part)
    return total, hidden_gradient, weight_gradient


def _to_gradient(logits: torch.Tensor, start: int, loss: ChunkLoss) -> torch.Tensor:
    """The summed loss of logits whose first position is `start`; their gradient takes their place."""
    entries = BLOCK_ENTRIES.get(logits.device.type, BLOCK_ENTRIES_ELSEWHERE)
    size = max(1, entries // logits.shape[1])
    total = logits.new_zeros((), dtype=torch.float32)
    for first in range(0, len(logits), size):
        block = logits[first : first + size]
        value, gradient = loss(block.float(), slice(start + first, start + first + len(block)))
        total += value
        block.copy_(gradient)
    return total


def _recomputed(
    head: Any, hidden: torch.Tensor, loss: ChunkLoss, compute_dtype: torch.dtype, size: int
) -> torch.Tensor:
    """As `chunked`, for a head that is more than a product (an adapter on it, packed weights): it runs twice, over
    `size` positions at a time.
    """
    mixed = compute_dtype != torch.float32

    def of(some: torch.Tensor, start: int) -> torch.Tensor:
        with torch.autocast(some.device.type, dtype=torch.bfloat16, enabled=mixed):
            logits = head(some)
        found: torch.Tensor = _Given.apply(logits, loss, start)  # type: ignore[no-untyped-call]
        return found

    total = hidden.new_zeros((), dtype=torch.float32)
    for start in range(0, len(hidden), size):
        total = total + checkpoint(of, hidden[start : start + size], start, use_reentrant=False)
    return total


class _Given(torch.autograd.Function):
    """A chunk loss as a function of logits."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, loss: ChunkLoss, start: int) -> Any:
        gradient = logits.detach().clone()
        total = _to_gradient(gradient, start, loss)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, scale: torch.Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * scale.to(gradient.dtype), None, None
