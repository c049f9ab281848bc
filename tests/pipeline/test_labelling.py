"""Labels from engine to dataset, with an engine that makes labels up from a request's id."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline import labelling, soft_labels, templates
from pipeline.engines import Completion, Engine, Request, failed
from pipeline.lock import Locked
from pipeline.manifest import Shard
from pipeline.orders import Order, asks
from pipeline.readings import Reading
from pipeline.records import SOFT_LABELS, base_id, labels_key
from pipeline.roles import Role, Sampling, Teacher
from pipeline.sampling import complete
from pipeline.shards import read_shard, write_shard
from pipeline.soft_labels import SoftLabels, hash_tokens, pack
from pipeline.store import Store, writing
from tests import tiny
from tests.pipeline.labels import made_up

TOKENIZER = tiny.tokenizer()


def order(logprobs: int, *numbers: int, **changes: Any) -> Order:
    made = Order(
        role=Teacher(model="tiny", max_model_len=64),
        weights="digest",
        problems=lambda: [{"id": f"p{number}", "text": f"{number}+1?", "task": "sum"} for number in numbers],
        texts={"question": "Q: {problem}"},
        tokenizer=TOKENIZER,
        sampling=Sampling(),
        samples=2,
        max_tokens=100,
        logprobs=logprobs,
    )
    return replace(made, **changes)


def labels_for(trace_id: str, k: int, token_ids: list[int] | None = None) -> SoftLabels:
    """Labels of six tokens, or of given ones."""
    made = made_up(6 if token_ids is None else len(token_ids), 9, 300, seed=int(trace_id[:6], 16))
    sampled = made.sampled if token_ids is None else np.array(token_ids, np.int32)
    return SoftLabels(sampled, made.sampled_logprobs, made.ids[:, :k], made.logprobs[:, :k], made.tail)


class Teller:
    """Answers with the tokens of made-up labels, and with labels where a request wants them."""

    figures: dict[str, float] = {}

    def __init__(self, refuses: bool = False) -> None:
        self.asked: list[Request] = []
        self.closed = False
        self.refuses = refuses

    def stream(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        for request in requests:
            if request is None:
                continue
            self.asked.append(request)
            yield failed(request, "too long") if self.refuses else self._answer(request)

    def _answer(self, request: Request) -> Completion:
        made = labels_for(request.id, request.logprobs or 1, request.score_ids)
        token_ids = made.sampled.tolist()
        labels = pack(made) if request.logprobs else None
        return Completion(request.id, "text", token_ids, "stop", None, 3, len(token_ids), labels)

    def close(self) -> None:
        self.closed = True


def generated(root: Path, made: Order, teller: Teller | None = None) -> Teller:
    """Complete an order; the engine it took."""
    teller = teller or Teller()
    with writing(root, made.weights) as store:
        complete([made], store, lambda seed: teller, lambda *_: None)
    return teller


def reading(root: Path, by: Order, of: Order | None = None, store: Store | None = None) -> Reading:
    """An order's completions as its own teacher reads them, or as that of another order does."""
    of = of or by
    return Reading(by, Store(root, by.weights) if store is None else store, of, Store(root, of.weights))


def scored(
    root: Path, made: Order, teller: Teller | None = None, of: Sequence[Order] = ()
) -> tuple[labelling.Figures, Teller | None, list[Role]]:
    """Score what lacks labels, of its own completions and of those of other orders; the figures, the engine if one was
    started, and the role it was started with.
    """
    engines: list[Teller] = []
    roles: list[Role] = []

    def start(role: Role, seed: int) -> Engine:
        engines.append(teller or Teller())
        roles.append(role)
        return engines[-1]

    store, figures = Store(root, made.weights), labelling.Figures()
    readings = [reading(root, made, one, store) for one in (made, *of)]
    labelling.score(readings, start, lambda *_: None, figures)
    assert all(engine.closed for engine in engines)
    return figures, engines[0] if engines else None, roles


def written(
    root: Path, made: Order, folder: Path, shards: list[Shard], by: Sequence[Order] = ()
) -> tuple[list[dict[str, Any]], list[Shard], int]:
    """Write the labels as a stage does, shards of before given; the new rows, the shards kept, and the count."""
    kept: list[Shard] = []
    tables: list[pa.Table] = []
    count = labelling.write(
        [reading(root, one, made) for one in (made, *by)],
        [(shard, read_shard(folder, shard, ["id"])) for shard in shards],
        kept.append,
        tables.append,
    )
    if tables:
        table = pa.concat_tables(tables)
        shards.append(write_shard(folder / f"{len(list(folder.glob('*.parquet')))}.parquet", table, folder))
        return table.to_pylist(), kept, count.total()
    return [], kept, count.total()


