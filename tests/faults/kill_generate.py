"""The loop that asks a teacher, killed by SIGKILL at random moments: nothing is lost, doubled or changed.

Run: python -m tests.faults.kill_generate [--kills 200] [--seed 7]. A process generates with canned answers and says of
each completion that it was stored; it is killed, and the next one goes on. After each kill the store must hold all that
any of them said, and all that it held before, unchanged; in the end it must hold the rows of an unbroken run, each
once. The last line is JSON; exit code 1 where a bar is missed.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.engines.replay import Replay
from pipeline.orders import Order, asks, stored
from pipeline.roles import Sampling, Teacher
from pipeline.sampling import Figures, complete
from pipeline.store import Store, writing
from tests import bars
from tests.faults.dots import teller

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = 3
DELAY_S = 0.001  # of an answer, so that a kill meets the loop at work


def order_of(problems: int) -> Order:
    """What is asked: so many problems, SAMPLES each."""
    rows = [{"id": f"p{number}", "text": f"{number}+1?", "task": "sum"} for number in range(problems)]
    return Order(
        role=Teacher(model="canned.jsonl", engine="replay"),
        weights="digest",
        problems=lambda: rows,
        texts={"question": "Q: {problem}"},
        tokenizer=None,
        sampling=Sampling(),
        samples=SAMPLES,
        max_tokens=1000,
    )


def generate(root: Path, problems: int, delay_s: float = 0.0, say: bool = False) -> Figures:
    """Ask for what the store lacks; `say` writes a dot to standard output for each completion that was stored."""
    order = order_of(problems)
    texts = [row["text"] for row in order.problems()]
    answers = {text: [f"{text} It is {sample}. " * 40 for sample in range(SAMPLES)] for text in texts}
    progress = teller() if say else lambda done, total, note: None
    with writing(root, order.weights) as store:
        return complete([order], store, lambda seed: Replay(answers, delay_s), progress)[0]


def command(root: Path, problems: int, delay_s: float) -> list[str]:
    """A process that generates, and says so."""
    words = ["--generate", str(root), "--problems", str(problems), "--delay-s", str(delay_s)]
    return [sys.executable, "-m", "tests.faults.kill_generate", *words]


def rows(root: Path, problems: int) -> dict[str, dict[str, Any]]:
    """The rows a stage would write."""
    order = order_of(problems)
    return {row["id"]: row for row in stored(order, Store(root, order.weights), {ask.id: ask for ask in asks(order)})}


def appended(root: Path) -> Counter[str]:
    """How often each id stands whole in the journals."""
    lines = (line for path in root.glob("*/journal-*.log") for line in path.read_bytes().split(b"\n"))
    return Counter(line[16:48].decode() for line in lines if line.endswith(b"}"))


@dataclass
class Tally:
    """What a number of kills did."""

    kills: int = 0
    said: int = 0  # completions that a process said were stored
    lost: int = 0  # of those, and of those once seen in the store, that were not there after a kill
    changed: int = 0  # rows that differ from what was seen before, or from the unbroken run's
    doubled: int = 0  # ids with more than one whole record
    missing: int = 0  # rows of the unbroken run that are not there in the end
    torn: int = 0  # last records cut short by a kill


def killed(folder: Path, problems: int, kills: int, seed: int) -> Tally:
    """Kill a run so often, or until it ended; then let it end, and compare it with an unbroken one."""
    broken, draw, tally = folder / "broken", random.Random(seed), Tally()
    generate(folder / "unbroken", problems)
    durable: dict[str, dict[str, Any]] = {}
    while tally.kills < kills and len(durable) < problems * SAMPLES:
        process = subprocess.Popen(command(broken, problems, DELAY_S), cwd=ROOT, stdout=subprocess.PIPE)
        journals = len(list(broken.glob("*/journal-*.log")))
        # Most kills meet the loop at work; every tenth comes at any moment, while it starts or indexes too.
        early = draw.random() < 0.1
        while not early and len(list(broken.glob("*/journal-*.log"))) == journals and process.poll() is None:
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 1.0 if early else 0.1))
        process.kill()
        said = len(process.communicate()[0])
        tally.kills += process.returncode != 0
        tally.said += said
        now = rows(broken, problems)
        tally.lost += len(durable.keys() - now.keys()) + max(0, len(durable) + said - len(now))
        tally.changed += sum(now.get(key, row) != row for key, row in durable.items())
        durable = now
    tally.torn = generate(broken, problems).torn_records
    ended, unbroken = rows(broken, problems), rows(folder / "unbroken", problems)
    tally.missing = len(unbroken.keys() - ended.keys())
    tally.changed += sum(unbroken.get(key) != row for key, row in ended.items())
    tally.doubled = sum(count > 1 for count in appended(broken).values())
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=7, help="of the moments")
    parser.add_argument("--problems", type=int, help=f"default: 40 a kill; {SAMPLES} samples each")
    parser.add_argument("--generate", type=Path, help=argparse.SUPPRESS)  # a process that is killed: generate here
    parser.add_argument("--delay-s", type=float, default=DELAY_S, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    problems = chosen.problems or 40 * chosen.kills
    if chosen.generate is not None:
        generate(chosen.generate, problems, chosen.delay_s, say=True)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        tally = killed(Path(folder), problems, chosen.kills, chosen.seed)
    bars.show(str(tally))
    more = {"completions": problems * SAMPLES, "said_stored_before_a_kill": tally.said, "torn_records": tally.torn}
    found = [
        bars.none("completions lost by SIGKILL", tally.lost + tally.missing, tally.kills, **more),
        bars.none("completions stored twice after SIGKILL", tally.doubled, tally.kills),
        bars.none("rows that differ from an unbroken run's", tally.changed, tally.kills),
    ]
    if tally.kills < chosen.kills:
        bars.show(f"The run ended after {tally.kills} kills; give it more --problems.")
        found = [bar | {"ok": False} for bar in found]
    return bars.end(*found)


if __name__ == "__main__":
    sys.exit(main())
