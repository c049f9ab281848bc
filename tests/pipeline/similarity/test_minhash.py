"""Signatures: the same in any batch and process, lost pairs are rare, and other parameters are another version."""

import subprocess
import sys

import numpy as np
import pytest

from pipeline.similarity.minhash import Shingling, banding
from pipeline.text import fold, words
from tests.pipeline.similarity.corpus import edited_pairs
from tests.pipeline.similarity.test_tokens import made_up


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.75, 0.8, 0.9, 0.97])
def test_banding_loses_at_most_one_pair_in_a_thousand_at_the_threshold(threshold: float) -> None:
    bands, rows = banding(threshold)
    assert (1 - threshold**rows) ** bands <= 0.001


@pytest.mark.parametrize("shingling", [Shingling(), Shingling(size=1), Shingling(0.5, 12, "character")])
def test_a_text_has_one_signature_alone_and_among_others(shingling: Shingling) -> None:
    texts = ["", "x", "two words", "a b c d", "a b c d e", *map(made_up, range(60)), *edited_pairs(30), "y " * 70_000]
    together = shingling.sign(texts)
    alone = np.concatenate([shingling.sign([text]) for text in texts])
    assert together.tobytes() == alone.tobytes()
    assert shingling.sign(reversed(texts)).tobytes() == alone[::-1].tobytes()


def test_two_processes_make_the_same_signatures() -> None:
    code = (
        "from tests.pipeline.similarity.corpus import edited_pairs\n"
        "from pipeline.similarity.minhash import Shingling\n"
        "print(Shingling().sign(edited_pairs(20)).tobytes().hex())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == Shingling().sign(edited_pairs(20)).tobytes().hex()


@pytest.mark.parametrize(
    ("unit", "size"), [("word", 5), ("word", 1), ("word", 90), ("character", 5), ("character", 400)]
)
def test_shingles_are_the_distinct_runs_of_a_text(unit: str, size: int) -> None:
    for text in ["", "x", "a b c d", "a b a b a b a b", *map(made_up, range(50)), *edited_pairs(5)]:
        parts = words(text) if unit == "word" else list(fold(text))
        runs = {tuple(parts[at : at + size]) for at in range(max(1, len(parts) - size + 1))}
        assert len(Shingling(size=size, unit=unit).shingles(text)) == len(runs)


def test_bands_are_shared_as_often_as_the_jaccard_says() -> None:
    # Of pairs with Jaccard s, s^rows of the bands agree: 6,900 draws of each pair's two sets.
    shingling = Shingling()
    bands, rows = banding(shingling.threshold)
    texts = edited_pairs(300)
    signed = shingling.sign(texts)["bands"]
    shared = (signed[::2] == signed[1::2]).mean(axis=1)
    sets = [set(shingling.shingles(text).tolist()) for text in texts]
    expected = [(len(one & other) / len(one | other)) ** rows for one, other in zip(sets[::2], sets[1::2], strict=True)]
    assert bands * rows > 100
    assert abs(shared.mean() - np.mean(expected)) < 0.02


def test_the_numbers_of_a_text_do_not_depend_on_their_order_and_count_as_often_as_they_stand_there() -> None:
    texts = ["3 apples, 4 pears", "4 apples, 3 pears", "3 apples, 3 pears, 4", "none", "3 and 4 of 7", "34"]
    signed = Shingling().sign(texts)
    assert signed["count"].tolist() == [2, 2, 3, 0, 3, 1]
    assert signed["numbers"][0] == signed["numbers"][1]
    assert len(set(signed["numbers"].tolist())) == 5


def test_other_parameters_are_another_version() -> None:
    made = [Shingling(), Shingling(0.7), Shingling(size=4), Shingling(unit="character")]
    assert len({one.version for one in made}) == len(made)


def test_a_record_takes_some_two_hundred_bytes() -> None:
    assert Shingling().record.itemsize <= 256


@pytest.mark.parametrize("wrong", [{"threshold": 0.0}, {"threshold": 1.1}, {"size": 0}, {"unit": "line"}])
def test_values_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected 0 < threshold"):
        Shingling(**wrong)  # type: ignore[arg-type]
