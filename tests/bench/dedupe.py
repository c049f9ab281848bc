"""Near-duplicate search beside other programs: documents a second on one core, what it finds, and what it takes.

Run: python -m tests.bench.dedupe [--documents 100000] [--words 4500] [--peer-documents 1000] [--rounds 3]
[--peers PYTHON]. PYTHON is an interpreter of an environment with the other programs; without it one is made beside
the system's temporary files, with the versions of PEERS from PyPI. Each is run as `tests/bench/peers/minhash.py`
says, on texts that ours reads too, at the same length of shingles and the same threshold. Seconds are of CPU time, of
one process, without starting it; signing, comparing and verifying are in ours. Texts are made up, as long as reasoning
is (a log-normal length), one in ten a copy with few words changed or none.

What is found is measured on planted pairs (tests/duplicates.py): recall of the edited copies whose Jaccard index, by
its plain definition, is at least the threshold, and precision of all that was found; a copy with another number found
is never right. The last line is JSON; exit code 1 where a bar is missed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import tracemalloc
import venv
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipeline.records import TRACE, VERDICT
from pipeline.shards import as_table
from pipeline.similarity.minhash import Shingling
from pipeline.similarity.repeats import Repeat, repeats
from pipeline.text import words
from stages import dedupe
from tests import bars
from tests.desk import DeskInputs, DeskOutput
from tests.duplicates import EDITS, Writer

PEERS = {
    "datatrove": "datatrove==0.10.1 spacy==3.8.18 tokenizers==0.23.3 orjson==3.13.0 xxhash==3.8.2",
    "datasketch": "datasketch==2.0.0",
    "text_dedup": "text-dedup==0.4.0",
}
SPEED_BARS = {"datatrove": 5.0, "datasketch": 5.0, "text_dedup": 1.5}
RECALL_BARS = {0.8: 0.99, 0.75: 0.95}
PRECISION_BAR, GROWTH_BAR, BYTES_BAR = 0.99, 2.2, 1024
START = 5  # texts that a program is run over to see what starting it takes
TURNS = 9
BUCKETS = (12_500, 25_000, 50_000, 100_000)
SCRIPT = Path(__file__).parent / "peers" / "minhash.py"


def cpu_s(work: Callable[[], Any]) -> float:
    """Seconds of CPU time."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def true_jaccard(one: str, other: str) -> float:
    """The Jaccard index of the sets of runs of five words, by its definition."""
    sets = []
    for text in (one, other):
        found = words(text)
        sets.append({tuple(found[at : at + 5]) for at in range(max(1, len(found) - 4))})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def planted(pairs: int, mean_words: int) -> tuple[list[str], dict[int, tuple[str, bool, float]]]:
    """Texts two by two, and of each second one: how it was edited, whether it may count, and the Jaccard index."""
    writer = Writer(7)
    texts: list[str] = []
    known = {}
    edits = list(EDITS.items())
    for number in range(pairs):
        edit, may_count = edits[number % len(edits)]
        base = writer.sentences(writer.length(mean_words))
        texts += [" ".join(base), " ".join(edit(writer, base))]
        known[len(texts) - 1] = (edit.__name__, may_count, true_jaccard(texts[-2], texts[-1]))
    return texts, known


