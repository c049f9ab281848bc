"""What a person sees of a running recipe: a live line at a terminal, plain lines elsewhere. It knows no stage."""

import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from pipeline.manifest import Manifest
from pipeline.run import State
from pipeline.runner import Watcher
from pipeline.stage import Progress

PLAIN_INTERVAL_S = 15.0  # between progress lines where there is no terminal


class Display:
    """Shows a run on a console. A context manager: the live line goes away at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}  {task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, unit="", note="", visible=False)
        self._last_line = 0.0
        self._started = 0.0

    def __enter__(self) -> "Display":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def watcher(self) -> Watcher:
        """The callbacks for a Runner."""
        return Watcher(starts=self._starts, moves=self._moves, says=self._says, ends=self._ends)

    def _starts(self, name: str, state: State) -> None:
        self._console.print(f"[bold]{name}[/] ({state.word})")
        self._started = self._last_line = time.monotonic()
        self._bar.reset(self._task, total=None, description=name, unit="", note="", visible=False)

    def _moves(self, name: str, moment: Progress) -> None:
        if self._console.is_terminal:
            unit, note = escape(moment.unit), escape(moment.note)
            self._bar.update(self._task, completed=moment.done, total=moment.total, visible=True, unit=unit, note=note)
            return
        now = time.monotonic()
        if now - self._last_line >= PLAIN_INTERVAL_S:
            self._last_line = now
            total = f" of {moment.total:,}" if moment.total is not None else ""
            note = f"  {moment.note}" if moment.note else ""
            left = "" if "left" in moment.note else _left(moment, now - self._started)
            self._console.print(escape(f"  {name}: {moment.done:,}{total} {moment.unit}{note}{left}"))

    def _says(self, name: str, line: str) -> None:
        self._console.print(f"  {escape(line)}")

    def _ends(self, name: str, manifest: Manifest, ran: bool) -> None:
        self._bar.update(self._task, visible=False)
        rows = ", ".join(f"{dataset} {count:,}" for dataset, count in manifest.rows.items())
        tail = f"{manifest.seconds:.1f} s" if ran else "fresh, skipped"
        self._console.print(f"  [green]{name}[/]: {f'{rows}; ' if rows else ''}{tail}")


def _left(moment: Progress, seconds: float) -> str:
    if not moment.total or not moment.done:
        return ""
    left = seconds * (moment.total - moment.done) / moment.done
    return f"  about {left / 60:.0f} min left" if left >= 90 else f"  about {left:.0f} s left"
