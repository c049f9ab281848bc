"""sft: audits the examples of mix, then trains the student on them with TRL, and writes a checkpoint that vLLM serves.

It makes no examples and judges no answers; a killed training goes on from its newest complete checkpoint.
"""

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import heap, labelling, models
from pipeline import student as students
from pipeline.manifest import write_durably
from pipeline.objectives import targets
from pipeline.records import SOFT_LABELS, base_id, content_id
from pipeline.roles import Role, Student
from pipeline.section import declared
from pipeline.stage import Inputs, Output, Progress, Reads, Roles, Stage, StageError
from pipeline.templates import load_tokenizer, read_tokenizer
from pipeline.training import audit as audits
from pipeline.training import checkpoints, model, options, pairing, products, refusals, start
from pipeline.training.encode import digest
from pipeline.training.material import Material, prepare
from pipeline.training.options import SPREADABLE, Options, attention, beside, is_packed
from pipeline.training.reporters import check_reporters, reporters
from pipeline.training.results import results

if TYPE_CHECKING:
    from pipeline.training.process import Start
    from pipeline.training.trainer import Planned

# What holds the optimizer's state in a checkpoint, as transformers names it, by the student's layout in processes.
OPTIMIZER = {"whole": "optimizer.pt", "fsdp": "optimizer_0", "deepspeed": "latest"}
# Keys that decide whether a training is begun, stopped or how it is written, but no step of it.
IDLE = frozenset({"audit", "save_dtype", "soft_labels.min_covered_share", "soft_labels.max_unlabelled_share"})
DIVERGED_FILE = "diverged.json"  # in the stage's folder: the batches at which a training was stopped


class Config(Options):
    """How the student is trained."""


def added_tokens(config: Config, inputs: Inputs, tokenizer: Any) -> list[int]:
    """The ids of the tokens that the student was given when it was made, and that an adapter has to learn. On its own
    answers it cannot (see `build`), and a checkpoint to begin with has learnt them.
    """
    if config.on_policy is not None and config.start is not None:
        return []
    found = students.figures(inputs.model("student")).get("added_tokens", ())
    return [int(tokenizer.convert_tokens_to_ids(token)) for token in found]


def callbacks(config: Config, output: Output, material: Material, begun: Path | None) -> list[Any]:
    """Reports of the losses, the stage's progress, the guard of sane losses, and early stopping where losses are taken
    to stop by.
    """
    from transformers import EarlyStoppingCallback

    from pipeline.training.process import is_first
    from pipeline.training.trainer import Guard, Watcher

    planned = [[material.train[index].id for index in batch] for batch in material.train_batches]
    patience = config.early_stopping_patience if material.validation else None
    shown = [
        *(reporters(config.exec.report_to, output.folder / "logs", begun) if is_first() else []),
        Watcher(lambda step, loss: output.progress(Progress(step, len(planned), "steps", f"loss {loss:.3f}"))),
    ]
    if config.wild_loss_factor is not None:
        shown.append(Guard(config.wild_loss_factor, config.wild_loss_steps, lambda step: planned[step - 1]))
    return [*shown, EarlyStoppingCallback(patience)] if patience else shown


def folder_of(config: Config, inputs: Inputs, role: str) -> Path:
    """The folder of a role's model; the student's is that of the weights that the training begins with."""
    own = inputs.model(role)
    return own if role != "student" or config.start is None else start.checked(config.start, own, inputs.root)


def build_trainer(
    config: Config, inputs: Inputs, output: Output, tokenizer: Any, material: Material, begun: Path | None
) -> "Planned":
    """The trainer with model, batches and callbacks, ready to train."""
    from pipeline.training import build

    model.quiet()
    return build.trainer(
        build.Job(
            options=config,
            material=material,
            tokenizer=tokenizer,
            folder=partial(folder_of, config, inputs),
            added_tokens=added_tokens(config, inputs, tokenizer),
            place=output.work / "trainer",
            callbacks=callbacks(config, output, material, begun),
        )
    )


