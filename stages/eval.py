"""eval: teacher, untouched and distilled student answer the same held-out questions, judged by the same verifiers.

Where the recipe exports weights of fewer bits, the student answers with each of them too.

It trains nothing and judges nothing itself: what counts as right, and the intervals, are in `pipeline/scoring.py`.
Completions go through the store, so that a killed eval goes on, and the teacher's and the untouched student's answers
serve every later student.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pipeline import orders, quantisation, sampling, scoring
from pipeline.ballots import Ballot, alike
from pipeline.opinions import JUDGE, JudgeModel, Panel
from pipeline.orders import Order
from pipeline.records import SCORE, content_id
from pipeline.roles import LOCAL, WORDS, Role, Sampling
from pipeline.sampling import Figures, in_one_go
from pipeline.section import Section
from pipeline.shards import as_table
from pipeline.stage import Failures, Inputs, Output, Progress, Reads, Stage, StageError
from pipeline.think import has_tags, writes_tags
from pipeline.verifiers import label, lacking, version
from pipeline.verifiers.judging import Answered, judge_rows
from pipeline.verifiers.pool import Pool, processors

ROWS = 1024  # answers held in memory while they are judged
NOTICEABLE_SHARE = 0.02  # of undecided answers; from here on a person is told
AS_TEACHER = "as_teacher"  # a base prompt: the untouched student is asked just as the teacher is
Row = Mapping[str, Any]


class EvalExec(Section):
    """How fast it runs."""

    workers: int | None = Field(None, ge=1)  # processes that judge; null: one for each processor


class Config(Section):
    """What is asked, how often, and what bounds an answer."""

    split: str = "eval"  # the held-out block of problems
    samples: int = Field(1, ge=1)  # answers to each question by each model
    sampling: Sampling = Sampling()  # the same for all models
    max_tokens: int = Field(1024, ge=1)  # of one answer; raising it asks only for the cut-off ones again
    # More templates for the untouched student, beside the student's own; "as_teacher" stands for the teacher's prompts
    # with their worked examples. The best of them counts.
    base_prompts: tuple[str, ...] = ()
    # For the student before and after; null: the engine that its role names.
    student_engine: Literal["vllm", "hf"] | None = None
    error_share_limit: float = Field(0.05, ge=0, le=1)  # more failed completions of a model than this fail the stage
    timeout_s: float = Field(10.0, gt=0)  # wall-clock time of judging one answer
    memory_mib: int = Field(1024, ge=64)  # memory that judging one answer may add to its process
    exec: EvalExec = EvalExec()


@dataclass(frozen=True)
class Subject:
    """One model with one prompt, to be examined."""

    model: str  # teacher, base, student, or an export of it: student_int8, student_int4
    prompt_name: str
    role: Role
    weights: str
    thinking: bool | None  # its answer stands after its reasoning's closing tag; None: where it wrote one
    files: Callable[[], Path | None]  # what its engine reads

    @property
    def label(self) -> str:
        return f"{self.model} with prompt {self.prompt_name}"


def subjects(config: Config, inputs: Inputs) -> list[Subject]:
    """Who is examined: the teacher, the untouched student with each of its prompts, the distilled student."""
    teacher, student = inputs.teacher, examined(config, inputs.student)
    base = inputs.weights("student")
    distilled = inputs.manifest("checkpoint").artifacts["checkpoint"].fingerprint
    mixed = inputs.manifest("mix").identity
    teachers = [bool(role["thinking"]) for role in mixed.roles.values() if "thinking" in role]
    thinks = writes_tags(mixed.config["trace_format"], teachers)
    return [
        Subject(
            "teacher",
            teacher.prompt,
            teacher,
            inputs.weights("teacher"),
            teacher.thinking,
            lambda: orders.engine_files(teacher, lambda: inputs.model("teacher")),
        ),
        *(
            Subject("base", name, role, base, False, lambda: inputs.model("student"))
            for name, role in base_roles(config, student, teacher).items()
        ),
        Subject("student", student.prompt, student, distilled, thinks, lambda: inputs.folder("checkpoint")),
        *(exported(inputs, form, student, thinks) for form in formats(inputs)),
    ]


def examined(config: Config, student: Role) -> Role:
    """The student as it is asked. Raises StageError for an engine that runs no checkpoint."""
    if config.student_engine is not None:
        student = student.model_copy(update={"engine": config.student_engine})
    if student.engine not in LOCAL:
        raise StageError(
            f"the student's engine is {student.engine}; a checkpoint on the disk runs on "
            f"{' or '.join(LOCAL)}. Set eval.student_engine to one of them."
        )
    return student


def refuse(config: Config, roles: Mapping[str, Role], root: Path) -> None:
    """Raise StageError where the student could not be asked."""
    examined(config, roles["student"])


def formats(inputs: Inputs) -> list[str]:
    """The exports with fewer bits than the checkpoint."""
    if not inputs.has("exports"):
        return []
    return [form for form in inputs.manifest("exports").identity.config["weights"] if form != quantisation.PLAIN]


def exported(inputs: Inputs, form: str, student: Role, thinks: bool | None) -> Subject:
    """The distilled student with weights of fewer bits, known by its own files: another format changes no answer."""
    files = inputs.manifest("exports").artifacts["models"].files
    own = content_id("export", [(file.path, file.sha256) for file in files if file.path.startswith(f"models/{form}/")])
    role = quantisation.role_of(form, student)
    return Subject(f"student_{form}", role.prompt, role, own, thinks, lambda: inputs.folder("exports") / form)


def base_roles(config: Config, student: Role, teacher: Role) -> dict[str, Role]:
    """The untouched student with each of its prompts: its own first, then the further ones, each once."""
    roles = {student.prompt: student}
    for name in config.base_prompts:
        if name == AS_TEACHER:
            asked = {"prompt": teacher.prompt, "task_prompts": teacher.task_prompts, "system": teacher.system}
        else:
            asked = {"prompt": name, "task_prompts": {}}
        roles.setdefault(name, student.model_copy(update=asked))
    return roles


def questions(config: Config, inputs: Inputs) -> dict[str, Row]:
    """The held-out problems by id, each with the `references` of its whole task. Raises StageError where the block has
    none, and where this machine cannot judge what it has, before a model is asked.
    """
    rows = inputs.table("problems").to_pylist()
    found = {row["id"]: row for row in rows if row["split"] == config.split}
    if not found:
        known = ", ".join(sorted({row["split"] for row in rows}))
        raise StageError(
            f"No problem is in the block {config.split!r}. Blocks that seed wrote: {known}. Set eval.split."
        )
    if why := lacking(row["verifier"] for row in found.values()):
        raise StageError(f"Some questions cannot be judged on this machine: {why}")
    references: dict[str, set[str]] = {}
    for row in found.values():
        references.setdefault(row["task"], set()).add(row["answer"])
    return {key: row | {"references": references[row["task"]]} for key, row in found.items()}


def order_of(config: Config, inputs: Inputs, subject: Subject, known: Mapping[str, Row]) -> Order:
    """What is asked of one subject. Its tokenizer comes from its own folder: a checkpoint is asked in its template."""
    texts = {name: inputs.prompt(name) for name in orders.prompt_names(subject.role)}
    return Order(
        role=subject.role,
        weights=subject.weights,
        problems=known.values,
        texts=texts,
        tokenizer=orders.open_tokenizer(subject.role, lambda: _folder(subject), texts),
        sampling=config.sampling,
        samples=config.samples,
        max_tokens=config.max_tokens,
    )


def _folder(subject: Subject) -> Path:
    folder = subject.files()
    assert folder is not None, "engines that are given token ids run from a folder"
    return folder


def score(subject: Subject, completion: Row, question: Row, verdict: Row) -> dict[str, Any]:
    """A SCORE row."""
    return {
        "id": verdict["id"],
        "model": subject.model,
        "prompt_name": subject.prompt_name,
        "problem_id": question["id"],
        "split": question["split"],
        "task": question["task"],
        "sample": completion["sample"],
        "outcome": verdict["outcome"],
        "reasons": verdict["reasons"],
        "finish": completion["finish"],
        "completion_tokens": completion["completion_tokens"],
        "raw": completion["raw"],
    }


def classes(question: Row, verdict: Row) -> tuple[str | None, str | None]:
    """The class that is right and the one that an answer names; None for either where there is none."""
    if question["verifier"] != "label":
        return None, None
    given = json.loads(verdict["detail"])["answer"]
    data = json.loads(question["verifier_data"] or "{}")
    return label.classes(given, question["answer"], data, question["references"]) or (None, None)


@dataclass
class Held:
    """The answers that wait for the judge model's opinion."""

    panel: Panel = field(default_factory=Panel)
    rows: dict[str, tuple[Subject, Row]] = field(default_factory=dict)  # by the score's id


