"""In which dtype products are made: never in fewer bits than declared, and on one machine as they were begun."""

import math
from pathlib import Path

import pytest
import torch

from pipeline.training import products
from pipeline.training.products import Products, chosen


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What a processor without a GPU beside it gains by float32, the last one counting."""
    gains = [1.0]
    monkeypatch.setattr(products, "gain", lambda: gains[-1])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return gains


@pytest.mark.parametrize(
    ("gain", "declared", "upcast", "dtype"),
    [
        (1.8, "bfloat16", True, "float32"),
        (1.8, "bfloat16", False, "bfloat16"),
        (1.1, "bfloat16", True, "bfloat16"),
        (0.3, "bfloat16", True, "bfloat16"),
        (0.3, "float32", True, "float32"),
    ],
)
def test_float32_is_taken_where_it_is_clearly_faster(
    gain: float, declared: str, upcast: bool, dtype: str, timed: list[float], tmp_path: Path
) -> None:
    timed.append(gain)
    assert chosen(declared, upcast, tmp_path, False).dtype == dtype


def test_a_training_that_goes_on_makes_its_products_as_it_did(timed: list[float], tmp_path: Path) -> None:
    assert chosen("bfloat16", True, tmp_path, True) == Products("bfloat16")  # begun when nothing was timed
    timed.append(2.0)
    begun = chosen("bfloat16", True, tmp_path, False)
    timed.append(0.5)
    assert chosen("bfloat16", True, tmp_path, True) == begun == Products("float32", 2.0)
    assert chosen("bfloat16", True, tmp_path, False) == Products("bfloat16", 0.5)


def test_a_gpu_computes_as_declared(timed: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    timed.append(2.0)
    assert chosen("bfloat16", True, tmp_path, False) == Products("bfloat16")


def test_this_processor_is_timed_and_left_with_its_threads() -> None:
    threads = torch.get_num_threads()
    assert 0 < products.gain() < math.inf
    assert torch.get_num_threads() == threads