def checked(config: Config, inputs: Inputs, tokenizer: Any, output: Output) -> Material:
    """The material to train on. Raises StageError where there is none, or where the audit finds it broken."""
    import torch

    for role in ("student", *beside(config)):
        folder = inputs.model(role)
        if not folder.is_dir():
            raise StageError(
                f"{role}.model is the file {folder.name}; expected a model, since objective {config.objective} runs "
                f"it. Name one with weights as {role}.model, or set sft.objective: sft."
            )
        refusals.longer(config.max_length, role, models.positions_in(folder))
    student = inputs.student
    system = inputs.prompt(student.system).strip() if student.system else None
    packed = is_packed(config, attention(config, 0, torch.cuda.is_available()))
    material = prepare(config, tokenizer, inputs.table("examples").to_pylist(), system, packed)
    output.facts["audit"] = material.audit.model_dump()
    output.facts["left_out"] = [vars(one) for one in material.left_out[:100]]
    for line in audits.lines(material.audit):
        output.say(line)
    output.counts.update(one.reason for one in material.left_out)
    output.counts.update(trained=len(material.train), validation=len(material.validation))
    found = audits.faults(material.audit, config.audit)
    if found:
        raise StageError("the audit refuses to train:\n- " + "\n- ".join(found))
    if not material.train_batches:
        raise StageError(
            f"sft.loss_tokens is {config.loss_tokens}, less than half of what the first batch teaches, so that no step "
            f"would be taken; expected at least a batch's. Raise it, or lower sft.batch_tokens or sft.batch_examples."
        )
    if not material.validation:
        output.say("no validation examples: no validation loss, no early stopping, the last checkpoint is kept")
    return material


def learns_soft_labels(config: Config) -> bool:
    """Whether the objective needs the teachers' distributions."""
    return config.objective == "soft_labels"


def weighs_by_domain(config: Config) -> bool:
    """Whether what a teacher counts depends on a problem's domain."""
    return config.soft_labels is not None and bool(config.soft_labels.weights.domains)


def rows_of(inputs: Inputs, name: str) -> Iterator[dict[str, Any]]:
    """The rows of a dataset; none where it was written by a run that did not know it yet."""
    try:
        yield from (row for table in inputs.batches(name, 1024) for row in table.to_pylist())
    except KeyError:
        return


def teacher_of(inputs: Inputs, label: str) -> pairing.Teacher:
    """The teacher whose traces carry a label. Raises StageError where the recipe has none of that name."""
    names = {role.label: name for name, role in inputs.teachers.items()}
    if label not in names:
        raise StageError(
            f"found soft labels of the teacher {label}; expected one of {', '.join(names)}. Run generate again."
        )
    return pairing.opened(inputs.model(names[label]))


def soft_targets(config: Config, inputs: Inputs, output: Output, tokenizer: Any, material: Material) -> Path | None:
    """Where the examples' soft targets lie, paired with them token by token; None for an objective without any.

    Raises StageError where too many traces have no labels, or too few of their tokens are covered.
    """
    wanted = config.soft_labels
    if wanted is None:
        return None
    domains = rows_of(inputs, "domains") if weighs_by_domain(config) else ()
    these = pairing.wanted(
        [*material.train, *material.validation],
        rows_of(inputs, "layouts"),
        rows_of(inputs, "labels"),
        wanted.weights,
        {base_id(row["id"]): row["domain"] for row in domains},
        [role.label for role in inputs.teachers.values()],
    )
    lacking = these.unlabelled
    if len(lacking) > wanted.max_unlabelled_share * len(these.layouts) or not these.labelled:
        raise StageError(
            f"{len(lacking)} of {len(these.layouts)} traces to learn from have no soft labels, the first is "
            f"{(lacking or ['none'])[0]}; at most {wanted.max_unlabelled_share:.1%} may have none, and one has to have "
            f"some. Set generate.logprobs (50, say) and run generate again: its completions are kept and scored. Those "
            f"of teachers that weigh 0 (sft.soft_labels.weights) are not heard. Where some cannot be scored, raise "
            f"sft.soft_labels.max_unlabelled_share."
        )
    folder = output.work / "targets"
    facts = pairing.pair(
        folder,
        these,
        rows_of(inputs, "traces"),
        partial(labelling.read, inputs.store),
        tokenizer,
        partial(teacher_of, inputs),
        lambda done, total: output.progress(Progress(done, total, "traces", "pairing soft labels")),
    )
    output.facts["soft_labels"] = facts
    output.say(
        f"soft labels: {facts['covered_share']:.1%} of {facts['tokens']} tokens learnt from {facts['traces']} traces "
        f"are covered; there {facts['candidates']} candidates hold {facts['candidates_mass']:.2%} of the mass"
    )
    for label, heard in facts.get("teachers", {}).items():
        output.say(
            f"{label} labelled {heard['traces']} of the traces and covers {heard['covered_share']:.1%} of the tokens; "
            f"where any teacher does, it counts {heard['mean_share']:.1%}"
        )
    if facts["covered_share"] < wanted.min_covered_share:
        raise StageError(
            f"the audit refuses to train: soft labels cover {facts['covered_share']:.1%} of the tokens learnt from "
            f"traces; at least {wanted.min_covered_share:.1%} have to be (sft.soft_labels.min_covered_share). Take a "
            f"student whose tokenizer cuts text more as the teacher's does, or the objective sft."
        )
    return folder


