"""decontaminate: looks for held-out problems and benchmark items in traces and in the problems they answer.

It compares by the rule of `pipeline.similarity.ngrams`, refuses no problem (`seed` does, before a token is spent) and
drops nothing (`mix` does).
"""

import json
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from pipeline.records import VERDICT, content_id
from pipeline.roles import Role
from pipeline.section import Section
from pipeline.shards import as_table
from pipeline.similarity.ngrams import Hit, Overlap, Reference
from pipeline.similarity.normal import normal_words
from pipeline.sources.benchmark import Benchmarks, digests_of, held_out, kept, references, refuse_missing
from pipeline.sources.candidate import SourceError
from pipeline.stage import Inputs, Output, Progress, Reads, Stage, StageError

# What a canary is planted in: ordinary sentences with numbers of their own, so that it is found among other text.
CARRIER = (
    "Our class of 24 worked through a sheet of exercises on 3 May, and one of them went like this.\n\n{}\n\n"
    "Most of us were done after 15 minutes; 2 asked for another sheet."
)
CARRIER_WIDTH = 28  # characters a line: narrow, so that most items are wrapped otherwise than they were


class Config(Section):
    """What is looked for. All problems that are not for training are, and the benchmarks of `seed`, whatever stands
    here.
    """

    benchmarks: Benchmarks = ()  # more files and Hub sets of questions
    n: int = Field(8, ge=2)  # words of an n-gram; items with fewer than 2n words of their own must be found whole
    template_share: float = Field(0.01, gt=0, le=1)  # n-grams in more of a task's (or benchmark's) items are template
    min_share: float = Field(0.5, gt=0, le=1)  # longer items: share of their n-grams that one stretch of a text holds
    canaries: int = Field(20, ge=0)  # items planted in a carrier text on every run, to show that they are found


def benchmark_digests(config: Config, root: Path) -> dict[str, str]:
    """The digest of what each benchmark holds, by its name."""
    return digests_of(config.benchmarks, root)


def refuse(config: Config, roles: Mapping[str, Role], root: Path) -> None:
    """Raise SourceError where a benchmark's file is not there."""
    refuse_missing(config.benchmarks, root)


def collected(config: Config, inputs: Inputs, problems: Iterable[Mapping[str, Any]]) -> list[Reference]:
    """Everything to look for: the held-out problems, each block a set, the benchmarks that `seed` looked for, and more.

    Raises StageError for a benchmark that is missing or malformed, has no such column, or holds no question.
    """
    found = [*held_out(problems), *kept(inputs.table("references").to_pylist())]
    try:
        return [*found, *references(config.benchmarks, inputs.root, {item.set_name for item in found})]
    except SourceError as error:
        raise StageError(str(error)) from error


def plant(items: Sequence[Reference], count: int) -> list[tuple[Reference, str]]:
    """`count` items, chosen by their ids alone, each with a text that holds it re-wrapped among other words."""
    chosen = sorted(items, key=lambda item: content_id("canary", item.set_name, item.item_id))[:count]
    return [(item, CARRIER.format(_wrapped(item.text))) for item in chosen]


def _wrapped(text: str) -> str:
    return textwrap.fill(text, CARRIER_WIDTH, break_long_words=False, break_on_hyphens=False)


def missed_canaries(overlap: Overlap, planted: Sequence[tuple[Reference, str]]) -> list[Reference]:
    """The planted items that the checker does not find in their carrier."""
    return [
        item
        for item, text in planted
        if (item.set_name, item.item_id) not in {(hit.set_name, hit.item_id) for hit in overlap.find(text)}
    ]


def is_own_step(hit: Hit, problem_words: Sequence[str]) -> bool:
    """Whether a whole match in a trace is a step on the way of the trace's own problem: "Calculate 10 * 2." under a
    problem with 10 * 2 * 6 is, though a held-out problem reads the same.

    It is where the item's formula (an operation at least, so three words) stands in the problem as it is.
    """
    formula = [word for word in hit.span.split() if not (len(word) > 1 and word.isalpha())]
    width = len(formula)
    places = range(len(problem_words) - width + 1)
    return hit.kind == "whole" and width >= 3 and any(list(problem_words[at : at + width]) == formula for at in places)


def described(hit: Hit, where: str) -> dict[str, Any]:
    """A hit as a verdict's detail tells it; `where` is "trace" or "problem"."""
    return {
        "benchmark": hit.set_name,
        "item": hit.item_id,
        "span": hit.span,
        "score": round(hit.score, 4),
        "kind": hit.kind,
        "where": where,
    }