def test_labels_made_while_generating_are_in_the_dataset_with_all_that_says_what_they_are_of(tmp_path: Path) -> None:
    made = order(4, 1, 2)
    generated(tmp_path, made)
    assert scored(tmp_path, made)[1] is None
    rows, _, count = written(tmp_path, made, tmp_path, [])
    assert count == len(rows) == 4
    store = Store(tmp_path, made.weights)
    for row, labels in labelling.read(tmp_path, rows):
        completion = store.get(row["id"])
        assert completion is not None
        assert labels.sampled.tolist() == completion["token_ids"]
        assert row["token_hash"] == hash_tokens(completion["token_ids"]).hex()
        assert row["vocabulary"] == soft_labels.vocabulary_fingerprint(TOKENIZER)
        assert (row["k"], row["tokens"], row["teacher"]) == (4, 6, "tiny") == (labels.ids.shape[1], 6, made.role.label)
    assert {row["id"] for row in rows} == {ask.id for ask in asks(made)}


def test_wanting_labels_buys_nothing_and_scores_what_lacks_them(tmp_path: Path) -> None:
    generated(tmp_path, order(0, 1, 2))
    store = Store(tmp_path, "digest")
    before = {row["id"]: row for row in store.rows(list(store.ids()))}
    made = order(4, 1, 2, 3)
    again = generated(tmp_path, made)
    assert [request.problem_text for request in again.asked] == ["3+1?"] * 2
    figures, teller, roles = scored(tmp_path, made)
    assert (figures.had, figures.scored, figures.failed, figures.tokens) == (2, 4, 0, 24)
    assert teller is not None
    for request in teller.asked:
        assert request.score_ids == before[request.id]["token_ids"]
        assert (request.logprobs, request.prompt_token_ids is None) == (4, False)
    assert roles[0].exec.max_num_batched_tokens == labelling.SCORE_STEP_TOKENS
    assert {row["id"]: row for row in store.rows(before)} == before
    rows, _, count = written(tmp_path, made, tmp_path, [])
    assert count == len(rows) == 6
    assert scored(tmp_path, made)[1] is None


def test_while_another_writes_to_the_store_labels_are_read_and_none_is_scored(tmp_path: Path) -> None:
    generated(tmp_path, order(4, 1))
    with writing(tmp_path, "digest"):
        assert scored(tmp_path, order(4, 1))[0].had == 2
        with pytest.raises(Locked, match="is being written by process"):
            scored(tmp_path, order(5, 1))


def test_a_completion_without_tokens_has_labels_without_an_engine(tmp_path: Path) -> None:
    class Silent(Teller):
        def _answer(self, request: Request) -> Completion:
            return Completion(request.id, "", [], "stop", None, 3, 0)

    generated(tmp_path, order(0, 1), Silent())
    figures, teller, _ = scored(tmp_path, order(4, 1))
    assert (figures.had, figures.scored, teller) == (2, 0, None)
    assert {(row["k"], row["tokens"]) for row in written(tmp_path, order(4, 1), tmp_path, [])[0]} == {(4, 0)}
    with writing(tmp_path, "digest"):  # they are there now
        assert scored(tmp_path, order(4, 1))[0].had == 2


def test_a_trace_that_two_teachers_of_one_model_share_is_scored_once(tmp_path: Path) -> None:
    generated(tmp_path, order(0, 1, 2))
    teller, figures, store = Teller(), labelling.Figures(), Store(tmp_path, "digest")
    readings = [reading(tmp_path, each, None, store) for each in (order(4, 1), order(4, 1, 2))]
    labelling.score(readings, lambda *_: teller, lambda *_: None, figures)
    assert Counter(each.problem_text for each in teller.asked) == {"1+1?": 2, "2+1?": 2}
    assert len({each.id for each in teller.asked}) == figures.scored == 4


def test_more_candidates_than_are_stored_are_scored_and_fewer_are_not(tmp_path: Path) -> None:
    generated(tmp_path, order(4, 1))
    assert scored(tmp_path, order(3, 1))[0].had == 2
    assert scored(tmp_path, order(5, 1))[0].scored == 2
    assert {row["k"] for row in written(tmp_path, order(5, 1), tmp_path, [])[0]} == {5}


def test_labels_of_a_lost_completion_are_not_those_of_its_next_making(tmp_path: Path) -> None:
    made = order(4, 1)
    other = {ask.id: [1, 2, 3] for ask in asks(made)}
    with writing(tmp_path, "digest") as store:
        for trace_id, token_ids in other.items():
            store.labels.append(trace_id, pack(labels_for(trace_id, 4, token_ids)))
    generated(tmp_path, replace(made, logprobs=0))
    assert scored(tmp_path, made)[0].scored == 2
    rows, _, _ = written(tmp_path, made, tmp_path, [])
    assert [labels.sampled.tolist() for _, labels in labelling.read(tmp_path, rows)] == [
        labels_for(row["id"], 1).sampled.tolist() for row in rows
    ]


