"""A teacher's labels on a student's tokens: never at a place where the two mean other bytes, and no mass lost."""

import math
import random
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, normalizers
from tokenizers import models as token_models
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from pipeline import mirror, models, templates
from pipeline.convert import tokenizer_of
from pipeline.objectives.alignment import UNUSED, Bridge, Targets, align, bridge
from pipeline.objectives.vocabulary import Vocabulary, vocabulary
from pipeline.soft_labels import SoftLabels
from pipeline.think import Span, assemble, copied, inserted, lay_out
from tests import tiny
from tests.pipeline.labels import made_up

ROOT = Path(__file__).resolve().parents[3]
QWEN, SMOLLM2 = "qwen2.5-coder-0.5b-instruct", "smollm2-135m-instruct"
POOLS = (
    "0123456789",
    "abc the and then so",
    " \n\t  ",
    "+-*/=(){}\\$^_",
    "😀🇩🇪👩‍👩‍👧🏽",
    "数学é́àßøЖдعربي",
    "".join(chr(code) for code in range(0x250, 0x3000, 97)),
)
WORDS = ("Let ", "x = ", "12 + 30 = 42", "\n\n", "The answer is ", "\\boxed{42}", "therefore ", "   ", "3.14", "⅔ ")


class Reader:
    """A tokenizer with what it makes of ids, told a second time: token by token from the library's own table."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary(tokenizer)
        self.end = templates.end_token_id(tokenizer)
        byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
        added = tokenizer.added_tokens_decoder
        self.special = {each for each, token in added.items() if token.special}
        self.spelled = {
            each: token.encode() if each in added else bytes(byte_of[character] for character in token)
            for token, each in tokenizer.get_vocab().items()
        }
        self.inverse = {self.spelled[each]: each for each in sorted(self.spelled) if each not in self.special}

    def ids(self, text: str) -> list[int]:
        return templates.encode(self.tokenizer, text)


def tokenizer_folder(name: str, kept: Path) -> Path:
    """A folder with the tokenizer of a mirrored model: where the model is not there, its weights are not converted."""
    model, folder = models.resolve(name, ROOT), kept / name
    assert model.folder is not None
    assert model.mirror is not None
    if model.present:
        return model.folder
    if mirror.sealed_files(folder, model.identity) is None:

        def convert(weights: Path, dest: Path, end_tokens: tuple[str, ...]) -> None:
            tokenizer_of(weights).save_pretrained(dest)

        mirror.fetch(model.mirror, folder, lambda line: None, convert=convert)
    return folder


@pytest.fixture(scope="module")
def readers(pytestconfig: pytest.Config) -> dict[str, Reader]:
    folders = {
        QWEN: tokenizer_folder(QWEN, pytestconfig.cache.mkdir("tokenizers")),
        SMOLLM2: models.fetch(SMOLLM2, ROOT, lambda line: None),  # whose weights other tests need
    }
    return {name: Reader(templates.load_tokenizer(folder)) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def bridges(readers: dict[str, Reader]) -> dict[tuple[str, str], Bridge]:
    return {
        (one, other): bridge(
            readers[one].vocabulary, readers[other].vocabulary, (readers[one].end,), readers[other].end
        )
        for one in readers
        for other in readers
    }


def texts(count: int, seed: str, words: bool = False) -> list[str]:
    """Random runs of characters of one kind, or of words as a trace has; NFC, since Qwen's tokenizer makes that of all.

    They begin and end with no white space.
    """
    draw = random.Random(seed)
    made: list[str] = []
    while len(made) < count:
        if words:
            text = "".join(draw.choice(WORDS) for _ in range(draw.randint(1, 25)))
        else:
            runs = (draw.choices(draw.choice(POOLS), k=draw.randint(1, 6)) for _ in range(draw.randint(1, 12)))
            text = "".join(character for run in runs for character in run)
        text = unicodedata.normalize("NFC", text.strip())
        if text:
            made.append(text)
    return made


def spans_of(raw: str, draw: random.Random) -> list[Span]:
    """Spans as no layout makes them: pieces left out, side by side, copied again, with text in between."""
    cuts = sorted({0, len(raw), *(draw.randint(0, len(raw)) for _ in range(3))})
    spans: list[Span] = []
    for start, end in pairwise(cuts):
        spans += draw.choice(
            (
                [copied(start, end)],
                [copied(start, end)],
                [inserted("<think>\n"), copied(start, end)],
                [copied(start, end), copied(max(0, start - 2), end)],
                [],
            )
        )
    return spans or [copied(0, len(raw))]


def chopped(reader: Reader, ids: Sequence[int], draw: random.Random) -> list[int]:
    """The same bytes in other tokens: some are cut into their bytes, so that characters are cut too."""
    return [
        piece
        for each in ids
        for piece in (
            [reader.inverse[bytes([byte])] for byte in reader.spelled[each]] if draw.random() < 0.2 else [each]
        )
    ]


def labels_of(reader: Reader, sampled: Sequence[int], k: int, seed: int) -> SoftLabels:
    """Made-up labels of these tokens; each is among its candidates, as is the end token now and then."""
    made = made_up(len(sampled), k, max(reader.spelled), seed=seed)
    ids = made.ids.copy()
    for row, each in enumerate(sampled):
        for place, wanted in ((0, each), (1, reader.end)):
            if wanted not in ids[row] and (place == 0 or row % 3 == 0):
                ids[row, place] = wanted
    return replace(made, sampled=np.asarray(sampled, np.int32), ids=ids)


def plainly(
    teacher: Reader,
    student: Reader,
    labels: SoftLabels,
    raw: str,
    finish: str,
    spans: Sequence[Mapping[str, Any]],
    completion: Sequence[int],
) -> list[tuple[dict[int, float], float] | None]:
    """Of each of the student's tokens its candidates' masses and the tail, byte by byte; None where it is not covered.

    For tokenizers that change no text.
    """
    sampled = labels.sampled.tolist()
    ended = finish == "stop" and sampled[-1] == teacher.end
    rows, place = {}, 0
    for number, each in enumerate(sampled[: len(sampled) - ended]):
        rows[place, place + len(teacher.spelled[each])] = number
        place += len(teacher.spelled[each])
    if ended:
        rows[place, place] = len(sampled) - 1
    origin: list[tuple[int, int] | None] = []  # of each byte of the text: its span, and which byte of raw it is
    read = 0
    for number, span in enumerate(spans):
        if span["text"] is not None:
            origin += [None] * len(span["text"].encode())
            continue
        again = span["start"] < read
        read = max(read, span["end"])
        for index in range(span["start"], span["end"]):
            first = len(raw[:index].encode())
            origin += [None if again else (number, first + byte) for byte in range(len(raw[index].encode()))]
    found, at = [], 0
    for each in completion[:-1]:
        size = len(student.spelled[each])
        held = origin[at : at + size]
        at += size
        whole = None not in held and len({one[0] for one in held if one}) == 1
        found.append(rows.get((held[0][1], held[-1][1] + 1)) if whole and held[0] and held[-1] else None)
    last = origin[-1]
    found.append(rows.get((last[1] + 1, last[1] + 1)) if last else None)
    same = teacher.spelled == student.spelled
    return [None if row is None else _told(teacher, student, labels, row, same) for row in found]


def _told(teacher: Reader, student: Reader, labels: SoftLabels, row: int, same: bool) -> tuple[dict[int, float], float]:
    masses: dict[int, list[float]] = defaultdict(list)
    lost = [float(labels.tail[row])]
    for each, logprob in zip(labels.ids[row].tolist(), labels.logprobs[row].tolist(), strict=True):
        known = each if same else None
        if each == teacher.end:
            known = student.end
        elif not same and each not in teacher.special:
            known = student.inverse.get(teacher.spelled[each])
        (lost if known is None else masses[known]).append(math.exp(logprob))
    return {each: math.fsum(parts) for each, parts in masses.items()}, math.fsum(lost)


def told(targets: Targets) -> list[tuple[dict[int, float], float] | None]:
    """Targets in the form of `plainly`; fails where they say more than they should."""
    found: list[tuple[dict[int, float], float] | None] = []
    for covered, ids, logprobs, tail in zip(
        targets.covered, targets.ids.tolist(), targets.logprobs, targets.tail.tolist(), strict=True
    ):
        used = [(each, math.exp(logprob)) for each, logprob in zip(ids, logprobs, strict=True) if each != UNUSED]
        assert all(logprob == -np.inf for each, logprob in zip(ids, logprobs, strict=True) if each == UNUSED)
        assert len(dict(used)) == len(used)
        assert covered or (not used and tail == 1)
        found.append((dict(used), tail) if covered else None)
    return found


def same_masses(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    return one[0] == pytest.approx(other[0], rel=1e-5, abs=1e-9) and one[1] == pytest.approx(other[1], abs=1e-6)


@pytest.mark.parametrize("name", [QWEN, SMOLLM2])
def test_a_vocabulary_has_the_bytes_of_each_token_and_of_what_is_encoded(readers: dict[str, Reader], name: str) -> None:
    reader = readers[name]
    assert {each: token for each, token in enumerate(reader.vocabulary.tokens) if token} == {
        each: token for each, token in reader.spelled.items() if token
    }
    assert set(np.flatnonzero(reader.vocabulary.special).tolist()) == reader.special
    assert (reader.vocabulary.fallback.any(), reader.vocabulary.leading_space) == (False, False)
    for text in texts(40, "bytes"):
        assert reader.vocabulary.joined(reader.ids(text)) == text.encode()


@pytest.mark.parametrize("pair", [(QWEN, SMOLLM2), (SMOLLM2, QWEN), (QWEN, QWEN)], ids=lambda pair: "-".join(pair))
def test_targets_are_those_of_a_plain_reading_byte_by_byte(
    readers: dict[str, Reader], bridges: dict[tuple[str, str], Bridge], pair: tuple[str, str]
) -> None:
    teacher, student = readers[pair[0]], readers[pair[1]]
    draw = random.Random(str(pair))
    covered = tokens = 0
    for number, raw in enumerate([*texts(40, "odd"), *texts(40, "usual", words=True)]):
        finish = "stop" if number % 4 else "length"
        spans = lay_out(raw, False, "plain" if number % 3 else "think") if number % 2 else spans_of(raw, draw)
        text = assemble(raw, spans)
        if not text or unicodedata.normalize("NFC", text) != text:
            continue
        sampled = chopped(teacher, teacher.ids(raw), draw) + [teacher.end] * (finish == "stop")
        completion = [*student.ids(text), student.end]
        labels = labels_of(teacher, sampled, 8, number)
        found = align(bridges[pair], labels, raw, finish, spans, completion, "t")
        expected = plainly(teacher, student, labels, raw, finish, spans, completion)
        for position, (one, other) in enumerate(zip(told(found), expected, strict=True)):
            assert same_masses(one, other), (raw, spans, position, one, other)
        masses = np.exp(found.logprobs.astype(np.float64)).sum(axis=1) + found.tail
        start = made_up(len(sampled), 8, max(teacher.spelled), seed=number)
        slack = np.abs(np.exp(start.logprobs.astype(np.float64)).sum(axis=1) + start.tail - 1).max() + 1e-6
        assert np.abs(masses - 1).max() <= slack
        covered += int(found.covered.sum())
        tokens += len(completion)
    assert 0.2 < covered / tokens < 0.95  # neither side of the comparison is empty


def test_the_same_tokenizer_keeps_labels_as_they_are_and_covers_all_of_a_plain_trace(
    readers: dict[str, Reader], bridges: dict[tuple[str, str], Bridge]
) -> None:
    reader = readers[QWEN]
    for number, raw in enumerate(texts(10, "same", words=True)):
        sampled = [*reader.ids(raw), reader.end]
        labels = labels_of(reader, sampled, 6, number)
        found = align(bridges[QWEN, QWEN], labels, raw, "stop", [copied(0, len(raw))], sampled, "t")
        assert found.covered.all()
        assert (found.ids == labels.ids).all()
        assert (found.logprobs == labels.logprobs).all()
        assert (found.tail == labels.tail).all()


@pytest.mark.parametrize(
    ("raw", "finish", "last", "spans", "covered"),
    [
        ("so 42", "stop", True, [copied(0, 5)], True),
        ("so 42", "length", False, [copied(0, 5)], False),
        ("so 42\n", "stop", True, [copied(0, 5)], False),  # the teacher ended after a line's end
        ("so 42", "stop", True, [copied(0, 5), inserted("!")], False),
        ("so 42", "stop", True, [copied(0, 5), inserted("\n"), copied(3, 5)], False),  # copied again
        ("so 42", "stop", True, [inserted("\n"), copied(3, 5)], True),
        ("so 42", "stop", False, [copied(0, 5)], False),  # a stop string ended it
        ("so 42<|im_end|>", "length", False, [copied(0, 5)], False),  # it was written, and ended nothing
    ],
)
def test_the_end_token_is_covered_where_both_replies_end_with_the_same_bytes(
    readers: dict[str, Reader],
    bridges: dict[tuple[str, str], Bridge],
    raw: str,
    finish: str,
    last: bool,
    spans: list[Span],
    covered: bool,
) -> None:
    teacher, student = readers[QWEN], readers[SMOLLM2]
    labels = labels_of(teacher, teacher.ids(raw) + [teacher.end] * last, 4, 1)
    completion = [*student.ids(assemble(raw, spans)), student.end]
    found = align(bridges[QWEN, SMOLLM2], labels, raw, finish, spans, completion, "t")
    assert bool(found.covered[-1]) == covered
    assert (student.end in found.ids[-1].tolist()) == covered


def test_a_tag_that_the_prompt_had_already_moves_no_label(
    readers: dict[str, Reader], bridges: dict[tuple[str, str], Bridge]
) -> None:
    teacher, student = readers[QWEN], readers[SMOLLM2]
    raw = "12 + 30 = 42\nThe answer is \\boxed{42}."
    spans = lay_out(raw, False, "think")
    text = assemble(raw, spans)
    labels = labels_of(teacher, [*teacher.ids(raw), teacher.end], 4, 1)
    opening = student.ids("<think>\n")
    whole = [*student.ids(text), student.end]
    assert whole[: len(opening)] == opening
    ours, rest = (
        align(bridges[QWEN, SMOLLM2], labels, raw, "stop", spans, completion, "t")
        for completion in (whole, whole[len(opening) :])
    )
    assert told(ours)[len(opening) :] == told(rest)
    assert rest.covered.any()


@pytest.mark.parametrize(
    "change",
    [
        lambda ids: ids[:-3],
        lambda ids: [*ids[:2], ids[2] + 1, *ids[3:]],
        lambda ids: [*ids[:-1], ids[0], ids[-1]],
        lambda ids: [min(each, 49151) for each in ids],
        lambda ids: [10**6, *ids[1:]],
        lambda ids: [-1, *ids[1:]],
        lambda ids: [],
    ],
)
def test_labels_of_another_text_are_refused_by_the_name_of_the_trace(
    readers: dict[str, Reader], bridges: dict[tuple[str, str], Bridge], change: Any
) -> None:
    teacher, student = readers[QWEN], readers[SMOLLM2]
    raw = "Multiply both sides: 3 * x = 9, so the answer is 3."
    sampled = change([*teacher.ids(raw), teacher.end])
    labels = replace(labels_of(teacher, [1] * len(sampled), 4, 1), sampled=np.asarray(sampled, np.int32))
    with pytest.raises(ValueError, match="soft labels of trace trace-17"):
        align(
            bridges[QWEN, SMOLLM2],
            labels,
            raw,
            "stop",
            [copied(0, len(raw))],
            [*student.ids(raw), student.end],
            "trace-17",
        )


def test_labels_of_another_tokenizer_are_refused(
    readers: dict[str, Reader], bridges: dict[tuple[str, str], Bridge]
) -> None:
    other, student = readers[SMOLLM2], readers[SMOLLM2]
    for raw in texts(10, "foreign", words=True):
        labels = labels_of(other, [*other.ids(raw), other.end], 4, 1)
        completion = [*student.ids(raw), student.end]
        with pytest.raises(ValueError, match="soft labels of trace t "):
            align(bridges[QWEN, SMOLLM2], labels, raw, "stop", [copied(0, len(raw))], completion, "t")


def test_a_completion_without_its_end_token_is_refused(
    readers: dict[str, Reader], bridges: dict[tuple[str, str], Bridge]
) -> None:
    teacher, student = readers[QWEN], readers[SMOLLM2]
    labels = labels_of(teacher, [*teacher.ids("so 42"), teacher.end], 4, 1)
    with pytest.raises(ValueError, match="student's tokens of trace t end with"):
        align(bridges[QWEN, SMOLLM2], labels, "so 42", "stop", [copied(0, 5)], student.ids("so 42"), "t")


def test_a_text_that_lacks_half_a_character_of_its_tokens_keeps_its_other_labels(
    readers: dict[str, Reader], bridges: dict[tuple[str, str], Bridge]
) -> None:
    teacher, student = readers[QWEN], readers[SMOLLM2]
    raw = "so 42 "
    half = [teacher.inverse[bytes([byte])] for byte in "😀".encode()[:2]]
    labels = labels_of(teacher, teacher.ids(raw) + half, 4, 1)
    completion = [*student.ids("so 42"), student.end]
    found = align(bridges[QWEN, SMOLLM2], labels, raw, "length", [copied(0, 5)], completion, "t")
    assert found.covered.tolist() == [True] * (len(completion) - 1) + [False]
    # Within the text its characters are not the tokens' bytes: nothing can be placed.
    broken = labels_of(teacher, [*teacher.ids("so"), *half, *teacher.ids(" 42"), teacher.end], 4, 1)
    raw = "so\ufffd 42"
    completion = [*student.ids(raw), student.end]
    found = align(bridges[QWEN, SMOLLM2], broken, raw, "stop", [copied(0, len(raw))], completion, "t")
    assert not found.covered.any()


def test_a_trace_that_was_cut_off_keeps_the_labels_of_its_last_token_too(
    readers: dict[str, Reader], bridges: dict[tuple[str, str], Bridge]
) -> None:
    teacher, student = readers[QWEN], readers[SMOLLM2]
    raw = "so 4 + 5 = 9 and"
    labels = labels_of(teacher, teacher.ids(raw), 4, 1)
    completion, spans = student.ids(raw), [copied(0, len(raw))]
    whole = align(bridges[QWEN, SMOLLM2], labels, raw, "length", spans, [*completion, student.end], "t")
    found = align(bridges[QWEN, SMOLLM2], labels, raw, "length", spans, completion, "t", ended=False)
    assert found.covered.all()
    assert told(found) == told(whole)[:-1]


def test_what_the_student_has_no_token_for_goes_to_the_tail(
    readers: dict[str, Reader], bridges: dict[tuple[str, str], Bridge]
) -> None:
    teacher, student = readers[QWEN], readers[SMOLLM2]
    lacking = next(each for token, each in teacher.inverse.items() if token not in student.inverse and len(token) > 3)
    steering = next(each for each in teacher.special if each != teacher.end)
    padding = len(teacher.vocabulary.tokens) + 5
    (first,) = teacher.ids("4")
    labels = SoftLabels(
        np.array([first], np.int32),
        np.log(np.array([0.4], np.float32)),
        np.array([[first, lacking, steering, padding, teacher.end]], np.int32),
        np.log(np.array([[0.4, 0.2, 0.1, 0.05, 0.15]], np.float32)),
        np.array([0.1], np.float32),
    )
    completion = [*student.ids("4"), student.end]
    found = align(bridges[QWEN, SMOLLM2], labels, "4", "length", [copied(0, 1)], completion, "t")
    assert same_masses(told(found)[0], ({completion[0]: 0.4, student.end: 0.15}, 0.45))
    kept = align(bridges[QWEN, QWEN], labels, "4", "length", [copied(0, 1)], [first, teacher.end], "t")
    assert same_masses(
        told(kept)[0], ({first: 0.4, lacking: 0.2, steering: 0.1, teacher.end: 0.15}, 0.15)
    )  # the same tokenizer loses padding alone


def sentencepiece(strips: bool = True) -> Any:
    """A tokenizer laid out as sentencepiece's are: a space before each text, bytes for what it has no piece for."""
    letters = [*"▁abcdefghijklmnopqrstuvwxy", "▁t", "▁th", "▁the"]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    built = Tokenizer(
        token_models.BPE(
            {name: number for number, name in enumerate(names)},
            [("▁", "t"), ("▁t", "h"), ("▁th", "e")],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces = [normalizers.Prepend("▁")] if strips else []
    built.normalizer = normalizers.Sequence([*spaces, normalizers.Replace(" ", "▁")])
    trimmed = [decoders.Strip(" ", 1, 0)] if strips else []
    built.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *trimmed])
    return PreTrainedTokenizerFast(tokenizer_object=built, eos_token="</s>", bos_token="<s>", unk_token="<unk>")


