"""Two teachers on tiny random models: what each writes, both label, and a student learns the mean of what they said.

No vLLM: an engine that writes canned words, and says at each token what its model would have.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from pipeline import engines, templates
from pipeline.engines import Completion, Request
from pipeline.objectives.targets import Batch, Stored
from pipeline.records import PROBLEM, content_id
from pipeline.roles import Role, Student, Teacher
from pipeline.shards import as_table
from pipeline.soft_labels import SoftLabels, masses_left, pack
from pipeline.stage import StageError
from pipeline.think import assemble, lay_out
from stages import generate, sft
from tests import tiny
from tests.desk import DeskInputs, DeskOutput

TOKENIZER = tiny.tokenizer()
K = 12
SHARPNESS = 6.0  # random weights alone hardly prefer one token to another
LABELS = ("first", "second")  # by their models' names
PROMPTS = {"first": "question", "second": "solve"}
CODEC_ERROR = 6e-3  # what a mass may lose in storage


@cache
def network(folder: Path) -> Any:
    import torch
    from transformers import LlamaForCausalLM

    made = LlamaForCausalLM.from_pretrained(folder).eval()
    torch.manual_seed(LABELS.index(folder.name))
    # Not that of the embeddings: at random weights each token would be followed by itself.
    made.lm_head = torch.nn.Linear(made.config.hidden_size, made.config.vocab_size, bias=False)
    return made


def distributions(folder: Path, prompt: list[int], token_ids: list[int]) -> npt.NDArray[np.float64]:
    """[tokens, vocabulary]: what a model thinks of each token of a completion."""
    import torch

    with torch.no_grad():
        logits = network(folder)(torch.tensor([prompt + token_ids])).logits[0, len(prompt) - 1 : -1]
    return np.asarray(torch.softmax(logits.double() * SHARPNESS, dim=1).numpy())


class Canned:
    """An engine on one of the models."""

    figures: dict[str, float] = {}

    def __init__(self, role: Role, folder: Path) -> None:
        self.role, self.folder = role, folder

    def stream(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        return (self._answer(request) for request in requests if request is not None)

    def _answer(self, request: Request) -> Completion:
        text = f"By the {self.role.label}: {request.problem_text}\n\\boxed{{{len(request.problem_text)}}}."
        written = [*templates.encode(TOKENIZER, text), TOKENIZER.eos_token_id]
        token_ids = written if request.score_ids is None else request.score_ids
        assert request.prompt_token_ids is not None
        masses = distributions(self.folder, request.prompt_token_ids, token_ids)
        ids = np.argsort(-masses, axis=1)[:, : request.logprobs]
        logprobs = np.log(np.take_along_axis(masses, ids, axis=1))
        sampled = np.log(masses[np.arange(len(token_ids)), token_ids])
        labels = SoftLabels(
            np.array(token_ids, np.int32),
            sampled.astype(np.float32),
            ids.astype(np.int32),
            logprobs.astype(np.float32),
            masses_left(logprobs),
        )
        return Completion(request.id, text, token_ids, "stop", None, 9, len(token_ids), pack(labels))

    def close(self) -> None:
        """Nothing is open."""


class Room:
    """A folder with two teachers and a student, in which generate and the pairing of sft run again and again."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.models = {
            label: tiny.build(folder / label, seed=number) for number, label in enumerate((*LABELS, "student"))
        }
        self.started: list[str] = []
        monkeypatch.setattr(engines, "start", self._start)
        self.problems = [
            dict.fromkeys(PROBLEM.names, "")
            | {"id": content_id(text), "text": text, "task": "sum", "split": "train", "domain": domain}
            for number in range(3)
            for domain in ("maths", "code")
            for text in [f"{domain}: {number} + 1?"]
        ]
        self.generated = DeskOutput(folder)

    def _start(self, role: Role, model: Path | None, seed: int, log: Path | None) -> Canned:
        self.started.append(role.label)
        assert model is not None
        return Canned(role, model)

    def generate(self, **config: Any) -> DeskOutput:
        first, second = (Teacher(model=label, prompt=PROMPTS[label]) for label in LABELS)
        table = as_table(self.problems, PROBLEM)
        inputs = DeskInputs(
            self.folder,
            dict.fromkeys(("problems", "domains", "references", "variants"), table),
            first,
            models={"teacher": self.models["first"], "second": self.models["second"]},
        )
        inputs.more_teachers = {"second": second}
        self.started.clear()
        self.generated = DeskOutput(self.folder)
        generate.run(generate.Config(samples=1, logprobs=K, max_tokens=200, **config), inputs, self.generated)
        return self.generated

    def pair(self, **soft_labels: Any) -> tuple[dict[str, Batch], DeskOutput]:
        """The soft targets of every trace, by its id."""
        problems = {row["id"]: row for row in self.problems}
        traces = self.generated.rows("traces")
        examples = []
        for trace in traces:
            problem, spans = problems[trace["problem_id"]], lay_out(trace["raw"], False, "plain")
            examples.append(
                {
                    "id": trace["id"],
                    "prompt": [{"role": "user", "content": problem["text"]}],
                    "completion": [{"role": "assistant", "content": assemble(trace["raw"], spans)}],
                    "spans": spans,
                    "split": "train",
                    "teacher": trace["teacher"],
                    "domain": problem["domain"],
                }
            )
        tables = {"examples": examples, "layouts": examples, "domains": examples, "traces": traces}
        tables["labels"] = self.generated.rows("soft_labels")
        inputs = DeskInputs(
            self.folder,
            {name: pa.Table.from_pylist(rows) for name, rows in tables.items()},
            student=Student(model="student"),
            teacher=Teacher(model="first"),
            models={"student": self.models["student"]},
        )
        output = DeskOutput(self.folder)
        config = sft.Config(objective="soft_labels", soft_labels=soft_labels, compute_dtype="float32")
        material = sft.checked(config, inputs, TOKENIZER, output)
        folder = sft.soft_targets(config, inputs, output, TOKENIZER, material)
        assert folder is not None
        stored = Stored(folder)
        return {one.id: stored.of([one.id], one.completion) for one in material.train}, output

    def said(self, label: str, trace: dict[str, Any]) -> npt.NDArray[np.float64]:
        """What a teacher thinks of a trace's tokens after its own prompt, read a second time."""
        problem = next(row for row in self.problems if row["id"] == trace["problem_id"])
        template = (Path(generate.__file__).parent.parent / "prompts" / f"{PROMPTS[label]}.txt").read_text()
        prompt = templates.prompt_ids(TOKENIZER, templates.conversation(template, problem["text"]))
        return distributions(self.models[label], prompt, trace["token_ids"])


