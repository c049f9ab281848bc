"""The command line: reads what was typed, calls the rest, and prints. The only file that prints; it decides nothing."""

import errno
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from pipeline import __version__, plan, recipe, tables
from pipeline.display import Display
from pipeline.lock import Locked
from pipeline.manifest import Manifest, fingerprint
from pipeline.run import ROOT, Run, artifact
from pipeline.runner import Runner, Stale
from pipeline.stage import StageError
from pipeline.text import visible

DONE, FAILED, USAGE, STALE = 0, 1, 2, 3
INTERRUPTED = 130
AGAIN_S = 0.05  # between two looks whether an interruption that was dropped can come again
REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)  # by the disk, not for a mistake in what was typed

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Distil the reasoning of a large language model into a small one.",
    epilog="Example: seqdistill run pipeline/recipes/demo.yaml",
)
models_app = typer.Typer(no_args_is_help=True, help="Models that recipes name: list them, fetch one.")
app.add_typer(models_app, name="models")
out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

RecipeArgument = Annotated[Path, typer.Argument(help="A recipe's file, or the name of a shipped one: demo.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="A value over the recipe's: --set generate.samples=4. May be repeated."),
]
DataOption = Annotated[
    Path, typer.Option("--data", envvar="SEQDISTILL_DATA", help="Where runs and the completion store lie.")
]
RoundOption = Annotated[
    int | None,
    typer.Option(
        "--round",
        min=1,
        help="Of a recipe with rounds, which one's generate to eval; without it generate to export are the "
        "first's, eval the whole run's.",
    ),
]
StageArgument = Annotated[str, typer.Argument(help=f"One of: {', '.join(plan.ORDER)}.")]
DEFAULT_DATA = ROOT / "data"


@contextmanager
def _errors() -> Iterator[None]:
    """User errors as one message and an exit code; never a traceback for a user's mistake."""
    try:
        yield
    except recipe.RecipeError as error:
        _fail(str(error), USAGE)
    except Stale as error:
        _fail(str(error), STALE)
    except KeyboardInterrupt:
        _fail("Interrupted. What was finished is saved; the same command goes on from there.", INTERRUPTED)
    except (StageError, Locked, ValueError, OSError) as error:
        if os.environ.get("SEQDISTILL_TRACEBACK"):
            raise
        named = isinstance(error, OSError) and (error.errno in REFUSALS or error.filename)
        _fail(_refusal(error) if named else str(error) or error.__class__.__name__, FAILED)


def _refusal(error: BaseException) -> str:
    assert isinstance(error, OSError)
    if error.errno not in REFUSALS:
        return (
            f"{error.filename} cannot be used: {error.strerror}. Look at the paths that were typed (--data, "
            f"SEQDISTILL_DATA, a folder to write to) and at those in the recipe."
        )
    return (
        f"{error.filename or 'A file'} cannot be written: {error.strerror}. What was finished is kept; mend the disk "
        f"(free some space) and run again: it goes on from there."
    )


def _fail(message: str, code: int) -> NoReturn:
    err.print(f"[bold red]error:[/] {escape(message)}")
    raise typer.Exit(code)


def _load(path: Path, settings: list[str] | None, data: Path) -> Run:
    return Run(recipe.load(path, settings or ()), data=data.resolve())


def _known_stage(name: str) -> str:
    if name not in plan.ORDER:
        _fail(f"No stage {name!r}. Stages: {', '.join(plan.ORDER)}.", USAGE)
    return name


@app.command(epilog="Example: seqdistill run pipeline/recipes/demo.yaml --to verify --set generate.samples=4")
def run(
    recipe_path: RecipeArgument,
    to: Annotated[
        str, typer.Option(help="The last stage to run; the ones before it that are not fresh run first.")
    ] = "",
    only: Annotated[str, typer.Option(help="The one stage to run; what it reads must be fresh.")] = "",
    force: Annotated[
        list[str] | None,
        typer.Option(help="Run this stage although it is stale and dear, or fresh with requests that failed."),
    ] = None,
    number: RoundOption = None,
    settings: SetOption = None,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Run a recipe's stages. Fresh ones are skipped, killed ones go on, changed ones are rebuilt or ask first."""
    if to and only:
        _fail("--to and --only exclude each other.", USAGE)
    forced = [_known_stage(name) for word in force or () for name in word.replace(",", " ").split()]
    with _errors():
        with _terminable(), Display(out) as display:
            runner = Runner(_load(recipe_path, settings, data), display.watcher())
            if only:
                this = runner.run.at(_known_stage(only), number)
                Runner(runner.run.best() if this.history else this, runner.watcher).only(only, forced)
            else:
                runner.through(_known_stage(to or "report"), forced, number)
        if (only or to or "report") == "report" and number is None:
            _summary(runner.run)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does: finished work is saved.

    Python drops an interruption that falls into a callback of its own (of a weak reference, of __del__) and goes on;
    here it comes again.
    """

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def unraisable(dropped: Any) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            hook(dropped)
            return
        threading.Thread(target=again, daemon=True).start()

    def again() -> None:
        """Interrupt the main thread once it has left what dropped the interruption."""
        main = threading.main_thread().ident
        assert main is not None
        dropping = True
        while dropping:
            time.sleep(AGAIN_S)
            frames = traceback.walk_stack(sys._current_frames()[main])
            dropping = any(frame.f_code is unraisable.__code__ for frame, _ in frames)
        signal.pthread_kill(main, signal.SIGTERM)  # SIGINT may be ignored: a shell's script begins jobs with & so

    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        sys.unraisablehook = hook


def _summary(this: Run) -> None:
    manifest = this.manifest("report")
    assert manifest is not None
    folder = artifact(this.stage_folder("report"), manifest, "page")
    for part in tables.summary(json.loads((folder / "report.json").read_text(encoding="utf-8"))):
        out.print(part)
    out.print(f"Report: {escape(str(folder / 'index.html'))}")


@app.command(epilog="Example: seqdistill status pipeline/recipes/demo.yaml --json")
def status(
    recipe_path: RecipeArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
    settings: SetOption = None,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """A line per stage: absent, partial, stale or fresh; rows, seconds, fingerprint, counts by reason."""
    with _errors():
        this = _load(recipe_path, settings, data)
        found = _status(this)
    if as_json:
        out.print_json(json.dumps(found))
        return
    for line in tables.status(found):
        # A line per stage however narrow the screen is: the counts give way, which --json has whole.
        out.print(line, no_wrap=True, overflow="ellipsis")


def _status(this: Run) -> dict[str, Any]:
    """The stages with their states; where there are rounds, those of each, and the run's own beside them."""

    def rows(run: Run, names: Sequence[str]) -> dict[str, Any]:
        states = run.states()
        return {name: _status_row(states[name].word, states[name].manifest) for name in names}

    count = this.recipe.rounds.count
    if count == 1:
        return {"run": this.recipe.name, "stages": rows(this, plan.ORDER)}
    standing, closing = this.standing(), this.closing()
    own = [name for name in plan.ORDER if name not in plan.ROUND or name == "eval"]
    numbers = range(1, 1 + (len(standing.accuracies) if standing.ended else count))
    rounds = [{"round": number, "stages": rows(this.in_round(number), plan.ROUND)} for number in numbers]
    facts = {"chosen": standing.chosen, "accuracies": standing.accuracies, "why": standing.why}
    return {"run": this.recipe.name, "stages": rows(closing, own), "rounds": rounds, **facts}


def _status_row(word: str, manifest: Manifest | None) -> dict[str, Any]:
    if manifest is None:
        return {"state": word, "rows": {}, "seconds": None, "fingerprint": None, "identity": None, "counts": {}}
    return {
        "state": word,
        "rows": manifest.rows,
        "seconds": manifest.seconds,
        "fingerprint": manifest.fingerprint,
        "identity": fingerprint(manifest.identity),
        "counts": manifest.counts,
    }


@app.command(epilog="Example: seqdistill explain pipeline/recipes/demo.yaml sft --set sft.epochs=4")
def explain(
    recipe_path: RecipeArgument,
    stage: StageArgument,
    number: RoundOption = None,
    settings: SetOption = None,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Which keys make a stage stale: old and new values."""
    _known_stage(stage)
    with _errors():
        this = _load(recipe_path, settings, data).at(stage, number)
        state = this.states()[stage]
    where = f" of round {number}" if number else ""
    out.print(f"{stage}{where} is {state.word}.")
    for change in state.changes:
        old, new = (json.dumps(value, ensure_ascii=False) for value in (change.old, change.new))
        out.print(f"  {escape(change.key)}: {escape(old)} -> {escape(new)}")


@app.command(epilog="Example: seqdistill peek pipeline/recipes/demo.yaml verify --reason wrong_answer -n 5")
def peek(
    recipe_path: RecipeArgument,
    stage: StageArgument,
    count: Annotated[int, typer.Option("-n", min=1, help="How many rows.")] = 3,
    reason: Annotated[str, typer.Option(help="Only rows with this reason.")] = "",
    problem: Annotated[str, typer.Option(help="Only rows of this problem (the start of its id will do).")] = "",
    number: RoundOption = None,
    settings: SetOption = None,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Read the data: rows of a stage, with the trace each verdict is about."""
    from pipeline.peek import none_match, rows

    _known_stage(stage)
    with _errors():
        this = _load(recipe_path, settings, data).at(stage, number)
        found = rows(this, stage, count, reason, problem)
    for row in found:
        out.rule(escape(row.title), align="left")
        for key, value in row.fields.items():
            out.print(Text.assemble((key, "bold"), ": ", visible(value)))
        out.print(Text(visible(row.body)))
    if not found:
        out.print(escape(none_match(this, stage, reason)))


@app.command(
    "plan",
    epilog="Examples: seqdistill plan pipeline/recipes/demo.yaml; seqdistill plan my.yaml --pilot 0.02; "
    "seqdistill plan my.yaml --no-pilot",
)
def plan_command(
    recipe_path: RecipeArgument,
    share: Annotated[
        float, typer.Option("--pilot", min=0.0, max=1.0, help="The share of problems that the pilot asks, 32 at least.")
    ] = 0.01,
    no_pilot: Annotated[bool, typer.Option("--no-pilot", help="Ask no teacher; go by what is stored.")] = False,
    settings: SetOption = None,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Tokens, hours, disk, truncation and yield of generate, from a pilot whose completions are kept. Runs seed."""
    from pipeline import pilot
    from pipeline.estimate import estimate, missing, variants

    with _errors():
        this = _load(recipe_path, settings, data).at("generate", None)
        bill = variants(this)
        if bill is not None and bill.missing:
            raise StageError(
                f"seed.augment has the teacher write problems, far more than a pilot. {bill} Run seed first "
                f"(--to seed), or plan without variants: --set seed.augment=[]"
            )
        with _terminable(), Display(out) as display:
            runner = Runner(this, display.watcher())
            runner.execute(["seed"])
            asks = missing(this) > 0 and share > 0 and not no_pilot
            found = pilot.lines(runner.pilot("generate", share)) if asks else []
        told = estimate(this)
        lines = [*found, told[0]] if found else told  # what was measured stands for what was guessed
        lines += recipe.doubts(this.recipe)
        if this.number is not None:
            lines.append(f"All of this is of the first round of {this.recipe.rounds.count} at most.")
    for line in lines:
        out.print(escape(line))


@app.command(epilog="Example: seqdistill publish pipeline/recipes/demo.yaml ./my-dataset --language en")
def publish(
    recipe_path: RecipeArgument,
    dest: Annotated[Path, typer.Argument(help="A folder to make, or one that was published before.")],
    push: Annotated[
        str, typer.Option(help="Upload to this hub repository, owner/name, after showing what is sent.")
    ] = "",
    public: Annotated[bool, typer.Option(help="Make the repository public; it is private otherwise.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Upload without asking.")] = False,
    languages: Annotated[
        list[str] | None,
        typer.Option("--language", help="A language of the rows, for the card: --language en. May be repeated."),
    ] = None,
    settings: SetOption = None,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Copy the fresh mix of a run out as a dataset folder with card, licences, lineage and checksums."""
    from pipeline import publish as publishing

    with _errors():
        this = _load(recipe_path, settings, data).best()
        word = this.states()["mix"].word
        if word != "fresh":
            raise StageError(f"mix is {word}; only a fresh mix is published. Run it first with --to mix.")
        publishing.publish(this.stage_folder("mix").parent, dest, languages or (), this.stage_folder("seed"))
        out.print(f"Published to {escape(str(dest))}")
        if push:

            def confirm(text: str) -> bool:
                out.print(escape(text))
                return yes or typer.confirm("Upload this?")

            sent = publishing.push(dest, push, private=not public, confirm=confirm)
            out.print(f"Uploaded to {push}" if sent else "Nothing was uploaded.")


@app.command(
    epilog="Examples: seqdistill serve pipeline/recipes/demo.yaml --port 8001; seqdistill serve my.yaml --weights int8 "
    "-- --api-key secret",
)
def serve(
    recipe_path: RecipeArgument,
    more: Annotated[list[str] | None, typer.Argument(help="After --, options of vLLM's own serve.")] = None,
    weights: Annotated[str, typer.Option(help="Which export: bfloat16, int8 or int4; the recipe's first.")] = "",
    host: Annotated[str, typer.Option(help="Where it listens; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    settings: SetOption = None,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Serve the exported student: vLLM's OpenAI-compatible server, until Ctrl-C."""
    from pipeline import quantisation
    from pipeline import serve as serving

    with _errors():
        this = _load(recipe_path, settings, data)
        folder = serving.exported(this, weights or None)
        serving.check_place(host, port)
        name, student = this.recipe.name, quantisation.role_of(folder.name, this.recipe.student)
        out.print(escape(f"model {name}, from {folder}; {serving.taught(student)}"))
        words = serving.command(folder, name, student, host, port, more or ())
        with _terminable():
            code = serving.serve(words, serving.address(host, port), lambda line: out.print(escape(line)))
        if code:
            raise StageError(f"vLLM's server ended with code {code}; what it said stands above.")


@app.command(epilog="Example: seqdistill check ./my-dataset")
def check(
    folder: Annotated[Path, typer.Argument(help="A published dataset, a run in data/runs, or one of its stages.")],
) -> None:
    """Compare every file's sha256 with the manifest: finds flipped bits, missing and extra files."""
    from pipeline.check import check as checked

    with _errors():
        complaints = checked(folder)
    for complaint in complaints:
        err.print(escape(complaint))
    if complaints:
        raise typer.Exit(FAILED)
    out.print(f"{escape(str(folder))}: every file is as its manifest says.")


@models_app.command("list")
def models_list() -> None:
    """The models that data/models.yaml pins, and which are on the disk."""
    from pipeline import models

    with _errors():
        listed = models.list_models(ROOT)
    for row in listed:  # no table: a narrow one would cut names that are there to be copied
        out.print(f"[bold]{escape(row.name)}[/]  {'on disk' if row.present else 'not on disk'}")
        out.print(f"  source    {escape(row.source)}\n  identity  {escape(row.identity)}")


@models_app.command("fetch")
def models_fetch(name: Annotated[str, typer.Argument(help="A name in data/models.yaml, or a hub id.")]) -> None:
    """Fetch a model once, check it, and convert it where needed."""
    from pipeline import models

    with _errors():
        folder = models.fetch(name, ROOT, lambda line: out.print(escape(line)))
    out.print(escape(f"{name}: {folder}"))


@app.command(epilog="Example: seqdistill doctor --data /mnt/large")
def doctor(data: DataOption = DEFAULT_DATA) -> None:
    """What this machine has and lacks, with the fix."""
    from pipeline.doctor import checks

    with _errors():
        found = checks(ROOT, data)
    for item in found:
        mark = "[green]ok[/]  " if item.ok else "[red]no[/]  "
        fix = "" if item.ok or not item.fix else f"\n      fix: {escape(item.fix)}"
        out.print(f"{mark}{escape(item.name)}: {escape(item.found)}{fix}")
    if not all(item.ok for item in found):
        raise typer.Exit(FAILED)


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if show:
        out.print(f"seqdistill {__version__}")
        raise typer.Exit(DONE)


def main() -> None:
    """The entry point of the `seqdistill` command."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    app()


if __name__ == "__main__":
    main()
