"""What a person sees of a running recipe: a live line at a terminal, plain lines elsewhere. It knows no stage."""

import threading
import time
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.text import Text

from pipeline.manifest import Manifest
from pipeline.run import State
from pipeline.runner import Watcher
from pipeline.stage import Progress

PLAIN_INTERVAL_S = 15.0  # between progress lines where there is no terminal
SILENCE_S = 60.0  # after which a stage that tells nothing is said to run still, where there is no terminal


class Display:
    """Shows a run on a console. A context manager: the live line goes away at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._task = self._bar.add_task("", total=None, unit="", visible=False)
        self._note = Text(overflow="fold")
        # The note stands below the bar: a narrow terminal shows it whole.
        self._live = (
            Live(Group(self._bar, self._note), console=console, transient=True) if console.is_terminal else None
        )
        self._last_line = 0.0
        self._stage, self._stage_begun, self._told = "", 0.0, ""  # the one that runs, and the last it told
        self._over = threading.Event()
        self._failure: BaseException | None = None
        self._beat = threading.Thread(target=self._break_silence, name="still-running", daemon=True)
        # Of what is counted now: its unit, when its work began and how many were done then, and at the last moment.
        self._unit, self._begun, self._first, self._done = "", 0.0, 0, 0

    def __enter__(self) -> "Display":
        if self._live is not None:
            self._live.start()
        else:
            self._beat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        else:
            self._over.set()
            self._beat.join(1.0)  # it may hang in a full pipe
            if kind is None and self._failure is not None:
                raise self._failure

    def watcher(self) -> Watcher:
        """The callbacks for a Runner."""
        return Watcher(tells=self._tells, starts=self._starts, moves=self._moves, says=self._says, ends=self._ends)

    def _tells(self, line: str) -> None:
        self._console.print(f"[bold cyan]{escape(line)}[/]")

    def _starts(self, name: str, state: State) -> None:
        self._console.print(f"[bold]{name}[/] ({state.word})")
        self._last_line = self._stage_begun = time.monotonic()
        self._stage, self._told = name, ""
        self._unit = ""
        self._bar.reset(self._task, total=None, description=name, unit="", visible=False)
        self._note.plain = ""

    def _moves(self, name: str, moment: Progress) -> None:
        now = time.monotonic()
        # As long as nothing is done, it has not begun: an engine starts.
        if moment.unit != self._unit or moment.done < self._done or moment.done == self._first:
            self._unit, self._begun, self._first = moment.unit, now, moment.done
        self._done = moment.done
        left = "" if "left" in moment.note else _left(moment, now - self._begun, self._first)
        if self._live is not None:
            unit = escape(moment.unit)
            self._bar.update(self._task, completed=moment.done, total=moment.total, visible=True, unit=unit)
            self._note.plain = f"  {moment.note}{left}"
            return
        total = f" of {moment.total:,}" if moment.total is not None else ""
        self._told = f"{moment.done:,}{total} {moment.unit}"
        if now - self._last_line >= PLAIN_INTERVAL_S:
            self._last_line = now
            note = f"  {moment.note}" if moment.note else ""
            self._print(f"  {name}: {self._told}{note}{left}")

    def _says(self, name: str, line: str) -> None:
        self._last_line = time.monotonic()
        self._print(f"  {line}")

    def _print(self, line: str) -> None:
        """A line. What stopped the other thread from printing (nobody reads any more) stops the run here."""
        if self._failure is not None:
            raise self._failure
        self._console.print(escape(line))

    def _ends(self, name: str, manifest: Manifest, ran: bool) -> None:
        self._bar.update(self._task, visible=False)
        self._note.plain = self._stage = ""
        rows = ", ".join(f"{dataset} {count:,}" for dataset, count in manifest.rows.items())
        tail = f"{manifest.seconds:.1f} s" if ran else "fresh, skipped"
        self._console.print(f"  [green]{name}[/]: {f'{rows}; ' if rows else ''}{tail}")

    def _break_silence(self) -> None:
        """Say of a stage that told nothing for long that it runs still, until all is over."""
        while not self._over.wait(min(1.0, SILENCE_S)):
            now, stage = time.monotonic(), self._stage
            if stage and now - self._last_line >= SILENCE_S:
                self._last_line = now
                minutes = (now - self._stage_begun) / 60
                try:
                    self._print(f"  {stage}: {self._told or 'running'}  (after {minutes:.0f} min)")
                except BaseException as error:  # rich ends the program where nobody reads: this thread alone
                    self._failure = error
                    return


def _left(moment: Progress, seconds: float, first: int) -> str:
    """What the rest will take at the speed since the first moment that was counted: what was resumed took no time."""
    if not moment.total or moment.done <= first:
        return ""
    left = seconds * (moment.total - moment.done) / (moment.done - first)
    return f"  about {left / 60:.0f} min left" if left >= 90 else f"  about {left:.0f} s left"
