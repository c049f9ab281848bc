"""Made-up soft labels, and how far decoded ones are from the exact ones."""

import math
import struct

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.soft_labels import SoftLabels, masses_left


def made_up(tokens: int, k: int, vocabulary: int, peak: float = 4.0, seed: int = 1) -> SoftLabels:
    """Labels from random logits over a vocabulary: the higher the peak, the surer the model. A token in ten is sampled
    from outside the candidates where there is an outside."""
    draw = np.random.default_rng(seed)
    whole = max(vocabulary, k)
    seen = min(whole, max(2000, k))  # candidates come from so many tokens
    some = np.sort(draw.choice(whole, seen, replace=False))
    logits = draw.normal(0, 2, (tokens, seen))
    logits[np.arange(tokens), draw.integers(0, seen, tokens)] += peak * 2
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)) if tokens else logits
    order = np.argsort(-logprobs, axis=1)
    sorted_logprobs = np.take_along_axis(logprobs, order, axis=1)
    places = np.minimum(draw.geometric(0.6, tokens) - 1, k - 1)
    if k < seen:
        places = np.where(draw.random(tokens) < 0.1, draw.integers(k, seen, tokens), places)
    rows = np.arange(tokens)
    given = sorted_logprobs[:, :k].astype(np.float32)
    return SoftLabels(
        some[order[rows, places]].astype(np.int32),
        sorted_logprobs[rows, places].astype(np.float32),
        some[order[:, :k]].astype(np.int32),
        given,
        masses_left(given),
    )


def kl(exact: SoftLabels, decoded: SoftLabels) -> npt.NDArray[np.float64]:
    """KL(exact || decoded) of each token in nats, over its candidates and the tail as one outcome more."""
    by_id = [np.argsort(labels.ids, axis=1) for labels in (exact, decoded)]
    ours = np.take_along_axis(exact.logprobs.astype(float), by_id[0], axis=1)
    theirs = np.take_along_axis(decoded.logprobs.astype(float), by_id[1], axis=1)
    left = 1 - np.exp(ours).sum(axis=1)
    tail = np.where(left > 1e-6, left, 0.0)  # float32 knows no smaller rest of 1
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = np.where(np.exp(ours) > 0, np.exp(ours) * (ours - theirs), 0.0).sum(axis=1)
        rest = np.where(tail > 0, tail * (np.log(tail) - np.log(decoded.tail.astype(float))), 0.0)
    return np.asarray(inside + rest)


def plainly_unpacked(packed: bytes) -> list[tuple[int, dict[int, float], float]]:
    """Of each token its id, its candidates' masses and the tail: the format read a second time, number by number.

    It shares no line with `soft_labels` and `label_codec`, so that a mistake in both directions of theirs shows.
    """
    _, k, _, _ = struct.unpack_from("<2sxxII16s", packed)
    place, found = 28, []
    while place < len(packed) - 4:
        (length,) = struct.unpack_from("<I", packed, place)
        found += _block(packed[place + 4 : place + 4 + length], k)
        place += 4 + length
    return found


def _block(content: bytes, k: int) -> list[tuple[int, dict[int, float], float]]:
    tokens, size, squeezed, whole = struct.unpack_from("<IIII", content)
    classes = iter(pa.Codec("zstd").decompress(content[16 : 16 + squeezed], whole, asbytes=True))
    digits = "".join(f"{byte:08b}" for byte in content[16 + squeezed :])
    place = 0

    def bits(width: int) -> int:
        nonlocal place
        place += width
        return int(digits[place - width : place] or "0", 2)

    def numbers(count: int) -> list[int]:
        lengths = [next(classes) for _ in range(count)]
        return [(1 << length - 1) + bits(length - 1) if length else 0 for length in lengths]

    def fine_width(level: int) -> int:
        return 0 if level >= 18 else max(0, math.ceil(6 - level / (4 * math.log(2))))

    def mass(level: int) -> float:
        width = fine_width(level)
        inside = (bits(width) + 0.5) / 2**width
        nats = (level + inside) / 2 if level < 18 else 9 + level - 18 + inside
        return 0.0 if level == 255 else math.exp(-nats)

    ids, last = [], -1
    for gap in numbers(size):
        last += gap + 1
        ids.append(last)
    counts = [one + 1 for one in numbers(size)]
    pairs = [(number, turn) for number, count in enumerate(counts) for turn in range(count)]
    grouped = sorted(pairs, key=lambda pair: counts[pair[0]].bit_length())  # stable, as the encoder's
    skipped = dict(zip(grouped, numbers(tokens * k), strict=True))
    ranks = numbers(tokens)
    floors, tails = [[next(classes) for _ in range(tokens)] for _ in range(2)]
    heights = {pair: next(classes) for pair in grouped}
    lost = [next(classes) for rank in ranks if rank == k]
    rows: list[list[tuple[float, int]]] = [[] for _ in range(tokens)]
    row = -1
    for pair in pairs:
        row = skipped[pair] if pair[1] == 0 else row + 1 + skipped[pair]
        rows[row].append((mass(floors[row] - heights[pair]), ids[pair[0]]))
    left = [mass(level) for level in tails]
    for level in lost:
        mass(level)
    made = []
    for row, rank in enumerate(ranks):
        ordered = sorted(rows[row], key=lambda one: (-one[0], one[1]))
        total = sum(one[0] for one in ordered)
        tail = left[row] if left[row] <= 0.5 and total else max(0.0, 1 - total)
        share = (1 - tail) / total if left[row] <= 0.5 and total else 1.0
        sampled = ordered[rank][1] if rank < k else bits(31)
        made.append((sampled, {token: one * share for one, token in ordered}, tail))
    turns = [bits((tokens - 1).bit_length()) for _ in range(tokens)]
    return [made[turns.index(token)] for token in range(tokens)]
