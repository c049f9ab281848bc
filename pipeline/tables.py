"""What became of a run, as tables and lines for a terminal. It computes no figure, reads no file and prints nothing."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

WORDS = ("model", "stage", "reason")  # columns of words; the others hold figures
COLORS = {"fresh": "green", "stale": "yellow", "partial": "cyan", "absent": "dim"}  # of a stage's states

Row = Mapping[str, Any]


def summary(report: Row) -> Iterator[Table | str]:
    """A finished run by its report.json: the parts in their order, a string in rich's markup."""
    yield _models(report)
    if report["exports"]:
        yield _exports(report["exports"])
    if report["rounds"]:
        yield _rounds(report["rounds"])
    difference, gap = report["paired"]["student_minus_base"], report["gap_recovered"]
    yield f"student - base: {_figure(difference, 'difference')}    gap recovered: {_figure(gap, 'value')}"
    yield _funnel(report["funnel"])


def status(found: Row) -> Iterator[str]:
    """What `seqdistill status --json` says as lines in rich's markup: one for each stage, in columns, under the run's
    name, or that of the round that the stage belongs to.
    """
    cells = [(title, [_cells(name, row) for name, row in rows.items()]) for title, rows in _groups(found)]
    widths = [max(len(row[number]) for _, rows in cells for row in rows) for number in range(5)]
    for title, rows in cells:
        yield escape(title)
        for name, state, dataset, seconds, mark, counts in rows:
            yield (
                f"{name:<{widths[0]}}  [{COLORS[state]}]{state:<{widths[1]}}[/]  {dataset:<{widths[2]}}  "
                f"{seconds:>{widths[3]}}  {mark:<{widths[4]}}  {escape(counts)}"
            )


def _groups(found: Row) -> list[tuple[str, Row]]:
    """(title, stages) of what status shows."""
    stages = found["stages"]
    if "rounds" not in found:
        return [(f"run {found['run']}", stages)]
    return [
        (f"run {found['run']}", {"seed": stages["seed"]}),
        *((f"round {row['round']}", row["stages"]) for row in found["rounds"]),
        (f"{found['why']}; of round {found['chosen']}'s student", {name: stages[name] for name in ("eval", "report")}),
    ]


def _cells(name: str, row: Row) -> tuple[str, ...]:
    """What status shows of a stage: name, state, rows of its first dataset, seconds, fingerprint (cut), counts."""
    dataset = next((f"{dataset} {count:,}" for dataset, count in row["rows"].items()), "")
    seconds = "" if row["seconds"] is None else f"{row['seconds']:,.1f} s"
    counts = ", ".join(f"{reason} {count:,}" for reason, count in row["counts"].items() if count)
    return name, row["state"], dataset, seconds, (row["fingerprint"] or "")[:8], counts


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column in WORDS else "right", overflow="fold")
    return table


def _models(report: Row) -> Table:
    title = f"Held-out questions: {report['questions']}"
    table = _table(title, "model", "pass@1", "95 % interval", "mean tokens", "truncated")
    for name in ("teacher", "base", "student"):
        row = report["models"][name]
        share = _number(row["truncated_share"], ".1%")
        table.add_row(name, _number(row["pass_at_1"]), _range(row), _number(row["mean_tokens"], ".0f"), share)
    return table


def _exports(rows: Sequence[Row]) -> Table:
    table = _table("With fewer bits", "model", "MB of weights", "tokens/s", "pass@1", "minus the checkpoint")
    for row in rows:
        size, difference = f"{row['weight_bytes'] / 1e6:,.1f}", _figure(row["difference"], "difference")
        table.add_row(row["model"], size, _number(row["tokens_per_s"], ".0f"), _number(row["pass_at_1"]), difference)
    return table


def _rounds(rounds: Row) -> Table:
    title = f"Rounds, by the block {rounds['split']}: {rounds['why']}"
    table = _table(title, "round", "pass@1", "95 % interval", "mean tokens")
    for row in rounds["rounds"]:
        name = f"{row['round']} (chosen)" if row["round"] == rounds["chosen"] else str(row["round"])
        table.add_row(name, _number(row["pass_at_1"]), _range(row), _number(row["mean_tokens"], ".0f"))
    return table


def _funnel(rows: Sequence[Row]) -> Table:
    table = _table("Funnel", "stage", "reason", "traces")
    for row in rows:
        table.add_row(row["stage"], row["reason"], f"{row['traces']:,}")
    table.add_section()
    table.add_row("", "all", f"{sum(row['traces'] for row in rows):,}")
    return table


def _figure(row: Row, key: str) -> str:
    return "not defined" if row[key] is None else f"{row[key]:.3f} ({_range(row)})"


def _range(row: Row) -> str:
    low, high = row["interval"]
    return f"{_number(low)} to {_number(high)}"


def _number(value: float | None, form: str = ".3f") -> str:
    return "?" if value is None else format(value, form)
