"""Vectors of what texts mean, by a local model: the mean of its last hidden states (Reimers & Gurevych 2019,
Sentence-BERT).

It compares nothing (`similarity/meaning.py` does) and fetches no model (`models.py` does).
"""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline import models
from pipeline.section import Section
from pipeline.similarity.meaning import Paraphrased, numbers_of, same_meaning

BATCH_TOKENS = 8192  # of one forward pass, padding included


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


class Embedder:
    """A model and its tokenizer, on the GPU where there is one."""

    def __init__(self, folder: Path, max_tokens: int) -> None:
        """`folder` holds weights and tokenizer as transformers writes them; nothing is fetched."""
        import torch
        from transformers import AutoModel, AutoTokenizer

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
            np.add.at(sums, [number for number, _ in some], self._summed([ids for _, ids in some]))
            start = end
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        found: npt.NDArray[np.float32] = sums / np.maximum(lengths, np.finfo(np.float32).tiny)
        return found

    def _summed(self, rows: Sequence[list[int]]) -> npt.NDArray[np.float32]:
        """The sum of the last hidden states of each row's tokens."""
        import torch

        width = max(map(len, rows))
        ids = torch.full((len(rows), width), self._tokenizer.pad_token_id)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for at, row in enumerate(rows):
            ids[at, : len(row)] = torch.tensor(row)
            mask[at, : len(row)] = 1
        with torch.inference_mode():
            states = self._model(input_ids=ids.to(self._device), attention_mask=mask.to(self._device))
            weighed = states.last_hidden_state * mask.to(self._device)[:, :, None]
            summed: npt.NDArray[np.float32] = weighed.sum(dim=1).float().cpu().numpy()
        return summed
