"""Soft targets of training examples on the disk: written once, one example after another, then mapped, never loaded.

It aligns nothing and knows no teacher; what is written is in the student's vocabulary.

Arrays lie one after another in a file each: for every learnt token whether it is covered, and for every covered one k
candidates (int32), their logprobs (float16, which is finer than labels are stored) and the others' mass (float32).
"""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.manifest import sync_files, write_durably
from pipeline.records import base_id
from pipeline.soft_labels import HASH_BYTES, hash_tokens

DONE = "done.json"  # written last
_INDEX = "index.npz"
_COVERED, _IDS, _LOGPROBS, _TAILS = "covered.u1", "ids.i4", "logprobs.f2", "tails.f4"
_UNUSED = -1


class Batch(NamedTuple):
    """The soft targets of N learnt tokens: covered [N] bool; ids [N, k] int32, -1 where unused; logprobs [N, k + 1]
    float32, the last one of all other tokens together, which has all of the mass where a token is not covered.
    """

    covered: npt.NDArray[np.bool_]
    ids: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32]


class Writer:
    """Writes targets into an empty folder. They count once `done` was called."""

    def __init__(self, folder: Path, k: int) -> None:
        self.folder, self.k = folder, k
        self.tokens = self.covered = 0
        self._highest = _UNUSED
        self._keys: list[bytes] = []
        self._hashes = bytearray()
        self._starts: list[tuple[int, int, int]] = []  # of each key: tokens, first token, first covered token
        self._open = ExitStack()
        self._files: dict[str, IO[bytes]] = {
            name: self._open.enter_context((folder / name).open("wb")) for name in (_COVERED, _IDS, _LOGPROBS, _TAILS)
        }

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.close()

    def add(
        self,
        key: str,
        tokens: Sequence[int],
        covered: npt.NDArray[Any],
        ids: npt.NDArray[Any],
        logprobs: npt.NDArray[Any],
        tail: npt.NDArray[Any],
    ) -> None:
        """Add the targets of an example's S learnt tokens: covered [S], ids and logprobs [S, up to k], tail [S]."""
        narrow = ids.shape[1]
        some = int(covered.sum())
        padded_ids = np.full((some, self.k), _UNUSED, np.int32)
        padded_logprobs = np.full((some, self.k), -np.inf, np.float16)
        padded_ids[:, :narrow], padded_logprobs[:, :narrow] = ids[covered], logprobs[covered]
        self._highest = max(self._highest, int(padded_ids.max(initial=_UNUSED)))
        self._enter(key, tokens, np.asarray(covered, np.uint8))
        self._files[_IDS].write(padded_ids.tobytes())
        self._files[_LOGPROBS].write(padded_logprobs.tobytes())
        self._files[_TAILS].write(tail[covered].astype(np.float32).tobytes())
        self.covered += some

    def add_none(self, key: str, tokens: Sequence[int]) -> None:
        """Add an example that has no soft targets."""
        self._enter(key, tokens, np.zeros(len(tokens), np.uint8))

    def _enter(self, key: str, tokens: Sequence[int], covered: npt.NDArray[np.uint8]) -> None:
        self._keys.append(key.encode())
        self._hashes += hash_tokens(tokens)
        self._starts.append((len(tokens), self.tokens, self.covered))
        self._files[_COVERED].write(covered.tobytes())
        self.tokens += len(tokens)

    def done(self, said: dict[str, Any]) -> None:
        """Bring all to the disk, then what is `said` of it, as JSON."""
        self._open.close()
        order = np.argsort(np.array(self._keys, dtype=np.bytes_), kind="stable")
        np.savez(
            self.folder / _INDEX,
            keys=np.array(self._keys, dtype=np.bytes_)[order],
            hashes=np.frombuffer(bytes(self._hashes), np.uint8).reshape(-1, HASH_BYTES)[order],
            starts=np.array(self._starts, dtype=np.int64).reshape(-1, 3)[order],
        )
        sync_files(self.folder)
        head = {"k": self.k, "tokens": self.tokens, "covered": self.covered, "highest_id": self._highest}
        write_durably(self.folder / DONE, json.dumps(head | {"said": said}) + "\n")


