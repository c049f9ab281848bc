"""Generation on real vLLM, killed by SIGKILL at half and run again: at most a twentieth of the tokens is made twice.

Run: python -m tests.faults.kill_vllm [--requests 2000] [--kills 3] [--model FOLDER]. Requests of 16 to 32 tokens, 64
sequences in flight, a tiny random Llama. Tokens are counted inside the engine's process, step by step as vLLM samples
them, in a file that outlives the kill: those of completions that nobody got are in it. Made by the killed process and
by the one that goes on, they are compared with what an unbroken run makes, which is known: every completion has a given
length. Whatever was in the store after the kill must be there unchanged in the end, and every id once. The last line is
JSON; exit code 1 where a bar is missed.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pipeline import templates
from pipeline.engines import Engine
from pipeline.engines import vllm as real
from pipeline.engines.host import Hosted, Place
from pipeline.engines.lifeline import descendants, started
from pipeline.orders import Order, asks
from pipeline.roles import Role
from pipeline.sampling import complete
from pipeline.store import Store, writing
from tests import bars, tiny, workload
from tests.faults.dots import teller
from tests.faults.kill_generate import appended

ROOT = Path(__file__).resolve().parents[2]
BAR = 1.05
IN_FLIGHT = 64
COUNT_FILE = "SEQDISTILL_TEST_COUNT_FILE"  # where the engine's process counts what it samples


def load(role: Role, model: Path, seed: int, place: Place) -> real.Vllm:
    """vLLM as it is, but every token it samples is counted (see `host`)."""
    engine = real.load(role, model, seed, place)
    core = engine._llm.llm_engine.engine_core
    handle = os.open(os.environ[COUNT_FILE], os.O_WRONLY | os.O_CREAT)
    step, count = core.get_output, 0

    def counted() -> Any:
        nonlocal count
        found = step()
        count += sum(len(each.new_token_ids) for each in found.outputs)
        os.pwrite(handle, b"%020d" % count, 0)
        return found

    core.get_output = counted
    return engine


def role_of() -> Role:
    return Role(model="tiny", max_model_len=512, exec={"max_num_seqs": IN_FLIGHT, "kv_cache_gib": 1})  # type: ignore[arg-type]


def orders_of(model: Path, requests: int) -> list[Order]:
    """So many requests, each of a length of its own."""
    draw = random.Random(3)
    lengths = [draw.randint(16, 32) for _ in range(requests)]
    return workload.orders(role_of(), "tiny", templates.load_tokenizer(model), lengths, seed=3)


def generate(root: Path, model: Path, requests: int) -> None:
    """Ask for what the store lacks; writes a dot to standard output for each completion that was stored."""

    def engine(seed: int) -> Engine:
        return Hosted("tests.faults.kill_vllm", role_of(), model, seed, root / "engine.log")

    with writing(root, "tiny") as store:
        complete(orders_of(model, requests), store, engine, teller())


def run(root: Path, model: Path, requests: int, until: int | None = None) -> tuple[int, int]:
    """Generate in a process; kill it once it has said that `until` were stored. Returns dots, and tokens sampled."""
    count = root / f"count-{time.monotonic_ns()}"
    words = ["--generate", str(root), "--model", str(model), "--requests", str(requests)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.kill_vllm", *words],
        cwd=ROOT,
        env=os.environ | {COUNT_FILE: str(count)},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    dots = 0
    while until is None or dots < until:
        some = os.read(process.stdout.fileno(), 4096 if until is None else until - dots)
        if not some:
            break
        dots += len(some)
    below = descendants(process.pid)
    if until is not None:
        process.kill()
    dots += len(process.communicate()[0])
    assert process.returncode == (0 if until is None else -9), f"exit {process.returncode}; see {root}/engine.log"
    while any(
        started(pid) == born for pid, born in below.items()
    ):  # the engine ends by itself, and may sample till then
        time.sleep(0.05)
    return dots, int(count.read_bytes())


def rows(root: Path) -> dict[str, dict[str, Any]]:
    store = Store(root, "tiny")
    return {row["id"]: row for row in store.rows(store.ids())}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=3, help="runs that are killed once each")
    parser.add_argument("--model", type=Path, help="a folder with weights and tokenizer; default: a tiny random Llama")
    parser.add_argument("--generate", type=Path, help=argparse.SUPPRESS)  # a process that is killed: generate here
    chosen = parser.parse_args()
    if chosen.generate is not None:
        generate(chosen.generate, chosen.model, chosen.requests)
        return 0
    shares: list[float] = []
    lost = changed = doubled = 0
    with tempfile.TemporaryDirectory() as scratch:
        model = chosen.model or tiny.build(Path(scratch) / "tiny")
        orders = orders_of(model, chosen.requests)
        wanted = {ask.id for order in orders for ask in asks(order)}
        one_pass = sum(order.max_tokens for order in orders)
        for number in range(chosen.kills):
            root = Path(scratch) / f"run-{number}"
            root.mkdir()
            dots, killed = run(root, model, chosen.requests, until=chosen.requests // 2)
            before = rows(root)
            lost += max(0, dots - len(before))
            bought, resumed = run(root, model, chosen.requests)
            after = rows(root)
            assert bought == chosen.requests - len(before)
            lost += len((wanted | before.keys()) - after.keys()) + len(after.keys() - wanted)
            changed += sum(after.get(key) != row for key, row in before.items())
            doubled += sum(count > 1 for count in appended(root).values())
            shares.append((killed + resumed) / one_pass)
            bars.show(
                f"kill {number + 1}: {len(before)} stored and {killed} tokens made before it, {resumed} after it, "
                f"{one_pass} of an unbroken run: {shares[-1]:.4f}"
            )
    more = {"requests": chosen.requests, "in_flight": IN_FLIGHT, "one_pass_tokens": one_pass}
    return bars.end(
        bars.below_always("generated tokens, killed at half and run again, over one pass", shares, BAR, **more),
        bars.none("completions lost by SIGKILL, or asked by nobody", lost, chosen.kills),
        bars.none("completions changed after SIGKILL", changed, chosen.kills),
        bars.none("completions stored twice after SIGKILL", doubled, chosen.kills),
    )


if __name__ == "__main__":
    sys.exit(main())
