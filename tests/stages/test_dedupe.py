"""dedupe: duplicates within a problem, one survivor whatever the order of rows, and signatures that are made once."""

import itertools
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from pipeline.embedding import Semantic
from pipeline.manifest import Shard
from pipeline.records import SIGNATURE, TRACE, VERDICT
from pipeline.roles import Teacher
from pipeline.section import declared
from pipeline.shards import as_table
from pipeline.stage import StageError
from stages import dedupe as stage
from stages.dedupe import Config
from tests.desk import DeskInputs, DeskOutput

STEPS = [
    "First we look at the two baskets that stand on the table beside the door.",
    "The left one holds 3 apples and the right one holds 4 of them as well.",
    "Adding both of these numbers gives the count that the question asks about.",
    "Since nothing is taken out of either basket the count stays as it is now.",
    "Therefore all of the apples in both of the baskets together make \\boxed{7}.",
]
BASE = "\n".join(STEPS)
NEAR = BASE.replace("beside", "near")
FURTHER = NEAR.replace("question", "problem")
OTHER_NUMBERS = BASE.replace("3 apples", "5 apples")

# id, raw, and what differs from a right trace of 50 tokens that teacher "a" wrote for problem "p"
Trace = tuple[str, str] | tuple[str, str, dict[str, Any]]


def run(folder: Path, traces: Sequence[Trace], config: Config | None = None, output: Any = None) -> DeskOutput:
    usual = {"problem_id": "p", "completion_tokens": 50, "teacher": "a", "outcome": "pass"}
    rows = [{"id": name, "raw": raw, **usual, **(more[0] if more else {})} for name, raw, *more in traces]
    table = as_table([dict.fromkeys(TRACE.names) | row for row in rows], TRACE)
    verdicts = as_table([dict.fromkeys(VERDICT.names) | row for row in rows if row["outcome"]], VERDICT)
    reads = stage.STAGE.reads["traces"].columns
    inputs = DeskInputs(folder, {"traces": table.select(reads), "verified": verdicts}, Teacher(model="a"))
    inputs.more_teachers["other"] = Teacher(model="b")
    found = output or DeskOutput(folder)
    stage.run(config or Config(), inputs, found)
    return found  # type: ignore[no-any-return]


def duplicates(folder: Path, traces: Sequence[Trace], config: Config | None = None) -> dict[str, tuple[str, str]]:
    """The traces that fail: the reason and the survivor, by id."""
    rows = run(folder, traces, config).rows("verdicts")
    return {row["id"]: (row["reasons"][0], json.loads(row["detail"])["survivor"]) for row in rows if row["reasons"]}


def test_equal_texts_are_exact_duplicates_of_the_one_that_is_kept(tmp_path: Path) -> None:
    found = duplicates(tmp_path, [("b", BASE), ("a", BASE.upper().replace("\n", "  "))])
    assert found == {"b": ("duplicate_exact", "a")}


def test_near_texts_are_near_duplicates_unless_near_is_off(tmp_path: Path) -> None:
    traces = [("a", BASE), ("b", NEAR), ("c", BASE.upper())]
    exact = {"c": ("duplicate_exact", "a")}
    assert duplicates(tmp_path, traces) == exact | {"b": ("duplicate_near", "a")}
    (row,) = (row for row in run(tmp_path, traces).rows("verdicts") if row["id"] == "b")
    assert 0.8 <= row["score"] < 1
    assert duplicates(tmp_path, traces, Config(near=False)) == exact
    assert duplicates(tmp_path, traces, Config(threshold=0.99)) == exact
    assert duplicates(tmp_path, traces, Config(shingle_characters=12)) == exact | {"b": ("duplicate_near", "a")}


@pytest.mark.parametrize(
    ("one", "other"), [(BASE, OTHER_NUMBERS), ("\\boxed{7}", "\\boxed{8}"), ("3 + 4", "4 + 3"), (BASE, STEPS[0])]
)
def test_traces_that_differ_are_both_kept(tmp_path: Path, one: str, other: str) -> None:
    assert duplicates(tmp_path, [("a", one), ("b", other)]) == {}


WRONG, SHORT, OTHER = {"outcome": "fail"}, {"completion_tokens": 10}, {"teacher": "b"}


