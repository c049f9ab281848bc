"""Examples are paired with the labels of their own traces, or not at all."""

import itertools
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import labelling, templates
from pipeline.objectives.targets import Stored, said_of
from pipeline.objectives.weights import Weights
from pipeline.soft_labels import SoftLabels, vocabulary_fingerprint
from pipeline.training import pairing
from pipeline.training.encode import Encoded, encode
from tests import labelled, tiny
from tests.labelled import K, Labelled

SAME = tiny.tokenizer()
EQUAL = Weights()


def encoded(made: Labelled) -> list[Encoded]:
    return encode(SAME, made.examples, 4096)[0]


def paired(
    folder: Path,
    made: Labelled,
    teacher: Any = None,
    student: Any = SAME,
    weights: Weights = EQUAL,
    domains: dict[str, str] | None = None,
) -> dict[str, Any]:
    these = pairing.wanted(encoded(made), made.examples, made.labels, weights, domains or {})

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
        paired(tmp_path / "t", copied(made, labels=rows), teacher=tiny.other_tokenizer())
    # Under the fingerprint of another tokenizer the same labels are of another text.
    rows = [row | {"vocabulary": vocabulary_fingerprint(tiny.other_tokenizer())} for row in made.labels]
    with pytest.raises(ValueError, match="the soft labels of trace"):
        paired(tmp_path / "t", copied(made, labels=rows), teacher=tiny.other_tokenizer())
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
    teacher = tiny.other_tokenizer()
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


def second(made: Labelled, store: Path, count: int, teacher: Any = SAME, **changes: Any) -> list[dict[str, Any]]:
    """Rows of another teacher, that labelled the first traces too: other candidates of tokens that are its own."""
    rows = []
    for number, trace in enumerate(made.traces[:count]):
        same = teacher is SAME
        token_ids = trace["token_ids"] if same else [*templates.encode(teacher, trace["raw"]), teacher.eos_token_id]
        labels = labelled.spread(token_ids, 100 + number, len(teacher))
        row = labelled.put(store, trace["id"], labels, teacher, key=f"{number + 1:0>32x}"[::-1])
        rows.append(row | {"teacher": "other"} | changes)
    return rows


@pytest.fixture
def heard_twice(tmp_path: Path) -> Labelled:
    """Eight traces, six of which another teacher labelled too."""
    made = labelled.make(tmp_path, SAME, 8)
    return copied(made, labels=[*second(made, made.store, 6), *made.labels])


def masses(batch: Any, number: int) -> dict[int, float]:
    """The candidates of a learnt token, and -1: all others."""
    ids, found = batch.ids[number].tolist(), np.exp(batch.logprobs[number].astype(float)).tolist()
    used = {each: mass for each, mass in zip(ids, found, strict=False) if each >= 0}
    return used | {-1: found[-1]}


def mean(first: dict[int, float], other: dict[int, float], share: float) -> dict[int, float]:
    """share of one, and the rest of another."""
    return {
        each: share * first.get(each, 0.0) + (1 - share) * other.get(each, 0.0)
        for each in sorted(first.keys() | other.keys())
    }


def like(found: dict[int, float], expected: dict[int, float]) -> bool:
    """Whether two are the same, but for the half precision in which they lie on the disk."""
    one, other = ({each: mass for each, mass in masses.items() if mass} for masses in (found, expected))
    return math.isclose(sum(found.values()), 1, abs_tol=5e-3) and one == pytest.approx(other, rel=2e-2)


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        (EQUAL, (0.5, 0.5)),
        (Weights(teachers={"other": 3.0}), (0.25, 0.25)),
        (Weights(teachers={"other": 3.0}, domains={"code": {"teacher": 9.0}}), (0.25, 0.75)),
        (Weights(domains={"code": {"teacher": 0.0}}), (0.5, 0.0)),
    ],
    ids=["equal", "by teacher", "by teacher and domain", "one of them alone in a domain"],
)
def test_a_trace_that_several_teachers_labelled_learns_their_weighted_mean(
    tmp_path: Path, heard_twice: Labelled, weights: Weights, shares: tuple[float, float]
) -> None:
    """shares: of the trace's own teacher, in maths and in code."""
    alone = {}
    for label in ("teacher", "other"):
        rows = [row for row in heard_twice.labels if row["teacher"] == label]
        paired(tmp_path / label, copied(heard_twice, labels=rows))
        alone[label] = pairs(tmp_path / label, heard_twice)
    kinds = ["maths", "code"] * 3 + ["maths"] * 2
    domains = {row["id"]: kind for row, kind in zip(heard_twice.traces, kinds, strict=True)}
    figures = paired(tmp_path / "both", heard_twice, weights=weights, domains=domains)
    together = pairs(tmp_path / "both", heard_twice)
    traces, covered, counts = Counter[str](), Counter[str](), Counter[str]()
    for number, trace in enumerate(heard_twice.traces):
        key = trace["id"]
        share = shares[number % 2] if number < 6 else 1.0
        own, other, both = alone["teacher"][key], alone["other"][key], together[key]
        assert (both.covered == own.covered).all()
        for token in np.flatnonzero(both.covered):
            assert like(masses(both, token), mean(masses(own, token), masses(other, token), share))
        for label, part in (("teacher", share), ("other", 1 - share)):
            traces[label] += part > 0
            covered[label] += both.covered.sum() * (part > 0)
            counts[label] += both.covered.sum() * part
    assert figures["candidates"] == 2 * K
    learnt = figures["covered_share"] * figures["tokens"]
    for label, told in figures["teachers"].items():
        assert told["traces"] == traces[label]
        assert told["covered_share"] == pytest.approx(covered[label] / figures["tokens"])
        assert told["mean_share"] == pytest.approx(counts[label] / learnt)


