"""Files of problems: what is read, what is a faulty row, and what is one clear error."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipeline.sources import Candidate, FileSource, SourceError
from pipeline.sources.file import candidates

ROOT = Path(__file__).resolve().parents[3]


def source(path: Path | str, **values: Any) -> FileSource:
    return FileSource.model_validate({"kind": "file", "path": str(path), **values})


def read(folder: Path, name: str, content: bytes, **values: Any) -> list[Candidate]:
    (folder / name).write_bytes(content)
    return list(candidates(source(name, **values), folder))


def test_a_row_takes_its_columns_and_the_rest_from_defaults(tmp_path: Path) -> None:
    row = {"q": "1 + 1?", "a": 2, "kind": "sum", "lic": "MIT", "data": {"choices": ["2", "3"]}}
    columns = {"text": "q", "answer": "a", "task": "kind", "license": "lic", "verifier_data": "data"}
    defaults = {"domain": "math", "verifier": "choice", "license": "CC0-1.0"}
    content = json.dumps(row).encode() + b"\n\n" + json.dumps({"q": "2 + 2?", "a": "4"}).encode()
    one, other = read(tmp_path, "own.jsonl", content, columns=columns, defaults=defaults, split="eval")
    expected = ("1 + 1?", "2", "math", "sum", "choice", '{"choices":["2","3"]}', "own.jsonl", "MIT", "eval", "line 1")
    fields = ("text", "answer", "domain", "task", "verifier", "verifier_data", "source", "license", "split", "place")
    assert tuple(getattr(one, field) for field in fields) == expected
    assert (other.task, other.license, other.verifier_data, other.place) == ("own.jsonl", "CC0-1.0", "{}", "line 3")


def test_the_three_formats_give_the_same_problems(tmp_path: Path) -> None:
    rows = [{"text": 'Say "a, b"\nand c', "answer": "3"}, {"text": "\u00bd of 4?", "answer": "2"}]
    jsonl = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
    csv = '\ufefftext,answer\r\n"Say ""a, b""\nand c",3\r\n\u00bd of 4?,2\r\n'.encode()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "own.parquet")
    found = [
        read(tmp_path, "own.jsonl", jsonl),
        read(tmp_path, "own.csv", csv),
        list(candidates(source("own.parquet"), tmp_path)),
    ]
    assert [[row.id for row in each] for each in found] == [[row.id for row in found[0]]] * 3
    assert [row.text for row in found[1]] == [row["text"] for row in rows]
    assert [row.place for row in found[1]] == ["line 2", "line 4"]


def test_wrapping_changes_no_id(tmp_path: Path) -> None:
    one, other = read(tmp_path, "own.csv", b'text,answer\n"a b  c",1\n" a\nb c",1\n')
    assert one.id == other.id


@pytest.mark.parametrize(
    ("name", "content", "faults"),
    [
        ("a.jsonl", b'{"text": "", "answer": "1"}\n{"text": "x", "answer": null}', ["text_empty", "answer_missing"]),
        (
            "a.jsonl",
            b'{"text": "x", "answer": "1"}\n{"text": "y"}\n{"answer": 3}',
            [None, "answer_missing", "text_empty"],
        ),
        ("a.jsonl", b'{"text": "x \xff", "answer": "1"}\n{"text": "y", "answer": "1"}', ["not_utf8", None]),
        ("a.jsonl", b'{"text": "x \\ud800", "answer": "1"}', ["not_utf8"]),
        ("a.csv", b"text,answer\nx \xff,1\ny,\ny,2\n", ["not_utf8", "answer_missing", None]),
    ],
)
def test_unusable_rows_are_faulty_candidates(tmp_path: Path, name: str, content: bytes, faults: list[str]) -> None:
    found = read(tmp_path, name, content)
    assert [row.fault for row in found] == faults
    assert all(row.text.encode() is not None for row in found)


def test_bad_bytes_in_parquet_are_faulty_rows(tmp_path: Path) -> None:
    text = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0\4\0\0\0"), pa.py_buffer(b"x\xffab")]
    )
    pq.write_table(pa.table({"text": text, "answer": ["1", "2"]}), tmp_path / "a.parquet")
    found = list(candidates(source("a.parquet"), tmp_path))
    assert [(row.fault, row.text, row.place) for row in found] == [
        ("not_utf8", "x\ufffd", "row 1"),
        (None, "ab", "row 2"),
    ]


def test_a_column_of_bytes_that_is_not_asked_for_rejects_no_row(tmp_path: Path) -> None:
    rows = {"text": ["x", "y"], "answer": ["1", "2"], "image": [b"\xff\xd8\xff", None], "kind": [b"sum", b"\xff"]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    found = list(candidates(source("a.parquet"), tmp_path))
    assert [(row.fault, row.text, row.answer) for row in found] == [(None, "x", "1"), (None, "y", "2")]
    asked = list(candidates(source("a.parquet", columns={"task": "kind"}), tmp_path))
    assert [(row.fault, row.task) for row in asked] == [(None, "sum"), ("not_utf8", "a.parquet")]


def test_a_parquet_struct_gives_a_row_no_key_of_other_rows(tmp_path: Path) -> None:
    datas: list[tuple[str, dict[str, Any]]] = [
        ("label", {"labels": ["p", "q"]}),
        ("label", {"labels": ["p", "q"], "synonyms": {"p": ["pro"]}}),
        ("span", {"answers": ["p"]}),
        ("span", {"f1_threshold": 0.5}),
        ("translation", {"bleu": 25.0}),
        ("choice", {"choices": ["p", "x"]}),
        ("exact", {}),
    ]
    rows = [{"text": f"{at}?", "answer": "p", "v": name, "d": data} for at, (name, data) in enumerate(datas)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "own.parquet")
    columns = {"verifier": "v", "verifier_data": "d"}
    found = list(candidates(source("own.parquet", columns=columns), tmp_path))
    assert [(row.verifier, json.loads(row.verifier_data)) for row in found] == datas


def test_shipped_programs_are_the_same_problems_as_parquet(tmp_path: Path) -> None:
    lines = (ROOT / "data/problems/python_functions.jsonl").read_bytes()
    pq.write_table(pa.Table.from_pylist([json.loads(line) for line in lines.splitlines()]), tmp_path / "own.parquet")
    values = {"columns": {"verifier_data": "verifier_data"}, "defaults": {"verifier": "code"}}
    assert [
        (row.id, row.answer, row.verifier_data) for row in candidates(source("own.parquet", **values), tmp_path)
    ] == [(row.id, row.answer, row.verifier_data) for row in read(tmp_path, "own.jsonl", lines, **values)]


def test_a_generators_own_record_keeps_what_it_says_of_nothing(tmp_path: Path) -> None:
    data = {"task": "gcd", "entry": {"question": "?", "answer": "1", "metadata": {"solution": None}}}
    content = json.dumps({"text": "?", "answer": "1", "d": data}).encode()
    values = {"columns": {"verifier_data": "d"}, "defaults": {"verifier": "reasoning_gym"}}
    (row,) = read(tmp_path, "own.jsonl", content, **values)
    assert json.loads(row.verifier_data) == data


def test_numbers_of_a_parquet_file_are_answers_and_nan_is_none(tmp_path: Path) -> None:
    decimals = pa.array([Decimal("1.50"), Decimal("1000.00"), None], pa.decimal128(38, 2))
    table = {"text": ["x", "y", "z"], "answer": [1.5, float("nan"), None], "exact": decimals}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    floats, exact = (
        [(row.answer, row.fault) for row in candidates(source("a.parquet", columns={"answer": column}), tmp_path)]
        for column in ("answer", "exact")
    )
    assert floats == [("1.5", None), ("", "answer_missing"), ("", "answer_missing")]
    assert exact == [("1.50", None), ("1000.00", None), ("", "answer_missing")]


def test_an_answer_may_be_missing_where_no_verifier_looks_at_one(tmp_path: Path) -> None:
    lines = (
        b'{"text": "why?", "v": "unverifiable"}\n{"text": "f?", "v": "code", "d": {"asserts": ["assert f(1) == 1"]}}'
    )
    columns = {"verifier": "v", "verifier_data": "d"}
    found = read(tmp_path, "a.jsonl", lines, columns=columns)
    assert [(row.answer, row.fault) for row in found] == [("", None)] * 2
    mixed = lines + b'\n{"text": "1 + 1?", "v": "math"}'
    with pytest.raises(SourceError, match="there is no column 'answer'"):
        read(tmp_path, "a.jsonl", mixed, columns=columns)
    answered = mixed + b'\n{"text": "1 + 2?", "answer": 3}'
    faults = [row.fault for row in read(tmp_path, "a.jsonl", answered, columns=columns)]
    assert faults == [None, None, "answer_missing", None]
    with pytest.raises(SourceError, match="there is no column 'solution'"):
        read(tmp_path, "a.jsonl", lines, columns={**columns, "answer": "solution"})


def test_a_csv_field_may_be_as_long_as_a_document(tmp_path: Path) -> None:
    (row,) = read(tmp_path, "a.csv", b"text,answer\n" + b"x" * 200_000 + b",1\n")
    assert (len(row.text), row.answer) == (200_000, "1")


CODE = {"columns": {"verifier_data": "d"}, "defaults": {"verifier": "code"}}


@pytest.mark.parametrize(
    ("name", "content", "values", "says"),
    [
        (
            "a.jsonl",
            b'{"text": "x", "answer": "1"}\n{"text": "x"',
            {},
            ["a.jsonl, line 2", "not JSON", "mend or delete"],
        ),
        ("a.jsonl", b'{"text": "x", "answer": "1"}\n[1, 2]', {}, ["a.jsonl, line 2", "list", "expected an object"]),
        ("a.jsonl", b"[" * 100_000, {}, ["a.jsonl, line 1", "not JSON"]),
        ("a.jsonl", b'\n{"text": ["x"], "answer": "1"}', {}, ["a.jsonl, line 2", "'text'", "list"]),
        ("a.jsonl", b'{"texts": "x", "answer": "1"}', {}, ["line 1", "'text'", "did you mean 'texts'", "'answer'"]),
        ("a.csv", b"question,answer\nx,1\n", {"columns": {"text": "qestion"}}, ["line 1", "did you mean 'question'"]),
        ("a.csv", b"text,answer,answer\nx,1,2\n", {}, ["a.csv, line 1", "the column 'answer' stands twice"]),
        ("a.csv", b"text,answer\nx,1\ny,1,2\n", {}, ["a.csv, line 3", "3 fields", "header has 2", "Quote"]),
        ("a.csv", b'text,answer\nx,1\n"y,2\n', {}, ["a.csv, line 3", "not CSV"]),
        ("a.csv", b"", {}, ["a.csv holds no rows"]),
        ("a.jsonl", b"\n\n", {}, ["a.jsonl holds no rows"]),
        ("a.parquet", b"text,answer", {}, ["a.parquet", "cannot be read as Parquet"]),
        ("a.jsonl", b'{"text": "x", "answer": "1", "v": "mth"}', {"columns": {"verifier": "v"}}, ["line 1", "'math'"]),
        ("a.jsonl", b'{"text": "x", "answer": "1", "d": "{"}', {"columns": {"verifier_data": "d"}}, ["line 1", "JSON"]),
        (
            "a.jsonl",
            b'{"text": "x", "answer": "1", "d": [1]}',
            {"columns": {"verifier_data": "d"}},
            ["line 1", "object"],
        ),
        ("a.jsonl", b'{"text": "x", "answer": "1", "d": {}}', CODE, ["a.jsonl, line 1", "'code'", "either `cases`"]),
        (
            "a.jsonl",
            b'{"text": "x", "answer": "1", "d": {"asserts": ["assert f(2) == 4", "f(3) == 5"]}}',
            CODE,
            ["a.jsonl, line 1", "not an assert statement: 'f(3) == 5'"],
        ),
        (
            "a.jsonl",
            b'{"text": "x", "answer": "1", "d": {"asserts": ["assert f(2) == 4"], "setup": "import"}}',
            CODE,
            ["a.jsonl, line 1", "the setup is no Python"],
        ),
    ],
)
def test_a_malformed_file_is_one_error_with_place_and_fix(
    tmp_path: Path, name: str, content: bytes, values: dict[str, Any], says: list[str]
) -> None:
    with pytest.raises(SourceError) as caught:
        read(tmp_path, name, content, **values)
    assert [part for part in says if part not in str(caught.value)] == []


def test_a_missing_file_names_its_path_and_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "problems.jsonl").touch()
    with pytest.raises(SourceError, match=r"problem\.jsonl does not exist \(did you mean 'problems\.jsonl'\?\)"):
        list(candidates(source("problem.jsonl"), tmp_path))
    with pytest.raises(SourceError, match="does not exist"):
        list(candidates(source("no/such/folder.csv"), tmp_path))


def test_what_a_recipe_gets_wrong_is_refused_with_the_fix() -> None:
    with pytest.raises(ValidationError, match=r"ends in none of \.jsonl"):
        source("problems.txt")
    with pytest.raises(ValidationError, match="no verifier named 'mth'"):
        source("a.csv", defaults={"verifier": "mth"})
    with pytest.raises(ValidationError, match="pattern"):
        source("a.csv", split="Held Out")


def test_the_shipped_problems_are_whole() -> None:
    found = list(candidates(source("data/problems/word_problems.jsonl", columns={"license": "license"}), ROOT))
    assert len({row.id for row in found}) == 24
    assert {(row.fault, row.license) for row in found} == {(None, "Apache-2.0")}


def test_the_shipped_programs_are_whole() -> None:
    columns = {"license": "license", "task": "task", "verifier_data": "verifier_data"}
    path = "data/problems/python_functions.jsonl"
    found = list(candidates(source(path, columns=columns, defaults={"verifier": "code"}), ROOT))
    assert len({row.id for row in found}) == 10
    assert {(row.fault, row.license, row.verifier) for row in found} == {(None, "Apache-2.0", "code")}
    assert all(json.loads(row.verifier_data).keys() & {"cases", "asserts"} for row in found)