def scored(subject: Subject, completion: Row, question: Row, verdict: Row) -> tuple[dict[str, Any], scoring.Answer]:
    """The SCORE row of an answer, and what the figures need of it."""
    row = score(subject, completion, question, verdict)
    values = {key: row[key] for key in ("problem_id", "task", "outcome", "finish", "completion_tokens")}
    expected, said = classes(question, verdict)
    return row, scoring.Answer(
        **values,
        reasons=tuple(row["reasons"]),
        vote=json.loads(verdict["detail"])["answer"],
        sample=completion["sample"],
        expected=expected,
        said=said,
    )


def judged(
    pool: Pool, subject: Subject, completions: Iterator[Row], known: Mapping[str, Row], held: Held | None
) -> Iterator[tuple[dict[str, Any], scoring.Answer]]:
    """SCORE rows of a subject's completions, in any order, each with what the figures need of it. Where a judge model
    is to be asked, `held` takes those that wait for it.
    """
    waiting: dict[str, Row] = {}

    def answers() -> Iterator[Answered]:
        for row in completions:
            question = known[row["problem_id"]]
            key = content_id("score", subject.model, subject.prompt_name, question["id"], row["id"])
            waiting[key] = row
            yield Answered(
                id=key,
                raw=row["raw"] or "",
                finish=row["finish"],
                thinking=has_tags(row["raw"] or "") if subject.thinking is None else subject.thinking,
                answer=question["answer"],
                verifier=question["verifier"],
                verifier_data=question["verifier_data"] or "{}",
            )

    for verdict in judge_rows(answers(), pool):
        row = waiting.pop(verdict["id"])
        question = known[row["problem_id"]]
        if held is not None and held.panel.take(question["id"], question["text"], question["answer"], verdict):
            held.rows[verdict["id"]] = (subject, row)
        else:
            yield scored(subject, row, question, verdict)


