"""A run of rounds killed by SIGKILL within rounds and between them: no stage is done twice, no token bought twice.

The words of the last student are drawn anew where nobody had got them; what a training resumes is test_kill_sft's.
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline import plan
from pipeline.check import check
from pipeline.rounds import LAST_STUDENT
from pipeline.run import Run, State
from pipeline.runner import Runner, Watcher
from pipeline.shards import read_shards
from tests import small
from tests.faults.apart import die, nth, process

Stage = tuple[int | None, str]  # the round, None before the first one and after the last, and the name
ROUNDS: list[Stage] = [(number, name) for number in (1, 2) for name in plan.ROUND]
WHOLE: list[Stage] = [(None, "seed"), *ROUNDS, (None, "eval"), (None, "report")]


def at_the_fifth_completion() -> None:
    """Instead of storing it, with four of them stored."""
    from pipeline.store import Store

    Store.append = nth(Store.append, 5)  # type: ignore[method-assign]


def in_training() -> None:
    from pipeline.training.trainer import PlannedTrainer

    PlannedTrainer.compute_loss = nth(PlannedTrainer.compute_loss, 1)  # type: ignore[method-assign]


# Of each attempt the stage at whose start it is made to die, and how: at once, or later.
DEATHS: list[tuple[Stage, Callable[[], None]]] = [
    ((1, "eval"), at_the_fifth_completion),
    ((2, "generate"), die),  # between the rounds
    ((2, "generate"), at_the_fifth_completion),  # the last student's: its teacher's are stored
    ((2, "sft"), in_training),
    ((None, "eval"), die),  # between the last round and what follows the rounds
]


def attempt(path: Path, diary: Path, dying: Stage | None, death: Callable[[], None]) -> None:
    """Run the whole recipe; writes a line to the diary for each stage that ended, and dies where it should."""
    number: int | None = None

    def tells(line: str) -> None:
        nonlocal number
        words = line.split()
        number = int(words[1]) if words[0] == "round" else None

    def starts(name: str, state: State) -> None:
        if (number, name) == dying:
            death()

    def ends(name: str, manifest: object, did: bool) -> None:
        if did:
            with open(diary, "a") as file:
                file.write(f"{number or 0} {name}\n")

    Runner(small.run_of(path), Watcher(tells=tells, starts=starts, ends=ends)).through("report")


def done(diary: Path) -> list[Stage]:
    lines = diary.read_text().split("\n")[:-1] if diary.exists() else []
    return [(int(number) or None, name) for number, name in map(str.split, lines)]


def stored(data: Path) -> list[bytes]:
    """The whole records of all journals."""
    lines = [line for path in sorted(data.glob("store/*/journal-*.log")) for line in path.read_bytes().split(b"\n")]
    return [line for line in lines if line.endswith(b"}")]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[list[bytes]]]:
    """The run that was killed at each of DEATHS and then came to its end, and what the store held after each."""
    folder = tmp_path_factory.mktemp("rounds")
    path, diary = small.write_rounds(folder), folder / "diary"
    held: list[list[bytes]] = []
    for dying, death in DEATHS:
        assert process(folder / "log", attempt, path, diary, dying, death)
        assert done(diary) == WHOLE[: WHOLE.index(dying)]
        held.append(stored(folder / "data"))
    assert not process(folder / "log", attempt, path, diary, None, die)
    assert done(diary) == WHOLE, "a stage was done twice, or in the wrong round"
    return small.run_of(path), [*held, stored(folder / "data")]


def test_every_manifest_is_right_and_the_chosen_student_is_examined(ended: tuple[Run, list[list[bytes]]]) -> None:
    run, _ = ended
    assert check(run.folder) == []
    assert small.ran(run, "report") == []
    assert (run.standing().chosen, run.standing().ended) == (1, True)
    chosen = small.manifest(run.in_round(1), "sft").artifacts["checkpoint"].fingerprint
    facts = small.manifest(run.closing(), "eval").facts
    assert (facts["split"], facts["models"]["student"]["weights"]) == ("eval", chosen)


def test_nothing_is_bought_twice_and_what_was_stored_before_a_kill_stays(ended: tuple[Run, list[list[bytes]]]) -> None:
    run, held = ended
    for before, after in pairwise(held):
        assert set(before) <= set(after)
    ids = [line[16:48] for line in held[-1]]
    assert len(ids) == len(set(ids))
    facts = [small.manifest(run.in_round(number), "generate").facts for number in (1, 2)]
    counts = [tuple(one[name] for name in ("wanted", "reused", "bought")) for one in facts]
    assert counts == [(16, 0, 16), (32, 20, 12)]  # four of the last student's sixteen were stored


def test_each_traces_writer_is_the_teacher_or_the_last_rounds_student(ended: tuple[Run, list[list[bytes]]]) -> None:
    run, _ = ended
    first, second = run.in_round(1), run.in_round(2)
    shards = small.manifest(second, "generate").datasets["traces"].shards
    rows = [row for table in read_shards(second.stage_folder("generate"), shards) for row in table.to_pylist()]
    checkpoint = small.manifest(first, "sft").artifacts["checkpoint"].fingerprint
    assert len({row["id"] for row in rows}) == len(rows) == 32
    assert {(row["teacher"], row["weights"]) for row in rows} == {
        ("canned.jsonl", run.weights("teacher")),
        (LAST_STUDENT, checkpoint),
    }
