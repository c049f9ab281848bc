"""Soft labels as coded numbers: what candidates a token has, told by the tokens before it, and an adaptive range coder.

It knows no logprobs, only the levels that `label_codec.py` puts them on.

A token's candidates are mostly those of some token before it. So each names up to MODELS tokens as its models, and says
of each of their candidates whether it has it too. Of what is left, candidates that some token before had are told by
their place in an order of all these by falling count; the rest by their ids, in rising order. A level is told as its
height above the token's lowest, in the context of the candidate's height in the model.

The same calls encode and decode: what is handed in counts only to encode, and what comes back is what was encoded. The
coder narrows an interval by the odds of each bit and writes what both its ends share, byte by byte (Martin, Range
encoding, 1979). A number is coded as in Elias' gamma code: how many bits it has below its highest one, and these bits.
Their count and the first two have odds of their own in each context; those of all further ones are even.

All that is compiled stands in this one file: what numba keeps of a function it makes anew only when the function's own
file changes, not when one does that it calls.
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

TOP = -1  # the level of a candidate that has what all others and the tail leave
NOTHING = 511  # the level of no mass at all, above all others
MODELS = 4
SAMPLED_BITS = 31
_FIRST_FLOOR = 320  # a level near the usual one
# A model's worth, in bits: of a candidate shared, of one that is not, and of naming it.
_SHARED, _OTHER, _NAMED = 8.0, 0.8, 9.0

# The context of a height, by height: of TOP it is one more than the floor.
_HEIGHTS = np.searchsorted([1, 2, 3, 5, 8, 13, 25, 70], np.arange(NOTHING + 2), side="right")
_HEIGHT_CONTEXTS = 9
_NEW, _KNOWN = _HEIGHT_CONTEXTS, _HEIGHT_CONTEXTS + 1  # the contexts of heights without a model
_SHARES = 8
_HITS = 5  # contexts of how many of the candidates asked about so far were shared
# Where the odds of each number start.
_MORE = 0
_DISTANCE = _MORE + MODELS
_HAS = _DISTANCE + PLACES
_HAS_OFTEN = _HAS + 3 * _HEIGHT_CONTEXTS * _HITS
_KNOWN_COUNT = _HAS_OFTEN + 3 * _HEIGHT_CONTEXTS * _SHARES
_STEP = _KNOWN_COUNT + 33 * PLACES
_ID_AFTER = _STEP + 33 * PLACES
_ID_AMONG = _ID_AFTER + 33 * PLACES
_TOPS = _ID_AMONG + 33 * PLACES
_FLOOR = _TOPS + 2
_TAIL = _FLOOR + PLACES
_HEIGHT = _TAIL + PLACES
_RANK = _HEIGHT + (_HEIGHT_CONTEXTS + 2) * PLACES
_OWN = _RANK + 2 * PLACES
ODDS = _OWN + PLACES


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
    """The same, as a part of what calls it: a call that hands on arrays costs as much as coding a bit."""
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


@compiled
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


class Block(NamedTuple):
    """T tokens in numbers; decoding fills in all but names and places.

    ids, levels [T, k]: the candidates by rising level and id. tops [T]: whether the first one's level is TOP. floors
    [T]: the highest level of each token. tails [T]: the level of the mass that is left. ranks [T]: of the sampled token
    among the candidates, k where it is none; then its level is in own [T]. sampled [T]. names: all ids, each once,
    rising; places [T, k]: of ids in names.
    """

    ids: Ints
    levels: Ints
    tops: Ints
    floors: Ints
    tails: Ints
    ranks: Ints
    sampled: Ints
    own: Ints
    names: Ints
    places: Ints


class Memory(NamedTuple):
    """What is known of the tokens so far. A candidate is known by its number: how many were there before it."""

    sizes: Ints  # candidates known; of the token at hand, candidates told
    rows: Ints  # [T, k] of each token its candidates, by rising level
    ids: Ints  # from here on by number: its id
    counts: Ints  # how many tokens have it
    place: Ints  # in the order
    order: Ints  # numbers by falling count
    above: Ints  # by count: how many have a higher one
    asked: Ints  # the last token that said whether it has it, from 1
    found: Ints  # [k] of the token at hand: the numbers told
    contexts: Ints  # [k] and the contexts of their heights
    keys: Ints  # [k] room to sort in
    # To encode:
    number: Ints  # by place in names; -1 before it is known
    has: Ints  # the last token that has it, from 1
    slot: Ints  # where among that token's candidates
    latest: Ints  # the last pair of token and candidate with it, as token * k + slot; -1 for none
    earlier: Ints  # [T * k] the pair before
    shared: Ints  # [T] candidates that a token shares with the one at hand, those told left out
    covered: Ints  # [T] candidates that were asked about
    new: Ints  # [k] slots of the candidates that no token before had, by rising id
    steps: Ints  # [k] places in the order of known candidates that no model has, rising


def memory(tokens: int, k: int, names: int) -> Memory:
    """An empty one."""

    def none(*shape: int) -> Ints:
        return np.zeros(shape, np.int64)

    total = tokens * k
    return Memory(
        sizes=none(2),
        rows=none(tokens, k),
        ids=none(total),
        counts=none(total),
        place=none(total),
        order=none(total),
        above=none(tokens + 2),
        asked=none(total),
        found=none(k),
        contexts=none(k),
        keys=none(k),
        number=none(names) - 1,
        has=none(total),
        slot=none(total),
        latest=none(total) - 1,
        earlier=none(total),
        shared=none(tokens),
        covered=none(tokens),
        new=none(k),
        steps=none(k),
    )


@compiled
def tell(coder: Coder, block: Block, known: Memory) -> bool:
    """Encode a block, or decode it into arrays of its shape. Returns False where the bytes are of no block."""
    for token in range(len(block.ranks)):
        known.sizes[1] = 0
        if not decodes(coder):
            _look_up(block, known, token)
        first = _tell_models(coder, block, known, token)
        if first < 0 or not _tell_known(coder, block, known, token) or not _tell_new(coder, block, known, token):
            return False
        if not _tell_shape(coder, block, token, first) or not _tell_heights(coder, block, known, token):
            return False
        _remember(block, known, token)
        if not _tell_sampled(coder, block, token):
            return False
    return True


@compiled
def _look_up(block: Block, known: Memory, token: int) -> None:
    """What the encoder knows of a token: its candidates that were there before, who shares them, and the new ones."""
    k = block.ids.shape[1]
    known.shared[:token] = 0
    known.covered[:token] = 0
    new = 0
    for slot in range(k):
        number = known.number[block.places[token, slot]]
        if number >= 0:
            known.has[number] = token + 1
            known.slot[number] = slot
            pair = known.latest[number]
            while pair >= 0:
                known.shared[pair // k] += 1
                pair = known.earlier[pair]
            continue
        at = new
        while at > 0 and block.places[token, known.new[at - 1]] > block.places[token, slot]:
            known.new[at] = known.new[at - 1]
            at -= 1
        known.new[at] = slot
        new += 1


@compiled
def _tell_models(coder: Coder, block: Block, known: Memory, token: int) -> int:
    """Tell a token's models, and what it shares with each; returns the first, or the token before; -1 for no token."""
    first = max(token - 1, 0)
    for number in range(min(MODELS, token)):
        model = 0 if decodes(coder) else _best_model(block, known, token)
        if not code_bit(coder, _MORE + number, _MORE + number, int(model >= 0)):
            break
        model = token - 1 - code_wide(coder, _DISTANCE, _DISTANCE, token - 1 - model)
        if model < 0:
            return -1
        if number == 0:
            first = model
        _tell_shared(coder, block, known, token, model, min(number, 2))
        if known.sizes[1] == block.ids.shape[1]:
            break
    return first