def test_labels_are_stored_before_the_completion_they_are_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = order(4, 1)
    stored: list[int] = []
    real = Store.append

    def append(store: Store, record: dict[str, Any]) -> None:
        stored.append(store.labels.k(record["id"], hash_tokens(record["token_ids"])))
        real(store, record)

    monkeypatch.setattr(Store, "append", append)
    generated(tmp_path, made)
    assert stored == [4, 4]


def test_a_completion_that_cannot_be_scored_is_counted_and_has_no_row(tmp_path: Path) -> None:
    generated(tmp_path, order(0, 1))
    figures, _, _ = scored(tmp_path, order(4, 1), Teller(refuses=True))
    assert (figures.scored, figures.failed, figures.cause) == (0, 2, "too long")
    assert written(tmp_path, order(4, 1), tmp_path, [])[2] == 0


def test_a_rerun_keeps_shards_that_hold_what_would_be_written(tmp_path: Path) -> None:
    shards: list[Shard] = []
    generated(tmp_path, order(4, 1, 2))
    written(tmp_path, order(4, 1, 2), tmp_path, shards)
    generated(tmp_path, order(4, 1, 2, 3))
    rows, kept, count = written(tmp_path, order(4, 1, 2, 3), tmp_path, shards)
    assert (len(rows), kept, count) == (2, shards[:1], 6)
    assert written(tmp_path, order(4, 1), tmp_path, shards[:1])[1] == []
    scored(tmp_path, order(6, 1, 2))
    rows, kept, _ = written(tmp_path, order(6, 1, 2), tmp_path, shards[:1])
    assert (len(rows), kept, {row["k"] for row in rows}) == (4, [], {6})


def test_rows_go_to_tables_of_a_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelling, "TABLE_ROWS", 3)
    generated(tmp_path, order(4, 1, 2))
    tables: list[pa.Table] = []
    labelling.write([reading(tmp_path, order(4, 1, 2))], [], lambda shard: None, tables.append)
    assert [table.num_rows for table in tables] == [3, 1]
    assert all(table.schema == SOFT_LABELS for table in tables)


def test_rows_stand_for_their_own_labels_when_others_are_stored_later(tmp_path: Path) -> None:
    generated(tmp_path, order(4, 1))
    rows, _, _ = written(tmp_path, order(4, 1), tmp_path, [])
    scored(tmp_path, order(6, 1))
    assert [labels.ids.shape for _, labels in labelling.read(tmp_path, rows)] == [(6, 4)] * 2


def test_labels_that_the_store_lost_are_named_with_the_fix(tmp_path: Path) -> None:
    generated(tmp_path, order(4, 1))
    rows, _, _ = written(tmp_path, order(4, 1), tmp_path, [])
    other = {**rows[0], "check": rows[0]["check"] ^ 1}
    with pytest.raises(ValueError, match=f"lacks the soft labels .* for trace {other['id']}.*run generate again"):
        list(labelling.read(tmp_path, [other]))
    for path in (tmp_path / rows[0]["folder"]).glob("labels-*.log"):
        path.unlink()
    with pytest.raises(ValueError, match="lacks the soft labels"):
        list(labelling.read(tmp_path, rows))


@pytest.mark.parametrize("engine", ["openai", "hf", "replay"])
def test_an_engine_that_gives_no_ids_is_refused_before_anything_is_asked(engine: str) -> None:
    role = Role(model="m", engine=engine)  # type: ignore[arg-type]
    assert labelling.allowed(role, None, 0) == 0
    with pytest.raises(ValueError, match=rf"engine {engine} returns no token ids.*Use engine vllm"):
        labelling.allowed(role, TOKENIZER, 5)


def test_more_candidates_than_the_vocabulary_has_are_refused() -> None:
    role = Role(model="m")
    assert labelling.allowed(role, TOKENIZER, 5) == 5
    with pytest.raises(ValueError, match=f"logprobs is 1000, but the vocabulary has {len(TOKENIZER)} tokens"):
        labelling.allowed(role, TOKENIZER, 1000)


class Speaker(Teller):
    """Answers with a text's own tokens, and without labels; what is to be scored it labels as its parent does."""

    def __init__(self, text: str = "Four is \\boxed{4}.", tokenizer: Any = TOKENIZER, ends: bool = True) -> None:
        super().__init__()
        self.text, self.tokenizer, self.ends = text, tokenizer, ends

    def _answer(self, request: Request) -> Completion:
        if request.score_ids is not None:
            return super()._answer(request)
        token_ids = [*templates.encode(self.tokenizer, self.text), self.tokenizer.eos_token_id]
        token_ids = token_ids if self.ends else token_ids[:-1]
        finish: Any = "stop" if self.ends else "length"
        return Completion(request.id, self.text, token_ids, finish, None, 3, len(token_ids))


