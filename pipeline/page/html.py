"""The report's page: plain data in, one self-contained HTML file out, that loads nothing and runs nothing.

It reads nothing of a run. All text goes through Jinja's escaping, and the page forbids scripts besides.
"""

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from pipeline.page import plots
from pipeline.text import visible

_COLOURS = {"kept": "student", "dropped": "base", "cut off": "bad"}


def render(
    report: Mapping[str, Any],
    traces: Sequence[Mapping[str, Any]],
    answers: Sequence[Mapping[str, Any]],
    lengths: Mapping[str, Sequence[int]],
    stages: Sequence[Mapping[str, Any]],
) -> str:
    """The page.

    report: what report.json holds; traces, answers: groups {title, about, items} of sample traces and of answers to
    held-out questions; lengths: completion tokens of the traces "kept", "dropped" and "cut off"; stages: dicts of
    name, seconds, rows, facts.
    """
    return str(
        _environment()
        .get_template("page.html.jinja")
        .render(
            report=report,
            traces=traces,
            answers=answers,
            stages=stages,
            left=_left(report["funnel"]),
            plots=_plots(report, lengths),
        )
    )


def _plots(report: Mapping[str, Any], lengths: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    from markupsafe import Markup

    rows = [
        plots.Score(label, row["pass_at_1"], row["interval"][0], row["interval"][1], colour)
        for label, row, colour in _scored(report)
        if row["pass_at_1"] is not None
    ]
    curve = report["curve"]
    drawn = {
        "scores": plots.scores(rows) if rows else "",
        "lengths": plots.lengths(lengths, _COLOURS) if any(len(values) for values in lengths.values()) else "",
        "curve": plots.curve(curve["train"], curve["validation"]) if curve["train"] or curve["validation"] else "",
    }
    return {name: Markup(svg) for name, svg in drawn.items()}  # drawn here; matplotlib escapes the text in it


def _scored(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], str]]:
    """Label, figures and colour of each line of the score plot."""
    models = report["models"]
    bases = report["base_prompts"]
    others = [(f"untouched, prompt {name}", row, "base") for name, row in bases.items()]
    return [("teacher", models["teacher"], "teacher"), ("distilled student", models["student"], "student"), *others]


def _left(funnel: Sequence[Mapping[str, Any]]) -> list[int]:
    """How many traces are left after each line of the funnel."""
    left = sum(row["traces"] for row in funnel)
    after = []
    for row in funnel:
        left -= 0 if row["reason"] == "kept" else row["traces"]
        after.append(left)
    return after


def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (resources.files(__package__) / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "visible": visible,
        "share": lambda value: "–" if value is None else f"{value:.1%}",
        "score": lambda value: "–" if value is None else f"{value:.3f}",
        "signed": lambda value: "–" if value is None else f"{value:+.3f}",
        "count": lambda value: "–" if value is None else f"{value:,.0f}",
        "duration": duration,
        "between": lambda pair: f"{_bound(pair[0], '.3f')} to {_bound(pair[1], '.3f')}",
        "between_shares": lambda pair: f"{_bound(pair[0], '.1%')} to {_bound(pair[1], '.1%')}",
        "pretty": lambda value: json.dumps(value, indent=1, ensure_ascii=False, default=str),
    }
    return environment


def _bound(value: float | None, form: str) -> str:
    return "unbounded" if value is None else format(value, form)


def duration(seconds: float | None) -> str:
    """Seconds as a person says them."""
    if seconds is None:
        return "–"
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
