"""Seed: problems from generators, files and the Hub, held-out ones first, unusable rows kept with their reasons.

It asks the teacher only where `augment` wishes for variants, and judges no answer but a generator's own gold one.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, islice
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, model_validator

from pipeline import orders, sampling, wanted
from pipeline.augment import Answers, Augmentation, augment, begin
from pipeline.canonical import Space, canonical_key, canonical_keys, draws_to_tell
from pipeline.embedding import Semantic, comparer, identity
from pipeline.orders import Order
from pipeline.records import PROBLEM, REFERENCE, REJECT, content_id
from pipeline.roles import Role, Sampling, Teacher
from pipeline.section import Section
from pipeline.shards import as_table
from pipeline.similarity.ngrams import Reference
from pipeline.sources import SOURCES, TRAIN, Candidate, ReasoningGymSource, Source, SourceError, benchmark, digests
from pipeline.sources.benchmark import Benchmarks, references
from pipeline.sources.columns import RowSource, SplitName
from pipeline.sources.reasoning_gym import version
from pipeline.sources.selection import Found, Selection, Survivor
from pipeline.stage import Bill, Failures, Inputs, Output, Progress, Roles, Stage, StageError
from pipeline.store import Store
from pipeline.templates import worked_examples
from pipeline.verifiers import UNVERIFIABLE, lacking
from pipeline.verifiers.pool import PoolError

SEED_GAP = 1_000_000_000  # between the first seeds of blocks; a block's draws stay below it
SPACE_FACTOR = 10  # a task's canonical space holds at least so many times the problems asked of it
SPACE_COVERED = 0.9  # the share of repeats among further draws at which a space is known well enough
SPACE_DRAWS = 32  # times the problems asked: no more items are drawn to measure a space
# Where a task's space is estimated from. Nothing depends on its distance to other seeds.
PROBE_SEED = 1_500_000_000
PROGRESS_EVERY = 256
ERROR_SHARE_LIMIT = 0.05  # more of a round's answers that failed than this fail the stage


class HeldOut(Section):
    """A block of problems that nothing is trained on, drawn from every generator of `sources`."""

    seed: int = Field(ge=0)  # at least 10^9 away from every other seed
    count_per_task: int = Field(ge=1, le=100_000_000)


class Config(Section):
    """Where problems come from, and which are held out."""

    later: ClassVar[frozenset[str]] = frozenset({"augment", "near_duplicate_survivor", "benchmarks", "semantic"})

    sources: list[Source] = Field(min_length=1)
    held_out: dict[SplitName, HeldOut] = Field(
        default={}
    )  # block -> its seed and size; files and hub sets name theirs in `split`
    overlap_words: int = Field(default=8, ge=2)  # n of the n-grams that find held-out problems in others
    template_share: float = Field(
        default=0.01, gt=0, le=1
    )  # an n-gram in more of a task's held-out items is template text
    near_duplicate_jaccard: float = Field(
        default=0.8, gt=0, le=1
    )  # of word shingles, numbers equal; files, hub sets and variants only
    # Which of near-duplicates stays; first_source: of the source that the recipe names first, then by id.
    near_duplicate_survivor: Survivor = "smallest_id"
    # Also problems that ask the same in other words with the same numbers in order, by a model's vectors; null: none.
    semantic: Semantic | None = None
    # Files and Hub sets of questions that no problem may repeat; `decontaminate` looks for them in traces as well.
    benchmarks: Benchmarks = ()
    # Variants of training problems that the teacher writes; without any it is not asked.
    augment: tuple[Augmentation, ...] = ()

    @model_validator(mode="after")
    def _blocks_are_apart(self) -> "Config":
        if TRAIN in self.held_out:
            raise ValueError(f"held_out has a block named {TRAIN!r}; that is what is trained on: name it otherwise")
        generators = [source for source in self.sources if isinstance(source, ReasoningGymSource)]
        for one, other in combinations(generators, 2):
            if (one.task, one.config) == (other.task, other.config):
                raise ValueError(
                    f"two sources draw {one.task!r} with one config, seeds {one.seed} and {other.seed}; make them one "
                    f"source with count {one.count + other.count}"
                )
        blocks = [(f"held_out.{name}", block.seed) for name, block in self.held_out.items()]
        training = [(f"source {source.task}", source.seed) for source in generators]
        pairs = [*combinations(blocks, 2), *((block, source) for block in blocks for source in training)]
        for (name, seed), (other_name, other_seed) in pairs if generators else []:
            if abs(seed - other_seed) < SEED_GAP:
                raise ValueError(
                    f"{name} (seed {seed}) and {other_name} (seed {other_seed}) are {abs(seed - other_seed)} apart; "
                    f"item i is made from seed + i, so keep seeds at least {SEED_GAP} apart"
                )
        return self


def source_digests(config: Config, root: Path) -> dict[str, str]:
    """What the config only names: digests of files and of folders, and the version that generators draw with."""
    found = digests({f"sources.{origin}": source for origin, source in enumerate(config.sources)}, root)
    if any(generators(config)):
        found["reasoning-gym"] = version()
    found |= {f"benchmarks.{name}": digest for name, digest in benchmark.digests_of(config.benchmarks, root).items()}
    return found | identity(config.semantic, root)


def check_space(source: ReasoningGymSource, asked: int, root: Path) -> float:
    """The estimated number of canonical problems of a generator. Raises StageError where it is under ten times asked.

    Faulty items do not count. Draws are doubled until the estimate (`canonical.Space`, a lower bound) suffices, or
    nearly every further draw would meet a problem seen already.
    """
    items = SOURCES[source.kind].candidates(source.model_copy(update={"seed": PROBE_SEED}), root)
    space, least = Space(), SPACE_FACTOR * asked
    drawn, more = 0, draws_to_tell(least)
    while space.estimate < least and space.covered < SPACE_COVERED and drawn < SPACE_DRAWS * asked:
        batch = list(islice(items, more))
        space.add(canonical_key(item.task, item.text, item.metadata) for item in batch if item.fault is None)
        drawn += more
        more = drawn
        if space.drawn == 0:
            raise StageError(
                f"task {source.task!r}: none of {drawn} items can be used; the first fails with {batch[0].fault} "
                f"({batch[0].detail or batch[0].text[:120]!r}). Change its config or leave the task out"
            )
    if space.estimate < least:
        raise StageError(
            f"task {source.task!r} has about {space.estimate:.0f} different problems with config {source.config} "
            f"(Chao's estimate from {space.drawn} usable items of {drawn}), and {asked} are asked of it, held-out ones "
            f"included: training would meet too many of the held-out ones again. Expected at least {SPACE_FACTOR} "
            f"times as many, {least}: widen its config, or ask for at most {space.estimate / SPACE_FACTOR:.0f}"
        )
    return space.estimate


def problem(candidate: Candidate) -> dict[str, Any]:
    """The PROBLEM row of an accepted candidate."""
    return {name: getattr(candidate, name) for name in PROBLEM.names}


def reference_row(item: Reference) -> dict[str, Any]:
    """The REFERENCE row of a benchmark's question."""
    row_id = content_id("reference", item.set_name, item.item_id)
    return {"id": row_id, "benchmark": item.set_name, "item": item.item_id, "text": item.text}