@pytest.mark.parametrize(
    ("survivor", "rivals", "kept"),
    [
        (None, [("a", WRONG | SHORT), ("b", {})], "b"),
        (None, [("a", {}), ("b", SHORT)], "b"),
        (None, [("b", {}), ("a", {})], "a"),
        (None, [("a", WRONG), ("b", WRONG | SHORT), ("c", WRONG | SHORT)], "b"),
        (("shortest",), [("a", {}), ("b", WRONG | SHORT)], "b"),
        (("first_teacher",), [("a", OTHER | SHORT), ("b", {})], "b"),
        (("first_teacher", "shortest"), [("a", {}), ("b", OTHER | SHORT), ("c", SHORT)], "c"),
        (("pass_rate",), [("a", WRONG), ("b", {}), ("c", OTHER)], "c"),
        (("pass_rate", "right"), [("a", WRONG), ("b", {}), ("c", OTHER | WRONG)], "b"),
        (("pass_rate",), [("a", {"outcome": "undecided"}), ("b", OTHER)], "b"),
    ],
)
def test_the_recipe_chooses_the_survivor(
    tmp_path: Path, survivor: Any, rivals: list[tuple[str, dict[str, Any]]], kept: str
) -> None:
    config = Config(survivor=survivor) if survivor else Config()
    for order in itertools.permutations(rivals):
        found = duplicates(tmp_path, [(name, BASE, more) for name, more in order], config)
        assert set(found) == {name for name, _ in rivals} - {kept}
        assert {one for _, one in found.values()} == {kept}


def test_the_order_of_teachers_is_identity_where_it_decides() -> None:
    assert stage.STAGE.roles_of(Config()) == {}
    assert stage.STAGE.roles_of(Config(survivor=("first_teacher",))) == {"teachers": ("label", "place")}
    assert "survivor" not in declared(Config())


def test_a_survivor_by_one_quality_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="survivor names 'right' twice"):
        Config(survivor=("right", "shortest", "right"))


def test_the_order_of_rows_and_the_size_of_batches_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces: list[Trace] = [
        ("a", BASE),
        ("b", NEAR, {"completion_tokens": 40}),
        ("c", FURTHER, {"completion_tokens": 60}),
        ("d", FURTHER.upper(), {"completion_tokens": 60}),
        ("e", OTHER_NUMBERS),
        ("f", BASE, {"problem_id": "q"}),
    ]
    wanted = duplicates(tmp_path, traces)
    assert set(wanted) == {"a", "c", "d"}
    rng = random.Random(1)
    for rows in (1, 2, 4, 8192):
        monkeypatch.setattr(stage, "ROWS", rows)
        for _ in range(10):
            assert duplicates(tmp_path, rng.sample(traces, len(traces))) == wanted


def test_every_survivor_is_itself_kept(tmp_path: Path) -> None:
    rng = random.Random(4)
    texts = [BASE, NEAR, FURTHER, NEAR.upper(), FURTHER.replace("count", "sum"), OTHER_NUMBERS]
    for _ in range(30):
        traces: list[Trace] = [
            (
                f"t{at}",
                rng.choice(texts),
                {"outcome": rng.choice(["pass", "fail"]), "completion_tokens": rng.randint(1, 9)},
            )
            for at in range(8)
        ]
        found = duplicates(tmp_path, traces)
        assert {survivor for _, survivor in found.values()} & set(found) == set()


def test_every_trace_gets_one_verdict_and_problems_are_apart(tmp_path: Path) -> None:
    traces: list[Trace] = [
        ("a", BASE, {"outcome": "fail"}),
        ("b", BASE, {"problem_id": "q"}),
        ("c", BASE),
        ("d", "\\boxed{7}", {"outcome": "undecided"}),
    ]
    output = run(tmp_path, traces)
    assert all(table.schema == VERDICT for table in output.tables["verdicts"])
    rows = {row["id"]: row for row in output.rows("verdicts")}
    assert {name: row["reasons"] for name, row in rows.items()} == {"a": ["duplicate_exact"], "b": [], "c": [], "d": []}
    assert (rows["a"]["outcome"], rows["a"]["score"], rows["c"]["outcome"]) == ("fail", 1.0, "pass")
    assert json.loads(rows["a"]["detail"]) == {"survivor": "c", "jaccard": 1.0}
    assert output.counts == {"pass": 3, "duplicate_exact": 1, "duplicate_near": 0}


def test_a_trace_without_a_verdict_of_verify_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="Trace a has no verdict in verify/verdicts"):
        run(tmp_path, [("a", BASE, {"outcome": ""})])


class Again(DeskOutput):
    """An output whose stage ran before: its shards are the tables that it wrote then."""

    def __init__(self, folder: Path, before: list[pa.Table]) -> None:
        super().__init__(folder)
        self.before = {f"s{at}": table for at, table in enumerate(before)}
        self.kept_shards: list[str] = []

    def previous(self, dataset: str, columns: Sequence[str] = ("id",)) -> list[tuple[Shard, pa.Table]]:
        assert (dataset, list(columns)) == ("signatures", SIGNATURE.names)
        return [
            (Shard(path=name, bytes=1, sha256="", rows=table.num_rows, columns={}), table)
            for name, table in self.before.items()
        ]

    def keep(self, dataset: str, shard: Shard) -> None:
        self.kept_shards.append(shard.path)