@compiled
def _best_model(block: Block, known: Memory, token: int) -> int:
    """The token that spares most bits as a model, or -1 where none spares any."""
    best, most = -1, 0.0
    for model in range(token):
        shared = known.shared[model]
        spared = _SHARED * shared - _OTHER * (block.ids.shape[1] - known.covered[model] - shared) - _NAMED
        if spared > most:
            best, most = model, spared
    return best


@compiled
def _tell_shared(coder: Coder, block: Block, known: Memory, token: int, model: int, kind: int) -> None:
    """Tell which candidates of a model a token has too, of those that no model before this one had."""
    k = block.ids.shape[1]
    asked = shared = 0
    for slot in range(k):
        number = known.rows[model, slot]
        if known.asked[number] == token + 1 or known.sizes[1] == k:
            continue
        known.asked[number] = token + 1
        height = _HEIGHTS[block.floors[model] - block.levels[model, slot]]
        rate = min((_HITS * shared + 2) // (asked + 1), _HITS - 1) if asked > 3 else _HITS - 1
        often = min(known.counts[number] * _SHARES // (token + 1), _SHARES - 1) if known.counts[number] > 1 else 0
        place = kind * _HEIGHT_CONTEXTS + height
        has = code_bit(
            coder,
            _HAS + place * _HITS + rate,
            _HAS_OFTEN + place * _SHARES + often,
            int(known.has[number] == token + 1),
        )
        asked += 1
        shared += has
        if has:
            _add(known, number, height)
        if not decodes(coder):
            pair = known.latest[number]
            while pair >= 0:
                known.covered[pair // k] += 1
                known.shared[pair // k] -= has
                pair = known.earlier[pair]


@compiled
def _add(known: Memory, number: int, context: int) -> None:
    """Take a candidate as told, and the context of its height."""
    count = known.sizes[1]
    known.found[count] = number
    known.contexts[count] = context
    known.sizes[1] = count + 1


@compiled
def _tell_known(coder: Coder, block: Block, known: Memory, token: int) -> bool:
    """Tell the candidates that no model has but some token had. Returns False where that cannot be."""
    left = block.ids.shape[1] - known.sizes[1]
    if left == 0 or known.sizes[0] == 0:
        return True
    count = 0 if decodes(coder) else _steps(block, known, token)
    context = _KNOWN_COUNT + bit_length(left) * PLACES
    count = code_number(coder, context, context, count)
    if count > left:
        return False
    at = -1
    for step in range(count):
        context = _STEP + bit_length(at + 1) * PLACES
        at += 1 + code_wide(coder, context, context, known.steps[step] - at - 1)
        if at >= known.sizes[0] or known.asked[known.order[at]] == token + 1:
            return False
        _add(known, known.order[at], _KNOWN)
    return True


@compiled
def _steps(block: Block, known: Memory, token: int) -> int:
    """Note the places of the candidates that no model has but some token had, rising; returns how many."""
    count = 0
    for slot in range(block.ids.shape[1]):
        number = known.number[block.places[token, slot]]
        if number < 0 or known.asked[number] == token + 1:
            continue
        at = count
        while at > 0 and known.steps[at - 1] > known.place[number]:
            known.steps[at] = known.steps[at - 1]
            at -= 1
        known.steps[at] = known.place[number]
        count += 1
    return count


@compiled
def _tell_new(coder: Coder, block: Block, known: Memory, token: int) -> bool:
    """Tell the candidates that no token had before. Returns False where ids go beyond their bits."""
    last = -1
    for count in range(block.ids.shape[1] - known.sizes[1]):
        left = block.ids.shape[1] - known.sizes[1]
        slot = known.new[count]
        after, among = _ID_AFTER + bit_length(last + 1) * PLACES, _ID_AMONG + bit_length(left) * PLACES
        last += 1 + code_wide(coder, after, among, block.ids[token, slot] - last - 1)
        number = known.sizes[0]
        if last >= 1 << SAMPLED_BITS or number >= len(known.ids):
            return False
        if not decodes(coder):
            known.number[block.places[token, slot]] = number
            known.slot[number] = slot
        known.ids[number] = last
        known.place[number] = known.order[number] = number
        known.sizes[0] += 1
        _add(known, number, _NEW)
    return True


@compiled
def _tell_shape(coder: Coder, block: Block, token: int, first: int) -> bool:
    """Tell how a token's mass lies, near where its first model's does. Returns False for a level that is none."""
    before = block.tops[first] if token else 0
    block.tops[token] = code_bit(coder, _TOPS + before, _TOPS + before, block.tops[token])
    floor = block.floors[first] if token else _FIRST_FLOOR
    block.floors[token] = floor + code_signed(coder, _FLOOR, block.floors[token] - floor)
    block.tails[token] = block.floors[token] - code_signed(coder, _TAIL, block.floors[token] - block.tails[token])
    return bool(0 <= block.floors[token] <= NOTHING and 0 <= block.tails[token] <= NOTHING)


@compiled
def _tell_heights(coder: Coder, block: Block, known: Memory, token: int) -> bool:
    """Tell the levels of a token's candidates, and put these in order. Returns False for a level that is none."""
    floor = block.floors[token]
    for count in range(block.ids.shape[1]):
        number = known.found[count]
        height = 0
        if not decodes(coder):
            level = block.levels[token, known.slot[number]]
            height = SPECIAL if level == TOP else floor - level
        context = _HEIGHT + known.contexts[count] * PLACES
        height = code_number(coder, context, context, height, True)
        if height > floor:
            return False
        level = TOP if height == SPECIAL else floor - height
        key = (level - TOP) << 32 | known.ids[number]
        at = count
        while at > 0 and known.keys[at - 1] > key:
            known.keys[at] = known.keys[at - 1]
            known.rows[token, at] = known.rows[token, at - 1]
            at -= 1
        known.keys[at] = key
        known.rows[token, at] = number
    return True


@compiled
def _remember(block: Block, known: Memory, token: int) -> None:
    """Take a token whose candidates are told among the known ones."""
    k = block.ids.shape[1]
    for slot in range(k):
        number = known.rows[token, slot]
        block.levels[token, slot] = (known.keys[slot] >> 32) + TOP
        block.ids[token, slot] = known.ids[number]
        count, place = known.counts[number], known.place[number]
        if count > 0:  # to the front of those as frequent, and past them
            to = known.above[count]
            other = known.order[to]
            known.order[to], known.order[place] = number, other
            known.place[other], known.place[number] = place, to
            known.above[count] += 1
        known.counts[number] = count + 1
        known.earlier[token * k + slot] = known.latest[number]
        known.latest[number] = token * k + slot


@compiled
def _tell_sampled(coder: Coder, block: Block, token: int) -> bool:
    """Tell the sampled token. Returns False where it has no such rank."""
    k = block.ids.shape[1]
    context = _RANK + block.tops[token] * PLACES
    block.ranks[token] = code_number(coder, context, context, block.ranks[token])
    if block.ranks[token] > k:
        return False
    if block.ranks[token] < k:
        block.sampled[token] = block.ids[token, block.ranks[token]]
        return True
    block.sampled[token] = code_plain(coder, SAMPLED_BITS, block.sampled[token])
    block.own[token] = code_number(coder, _OWN, _OWN, block.own[token])
    return bool(block.own[token] <= NOTHING)
