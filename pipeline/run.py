"""A run on the disk: where its stages, the store and the models lie, and what a stage's identity is there.

It compares and reads; it executes no stage (`runner.py`).
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pyarrow as pa

from pipeline import models, plan
from pipeline.manifest import Change, Identity, Intent, Manifest, explain, read_intent, read_manifest
from pipeline.recipe import Recipe
from pipeline.records import content_id
from pipeline.roles import Judge, Peer, Student, Teacher
from pipeline.rounds import LAST_STUDENT, Standing, standing
from pipeline.section import declared
from pipeline.shards import read_shard
from pipeline.stage import Reads, Stage, StageError

ROOT = Path(__file__).resolve().parent.parent
Word = Literal["absent", "partial", "stale", "fresh"]


@dataclass(frozen=True)
class State:
    """What is known of a stage: its word, what changed (old against new), its manifest and its last intent."""

    word: Word
    changes: list[Change]
    manifest: Manifest | None
    intent: Intent | None


@dataclass
class Run:
    """A recipe in a data folder: the whole of it, or, where it has rounds, as one of them sees it (`in_round`)."""

    recipe: Recipe
    data: Path = ROOT / "data"
    root: Path = ROOT
    number: int | None = None  # of the round; None: all of the recipe
    before: "Run | None" = None  # the round before, whose student teaches in this one
    history: "tuple[Run, ...]" = ()  # of the run that closes rounds: those it chose from
    _prompts: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def folder(self) -> Path:
        return self.data / "runs" / self.recipe.name

    @property
    def store(self) -> Path:
        return self.data / "store"

    def stage_folder(self, name: str) -> Path:
        """Where a stage lies. A round has its own folder but for seed, which all share; the run's own eval (of the
        chosen round's student) and report lie beside the rounds.
        """
        alone, inside = self.folder / name, self.folder / f"round-{self.number or 1}" / name
        if name not in plan.ROUND or (name == "eval" and (self.number is None or self.history)):
            return alone
        if name == "eval" or self.number not in (None, 1):
            return inside
        # The first round is what a run without rounds is: whatever their number becomes, it stays where it was made,
        # and what of it is still to be made comes there too.
        wanted, other = (alone, inside) if self.number is None else (inside, alone)
        begun, elsewhere = (
            any((place.parent / one).exists() for one in plan.ROUND if one != "eval") for place in (wanted, other)
        )
        return other if (elsewhere and not begun) or (other.exists() and not wanted.exists()) else wanted

    def in_round(self, number: int) -> "Run":
        """The round of that number, from 1 on. Its eval asks the block that decides between rounds."""
        return self._round(number, ())

    def _round(self, number: int, history: "tuple[Run, ...]") -> "Run":
        assert self.number is None, "a round is of the whole run"
        before = self.in_round(number - 1) if number > 1 else None
        checkpoint = before.stage_folder("sft") / "checkpoint" if before else None
        recipe = self.recipe.in_round(checkpoint, deciding=not history)
        return replace(self, recipe=recipe, number=number, before=before, history=history)

    def standing(self) -> Standing:
        """What the rounds that are fresh, from the first one on, came to."""
        scored: list[Manifest] = []
        for number in range(1, self.recipe.rounds.count + 1):
            this = self.in_round(number)
            state = this.states()["eval"]
            if state.word != "fresh" or state.manifest is None:
                break
            scored.append(state.manifest)
        return self.standing_by(scored)

    def standing_by(self, scored: Sequence[Manifest]) -> Standing:
        """Where rounds stand by the manifests of their evals."""
        accuracies = [float(manifest.facts["models"]["student"]["pass_at_1"]) for manifest in scored]
        return standing(self.recipe.rounds, accuracies)

    def closing(self) -> "Run":
        """The run as the chosen round leaves it, whose student its own eval asks; itself where there are no rounds."""
        if self.recipe.rounds.count == 1:
            return self
        found = self.standing()
        scored = range(1, max(len(found.accuracies), 1) + 1)
        return self._round(found.chosen, tuple(self.in_round(number) for number in scored))

    def best(self) -> "Run":
        """As `closing`, once it is known which round is the best. Raises StageError before."""
        if self.recipe.rounds.count > 1 and not (found := self.standing()).ended:
            raise StageError(
                f"{found.why} as the recipe is now, so that which student is the best is not known. Run the recipe "
                f"first with --to eval, or have fewer rounds: --set rounds.count={max(len(found.accuracies), 1)}."
            )
        return self.closing()

    def at(self, name: str, number: int | None) -> "Run":
        """The round where a stage is meant. Without a number: the run's own, of those that each round has the first.

        Raises StageError for a round that the recipe does not have, and for a stage that no round has.
        """
        count = self.recipe.rounds.count
        if number is None:
            own = name not in plan.ROUND or name == "eval"
            return self.closing() if own or count == 1 else self.in_round(1)
        if number > count or count == 1:
            raise StageError(
                f"found --round {number}, and the recipe has rounds: {count}. Raise rounds, or leave it out."
            )
        if name not in plan.ROUND:
            raise StageError(f"{name} is of the whole run, not of a round. Leave --round out.")
        return self.in_round(number)

    @property
    def label(self) -> str:
        """The run, and the round where it is one, for people."""
        return self.recipe.name + (f", round {self.number}" if self.number is not None and not self.history else "")

    def manifest(self, name: str) -> Manifest | None:
        return read_manifest(self.stage_folder(name))

    def prompt(self, name: str) -> str:
        """The text of a template in prompts/. Raises StageError for a name that has no file."""
        if name not in self._prompts:
            ending = ".jinja" if name.startswith("chat/") else ".txt"
            folder = self.root / "prompts"
            path = folder / f"{name}{ending}"
            if not path.is_file() or folder.resolve() not in path.resolve().parents:
                known = sorted(str(file.relative_to(folder).with_suffix("")) for file in folder.rglob(f"*{ending}"))
                raise StageError(f"No prompt template {path}. Known: {', '.join(known)}. Add the file or name another.")
            try:
                self._prompts[name] = path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise StageError(f"{path} is not UTF-8 text: {error}. Save it as UTF-8.") from error
        return self._prompts[name]

    def identity(self, stage: Stage) -> Identity:
        """What decides the stage's output now. An input whose stage has no manifest yet is left empty."""
        config = self.recipe.sections[stage.name]
        roles, named = self.recipe.roles, self.recipe.named
        return Identity(
            version=stage.version,
            config=declared(config),
            roles={n: self._role_keys(n, keys) for role, keys in stage.roles_of(config).items() for n in named(role)},
            prompts={name: _digest(self.prompt(name)) for name in stage.prompts(config, roles)},
            models={n: self._weights_of(stage, n) for role in stage.weights_of(config) for n in named(role)},
            contents=stage.contents(config, self.root),
            inputs={name: self._input_identity(read) for name, read in self.reads(stage).items()}
            | ({"rounds": self._rounds_identity()} if stage.shows_rounds and self.history else {}),
        )

    def reads(self, stage: Stage) -> dict[str, Reads]:
        """What a stage reads in this run: what its config calls for, of what the other stage's config gives."""
        config = self.recipe.sections[stage.name]
        return {
            name: read
            for name, read in stage.reads.items()
            if read.when(config) and read.given(self.recipe.sections[read.stage])
        }

    def upstream(self, name: str) -> list[str]:
        """The stages whose output a stage reads in this run, in order."""
        stages = {read.stage for read in self.reads(plan.stage(name)).values()}
        return [other for other in plan.ORDER if other in stages]

    def _rounds_identity(self) -> dict[str, str]:
        found = {f"round-{one.number}": one.manifest("eval") for one in self.history}
        return {name: content_id(one.model_dump(mode="json")) if one else "" for name, one in found.items()}

    def _role_keys(self, name: str, keys: Sequence[str]) -> dict[str, object]:
        role, teachers = self.recipe.roles[name], self.recipe.named("teachers")
        values = declared(role) | {"label": role.label, "place": teachers.index(name) if name in teachers else None}
        return {key: values[key] for key in keys if role.hashed(key)}

    def _input_identity(self, read: Reads) -> dict[str, str]:
        manifest = self.manifest(read.stage)
        if manifest is None:
            return {}
        if read.artifact:
            artifact = manifest.artifacts.get(read.artifact)
            return {read.artifact: artifact.fingerprint if artifact else ""}
        if read.facts:
            return {"manifest": content_id(manifest.model_dump(mode="json"))}
        if not read.dataset:
            return {"manifest": manifest.fingerprint}
        known = manifest.datasets[read.dataset].columns if read.dataset in manifest.datasets else {}
        later = {column: known[column] for column in read.later if column in known}
        return {column: known.get(column, "") for column in read.columns} | later

    def weights(self, name: str) -> str:
        """The identity of a model's weights. The last student's is its checkpoint's, empty while there is none."""
        if name == LAST_STUDENT:
            manifest = None if self.before is None else self.before.manifest("sft")
            return "" if manifest is None else manifest.artifacts["checkpoint"].fingerprint
        return models.resolve(self.recipe.roles[name], self.root).identity

    def _weights_of(self, stage: Stage, name: str) -> str:
        """As `weights`; of a model whose files were deleted since the stage ran it, those that it ran, where the recipe
        declares it as it did then. What still wants to run it is refused.
        """
        try:
            return self.weights(name)
        except models.ModelError:
            ran = self.manifest(stage.name)
            if ran is None or name not in ran.identity.models:
                raise
            before, now = (
                {**each, **each.get("more_teachers", {})}.get(name, {})
                for each in (json.loads(ran.recipe), self.recipe.resolved())
            )
            if any(before.get(key) != now.get(key) for key in ("model", "engine", "layers", "think_tokens")):
                raise
            return ran.identity.models[name]

    def state(self, name: str) -> State:
        """The stage's word by itself. Fresh means: its manifest declares what would be declared now."""
        stage, folder = plan.stage(name), self.stage_folder(name)
        manifest, intent = read_manifest(folder), read_intent(folder)
        if manifest is None and intent is None:
            return State("absent", [], None, None)
        identity = self.identity(stage)
        if manifest is None:
            assert intent is not None
            return State("partial", explain(intent.identity, identity), None, intent)
        changes = explain(manifest.identity, identity)
        if changes and intent is not None and intent.identity == identity:
            return State("partial", [], manifest, intent)
        return State("stale" if changes else "fresh", changes, manifest, intent)

    def states(self, to: str = plan.ORDER[-1]) -> dict[str, State]:
        """The stages' states in order, up to one of them. A stage that reads from one that is not fresh is not fresh
        either.
        """
        states: dict[str, State] = {}
        for name in plan.ORDER[: plan.ORDER.index(to) + 1]:
            state = self.state(name)
            waits = self.waits(name, states)
            if state.word == "fresh" and waits:
                changes = [Change(key=f"inputs.{other}", old="fresh", new=word) for other, word in waits.items()]
                state = State("stale", changes, state.manifest, state.intent)
            states[name] = state
        return states

    def waits(self, name: str, states: Mapping[str, State]) -> dict[str, str]:
        """What a stage reads that is not fresh, each with its word; `states` are those of the stages before it.

        The first stage of a round waits for the student of the round before.
        """
        found: dict[str, str] = {other: states[other].word for other in self.upstream(name)}
        if name == plan.ROUND[0] and self.before is not None:
            found[f"round-{self.before.number}/sft"] = self.before.states()["sft"].word
        return {other: word for other, word in found.items() if word != "fresh"}


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class RunInputs:
    """The Inputs of one stage of a run (see `stage.Inputs`): what it did not declare, it does not get."""

    def __init__(self, run: Run, stage: Stage, say: Callable[[str], None]) -> None:
        self._run, self._stage, self._say = run, stage, say
        config = run.recipe.sections[stage.name]
        self._prompts = set(stage.prompts(config, run.recipe.roles))
        self._roles, self._weights = stage.roles_of(config), stage.weights_of(config)

    def _declare(self, role: str) -> None:
        if role not in self._roles:
            raise LookupError(f"stage {self._stage.name} does not declare the role {role}")

    @property
    def teacher(self) -> Teacher:
        self._declare("teacher")
        return self._run.recipe.teacher

    @property
    def teachers(self) -> Mapping[str, Teacher]:
        self._declare("teachers")
        return self._run.recipe.teachers

    @property
    def student(self) -> Student:
        self._declare("student")
        return self._run.recipe.student

    @property
    def judge(self) -> Judge | None:
        self._declare("judge")
        return self._run.recipe.judge

    @property
    def peer(self) -> Peer | None:
        self._declare("peer")
        return self._run.recipe.peer

    @property
    def store(self) -> Path:
        return self._run.store

    @property
    def root(self) -> Path:
        return self._run.root

    def table(self, name: str) -> pa.Table:
        return pa.concat_tables(self._tables(name))

    def batches(self, name: str, rows: int = 8192) -> Iterator[pa.Table]:
        for table in self._tables(name):
            for start in range(0, table.num_rows, rows):
                yield table.slice(start, rows)

    def _tables(self, name: str) -> Iterator[pa.Table]:
        read = self._stage.reads[name]
        for shard in self.manifest(name).datasets[read.dataset].shards:
            columns = [*read.columns, *(column for column in (*read.later, *read.told) if column in shard.columns)]
            yield read_shard(self._run.stage_folder(read.stage), shard, columns)

    def folder(self, name: str) -> Path:
        read = self._stage.reads[name]
        return artifact(self._run.stage_folder(read.stage), self.manifest(name), read.artifact)

    def manifest(self, name: str) -> Manifest:
        read = self._stage.reads[name]
        manifest = self._run.manifest(read.stage)
        if manifest is None:
            raise StageError(f"Stage {self._stage.name} reads {read.stage}, which has not finished. Run it first.")
        return manifest

    def has(self, name: str) -> bool:
        return name in self._run.reads(self._stage)

    def prompt(self, name: str) -> str:
        if name not in self._prompts:
            raise LookupError(f"stage {self._stage.name} does not declare the prompt {name}")
        return self._run.prompt(name)

    def weights(self, name: str) -> str:
        if not any(name in self._run.recipe.named(role) for role in self._weights):
            raise LookupError(f"stage {self._stage.name} does not declare the weights of {name}")
        return self._run.weights(name)

    def rounds(self) -> tuple[Standing, list[Manifest]] | None:
        if not self._stage.shows_rounds:
            raise LookupError(f"stage {self._stage.name} does not declare that it shows rounds")
        manifests = [found for one in self._run.history if (found := one.manifest("eval")) is not None]
        return (self._run.standing_by(manifests), manifests) if manifests else None

    def model(self, name: str) -> Path:
        self.weights(name)
        if name == LAST_STUDENT:
            before = self._run.before
            manifest = None if before is None else before.manifest("sft")
            if before is None or manifest is None:
                raise StageError(f"Round {self._run.number} asks the student of the round before. Run that one first.")
            return artifact(before.stage_folder("sft"), manifest, "checkpoint")
        return models.fetch(self._run.recipe.roles[name], self._run.root, self._say)


def artifact(folder: Path, manifest: Manifest, name: str) -> Path:
    """The folder of a stage's artifact, its files checked by size."""
    for file in manifest.artifacts[name].files:
        path = folder / file.path
        if not path.exists() or path.stat().st_size != file.bytes:
            raise StageError(
                f"{path} is missing or has another size than the manifest says ({file.bytes} bytes). Restore it, or "
                f"delete {folder} and run stage {manifest.stage} again."
            )
    return folder / name
