"""How a script with bars ends: each bar as JSON on the last line, and an exit code. It measures nothing."""

import json
import statistics
import sys
from collections.abc import Sequence
from typing import Any


def below(bar: str, values: Sequence[float], limit: float, **more: Any) -> dict[str, Any]:
    """A bar that the median of some measurements must not pass."""
    value = round(statistics.median(values), 3)
    spread = [round(min(values), 3), round(max(values), 3)]
    return {
        "bar": bar,
        "value": value,
        "limit": limit,
        "n": len(values),
        "spread": spread,
        **more,
        "ok": value <= limit,
    }


def above(bar: str, values: Sequence[float], limit: float, **more: Any) -> dict[str, Any]:
    """A bar that the median of some measurements must reach."""
    found = below(bar, values, limit, **more)
    return found | {"ok": found["value"] >= limit}


def below_always(bar: str, values: Sequence[float], limit: float, **more: Any) -> dict[str, Any]:
    """A bar that none of some measurements may pass."""
    return below(bar, values, limit, **more) | {"value": round(max(values), 3), "ok": max(values) <= limit}


def none(bar: str, count: int, tried: int, **more: Any) -> dict[str, Any]:
    """A bar of things that must never happen: how often one did, of so many that were tried."""
    return {"bar": bar, "value": count, "limit": 0, "n": tried, "spread": None, **more, "ok": count == 0 and tried > 0}


def show(line: str) -> None:
    """Say how far it is, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def end(*bars: dict[str, Any]) -> int:
    """Print the bars as the last line; returns the exit code."""
    show(json.dumps(list(bars) if len(bars) > 1 else bars[0]))
    return 0 if all(bar["ok"] for bar in bars) else 1
