"""Examples are paired with the labels of their own traces, or not at all."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import labelling
from pipeline.objectives.targets import Stored, said_of
from pipeline.soft_labels import SoftLabels, vocabulary_fingerprint
from pipeline.training import pairing
from pipeline.training.encode import Encoded, encode
from tests import labelled, tiny
from tests.labelled import K, Labelled

SAME = tiny.tokenizer()


def other(size: int = 300) -> Any:
    """A tokenizer that cuts the same texts in other places."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["The answer is one and two", "\\boxed{4} = 12 + 3"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<end>")


def encoded(made: Labelled) -> list[Encoded]:
    return encode(SAME, made.examples, 4096)[0]


def paired(folder: Path, made: Labelled, teacher: Any = None, student: Any = SAME) -> dict[str, Any]:
    these = pairing.wanted(encoded(made), made.examples, made.labels)

    def opened(label: str) -> pairing.Teacher:
        assert teacher is not None, "asked for a teacher that is not needed"
        return pairing.Teacher(teacher, frozenset({teacher.eos_token_id}))

    return pairing.pair(
        folder, these, made.traces, partial(labelling.read, made.store), student, opened, lambda *_: None
    )


def pairs(folder: Path, made: Labelled) -> dict[str, Any]:
    """What was written for each example: covered, ids and logprobs."""
    stored = Stored(folder)
    return {one.id: stored.of([one.id], one.completion) for one in encoded(made)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    return labelled.make(tmp_path_factory.mktemp("made"), SAME, 12)


def copied(made: Labelled, **changes: Any) -> Labelled:
    """The same traces, with other rows."""
    return replace(made, **changes)


def test_every_token_of_the_teachers_has_its_own_labels_and_inserted_ones_have_none(
    tmp_path: Path, made: Labelled
) -> None:
    figures = paired(tmp_path / "t", made)
    found = pairs(tmp_path / "t", made)
    assert set(found) == {row["id"] for row in made.examples}
    labels = {row["id"]: one for row, one in labelling.read(made.store, made.labels)}
    traces = {row["id"]: row for row in made.traces}
    for one in encoded(made):
        key = one.id.partition("+")[0]
        batch, told, trace = found[one.id], labels[key], traces[key]
        # Read a second time, character by character: the student's tokens by where they stand in the raw text.
        starts = _starts(SAME, trace["token_ids"][:-1])
        place = {start: number for number, start in enumerate(starts)}
        spans = next(row["spans"] for row in made.examples if row["id"] == key)
        offsets = _offsets(spans)
        for number, (token, start) in enumerate(zip(one.completion, _starts(SAME, one.completion), strict=True)):
            if not batch.covered[number]:
                continue
            at = len(starts) if number == len(one.completion) - 1 else place[offsets[start]]
            assert trace["token_ids"][at] == token
            assert batch.ids[number].tolist() == told.ids[at].tolist()
            assert batch.logprobs[number, :-1] == pytest.approx(told.logprobs[at], rel=1e-3)
        inserted = [offsets.get(start) is None for start in _starts(SAME, one.completion)[:-1]]
        assert not batch.covered[:-1][inserted].any()
        assert batch.covered[:-1][~np.array(inserted)].mean() > 0.8
    assert 0.5 < figures["covered_share"] < 1
    assert figures["candidates"] == K
    assert (figures["traces"], figures["traces_unlabelled"], figures["examples_without_teacher"]) == (12, 0, 0)


def _starts(tokenizer: Any, ids: list[int]) -> list[int]:
    """Where each token begins in the text; the texts of these tests are ASCII."""
    sizes = [len(tokenizer.decode([each])) for each in ids]
    return [0, *itertools.accumulate(sizes)][:-1]


def _offsets(spans: Any) -> dict[int, int | None]:
    """Place in the laid-out text -> place in the raw one, None in what was inserted."""
    places: list[int | None] = []
    for span in spans:
        places += [None] * len(span["text"]) if span["text"] is not None else range(span["start"], span["end"])
    return dict(enumerate(places))


def test_the_order_of_rows_changes_no_pair(tmp_path: Path, made: Labelled) -> None:
    turned = copied(made, examples=made.examples[::-1], traces=made.traces[::-1], labels=made.labels[::-1])
    assert paired(tmp_path / "a", made) == paired(tmp_path / "b", turned)
    before, after = pairs(tmp_path / "a", made), pairs(tmp_path / "b", turned)
    for key, batch in before.items():
        assert [np.array_equal(*two) for two in zip(batch, after[key], strict=True)] == [True] * 3


def test_labels_that_were_shuffled_are_refused_every_time(tmp_path: Path, made: Labelled) -> None:
    """Each way of giving one trace's labels to another, by the rows or by what lies in the store."""
    refused = 0
    for first, second in itertools.permutations(range(6), 2):
        one, two = made.labels[first], made.labels[second]
        ways = [
            one | {"id": two["id"]},  # the whole row
            one | {key: two[key] for key in ("token_hash", "tokens")},
            two | {"check": one["check"]},
        ]
        for row in ways:
            rows = [row if known["id"] == row["id"] else known for known in made.labels]
            with pytest.raises(ValueError, match=row["id"]):
                paired(tmp_path / "t", copied(made, labels=rows))
            assert said_of(tmp_path / "t") is None
            refused += 1
    assert refused == 90


def shorter(labels: SoftLabels) -> SoftLabels:
    return SoftLabels(*(part[:-2] for part in vars(labels).values()))


def foreign(labels: SoftLabels) -> SoftLabels:
    """One candidate that is no token of the teacher's, with a third of the mass."""
    ids, logprobs = labels.ids.copy(), labels.logprobs.copy()
    ids[3, 0], logprobs[3, 0] = len(SAME) + 7, np.log(0.34)
    return replace(labels, ids=ids, logprobs=logprobs, tail=np.full(len(ids), 0.01, np.float32))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (shorter, "expected those of its own"),
        (lambda labels: replace(labels, sampled=labels.sampled[::-1].copy()), "expected those of its own"),
        (foreign, f"give mass to the token {len(SAME) + 7}"),
    ],
    ids=["truncated", "of tokens in another order", "of another tokenizer"],
)
def test_labels_of_other_tokens_are_refused(
    tmp_path: Path, made: Labelled, change: Callable[[SoftLabels], SoftLabels], says: str
) -> None:
    store = tmp_path / "store"
    known = [(row, labels) for row, labels in labelling.read(made.store, made.labels)]
    rows = [
        labelled.put(store, row["id"], change(labels) if number == 4 else labels, SAME)
        for number, (row, labels) in enumerate(known)
    ]
    with pytest.raises(ValueError, match=says):
        paired(tmp_path / "t", copied(made, store=store, labels=rows))
    assert said_of(tmp_path / "t") is None


