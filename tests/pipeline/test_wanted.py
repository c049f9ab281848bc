from collections.abc import Iterable
from pathlib import Path

from pipeline import wanted
from pipeline.engines import Completion
from pipeline.orders import Order, Sample, Step, asks, samples
from pipeline.records import content_id
from pipeline.roles import Role, Sampling
from pipeline.sampling import record
from pipeline.store import writing


def order(weights: str, *numbers: int) -> Order:
    def problems() -> Iterable[dict[str, str]]:
        return [{"id": content_id(number), "text": f"What is {number} + 1?", "task": "sum"} for number in numbers]

    return Order(
        role=Role(model="m", engine="replay"),
        weights=weights,
        problems=problems,
        texts={"question": "{problem}"},
        tokenizer=None,
        sampling=Sampling(),
        samples=2,
        max_tokens=10,
    )


def plain(some: Iterable[Sample]) -> list[tuple[str, str, int]]:
    return [(each.id, each.problem_id, each.sample) for each in some]


def test_noted_orders_have_the_samples_that_rendering_finds(tmp_path: Path) -> None:
    made = {"teacher": order("some weights", 1, 2), "other": order("weights-b", 3)}
    noted = wanted.note(tmp_path / "wanted", made)
    assert list(noted) == list(made)
    for name, each in noted.items():
        assert plain(samples(each)) == plain(samples(made[name])) == plain(asks(each))
        assert len(plain(samples(each))) in (2, 4)


def test_what_an_attempt_paid_for_is_what_it_noted_and_its_stores_hold(tmp_path: Path) -> None:
    made = {"teacher": order("some weights", 1, 2), "other": order("weights-b", 3)}
    wanted.note(tmp_path / "wanted", made)
    assert list(wanted.paid(tmp_path / "wanted", tmp_path / "store")) == []
    bought = []
    for each, finish in ((made["teacher"], "stop"), (made["other"], "length"), (made["teacher"], "error")):
        ask = list(asks(each))[1 if finish == "error" else 0]
        completion = Completion(ask.id, "2", None, finish, "a cause", 3, 1)
        with writing(tmp_path / "store", each.weights) as store:
            store.append(record(each, Step(ask, ask.id, 10), completion, None))
        bought += [ask.id] if finish != "error" else []
    assert sorted(wanted.paid(tmp_path / "wanted", tmp_path / "store")) == sorted(bought)
    assert list(wanted.paid(tmp_path / "nothing", tmp_path / "store")) == []


def test_a_new_attempt_leaves_nothing_of_an_earlier_one(tmp_path: Path) -> None:
    folder = tmp_path / "wanted"
    wanted.note(folder, {"teacher": order("weights-a", 1, 2), "other": order("weights-b", 3)})
    (folder / ".teacher.txt.77.tmp").write_text("cut short by a kill")
    wanted.note(folder, {"teacher": order("weights-c", 4)})
    assert [path.name for path in folder.iterdir()] == ["teacher.txt"]
    assert (folder / "teacher.txt").read_text().startswith("weights-c\n")
    assert plain(wanted.samples(folder / "teacher.txt")) == plain(asks(order("weights-c", 4)))