def batch(name: str, count: int) -> list[Trace]:
    return [(f"{name}{at}", f"{BASE} {name} {at}") for at in range(count)]


def test_more_rows_cost_the_signatures_of_themselves_alone(tmp_path: Path) -> None:
    traces = [*batch("x", 99), ("copy", batch("x", 1)[0][1])]
    first = run(tmp_path, traces)
    assert (first.facts["signatures_made"], first.facts["signatures_reused"]) == (99, 0)
    assert len(first.rows("signatures")) == 99  # equal texts share one
    more = [("new", NEAR), *reversed(traces)]
    again = run(tmp_path, more, output=Again(tmp_path, first.tables["signatures"]))
    assert (again.facts["signatures_made"], again.facts["signatures_reused"]) == (1, 99)
    assert again.kept_shards == ["s0"]  # type: ignore[attr-defined]
    assert len(again.rows("signatures")) == 1
    anew = run(tmp_path, more)
    assert again.rows("verdicts") == anew.rows("verdicts")


def test_signatures_of_other_parameters_are_made_again(tmp_path: Path) -> None:
    first = run(tmp_path, batch("x", 5))
    for config in (Config(shingle_words=4), Config(threshold=0.5), Config(shingle_characters=5)):
        again = run(tmp_path, batch("x", 5), config, Again(tmp_path, first.tables["signatures"]))
        assert (again.facts["signatures_made"], again.facts["signatures_reused"]) == (5, 0)
        assert again.kept_shards == []  # type: ignore[attr-defined]


def test_a_shard_of_signatures_that_is_hardly_used_is_written_anew(tmp_path: Path) -> None:
    first = run(tmp_path, batch("x", 9))
    again = run(tmp_path, batch("x", 2), output=Again(tmp_path, first.tables["signatures"]))
    assert again.kept_shards == []  # type: ignore[attr-defined]
    known = {row["id"]: row["packed"] for row in first.rows("signatures")}
    assert [known[row["id"]] == row["packed"] for row in again.rows("signatures")] == [True, True]


def test_signatures_that_cannot_be_read_are_made_again(tmp_path: Path) -> None:
    class Torn(DeskOutput):
        def previous(self, dataset: str, columns: Sequence[str] = ("id",)) -> list[tuple[Shard, pa.Table]]:
            raise ValueError("shard is missing")

    assert run(tmp_path, batch("x", 3), output=Torn(tmp_path)).facts["signatures_made"] == 3


class Oracle:
    """Vectors given by hand: the same for all texts with one of some words."""

    def __init__(self, *words: str) -> None:
        self.words = words

    def of(self, texts: Sequence[str]) -> Any:
        found = np.zeros((len(texts), len(self.words) + 1), dtype=np.float32)
        for row, text in enumerate(texts):
            found[row, next((at for at, word in enumerate(self.words) if word in text), len(self.words))] = 1
        return found


def test_traces_that_say_the_same_in_other_words_are_found_where_a_model_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "opened", lambda *_: lambda: Oracle("basket", "train"))
    told = "Of two baskets one has 3 apples, one has 4, so count to \\boxed{7}."
    other_numbers = told.replace("4", "5")
    traces: list[Trace] = [
        ("a", BASE, {"completion_tokens": 60}),
        ("b", NEAR, {"completion_tokens": 50}),
        ("c", told, {"completion_tokens": 20}),
        ("d", other_numbers),
        ("e", "A train leaves."),
        ("f", told, {"problem_id": "q"}),
    ]
    config = Config(semantic=Semantic(model="any"))
    # a repeats b, which is not kept itself
    wanted = {"a": ("duplicate_near", "c"), "b": ("duplicate_semantic", "c")}
    assert duplicates(tmp_path, traces, config) == wanted
    rng = random.Random(2)
    for rows in (1, 3):
        monkeypatch.setattr(stage, "ROWS", rows)
        assert duplicates(tmp_path, rng.sample(traces, len(traces)), config) == wanted
    (row,) = (row for row in run(tmp_path, traces, config).rows("verdicts") if row["id"] == "b")
    assert json.loads(row["detail"]) == {"survivor": "c", "cosine": 1.0}
    assert duplicates(tmp_path, traces) == {"a": ("duplicate_near", "b")}


def test_the_model_is_part_of_what_decides() -> None:
    assert stage.STAGE.contents(Config(), Path()) == {}
    assert "semantic" not in declared(Config())
