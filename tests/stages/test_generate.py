import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline import orders
from pipeline.lock import Locked
from pipeline.manifest import Shard
from pipeline.records import PROBLEM, content_id
from pipeline.roles import Role, Sampling, Teacher
from pipeline.shards import as_table, read_shard, write_shard
from pipeline.stage import Bill, StageError
from pipeline.store import writing
from stages.generate import STAGE, Config, bill, pilot, run
from tests.desk import DeskInputs, DeskOutput


def problem(number: int, split: str = "train") -> dict[str, Any]:
    text = f"What is {number} + 1?"
    return dict.fromkeys(PROBLEM.names, "") | {"id": content_id(text), "text": text, "task": "sum", "split": split}


class Finished(DeskOutput):
    """An Output over real shards: what a first run wrote is what a second one finds."""

    def __init__(self, folder: Path, shards: list[Shard], decisions: list[pa.Table]) -> None:
        super().__init__(folder)
        self.shards, self.decisions = shards, decisions
        self.taken: list[Shard] = []

    def previous(self, dataset: str, columns: Sequence[str] = ("id",)) -> list[tuple[Shard, pa.Table]]:
        if dataset == "decisions":
            return [(self.shards[0], table.select(columns)) for table in self.decisions]
        return [(shard, read_shard(self.folder, shard, columns)) for shard in self.shards]

    def keep(self, dataset: str, shard: Shard) -> None:
        self.taken.append(shard)

    def seal(self) -> list[Shard]:
        """The shards of a manifest: those kept, and one for what was written."""
        tables = self.tables.get("traces", [])
        if not tables:
            return self.taken
        path = self.folder / f"{len(list(self.folder.glob('*.parquet')))}.parquet"
        return [*self.taken, write_shard(path, pa.concat_tables(tables), self.folder)]


