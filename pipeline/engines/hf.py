"""transformers' own `generate`, batch by batch: for models vLLM cannot run, and an independent check of what it says.

It is slow: a batch ends with its longest sequence. It has no presence and frequency penalties and refuses them.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline import heap
from pipeline.engines import Completion, Request, failed
from pipeline.roles import Role, Sampling

BATCH = 16


def start(role: Role, model: Path | None, seed: int, log: Path | None) -> "Hf":
    """Load the weights in `model` on the GPU, else the CPU, and seed torch."""
    if model is None:
        raise ValueError(f"transformers needs a local folder of weights for {role.model}; found none")
    if role.quantization is not None:
        raise ValueError(f"quantization {role.quantization!r} is vLLM's; engine hf runs weights as they are. Unset it.")
    return Hf(role, model, seed)


class Hf:
    """A model and its tokenizer."""

    def __init__(self, role: Role, model: Path, seed: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

        self.figures: dict[str, float] = {}
        self._context = role.max_model_len
        self._batch = role.exec.max_num_seqs or BATCH
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._tokenizer: Any = AutoTokenizer.from_pretrained(str(model), local_files_only=True, padding_side="left")
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        dtype = "auto" if role.dtype == "auto" else getattr(torch, role.dtype)
        weights: Any = AutoModelForCausalLM.from_pretrained(str(model), dtype=dtype, local_files_only=True)
        self._model = weights.to(self._device).eval()
        ends = self._model.generation_config.eos_token_id
        ends = [ends] if isinstance(ends, int) else list(ends or ())
        self._ends = {*ends, self._tokenizer.eos_token_id} - {None}
        self._model.generation_config = GenerationConfig()  # the model's own sampling defaults stay out
        torch.manual_seed(seed)

    def stream(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """See `Engine`: the completions of a batch come together, and None ends a batch."""
        waiting = iter(requests)
        while batch := list(islice(iter(lambda: next(waiting, None), None), self._batch)):
            room = [request for request in batch if len(self._ids(request)) < self._context]
            for request in batch:
                if request not in room:
                    yield failed(request, f"the prompt fills max_model_len ({self._context})")
            for group in _alike(room):
                yield from self._complete(group)

    def _ids(self, request: Request) -> list[int]:
        if request.prompt_token_ids is not None:
            return request.prompt_token_ids
        return list(self._tokenizer(request.prompt, add_special_tokens=False)["input_ids"])

    def _complete(self, group: list[Request]) -> Iterator[Completion]:
        import torch

        prompts = [self._ids(request) for request in group]
        inputs = self._tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(self._device)
        width = inputs["input_ids"].shape[1]
        limits = [min(each.max_tokens, self._context - len(ids)) for each, ids in zip(group, prompts, strict=True)]
        with torch.inference_mode():
            rows = self._model.generate(
                **inputs,
                **generation_values(group[0].sampling),
                max_new_tokens=max(limits),
                eos_token_id=sorted(self._ends),
                pad_token_id=self._tokenizer.pad_token_id,
                tokenizer=self._tokenizer,
            )
        for request, ids, row, limit in zip(group, prompts, rows[:, width:].tolist(), limits, strict=True):
            yield self._completion(request, len(ids), row, limit)

    def _completion(self, request: Request, prompt_tokens: int, row: list[int], limit: int) -> Completion:
        """Cut a padded row where it ended: at its end token, its limit, or a stop string."""
        end = next((place + 1 for place, token in enumerate(row) if token in self._ends), None)
        if end is None:  # what follows a stop string is padding
            while row and row[-1] == self._tokenizer.pad_token_id:
                row.pop()
        tokens = row[: min(len(row) if end is None else end, limit)]
        ended = end is not None and end <= limit
        text = self._tokenizer.decode(tokens[:-1] if ended else tokens, skip_special_tokens=False)
        found = [place for place in (text.find(stop) for stop in request.sampling.stop) if place >= 0]
        if found:
            text, ended = text[: min(found)], True
        return Completion(
            id=request.id,
            text=text,
            token_ids=tokens,
            finish="stop" if ended else "length",
            cause=None,
            prompt_tokens=prompt_tokens,
            completion_tokens=len(tokens),
        )

    def close(self) -> None:
        self._model = self._tokenizer = None
        heap.release()  # the next engine may want the GPU


def _alike(requests: list[Request]) -> list[list[Request]]:
    """Requests with the same sampling together: `generate` takes one set of values a batch."""
    groups: dict[Sampling, list[Request]] = {}
    for request in requests:
        groups.setdefault(request.sampling, []).append(request)
    return list(groups.values())


def generation_values(sampling: Sampling) -> dict[str, Any]:
    """The arguments of `generate` for a Sampling, every one explicit. Raises ValueError for what it cannot do."""
    if sampling.presence_penalty or sampling.frequency_penalty:
        raise ValueError("engine hf has no presence_penalty or frequency_penalty: set both to 0, or use engine vllm")
    values: dict[str, Any] = {
        "do_sample": sampling.temperature > 0,
        "repetition_penalty": sampling.repetition_penalty,
        "min_new_tokens": sampling.min_tokens or None,
        "stop_strings": list(sampling.stop) or None,
        "num_beams": 1,
    }
    # A greedy search with sampling values set makes transformers warn; None switches each of them off.
    greedy = sampling.temperature == 0
    values["temperature"] = None if greedy else sampling.temperature
    values["top_p"] = None if greedy else sampling.top_p
    values["top_k"] = None if greedy else sampling.top_k
    values["min_p"] = None if greedy else sampling.min_p
    return values