@pytest.mark.parametrize("strips", [True, False])
def test_sentencepiece_tokens_are_spaces_and_bytes(readers: dict[str, Reader], strips: bool) -> None:
    made = sentencepiece(strips)
    known = vocabulary(made)
    raw = "x the é the"
    ids = templates.encode(made, raw)
    assert known.joined(ids) == (b" " if strips else b"") + raw.encode()
    assert known.leading_space == strips
    assert known.fallback.sum() == 256
    teacher, end = readers[QWEN], made.convert_tokens_to_ids("</s>")
    across = bridge(teacher.vocabulary, known, (teacher.end,), end)
    sampled = [teacher.inverse[piece] for piece in (b"x", b" the", b" ", b"\xc3", b"\xa9", b" the")]
    labels = labels_of(teacher, [*sampled, teacher.end], 4, 1)
    found = align(across, labels, raw, "stop", [copied(0, len(raw))], [*ids, end], "t")
    assert [known.tokens[each] for each in ids[-6:]] == [b"x", b" the", b" ", b"\xc3", b"\xa9", b" the"]
    assert found.covered.tolist() == [False] * strips + [True] * 7
    # A letter is never taken for its fallback byte.
    (letter,) = teacher.ids("a")
    assert int(across.to_student[letter]) == made.convert_tokens_to_ids("a") != made.convert_tokens_to_ids("<0x61>")


