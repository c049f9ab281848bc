"""A pilot: a small part of what generate will do, and what it says of the whole, with intervals.

It asks no model (`stages/generate.py` does). Problems are the unit of its intervals: samples of one are alike.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.manifest import write_durably
from pipeline.orders import Order
from pipeline.records import content_id
from pipeline.roles import WORDS
from pipeline.statistics import Estimate, mean_interval, scaled_mean

PILOT_FILE = "pilot.json"
LEAST_PROBLEMS = 32  # fewer say little of a tail
LABEL_BYTES = (
    1.3  # journal and Parquet together, of one candidate of a token's soft labels (tests/bench/soft_labels.py)
)
DISK_FACTOR = 1.31  # journal and Parquet together, over the bytes of the rows as JSON (tests/bench/store_bytes.py)


@dataclass(frozen=True)
class Sampled:
    """One completion of a pilot. `right` is None where that could not be decided."""

    problem_id: str
    tokens: int
    bytes: int  # of its row
    truncated: bool
    right: bool | None


def chosen(problem_ids: Sequence[str], share: float) -> set[str]:
    """The problems of a pilot: by their ids alone, so that a pilot of a grown set holds that of the smaller one."""
    count = min(len(problem_ids), max(LEAST_PROBLEMS, round(len(problem_ids) * share)))
    return set(sorted(problem_ids, key=lambda each: content_id("pilot", each))[:count])


def measured(rows: Iterable[Mapping[str, Any]], judge: Callable[[str, Mapping[str, Any]], str]) -> Iterator[Sampled]:
    """Completions (TRACE rows) with what a pilot needs to know of them; judge says how an answer came out."""
    for row in rows:
        yield Sampled(
            row["problem_id"],
            row["completion_tokens"],
            len(json.dumps(row, ensure_ascii=False).encode()),
            row["finish"] == "length",
            {"pass": True, "fail": False}.get(judge(row["problem_id"], row)),
        )


def predict(sampled: Sequence[Sampled], problems: int, tokens_per_s: float, label_bytes: float = 0.0) -> dict[str, Any]:
    """What `problems` problems will take and give, as JSON values {value, interval}; hours are None without a speed.

    label_bytes: on disk, of the soft labels of a token.
    """
    groups: dict[str, list[Sampled]] = {}
    for one in sampled:
        groups.setdefault(one.problem_id, []).append(one)
    each = list(groups.values())
    samples = max(map(len, each), default=1)
    tokens = [float(sum(one.tokens for one in group)) for group in each]
    disk = [float(sum(one.bytes * DISK_FACTOR + one.tokens * label_bytes for one in group)) for group in each]
    cut = [sum(one.truncated for one in group) / len(group) for group in each]
    decided = [[one for one in group if one.right is not None] for group in each]
    right = [sum(bool(one.right) for one in group) / len(group) for group in decided if group]
    return {
        "completion_tokens": _values(scaled_mean(tokens, problems)),
        "hours": _values(scaled_mean(tokens, problems / tokens_per_s / 3600)) if tokens_per_s else None,
        "disk_bytes": _values(scaled_mean(disk, problems)),
        "truncated_share": _values(mean_interval(cut, samples)),
        "right_share": _values(mean_interval(right, samples)),
    }


def _values(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "interval": estimate.interval}


FORMS: dict[str, tuple[str, Callable[[float], str]]] = {
    "completion_tokens": ("tokens", lambda value: f"{value:,.0f}"),
    "hours": ("hours", lambda value: f"{value:.2f}"),
    "disk_bytes": ("disk, MB", lambda value: f"{value / 1e6:,.1f}"),
    "truncated_share": ("truncated", lambda value: f"{value:.1%}"),
    "right_share": ("right", lambda value: f"{value:.1%}"),
}


def told(key: str, estimate: Mapping[str, Any] | None) -> str:
    """A predicted figure with its interval, for a person."""
    if estimate is None or estimate["value"] is None:
        return "unknown"
    form = FORMS[key][1]
    low, high = estimate["interval"]
    bounds = "" if low is None or high is None else f" ({form(low)} to {form(high)})"
    return form(estimate["value"]) + bounds


def subject(values: Mapping[str, Any], made: Mapping[str, Order]) -> str:
    """An id of what a pilot speaks of: generate's values, its teachers' prompts and weights, and the problems."""
    asked = {
        name: [
            order.weights,
            order.role.model_dump(mode="json", include={*WORDS, "thinking_budget"}),
            dict(order.texts),
            sum(int(content_id(row["id"]), 16) for row in order.problems()) % 2**128,  # in whatever order
        ]
        for name, order in made.items()
    }
    return content_id("pilot of", dict(values), asked)


def note(
    folder: Path,
    about: str,
    share: float,
    weights: Mapping[str, str],
    sampled: Sequence[Sampled],
    of: int,
    speed: float,
    label_bytes: float,
) -> dict[str, Any]:
    """Write a pilot into generate's folder; returns what is written.

    about: its `subject`. of: how many problems there are in all. speed: tokens a second, 0 where all was stored and
    nothing was timed; then the pilot that bought it, of the same teachers, has it. label_bytes: see `predict`.
    """
    last = read(folder) or {}
    tokens_per_s = speed or (last.get("tokens_per_s", 0.0) if last.get("weights") == weights else 0.0)
    result = {
        "about": about,
        "share": share,
        "weights": weights,
        "problems": len({one.problem_id for one in sampled}),
        "of_problems": of,
        "completions": len(sampled),
        "tokens_per_s": round(tokens_per_s, 1),
        "predicted": predict(sampled, of, tokens_per_s, label_bytes),
    }
    write_durably(folder / PILOT_FILE, json.dumps(result, indent=1) + "\n")
    return result


def lines(found: Mapping[str, Any]) -> list[str]:
    """A pilot, told to a person."""
    head = (
        f"Pilot: {found['completions']:,} completions of {found['problems']:,} problems, kept in the store; predicted "
        f"for all {found['of_problems']:,}, with 95 % intervals:"
    )
    return [head, *(f"  {FORMS[key][0]}: {told(key, found['predicted'][key])}" for key in FORMS)]


def beside(found: Mapping[str, Any] | None, actual: Mapping[str, float | None]) -> list[dict[str, str]]:
    """Rows {figure, predicted, actual} of a pilot and what came of it, for a person."""
    if found is None:
        return []
    return [
        {
            "figure": FORMS[key][0],
            "predicted": told(key, found["predicted"][key]),
            "actual": "unknown" if value is None else FORMS[key][1](value),
        }
        for key, value in actual.items()
    ]


def read(folder: Path, about: Callable[[], str] | None = None) -> dict[str, Any] | None:
    """The last pilot of a generate's folder; None where there is none, or none of what `about` tells (`subject`), which
    reads all problems and so is asked only where there is a pilot.
    """
    path = folder / PILOT_FILE
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found if about is None or found.get("about") == about() else None