def refuse_other_tokens(config: Config, roles: Mapping[str, Role], role: str, root: Path) -> None:
    """Raises ValueError where the model beside the student cannot be compared with it token by token, as far as files
    at hand tell: think tags may still make tokens that the other one lacks.
    """
    both = [roles[name] for name in ("student", role)]
    mine, theirs = (models.at_hand(each, root) for each in both)
    if any(isinstance(each, Student) and each.think_tokens for each in both) or mine is None or theirs is None:
        return
    if not all((folder / "tokenizer.json").is_file() for folder in (mine, theirs)):  # not all of it is fetched yet
        return
    tokenizer = read_tokenizer(mine)
    if config.on_policy is not None:
        refusals.other_tokenizer(tokenizer, read_tokenizer(theirs), config.on_policy.across is not None)
        return
    from pipeline.objectives import companion

    companion.refuse_other_vocabulary(tokenizer, theirs, role)


def refuse(config: Config, roles: Mapping[str, Role], root: Path) -> None:
    """Raises StageError or ValueError for what can be told before there are examples to train on."""
    if config.objective == "mutual":
        refusals.without_a_peer("peer" in roles)
        same = models.resolve(roles["peer"], root).identity == models.resolve(roles["student"], root).identity
        refusals.a_twin(same and config.method == "full" and config.start is None)
    for role in ("student", *beside(config)):
        refusals.longer(config.max_length, role, models.positions(roles[role], root))
    for role in beside(config):
        refusals.without_weights(config.objective, role, roles[role].engine)
        refuse_other_tokens(config, roles, role, root)
    refusals.four_bits_without_a_gpu(config.method)
    refusals.kernels_that_are_not_here(config.exec)
    check_reporters(config.exec.report_to)
    if config.start is not None:
        start.existing(config.start, root)
    asks_vllm = config.on_policy is not None and config.on_policy.exec.vllm
    if asks_vllm or config.exec.launcher != "none" or refusals.several_gpus():  # to look further takes torch's seconds
        to_start(config, root)


def plan_of(config: Config, inputs: Inputs, material: Material) -> str:
    """An id of all that decides the course of a training: a checkpoint of another one is not gone on from."""
    values = {name: value for name, value in declared(config).items() if name not in IDLE}
    if isinstance(values.get("soft_labels"), dict):
        kept = {name: value for name, value in values["soft_labels"].items() if f"soft_labels.{name}" not in IDLE}
        values["soft_labels"] = kept
    paired = [] if material.targets is None else [targets.said_of(material.targets)]
    ordered = [] if material.places is None else [material.places]
    return content_id(
        values,
        inputs.weights("student"),
        digest(material.train),
        digest(material.validation),
        *start.digest(config.start, inputs.root).values(),
        *(inputs.weights(role) for role in beside(config)),
        *paired,
        *ordered,
    )