def said_of(folder: Path) -> dict[str, Any] | None:
    """What was said of the targets in a folder when they were done; None where there are none, or not all."""
    try:
        head = json.loads((folder / DONE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    sizes = {
        _COVERED: head["tokens"],
        _IDS: head["covered"] * head["k"] * 4,
        _LOGPROBS: head["covered"] * head["k"] * 2,
        _TAILS: head["covered"] * 4,
    }
    whole = all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items())
    said: dict[str, Any] = head["said"]
    return said if whole and (folder / _INDEX).is_file() else None


class Stored:
    """Targets in a folder. Only an index of 60 bytes or so an example is held."""

    def __init__(self, folder: Path) -> None:
        """Raises ValueError where the folder holds no targets that were done."""
        if said_of(folder) is None:
            raise ValueError(f"{folder} holds no whole soft targets; expected those that sft writes. Run it again.")
        head = json.loads((folder / DONE).read_text(encoding="utf-8"))
        self.k, self.highest_id = int(head["k"]), int(head["highest_id"])
        with np.load(folder / _INDEX) as index:
            self._keys, self._hashes, self._starts = index["keys"], index["hashes"], index["starts"]

        def mapped(name: str, kind: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
            if 0 in shape:  # an empty file cannot be mapped
                return np.zeros(shape, kind)
            return np.memmap(folder / name, dtype=kind, mode="r", shape=shape)

        self._covered = mapped(_COVERED, "u1", (head["tokens"],))
        self._ids = mapped(_IDS, "<i4", (head["covered"], self.k))
        self._logprobs = mapped(_LOGPROBS, "<f2", (head["covered"], self.k))
        self._tails = mapped(_TAILS, "<f4", (head["covered"],))

    def of(self, ids: Sequence[str], tokens: Sequence[int]) -> Batch:
        """The targets of some examples, one after another; `tokens` are the learnt tokens of all of them.

        A repeat (an id that ends in +1, +2, ...) has the targets of what it repeats. Raises ValueError where the
        tokens are not those that targets were written for.
        """
        rows = [self._row(key) for key in ids]
        counts = self._starts[rows, 0]
        if counts.sum() != len(tokens):
            raise ValueError(
                f"a batch of {len(ids)} examples learns {len(tokens)} tokens, and their soft targets are of "
                f"{counts.sum()}; expected as many. Nothing was paired."
            )
        covered = np.zeros(len(tokens), np.bool_)
        wanted = np.full((len(tokens), self.k), _UNUSED, np.int32)
        logprobs = np.full((len(tokens), self.k + 1), -np.inf, np.float32)
        logprobs[:, -1] = 0.0
        place = 0
        for key, row, count in zip(ids, rows, counts.tolist(), strict=True):
            if hash_tokens(tokens[place : place + count]) != self._hashes[row].tobytes():
                raise ValueError(
                    f"the tokens of example {key} are not those that its soft targets were written for. Nothing was "
                    f"paired."
                )
            self._fill(row, slice(place, place + count), covered, wanted, logprobs)
            place += count
        return Batch(covered, wanted, logprobs)

    def _row(self, key: str) -> int:
        wanted = base_id(key).encode()
        row = int(np.searchsorted(self._keys, wanted))
        if row == len(self._keys) or self._keys[row] != wanted:
            raise ValueError(f"example {key} has no soft targets; expected those of every example. Nothing was paired.")
        return row

    def _fill(
        self,
        row: int,
        rows: slice,
        covered: npt.NDArray[np.bool_],
        ids: npt.NDArray[np.int32],
        logprobs: npt.NDArray[np.float32],
    ) -> None:
        count, first, first_covered = self._starts[row].tolist()
        here = self._covered[first : first + count] != 0
        some = slice(first_covered, first_covered + int(here.sum()))
        covered[rows] = here
        ids[rows][here] = self._ids[some]
        logprobs[rows, :-1][here] = self._logprobs[some]
        with np.errstate(divide="ignore"):
            logprobs[rows, -1][here] = np.log(self._tails[some])
