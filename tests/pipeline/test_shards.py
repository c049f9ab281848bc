import random
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import shards
from pipeline.digests import sha256
from pipeline.shards import add_sums, as_table, column_sums, read_shard, same_sums, write_shard

SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string()), ("count", pa.int32()), ("tags", pa.list_(pa.string()))])


def rows(count: int) -> list[dict[str, object]]:
    return [{"id": f"r{i}", "text": f"text {i}", "count": i, "tags": ["a", str(i)]} for i in range(count)]


def test_column_fingerprints_do_not_depend_on_order_or_layout(tmp_path: Path) -> None:
    table = as_table(rows(50), SCHEMA)
    shuffled = rows(50)
    random.Random(1).shuffle(shuffled)
    whole = write_shard(tmp_path / "whole.parquet", table, tmp_path)
    parts = [
        write_shard(tmp_path / f"{i}.parquet", as_table(shuffled[i : i + 17], SCHEMA), tmp_path)
        for i in range(0, 50, 17)
    ]
    assert add_sums(parts) == add_sums([whole])


def test_fingerprints_are_those_of_all_rows_however_few_are_looked_at_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.concat_tables([as_table(rows(50)[:20], SCHEMA), as_table(rows(50)[20:], SCHEMA)])
    sums = []
    for count in (1, 7, 50, 1000):
        monkeypatch.setattr(shards, "ROWS", count)
        sums.append(column_sums(table))
    assert sums == [sums[0]] * 4


def test_a_shard_is_told_by_the_sums_of_some_of_its_columns(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.parquet", as_table(rows(3), SCHEMA), tmp_path)
    sums = column_sums(as_table(rows(3), SCHEMA))
    assert same_sums(shard, {"id": sums["id"], "count": sums["count"] + 2**128})
    assert not same_sums(shard, sums | {"count": sums["count"] + 1})
    assert not same_sums(shard, sums | {"other": 0})


@pytest.mark.parametrize(
    "changed",
    [
        {"id": "r0", "text": "text 0 ", "count": 0, "tags": ["a", "0"]},
        {"id": "r0", "text": "text 0", "count": None, "tags": ["a", "0"]},
        {"id": "r0", "text": "text 0", "count": 0, "tags": ["a0"]},
    ],
)
def test_one_changed_value_changes_its_own_columns_fingerprint_alone(changed: dict[str, object]) -> None:
    before = column_sums(as_table(rows(3), SCHEMA))
    after = column_sums(as_table([changed, *rows(3)[1:]], SCHEMA))
    differing = [name for name in before if before[name] != after[name]]
    assert differing == [key for key in changed if changed[key] != rows(1)[0][key]]


def test_swapping_two_rows_values_changes_the_fingerprint() -> None:
    swapped = rows(2)
    swapped[0]["text"], swapped[1]["text"] = swapped[1]["text"], swapped[0]["text"]
    assert column_sums(as_table(rows(2), SCHEMA))["text"] != column_sums(as_table(swapped, SCHEMA))["text"]


def test_null_and_the_word_null_differ() -> None:
    def text_sum(value: object) -> int:
        return column_sums(as_table([{"id": "a", "text": value, "count": 1, "tags": []}], SCHEMA))["text"]

    assert len({text_sum(None), text_sum("null"), text_sum("")}) == 3


def test_a_written_shard_never_changes(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.parquet", as_table(rows(2), SCHEMA), tmp_path)
    before = sha256(tmp_path / "a.parquet")
    with pytest.raises(FileExistsError, match="never changes"):
        write_shard(tmp_path / "a.parquet", as_table(rows(3), SCHEMA), tmp_path)
    assert sha256(tmp_path / "a.parquet") == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_a_missing_or_torn_shard_is_a_clear_error(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.parquet", as_table(rows(20), SCHEMA), tmp_path)
    whole = (tmp_path / "a.parquet").read_bytes()
    assert read_shard(tmp_path, shard, ["id"]).num_rows == 20
    (tmp_path / "a.parquet").write_bytes(whole[:-30])
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        read_shard(tmp_path, shard)
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(ValueError, match="is missing; the manifest names it with 20 rows"):
        read_shard(tmp_path, shard)


def test_a_flipped_bit_in_a_page_is_an_error_when_read(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.parquet", as_table(rows(200), SCHEMA), tmp_path)
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[60] ^= 1
    (tmp_path / "a.parquet").write_bytes(bytes(content))
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        read_shard(tmp_path, shard)