class Desk:
    """A folder in which generate runs again and again, with canned answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards: list[Shard] = []
        self.decisions: list[pa.Table] = []
        self.answers: dict[str, list[str]] = {}
        self.more: dict[str, Teacher] = {}
        for number in range(6):
            self.can(number, *(f"{number} + 1 makes {number + 1} ({sample})" for sample in range(4)))

    def can(self, number: int, *completions: str) -> None:
        self.answers[f"What is {number} + 1?"] = list(completions)

    def inputs(self, rows: list[dict[str, Any]], teacher: Teacher) -> DeskInputs:
        path = self.folder / "canned.jsonl"
        lines = [json.dumps({"text": text, "completions": answers}) for text, answers in self.answers.items()]
        path.write_text("\n".join(lines))
        tables = dict.fromkeys(("problems", "domains", "references", "variants"), as_table(rows, PROBLEM))
        made = DeskInputs(self.folder, tables, teacher, models=dict.fromkeys(("teacher", *self.more), path))
        made.more_teachers = self.more
        return made

    def run(self, rows: list[dict[str, Any]], teacher: Teacher | None = None, **config: Any) -> Finished:
        output = Finished(self.folder, self.shards, self.decisions)
        run(Config(**config), self.inputs(rows, teacher or self.teacher()), output)
        self.shards, self.decisions = output.seal(), output.tables["decisions"]
        return output

    def bill(self, rows: list[dict[str, Any]], **config: Any) -> Bill:
        return bill(
            Config(**config), self.inputs(rows, self.teacher()), Finished(self.folder, self.shards, self.decisions)
        )

    def teacher(self, **changes: Any) -> Teacher:
        return Teacher(model="canned.jsonl", engine="replay", **changes)

    def rows(self) -> Iterator[dict[str, Any]]:
        for shard in self.shards:
            yield from read_shard(self.folder / "stage", shard).to_pylist()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_every_training_problem_gets_its_samples_and_no_other_problem_any(desk: Desk) -> None:
    output = desk.run([problem(1), problem(2, "eval"), problem(3)], samples=3)
    rows = list(desk.rows())
    assert [(row["problem_id"], row["sample"], row["raw"]) for row in rows] == [
        (problem(number)["id"], sample, f"{number} + 1 makes {number + 1} ({sample})")
        for number in (1, 3)
        for sample in range(3)
    ]
    assert {(row["finish"], row["weights"], row["teacher"]) for row in rows} == {
        ("stop", "weights-of-teacher", "canned.jsonl")
    }
    assert json.loads(rows[0]["sampling"]) == Sampling().model_dump(mode="json")
    assert output.counts == {"stop": 6}
    assert {key: output.facts[key] for key in ("wanted", "reused", "bought", "errors", "completion_tokens")} == {
        "wanted": 6,
        "reused": 0,
        "bought": 6,
        "errors": 0,
        "completion_tokens": 36,
    }
    assert (output.moments[-1].done, output.moments[-1].total) == (6, 6)


def test_a_rerun_keeps_its_shards_and_writes_only_what_is_new(desk: Desk) -> None:
    desk.run([problem(1), problem(2)], samples=2)
    first = list(desk.rows())
    output = desk.run([problem(3), problem(2), problem(1)], samples=3)
    assert len(output.taken) == 1
    assert {(row["problem_id"], row["sample"]) for row in output.rows("traces")} == {
        (problem(1)["id"], 2),
        (problem(2)["id"], 2),
        *((problem(3)["id"], sample) for sample in range(3)),
    }
    rows = {row["id"]: row for row in desk.rows()}
    assert len(rows) == 9
    assert [rows[row["id"]] for row in first] == first
    assert (output.facts["reused"], output.facts["bought"]) == (4, 5)


def test_an_unbroken_run_and_one_that_grew_hold_the_same_rows(desk: Desk, tmp_path: Path) -> None:
    desk.run([problem(1)], samples=1)
    desk.run([problem(2), problem(1)], samples=4, max_tokens=3)
    desk.run([problem(1), problem(2)], samples=4, max_tokens=50)
    (tmp_path / "fresh").mkdir()
    fresh = Desk(tmp_path / "fresh")
    fresh.run([problem(1), problem(2)], samples=4, max_tokens=50)

    def words(made: Desk) -> list[tuple[str, str]]:
        return sorted((str(row["id"]), str(row)) for row in made.rows())

    assert words(desk) == words(fresh)


def test_of_several_shards_those_that_are_still_right_are_kept(desk: Desk) -> None:
    for last in (1, 2, 3):
        desk.run([problem(number) for number in range(1, last + 1)], samples=2)
    first, _, third = desk.shards
    output = desk.run([problem(3), problem(1)], samples=2)
    assert output.taken == [first, third]
    assert output.rows("traces") == []


def test_each_prompt_is_rendered_twice_to_be_noted_and_to_be_asked(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: Counter[str] = Counter()
    real = orders.conversation

    def conversation(role: Role, texts: Any, row: orders.Row) -> list[dict[str, str]]:
        rendered[row["id"]] += 1
        return real(role, texts, row)

    monkeypatch.setattr("pipeline.orders.conversation", conversation)
    rows = [problem(1), problem(2)]
    for runs in (1, 2):  # the second one keeps its shards
        desk.run(rows, samples=3)
        assert rendered == {row["id"]: 2 * runs for row in rows}


def test_a_shard_with_a_row_that_is_no_longer_wanted_is_written_anew(desk: Desk) -> None:
    desk.run([problem(1), problem(2)], samples=2)
    output = desk.run([problem(2)], samples=2)
    assert output.taken == []
    assert [row["problem_id"] for row in desk.rows()] == [problem(2)["id"]] * 2
    assert output.facts["bought"] == 0


def test_more_tokens_replace_the_truncated_rows_alone(desk: Desk) -> None:
    desk.can(1, "2", "a long way to 2")
    assert desk.run([problem(1)], samples=2, max_tokens=3).counts == {"stop": 1, "length": 1}
    output = desk.run([problem(1)], samples=2, max_tokens=9)
    assert (output.facts["bought"], output.counts) == (1, {"stop": 2})
    assert [row["raw"] for row in desk.rows()] == ["2", "a long way to 2"]


def test_a_failed_completion_is_a_row_and_is_asked_for_again(desk: Desk) -> None:
    output = desk.run([problem(1), problem(77)], samples=1, error_share_limit=0.5)
    assert output.counts == {"stop": 1, "error": 1}
    failed = [row for row in desk.rows() if row["finish"] == "error"]
    assert [(row["cause"], row["raw"], row["completion_tokens"]) for row in failed] == [("no canned answer", "", 0)]
    desk.can(77, "78")
    output = desk.run([problem(1), problem(77)], samples=1)
    assert (output.counts, output.facts["bought"]) == ({"stop": 2}, 1)


def test_a_run_with_nothing_to_buy_goes_on_while_another_writes_to_the_store(desk: Desk) -> None:
    adaptive: dict[str, Any] = {"samples": 4, "adaptive": {"right": 1}}
    desk.can(1, final(0), final(2))
    desk.run([judged(1, 2)], **adaptive)
    desk.shards, desk.decisions = [], []  # as in another run, which has no decisions yet
    with writing(desk.folder / "store", "weights-of-teacher"):
        output = desk.run([judged(1, 2)], **adaptive)
        assert (output.facts["bought"], output.facts["spared"], output.counts) == (0, 2, {"stop": 2})
        with pytest.raises(Locked, match="is being written by process"):
            desk.run([judged(1, 2)], samples=3)


def test_a_completion_that_fails_again_says_what_it_failed_of_last(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [problem(1), problem(77)]
    desk.run(rows, samples=1, error_share_limit=0.5)
    first = desk.shards
    assert desk.run(rows, samples=1, error_share_limit=0.5).taken == first
    monkeypatch.setattr("pipeline.engines.replay.NOTHING_CANNED", "HTTP 401: bad key")
    desk.run(rows, samples=1, error_share_limit=0.5)
    assert [row["cause"] for row in desk.rows()] == [None, "HTTP 401: bad key"]


def test_too_many_failures_fail_the_stage(desk: Desk) -> None:
    with pytest.raises(ValueError, match=r"error_share_limit \(0.05\).*no canned answer"):
        desk.run([problem(1), problem(77)], samples=1)


def test_a_renamed_teacher_with_the_same_weights_is_asked_nothing_but_named_in_every_row(desk: Desk) -> None:
    desk.run([problem(1)], samples=2)
    output = desk.run([problem(1)], Teacher(model="renamed.jsonl", engine="replay"), samples=2)
    assert output.facts["bought"] == 0
    assert {row["teacher"] for row in desk.rows()} == {"renamed.jsonl"}


def test_the_bill_counts_what_is_reused_missing_and_dropped(desk: Desk) -> None:
    rows = [problem(1), problem(2)]
    assert desk.bill(rows, samples=2) == Bill(wanted=4, reused=0, missing=4, dropped=0, tokens=None)
    desk.run(rows, samples=2)
    assert desk.bill(rows, samples=2) == Bill(wanted=4, reused=4, missing=0, dropped=0, tokens=0)
    assert desk.bill(rows, samples=3) == Bill(wanted=6, reused=4, missing=2, dropped=0, tokens=12)
    assert desk.bill(rows[:1], samples=3) == Bill(wanted=3, reused=2, missing=1, dropped=2, tokens=6)
    hotter = Sampling(temperature=0.9)
    assert desk.bill(rows, samples=2, sampling=hotter) == Bill(wanted=4, reused=0, missing=4, dropped=4, tokens=24)


def test_the_bill_does_not_count_failed_completions_as_bought(desk: Desk) -> None:
    rows = [problem(1), problem(77)]
    desk.run(rows, samples=1, error_share_limit=0.5)
    assert [row["finish"] for row in desk.rows()] == ["stop", "error"]
    assert desk.bill(rows, samples=1) == Bill(wanted=2, reused=1, missing=1, dropped=0, tokens=6)
    assert desk.bill(rows, samples=1, sampling=Sampling(temperature=0.9)).dropped == 1
    assert desk.bill(rows[:1], samples=1).dropped == 0


def test_the_bill_knows_what_a_killed_run_had_bought(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [problem(1), problem(2)]

    class Killed(Exception):
        pass

    def kill(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr("pipeline.traces.write", kill)
    with pytest.raises(Killed):
        desk.run(rows, samples=2)
    monkeypatch.undo()
    assert desk.bill(rows, samples=2).dropped == 0
    assert desk.bill(rows, samples=2, sampling=Sampling(temperature=0.9)).dropped == 4
    assert desk.run(rows, samples=2).facts["bought"] == 0


def test_variants_that_nobody_can_verify_are_asked_only_where_that_is_wished(desk: Desk) -> None:
    lost = {**problem(2), "verifier": "unverifiable", "parent_id": problem(1)["id"]}
    found = {**problem(4), "verifier": "math", "parent_id": problem(1)["id"]}
    rows = [problem(1), lost, {**problem(3), "verifier": "unverifiable"}, found]
    assert desk.bill(rows, samples=2).wanted == 6
    output = desk.run(rows, samples=2)
    assert {row["problem_id"] for row in desk.rows()} == {row["id"] for row in rows if row is not lost}
    assert output.facts["unverifiable_skipped"] == 1
    assert output.lines[-1].startswith("1 variants whose answer nobody knows were not asked")
    output = desk.run(rows, samples=2, unverifiable_variants="ask")
    assert (output.facts["reused"], output.facts["bought"]) == (6, 2)
    assert "unverifiable_skipped" not in output.facts
    assert desk.bill(rows, samples=2).dropped == 2


def test_two_problems_with_one_prompt_have_one_trace_and_it_is_said(desk: Desk) -> None:
    twin = {**problem(1), "id": content_id("twin")}
    output = desk.run([problem(1), twin], samples=2)
    assert [row["problem_id"] for row in desk.rows()] == [problem(1)["id"]] * 2
    assert output.facts["bought"] == 2
    assert output.lines == ["2 samples are of prompts that two problems ask; the first problem keeps their traces."]


def test_labels_are_refused_where_the_engine_gives_no_token_ids_before_anything_is_bought(desk: Desk) -> None:
    with pytest.raises(ValueError, match=r"logprobs is 5, but engine replay returns no token ids"):
        desk.run([problem(1)], logprobs=5)
    assert desk.shards == []


def test_who_labels_is_refused_where_nobody_is_called_so_or_there_are_no_labels(desk: Desk) -> None:
    with pytest.raises(StageError, match=r"labelled_by names 'othr'; expected one of teacher"):
        desk.run([problem(1)], logprobs=5, labelled_by=["othr"])
    assert desk.shards == []
    with pytest.raises(ValueError, match=r"labelled_by .* logprobs is 0"):
        Config(labelled_by="all")


def test_it_reads_nothing_whose_change_would_not_change_the_words() -> None:
    assert STAGE.reads["problems"].columns == ("id", "text", "task", "split")
    kept_out = {"exec", "thinking", "model"}  # weights stand for the model
    assert set(STAGE.roles["teachers"]) == set(Teacher.model_fields) - kept_out | {"label"}  # traces carry it
    assert set(Role.model_fields) - kept_out <= set(STAGE.roles["teachers"])


def judged(number: int, answer: int, domain: str = "maths") -> dict[str, Any]:
    return {**problem(number), "answer": str(answer), "verifier": "exact", "verifier_data": "{}", "domain": domain}


def final(number: int) -> str:
    return f"The answer is \\boxed{{{number}}}."


def test_a_problem_gets_no_more_samples_once_enough_are_right(desk: Desk) -> None:
    desk.can(1, final(2))
    desk.can(2, final(0), final(3))
    rows = [judged(1, 2), judged(2, 3)]
    output = desk.run(rows, samples=6, adaptive={"right": 2})
    assert [(row["asked"], row["right"], row["wrong"], row["would_add"]) for row in output.rows("decisions")] == [
        (2, 2, 0, 0),
        (4, 2, 2, 0),
    ]
    assert output.facts["spared"] == 6
    assert len(list(desk.rows())) == 6
    assert desk.bill(rows, samples=6, adaptive={"right": 2}) == Bill(wanted=6, reused=6, missing=0, dropped=0, tokens=0)
    more = desk.run(rows, samples=6, adaptive={"right": 3})
    assert [(row["asked"], row["right"]) for row in more.rows("decisions")] == [(3, 3), (6, 3)]
    assert more.facts["bought"] == 3


def test_traces_are_those_that_decisions_tell_of_whatever_else_the_store_holds(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty store, one that a pilot filled, one that another run filled: the same traces, as many as decided."""
    monkeypatch.setattr("pipeline.pilot.LEAST_PROBLEMS", 2)
    rows = [judged(number, number + 1) for number in range(4)]
    config: dict[str, Any] = {"samples": 6, "adaptive": {"right": 2}}
    found = []
    for before in ("nothing", "pilot", "run"):
        (desk.folder / before).mkdir()
        this = Desk(desk.folder / before)
        this.can(0, final(1))
        for number in range(1, 4):
            this.can(number, final(number + 1), final(0))
        if before == "pilot":
            pilot(Config(**config), this.inputs(rows, this.teacher()), Finished(this.folder, [], []), 0.01)
        if before == "run":
            this.run(rows, samples=6)
        output = this.run(rows, **config)
        asked = {row["problem_id"]: row["asked"] for row in output.rows("decisions")}
        assert Counter(row["problem_id"] for row in this.rows()) == asked
        found.append(sorted((row["id"], row["raw"]) for row in this.rows()))
        assert sorted(asked.values()) == [2, 3, 3, 3]
    assert found[0] == found[1] == found[2]