def test_labels_that_were_cut_or_altered_on_the_disk_are_refused(tmp_path: Path) -> None:
    made = labelled.make(tmp_path, SAME, 4)
    (journal,) = sorted(made.store.rglob("labels-*.log"))[-1:]
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-40])
    with pytest.raises(ValueError, match="lacks the soft labels"):
        paired(tmp_path / "t", made)
    journal.write_bytes(whole[:-40] + bytes(40))
    with pytest.raises(ValueError, match="do not match their checksum"):
        paired(tmp_path / "t", made)
    journal.write_bytes(whole)
    assert paired(tmp_path / "t", made)["traces"] == 4


def test_labels_of_a_vocabulary_that_neither_model_has_are_refused(tmp_path: Path, made: Labelled) -> None:
    rows = [row | {"vocabulary": "0" * 32} for row in made.labels]
    with pytest.raises(ValueError, match=r"are of the vocabulary 0{32}.*Run generate again"):
        paired(tmp_path / "t", copied(made, labels=rows), teacher=other())
    # Under the fingerprint of another tokenizer the same labels are of another text.
    rows = [row | {"vocabulary": vocabulary_fingerprint(other())} for row in made.labels]
    with pytest.raises(ValueError, match="the soft labels of trace"):
        paired(tmp_path / "t", copied(made, labels=rows), teacher=other())
    assert said_of(tmp_path / "t") is None


