import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.verifiers import Judgement, right, undecided
from pipeline.verifiers.pool import Item, Pool

ROOT = Path(__file__).resolve().parents[3]
BAD = "tests.pipeline.verifiers.bad:judge"
PATIENT = "tests.pipeline.verifiers.bad:patient"


def item(given: str) -> Item:
    return Item(BAD, given, "5")


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """For items that end by themselves: a limit that no busy machine reaches."""
    with Pool(workers=2, timeout_s=60.0, memory_mib=64) as pool:
        yield pool


@pytest.fixture(scope="module")
def hasty() -> Iterator[Pool]:
    """For items that hang."""
    with Pool(workers=2, timeout_s=1.0, memory_mib=64) as pool:
        yield pool


def outcomes(pool: Pool, items: list[Item]) -> list[tuple[str, str | None]]:
    found = dict(pool.judge(items))
    assert sorted(found) == list(range(len(items)))
    return [(found[index].outcome, found[index].reason) for index in range(len(items))]


RIGHT, WRONG = ("right", None), ("wrong", "wrong_answer")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("exit", "verifier_crash"),
        ("abort", "verifier_crash"),
        ("raise", "verifier_crash"),
        ("leave", "verifier_crash"),
        ("eat", "verifier_memory"),
        ("eat and hide it", "verifier_memory"),
    ],
)
def test_a_verifier_that_fails_is_undecided_and_harms_no_neighbour(pool: Pool, given: str, reason: str) -> None:
    texts = ["5", "6"] * 20 + [given] + ["6", "5"] * 20
    expected = [RIGHT, WRONG] * 20 + [("undecided", reason)] + [WRONG, RIGHT] * 20
    assert outcomes(pool, [item(text) for text in texts]) == expected


@pytest.mark.parametrize("given", ["sleep", "spin in C", "ignore signals", "leave a child"])
def test_a_verifier_that_hangs_is_killed_and_harms_no_neighbour(hasty: Pool, given: str) -> None:
    texts = ["5"] * 10 + [given] + ["6"] * 10
    expected = [RIGHT] * 10 + [("undecided", "verifier_timeout")] + [WRONG] * 10
    assert outcomes(hasty, [item(text) for text in texts]) == expected


def test_many_failures_in_one_stream_each_cost_one_item(pool: Pool) -> None:
    texts = ["exit" if index % 7 == 3 else "eat" if index % 31 == 0 else "5" for index in range(100)]
    names = {"exit": ("undecided", "verifier_crash"), "eat": ("undecided", "verifier_memory"), "5": RIGHT}
    assert outcomes(pool, [item(text) for text in texts]) == [names[text] for text in texts]


def test_the_cause_is_told(hasty: Pool) -> None:
    found = dict(hasty.judge([item("abort"), item("raise"), item("exit"), item("sleep")]))
    assert [found[index].detail["error"] for index in range(4)] == [
        "its process ended: SIGABRT",
        "ZeroDivisionError: nothing to divide by",
        "its process ended: exit status 0",
        "no answer within 1 s",
    ]


def test_a_killed_worker_takes_its_children_with_it(hasty: Pool, tmp_path: Path) -> None:
    file = tmp_path / "child"
    items = [Item(BAD, "leave a child", "", json.dumps({"file": str(file)}))]
    assert outcomes(hasty, items) == [("undecided", "verifier_timeout")]
    assert ended(int(file.read_text()))


def ended(process: int) -> bool:
    """Whether a process ends within a while; one that does not is killed."""
    for _ in range(100):
        try:
            if b") Z " in Path(f"/proc/{process}/stat").read_bytes():
                return True
        except OSError:
            return True
        time.sleep(0.05)
    os.kill(process, signal.SIGKILL)
    return False


def test_workers_stay_warm(pool: Pool) -> None:
    first = {judgement.detail["pid"] for _, judgement in pool.judge([item("which")] * 50)}
    second = {judgement.detail["pid"] for _, judgement in pool.judge([item("which")] * 50)}
    assert len(first | second) <= 2


def test_the_limit_is_of_one_item_not_of_a_batch() -> None:
    with Pool(workers=1, timeout_s=2.0, memory_mib=64) as alone:
        assert [judgement.outcome for _, judgement in alone.judge([Item(PATIENT, "", "")] * 6)] == ["right"] * 6


def test_a_judgement_among_the_items_comes_back_as_it_is(pool: Pool) -> None:
    decided = undecided("generation_error")
    assert dict(pool.judge([item("5"), decided, item("6")]))[1] == decided


def test_no_items_give_no_judgements(pool: Pool) -> None:
    assert list(pool.judge([])) == []


def test_odd_text_passes_unharmed(pool: Pool) -> None:
    text = 'a "quoted" \ud800 lone surrogate, \x00 and \U0001f600' * 20_000
    assert list(pool.judge([Item(BAD, text, text)])) == [(0, right())]


def test_it_works_from_many_threads_at_once(pool: Pool) -> None:
    results: dict[int, list[tuple[str, str | None]]] = {}

    def work(number: int) -> None:
        results[number] = outcomes(pool, [item("5" if index % (number + 2) else "6") for index in range(100)])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: [RIGHT if index % (n + 2) else WRONG for index in range(100)] for n in range(4)}


def test_it_works_beside_async_code(hasty: Pool) -> None:
    async def work() -> list[tuple[str, str | None]]:
        return await asyncio.to_thread(outcomes, hasty, [item("5"), item("sleep"), item("6")])

    assert asyncio.run(work()) == [RIGHT, ("undecided", "verifier_timeout"), WRONG]


def test_a_caller_that_stops_early_leaves_the_pool_usable(pool: Pool) -> None:
    stream = pool.judge(item("5") for _ in range(10_000))
    assert next(stream)[1] == right()
    stream.close()  # type: ignore[attr-defined]
    assert outcomes(pool, [item("6")]) == [WRONG]


def test_items_are_taken_as_they_are_needed(pool: Pool) -> None:
    taken = 0

    def items() -> Iterator[Item]:
        nonlocal taken
        for _ in range(100_000):
            taken += 1
            yield item("5")

    stream = pool.judge(items())
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert taken <= 300


@pytest.mark.parametrize(
    ("verifier", "words"),
    [
        ("tests.pipeline.verifiers.broken:judge", "a_library_that_is_not_installed"),
        ("unheard_of", "use one of choice, code"),
    ],
)
def test_a_verifier_that_cannot_be_loaded_is_an_error_not_a_verdict(pool: Pool, verifier: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        list(pool.judge([item("5"), Item(verifier, "5", "5")]))
    assert outcomes(pool, [item("5")]) == [RIGHT]


def test_a_closed_pool_says_so() -> None:
    with Pool(workers=1, timeout_s=1.5, memory_mib=64) as closed:
        pass
    with pytest.raises(RuntimeError, match=r"not open|closed"):
        list(closed.judge([item("5")]))


def test_workers_do_not_outlive_a_parent_that_is_killed() -> None:
    script = (
        "import os, time\n"
        "from pipeline.verifiers.pool import Item, Pool\n"
        f"item = Item({BAD!r}, 'which', '5')\n"
        "with Pool(1, 60.0, 256) as pool:\n"
        "    print(next(pool.judge([item]))[1].detail['pid'], flush=True)\n"
        f"    list(pool.judge([Item({BAD!r}, 'sleep', '5')]))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert ended(worker)


def test_a_judgement_is_what_the_verifier_said(pool: Pool) -> None:
    assert [judgement for _, judgement in pool.judge([item("5")])] == [Judgement("right", None, 1.0, {})]
