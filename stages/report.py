"""report: one self-contained page of what the run did and what came out, and the same facts as JSON beside it.

It measures and judges nothing: figures come from the manifests, samples from the tables. Layout is in `pipeline/page`.
"""

import heapq
import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from pydantic import Field

from pipeline import __version__, pilot, quantisation
from pipeline.manifest import Manifest, write_durably
from pipeline.page import html
from pipeline.rounds import Standing
from pipeline.sampling import in_one_go
from pipeline.section import Section
from pipeline.shards import picked
from pipeline.stage import Inputs, Output, Reads, Stage

# Whose facts it shows; export's where it wrote more than the checkpoint as it is.
STAGES = ("seed", "generate", "verify", "filter", "dedupe", "decontaminate", "mix", "sft", "export", "eval")
JUDGES = ("verify", "filter", "dedupe", "decontaminate")


class Config(Section):
    """How many samples the page shows. The figures are the same for any value."""

    kept_traces: int = Field(4, ge=0)  # sample traces that were kept
    traces_per_reason: int = Field(2, ge=0)  # sample traces for each reason that dropped some
    answers: int = Field(4, ge=0)  # held-out questions that the student answered rightly, and as many it did not
    text_limit: int = Field(20_000, ge=100)  # characters of one shown text; the rest is cut, and the cut is shown


def build(manifests: Mapping[str, Manifest], lengths: Mapping[str, list[int]]) -> dict[str, Any]:
    """What report.json holds, from the stages' manifests and the lengths of the traces."""
    scores, mix, sft = manifests["eval"].facts, manifests["mix"].facts, manifests["sft"].facts
    last = manifests["eval"]
    return {
        "run": last.run,
        "description": json.loads(last.recipe).get("description", ""),
        "version": __version__,
        "commit": last.commit,
        "packages": last.packages,
        "weights": {name: row["weights"] for name, row in sorted(scores["models"].items())},
        **{key: scores[key] for key in ("questions", "samples", "split", "models", "base_prompt", "base_prompts")},
        **{key: scores[key] for key in ("paired", "gap_recovered")},
        "exports": scores.get("exports", []),
        "not_asked": not_asked(manifests["generate"].facts),
        "funnel": mix["funnel"],
        "funnel_by_task": mix["funnel_by_task"],
        "traces": sum(row["traces"] for row in mix["funnel"]),
        "contamination": contamination(manifests["decontaminate"].facts),
        "lengths": {name: spread(values) for name, values in lengths.items()},
        "pilot": pilot.beside(manifests["generate"].facts.get("pilot"), actual(manifests, lengths)),
        "curve": {"train": points(sft.get("loss", ())), "validation": points(sft.get("eval_loss", ()))},
        "seconds": {name: manifest.seconds for name, manifest in manifests.items()},
        "rows": {name: manifest.rows for name, manifest in manifests.items()},
        "peak_memory_mib": {name: manifest.facts.get("peak_memory_mib") for name, manifest in manifests.items()},
    }


def rounds(found: tuple[Standing, Sequence[Manifest]] | None) -> dict[str, Any] | None:
    """The scores of each round's student on the block that decided between them; None for a run without rounds."""
    if found is None:
        return None
    standing, manifests = found
    keys = ("pass_at_1", "interval", "mean_tokens", "truncated_share")
    rows = [manifest.facts["models"]["student"] for manifest in manifests]
    return {
        "split": manifests[0].facts["split"],
        "chosen": standing.chosen,
        "why": standing.why,
        "rounds": [{"round": number, **{key: row[key] for key in keys}} for number, row in enumerate(rows, start=1)],
    }