def begun_at(output: Output, plan: str, layout: str) -> Path | None:
    """The checkpoint that a training of this plan goes on from. One without the optimizer's state is none: the trainer
    would go on from it with an optimizer that remembers nothing and a learning rate at its warm-up.

    Raises StageError for one of a student in another layout.
    """
    root = output.work / "trainer"
    last = checkpoints.ready(root, plan)
    if last is None or (last / OPTIMIZER[layout]).exists():
        return last
    step = checkpoints.step_of(last)
    others = [name for name, place in OPTIMIZER.items() if (last / place).exists()]
    if others:
        raise StageError(
            f"the checkpoint of step {step} holds the student in the layout {others[0]}, and sft.exec asks for "
            f"{layout}; expected the same. Set sft.exec.launcher and config back to go on, or delete {root} to start "
            f"over."
        )
    if layout == "whole" and checkpoints.stopped(last) and any(last.glob("*.safetensors")):
        return last  # nothing is left but to write the best weights
    output.say(f"step {step} was saved without the optimizer's state, so training starts over")
    shutil.rmtree(root)
    return checkpoints.ready(root, plan)


def run(config: Config, inputs: Inputs, output: Output) -> None:
    """Audit, train (or go on training), and write the checkpoint."""
    started = to_start(config, inputs.root)
    refusals.four_bits_without_a_gpu(config.method)
    check_reporters(config.exec.report_to)
    (output.folder / DIVERGED_FILE).unlink(missing_ok=True)
    if config.objective == "mutual":
        refusals.without_a_peer(inputs.peer is not None)
    template = inputs.student.chat_template
    tokenizer = load_tokenizer(inputs.model("student"), inputs.prompt(f"chat/{template}") if template else None)
    material = checked(config, inputs, tokenizer, output)
    output.facts["student"] = students.figures(inputs.model("student"))
    output.say(students.line(output.facts["student"]))
    material = replace(material, targets=soft_targets(config, inputs, output, tokenizer, material))
    layout = "whole" if started is None else started.layout
    last = begun_at(output, plan_of(config, inputs, material), layout)
    if last is None:
        shutil.rmtree(output.folder / "logs", ignore_errors=True)
    else:
        output.say(f"goes on from step {checkpoints.step_of(last)} of {len(material.train_batches)}")
    config = with_products(config, output, last is not None)
    made = ("checkpoint", "peer") if config.objective == "mutual" else ("checkpoint",)
    places = {name: output.artifact(name) for name in made}
    if started is not None:
        output.facts.update(in_processes(config, inputs, output, started, (tokenizer, material, last, places)))
        return
    from pipeline.training.trainer import Diverged

    try:
        output.facts.update(train(config, inputs, output, tokenizer, material, last, places))
    except Diverged as error:
        raise StageError(f"{error} {saved(error, error.batches, output.folder)}") from error


def with_products(config: Config, output: Output, goes_on: bool) -> Config:
    """The config with the dtype that products are made in here, which need not be the one declared; says so."""
    made = products.chosen(config.compute_dtype, config.exec.upcast == "auto", output.work / "trainer", goes_on)
    output.facts["products"] = made.dtype
    if made.dtype != config.compute_dtype:
        output.say(made.line(config.compute_dtype))
    return config.model_copy(update={"compute_dtype": made.dtype})


def train(
    config: Config,
    inputs: Inputs,
    output: Output,
    tokenizer: Any,
    material: Material,
    begun: Path | None,
    places: Mapping[str, Path],
) -> dict[str, Any]:
    """Train, and write what came of it to its places; the figures. With others like it where accelerate started them:
    then the first of them writes.
    """
    trainer = build_trainer(config, inputs, output, tokenizer, material, begun)
    start = time.monotonic()
    with heap.kept():
        trainer.go_on(begun)
    step = 0 if begun is None else checkpoints.step_of(begun)
    figures = results(config, material, trainer, step, time.monotonic() - start)
    if config.on_policy is not None:
        from pipeline.training import on_policy

        figures |= on_policy.figures(trainer.state.log_history, step, figures["seconds_stepping"])
    gathered = trainer.gathered()
    if trainer.rank == 0:
        model.save(trainer.finished(), tokenizer, places["checkpoint"], config.save_dtype, gathered)
        if "peer" in places:
            model.save(trainer.beside["peer"], tokenizer, places["peer"], config.save_dtype)
    trainer.accelerator.wait_for_everyone()
    return figures