def test_padding_of_a_teachers_head_goes_to_the_tail(tmp_path: Path, made: Labelled) -> None:
    store = tmp_path / "store"
    rows = []
    for row, labels in labelling.read(made.store, made.labels):
        ids, logprobs = labels.ids.copy(), labels.logprobs.copy()
        ids[:, -1], logprobs[:, -1] = len(SAME) + 3, np.log(1e-5)
        rows.append(labelled.put(store, row["id"], replace(labels, ids=ids, logprobs=logprobs), SAME))
    changed = copied(made, store=store, labels=rows)
    paired(tmp_path / "t", changed)
    for batch in pairs(tmp_path / "t", changed).values():
        assert batch.ids.max() < len(SAME)
        assert ((batch.ids >= 0).sum(axis=1)[batch.covered] == K - 1).all()


def test_across_tokenizers_some_tokens_are_covered_and_those_by_the_right_labels(tmp_path: Path) -> None:
    teacher = other()
    made = labelled.make(tmp_path, teacher, 8, certain=True)
    figures = paired(tmp_path / "t", made, teacher=teacher)
    assert 0.2 < figures["covered_share"] < 0.95
    for one in encoded(made):
        batch = Stored(tmp_path / "t").of([one.id], one.completion)
        at = batch.covered.nonzero()[0]
        assert batch.ids[at, 0].tolist() == [one.completion[number] for number in at]  # the teacher was sure of it


def test_what_has_no_labels_or_no_teacher_is_counted_and_takes_hard_targets(tmp_path: Path, made: Labelled) -> None:
    general = {"id": "f" * 32, "teacher": None, "spans": made.examples[0]["spans"]}
    examples = [*made.examples, made.examples[0] | general]
    lacking = made.labels[0]["id"]
    changed = copied(made, examples=examples, labels=made.labels[1:])
    figures = paired(tmp_path / "t", changed)
    assert (figures["traces"], figures["traces_unlabelled"], figures["examples_without_teacher"]) == (11, 1, 1)
    found = pairs(tmp_path / "t", changed)
    assert not found[lacking].covered.any()
    assert not found["f" * 32].covered.any()
    assert figures["tokens"] == sum(len(one.completion) for one in encoded(made)[:-1])


def test_traces_that_are_gone_are_named(tmp_path: Path, made: Labelled) -> None:
    with pytest.raises(ValueError, match=f"1 traces .* not among those of generate: {made.traces[2]['id']}"):
        paired(tmp_path / "t", copied(made, traces=made.traces[:2] + made.traces[3:]))


def test_repeats_that_differ_are_refused(tmp_path: Path, made: Labelled) -> None:
    changed = made.examples[-1] | {"completion": [{"role": "assistant", "content": "Another answer."}]}
    with pytest.raises(ValueError, match="are of one trace and differ"):
        paired(tmp_path / "t", copied(made, examples=[*made.examples[:-1], changed]))


def test_what_an_earlier_pairing_finished_is_taken_and_that_of_other_labels_is_not(
    tmp_path: Path, made: Labelled, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = paired(tmp_path / "t", made)
    monkeypatch.setattr(pairing, "align", lambda *_: pytest.fail("aligned again"))
    assert paired(tmp_path / "t", made) == first
    monkeypatch.undo()
    store = tmp_path / "store"
    known = [(row, labels) for row, labels in labelling.read(made.store, made.labels)]
    rows = [labelled.put(store, row["id"], labelled.sure(labels.sampled.tolist()), SAME) for row, labels in known]
    assert paired(tmp_path / "t", copied(made, store=store, labels=rows)) != first