def contamination(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What traces were compared with: items and hits of each set, and the planted canaries that were found."""
    hits = facts.get("contaminated_by_set", {})
    return {
        "sets": [
            {"name": name, "items": items, "hits": hits.get(name, 0)}
            for name, items in facts.get("reference_items", {}).items()
        ],
        "canaries": facts.get("canaries", 0),
        "canaries_found": facts.get("canaries_found", 0),
        "canaries_missed": facts.get("canaries_missed", []),
    }


def actual(manifests: Mapping[str, Manifest], lengths: Mapping[str, list[int]]) -> dict[str, float | None]:
    """What generate came to, by the names of a pilot's predictions. Hours only where all of it was made in one go."""
    made, judged = manifests["generate"], manifests["verify"].facts
    tokens = [value for values in lengths.values() for value in values]
    decided = judged.get("right", 0) + judged.get("wrong", 0)
    return {
        "completion_tokens": float(sum(tokens)),
        "hours": made.facts.get("seconds", 0.0) / 3600 if in_one_go(made.facts) else None,
        "truncated_share": len(lengths["cut off"]) / len(tokens) if tokens else None,
        "right_share": judged.get("right", 0) / decided if decided else None,
    }


def not_asked(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The problems that generate asked nobody, which therefore have no line in the funnel: how many, and why."""
    rows = [
        {"reason": f"no teacher's route fits {name}", "problems": count}
        for name, count in facts.get("unrouted", {}).items()
    ]
    if facts.get("unverifiable_skipped"):
        rows.append({"reason": "variants whose answer nobody knows", "problems": facts["unverifiable_skipped"]})
    return rows


def points(pairs: Iterable[Any]) -> list[list[float]]:
    """A curve as [step, value] pairs."""
    return [[float(step), float(value)] for step, value in pairs]


def spread(values: list[int]) -> dict[str, float | None]:
    """How many lengths there are, their mean, median, 95th percentile and largest.

    The percentile is the smallest length that at least 95 % of them do not exceed.
    """
    if not values:
        return {"traces": 0, "mean": None, "median": None, "p95": None, "longest": None}
    ordered = sorted(values)
    return {
        "traces": len(ordered),
        "mean": sum(ordered) / len(ordered),
        "median": statistics.median(ordered),
        "p95": ordered[-(-95 * len(ordered) // 100) - 1],  # in whole numbers: 0.95 is none in binary
        "longest": ordered[-1],
    }


def token_lengths(batches: Iterable[pa.Table], kept: set[str]) -> dict[str, list[int]]:
    """Completion tokens of the traces that were kept, dropped, and cut off by a limit (dropped or not).

    A completion that failed has no length: its 0 tokens say nothing of what the teacher writes.
    """
    found: dict[str, list[int]] = {"kept": [], "dropped": [], "cut off": []}
    for table in batches:
        columns = (table.column(name).to_pylist() for name in ("id", "finish", "completion_tokens"))
        for trace_id, finish, tokens in zip(*columns, strict=True):
            if finish == "error":
                continue
            group = "cut off" if finish == "length" else "kept" if trace_id in kept else "dropped"
            found[group].append(tokens)
    return found


def choose(config: Config, fates: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], list[str]]:
    """Ids of the traces to show, by (stage, reason); ("mix", "kept") holds kept ones. The smallest ids of each group,
    which are hashes, so that the choice is fair and no order of rows changes it.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for fate in fates:
        key = ("mix", "kept") if fate["kept"] else (fate["stage"], fate["reason"])
        groups.setdefault(key, []).append(fate["id"])
    return {
        key: heapq.nsmallest(config.kept_traces if key == ("mix", "kept") else config.traces_per_reason, ids)
        for key, ids in groups.items()
    }


def sample_traces(config: Config, inputs: Inputs, funnel: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Groups of sample traces, the kept ones first, then in the funnel's order."""
    chosen = choose(config, inputs.table("fates").to_pylist())
    ids = {trace_id for group in chosen.values() for trace_id in group}
    traces = picked(inputs.batches("traces"), ids)
    trained = picked(inputs.batches("examples"), ids)
    verdicts = {judge: picked(inputs.batches(judge), ids) for judge in JUDGES}
    problems = picked(inputs.batches("problems"), {trace["problem_id"] for trace in traces.values()})

    def item(trace_id: str) -> dict[str, Any]:
        trace = traces[trace_id]
        problem = problems[trace["problem_id"]]
        completion = trained[trace_id]["completion"][-1]["content"] if trace_id in trained else None
        return {
            "id": trace_id,
            "problem": cut(problem["text"], config.text_limit),
            "answer": cut(problem["answer"], config.text_limit),
            "task": problem["task"],
            "raw": cut(trace["raw"], config.text_limit),
            "trained": cut(completion, config.text_limit),
            "finish": trace["finish"],
            "tokens": trace["completion_tokens"],
            "verdicts": [
                {"stage": judge, "outcome": rows[trace_id]["outcome"], "reasons": rows[trace_id]["reasons"]}
                for judge, rows in verdicts.items()
                if trace_id in rows
            ],
        }

    order = [("mix", "kept"), *((row["stage"], row["reason"]) for row in funnel if row["reason"] != "kept")]
    counts = {(row["stage"], row["reason"]): row["traces"] for row in funnel}
    return [
        {
            "title": key[1],
            "about": f"{counts.get(key, 0):,} traces" + ("" if key[1] == "kept" else f", by {key[0]}"),
            "items": [item(trace_id) for trace_id in chosen[key] if trace_id in traces],
        }
        for key in order
        if chosen.get(key)
    ]


def sample_answers(config: Config, inputs: Inputs, prompts: Mapping[str, str]) -> list[dict[str, Any]]:
    """Questions that the student answered rightly and some it did not, with all models' first answers.

    `prompts`: the prompt of each model that counts.
    """
    replies: dict[str, dict[str, dict[str, Any]]] = {}
    for table in inputs.batches("scores"):
        for row in table.to_pylist():
            if row["sample"] == 0 and row["prompt_name"] == prompts[row["model"]]:
                replies.setdefault(row["problem_id"], {})[row["model"]] = row
    answered = [one for one in sorted(replies) if "student" in replies[one]]
    right = [one for one in answered if replies[one]["student"]["outcome"] == "pass"]
    wrong = [one for one in answered if replies[one]["student"]["outcome"] != "pass"]
    chosen = {"right": right[: config.answers], "not right": wrong[: config.answers]}
    problems = picked(inputs.batches("problems"), {one for group in chosen.values() for one in group})
    counts = {"right": len(right), "not right": len(wrong)}
    return [
        {
            "title": f"The distilled student is {name}",
            "about": f"{counts[name]:,} questions, by the first answer to each",
            "items": [
                {
                    "problem": cut(problems[problem_id]["text"], config.text_limit),
                    "answer": cut(problems[problem_id]["answer"], config.text_limit),
                    "task": problems[problem_id]["task"],
                    "replies": list(shown(config, replies[problem_id])),
                }
                for problem_id in group
            ],
        }
        for name, group in chosen.items()
        if group
    ]


def shown(config: Config, replies: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The models' answers to one question, the student's first."""
    for model in ("student", "base", "teacher"):
        if model in replies:
            row = replies[model]
            yield {
                "model": model,
                "prompt": row["prompt_name"],
                "outcome": row["outcome"],
                "reasons": row["reasons"],
                "tokens": row["completion_tokens"],
                "raw": cut(row["raw"], config.text_limit),
            }


def cut(text: str | None, limit: int) -> str | None:
    """A text of at most `limit` characters; where some are left out, it says how many."""
    if text is None or len(text) <= limit:
        return text
    return f"{text[:limit]}\n[... {len(text) - limit:,} more characters]"


def run(config: Config, inputs: Inputs, output: Output) -> None:
    """Gather the facts and samples, and write index.html and report.json."""
    manifests = {stage: inputs.manifest(f"{stage}_facts") for stage in STAGES if inputs.has(f"{stage}_facts")}
    fates = inputs.table("fates")
    kept = set(fates.filter(fates.column("kept")).column("id").to_pylist())
    lengths = token_lengths(inputs.batches("traces"), kept)
    report = {**build(manifests, lengths), "rounds": rounds(inputs.rounds())}
    stages = [
        {
            "name": name,
            "seconds": manifest.seconds,
            "rows": manifest.rows,
            "config": manifest.identity.config,
            "counts": manifest.counts,
            "facts": manifest.facts,
        }
        for name, manifest in manifests.items()
    ]
    traces = sample_traces(config, inputs, report["funnel"])
    answers = sample_answers(config, inputs, {name: row["prompt"] for name, row in report["models"].items()})
    page = html.render(report, traces, answers, lengths, stages)
    folder = output.artifact("page")
    write_durably(folder / "report.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    write_durably(folder / "index.html", page)
    output.facts["bytes"] = len(page.encode("utf-8"))


_VERDICT = ("id", "outcome", "reasons")

STAGE = Stage(
    name="report",
    version=4,
    config=Config,
    run=run,
    reads={
        "problems": Reads("seed", "problems", ("id", "text", "answer", "task")),
        "traces": Reads("generate", "traces", ("id", "problem_id", "raw", "finish", "completion_tokens")),
        **{judge: Reads(judge, "verdicts", _VERDICT) for judge in JUDGES},
        "fates": Reads("mix", "fates", ("id", "kept", "stage", "reason")),
        "examples": Reads("mix", "examples", ("id", "completion")),
        "scores": Reads(
            "eval",
            "scores",
            ("id", "model", "prompt_name", "problem_id", "sample", "outcome", "reasons", "completion_tokens", "raw"),
        ),
        **{f"{stage}_facts": Reads(stage, facts=True) for stage in STAGES if stage != "export"},
        "export_facts": Reads("export", facts=True, given=quantisation.fewer_bits),
    },
    artifacts=("page",),
    shows_rounds=True,
)