def to_start(config: Config, root: Path) -> "Start | None":
    """The processes to train in; None where this one does it. Raises StageError for an objective or a configuration
    that several cannot share. A vLLM that writes answers beside the trainer has a process of its own with it.
    """
    import torch

    from pipeline.training import process

    if config.exec.launcher == "none":
        refusals.many_gpus()
        return process.APART if config.on_policy is not None and config.on_policy.exec.vllm else None
    if config.objective not in SPREADABLE:
        raise StageError(
            f"sft.exec.launcher is accelerate, and objective {config.objective} has a second model; expected one of "
            f"{', '.join(SPREADABLE)}, whose gradients are summed over processes. Set sft.exec.launcher: none."
        )
    try:
        found = process.start(config.exec.config, root, config.exec.processes or torch.cuda.device_count() or None)
        if found.count > 1:
            options.refuse_sharding(config, found.layout, torch.cuda.is_available())
    except ValueError as error:
        raise StageError(f"sft.exec.config: {error}.") from error
    if found.count > 1:
        return found
    refusals.many_gpus()
    return None


def in_processes(
    config: Config, inputs: Inputs, output: Output, start: "Start", rest: tuple[Any, ...]
) -> dict[str, Any]:
    """Train in processes that accelerate starts; `rest` are the further arguments of `train`."""
    import torch

    from pipeline.training import process

    given = process.Given({role: inputs.model(role) for role in ("student", *beside(config))}, inputs.root)
    told = {"progress": lambda value: output.progress(Progress(**value)), "say": output.say}
    try:
        figures: dict[str, Any] = process.launch(
            train,
            (config, given, process.Telling(output.folder, output.work), *rest),
            start,
            output.work / "processes",
            lambda kind, value: told[kind](value),
            {"ACCELERATE_USE_CPU": "false" if torch.cuda.is_available() else "true"}
            | ({"OMP_NUM_THREADS": str(config.exec.threads)} if config.exec.threads else {}),
        )
    except process.Failed as error:
        where = saved(error, error.batches, output.folder) if error.batches else ""
        raise StageError(f"{error} {where}".strip()) from error
    return figures


def saved(error: Exception, stopped: Sequence[Mapping[str, Any]], folder: Path) -> str:
    """Write the batches at which a training was stopped; a sentence that says where."""
    path = folder / DIVERGED_FILE
    told = {"error": str(error), "batches": stopped}
    write_durably(path, json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    return f"The batches are in {path}."


def prompts(config: Config, roles: Mapping[str, Role]) -> tuple[str, ...]:
    """The student's system message and chat template, where it has its own."""
    student = roles["student"]
    chat = (f"chat/{student.chat_template}",) if student.chat_template else ()
    return ((student.system,) if student.system else ()) + chat


def contents(config: Config, root: Path) -> dict[str, str]:
    """The weights that the training begins with, where they are not the student's."""
    return start.digest(config.start, root)


def roles(config: Config) -> Roles:
    """The student with what renders its prompts, and those whose files the objective needs beside it."""
    return {"student": ("system", "chat_template"), **dict.fromkeys(weights(config)[1:], ())}


def weights(config: Config) -> tuple[str, ...]:
    """The student, the role whose model the objective runs beside it, and teachers whose tokenizers it may need."""
    return ("student", *beside(config), *(("teachers",) if learns_soft_labels(config) else ()))


STAGE = Stage(
    name="sft",
    version=1,
    config=Config,
    run=run,
    reads={
        # A trace's id and its completion hardly leave open how it ended.
        "examples": Reads(
            "mix", "examples", ("id", "prompt", "completion", "split"), later=("place",), told=("domain", "finish")
        ),
        "layouts": Reads("mix", "examples", ("id", "spans", "teacher"), when=learns_soft_labels),
        "domains": Reads("mix", "examples", ("id", "domain"), when=weighs_by_domain),
        "labels": Reads("generate", "soft_labels", tuple(SOFT_LABELS.names), when=learns_soft_labels),
        "traces": Reads("generate", "traces", ("id", "raw", "token_ids", "finish"), when=learns_soft_labels),
    },
    artifacts=("checkpoint",),
    more_artifacts=("peer",),
    roles=roles,
    weights=weights,
    prompts=prompts,
    contents=contents,
    refuse=refuse,
    idle=IDLE,
    on_stale="ask",
)