class _Look:
    """All hits of a trace: its own, and those of its problem, which are looked for once."""

    def __init__(self, overlap: Overlap, problems: Mapping[str, Mapping[str, Any]]) -> None:
        self._overlap, self._problems = overlap, problems
        self._known: dict[str, list[dict[str, Any]]] = {}

    def through(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """The id of each trace, and what stands in it and in its problem. Raises StageError where a trace's problem is
        not there.
        """
        suspects = self._overlap.suspects([row["raw"] or "" for row in rows])
        for place, row in enumerate(rows):
            yield row["id"], self._at(row, place in suspects)

    def _at(self, row: Mapping[str, Any], suspected: bool) -> list[dict[str, Any]]:
        problem = self._problems.get(row["problem_id"])
        if problem is None:
            raise StageError(
                f"Trace {row['id']} answers problem {row['problem_id']}, which seed/problems does not hold. Run stage "
                f"generate again, so that both come from one set of problems."
            )
        if row["problem_id"] not in self._known:
            found = self._overlap.find(problem["text"], problem["task"])
            self._known[row["problem_id"]] = [described(hit, "problem") for hit in found]
        hits = self._known[row["problem_id"]]
        in_trace = self._overlap.find(row["raw"] or "", problem["task"]) if suspected else []
        if not in_trace:
            return hits
        words = normal_words(problem["text"])
        return [*hits, *(described(hit, "trace") for hit in in_trace if not is_own_step(hit, words))]


def verdict(trace_id: str, hits: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One VERDICT row; `score` is the best hit's, null without one."""
    return {
        "id": trace_id,
        "outcome": "fail" if hits else "pass",
        "reasons": ["contaminated"] if hits else [],
        "score": max((hit["score"] for hit in hits), default=None),
        "detail": json.dumps({"hits": list(hits)} if hits else {}, ensure_ascii=False),
    }


def build(config: Config, inputs: Inputs, problems: Sequence[Mapping[str, Any]], output: Output) -> Overlap:
    """The checker, tried on canaries first. What it cannot find is said and recorded, not hidden."""
    items = collected(config, inputs, problems)
    overlap = Overlap(items, config.n, config.template_share, config.min_share)
    planted = plant(items, config.canaries)
    missed = missed_canaries(overlap, planted)
    output.facts.update(
        reference_items=dict(sorted(Counter(item.set_name for item in items).items())),
        canaries=len(planted),
        canaries_found=len(planted) - len(missed),
        canaries_missed=[f"{item.set_name} {item.item_id}" for item in missed],
        items_without_words=[f"{item.set_name} {item.item_id}" for item in overlap.unmatchable],
    )
    if not items:
        output.say("Nothing is held out and no benchmark is named: there was nothing to compare the traces with.")
    if missed:
        output.say(
            f"{len(missed)} of {len(planted)} planted canaries were not found; copies of such items would pass. The "
            f"first: {missed[0].set_name} {missed[0].item_id}: {missed[0].text[:80]!r}. An item without a question in "
            f"words is only found where it is all of a text."
        )
    return overlap


def run(config: Config, inputs: Inputs, output: Output) -> None:
    """Look through each trace and, once each, through the problems. `counts` holds the traces by reason."""
    problems = {row["id"]: row for row in inputs.table("problems").to_pylist()}
    overlap = build(config, inputs, list(problems.values()), output)
    look = _Look(overlap, problems)
    sets: Counter[str] = Counter()
    output.counts.update({"pass": 0, "contaminated": 0})
    done = 0
    for table in inputs.batches("traces"):
        verdicts = []
        for trace_id, hits in look.through(table.to_pylist()):
            sets.update({hit["benchmark"] for hit in hits})
            verdicts.append(verdict(trace_id, hits))
        output.counts.update(row["reasons"][0] if row["reasons"] else "pass" for row in verdicts)
        output.write("verdicts", as_table(verdicts, VERDICT))
        done += len(verdicts)
        output.progress(Progress(done, None, "traces"))
    output.facts["contaminated_by_set"] = dict(sorted(sets.items()))


STAGE = Stage(
    name="decontaminate",
    version=3,
    config=Config,
    run=run,
    reads={
        "traces": Reads("generate", "traces", ("id", "problem_id", "raw")),
        "problems": Reads("seed", "problems", ("id", "text", "task", "split")),
        "references": Reads("seed", "references", ("id", "benchmark", "item", "text")),
    },
    writes={"verdicts": VERDICT},
    contents=benchmark_digests,
    refuse=refuse,
)
