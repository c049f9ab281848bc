"""What `generate`, and `seed` where it augments, would take before anything is spent. It asks no model.

Figures come from what this machine's store and earlier runs measured; where nothing was measured, it says so.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline import plan
from pipeline.manifest import Manifest, read_manifest
from pipeline.run import Run
from pipeline.runner import Runner
from pipeline.stage import Bill

BYTES_PER_TOKEN = 12  # of journal and shards together, for text and token ids of a completion


def variants(run: Run) -> Bill | None:
    """What seed would reuse and buy of the teacher's variants; None where it is fresh."""
    state = run.state("seed")
    return None if state.word == "fresh" else Runner(run).bill(plan.stage("seed"), state)


def missing(run: Run) -> int:
    """Completions that generate would have to buy (at most). Expects a fresh seed."""
    return Runner(run).bill(plan.stage("generate"), run.state("generate")).missing


def estimate(run: Run) -> list[str]:
    """Lines for a person. Expects a fresh seed, since it counts the problems that seed wrote."""
    bill = Runner(run).bill(plan.stage("generate"), run.state("generate"))
    lines = [
        f"generate wants {bill.wanted:,} completions; {bill.reused:,} are in the store, {bill.missing:,} are missing."
    ]
    if not bill.missing:
        return [*lines, "Nothing is to be bought."]
    config: Any = run.recipe.sections["generate"]
    limit = bill.missing * config.tokens_limit()
    if bill.tokens is None:
        lines.append(
            f"Tokens to generate: at most {limit:,}; no completion of this teacher is stored to learn from yet."
        )
    else:
        lines.append(f"Tokens to generate: about {bill.tokens:,}, by the mean of this teacher's stored completions.")
    tokens = limit if bill.tokens is None else bill.tokens
    each = BYTES_PER_TOKEN + config.label_bytes(run.recipe.teachers)
    lines.append(f"Disk: about {tokens * each / 1e6:,.1f} MB.")
    timed = last_timed(run)
    if timed is None:
        lines.append("Time: unknown; this teacher has generated nothing in this data folder yet.")
    else:
        speed = float(timed.facts["tokens_per_s"])
        lines.append(
            f"Time: about {tokens / speed / 3600:.2f} h at {speed:,.0f} tokens/s, as run {timed.run} measured."
        )
    return lines


def last_timed(run: Run) -> Manifest | None:
    """The newest generate of any run in the data folder that timed this teacher's weights."""
    weights = run.weights("teacher")
    timed = [
        manifest
        for manifest in _readable(
            folder for place in ("*/generate", "*/round-*/generate") for folder in run.folder.parent.glob(place)
        )
        if manifest.identity.models.get("teacher") == weights and manifest.facts.get("tokens_per_s")
    ]
    return max(timed, key=lambda manifest: manifest.finished, default=None)


def _readable(folders: Iterable[Path]) -> Iterator[Manifest]:
    """The manifests that can be read. One that is damaged, or of another version of this program, timed nothing."""
    for folder in folders:
        try:
            manifest = read_manifest(folder)
        except ValueError:
            continue
        if manifest is not None:
            yield manifest