def examine(
    config: Config,
    inputs: Inputs,
    output: Output,
    pool: Pool,
    group: Sequence[Subject],
    known: Mapping[str, Row],
    held: Held | None,
) -> tuple[list[tuple[Subject, list[scoring.Answer]]], Figures]:
    """Ask one model, with one prompt or several, what the store lacks; judge all of its answers and write scores."""
    first = group[0]
    asked = [order_of(config, inputs, subject, known) for subject in group]
    store, figures, _ = sampling.buy(
        asked,
        inputs.store,
        first.files,
        output.work / f"{first.model}.log",
        lambda done, total, note: output.progress(Progress(done, total, "answers", f"{first.model}: {note}")),
        config.error_share_limit,
    )
    examined = []
    for subject, order in zip(group, asked, strict=True):
        found = (orders.cut(order, row) for row in orders.completions(order, store))
        rows = judged(pool, subject, found, known, held)
        examined.append((subject, written(config, output, subject.label, rows, len(known))))
    return examined, figures


def written(
    config: Config, output: Output, label: str, rows: Iterable[tuple[dict[str, Any], scoring.Answer]], questions: int
) -> list[scoring.Answer]:
    """Write scores as they come; returns what the figures need of them."""
    some, answers = [], []
    for row, answer in rows:
        some.append(row)
        answers.append(answer)
        output.progress(Progress(len(answers), questions * config.samples, "answers", f"{label}: judging"))
        if len(some) == ROWS:
            output.write("scores", as_table(some, SCORE))
            some = []
    output.write("scores", as_table(some, SCORE))
    return answers


