from collections.abc import Iterable
from pathlib import Path

from pipeline import wanted
from pipeline.orders import Order, Sample, asks, samples
from pipeline.records import content_id
from pipeline.roles import Role, Sampling


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


def test_an_attempt_that_did_not_end_is_known_by_weights_and_ids(tmp_path: Path) -> None:
    made = {"teacher": order("some weights", 1, 2), "other": order("weights-b", 3)}
    wanted.note(tmp_path / "wanted", made)
    found = {weights: plain(some) for weights, some in wanted.earlier(tmp_path / "wanted")}
    assert found == {each.weights: plain(asks(each)) for each in made.values()}
    assert list(wanted.earlier(tmp_path / "nothing")) == []


def test_a_new_attempt_leaves_nothing_of_an_earlier_one(tmp_path: Path) -> None:
    folder = tmp_path / "wanted"
    wanted.note(folder, {"teacher": order("weights-a", 1, 2), "other": order("weights-b", 3)})
    (folder / ".teacher.txt.77.tmp").write_text("cut short by a kill")
    wanted.note(folder, {"teacher": order("weights-c", 4)})
    assert [path.name for path in folder.iterdir()] == ["teacher.txt"]
    [(weights, some)] = wanted.earlier(folder)
    assert (weights, plain(some)) == ("weights-c", plain(asks(order("weights-c", 4))))
