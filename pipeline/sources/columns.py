"""From the columns of a row to a candidate: which column holds what, what stands where none does, and what is unusable.

It opens no file and downloads nothing (`file.py` and `hub.py` do).
"""

import json
import math
from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field, field_validator

from pipeline.section import Section
from pipeline.sources.candidate import PROGRAM, TRAIN, Candidate, SourceError, canonical_json
from pipeline.text import closest
from pipeline.verifiers import UNVERIFIABLE, VERIFIERS, unusable

# How a split may be called: "train", or the name of a held-out block.
SplitName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]

WITHOUT_ANSWER = (PROGRAM, UNVERIFIABLE)  # verifiers that look at no reference answer
OWN_RECORD = "reasoning_gym"  # the verifier whose data is a record of its library's own, where a null says something


class Columns(Section):
    """Which column of the source holds which field of a problem."""

    text: str = "text"  # the problem as the teacher reads it
    answer: str = "answer"  # the reference answer; the verifiers code and unverifiable need none
    domain: str | None = None  # null, here and below: `defaults` says it for every row
    task: str | None = None
    verifier: str | None = None
    verifier_data: str | None = None  # JSON text, or an object; null: {}
    license: str | None = None


class Defaults(Section):
    """What a problem gets where no column is named, or where the row has none."""

    domain: str = "general"
    task: str | None = None  # null: the source's name
    verifier: str = "math"  # a name in pipeline/verifiers
    license: str = "unknown"  # an SPDX identifier

    @field_validator("verifier")
    @classmethod
    def _is_a_verifier(cls, name: str) -> str:
        if name not in VERIFIERS:
            raise ValueError(f"there is no verifier named {name!r}; use one of {', '.join(sorted(VERIFIERS))}")
        return name


class RowSource(Section):
    """What every source of rows is told, whatever holds the rows."""

    columns: Columns = Columns()
    defaults: Defaults = Defaults()
    split: SplitName = TRAIN  # "train", or the name of a held-out block that the rows belong to


def nearest(word: str, known: Collection[str]) -> str:
    """A hint at the closest known word: " (did you mean 'x'?)", or nothing."""
    close = closest(word, known)
    return f" (did you mean {close!r}?)" if close else ""


def check_columns(source: RowSource, found: Collection[str], rows: Iterable[Mapping[str, Any]], where: str) -> None:
    """Raise SourceError where a named column is not among those found; `rows` are the source's.

    A column that nobody named may be missing where no row needs it: `answer`, where no verifier looks at one.
    """
    for field, column in source.columns.model_dump().items():
        if column is None or column in found:
            continue
        if (
            field == "answer"
            and column == Columns().answer
            and all(_verifier(row, source, where) in WITHOUT_ANSWER for row in rows)
        ):
            continue
        raise SourceError(
            f"{where}: there is no column {column!r} to take {field!r} from{nearest(column, found)}. Columns "
            f"found: {', '.join(sorted(map(repr, found)))}. Name the right one under columns.{field}"
            + (", or leave it out." if field not in ("text", "answer") else ".")
        )


def candidate(row: Mapping[str, Any], source: RowSource, name: str, file: str, place: str) -> Candidate:
    """A row as a candidate; a missing value is a fault. `name` is what the rows' source is called in the data.

    Raises SourceError where a value has the wrong type, `verifier` is unknown, or `verifier_data` is no JSON object or
    of no use to the verifier.
    """
    columns, defaults = source.columns, source.defaults
    where = f"{file}, {place}"

    def of(column: str | None, default: str) -> str:
        return _value(row, column, default, where)

    verifier = _verifier(row, source, where)
    if verifier not in VERIFIERS:
        raise SourceError(
            f"{where}: there is no verifier named {verifier!r}{nearest(verifier, VERIFIERS)}; use one of "
            f"{', '.join(sorted(VERIFIERS))}"
        )
    made = {
        "text": of(columns.text, ""),
        "answer": of(columns.answer, ""),
        "domain": of(columns.domain, defaults.domain),
        "task": of(columns.task, defaults.task or name),
        "license": of(columns.license, defaults.license),
        "verifier_data": _verifier_data(row.get(columns.verifier_data or ""), verifier, where),
    }
    answered = made["answer"] or verifier in WITHOUT_ANSWER
    fault = None if made["text"] and answered else "answer_missing" if made["text"] else "text_empty"
    if any(not _is_utf8(value) for value in made.values()):
        # Half of a surrogate pair, which JSON can spell and UTF-8 cannot.
        fault = "not_utf8"
        made = {key: value.encode("utf-8", "replace").decode("utf-8") for key, value in made.items()}
    return Candidate(
        text=made["text"],
        answer=made["answer"],
        domain=made["domain"],
        task=made["task"],
        verifier=verifier,
        verifier_data=made["verifier_data"],
        source=name,
        license=made["license"],
        split=source.split,
        place=place,
        fault=fault,
    )


def undecodable(raw: bytes, source: RowSource, name: str, place: str) -> Candidate:
    """The candidate of a row whose bytes are not UTF-8: its text as far as it can be read."""
    try:
        raw.decode("utf-8")
        detail = "bytes are not UTF-8"
    except UnicodeDecodeError as error:
        detail = f"byte {error.start + 1} of the row is {raw[error.start]:#04x}"
    return Candidate(
        text=raw.decode("utf-8", "replace"),
        answer="",
        domain=source.defaults.domain,
        task=source.defaults.task or name,
        verifier=source.defaults.verifier,
        verifier_data="{}",
        source=name,
        license=source.defaults.license,
        split=source.split,
        place=place,
        fault="not_utf8",
        detail=detail,
    )


def _verifier(row: Mapping[str, Any], source: RowSource, where: str) -> str:
    return _value(row, source.columns.verifier, source.defaults.verifier, where)


def _value(row: Mapping[str, Any], column: str | None, default: str, where: str) -> str:
    value = None if column is None else _text(row.get(column), column, where)
    return default if value is None or not value.strip() else value


def _text(value: Any, column: str, where: str) -> str | None:
    if _is_missing(value):
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, bool | int | float):
        return str(value)
    raise SourceError(f"{where}: column {column!r} holds a {type(value).__name__}; expected text or a number")


def _verifier_data(value: Any, verifier: str, where: str) -> str:
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError as error:
            raise SourceError(f"{where}: verifier_data is not JSON ({error}): {value[:80]!r}") from error
    elif _is_missing(value) or isinstance(value, str):
        value = {}
    if not isinstance(value, Mapping):
        raise SourceError(f"{where}: verifier_data is a {type(value).__name__}; expected a JSON object")
    if verifier != OWN_RECORD:
        value = _present(value)
    if why := unusable(verifier, dict(value)):
        raise SourceError(f"{where}: the verifier {verifier!r} cannot use this row: {why}. Mend or delete it")
    return canonical_json(value)


def _present(value: Any) -> Any:
    """Without the keys that have no value: in a Parquet struct each row has the keys of all others, as null."""
    if isinstance(value, Mapping):
        return {key: _present(item) for key, item in value.items() if not _is_missing(item)}
    if isinstance(value, list | tuple):
        return [_present(item) for item in value]
    return float(value) if isinstance(value, Decimal) else value


def _is_missing(value: Any) -> bool:
    """Null, or the NaN that data frames put in its place."""
    return value is None or (isinstance(value, float | Decimal) and math.isnan(value))


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