def opinions(
    inputs: Inputs, output: Output, held: Held, known: Mapping[str, Row]
) -> Iterator[tuple[Subject, dict[str, Any], scoring.Answer]]:
    """What became of the answers that waited: the subject, its SCORE row, and what the figures need of it. The judge
    model is asked about all subjects' at once, none of which it is told.
    """
    model = JudgeModel(inputs, output)
    for problem_id, verdict in held.panel.decided(model):
        subject, completion = held.rows[verdict["id"]]
        yield subject, *scored(subject, completion, known[problem_id], verdict)
    output.facts["opinions"] = model.figures


def with_votes(answers: Iterable[scoring.Answer], known: Mapping[str, Row], pool: Pool) -> list[scoring.Answer]:
    """The answers as cons@k counts them: one vote for what `math` takes for one answer (1/2 and 0.5), by their texts,
    typography aside, where another verifier judges, which compares with the reference alone.
    """
    groups: dict[str, list[scoring.Answer]] = {}
    for answer in answers:
        groups.setdefault(answer.problem_id, []).append(answer)
    ballots = [
        Ballot([one.vote for one in group], "math" if known[key]["verifier"] == "math" else None)
        for key, group in groups.items()
    ]
    return [
        replace(one, vote=None if number is None else str(number))
        for group, numbers in zip(groups.values(), alike(ballots, pool), strict=True)
        for one, number in zip(group, numbers, strict=True)
    ]


def summary(config: Config, examined: Sequence[tuple[Subject, list[scoring.Answer]]], asked: int) -> dict[str, Any]:
    """The facts: figures of every model and prompt, the better prompt of the untouched student, and the comparisons."""
    answers = {(subject.model, subject.prompt_name): found for subject, found in examined}
    bases: dict[str, dict[str, Any]] = {}
    models: dict[str, dict[str, Any]] = {}
    for subject, found in examined:
        row = {
            "prompt": subject.prompt_name,
            "weights": subject.weights,
            "engine": subject.role.engine,
            **scoring.figures(found, config.samples),
        }
        if subject.model == "base":
            bases[subject.prompt_name] = row
        else:
            models[subject.model] = row
    chosen = scoring.better(bases)
    models["base"] = bases[chosen]
    compared = scoring.compare(*(answers[(name, models[name]["prompt"])] for name in ("teacher", "base", "student")))
    return {
        "questions": asked,
        "samples": config.samples,
        "split": config.split,
        "models": models,
        "base_prompt": chosen,
        "base_prompts": bases,
        **compared,
    }


def exports(
    examined: Sequence[tuple[Subject, list[scoring.Answer]]], models: Mapping[str, Row], generation: Mapping[str, Row]
) -> list[dict[str, Any]]:
    """The distilled student and its exports side by side: bytes of weights, tokens/s, accuracy. Empty without exports.

    tokens_per_s is None where a part of the answers was stored already: a few requests are no measure of many.
    difference: from the student.
    """
    found = [(subject, answers) for subject, answers in examined if subject.model.startswith("student")]
    if len(found) == 1:
        return []
    (_, whole), *_ = found
    return [
        {
            "model": subject.model,
            "weight_bytes": quantisation.weight_bytes(_folder(subject)),
            "tokens_per_s": _speed(generation[subject.model]),
            **{key: models[subject.model][key] for key in ("pass_at_1", "interval", "mean_tokens")},
            "difference": scoring.difference(scoring.shares(answers), scoring.shares(whole)),
        }
        for subject, answers in found
    ]


def _speed(generation: Row) -> float | None:
    return float(generation["tokens_per_s"]) if in_one_go(generation) else None


