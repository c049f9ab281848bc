import contextlib
import math

import numpy as np
import pytest

from pipeline import label_codec, soft_labels
from pipeline.soft_labels import Packer, SoftLabels, hash_tokens, masses_left, pack, unpack, vocabulary_fingerprint
from tests.pipeline.labels import kl, made_up, plainly_unpacked

# Half a step of the codec is at most half a nat; where masses are made to add up to 1, all of a token move by as much
# as its likeliest candidates are off.
LOGPROB_ERROR = 0.51


GIVEN = SoftLabels(
    np.array([7, 40_000, 9], np.int32),
    np.array([-0.1, -9.0, -0.9], np.float32),
    np.array([[7, 9, 8], [9, 7, 1000], [9, 12, 8]], np.int32),
    np.array([[-0.1, -3.0, -4.0], [-1.0, -1.2, -2.0], [-0.9, -1.5, -7.0]], np.float32),
    np.zeros(3, np.float32),
)
PACKED = (
    "534c020300000003000000a361909173f1dc0afda7042784129828a85d7637030020000000"
    "e6fdfe953dbab36840cb05eb3ddaf3e7f723389352f8399813d0b3cd5be6d95b"
)
ROUNDED = [[0.9, 0.05, 0.02], [0.37, 0.3, 0.13], [0.41, 0.22, 0.0]]


def same(found: SoftLabels, given: SoftLabels) -> None:
    """Ids, sampled tokens and counts are exact; logprobs are near, in falling order, and masses add up to 1."""
    assert found.sampled.tolist() == given.sampled.tolist()
    assert np.sort(found.ids).tolist() == np.sort(given.ids).tolist()
    assert found.logprobs.shape == given.logprobs.shape
    assert (np.diff(found.logprobs, axis=1) <= 0).all()
    assert np.allclose(np.exp(found.logprobs.astype(float)).sum(axis=1) + found.tail, 1, atol=1e-6)
    for row in range(len(given.sampled)):
        exact = dict(zip(given.ids[row].tolist(), given.logprobs[row].tolist(), strict=True))
        for token, logprob in zip(found.ids[row].tolist(), found.logprobs[row].tolist(), strict=True):
            assert logprob == exact[token] or abs(logprob - exact[token]) < LOGPROB_ERROR
        inside = exact.get(given.sampled[row])
        if inside is not None:
            assert found.sampled_logprobs[row] == found.logprobs[row][found.ids[row] == given.sampled[row]][0]
        else:
            assert abs(found.sampled_logprobs[row] - given.sampled_logprobs[row]) < LOGPROB_ERROR


@pytest.mark.parametrize("k", [1, 2, 5, 50, 300])
@pytest.mark.parametrize("tokens", [1, 2, 3, 40])
def test_labels_come_back_from_packing(k: int, tokens: int) -> None:
    for seed in range(8):
        given = made_up(tokens, k, vocabulary=400 if seed % 2 else 150_000, peak=3.0 * (seed % 4), seed=seed)
        same(unpack(pack(given)), given)


@pytest.mark.parametrize("k", [1, 3, 20])
def test_a_second_reader_of_the_format_finds_the_same(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soft_labels, "BLOCK_TOKENS", 9)
    for seed in range(6):
        given = made_up(23, k, 150_000 if seed % 2 else 60, peak=2.0 * seed, seed=seed)
        packed = pack(given)
        found, plain = unpack(packed), plainly_unpacked(packed)
        assert [sampled for sampled, _, _ in plain] == found.sampled.tolist() == given.sampled.tolist()
        for row, (_, masses, tail) in enumerate(plain):
            ours = dict(zip(found.ids[row].tolist(), np.exp(found.logprobs[row].astype(float)).tolist(), strict=True))
            assert masses.keys() == ours.keys() == set(given.ids[row].tolist())
            assert all(math.isclose(masses[token], ours[token], rel_tol=1e-4, abs_tol=1e-30) for token in ours)
            assert math.isclose(tail, found.tail[row], rel_tol=1e-4, abs_tol=1e-6)


def test_what_was_packed_once_is_read_as_ever() -> None:
    """The bytes are the format's: where they change, so must its version."""
    labels = unpack(bytes.fromhex(PACKED))
    assert labels.sampled.tolist() == [7, 40_000, 9]
    assert labels.ids.tolist() == [[7, 9, 8], [9, 7, 1000], [9, 12, 8]]
    assert np.round(np.exp(labels.logprobs.astype(float)), 2).tolist() == ROUNDED
    assert pack(GIVEN).hex() == PACKED


def test_no_tokens_have_labels_too() -> None:
    given = made_up(0, 5, 100)
    found = unpack(pack(given))
    assert (found.ids.shape, found.logprobs.shape, len(found.sampled), len(found.tail)) == ((0, 5), (0, 5), 0, 0)
    assert soft_labels.head(pack(given))[:3] == (5, 0, hash_tokens([]))


def test_all_of_a_vocabulary_leaves_no_tail() -> None:
    given = made_up(9, 30, vocabulary=30)
    found = unpack(pack(given))
    same(found, given)
    assert found.tail.max() < 1e-6


def row(*logprobs: float, ids: list[int] | None = None, sampled: int = 7, own: float = -1.0) -> SoftLabels:
    """The labels of one token."""
    given = np.array([logprobs], np.float32)
    return SoftLabels(
        np.array([sampled], np.int32),
        np.array([own], np.float32),
        np.array([ids or list(range(7, 7 + len(logprobs)))], np.int32),
        given,
        masses_left(given),
    )


