"""Vectors of what texts mean, by a local model: its last hidden states, pooled as it was trained (Reimers & Gurevych
2019, Sentence-BERT).

It compares nothing (`similarity/meaning.py` does) and fetches no model (`models.py` does).
"""

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline import models
from pipeline.section import Section
from pipeline.similarity.meaning import Paraphrased, numbers_of, same_meaning

BATCH_TOKENS = 8192  # of one forward pass, padding included
Pooling = Literal["mean", "cls", "lasttoken"]  # of all tokens, the first alone (as BGE's), the last (as Qwen3's)


class Semantic(Section):
    """When two texts count as the same by their meaning."""

    model: str  # an embedding model: a name in data/models.yaml, a hub id at a commit, or a folder
    threshold: float = Field(0.95, gt=0, le=1)  # cosine of their vectors, from here on; models differ: look at some
    max_tokens: int = Field(512, ge=8)  # tokens read at once; of a longer text, parts of this length are averaged


def identity(semantic: Semantic | None, root: Path) -> dict[str, str]:
    """What decides the vectors: a digest of the model's weights, or its hub commit; nothing where none is named."""
    return {} if semantic is None else {"semantic.model": models.resolve(semantic.model, root).identity}


def opened(semantic: Semantic, root: Path, say: Callable[[str], None]) -> Callable[[], "Embedder"]:
    """Finds the model, and loads it when it is asked for. Raises ModelError where it cannot be found, or is named
    without a commit: its vectors could change from one day to the next.
    """
    model = models.resolve(semantic.model, root)
    if not model.pinned:
        raise models.ModelError(
            f"semantic.model is {semantic.model}, which names no commit; expected {semantic.model}@ and the 40 hex "
            f"digits of one, a name in {models.CATALOGUE}, or a folder."
        )
    return lambda: Embedder(models.fetch(semantic.model, root, say), semantic.max_tokens)


def comparer(semantic: Semantic | None, root: Path, say: Callable[[str], None]) -> Paraphrased | None:
    """A function that finds texts which say the same (see `similarity.meaning.same_meaning`); None where none is
    wished for.
    """
    if semantic is None:
        return None
    load, threshold = cache(opened(semantic, root, say)), semantic.threshold

    def found(
        texts: Sequence[str], standing: int, may_repeat: Callable[[int, int], bool]
    ) -> dict[int, tuple[int, float]]:
        return same_meaning(load().of(texts), list(map(numbers_of, texts)), threshold, standing, may_repeat)

    return found


def pooling_of(folder: Path) -> Pooling:
    """Which of a model's hidden states make a text's vector: as `1_Pooling/config.json` says, which
    sentence-transformers writes, else the mean. Raises ModelError where that is none of `Pooling`.
    """
    path = folder / models.POOLING
    if not path.exists():
        return "mean"
    values = json.loads(path.read_text(encoding="utf-8"))
    # A word by itself, or a switch for each way, as versions before 5 write it.
    modes = [key.removeprefix("pooling_mode_") for key, on in values.items() if key.startswith("pooling_mode_") and on]
    modes += [values["pooling_mode"]] if "pooling_mode" in values else []
    named: dict[str, Pooling] = {mode: mode for mode in get_args(Pooling)}
    named |= {"mean_tokens": "mean", "cls_token": "cls"}
    if len(modes) == 1 and modes[0] in named:
        return named[modes[0]]
    raise models.ModelError(
        f"{path} pools by {' and '.join(modes) or 'nothing'}; expected one of {', '.join(get_args(Pooling))}. Name "
        "another model for semantic.model."
    )


class Embedder:
    """A model and its tokenizer, on the GPU where there is one."""

    def __init__(self, folder: Path, max_tokens: int) -> None:
        """`folder` holds weights and tokenizer as transformers writes them, and how to pool as sentence-transformers
        does (see `pooling_of`, which raises ModelError); nothing is fetched.
        """
        import torch
        from transformers import AutoModel, AutoTokenizer

        self._pooling = pooling_of(folder)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, padding_side="right")
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        model: Any = AutoModel.from_pretrained(str(folder), dtype=torch.float32, local_files_only=True)
        self._model = model.to(self._device).eval()
        self._max_tokens = max_tokens

    def of(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Vectors of length 1, [texts, width], in order; of a text without a token, 0."""
        parts: list[tuple[int, list[int]]] = []  # (text, token ids)
        for number, text in enumerate(texts):
            cut = self._tokenizer(
                text or " ", truncation=True, max_length=self._max_tokens, return_overflowing_tokens=True
            )["input_ids"]
            parts += [(number, ids) for ids in (cut if cut and isinstance(cut[0], list) else [cut]) if ids]
        parts.sort(key=lambda part: len(part[1]))  # so that little is padded
        sums = np.zeros((len(texts), self._model.config.hidden_size), dtype=np.float32)
        start = 0
        while start < len(parts):
            end = start + 1
            while end < len(parts) and (end + 1 - start) * len(parts[end][1]) <= BATCH_TOKENS:
                end += 1
            some = parts[start:end]
            np.add.at(sums, [number for number, _ in some], self._pooled([ids for _, ids in some]))
            start = end
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        found: npt.NDArray[np.float32] = sums / np.maximum(lengths, np.finfo(np.float32).tiny)
        return found

    def _pooled(self, rows: Sequence[list[int]]) -> npt.NDArray[np.float32]:
        """Of each row of token ids the sum of its tokens' states, or the one state that stands for it, of length 1, so
        that a long text's parts count alike.
        """
        import torch

        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.full((len(rows), int(lengths.max())), self._tokenizer.pad_token_id)
        for at, row in enumerate(rows):
            ids[at, : len(row)] = torch.tensor(row)
        mask = (torch.arange(ids.shape[1])[None] < lengths[:, None]).long().to(self._device)
        with torch.inference_mode():
            states = self._model(input_ids=ids.to(self._device), attention_mask=mask).last_hidden_state
            if self._pooling == "mean":
                pooled = (states * mask[:, :, None]).sum(dim=1)
            else:
                places = torch.zeros_like(lengths) if self._pooling == "cls" else lengths - 1
                pooled = states[torch.arange(len(rows)), places.to(self._device)]
                pooled = torch.nn.functional.normalize(pooled, dim=1)
        found: npt.NDArray[np.float32] = pooled.float().cpu().numpy()
        return found