def prompts(config: Any, roles: Mapping[str, Role]) -> tuple[str, ...]:
    """The templates of all three models' prompts."""
    teacher, student = roles["teacher"], roles["student"]
    asked = [teacher, student, *base_roles(config, student, teacher).values()]
    asked += [roles[JUDGE]] if JUDGE in roles else []
    return tuple(dict.fromkeys(name for role in asked for name in orders.prompt_names(role)))


def judges(config: Config) -> Pool:
    return Pool(config.exec.workers or processors(), config.timeout_s, config.memory_mib)


def run(config: Config, inputs: Inputs, output: Output) -> None:
    """Examine every subject in turn, then compare them."""
    known = questions(config, inputs)
    asks = inputs.judge is not None and any(row["verifier"] == JUDGE for row in known.values())
    held = Held() if asks else None
    examined: list[tuple[Subject, list[scoring.Answer]]] = []
    generation = {}
    # One pool for all subjects: to import what verifiers need takes seconds.
    with judges(config) as pool:
        for model, group in groupby(subjects(config, inputs), key=lambda subject: subject.model):
            found, figures = examine(config, inputs, output, pool, list(group), known, held)
            generation[model] = figures.facts()
            examined += found
            for subject, answers in found if held is None else ():
                tell(config, output, subject, answers)
    if held is not None:
        by_label = {subject.label: answers for subject, answers in examined}
        rows = []
        for subject, row, answer in opinions(inputs, output, held, known):
            rows.append(row)
            by_label[subject.label].append(answer)
        output.write("scores", as_table(rows, SCORE))
        for subject, answers in examined:
            tell(config, output, subject, answers)
    if config.samples > 1:
        with judges(config) as pool:
            examined = [(subject, with_votes(answers, known, pool)) for subject, answers in examined]
    facts = summary(config, examined, len(known))
    output.facts.update({**facts, "generation": generation})
    if beside := exports(examined, facts["models"], generation):
        output.facts["exports"] = beside


def tell(config: Config, output: Output, subject: Subject, answers: Sequence[scoring.Answer]) -> None:
    """Count a subject's outcomes and say how it did. Raises StageError where not one answer could be judged."""
    found = scoring.figures(answers, config.samples)
    if found["pass_at_1"] is None:
        why = Counter(reason for answer in answers for reason in answer.reasons).most_common(1)
        raise StageError(
            f"No answer of the {subject.label} could be judged{f', mostly for {why[0][0]}' if why else ''}. Look at "
            f"the verifiers of the block {config.split!r} and at their limits (eval.timeout_s, eval.memory_mib)."
        )
    output.say(f"{subject.label}: pass@1 {found['pass_at_1']:.3f}, cut off {found['truncated_share'] or 0:.1%}")
    for name, row in found.get("classes", {}).items():
        output.say(f"{subject.label}, {name} ({row['answers']} answers): {scoring.class_line(row)}")
    if (found["undecided_share"] or 0) > NOTICEABLE_SHARE:
        output.say(f"{subject.label}: {found['undecided_share']:.1%} of answers could not be judged and do not count.")
    output.counts.update(f"{subject.model}_{answer.outcome}" for answer in answers)


STAGE = Stage(
    name="eval",
    version=5,
    config=Config,
    run=run,
    reads={
        "problems": Reads("seed", "problems", ("id", "text", "answer", "task", "verifier", "verifier_data", "split")),
        "mix": Reads("mix"),
        "checkpoint": Reads("sft", artifact="checkpoint"),
        "exports": Reads("export", artifact="models", given=quantisation.fewer_bits),
    },
    writes={"scores": SCORE},
    roles={
        "teacher": (*WORDS, "thinking", "thinking_budget"),
        "student": WORDS,
        JUDGE: (*WORDS, "thinking", "sampling", "max_tokens"),
    },
    weights=("teacher", "student", JUDGE),
    prompts=prompts,
    contents=version,
    refuse=refuse,
    failures=lambda manifest: Failures.among(
        [*manifest.facts.get("generation", {}).values(), manifest.facts.get("opinions", {})]
    ),
)