def test_another_answer_lists_what_it_would_add_and_buys_it_only_when_told(desk: Desk) -> None:
    desk.can(1, final(2))
    desk.run([judged(1, 2)], samples=5, adaptive={"right": 2})
    output = desk.run([judged(1, 3)], samples=5, adaptive={"right": 2})
    assert (output.facts["bought"], output.facts["would_add"]) == (0, {"problems": 1, "samples": 3})
    assert [(row["asked"], row["right"], row["would_add"]) for row in output.rows("decisions")] == [(2, 0, 3)]
    assert "1 problems were decided on answers that are judged otherwise today; up to 3 more" in output.lines[0]
    again = desk.run([judged(1, 3)], samples=5, adaptive={"right": 2})
    assert again.facts["would_add"] == {"problems": 1, "samples": 3}
    bought = desk.run([judged(1, 3)], samples=5, adaptive={"right": 2, "decisions": "renew"})
    assert bought.facts["bought"] == 3
    assert "would_add" not in bought.facts


def test_a_continued_trace_stands_in_place_of_its_parent(desk: Desk) -> None:
    desk.can(1, "one two three four five")
    settings: dict[str, Any] = {"samples": 1, "max_tokens": 3, "second_max_tokens": 9}
    desk.run([problem(1)], samples=1, max_tokens=3)
    (parent,) = desk.rows()
    output = desk.run([problem(1)], **settings, truncated="continue")
    (child,) = desk.rows()
    assert (child["raw"], child["finish"], child["parent_trace_id"]) == (
        "one two three four five",
        "stop",
        parent["id"],
    )
    assert (output.counts, output.facts["bought"]) == ({"stop": 1}, 1)
    assert desk.bill([problem(1)], **settings, truncated="continue") == Bill(1, 1, 0, 0, 0)
    assert desk.bill([problem(1)], samples=1, max_tokens=3).dropped == 1
    assert desk.run([problem(1)], **settings, truncated="continue").taken != []


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"truncated": "again"}, "expected a number above max_tokens"),
        ({"truncated": "continue", "second_max_tokens": 1024}, "expected a number above max_tokens"),
        (
            {"truncated": "continue", "second_max_tokens": 2000, "sampling": {"presence_penalty": 0.5}},
            "cannot keep presence_penalty",
        ),
    ],
)
def test_what_cannot_be_continued_is_refused(config: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        Config(**config)


def test_a_server_cannot_continue(desk: Desk) -> None:
    server = Teacher(model="m", engine="openai")
    with pytest.raises(StageError, match=r"engine openai of teacher takes none\. Set generate\.truncated: again"):
        desk.run([problem(1)], server, truncated="continue", second_max_tokens=2000)


def teachers(desk: Desk) -> None:
    desk.more = {"other": Teacher(model="other.jsonl", engine="replay", prompt="solve")}


def answered(desk: Desk) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in desk.rows():
        found.setdefault(row["teacher"], set()).add(row["problem_id"])
    return found


def test_all_teachers_answer_every_problem_and_each_trace_says_which(desk: Desk) -> None:
    teachers(desk)
    rows = [problem(number) for number in range(4)]
    output = desk.run(rows, samples=2)
    everything = {row["id"] for row in rows}
    assert answered(desk) == {"canned.jsonl": everything, "other.jsonl": everything}
    assert (output.facts["bought"], output.facts["teachers"]["other"]["bought"]) == (16, 8)
    assert {row["weights"] for row in desk.rows()} == {"weights-of-teacher", "weights-of-other"}
    assert desk.run(rows, samples=2).facts["bought"] == 0
    assert len({row["id"] for row in desk.rows()}) == 16


def test_problems_go_to_the_teachers_of_their_domain_or_task(desk: Desk) -> None:
    teachers(desk)
    rows = [judged(1, 2, "maths"), judged(2, 3, "code"), judged(3, 4, "law")]
    routes = {"teacher": {"domains": ["maths", "physics"]}, "other": {"domains": ["code"], "tasks": ["sum"]}}
    output = desk.run(rows, samples=1, routes=routes)
    assert answered(desk) == {"canned.jsonl": {rows[0]["id"]}, "other.jsonl": {rows[1]["id"]}}
    assert output.facts["unrouted"] == {"law": 1}
    assert output.lines == [
        "1 training problems fit no teacher's route and are not asked (law 1). Add a route for them to "
        "generate.routes, or a teacher without one."
    ]
    desk.more["third"] = desk.teacher()
    output = desk.run(rows, samples=1, routes=routes)
    assert ("unrouted" in output.facts, output.lines) == (False, [])
    output = desk.run([{**row, "split": "eval"} for row in rows[2:]] + rows[:2], samples=1, routes=routes)
    assert "unrouted" not in output.facts


@pytest.mark.parametrize(
    ("route", "says"),
    [
        ({"domains": ["cod"]}, r"is for the domain 'cod', and no problem has it; did you mean 'code'\?"),
        ({"tasks": ["gcd", "lcm"]}, r"is for the task 'gcd' or 'lcm', and no problem has it; Known: sum\. Mend"),
    ],
)
def test_a_route_for_what_no_problem_has_is_refused(desk: Desk, route: dict[str, Any], says: str) -> None:
    with pytest.raises(StageError, match=rf"generate\.routes\.teacher {says}"):
        desk.run([judged(1, 2, "maths"), judged(2, 3, "code")], routes={"teacher": route})
    assert desk.shards == []


def test_a_route_for_an_unknown_teacher_is_refused(desk: Desk) -> None:
    with pytest.raises(StageError, match="names 'othr'; expected one of teacher"):
        desk.run([problem(1)], routes={"othr": {}})


def test_teachers_of_the_same_weights_share_an_engine_and_a_store(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.more = {"terse": Teacher(model="canned.jsonl", engine="replay", prompt="solve")}
    monkeypatch.setattr(DeskInputs, "weights", lambda self, name: "the same")
    output = desk.run([problem(1)], samples=2)
    assert output.facts["bought"] == 4
    assert "teachers" not in output.facts
    assert len({row["id"] for row in desk.rows()}) == 4


@pytest.mark.parametrize("apart", [False, True], ids=["one engine", "two engines"])
def test_teachers_of_the_same_weights_and_prompt_have_one_trace_and_one_decision(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, apart: bool
) -> None:
    """One teacher has another prompt for code alone; what both are asked alike is neither bought nor decided twice."""
    settings: dict[str, Any] = {"exec": {"delay_s": 0.001}} if apart else {}
    desk.more = {"coder": desk.teacher(task_prompts={"code": "solve"}, **settings)}
    monkeypatch.setattr(DeskInputs, "weights", lambda self, name: "the same")
    desk.can(1, final(0), final(2))
    desk.can(2, final(3))
    rows = [judged(1, 2), {**judged(2, 3), "task": "code"}]
    output = desk.run(rows, samples=6, adaptive={"right": 2})
    decisions = output.rows("decisions")
    assert len({row["id"] for row in decisions}) == len(decisions)
    assert sorted((row["problem_id"], row["asked"], row["right"]) for row in decisions) == sorted(
        [(rows[0]["id"], 4, 2), (rows[1]["id"], 2, 2), (rows[1]["id"], 2, 2)]
    )
    assert Counter(row["problem_id"] for row in desk.rows()) == {rows[0]["id"]: 4, rows[1]["id"]: 4}
    assert output.facts["bought"] == 8


def test_a_pilot_buys_a_share_predicts_the_whole_and_is_reused(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.pilot.LEAST_PROBLEMS", 3)
    rows = [judged(number, number + 1) for number in range(6)]
    for number in range(6):
        desk.can(number, final(number + 1), final(0))
    output = Finished(desk.folder, [], [])
    found = pilot(Config(samples=2), desk.inputs(rows, desk.teacher()), output, 0.01)
    assert (found["problems"], found["of_problems"], found["completions"]) == (3, 6, 6)
    assert found["predicted"]["completion_tokens"]["value"] == 6 * 2 * 4
    assert found["predicted"]["right_share"]["value"] == 0.5
    full = desk.run(rows, samples=2)
    assert (full.facts["reused"], full.facts["bought"]) == (6, 6)
    assert full.facts["pilot"] == found


@pytest.mark.parametrize("changed", [{"samples": 3}, {"max_tokens": 5}, {"sampling": {"temperature": 0.1}}, {}])
def test_a_pilot_of_other_values_or_problems_is_not_put_beside_what_came(desk: Desk, changed: dict[str, Any]) -> None:
    rows = [judged(number, number + 1) for number in range(3)]
    for number in range(3):
        desk.can(number, *[final(number + 1)] * 3)
    pilot(Config(samples=2), desk.inputs(rows, desk.teacher()), Finished(desk.folder, [], []), 0.01)
    ran = desk.run(rows if changed else rows[:2], **{"samples": 2, **changed})
    assert "pilot" not in ran.facts
    assert "pilot" in desk.run(rows[::-1], samples=2).facts


def test_a_pilot_that_buys_nothing_keeps_the_speed_of_the_one_before(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.pilot.LEAST_PROBLEMS", 3)
    rows = [judged(number, number + 1) for number in range(6)]

    def hours(**config: Any) -> Any:
        found = pilot(Config(**config), desk.inputs(rows, desk.teacher()), Finished(desk.folder, [], []), 0.01)
        return found["predicted"]["hours"]

    first = hours(samples=2)
    assert first["value"] > 0
    assert hours(samples=2)["value"] == pytest.approx(first["value"], rel=0.01)
    monkeypatch.setattr(DeskInputs, "weights", lambda self, name: "another teacher")
    desk.run(rows, samples=2)
    assert hours(samples=2) is None, "the last pilot timed other weights"


def test_answers_that_cannot_be_judged_here_are_not_bought(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.verifiers.code.lacking", lambda: "no sandbox here. Install it")
    with pytest.raises(StageError, match=r"cannot be judged on this machine: no sandbox here\. Install it"):
        desk.run([{**judged(1, 2), "verifier": "code"}], adaptive={"right": 1})
    assert desk.shards == []
    desk.run([judged(1, 2)], adaptive={"right": 1})
