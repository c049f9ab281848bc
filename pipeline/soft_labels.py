"""Soft labels: of each generated token the teacher's k likeliest candidates, their logprobs and the mass of all others.

It trains nothing and knows no engine, store or dataset; `label_codec.py` has the encoding of a block.

Logprobs are raw: natural logarithms of the model's softmax in float32, before temperature, penalties, top-p and the
like. Packed labels say by themselves what they hold, which tokens they are of, and whether they are whole.
"""

import hashlib
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.records import content_id

# Of a block: a running completion holds no more as it came.
BLOCK_ENTRIES, BLOCK_TOKENS = 1 << 15, 512
HASH_BYTES = 16

_MARK, _VERSION = b"SL", 2
_HEAD = struct.Struct(f"<2sBII{HASH_BYTES}sI")  # mark, version, k, tokens, hash of the tokens, crc32 of all else
_BLOCK = struct.Struct("<HI")  # of a block: tokens, bytes
HEAD_BYTES = _HEAD.size


@dataclass(frozen=True, eq=False)
class SoftLabels:
    """The labels of T tokens, k candidates each.

    sampled [T] int32: the tokens themselves. sampled_logprobs [T] float32. ids [T, k] int32: the candidates by falling
    logprob. logprobs [T, k] float32. tail [T] float32: the mass of all tokens that are no candidates, so that the
    candidates' masses and the tail add up to 1.
    """

    sampled: npt.NDArray[np.int32]
    sampled_logprobs: npt.NDArray[np.float32]
    ids: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32]
    tail: npt.NDArray[np.float32]


class Head(NamedTuple):
    """What packed labels say of themselves."""

    k: int
    tokens: int
    token_hash: bytes
    check: int  # crc32 of these, and of all that follows them


def hash_tokens(token_ids: Iterable[int]) -> bytes:
    """A hash of a sequence of token ids: blake2b-128 of them as little-endian int32."""
    ids = np.fromiter(token_ids, dtype="<i4")
    return hashlib.blake2b(ids.tobytes(), digest_size=HASH_BYTES).digest()


def vocabulary_fingerprint(tokenizer: Any) -> str:
    """A content id of what each token id stands for, added tokens included; labels mean nothing under another one."""
    return content_id("vocabulary", sorted(tokenizer.get_vocab().items()))


class Packer:
    """Packs labels as they come: what makes a block is packed at once, so that little is held as it came."""

    def __init__(self, k: int) -> None:
        if k < 1:
            raise ValueError(f"labels need at least one candidate a token; found k = {k}")
        self.k = k
        self._block_tokens = min(BLOCK_TOKENS, max(1, BLOCK_ENTRIES // k))
        self._rows: list[tuple[npt.NDArray[Any], ...]] = []
        self._waiting = 0
        self._tokens = 0
        self._hash = hashlib.blake2b(digest_size=HASH_BYTES)
        self._blocks = bytearray()

    def add(
        self,
        sampled: npt.NDArray[Any],
        sampled_logprobs: npt.NDArray[Any],
        ids: npt.NDArray[Any],
        logprobs: npt.NDArray[Any],
    ) -> None:
        """Take the labels of some tokens, in the shapes of SoftLabels. Raises ValueError for another k."""
        if ids.shape != (len(sampled), self.k) or logprobs.shape != ids.shape:
            raise ValueError(
                f"labels of {len(sampled)} tokens with k = {self.k} need ids and logprobs of that shape; found "
                f"{ids.shape} and {logprobs.shape}. A vocabulary has to hold at least k tokens."
            )
        # Copies: what an engine hands over may be a view of all that it made in a step.
        self._rows.append(
            (
                np.array(sampled, np.int32),
                np.array(sampled_logprobs, np.float32),
                np.array(ids, np.int32),
                np.array(logprobs, np.float32),
            )
        )
        self._waiting += len(sampled)
        while self._waiting >= self._block_tokens:
            self._pack(self._block_tokens)

    def _pack(self, count: int) -> None:
        """Pack the first `count` of the waiting tokens."""
        from pipeline import label_codec  # its machine code takes a while to load, which a status need not wait for

        sampled, sampled_logprobs, ids, logprobs = (np.concatenate(parts) for parts in zip(*self._rows, strict=True))
        block = label_codec.encode(
            label_codec.Block(
                sampled[:count], sampled_logprobs[:count], ids[:count], logprobs[:count], masses_left(logprobs[:count])
            )
        )
        self._hash.update(sampled[:count].astype("<i4").tobytes())
        self._blocks += _BLOCK.pack(count, len(block)) + block
        self._tokens += count
        self._waiting -= count
        self._rows = (
            [(sampled[count:], sampled_logprobs[count:], ids[count:], logprobs[count:])] if self._waiting else []
        )

    def packed(self) -> bytes:
        """The labels of all tokens that were added."""
        if self._waiting:
            self._pack(self._waiting)
        said = (_MARK, _VERSION, self.k, self._tokens, self._hash.digest())
        return _HEAD.pack(*said, _checked(_HEAD.pack(*said, 0), self._blocks)) + self._blocks


def masses_left(logprobs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """The mass that each token's candidates leave to all others; where rounding makes it less than nothing, 0."""
    left = 1.0 - np.exp(logprobs.astype(np.float64)).sum(axis=1)
    return np.asarray(np.maximum(0.0, left), dtype=np.float32)


def pack(labels: SoftLabels) -> bytes:
    """Labels in few bytes (see `label_codec`); their tail is what their logprobs leave."""
    packer = Packer(labels.ids.shape[1])
    packer.add(labels.sampled, labels.sampled_logprobs, labels.ids, labels.logprobs)
    return packer.packed()


def _checked(unchecked_head: bytes, blocks: bytes | bytearray) -> int:
    return zlib.crc32(blocks, zlib.crc32(unchecked_head))


def head(packed: bytes) -> Head:
    """What packed labels, or their first HEAD_BYTES, say of themselves. Raises ValueError for anything else."""
    mark, version, *said = _HEAD.unpack_from(packed) if len(packed) >= HEAD_BYTES else (b"", 0)
    if mark != _MARK or version != _VERSION:
        raise ValueError(f"these are no soft labels of version {_VERSION}: they start with {packed[:4]!r}")
    return Head(*said)


def whole(packed: bytes) -> bool:
    """Whether packed labels match their checksum."""
    if len(packed) < HEAD_BYTES or packed[:2] != _MARK:
        return False
    *said, check = _HEAD.unpack_from(packed)
    return bool(check == _checked(_HEAD.pack(*said, 0), packed[HEAD_BYTES:]))


def unpack(packed: bytes) -> SoftLabels:
    """The labels that were packed, as exact as `label_codec` says. Raises ValueError where they are not whole."""
    from pipeline import label_codec

    found = head(packed)
    if not whole(packed):
        raise ValueError("soft labels do not match their checksum: they were altered after they were packed")
    blocks = []
    place = HEAD_BYTES
    while place < len(packed):
        tokens, length = _BLOCK.unpack_from(packed, place)
        place += _BLOCK.size
        blocks.append(label_codec.decode(packed[place : place + length], tokens, found.k))
        place += length
    if not blocks:
        empty = np.zeros(0, np.float32)
        return SoftLabels(
            empty.astype(np.int32), empty, np.zeros((0, found.k), np.int32), empty.reshape(0, found.k), empty
        )
    return SoftLabels(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))
