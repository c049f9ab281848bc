"""Which candidates a token has, and how likely they are, told by the tokens before it: soft labels as coded numbers.

It knows no logprobs, only the levels that `label_codec.py` puts them on; `label_coder.py` makes bytes of what it tells.

A token's candidates are mostly those of some token before it. So each names up to MODELS tokens as its models, and says
of each of their candidates whether it has it too. Of what is left, candidates that some token before had are told by
their place in an order of all these by falling count; the rest by their ids, in rising order. A level is told as its
height above the token's lowest, in the context of the candidate's height in the model.
"""

from typing import NamedTuple

import numpy as np

from pipeline.label_coder import (
    PLACES,
    SPECIAL,
    Coder,
    Ints,
    bit_length,
    code_bit,
    code_number,
    code_plain,
    code_signed,
    code_wide,
    compiled,
    decodes,
)

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
_RATES = 5
# Where the odds of each number start.
_MORE = 0
_DISTANCE = _MORE + MODELS
_HAS = _DISTANCE + PLACES
_HAS_OFTEN = _HAS + 3 * _HEIGHT_CONTEXTS * _RATES
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
        rate = min((_RATES * shared + 2) // (asked + 1), _RATES - 1) if asked > 3 else _RATES - 1
        often = min(known.counts[number] * _SHARES // (token + 1), _SHARES - 1) if known.counts[number] > 1 else 0
        place = kind * _HEIGHT_CONTEXTS + height
        has = code_bit(
            coder,
            _HAS + place * _RATES + rate,
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