def mixed(parts: list[npt.NDArray[np.float64]], weights: list[float]) -> npt.NDArray[np.float64]:
    """[tokens, vocabulary + 1]: the mean of what each names of a distribution, and last of what it does not."""
    total = np.zeros((len(parts[0]), parts[0].shape[1] + 1))
    for masses, weight in zip(parts, weights, strict=True):
        least = np.sort(masses, axis=1)[:, -K, None]
        named = np.where(masses >= least, masses, 0.0)
        total[:, :-1] += weight * named / sum(weights)
        total[:, -1] += weight * (1 - named.sum(axis=1)) / sum(weights)
    return total


def dense(batch: Batch, vocabulary: int) -> npt.NDArray[np.float64]:
    """[tokens, vocabulary + 1] of stored targets."""
    found = np.zeros((len(batch.ids), vocabulary + 1))
    for row, ids, logprobs in zip(found, batch.ids, batch.logprobs.astype(float), strict=True):
        row[ids[ids >= 0]] = np.exp(logprobs[:-1][ids >= 0])
        row[-1] = np.exp(logprobs[-1])
    return found


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Room:
    return Room(tmp_path, monkeypatch)


def test_two_teachers_label_all_traces_and_the_student_learns_their_mean(room: Room) -> None:
    output = room.generate(labelled_by="all")
    traces = {row["id"]: row for row in output.rows("traces")}
    assert len(traces) == 12
    assert output.facts["soft_labels"]["labelled_by"] == {"first": 12, "second": 12}
    weights: dict[str, Any] = {"teachers": {"second": 3.0}, "domains": {"code": {"second": 0.5, "first": 2.0}}}
    equal, unequal = {"maths": [1.0, 1.0], "code": [1.0, 1.0]}, {"maths": [1.0, 3.0], "code": [2.0, 0.5]}
    for asked, by_domain in (({}, equal), (weights, unequal)):
        found, paired = room.pair(weights=asked)
        assert found.keys() == traces.keys()
        problems = {row["id"]: row["domain"] for row in room.problems}
        for key, batch in found.items():
            assert batch.covered.all()
            parts = [room.said(label, traces[key]) for label in LABELS]
            ours = dense(batch, parts[0].shape[1])
            by = by_domain[problems[traces[key]["problem_id"]]]
            assert np.abs(ours - mixed(parts, by)).max() < CODEC_ERROR
            assert np.abs(ours - mixed(parts, [by[0], by[1] * 2])).max() > 5 * CODEC_ERROR
        told = paired.facts["soft_labels"]["teachers"]
        assert {label: one["traces"] for label, one in told.items()} == {"first": 12, "second": 12}
        assert sum(one["mean_share"] for one in told.values()) == pytest.approx(1)
        assert any("second labelled 12 of the traces and covers 100.0% of the tokens" in line for line in paired.lines)


def test_nothing_is_scored_twice_and_who_labels_can_change(room: Room) -> None:
    own = room.generate().rows("soft_labels")
    assert {row["id"] for row in own} == {row["id"] for row in room.generated.rows("traces")}
    room.generate(labelled_by=["second"])
    assert room.started == ["second"]
    assert room.generated.facts["soft_labels"]["labels_scored_later"] == 6
    rows = room.generated.rows("soft_labels")
    assert [row for row in rows if row in own] == own
    assert {row["teacher"] for row in rows if row not in own} == {"second"}
    room.generate(labelled_by="all")
    assert room.started == ["first"]
    assert len(room.generated.rows("soft_labels")) == 24
    for by in ("own", "all"):
        room.generate(labelled_by=by)
        assert room.started == []
        assert room.generated.facts["soft_labels"]["labelled"] == {"own": 12, "all": 24}[by]
    assert [row for row in room.generated.rows("soft_labels") if row in own] == own


def test_a_weight_of_nobody_is_refused_before_training(room: Room) -> None:
    room.generate(labelled_by="all")
    with pytest.raises((StageError, ValueError), match=r"teacher 'secnd'; expected one of first, second"):
        room.pair(weights={"teachers": {"secnd": 2.0}})
