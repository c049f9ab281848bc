"""Whole curation of very many traces: seconds and memory of verify, filter, dedupe, decontaminate and mix.

Run: python -m tests.bench.curate_scale [--traces 10000 100000 1000000] [--folder FOLDER] [--to STAGE]
[--figures FOLDER]. Made-up traces of 300 tokens (tests/made_run.py) are curated by the command line, all stages and
all filters in use, on the processors that the machine has. Seconds and memory of each stage are those in its manifest:
the memory is that of the process and of all it started, together, at its highest. Making the traces counts for nothing.

With --folder everything stays there, and a later call goes on: `--to filter`, say, makes what is lacking and stops
after that stage. --figures writes the figures and a plot of them. The last line is JSON; exit code 1 where a bar is
missed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from pipeline import plan
from pipeline.manifest import Manifest, read_manifest
from tests import bars, made_run

ROOT = Path(__file__).resolve().parent.parent.parent
STAGES = plan.ORDER[plan.ORDER.index("verify") : plan.ORDER.index("mix") + 1]
MEMORY_BAR_GIB = 6.0
GROWTH_BAR = 1.1  # seconds a trace at one size over those at a tenth of it
COLOURS = dict(zip(STAGES, ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#a463f2"), strict=True))


def curated(folder: Path, traces: int, to: str) -> dict[str, Manifest]:
    """Make traces and curate them as far as is asked, where that is not done yet; the manifests of the stages done."""
    data, path = folder / "data", folder / f"made-{traces}.yaml"
    stages = data / "runs" / path.stem
    if read_manifest(stages / "generate") is None:
        bars.show(f"making {traces:,} traces")
        made_run.write(folder, traces)
    if to in STAGES:
        environment = {**os.environ, "SEQDISTILL_DATA": str(data)}
        command = [sys.executable, "-m", "pipeline.cli", "run", str(path), "--to", to]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    found = {name: read_manifest(stages / name) for name in STAGES}
    return {name: manifest for name, manifest in found.items() if manifest is not None}


def figures(traces: int, manifests: dict[str, Manifest]) -> dict[str, Any]:
    """What the plot and the bars need of one size."""
    return {
        "traces": traces,
        "processors": len(os.sched_getaffinity(0)),
        "seconds": {name: round(one.seconds, 1) for name, one in manifests.items()},
        "memory_gib": {name: round(one.facts["peak_memory_mib"] / 1024, 3) for name, one in manifests.items()},
        "fates": manifests["mix"].datasets["fates"].rows,
        "funnel": manifests["mix"].facts["funnel"],
    }


def plot(found: list[dict[str, Any]], path: Path) -> None:
    """Seconds by size, of each stage and of all, and the memory of each stage beside its bar."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    sizes = [one["traces"] for one in found]
    settings = {
        "svg.hashsalt": "seqdistill",
        "svg.fonttype": "none",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with pyplot.rc_context({**settings, "axes.grid": True, "grid.alpha": 0.3}):
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(8.4, 3.2), layout="constrained")
        totals = [sum(one["seconds"].values()) for one in found]
        left.plot(sizes, totals, "o-", color="#333333", label="all five")
        for name in STAGES:
            left.plot(sizes, [one["seconds"][name] for one in found], "o-", color=COLOURS[name], label=name, alpha=0.8)
            right.plot(sizes, [one["memory_gib"][name] for one in found], "o-", color=COLOURS[name], alpha=0.8)
        for size, total in zip(sizes, totals, strict=True):
            left.annotate(f"{total:,.0f} s", (size, total), (0, 6), textcoords="offset points", ha="center")
        left.set(
            xscale="log",
            yscale="log",
            xlabel="traces of 300 tokens",
            ylabel=f"seconds on {found[-1]['processors']} cores",
        )
        left.legend(frameon=False, fontsize=8)
        left.margins(x=0.12, y=0.12)
        right.axhline(MEMORY_BAR_GIB, color="#cc3333", linestyle="--", linewidth=1)
        right.annotate("the bar", (sizes[0], MEMORY_BAR_GIB), (0, -11), textcoords="offset points", color="#cc3333")
        right.set(xscale="log", xlabel="traces of 300 tokens", ylabel="GiB at the highest, all processes")
        right.set_ylim(0, MEMORY_BAR_GIB * 1.08)
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)


def judged(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The bars: nothing lost, memory at the largest size, growth between the two largest."""
    largest = found[-1]
    made = [
        bars.none(
            f"of {largest['traces']:,} traces, those without a fate",
            largest["traces"] - largest["fates"],
            largest["traces"],
        ),
        bars.below("GiB of memory at the highest, all processes", [max(largest["memory_gib"].values())], MEMORY_BAR_GIB)
        | {"traces": largest["traces"], "by_stage": largest["memory_gib"]},
    ]
    if len(found) > 1:
        smaller = found[-2]
        times = largest["traces"] / smaller["traces"]
        seconds = [sum(one["seconds"].values()) for one in (smaller, largest)]
        made.append(
            bars.below(
                f"seconds of {largest['traces']:,} traces over those of {smaller['traces']:,}",
                [seconds[1] / seconds[0]],
                round(GROWTH_BAR * times, 2),
                seconds=[round(one, 1) for one in seconds],
                by_stage={name: [one["seconds"][name] for one in (smaller, largest)] for name in STAGES},
            )
        )
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="sizes, ascending")
    parser.add_argument("--folder", type=Path, help="where everything stays; without it, in a temporary folder")
    parser.add_argument("--to", choices=("generate", *STAGES), default="mix", help="the last stage to run")
    parser.add_argument("--figures", type=Path, help="a folder for the figures and the plot")
    chosen = parser.parse_args()
    place = tempfile.TemporaryDirectory() if chosen.folder is None else nullcontext(str(chosen.folder.resolve()))
    with place as folder:
        found = []
        for traces in chosen.traces:
            manifests = curated(Path(folder), traces, chosen.to)
            for name, one in manifests.items():
                bars.show(f"{traces:,} {name}: {one.seconds:.1f} s, {one.facts['peak_memory_mib']:,} MiB")
            if len(manifests) == len(STAGES):
                found.append(figures(traces, manifests))
    if len(found) < len(chosen.traces):
        bars.show(f"not all is curated yet: go on with --to mix and the same --folder ({chosen.folder})")
        return 0
    if chosen.figures is not None:
        chosen.figures.mkdir(parents=True, exist_ok=True)
        text = json.dumps(found, indent=1) + "\n"
        (chosen.figures / "curate-scale.json").write_text(text, encoding="utf-8")
        plot(found, chosen.figures / "curate-scale.svg")
    return bars.end(*judged(found))


if __name__ == "__main__":
    sys.exit(main())
