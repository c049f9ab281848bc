"""A run's problems and traces in any number, written as seed and generate write them, without a teacher.

The traces are made up: sentences of a reasoning that leads nowhere, with the answer and the faults that real ones have,
in shares that real ones have them in. What was planted stands in the manifest of generate.
"""

import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from pipeline import plan, recipe
from pipeline.manifest import MANIFEST_FILE, Manifest, write_record
from pipeline.output import RunOutput
from pipeline.records import PROBLEM, TRACE, content_id
from pipeline.run import Run
from pipeline.shards import as_table

SAMPLES = 8  # traces of a problem
HELD_OUT = 400  # problems
TOKENS = 300  # of a trace, on average
CHARS_A_TOKEN = 4
ROWS = 4096

# What a trace is, and how many of them are. Copies are of an earlier right trace of the same problem.
SHARES = {
    "right": 0.50,
    "wrong": 0.24,
    "unanswered": 0.02,
    "truncated": 0.06,
    "looping": 0.02,
    "copied": 0.05,
    "reworded": 0.08,
    "contaminated": 0.01,
    "two_languages": 0.01,
    "unclosed": 0.01,
}
PEOPLE = "Ada Boris Chen Dara Emil Fatima Goran Hana Ivan Jana Kofi Lena Mira Nils Olga Pavel Rosa Sven Tara"
THINGS = (
    "apples bottles boxes bricks books buckets candles cards chairs coins crates cups drums eggs flags flowers gloves "
    "hats jars keys knives lamps letters maps marbles melons mirrors nails oranges pans paintings pears pencils plates "
    "posters pots ribbons ropes rugs scarves shells shirts shovels socks spoons stamps stones tables tickets tiles "
    "tools towels toys trays vases wheels windows"
)
PLACES = (
    "attic bakery barn cellar church factory farm garage garden harbour hotel kitchen library market mill museum "
    "office park port school shed shop stable station studio theatre tower village warehouse workshop"
)
_PEOPLE, _THINGS, _PLACES = (text.split() for text in (PEOPLE, THINGS, PLACES))
ASKED = (
    "{p} counts {a} {n} in the {l} and sends {b} of them to the {k} before noon.",
    "On the next morning {b} more {n} arrive, and {p} trades every {c} of them for one of the {m}.",
    "A helper from the {k} carries {c} {m} back to the {l} and breaks {b} of these on the way.",
    "The owner of the {l} pays {a} coins for the {n} and wants {c} coins in return from {p}.",
    "Nobody in the {k} noticed that {b} {m} had been counted twice among the {a} {n}.",
    "Later {p} finds {c} {n} behind a door of the {l} which the list of {a} {m} does not name.",
)
QUESTIONS = {
    "math": "How many {n} are left in the {l} at the end of the day?",
    "exact": "Which word stands on the label of the last box of {n}?",
    "choice": "Which of these is left in the {l}?\n{options}",
    "label": "Is the account of {p} complete, wrong, or unclear?",
}
STEPS = (
    "First, let's look at what the problem gives us: {a} {n} in the {l}, with {b} {m} beside them.",
    "Then we have {a} + {b} = {c}, so together the {n} come to {c}.",
    "If $x = {a}$ and $y = {b}$, then \\(x + y = {c}\\) must hold for the {m}.",
    "Wait, let me check the {n} again: {c} - {b} = {a}, which is what we had before.",
    "Since {a} is less than {c}, there are {b} {m} left, and none of the {n} is counted twice.",
    "Therefore the number of {n} that were sold in the {l} is {b}, not {c}.",
    "The third group holds {a} {m}; take away {b} and look at what remains in the {l}.",
    "Suppose for a moment that every second one of the {n} leaves: then about {b} {m} stay.",
    "Hmm, dividing {c} by {a} does not come out even, which means the {m} must be off.",
    "Let me define f(n) = {a}n + {b}; its value at n = 1 equals {c} according to the {l}.",
    "By symmetry each side of the {l} gets the same weight, namely one quarter of {c} {n}.",
    "Next comes the harder part: how often do {b} {m} fit between {a} and {c}?",
    "Reading the question once more, it asks for whole {n} only, not for parts of {m} ({a}).",
    "That would make {c} coins altogether, a price nobody in the {l} pays for {n}.",
    "Okay, another idea: draw a line from the {l} up to {c}, mark {a}, then compare the {m}.",
    "It follows that neither of the {n} arrives before minute {b}; the slower {m} need {c}.",
    "Alternatively, we could count the {n} by hand - {a}, {b}, {c} - but that takes too long.",
    "The owner of the {l} said {b}, and I see no reason to doubt the {m} he counted.",
    "So far the {n} and the {m} agree, and only {a} of the things in the {l} are open.",
    "I should not forget the {b} {n} which went back to the {l} on the evening before.",
)
FOREIGN = "Zuerst haben wir die Zahl der Dinge, und dann ist sie nicht mehr das, was wir mit den anderen haben."
LABELS = ("complete", "wrong", "unclear")
PROMPT = "<|im_start|>user\n{}\n\nReason step by step.<|im_end|>\n<|im_start|>assistant\n"


