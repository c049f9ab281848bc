"""A whole small run for tests: own problems, canned teacher answers, a tiny student; eleven stages in seconds."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from pipeline import recipe
from pipeline.manifest import Manifest
from pipeline.run import Run
from pipeline.runner import Runner, Watcher
from tests.tiny import build

ROOT = Path(__file__).resolve().parent.parent


def problem(a: int, b: int) -> str:
    return f"What is {a} + {b}?"


def answers(a: int, b: int) -> list[str]:
    """Right and short, right and long, wrong, without an answer; in another order for each problem."""
    total = a + b
    written = [
        f"{a} plus {b} makes {total}.\nSo the answer is \\boxed{{{total}}}.",
        f"First take {a}. Then add {b} to it, which gives {total}.\nThe final answer is \\boxed{{{total}}}.",
        f"{a} + {b} = {total + 1}\nThe answer is \\boxed{{{total + 1}}}.",
        f"I add {a} and {b} but then I forget what came out of it",
    ]
    turn = (a + b) % 4
    return written[turn:] + written[:turn]


def write(folder: Path, problems: int = 24, eval_problems: int = 6, **changes: Any) -> Path:
    """Write problems, canned answers, a tiny student and a recipe into a folder; returns the recipe's path.

    `changes` are dotted recipe keys with dots as double underscores: generate__samples=3.
    """
    pairs = [(10 + i, 30 + 2 * i) for i in range(problems)]
    held_out = [(200 + i, 500 + 3 * i) for i in range(eval_problems)]
    _jsonl(folder / "problems.jsonl", [{"text": problem(*pair), "answer": str(sum(pair))} for pair in pairs])
    _jsonl(folder / "eval.jsonl", [{"text": problem(*pair), "answer": str(sum(pair))} for pair in held_out])
    _jsonl(
        folder / "canned.jsonl",
        [{"text": problem(*pair), "completions": answers(*pair)} for pair in [*pairs, *held_out]],
    )
    if not (folder / "student").exists():
        build(folder / "student")
    values = {
        "teacher": {"model": str(folder / "canned.jsonl"), "engine": "replay"},
        "student": {"model": str(folder / "student"), "engine": "hf", "dtype": "float32", "max_model_len": 512},
        "seed": {
            "sources": [
                {
                    "kind": "file",
                    "path": str(folder / "problems.jsonl"),
                    "defaults": {"task": "sums", "license": "CC0-1.0"},
                },
                {"kind": "file", "path": str(folder / "eval.jsonl"), "defaults": {"task": "sums"}, "split": "eval"},
            ]
        },
        "generate": {"samples": 3, "max_tokens": 64},
        "mix": {"validation_share": 0.2},
        "sft": {"epochs": 1, "batch_tokens": 512, "compute_dtype": "float32", "max_length": 400},
        "eval": {"max_tokens": 8},
    }
    for dotted, value in changes.items():
        *path, last = dotted.split("__")
        place: Any = values
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def write_rounds(folder: Path) -> Path:
    """Write what `write` does, and problems of a block `dev`, for a run of three rounds at most.

    No student ever answers right, so that it ends with the second round, and the first one's student is chosen.
    """
    defaults = {"task": "sums", "verifier": "exact", "license": "CC0-1.0"}
    kinds = [("problems", "train"), ("dev", "dev"), ("eval", "eval")]
    path = write(
        folder,
        problems=8,
        eval_problems=2,
        seed__sources=[
            {"kind": "file", "path": str(folder / f"{name}.jsonl"), "defaults": {**defaults}, "split": split}
            for name, split in kinds
        ],
        rounds={"count": 3},
        generate={"samples": 2, "max_tokens": 64},
        verify__exec={"workers": 1},
        eval={"max_tokens": 8, "exec": {"workers": 1}},
    )
    rows = [{"text": problem(71 + n, 810 + n), "answer": str(881 + 2 * n)} for n in range(2)]
    _jsonl(folder / "dev.jsonl", rows)
    with open(folder / "canned.jsonl", "a") as file:
        file.writelines(json.dumps({"text": row["text"], "completions": ["\\boxed{1}"]}) + "\n" for row in rows)
    return path


def moved(template: Path, folder: Path) -> Path:
    """Copy a written folder with all that was run in it; the recipe's path there, whose own paths are moved along."""
    shutil.copytree(template, folder)
    path = folder / "small.yaml"
    path.write_text(path.read_text().replace(str(template), str(folder)))
    return path


def run_of(path: Path, *settings: str, data: Path | None = None) -> Run:
    """The run of a recipe; its data lie beside it where nothing else is said."""
    return Run(recipe.load(path, settings), data=data or path.parent / "data")


def ran(run: Run, to: str, force: Iterable[str] = ()) -> list[str]:
    """Bring a run to a stage, in this process; the names of the stages that it really ran, in order."""
    names: list[str] = []

    def ends(name: str, manifest: Manifest, did: bool) -> None:
        if did:
            names.append(name)

    Runner(run, Watcher(ends=ends)).through(to, force)
    return names


def manifest(run: Run, stage: str) -> Manifest:
    """The manifest of a stage that has finished."""
    found = run.manifest(stage)
    assert found is not None, f"{stage} has not finished"
    return found


def can_variants(path: Path) -> None:
    """Have the canned teacher of a written recipe make a harder problem of every problem, and solve both."""
    canned = path.parent / "canned.jsonl"
    rows_of = [json.loads(line) for line in canned.read_text().splitlines()]
    lines = []
    for row in rows_of:
        text = f"{row['text'][:-1]}, and how much is that and 1?"
        total = sum(int(word) for word in re.findall(r"\d+", row["text"]))
        said = [f"<problem>{text}</problem>\n{answer}" for answer in row["completions"]]
        lines += [{"text": row["text"], "completions": said}]
        lines += [{"text": text, "completions": [f"Step {n}.\n\\boxed{{{total + 1}}}" for n in "abc"]}]
    canned.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "pipeline.cli", *map(str, words)]


def environment(data: Path) -> dict[str, str]:
    return {**os.environ, "SEQDISTILL_DATA": str(data), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


def seqdistill(data: Path, *words: str | Path, code: int = 0) -> str:
    """Run the command line as a user would; returns what it printed. Fails unless it exits with `code`."""
    answer = subprocess.run(
        command(*words), cwd=ROOT, env=environment(data), capture_output=True, text=True, timeout=300
    )
    assert answer.returncode == code, f"exit {answer.returncode}, expected {code}:\n{answer.stdout}\n{answer.stderr}"
    return answer.stdout + answer.stderr


def killed(data: Path, *words: str | Path, when: Callable[[], bool], wait_s: float = 0.0, poll_s: float = 0.1) -> bool:
    """Start the command line, and end it by SIGKILL, with a wait, once `when` holds. Whether it was still running."""
    process = subprocess.Popen(
        command(*words), cwd=ROOT, env=environment(data), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not when():
        time.sleep(poll_s)
    time.sleep(wait_s)
    process.kill()
    return process.wait() == -signal.SIGKILL
