"""dedupe: duplicates within a problem, and one survivor whatever the order of rows."""

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest

from pipeline.records import TRACE, VERDICT
from pipeline.shards import as_table
from pipeline.stage import StageError
from stages import dedupe as stage
from stages.dedupe import Config, Duplicate, Sample, duplicates
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


def sample(trace_id: str, raw: str, right: bool = True, tokens: int = 50) -> Sample:
    return Sample(trace_id, raw, right, tokens)


def test_equal_texts_are_exact_duplicates_of_the_one_that_is_kept() -> None:
    found = duplicates([sample("b", BASE), sample("a", BASE.upper().replace("\n", "  "))], Config())
    assert found == {"b": Duplicate("duplicate_exact", "a", 1.0)}


def test_near_texts_are_near_duplicates_unless_near_is_off() -> None:
    samples = [sample("a", BASE), sample("b", NEAR)]
    (name, found), *rest = duplicates(samples, Config()).items()
    assert (name, found.reason, found.survivor, rest) == ("b", "duplicate_near", "a", [])
    assert 0.8 <= found.jaccard < 1
    assert duplicates(samples, Config(near=False)) == {}
    assert duplicates(samples, Config(threshold=0.99)) == {}


@pytest.mark.parametrize(
    ("one", "other"), [(BASE, OTHER_NUMBERS), ("\\boxed{7}", "\\boxed{8}"), ("3 + 4", "4 + 3"), (BASE, STEPS[0])]
)
def test_traces_that_differ_are_both_kept(one: str, other: str) -> None:
    assert duplicates([sample("a", one), sample("b", other)], Config()) == {}


@pytest.mark.parametrize(
    ("rivals", "survivor"),
    [
        ([("a", False, 10), ("b", True, 90)], "b"),
        ([("a", True, 90), ("b", True, 10)], "b"),
        ([("b", True, 10), ("a", True, 10)], "a"),
        ([("a", False, 90), ("b", False, 10), ("c", False, 10)], "b"),
    ],
)
def test_a_right_one_survives_then_the_shortest_then_the_smallest_id(
    rivals: list[tuple[str, bool, int]], survivor: str
) -> None:
    found = duplicates([sample(name, BASE, right, tokens) for name, right, tokens in rivals], Config())
    assert {one.survivor for one in found.values()} == {survivor}
    assert set(found) == {name for name, _, _ in rivals} - {survivor}


def test_the_order_of_rows_changes_nothing() -> None:
    samples = [
        sample("a", BASE),
        sample("b", NEAR, tokens=40),
        sample("c", FURTHER, tokens=60),
        sample("d", FURTHER.upper(), tokens=60),
        sample("e", OTHER_NUMBERS),
    ]
    results = [duplicates(order, Config()) for order in itertools.permutations(samples)]
    assert all(result == results[0] for result in results)
    assert set(results[0]) == {"a", "c", "d"}


def test_every_survivor_is_itself_kept() -> None:
    rng = random.Random(4)
    texts = [BASE, NEAR, FURTHER, NEAR.upper(), FURTHER.replace("count", "sum"), OTHER_NUMBERS]
    for _ in range(30):
        samples = [sample(f"t{at}", rng.choice(texts), rng.random() < 0.5, rng.randint(1, 9)) for at in range(8)]
        found = duplicates(samples, Config())
        assert {one.survivor for one in found.values()} & set(found) == set()


def run(folder: Path, traces: list[tuple[str, str, str]], outcomes: dict[str, str], config: Config) -> DeskOutput:
    rows: list[dict[str, Any]] = [
        dict.fromkeys(TRACE.names) | {"id": name, "problem_id": problem, "raw": raw, "completion_tokens": 5}
        for name, problem, raw in traces
    ]
    verdicts: list[dict[str, Any]] = [
        dict.fromkeys(VERDICT.names) | {"id": name, "outcome": outcome} for name, outcome in outcomes.items()
    ]
    tables = {"traces": as_table(rows, TRACE), "verified": as_table(verdicts, VERDICT)}
    output = DeskOutput(folder)
    stage.run(config, DeskInputs(folder, tables), output)
    return output


def test_every_trace_gets_one_verdict_and_problems_are_apart(tmp_path: Path) -> None:
    traces = [("a", "p", BASE), ("b", "q", BASE), ("c", "p", BASE), ("d", "p", "\\boxed{7}")]
    outcomes = {"a": "fail", "b": "pass", "c": "pass", "d": "undecided"}
    output = run(tmp_path, traces, outcomes, Config())
    assert all(table.schema == VERDICT for table in output.tables["verdicts"])
    rows = {row["id"]: row for row in output.rows("verdicts")}
    assert {name: row["reasons"] for name, row in rows.items()} == {"a": ["duplicate_exact"], "b": [], "c": [], "d": []}
    assert (rows["a"]["outcome"], rows["a"]["score"], rows["c"]["outcome"]) == ("fail", 1.0, "pass")
    assert json.loads(rows["a"]["detail"]) == {"survivor": "c", "jaccard": 1.0}
    assert output.counts == {"pass": 3, "duplicate_exact": 1, "duplicate_near": 0}


def test_a_trace_without_a_verdict_of_verify_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="Trace a has no verdict in verify/verdicts"):
        run(tmp_path, [("a", "p", BASE)], {}, Config())