def other_order(logprobs: int, *numbers: int, **changes: Any) -> Order:
    """What another model is asked, with a prompt of its own."""
    role = Teacher(model="other", max_model_len=128, prompt="solve")
    given = {"role": role, "weights": "other digest", "texts": {"solve": "Solve {problem}"}}
    return replace(order(logprobs, *numbers), **(given | changes))


def test_another_teacher_scores_the_same_tokens_after_its_own_prompt_and_never_twice(tmp_path: Path) -> None:
    made, other = order(4, 1, 2), other_order(4)  # the other one has no problems of its own
    generated(tmp_path, made, Speaker())
    scored(tmp_path, made)
    figures, teller, roles = scored(tmp_path, other, of=[made])
    assert (figures.scored, figures.had, figures.failed) == (4, 0, 0)
    assert [role.label for role in roles] == ["other"]
    assert teller is not None
    rows, _, count = written(tmp_path, made, tmp_path, [], by=[other])
    assert (count, len({row["id"] for row in rows})) == (8, 8)
    found = {row["id"]: (row, labels) for row, labels in labelling.read(tmp_path, rows)}
    traces = {row["id"]: row for row in Store(tmp_path, made.weights).rows(ask.id for ask in asks(made))}
    asked = {request.id: request for request in teller.asked}
    for name, (row, labels) in found.items():
        trace = traces[base_id(name)]
        assert labels.sampled.tolist() == trace["token_ids"]
        assert row["teacher"] == ("tiny" if name == trace["id"] else "other")
        if name != trace["id"]:
            request = asked[labels_key(name)]
            assert (request.score_ids, request.logprobs) == (trace["token_ids"], 4)
            assert "Solve " in request.prompt
            assert request.prompt_token_ids == templates.encode(TOKENIZER, request.prompt)
    assert scored(tmp_path, other, of=[made])[1] is None
    again = replace(other, texts={"solve": "Please solve {problem}"})
    assert scored(tmp_path, again, of=[made])[0].scored == 4
    assert scored(tmp_path, replace(other, role=other.role.model_copy(update={"dtype": "float32"})), of=[made])[1]


@pytest.mark.parametrize("ends", [True, False])
def test_a_teacher_with_another_tokenizer_reads_the_text_as_its_own_tokens(tmp_path: Path, ends: bool) -> None:
    theirs = tiny.other_tokenizer()
    made, other = order(4, 1), other_order(4, tokenizer=theirs)
    generated(tmp_path, made, Speaker(ends=ends))
    figures, teller, _ = scored(tmp_path, other, of=[made])
    assert figures.scored == 2
    assert teller is not None
    expected = templates.encode(theirs, Speaker().text) + [theirs.eos_token_id] * ends
    assert [request.score_ids for request in teller.asked] == [expected] * 2
    rows, _, _ = written(tmp_path, other, tmp_path, [])
    assert rows == []
    scored(tmp_path, made)
    rows, _, _ = written(tmp_path, made, tmp_path, [], by=[other])
    kinds = {(row["teacher"], row["vocabulary"], row["tokens"]) for row in rows}
    assert kinds == {
        (
            "tiny",
            soft_labels.vocabulary_fingerprint(TOKENIZER),
            len(templates.encode(TOKENIZER, Speaker().text)) + ends,
        ),
        ("other", soft_labels.vocabulary_fingerprint(theirs), len(expected)),
    }


def test_a_text_that_another_tokenizer_would_change_is_counted_and_has_no_row(tmp_path: Path) -> None:
    from tokenizers import normalizers

    theirs = tiny.other_tokenizer()
    theirs.backend_tokenizer.normalizer = normalizers.Lowercase()
    made, other = order(4, 1), other_order(4, tokenizer=theirs)
    generated(tmp_path, made, Speaker())
    figures, teller, _ = scored(tmp_path, other, of=[made])
    assert (figures.failed, teller) == (2, None)
    assert figures.cause == "the tokenizer of other changes the text of the trace"
    assert written(tmp_path, made, tmp_path, [], by=[other])[2] == 0


def test_one_engine_scores_the_traces_of_all_teachers(tmp_path: Path) -> None:
    made, other = order(4, 1), other_order(4, 2)
    for each in (made, other):
        generated(tmp_path, each, Speaker())
    figures, _, roles = scored(tmp_path, other, of=[made])
    assert (figures.scored, len(roles)) == (4, 1)
