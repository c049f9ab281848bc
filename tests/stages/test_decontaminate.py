"""decontaminate: copies of held-out problems are found, steps of a trace's own problem are not."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipeline.records import PROBLEM, REFERENCE, TRACE, VERDICT
from pipeline.section import declared
from pipeline.shards import as_table
from pipeline.sources.benchmark import Benchmark
from pipeline.stage import StageError
from stages import decontaminate as stage
from stages.decontaminate import Config, benchmark_digests
from tests.desk import DeskInputs, DeskOutput

STORY = (
    "Nora walks to the lake and back each morning, a way of 7 kilometres. On Sundays she walks around it as well, "
    "which adds another 4 kilometres to her way. How many kilometres does she walk in a week of seven days?"
)


def problem(problem_id: str, text: str, split: str = "train") -> dict[str, Any]:
    return dict.fromkeys(PROBLEM.names, "") | {"id": problem_id, "text": text, "task": "sums", "split": split}


PROBLEMS = [
    problem("p", "Calculate 10 * 2 * 6."),
    problem("q", "Calculate 8 - 3."),
    problem("e1", "Calculate 10 * 2.", "eval"),
    problem("e2", "Calculate 9 + 4.", "eval"),
    problem("d1", STORY, "dev"),
]


def run(
    folder: Path,
    raws: list[tuple[str, str | None]],
    config: Config | None = None,
    problems: Any = PROBLEMS,
    references: Any = (),
) -> DeskOutput:
    rows: list[dict[str, Any]] = [
        dict.fromkeys(TRACE.names) | {"id": f"t{at}", "problem_id": problem_id, "raw": raw}
        for at, (problem_id, raw) in enumerate(raws)
    ]
    tables = {"traces": as_table(rows, TRACE), "problems": as_table(problems, PROBLEM)}
    tables["references"] = as_table(references, REFERENCE)
    output = DeskOutput(folder)
    stage.run(config or Config(), DeskInputs(folder, tables), output)
    return output


def reasons(output: DeskOutput) -> list[list[str]]:
    return [row["reasons"] for row in output.rows("verdicts")]


def test_every_trace_gets_one_verdict_that_names_benchmark_item_span_and_score(tmp_path: Path) -> None:
    output = run(tmp_path, [("q", "8 - 3 = 5"), ("q", f"Like this one:\n{STORY.upper()}\n8 - 3 = 5"), ("q", None)])
    assert [table.schema for table in output.tables["verdicts"]] == [VERDICT]
    clean, copied, empty = output.rows("verdicts")
    assert (clean["outcome"], clean["reasons"], clean["score"]) == ("pass", [], None)
    assert (empty["outcome"], json.loads(empty["detail"])) == ("pass", {})
    assert (copied["outcome"], copied["reasons"], copied["score"]) == ("fail", ["contaminated"], 1.0)
    (hit,) = json.loads(copied["detail"])["hits"]
    assert hit.pop("span").startswith("nora walks to the lake and back")
    assert hit == {"benchmark": "dev", "item": "d1", "score": 1.0, "kind": "ngram", "where": "trace"}
    assert output.counts == {"pass": 2, "contaminated": 1}
    assert output.facts["contaminated_by_set"] == {"dev": 1}


@pytest.mark.parametrize(
    ("problem_id", "raw", "contaminated"),
    [
        ("q", "9 + 4 = 13, but first 8 - 3 = 5", False),
        ("q", "To begin with: Calculate 9 + 4. That is 13.", True),
        ("q", "Calculate 9 + 4 - 1.", False),
        ("q", "Calculate 9 + 5.", False),
        ("p", "Calculate 10 * 2. That is 20. Calculate 20 * 6.", False),  # a step of its own problem
        ("q", "Calculate 10 * 2. That is 20.", True),
        ("q", STORY.replace("7", "8"), False),
    ],
)
def test_an_item_counts_when_it_stands_whole_and_is_no_step_of_the_problem(
    tmp_path: Path, problem_id: str, raw: str, contaminated: bool
) -> None:
    assert reasons(run(tmp_path, [(problem_id, raw)])) == [["contaminated"] if contaminated else []]


def test_a_contaminated_problem_condemns_all_its_traces(tmp_path: Path) -> None:
    problems = [problem("r", f"Please solve: {STORY}"), *PROBLEMS]
    output = run(tmp_path, [("r", "53"), ("r", "fifty-three"), ("q", "5")], problems=problems)
    assert reasons(output) == [["contaminated"], ["contaminated"], []]
    assert json.loads(output.rows("verdicts")[0]["detail"])["hits"][0]["where"] == "problem"


def test_training_problems_are_no_references(tmp_path: Path) -> None:
    output = run(tmp_path, [("q", "Calculate 8 - 3. It is 5.")])
    assert (reasons(output), output.facts["reference_items"]) == ([[]], {"dev": 1, "eval": 2})


def write(folder: Path, ending: str) -> str:
    name = f"bench{ending}"
    rows = [{"q": "Name the capital city of France.", "n": 1}, {"q": "Which river runs through Vienna?", "n": 2}]
    if ending == ".jsonl":
        (folder / name).write_text("\n".join(json.dumps(row) for row in rows))
    elif ending == ".csv":
        (folder / name).write_text("q,n\n" + "\n".join(f"{row['q']},{row['n']}" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), folder / name)
    return name


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_benchmarks_are_local_files(tmp_path: Path, ending: str) -> None:
    config = Config(benchmarks=(Benchmark(name="geo", path=write(tmp_path, ending), column="q"),))
    output = run(tmp_path, [("q", "So: which river runs\nthrough VIENNA? The Danube."), ("q", "Vienna")], config)
    assert reasons(output) == [["contaminated"], []]
    (hit,) = json.loads(output.rows("verdicts")[0]["detail"])["hits"]
    assert (hit["benchmark"], hit["span"]) == ("geo", "which river runs through vienna")
    assert hit["item"] in ("line 2", "line 3", "row 2")
    assert output.facts["reference_items"] == {"dev": 1, "eval": 2, "geo": 2}


@pytest.mark.parametrize(
    ("benchmark", "message"),
    [
        ({"path": "bensh.csv", "column": "q"}, r"benchmark 'geo': .*bensh.csv does not exist.*bench.csv"),
        ({"path": "bench.csv", "column": "question"}, r"benchmark 'geo': .*no column 'question'"),
        ({"path": "empty.csv", "column": "q"}, r"benchmark 'geo': none of 1 rows of empty.csv has text in column 'q'"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error(tmp_path: Path, benchmark: dict[str, str], message: str) -> None:
    write(tmp_path, ".csv")
    (tmp_path / "empty.csv").write_text("q,n\n,1\n")
    with pytest.raises(StageError, match=message):
        run(tmp_path, [("q", "5")], Config(benchmarks=(Benchmark(name="geo", **benchmark),)))


def test_what_seed_compared_problems_with_is_looked_for_in_traces_too(tmp_path: Path) -> None:
    known = {"id": "r", "benchmark": "rivers", "item": "line 1", "text": "Which river runs through Vienna?"}
    output = run(tmp_path, [("q", "which river runs through Vienna? The Danube.")], references=[known])
    (hit,) = json.loads(output.rows("verdicts")[0]["detail"])["hits"]
    assert (hit["benchmark"], hit["item"], hit["where"]) == ("rivers", "line 1", "trace")
    config = Config(benchmarks=(Benchmark(name="rivers", path=write(tmp_path, ".csv"), column="q"),))
    with pytest.raises(StageError, match="benchmark 'rivers' is called like another set"):
        run(tmp_path, [("q", "5")], config, references=[known])


def test_a_benchmark_may_be_a_hub_set_and_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    write(folder, ".csv")
    (folder / "bench.csv").rename(folder / "test.csv")
    config = Config(benchmarks=(Benchmark(name="geo", hub=str(folder), column="q", revision="0" * 40),))
    output = run(tmp_path, [("q", "Which river runs through Vienna?")], config)
    assert reasons(output) == [["contaminated"]]
    before = benchmark_digests(config, tmp_path)
    (folder / "test.csv").write_text("q\nOther?\n")
    assert list(before) == ["geo"]
    assert benchmark_digests(config, tmp_path) != before


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "has neither path nor hub"),
        ({"path": "a.csv", "hub": "x/y"}, "has both path and hub"),
        ({"hub": "x/y"}, "has no revision"),
        ({"hub": "x/y", "revision": "main"}, "which is no commit"),
    ],
)
def test_a_benchmark_that_names_no_fixed_place_is_refused(values: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Benchmark(name="geo", **values)


def test_a_benchmark_called_like_a_held_out_block_is_an_error(tmp_path: Path) -> None:
    config = Config(benchmarks=(Benchmark(name="eval", path=write(tmp_path, ".csv"), column="q"),))
    with pytest.raises(StageError, match="benchmark 'eval' is called like another set"):
        run(tmp_path, [("q", "5")], config)


def test_two_benchmarks_of_one_name_and_unknown_endings_are_refused() -> None:
    one = Benchmark(name="geo", path="a.csv")
    with pytest.raises(ValidationError, match="two benchmarks are named 'geo'"):
        Config(benchmarks=(one, one))
    with pytest.raises(ValidationError, match=r"'a.txt' ends in none of .jsonl"):
        Benchmark(name="geo", path="a.txt")


def test_the_content_of_a_benchmark_file_is_identity(tmp_path: Path) -> None:
    config = Config(benchmarks=(Benchmark(name="geo", path="bench.csv", column="q"),))
    before = benchmark_digests(config, tmp_path)
    write(tmp_path, ".csv")
    first = benchmark_digests(config, tmp_path)
    (tmp_path / "bench.csv").write_text("q\nOther?\n")
    seen = [before["geo"], first["geo"], benchmark_digests(config, tmp_path)["geo"]]
    assert seen[0] == "missing"
    assert len(set(seen)) == 3


def test_a_benchmark_file_that_did_not_change_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(benchmarks=(Benchmark(name="geo", path=write(tmp_path, ".csv"), column="q"),))
    os.utime(tmp_path / "bench.csv", (1, 1))
    first = benchmark_digests(config, tmp_path)
    monkeypatch.setattr(hashlib, "file_digest", lambda file, kind: pytest.fail(f"read {file.name} again"))
    assert benchmark_digests(config, tmp_path) == first


def test_the_place_of_a_benchmark_file_is_not_identity(tmp_path: Path) -> None:
    write(tmp_path, ".csv")
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "other.csv").write_bytes((tmp_path / "bench.csv").read_bytes())
    one, other = (Config(benchmarks=(Benchmark(name="geo", path=path),)) for path in ("bench.csv", "moved/other.csv"))
    assert declared(one) == declared(other)
    assert benchmark_digests(one, tmp_path) == benchmark_digests(other, tmp_path)


def test_canaries_are_planted_and_counted(tmp_path: Path) -> None:
    held = [problem(f"e{at}", f"Calculate {at} + {at + 3}.", "eval") for at in range(40)]
    output = run(tmp_path, [("q", "5")], problems=[PROBLEMS[1], *held])
    assert {key: output.facts[key] for key in ("canaries", "canaries_found", "canaries_missed")} == {
        "canaries": 20,
        "canaries_found": 20,
        "canaries_missed": [],
    }
    assert output.lines == []


def test_a_canary_that_is_not_found_is_said_and_recorded(tmp_path: Path) -> None:
    output = run(tmp_path, [("q", "5")], problems=[*PROBLEMS, problem("bare", "12 + 5", "eval")])
    assert (output.facts["canaries"], output.facts["canaries_found"]) == (4, 3)
    assert output.facts["canaries_missed"] == ["eval bare"]
    assert "1 of 4 planted canaries were not found" in output.lines[0]


def test_nothing_to_compare_with_is_said(tmp_path: Path) -> None:
    output = run(tmp_path, [("q", "5")], problems=[PROBLEMS[1]])
    assert (reasons(output), output.facts["canaries"]) == ([[]], 0)
    assert "Nothing is held out" in output.lines[0]
