"""The loop that asks a teacher, killed by SIGKILL at random moments: nothing is lost, doubled or changed."""

import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.engines.replay import Replay
from pipeline.roles import EngineExec, Sampling, Teacher
from pipeline.sampling import Order, asks, complete, stored
from pipeline.store import Store, writing

ROOT = Path(__file__).resolve().parents[2]
ROWS = [{"id": f"p{number}", "text": f"{number}+1?", "task": "sum"} for number in range(100)]
ANSWERS = {row["text"]: [f"{row['text']} It is {sample}. " * 40 for sample in range(3)] for row in ROWS}
ORDER = Order(
    role=Teacher(model="canned.jsonl", engine="replay", exec=EngineExec(delay_s=0.003)),
    weights="digest",
    problems=lambda: ROWS,
    texts={"question": "Q: {problem}"},
    tokenizer=None,
    sampling=Sampling(),
    samples=3,
    max_tokens=1000,
)
TOTAL = len(ROWS) * ORDER.samples


def generate(root: Path, delay_s: float = 0.0) -> None:
    with writing(root, ORDER.weights) as store:
        complete([ORDER], store, lambda seed: Replay(ANSWERS, delay_s), lambda *_: None)


def rows(root: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in stored(ORDER, Store(root, ORDER.weights), asks(ORDER))}


def appended(root: Path) -> Counter[str]:
    """How often each id stands whole in the journals."""
    lines = (line for path in root.glob("*/journal-*.log") for line in path.read_bytes().split(b"\n"))
    return Counter(line[16:48].decode() for line in lines if line.endswith(b"}"))


def test_killed_at_random_moments_it_ends_with_the_rows_of_an_unbroken_run(tmp_path: Path) -> None:
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    generate(unbroken)
    draw = random.Random(7)
    code = (
        "import sys; from pathlib import Path; from tests.faults.test_kill_generate import generate\n"
        "generate(Path(sys.argv[1]), 0.003)"
    )
    durable: dict[str, dict[str, Any]] = {}
    kills = 0
    while len(durable) < TOTAL:
        process = subprocess.Popen([sys.executable, "-c", code, str(broken)], cwd=ROOT)
        journals = len(list(broken.glob("*/journal-*.log")))
        while len(list(broken.glob("*/journal-*.log"))) == journals and process.poll() is None:
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.25))
        process.kill()
        kills += process.wait() != 0
        now = rows(broken)
        assert {key: now[key] for key in durable} == durable
        durable = now
    generate(broken)  # what is left to do is nothing: it starts no engine and writes no journal
    assert rows(broken) == rows(unbroken)
    assert set(appended(broken).values()) == {1}
    assert kills >= 3
