"""An adaptive binary range coder: numbers into bytes and back, at the odds that the numbers before them had.

It knows nothing of labels (`label_model.py` does). The same calls encode and decode: what is handed in counts only to
encode, and what comes back is what was encoded.

The coder narrows an interval by the odds of each bit and writes what both its ends share, byte by byte (Martin, Range
encoding, 1979). A number is coded as in Elias' gamma code: how many bits it has below its highest one, and these bits.
Their count and the first two have odds of their own in each context; those of all further ones are even.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Function = TypeVar("Function", bound=Callable[..., object])

MOST_BITS = 31  # of a number + 1, below its highest
SPECIAL = -1  # a number of its own, told as one of so many bits
_SPECIAL_BITS = 10
PLACES = 4 * MOST_BITS  # of the odds of one number: of its length, and three of the first two bits at each length
_ONE, _EVEN = 1 << 16, 1 << 15
_LEAST = 64  # no bit is surer than 1 - 1/1024
_WORD, _BYTE = 0xFFFFFFFF, 0xFF
_NARROW = 1 << 24  # an interval is never left narrower
# How far odds move towards a bit, by how many were seen: their mean at first, then the latest some sixty.
_RATES = np.array([int(_ONE / (seen + 1.6)) for seen in range(60)], np.int64)
_LOW, _WIDTH, _CODE, _PLACE, _DECODES = range(5)


class Coder(NamedTuple):
    """An interval, the bytes it writes or reads, and by place the odds of a 1 and how often it was seen."""

    state: Ints
    content: npt.NDArray[np.uint8]
    odds: npt.NDArray[np.uint16]
    seen: npt.NDArray[np.uint8]


def compiled(function: Function) -> Function:
    """A function as machine code, kept between runs: a bit is coded in nanoseconds."""
    return cast(Function, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


def inlined(function: Function) -> Function:
    """The same, for what is called for every bit: a call with arrays costs more than coding one."""
    return cast(Function, numba.njit(cache=True, nogil=True, error_model="numpy", inline="always")(function))


def writer(room: int, places: int) -> Coder:
    """A coder into at most `room` bytes, with odds at so many places."""
    return _coder(np.zeros(room, np.uint8), places, [0, _WORD, 0, 0, 0])


def reader(content: bytes, places: int) -> Coder:
    """A coder that reads what was written."""
    first = int.from_bytes(content[:4].ljust(4, b"\0"), "big")
    return _coder(np.frombuffer(content, np.uint8).copy(), places, [0, _WORD, first, 4, 1])


def _coder(content: npt.NDArray[np.uint8], places: int, state: list[int]) -> Coder:
    return Coder(np.array(state, np.int64), content, np.full(places, _EVEN, np.uint16), np.zeros(places, np.uint8))


def written(coder: Coder) -> bytes:
    """What a coder wrote, ended by the fewest bytes that stand for its interval: a reader takes zeros for the rest."""
    low, width, place = (int(coder.state[part]) for part in (_LOW, _WIDTH, _PLACE))
    for size in range(5):
        unit = 1 << (32 - 8 * size)
        end = (low + unit - 1) // unit * unit
        if end < low + width:
            break
    before = int.from_bytes(coder.content[:place].tobytes(), "big") + (end >> 32)
    return before.to_bytes(place, "big") + (end & _WORD).to_bytes(4, "big")[:size]


@inlined
def decodes(coder: Coder) -> bool:
    """Whether it reads."""
    return bool(coder.state[_DECODES])


@inlined
def _narrow(coder: Coder, skipped: int, width: int) -> None:
    """Go to a part of the interval: so wide, after so much that is skipped."""
    state, content = coder.state, coder.content
    if state[_DECODES]:
        code, place = min(state[_CODE] - skipped, width - 1), state[_PLACE]
        while width < _NARROW:
            code <<= 8
            if place < len(content):
                code |= content[place]
            place += 1
            width <<= 8
        state[_CODE], state[_PLACE] = code, place
    else:
        low, place = state[_LOW] + skipped, state[_PLACE]
        if low > _WORD:
            low &= _WORD
            before = place - 1
            while content[before] == _BYTE:
                content[before] = 0
                before -= 1
            content[before] += 1
        while width < _NARROW:
            content[place] = low >> 24
            place += 1
            low = (low << 8) & _WORD
            width <<= 8
        state[_LOW], state[_PLACE] = low, place
    state[_WIDTH] = width


@inlined
def code_bit(coder: Coder, one: int, other: int, bit: int) -> int:
    """A bit at the mean of the odds at two places (or at one, named twice), which learn from it."""
    odds, seen, width = coder.odds, coder.seen, coder.state[_WIDTH]
    first, second = int(odds[one]), int(odds[other])
    bound = (width >> 16) * ((first + second) >> 1)
    if coder.state[_DECODES]:
        bit = 1 if coder.state[_CODE] < bound else 0
    if bit:
        _narrow(coder, 0, bound)
    else:
        _narrow(coder, bound, width - bound)
    odds[one] = _learned(first, _RATES[seen[one]], bit)
    seen[one] = min(seen[one] + 1, len(_RATES) - 1)
    if other != one:
        odds[other] = _learned(second, _RATES[seen[other]], bit)
        seen[other] = min(seen[other] + 1, len(_RATES) - 1)
    return bit


@inlined
def _learned(odds: int, rate: int, bit: int) -> int:
    """Odds after a bit."""
    if bit:
        return min(odds + (((_ONE - odds) * rate) >> 16), _ONE - _LEAST)
    return max(odds - ((odds * rate) >> 16), _LEAST)


@compiled
def code_plain(coder: Coder, bits: int, value: int) -> int:
    """The lowest bits of a number, at even odds, sixteen at once."""
    found = 0
    while bits > 0:
        some = min(bits, 16)
        bits -= some
        width = coder.state[_WIDTH] >> some
        part = (value >> bits) & ((1 << some) - 1)
        if coder.state[_DECODES]:
            part = min(coder.state[_CODE] // width, (1 << some) - 1)
        _narrow(coder, part * width, width)
        found = found << some | part
    return found


@compiled
def bit_length(value: int) -> int:
    length = 0
    while value > 0:
        value >>= 1
        length += 1
    return length


@compiled
def code_number(coder: Coder, one: int, other: int, value: int, special: bool = False) -> int:
    """A number from 0 to 2^31 in two contexts, each the first of its PLACES; where special, below 1023, or SPECIAL.

    For small ones: how many bits it has is told in unary.
    """
    given = _SPECIAL_BITS if value == SPECIAL else bit_length(value + 1) - 1
    bits = 0
    while bits < MOST_BITS and code_bit(coder, one + bits, other + bits, int(given > bits)):
        bits += 1
    if special and bits == _SPECIAL_BITS:
        return SPECIAL
    return _code_below(coder, one, other, value, bits)


@compiled
def code_wide(coder: Coder, one: int, other: int, value: int) -> int:
    """A number as `code_number` takes it, for large ones: how many bits it has is told bit by bit."""
    given = bit_length(value + 1) - 1
    node = 1
    for below in range(4, -1, -1):
        node = node * 2 + code_bit(coder, one + node - 1, other + node - 1, (given >> below) & 1)
    return _code_below(coder, one, other, value, node - 32)


@compiled
def _code_below(coder: Coder, one: int, other: int, value: int, bits: int) -> int:
    """The bits below the highest one of a number + 1; returns the number."""
    found = 1
    for below in range(bits - 1, max(bits - 3, -1), -1):
        place = MOST_BITS + 3 * (bits - 1) + found - 1
        found = found * 2 + code_bit(coder, one + place, other + place, ((value + 1) >> below) & 1)
    if bits > 2:
        found = found << (bits - 2) | code_plain(coder, bits - 2, value + 1)
    return found - 1


@compiled
def code_signed(coder: Coder, context: int, value: int) -> int:
    """A number that may be below 0."""
    found = code_number(coder, context, context, 2 * value if value >= 0 else -2 * value - 1)
    return found // 2 if found % 2 == 0 else -(found + 1) // 2