def prompts(config: Config, roles: Mapping[str, Role]) -> tuple[str, ...]:
    """The templates whose worked examples must not be asked, and those that the teacher is asked with."""
    return tuple(dict.fromkeys([*showing(roles), *(asking(config, roles["teacher"]) if config.augment else ())]))


def showing(roles: Mapping[str, Role]) -> list[str]:
    """The templates whose worked examples must not be asked: those of all teachers and of the student."""
    asked = [role for name, role in roles.items() if name == "student" or isinstance(role, Teacher)]
    return [name for role in asked for name in (role.prompt, *role.task_prompts.values())]


def asking(config: Config, teacher: Role) -> list[str]:
    """The templates that the teacher writes variants with, and solves them."""
    return [*(name for wish in config.augment for name in wish.prompts), *orders.prompt_names(teacher)]


def roles(config: Config) -> Roles:
    """What a change of makes other problems; of the teacher much more where it writes some."""
    asked = ("prompt", "task_prompts")
    # Of further teachers it knows the templates, whose content is identity: one that brings none changes nothing.
    return {"teachers": (), "teacher": (*asked, *WRITER_WORDS) if config.augment else asked, "student": asked}


def weights(config: Config) -> tuple[str, ...]:
    """The teacher's, where it writes variants."""
    return ("teacher",) if config.augment else ()


def shown(inputs: Inputs) -> dict[str, str]:
    """The canonical keys of the exercises that prompts show with their answers, each with its prompt's name."""
    texts = {name: inputs.prompt(name) for name in showing({**inputs.teachers, "student": inputs.student})}
    # No task is named: an example is read by every reader, since its template may serve several tasks.
    return {
        key: name
        for name, text in texts.items()
        for question, reply in worked_examples(text)
        for key in canonical_keys("", question, answer=reply)
    }


def generators(config: Config) -> list[tuple[int, ReasoningGymSource]]:
    """The sources that draw their problems, each with its place in the recipe."""
    return [(origin, source) for origin, source in enumerate(config.sources) if isinstance(source, ReasoningGymSource)]


def held_per_task(config: Config) -> int:
    """The problems that all held-out blocks together draw of a generator."""
    return sum(block.count_per_task for block in config.held_out.values())