@pytest.mark.parametrize(
    "given",
    [
        row(0.0),
        row(0.0, -np.inf, -np.inf),
        row(-0.0, -104.0, -200.0, -np.inf),
        row(-1e-8, -18.4, -18.4, -18.4),
        row(np.log(0.5), np.log(0.5)),
        row(-11.9, -11.9, -11.9, ids=[5, 3, 4], sampled=3),
        row(-7.0, own=-7.0),
        row(-9.0, -9.5, sampled=151_935, own=-12.0),
        row(-0.3, -2.0, sampled=2**31 - 1, own=-np.inf),
        row(-0.3, -2.0, ids=[2**31 - 1, 0], sampled=0),
    ],
    ids=lambda given: str(given.logprobs.tolist()),
)
def test_the_edges_of_what_a_model_may_say(given: SoftLabels) -> None:
    found = unpack(pack(given))
    for exact, near in zip(np.sort(given.logprobs[0])[::-1].tolist(), found.logprobs[0].tolist(), strict=True):
        assert near == exact or abs(near - exact) < LOGPROB_ERROR or max(near, exact) < -100
    assert np.isclose(np.exp(found.logprobs.astype(float)).sum() + found.tail[0], 1, atol=1e-6)
    assert found.sampled.tolist() == given.sampled.tolist()
    assert sorted(found.ids[0].tolist()) == sorted(given.ids[0].tolist())


def test_candidates_with_the_same_logprob_come_in_the_order_of_their_ids() -> None:
    found = unpack(pack(row(-1.0, -2.0, -2.0, -2.0, ids=[9, 8, 2, 5], sampled=5)))
    assert found.ids.tolist() == [[9, 2, 5, 8]]
    assert len(set(found.logprobs[0, 1:].tolist())) == 1


def test_the_divergence_from_the_exact_values_is_small_whatever_their_shape() -> None:
    for peak in (0.0, 2.0, 6.0, 12.0):
        given = made_up(200, 50, 150_000, peak=peak, seed=3)
        found = unpack(pack(given))
        divergence = kl(given, found)
        assert divergence.min() > -1e-6
        assert divergence.mean() < 1e-4
        assert divergence.max() < 1e-3


def test_packing_as_tokens_come_gives_what_packing_at_once_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soft_labels, "BLOCK_ENTRIES", 70)  # ten tokens
    given = made_up(43, 7, 500)
    for step in (1, 3, 10, 25, 43):
        packer = Packer(7)
        for start in range(0, 43, step):
            some = slice(start, start + step)
            packer.add(given.sampled[some], given.sampled_logprobs[some], given.ids[some], given.logprobs[some])
        assert packer.packed() == pack(given)
    same(unpack(pack(given)), given)


def test_what_is_added_may_change_afterwards() -> None:
    given = made_up(5, 4, 100)
    packer = Packer(4)
    ids = given.ids.copy()
    packer.add(given.sampled, given.sampled_logprobs, ids, given.logprobs)
    ids[:] = 0
    assert packer.packed() == pack(given)


def test_bytes_that_are_no_block_are_refused_or_read_as_some_block() -> None:
    """A checksum keeps them from here; should one fit by chance, no memory is read that is not the block's."""
    draw = np.random.default_rng(1)
    for _ in range(300):
        with contextlib.suppress(ValueError):
            found = label_codec.decode(draw.bytes(int(draw.integers(0, 400))), 12, 5)
            assert found.ids.shape == (12, 5)


def test_every_flipped_bit_and_every_cut_is_noticed() -> None:
    packed = pack(made_up(6, 5, 100))
    for place in range(len(packed)):
        for bit in range(8):
            flipped = bytearray(packed)
            flipped[place] ^= 1 << bit
            assert not soft_labels.whole(bytes(flipped))
            with pytest.raises(ValueError, match="soft labels"):
                unpack(bytes(flipped))
        with pytest.raises(ValueError, match="soft labels"):
            unpack(packed[:place])


def test_labels_say_which_tokens_they_are_of() -> None:
    given = made_up(6, 5, 100)
    assert soft_labels.head(pack(given))[:3] == (5, 6, hash_tokens(given.sampled.tolist()))
    assert soft_labels.head(pack(given)[: soft_labels.HEAD_BYTES]).tokens == 6
    assert hash_tokens([1, 2]) != hash_tokens([2, 1])
    assert hash_tokens([1, 2]).hex() == "2cc5e4d47c5f3c5fbe635a5a5b7bb392"


@pytest.mark.parametrize("shape", [(3, 4), (3, 6), (2, 5)])
def test_rows_of_another_shape_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="A vocabulary has to hold at least k tokens"):
        Packer(5).add(np.zeros(3), np.zeros(3), np.zeros(shape), np.zeros(shape))


def test_no_candidates_are_refused() -> None:
    with pytest.raises(ValueError, match="found k = 0"):
        Packer(0)


@pytest.mark.parametrize(
    ("given", "fault"), [(row(-1.0, np.nan), "not a number"), (row(-1.0, -2.0, ids=[4, 4]), "found one twice")]
)
def test_what_no_model_says_is_refused(given: SoftLabels, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        pack(given)


def test_a_vocabulary_is_known_by_what_its_ids_stand_for() -> None:
    class Tokenizer:
        def __init__(self, **vocabulary: int) -> None:
            self.vocabulary = vocabulary

        def get_vocab(self) -> dict[str, int]:
            return self.vocabulary

    assert vocabulary_fingerprint(Tokenizer(a=1, b=2)) == vocabulary_fingerprint(Tokenizer(b=2, a=1))
    assert vocabulary_fingerprint(Tokenizer(a=1, b=2)) != vocabulary_fingerprint(Tokenizer(a=2, b=1))
