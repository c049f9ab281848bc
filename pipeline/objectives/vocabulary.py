"""What each token id of a tokenizer stands for, in bytes: a token may hold half a character, which has no text.

It encodes and decodes no text, and compares no two tokenizers (`alignment.py`).
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "▁"
# What the decoder of a tokenizer made by sentencepiece consists of.
_PIECE_STEPS = {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """tokens: the bytes of each id, none for an id that no token has; a special token's are those of its name.

    special [ids] bool: tokens that steer a model and are no text of their own. fallback [ids] bool: single bytes that
    stand in where a text has no token. leading_space: what it encodes may begin with a space that the text has not.
    """

    tokens: tuple[bytes, ...]
    special: npt.NDArray[np.bool_]
    fallback: npt.NDArray[np.bool_]
    leading_space: bool

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Bytes of each id's token."""
        return np.fromiter(map(len, self.tokens), np.int64, len(self.tokens))

    def joined(self, ids: Sequence[int]) -> bytes:
        """The bytes of a sequence of ids, each of which is below len(tokens)."""
        return b"".join(map(self.tokens.__getitem__, ids))

    def same(self, other: "Vocabulary") -> bool:
        """Whether each id stands for the same in both."""
        return self.tokens == other.tokens and np.array_equal(self.special, other.special)


def vocabulary(tokenizer: Any) -> Vocabulary:
    """The vocabulary of a tokenizer of transformers: byte-level (Qwen, Llama 3, SmolLM2), or made by sentencepiece.

    It reads the whole vocabulary: to be asked once for a tokenizer. Raises ValueError for tokens of another kind, whose
    bytes cannot be told (WordPiece drops white space).
    """
    steps = _decoder_steps(tokenizer)
    kinds = {step.get("type") for step in steps}
    spell: Callable[[str], bytes]
    if "ByteLevel" in kinds:
        spell = _byte_level
    elif kinds and kinds <= _PIECE_STEPS:
        spell = _piece
    else:
        raise ValueError(
            f"found a tokenizer whose decoder is made of {sorted(map(str, kinds)) or 'nothing'}; expected a byte-level "
            f"or a sentencepiece one, whose tokens stand for bytes. Use a model with such a tokenizer, or objective "
            f"sft, which needs no soft labels."
        )
    falls_back = "ByteFallback" in kinds
    added = {int(token_id): token for token_id, token in tokenizer.added_tokens_decoder.items()}
    known = {token_id: text for text, token_id in tokenizer.get_vocab().items()}
    known |= {token_id: token.content for token_id, token in added.items()}
    size = max(known, default=-1) + 1
    tokens, special, fallback = [b""] * size, np.zeros(size, np.bool_), np.zeros(size, np.bool_)
    for token_id, text in known.items():
        one_byte = _BYTE_TOKEN.fullmatch(text) if falls_back and token_id not in added else None
        tokens[token_id] = bytes([int(one_byte[1], 16)]) if one_byte else spell(text)
        fallback[token_id] = one_byte is not None
    special[[token_id for token_id, token in added.items() if token.special]] = True
    return Vocabulary(tuple(tokens), special, fallback, any(_strips_a_space(step) for step in steps))


def _decoder_steps(tokenizer: Any) -> list[dict[str, Any]]:
    """The parts of a tokenizer's decoder as the library writes them down; none where it has no decoder."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = None if backend is None else backend.decoder
    if decoder is None:
        return []
    state: dict[str, Any] = json.loads(decoder.__getstate__())
    return list(state["decoders"]) if state["type"] == "Sequence" else [state]


def _strips_a_space(step: dict[str, Any]) -> bool:
    if step["type"] == "Metaspace":
        return bool(step.get("prepend_scheme") != "never")
    return bool(step["type"] == "Strip" and step["content"] == " " and step["start"] > 0)


def _byte_characters() -> dict[int, str]:
    """For str.translate: the characters that byte-level tokens are written in -> the Latin-1 characters of their bytes.

    As in GPT-2: bytes that are visible characters stand for themselves, the others for those from 256 on. What stands
    for no byte becomes a character that Latin-1 lacks.
    """
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in visible]
    own = {byte: chr(byte) for byte in visible} | dict.fromkeys(others, "\uffff")
    return own | {256 + number: chr(byte) for number, byte in enumerate(others)}


_BYTE_CHARACTERS = _byte_characters()


def _byte_level(token: str) -> bytes:
    """A token with another character in it is text, as the library's decoder has it: most added tokens are."""
    try:
        return token.translate(_BYTE_CHARACTERS).encode("latin-1")
    except UnicodeEncodeError:
        return token.encode()


def _piece(token: str) -> bytes:
    return token.replace(_SPACE, " ").encode()