def collect(
    config: Config, inputs: Inputs, progress: Callable[[Progress], None], say: Callable[[str], None]
) -> tuple[Selection, dict[int, int]]:
    """What the sources hold, decided: held-out blocks first, then training rows, then training draws.

    Returns how many items each generator drew for training, too, by its place in the recipe.
    """
    root = inputs.root
    blocks = {TRAIN, *config.held_out, *(source.split for source in config.sources if isinstance(source, RowSource))}
    selection = Selection(
        config.overlap_words,
        config.template_share,
        config.near_duplicate_jaccard,
        shown(inputs),
        config.near_duplicate_survivor,
        references(config.benchmarks, root, blocks),
        comparer(config.semantic, root, say),
    )
    rows = read_rows(config, root, selection)
    total = len(rows) + sum(source.count + held_per_task(config) for _, source in generators(config))

    def drawn(source: ReasoningGymSource) -> Iterator[Candidate]:
        for place, item in enumerate(SOURCES[source.kind].candidates(source, root)):
            if place % PROGRESS_EVERY == 0:
                progress(Progress(len(selection.accepted), total, "problems", source.task))
            yield item

    selection.hold_out_rows(found for found in rows if found[1].split != TRAIN)
    # In the order of seeds: the order of names in a recipe is not part of what is asked.
    for name, block in sorted(config.held_out.items(), key=lambda item: item[1].seed):
        for origin, source in generators(config):
            items = drawn(source.model_copy(update={"seed": block.seed}))
            selection.hold_out_draws(origin, items, name, block.count_per_task)
    selection.train_on_rows(found for found in rows if found[1].split == TRAIN)
    draws = {
        origin: selection.train_on_draws(origin, drawn(source), source.count) for origin, source in generators(config)
    }
    return selection, draws


def read_rows(config: Config, root: Path, selection: Selection) -> list[Found]:
    """The rows of files and hub sets; the faulty ones go to the rejects."""
    rows: list[Found] = []
    for origin, source in enumerate(config.sources):
        if isinstance(source, ReasoningGymSource):
            continue
        for row in SOURCES[source.kind].candidates(source, root):
            if row.fault is None:
                rows.append((origin, row))
            else:
                selection.reject(origin, row, row.fault, row.detail)
    return rows


def base_order(config: Config, inputs: Inputs, renders: bool = True) -> Order:
    """What the teacher is asked with. Without `renders` no tokenizer is read, and ids are not those of any answer."""
    teacher = inputs.teacher
    texts = {name: inputs.prompt(name) for name in asking(config, teacher)}
    return Order(
        role=teacher,
        weights=inputs.weights("teacher"),
        problems=list,
        texts=texts,
        tokenizer=orders.open_tokenizer(teacher, lambda: inputs.model("teacher"), texts) if renders else None,
        sampling=Sampling(),
        samples=1,
        max_tokens=1,
    )


def bill(config: Config, inputs: Inputs, output: Output) -> Bill:
    """What a run with these values would reuse, buy (at most) and no longer use of the teacher's variants.

    Nobody is asked and no engine is started. Of a teacher that has answered nothing yet not even the tokenizer is
    needed: nothing of it can be reused.
    """
    if not config.augment:
        return Bill(wanted=0, reused=0, missing=0, dropped=0, tokens=0)
    selection, _ = collect(config, inputs, lambda moment: None, lambda line: None)
    store = Store(inputs.store, inputs.weights("teacher"))
    base = base_order(config, inputs, renders=len(store) > 0)

    def look(made: Sequence[Order], what: str) -> list[Answers]:
        return [defaultdict(list, answers(order, store)) for order in made]

    begun = begin(config.augment, base, selection, look)
    following = [wish.following for wish in config.augment]
    asked: set[str] = set()
    missing = later = 0
    for order, more in [*zip(begun.first, following, strict=True), *((order, 0) for order in begun.second.values())]:
        for ask in orders.asks(order):
            if ask.id in asked:
                continue
            asked.add(ask.id)
            if orders.missing(order, ask, store) is not None:
                missing += 1
                later += more
    mean = store.mean_tokens() if missing else 0.0
    return Bill(
        wanted=len(asked) + later,
        reused=len(asked) - missing,
        missing=missing + later,
        dropped=len(set(wanted.paid(output.folder / wanted.FOLDER, inputs.store)) - asked),
        tokens=None if mean is None else round((missing + later) * mean),
    )


