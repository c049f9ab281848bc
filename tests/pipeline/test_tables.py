"""What a finished run shows: each model, export, round and reason with its figures, and those not known marked."""

from io import StringIO
from typing import Any

from rich.console import Console

from pipeline import tables

SCORE: dict[str, Any] = {"pass_at_1": 0.74, "interval": [0.686, 0.787], "mean_tokens": 35.4, "truncated_share": 0.003}
UNKNOWN: dict[str, Any] = {"pass_at_1": None, "interval": [None, None], "mean_tokens": None, "truncated_share": None}
REPORT: dict[str, Any] = {
    "questions": 288,
    "models": {"teacher": SCORE, "base": UNKNOWN, "student": SCORE},
    "exports": [
        {**SCORE, "model": "student_int8", "weight_bytes": 163_000_000, "tokens_per_s": None}
        | {"difference": {"difference": -0.01, "interval": [-0.05, 0.03]}}
    ],
    "rounds": {
        "split": "dev",
        "why": "all 2 rounds were run",
        "chosen": 2,
        "rounds": [{"round": 1, **UNKNOWN}, {"round": 2, **SCORE}],
    },
    "paired": {"student_minus_base": {"difference": 0.49, "interval": [0.425, 0.554]}},
    "gap_recovered": {"value": None, "interval": [None, None]},
    "funnel": [
        {"stage": "verify", "reason": "wrong_answer", "traces": 465},
        {"stage": "mix", "reason": "kept", "traces": 1329},
    ],
}


def shown(report: dict[str, Any]) -> list[str]:
    """The lines of a summary on a wide screen, without borders and runs of spaces."""
    console = Console(file=StringIO(), width=200)
    for part in tables.summary(report):
        console.print(part)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    return [" ".join(line.replace("│", " ").split()) for line in printed.splitlines()]


def test_a_summary_holds_every_figure_of_the_report_once() -> None:
    lines = shown(REPORT)
    for line in (
        "Held-out questions: 288",
        "teacher 0.740 0.686 to 0.787 35 0.3%",
        "base ? ? to ? ? ?",
        "With fewer bits",
        "student_int8 163.0 ? 0.740 -0.010 (-0.050 to 0.030)",
        "Rounds, by the block dev: all 2 rounds were run",
        "1 ? ? to ? ?",
        "2 (chosen) 0.740 0.686 to 0.787 35",
        "student - base: 0.490 (0.425 to 0.554) gap recovered: not defined",
        "verify wrong_answer 465",
        "all 1,794",
    ):
        assert lines.count(line) == 1, line


def test_a_run_without_exports_and_rounds_shows_no_tables_of_them() -> None:
    lines = shown(REPORT | {"exports": [], "rounds": None})
    assert "With fewer bits" not in lines
    assert not any(line.startswith("Rounds") for line in lines)