def quality(pairs: int, mean_words: int) -> list[dict[str, Any]]:
    """Recall at each threshold, precision, and copies with other numbers that were merged."""
    texts, known = planted(pairs, mean_words)
    made = []
    right = wrong = merged = 0
    for threshold, bar in RECALL_BARS.items():
        found = repeats(texts, Shingling(threshold))
        wanted = {place for place, (_, may, jaccard) in known.items() if may and jaccard >= threshold}
        good = {place for place in wanted if place in found and found[place].of == place - 1}
        right += len(good)
        wrong += len(found) - len(good)
        merged += sum(place in found for place, (_, may, _) in known.items() if not may)
        missed = Counter(known[place][0] for place in wanted - good)
        near = sum(known[place][2] < threshold + 0.05 for place in wanted)
        bars.show(
            f"threshold {threshold}: {len(good)} of {len(wanted)} found ({near} within .05 of it); missed {missed}"
        )
        made.append(
            above(f"recall of planted pairs at Jaccard >= {threshold}", [len(good) / len(wanted)], bar, len(wanted))
        )
    made.append(above("precision on planted pairs", [right / (right + wrong)], PRECISION_BAR, right + wrong))
    made.append(bars.none("copies with other numbers that were merged", merged, 2 * pairs * 2 // len(EDITS)))
    return made


def above(bar: str, values: Sequence[float], limit: float, count: int) -> dict[str, Any]:
    return bars.above(bar, values, limit) | {"n": count}


def growth() -> dict[str, Any]:
    """One bucket of identical texts: what twice as many cost, by the least of several turns of each size.

    Fractions of a second vary by a fifth and more on a shared machine, and only ever upwards.
    """
    text = " ".join(Writer(3).sentences(60))
    turns = [[cpu_s(lambda size=size: repeats([text] * size, Shingling())) for size in BUCKETS] for _ in range(TURNS)]
    spent = [min(of_size) for of_size in zip(*turns, strict=True)]
    ratios = [later / earlier for earlier, later in pairwise(spent)]
    bars.show(f"identical texts: {dict(zip(BUCKETS, (round(one, 2) for one in spent), strict=True))} s")
    return bars.below_always("seconds of one bucket of twice as many identical texts", ratios, GROWTH_BAR)


def memory(documents: int) -> list[dict[str, Any]]:
    """Bytes a document at the peak, beside the texts: with few copies, with near copies alone, and of one text."""
    writer = Writer(5)
    base = " ".join(writer.sentences(90)).split()
    corpora = {
        "one in ten a copy": list(writer.traces(documents, 60)),
        "near copies of one text": [" ".join([*base, f"{number % 3000}"]) for number in range(documents)],
        "one text": [" ".join(base)] * documents,
    }
    works = {name: lambda texts=texts: repeats(texts, Shingling()) for name, texts in corpora.items()}
    with tempfile.TemporaryDirectory() as folder:
        works["the stage, one in ten a copy"] = stage_work(corpora["one in ten a copy"], Path(folder))
        made = []
        for name, work in works.items():
            tracemalloc.start()
            work()
            peak = tracemalloc.get_traced_memory()[1] / documents
            tracemalloc.stop()
            bar = bars.below(f"peak bytes a document beside the text, {name}", [peak], BYTES_BAR)
            made.append(bar | {"documents": documents})
    return made


def stage_work(texts: list[str], folder: Path) -> Callable[[], Any]:
    """The stage over traces of one problem. Tables of Arrow, where the texts lie, are not counted."""
    empty = {name: dict.fromkeys(schema.names) for name, schema in (("trace", TRACE), ("verdict", VERDICT))}
    ids = [f"{number:032x}" for number in range(len(texts))]
    more = {"problem_id": "p", "teacher": "t", "completion_tokens": 60}
    traces = [{**empty["trace"], "id": key, "raw": text, **more} for key, text in zip(ids, texts, strict=True)]
    verdicts = [{**empty["verdict"], "id": key, "outcome": "pass"} for key in ids]
    columns = dedupe.STAGE.reads["traces"].columns
    tables = {"traces": as_table(traces, TRACE).select(columns), "verified": as_table(verdicts, VERDICT)}
    return lambda: dedupe.run(dedupe.Config(), DeskInputs(folder, tables), DeskOutput(folder))


def environment() -> Path:
    """An interpreter that has the other programs."""
    folder = Path(tempfile.gettempdir()) / "seqdistill-dedupe-peers"
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        for wanted in PEERS.values():
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted.split()], check=False)
    return python


def peer(name: str, python: Path, path: Path) -> dict[str, Any] | None:
    """What another program spent on the texts; None where it does not run."""
    done = subprocess.run([str(python), str(SCRIPT), name, str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        bars.show(f"{name} could not be run: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ''}")
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def speed(documents: int, mean_words: int, peer_documents: int, rounds: int, python: Path) -> list[dict[str, Any]]:
    """Documents a second of CPU time, ours on all texts and on the peers' share of them, theirs on that share."""
    texts = list(Writer(1).traces(documents, mean_words))
    size = sum(map(len, texts)) / len(texts)
    found: dict[int, Repeat] = {}
    spent = cpu_s(lambda: found.update(repeats(texts, Shingling())))
    bars.show(
        f"ours: {documents / spent:,.0f} documents/s on {documents:,} texts of {size:,.0f} characters, "
        f"{len(found):,} repeats; {spent:.1f} s"
    )
    few = texts[:peer_documents]
    rates: dict[str, list[float]] = {name: [] for name in SPEED_BARS}
    ours = []
    with tempfile.TemporaryDirectory() as folder:
        # Starting a program counts for nothing at 100,000 texts: what a run over few of them takes is taken off.
        paths = [Path(folder) / f"{count}.jsonl" for count in (START, len(few))]
        for path, count in zip(paths, (START, len(few)), strict=True):
            path.write_text("".join(json.dumps({"text": text}) + "\n" for text in few[:count]), encoding="utf-8")
        for _ in range(rounds):
            ours.append(len(few) / cpu_s(lambda: repeats(few, Shingling())))
            for name in SPEED_BARS:
                start, result = (peer(name, python, path) for path in paths)
                if start is not None and result is not None:
                    rates[name].append((len(few) - START) / (result["cpu_s"] - start["cpu_s"]))
                    bars.show(
                        f"{name}: {rates[name][-1]:,.1f} documents/s, {result['found']} found; started in "
                        f"{start['cpu_s']:.1f} s; ours {ours[-1]:,.1f}"
                    )
    made = []
    for name, bar in SPEED_BARS.items():
        if rates[name]:
            ratios = [one / other for one, other in zip(ours, rates[name], strict=False)]
            made.append(bars.above(f"documents/s/core over {name}'s", ratios, bar, ours=round(documents / spent, 1)))
        else:
            made.append({"bar": f"documents/s/core over {name}'s", "value": None, "limit": bar, "n": 0, "ok": False})
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--words", type=int, default=4500, help="mean length of a text")
    parser.add_argument("--peer-documents", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=7000, help="planted")
    parser.add_argument("--pair-words", type=int, default=400, help="mean length of a planted text")
    parser.add_argument("--peers", type=Path, help="an interpreter that has the other programs")
    chosen = parser.parse_args()
    made = quality(chosen.pairs, chosen.pair_words)
    made.append(growth())
    made += memory(min(chosen.documents, 100_000))
    python = chosen.peers or environment()
    made += speed(chosen.documents, chosen.words, chosen.peer_documents, chosen.rounds, python)
    return bars.end(*made)


if __name__ == "__main__":
    sys.exit(main())
