"""Vectors of texts by a tiny random model: one a text, of length 1, whatever else is read with it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from pipeline.embedding import Embedder, Pooling, Semantic, identity, opened
from pipeline.models import ModelError
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build(tmp_path_factory.mktemp("model"))


TEXTS = ["What is 12 + 30?", "", "Solve for x: 3 * x = 9. " * 40, "What is 12 + 30?"]


def test_a_vector_is_that_of_its_text_alone(folder: Path) -> None:
    embedder = Embedder(folder, max_tokens=64)
    found = embedder.of(TEXTS)
    assert found.shape == (4, 64)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)
    for text, vector in zip(TEXTS, found, strict=True):
        assert embedder.of([text])[0] == pytest.approx(vector, abs=1e-5)
    assert found[0] == pytest.approx(found[3], abs=1e-5)
    assert found[0] @ found[2] < 0.999


def test_a_long_text_is_read_to_its_end(folder: Path) -> None:
    embedder = Embedder(folder, max_tokens=16)
    one, other = embedder.of(["The answer is 4. " * 30, "The answer is 4. " * 20 + "user assistant system " * 20])
    assert one @ other < 0.999


POOLED: list[tuple[dict[str, Any], Pooling]] = [
    ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False, "include_prompt": True}, "cls"),
    ({"pooling_mode_cls_token": False, "pooling_mode_lasttoken": True}, "lasttoken"),
    ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}, "mean"),
    ({"pooling_mode": "lasttoken", "embedding_dimension": 64}, "lasttoken"),
]


def pooled_by(values: dict[str, Any], folder: Path, new: Path) -> Path:
    """A copy of a model that pools as sentence-transformers' `values` say."""
    shutil.copytree(folder, new)
    (new / "1_Pooling").mkdir()
    (new / "1_Pooling" / "config.json").write_text(json.dumps(values), encoding="utf-8")
    return new


@pytest.mark.parametrize(("values", "pooling"), POOLED)
def test_states_are_pooled_as_the_model_was_trained(
    values: dict[str, Any], pooling: Pooling, folder: Path, tmp_path: Path
) -> None:
    told = pooled_by(values, folder, tmp_path / "told")
    found = Embedder(told, max_tokens=512).of(TEXTS[:1] + TEXTS[2:3])
    model, tokenizer = AutoModel.from_pretrained(str(folder)).eval(), AutoTokenizer.from_pretrained(str(folder))
    for text, vector in zip(TEXTS[:1] + TEXTS[2:3], found, strict=True):
        with torch.inference_mode():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].double()
        wanted = {"cls": states[0], "lasttoken": states[-1], "mean": states.mean(dim=0)}[pooling]
        assert vector == pytest.approx((wanted / wanted.norm()).numpy(), abs=1e-5)
    assert identity(Semantic(model=str(told)), tmp_path) != identity(Semantic(model=str(folder)), tmp_path)


@pytest.mark.parametrize(
    "values", [{"pooling_mode_max_tokens": True}, {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}]
)
def test_another_way_of_pooling_is_refused(values: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    told = pooled_by(values, folder, tmp_path / "told")
    with pytest.raises(ModelError, match="expected one of mean, cls, lasttoken"):
        Embedder(told, max_tokens=512)


def test_the_model_is_known_by_its_weights_and_needs_a_commit(folder: Path, tmp_path: Path) -> None:
    assert identity(None, tmp_path) == {}
    other = tiny.build(tmp_path / "other", seed=1)
    digests = [identity(Semantic(model=str(one)), tmp_path)["semantic.model"] for one in (folder, other)]
    assert digests[0] != digests[1]
    with pytest.raises(ModelError, match="names no commit"):
        opened(Semantic(model="owner/embedder"), tmp_path, lambda line: None)
