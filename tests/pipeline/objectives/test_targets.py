"""Soft targets on the disk: what was written is what is read, and nothing is read that was not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.objectives.targets import DONE, Stored, Writer, said_of
from pipeline.records import base_id


def made(seed: int, count: int, k: int = 4) -> dict[str, Any]:
    """Targets of `count` tokens, two in three covered; logprobs that float16 holds exactly."""
    draw = np.random.default_rng(seed)
    covered = draw.random(count) < 0.67
    ids = np.argsort(draw.random((count, 50)), axis=1)[:, :k].astype(np.int32)
    logprobs = -draw.integers(1, 64, (count, k)).astype(np.float32) / 8
    ids[:, -1], logprobs[:, -1] = -1, -np.inf
    return {"covered": covered, "ids": ids, "logprobs": logprobs, "tail": draw.random(count).astype(np.float32)}


def written(folder: Path, examples: dict[str, list[int]], k: int = 4) -> dict[str, dict[str, Any]]:
    """Write examples by their tokens, the last one without targets; returns what was written."""
    folder.mkdir()
    *soft, last = examples
    found = {key: made(number, len(examples[key]), 4 - number % 2) for number, key in enumerate(soft)}
    with Writer(folder, k) as writer:
        for key in soft:
            writer.add(key, examples[key], **found[key])
        writer.add_none(last, examples[last])
        writer.done({"mark": "m"})
    return found


EXAMPLES = {"b": [5, 6, 7], "a": [1, 2, 3, 4, 9, 9], "long-id": [8], "c": [0, 3]}


def test_targets_come_back_as_they_were_written_in_any_order(tmp_path: Path) -> None:
    found = written(tmp_path / "t", EXAMPLES)
    stored = Stored(tmp_path / "t")
    order = ["a", "c", "b", "long-id", "a"]
    batch = stored.of(order, [token for key in order for token in EXAMPLES[key]])
    place = 0
    for key in order:
        for token in range(len(EXAMPLES[key])):
            row = (batch.covered[place], batch.ids[place], batch.logprobs[place])
            given = found.get(key)
            if given is None or not given["covered"][token]:
                assert not row[0]
                assert row[1].tolist() == [-1] * 4
                assert row[2].tolist() == [-np.inf] * 4 + [0.0]
            else:
                width = given["ids"].shape[1]
                assert row[0]
                assert row[1].tolist() == given["ids"][token].tolist() + [-1] * (4 - width)
                assert row[2].tolist()[:width] == given["logprobs"][token].tolist()
                assert row[2][-1] == np.log(given["tail"][token])
            place += 1
    assert stored.highest_id == max(given["ids"][given["covered"]].max(initial=-1) for given in found.values())


def test_a_repeat_has_the_targets_of_what_it_repeats(tmp_path: Path) -> None:
    written(tmp_path / "t", EXAMPLES)
    stored = Stored(tmp_path / "t")
    assert (stored.of(["a+2"], EXAMPLES["a"]).ids == stored.of(["a"], EXAMPLES["a"]).ids).all()
    assert [base_id(key) for key in ("a", "a+1", "a+12")] == ["a"] * 3


@pytest.mark.parametrize(
    ("ids", "tokens", "says"),
    [
        (["d"], [1], "example d has no soft targets"),
        (["aa"], EXAMPLES["a"], "example aa has no soft targets"),
        (["a"], EXAMPLES["a"][:-1], "learns 5 tokens, and their soft targets are of 6"),
        (["a"], EXAMPLES["a"][::-1], "the tokens of example a are not those"),
        (["b", "a"], EXAMPLES["a"] + EXAMPLES["b"], "the tokens of example b are not those"),
    ],
)
def test_tokens_that_targets_were_not_written_for_are_refused(
    tmp_path: Path, ids: list[str], tokens: list[int], says: str
) -> None:
    written(tmp_path / "t", EXAMPLES)
    with pytest.raises(ValueError, match=says):
        Stored(tmp_path / "t").of(ids, tokens)


@pytest.mark.parametrize("lost", [DONE, "ids.i4", "index.npz", "short"])
def test_targets_that_are_not_whole_are_none(tmp_path: Path, lost: str) -> None:
    folder = tmp_path / "t"
    written(folder, EXAMPLES)
    assert said_of(folder) == {"mark": "m"}
    if lost == "short":
        whole = (folder / "logprobs.f2").read_bytes()
        (folder / "logprobs.f2").write_bytes(whole[:-2])
    else:
        (folder / lost).unlink()
    assert said_of(folder) is None
    with pytest.raises(ValueError, match="no whole soft targets"):
        Stored(folder)


def test_examples_without_any_soft_target_are_read_too(tmp_path: Path) -> None:
    written(tmp_path / "t", {"only": [3, 4]}, k=1)
    batch = Stored(tmp_path / "t").of(["only"], [3, 4])
    assert not batch.covered.any()
    assert batch.ids.shape == (2, 1)