def add_variants(config: Config, inputs: Inputs, output: Output, selection: Selection) -> None:
    """Have the teacher write variants of the selection's training problems; those that stand join it."""
    base = base_order(config, inputs)
    asked: dict[str, Order] = {}

    def ask(made: Sequence[Order], what: str) -> list[Answers]:
        asked.update({f"{what}-{place}": order for place, order in enumerate(made)})
        wanted.note(output.folder / wanted.FOLDER, asked)
        return ask_teacher(inputs, output, made, what)

    try:
        outcomes = augment(config.augment, base, inputs.teacher.thinking, selection, ask)
    except PoolError as error:
        raise StageError(str(error)) from error
    output.facts["augment"] = []
    for outcome in outcomes:
        unverifiable = sum(row.verifier == UNVERIFIABLE for row in outcome.problems)
        fact = {"kind": outcome.kind, "parents": outcome.parents, "asked": outcome.asked}
        output.facts["augment"].append({**fact, "accepted": len(outcome.problems), "unverifiable": unverifiable})
        output.say(
            f"{outcome.kind}: {len(outcome.problems)} of {outcome.asked} variants of {outcome.parents} problems became "
            f"problems, {unverifiable} of them unverifiable; rejects hold the others with their reasons"
        )


def ask_teacher(inputs: Inputs, output: Output, made: Sequence[Order], what: str) -> list[Answers]:
    """The answers to each order; those that the store lacks are asked for, and are in it as soon as they are there."""
    store, figures, _ = sampling.buy(
        made,
        inputs.store,
        lambda: orders.engine_files(inputs.teacher, lambda: inputs.model("teacher")),
        output.work / "engine.log",
        lambda done, total, note: output.progress(Progress(done, total, what, note)),
        ERROR_SHARE_LIMIT,
    )
    output.facts.setdefault("generation", {})[what] = figures.facts()
    return [answers(order, store) for order in made]


def answers(order: Order, store: Store) -> Answers:
    """What the store holds for an order, by problem; of each sample only what is read here."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in orders.completions(order, store):
        kept = {name: row[name] for name in ("sample", "raw", "finish", "cause")}
        found.setdefault(row["problem_id"], []).append(kept)
    return found


def report(
    config: Config, selection: Selection, draws: dict[int, int], spaces: dict[int, float], output: Output
) -> None:
    """Counts by reason, and for each source what was asked of it and what came."""
    output.counts.update(row["reason"] for row in selection.rejected)
    splits: dict[int, Counter[str]] = {}
    for origin, row in selection.accepted.values():
        if row.parent_id is None:
            splits.setdefault(origin, Counter())[row.split] += 1
    output.facts["sources"] = []
    for origin, source in enumerate(config.sources):
        accepted = splits.get(origin, Counter())
        fact: dict[str, Any] = {"source": origin, "kind": source.kind, "accepted": dict(sorted(accepted.items()))}
        if isinstance(source, ReasoningGymSource):
            fact |= {"task": source.task, "asked": source.count, "drawn": draws[origin]}
            fact["estimated_space"] = round(spaces[origin])
            if accepted[TRAIN] < source.count:
                output.say(
                    f"task {source.task}: {accepted[TRAIN]} of {source.count} training problems asked for, from "
                    f"{draws[origin]} items; rejects hold the others with their reasons"
                )
        else:
            fact |= {"name": source.label}
        output.facts["sources"].append(fact)


def run(config: Config, inputs: Inputs, output: Output) -> None:
    """Collect problems from every source; see the functions above for what is refused and why."""
    held = held_per_task(config)
    try:
        spaces = {
            origin: check_space(source, source.count + held, inputs.root) for origin, source in generators(config)
        }
        selection, draws = collect(config, inputs, output.progress, output.say)
    except SourceError as error:
        raise StageError(str(error)) from error
    if config.augment:
        add_variants(config, inputs, output, selection)
    report(config, selection, draws, spaces, output)
    if not selection.accepted:
        first = selection.rejected[0]
        raise StageError(
            f"no problem is left of {len(selection.rejected)} rows: {dict(sorted(output.counts.items()))}. The first: "
            f"{first['reason']} ({first['source']}, {first['detail']}): {first['text'][:120]!r}. Mend the sources"
        )
    output.write("problems", as_table([problem(row) for _, row in selection.accepted.values()], PROBLEM))
    output.write("rejects", as_table(selection.rejected, REJECT))
    output.write("references", as_table([reference_row(item) for item in selection.outside], REFERENCE))
    output.facts["reference_items"] = dict(sorted(Counter(item.set_name for item in selection.outside).items()))
    if why := lacking(row.verifier for _, row in selection.accepted.values()):
        output.say(f"Some of these problems cannot be judged on this machine, and verify will refuse them: {why}")


WRITER_WORDS = (
    "engine",
    "system",
    "chat_template",
    "dtype",
    "quantization",
    "max_model_len",
    "thinking",
    "thinking_budget",
)

STAGE = Stage(
    name="seed",
    version=7,
    config=Config,
    run=run,
    reads={},
    writes={"problems": PROBLEM, "rejects": REJECT, "references": REFERENCE},
    roles=roles,
    weights=weights,
    prompts=prompts,
    contents=source_digests,
    on_stale="ask",
    bill=bill,
    failures=lambda manifest: Failures.among(manifest.facts.get("generation", {}).values()),
)