def test_teachers_of_several_tokenizers_are_mixed_where_the_student_has_their_tokens(tmp_path: Path) -> None:
    teacher = tiny.other_tokenizer()
    made = labelled.make(tmp_path, SAME, 8)
    rows = second(made, made.store, 8, teacher)
    paired(tmp_path / "own", made)
    paired(tmp_path / "other", copied(made, labels=rows), teacher=teacher)
    figures = paired(tmp_path / "both", copied(made, labels=made.labels + rows), teacher=teacher)
    own, other, both = (pairs(tmp_path / name, made) for name in ("own", "other", "both"))
    agreed = 0
    for key, batch in both.items():
        assert (batch.covered == own[key].covered | other[key].covered).all()
        for token in np.flatnonzero(own[key].covered):
            share = 0.5 if other[key].covered[token] else 1.0
            agreed += share < 1
            assert like(masses(batch, token), mean(masses(own[key], token), masses(other[key], token), share))
    told = figures["teachers"]
    assert 0.2 < told["other"]["covered_share"] < told["teacher"]["covered_share"]
    assert agreed > 20


def test_another_teachers_labels_of_another_text_or_vocabulary_are_refused(tmp_path: Path) -> None:
    made = labelled.make(tmp_path, SAME, 4)
    teacher = tiny.other_tokenizer()
    for vocabulary in (SAME, teacher):
        first, *rest = second(made, made.store, 4, vocabulary)
        key = rest[0]["id"].partition("+")[2]
        cases = {
            "are of tokens of": rest[0] | {"id": f"{made.traces[0]['id']}+{key}"},
            "lacks the soft labels": first | {"id": f"{made.traces[0]['id']}+{key}"},
            "expected those of its own": first | {"tokens": first["tokens"] - 1},
            "are of the vocabulary 0{32}": first | {"vocabulary": "0" * 32},
        }
        for says, row in cases.items():
            with pytest.raises(ValueError, match=says):
                paired(tmp_path / "t", copied(made, labels=[*made.labels, row, *rest[1:]]), teacher=teacher)
            assert said_of(tmp_path / "t") is None


def test_weights_of_teachers_and_domains_that_are_not_there_are_refused(tmp_path: Path, heard_twice: Labelled) -> None:
    with pytest.raises(ValueError, match=r"teacher 'othr'; expected one of other, teacher: did you mean 'other'\?"):
        paired(tmp_path / "t", heard_twice, weights=Weights(teachers={"othr": 1.0}))
    domains = {trace["id"]: "maths" for trace in heard_twice.traces}
    with pytest.raises(ValueError, match=r"domain 'code'; expected one of maths"):
        paired(tmp_path / "t", heard_twice, weights=Weights(domains={"code": {"other": 1.0}}), domains=domains)


def test_other_weights_are_paired_anew_and_those_of_a_teacher_alone_change_nothing(
    tmp_path: Path, made: Labelled, heard_twice: Labelled
) -> None:
    def mark(these: Labelled, weights: Weights) -> str:
        return pairing.wanted(encoded(these), these.examples, these.labels, weights, {}).digest("student")

    louder = Weights(teachers={"teacher": 2.0})
    assert mark(made, EQUAL) == mark(made, louder)
    assert len({mark(heard_twice, weights) for weights in (EQUAL, louder, Weights(teachers={"other": 0.0}))}) == 3
    assert mark(copied(heard_twice, labels=heard_twice.labels[6:]), EQUAL) == mark(
        heard_twice, Weights(teachers={"other": 0.0})
    )


def test_the_digest_of_one_teachers_labels_is_what_it_was_before_there_could_be_several() -> None:
    row = {"id": "a", "teacher": "t", "vocabulary": "v", "token_hash": "h", "k": 3, "check": 7, "folder": "f"}
    examples = [Encoded(key, (), "", [1], [2, 3]) for key in ("a", "b", "c")]
    layouts = [{"id": key, "teacher": "t", "spans": [{"start": 0, "end": 1, "text": None}]} for key in ("a", "b")]
    these = pairing.wanted(examples, layouts, [row], EQUAL, {})
    assert these.digest("student") == "f5062f786474dfda8e9baf8969ccf970"