@dataclass(frozen=True)
class Case:
    """A problem with what is needed to answer it, rightly or wrongly."""

    row: dict[str, Any]
    answers: tuple[str, ...]  # the right one first


class Writer:
    """Draws problems and traces; the same seed draws the same ones."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self.planted: Counter[str] = Counter()

    def _slots(self) -> dict[str, Any]:
        draw = self._draw
        a, b = 2 + int(draw.random() * 900), 2 + int(draw.random() * 900)
        n, m = draw.choices(_THINGS, k=2)
        place, other = draw.choices(_PLACES, k=2)
        return {"a": a, "b": b, "c": a + b, "n": n, "m": m, "l": place, "k": other, "p": draw.choice(_PEOPLE)}

    def case(self, number: int, split: str) -> Case:
        """A problem. Its number is part of its text, so that no two are the same."""
        verifier = ("math", "math", "math", "exact", "choice", "label")[number % 6]
        slots = self._slots()
        told = [one.format(**self._slots()) for one in self._draw.sample(ASKED, 4)]
        data: dict[str, Any] = {}
        if verifier == "math":
            answers = tuple(str(slots["c"] + step) for step in range(4))
        elif verifier == "label":
            answers = tuple(self._draw.sample(LABELS, 3))
            data = {"labels": list(LABELS)}
        else:
            answers = tuple(dict.fromkeys(self._draw.sample(_THINGS, 4)))
        if verifier == "choice":
            data = {"choices": sorted(answers)}
            slots["options"] = "\n".join(f"{mark}. {one}" for mark, one in zip("ABCD", data["choices"], strict=True))
        text = f"Account {number}. {' '.join(told)} {QUESTIONS[verifier].format(**slots)}"
        row = {
            "id": content_id("problem", text),
            "text": text,
            "answer": answers[0],
            "domain": "math" if verifier == "math" else "reading",
            "task": f"accounts_{verifier}",
            "verifier": verifier,
            "verifier_data": json.dumps(data),
            "source": "problems.jsonl",
            "license": "CC0-1.0",
            "split": split,
            "parent_id": None,
            "augmentation": None,
        }
        return Case(row, answers)

    def traces(self, case: Case, others: list[str]) -> list[dict[str, Any]]:
        """The traces of a problem. `others` are texts that must not stand in any."""
        rows: list[dict[str, Any]] = []
        right: list[tuple[list[str], str]] = []
        kinds = self._draw.choices(list(SHARES), weights=list(SHARES.values()), k=SAMPLES)
        for sample, kind in enumerate(kinds):
            if kind in ("copied", "reworded") and not right:
                kind = "right"
            answer = case.answers[0 if kind != "wrong" else self._draw.randrange(1, len(case.answers))]
            lines = self._steps()
            if kind in ("copied", "reworded"):
                lines, answer = self._draw.choice(right)
            raw, finish = self._spoilt(kind, lines, answer, others)
            if kind == "right":
                right.append((lines, answer))
            self.planted[kind] += 1
            rows.append(self._row(case, sample, raw, finish))
        return rows

    def _steps(self) -> list[str]:
        goal = TOKENS * CHARS_A_TOKEN * (0.5 + self._draw.random())
        lines: list[str] = []
        chars = 0
        while chars < goal:
            lines.append(self._draw.choice(STEPS).format(**self._slots()))
            chars += len(lines[-1])
        return lines

    def _spoilt(self, kind: str, lines: list[str], answer: str, others: list[str]) -> tuple[str, str]:
        """The text of a trace with its fault, and how it finished."""
        if kind == "reworded":
            lines = [line.replace(" the ", " this ", 1) if at % 7 == 3 else line for at, line in enumerate(lines)]
        elif kind == "contaminated":
            at = len(lines) // 2
            lines = [*lines[:at], self._draw.choice(others), *lines[at:]]
        elif kind == "two_languages":
            lines = [FOREIGN, *lines]
        ending = "" if kind == "unclosed" else "\n</think>\n"
        said = "I cannot tell." if kind == "unanswered" else f"The answer is \\boxed{{{answer}}}."
        reasoning = "\n".join(["<think>", *lines, *([] if kind == "unanswered" else [f"So the answer is {answer}."])])
        if kind == "truncated":
            return reasoning[: len(reasoning) * 2 // 3], "length"
        if kind == "looping":
            return "\n".join(["<think>", *lines, "Wait, let me count them once more. " * 12]), "length"
        return f"{reasoning}{ending}\n{said}", "stop"

    def _row(self, case: Case, sample: int, raw: str, finish: str) -> dict[str, Any]:
        return {
            "id": content_id("trace", case.row["id"], sample),
            "problem_id": case.row["id"],
            "sample": sample,
            "teacher": "canned.jsonl",
            "weights": "made-up",
            "prompt": PROMPT.format(case.row["text"]),
            "raw": raw,
            "token_ids": None,
            "finish": finish,
            "cause": None,
            "prompt_tokens": len(case.row["text"]) // CHARS_A_TOKEN,
            "completion_tokens": len(raw) // CHARS_A_TOKEN,
            "sampling": '{"temperature": 0.6, "top_p": 0.95}',
            "engine_seed": 1,
            "parent_trace_id": None,
        }


def write(folder: Path, traces: int, seed: int = 1) -> Path:
    """Write problems, traces, their manifests and a recipe into a folder; returns the recipe's path.

    With SEQDISTILL_DATA as `folder / "data"`, seed and generate are fresh. At most a few thousand rows are held.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("problems.jsonl", "canned.jsonl"):
        (folder / name).write_text("{}\n", encoding="utf-8")
    values = {
        "teacher": {"model": str(folder / "canned.jsonl"), "engine": "replay", "thinking": True},
        "student": {"model": str(folder / "canned.jsonl"), "engine": "replay"},
        "seed": {"sources": [{"kind": "file", "path": str(folder / "problems.jsonl")}]},
        "generate": {"samples": SAMPLES},
        "filter": {"max_tokens": 4096, "length_ratio": 6.0, "reasoning_language": "en"},
        "mix": {"traces_per_problem": 4},
    }
    path = folder / f"made-{traces}.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    run = Run(recipe.load(path), data=folder / "data")
    problems = -(-traces // SAMPLES)
    _write_stage(run, "seed", (("problems", table) for table in _problems(problems, seed)), {})
    writer = Writer(seed + 1)
    made = (("traces", table) for table in _traces(writer, problems, traces, seed))
    _write_stage(run, "generate", made, {"planted": writer.planted})
    return path


def cases(problems: int, seed: int) -> Iterator[Case]:
    """The problems, those held out first."""
    writer = Writer(seed)
    for number in range(HELD_OUT + problems):
        yield writer.case(number, "eval" if number < HELD_OUT else "train")


def _problems(problems: int, seed: int) -> Iterator[pa.Table]:
    for some in _chunks((case.row for case in cases(problems, seed)), ROWS):
        yield as_table(some, PROBLEM)


def _traces(writer: Writer, problems: int, traces: int, seed: int) -> Iterator[pa.Table]:
    known = cases(problems, seed)
    others = [case.row["text"] for case in islice(known, HELD_OUT)]
    rows = (row for case in known for row in writer.traces(case, others))
    for some in _chunks(islice(rows, traces), ROWS):
        yield as_table(some, TRACE)


def _chunks(rows: Iterable[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    left = iter(rows)
    while some := list(islice(left, size)):
        yield some


def _write_stage(run: Run, name: str, tables: Iterable[tuple[str, pa.Table]], facts: dict[str, Any]) -> None:
    stage, folder = plan.stage(name), run.stage_folder(name)
    output = RunOutput(stage, folder, None, lambda moment: None, lambda line: None)
    output.clear()
    for dataset, table in tables:
        output.write(dataset, table)
    datasets, artifacts = output.seal()
    manifest = Manifest(
        stage=name,
        run=run.recipe.name,
        identity=run.identity(stage),
        datasets=datasets,
        artifacts=artifacts,
        counts={},
        facts=facts,
        recipe=json.dumps(run.recipe.resolved()),
        seconds=0.0,
        started="",
        finished="",
        host="",
        commit=None,
        packages={},
    )
    write_record(folder / MANIFEST_FILE, manifest)