def test_candidates_that_become_the_same_token_add_up(readers: dict[str, Reader]) -> None:
    made, student = sentencepiece(), readers[QWEN]
    known, name = vocabulary(made), made.convert_tokens_to_ids
    across = bridge(known, student.vocabulary, (name("</s>"), name("<s>")), student.end)
    candidates = [name("a"), name("b"), name("<0x61>"), name("</s>"), name("<unk>"), name("<s>")]
    labels = SoftLabels(
        np.array([name("▁"), name("a")], np.int32),
        np.zeros(2, np.float32),
        np.array([candidates, candidates], np.int32),
        np.log(np.array([[0.3, 0.1, 0.2, 0.05, 0.1, 0.15]] * 2, np.float32)),
        np.full(2, 0.1, np.float32),
    )
    (first,), (second,) = student.ids("a"), student.ids("b")
    # The text as an engine gives it: with the space that the first token holds, and without.
    for raw, spans in ((" a", [copied(1, 2)]), ("a", [copied(0, 1)])):
        found = align(across, labels, raw, "length", spans, [first, student.end], "t")
        assert same_masses(told(found)[0], ({first: 0.5, second: 0.1, student.end: 0.2}, 0.2))
        assert found.covered.tolist() == [True, False]


def test_a_text_that_the_student_changes_is_covered_before_and_after_the_change(readers: dict[str, Reader]) -> None:
    teacher, made = readers[QWEN], tiny.tokenizer()
    end = templates.end_token_id(made)
    raw = "12 + 3 = 15 re\u0301sume\u0301 15 = 3 + 12"
    accent = [teacher.inverse[bytes([byte])] for byte in "\u0301".encode()]
    parts = [teacher.ids(part) for part in raw.split("\u0301")]
    sampled = [*parts[0], *accent, *parts[1], *accent, *parts[2], teacher.end]
    labels = labels_of(teacher, sampled, 4, 1)
    across = bridge(teacher.vocabulary, vocabulary(made), (teacher.end,), end)
    whole = align(across, labels, raw, "stop", [copied(0, len(raw))], [*templates.encode(made, raw), end], "t")
    made.backend_tokenizer.normalizer = normalizers.NFC()
    changed = templates.encode(made, raw)
    known = across.student
    assert known.joined(changed) != raw.encode()
    found = align(across, labels, raw, "stop", [copied(0, len(raw))], [*changed, end], "t")
    edges = np.cumsum([0, *(len(known.tokens[each]) for each in changed)])
    before, after = len(b"12 + 3 = 15 r"), len(b" 15 = 3 + 12")
    inside = [
        start < edges[-1] - after and stop > before
        for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    ]
    assert 0 < sum(inside) < len(inside)
    assert not found.covered[:-1][inside].any()
    told_whole, told_found = told(whole), told(found)
    first = inside.index(True)
    last = inside[::-1].index(True) + 1  # tokens after the change, the end token included
    assert told_found[:first] == told_whole[:first]
    assert told_found[-last:] == told_whole[-last:]
    assert found.covered[-1]


def test_tokenizers_whose_bytes_cannot_be_told_are_refused() -> None:
    pieces = Tokenizer(token_models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    pieces.decoder = decoders.WordPiece()
    with pytest.raises(ValueError, match="WordPiece"):
        vocabulary(PreTrainedTokenizerFast(tokenizer_object=pieces))
    pieces = Tokenizer(token_models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(ValueError, match="nothing"):
        vocabulary(PreTrainedTokenizerFast(tokenizer_object=pieces))


def test_an_end_token_of_another_vocabulary_is_refused(readers: dict[str, Reader]) -> None:
    known: Vocabulary = readers[SMOLLM2].vocabulary
    with pytest.raises(ValueError, match="the teacher's end token is 151645"):
        bridge(known, known, (151645,), 2)
