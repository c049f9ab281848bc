"""Vectors of texts by a tiny random model: one a text, of length 1, whatever else is read with it."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.embedding import Embedder, Semantic, identity, opened
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


def test_the_model_is_known_by_its_weights_and_needs_a_commit(folder: Path, tmp_path: Path) -> None:
    assert identity(None, tmp_path) == {}
    other = tiny.build(tmp_path / "other", seed=1)
    digests = [identity(Semantic(model=str(one)), tmp_path)["semantic.model"] for one in (folder, other)]
    assert digests[0] != digests[1]
    with pytest.raises(ModelError, match="names no commit"):
        opened(Semantic(model="owner/embedder"), tmp_path, lambda line: None)
