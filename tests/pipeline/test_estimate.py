"""The plan's time comes from the newest run that timed this teacher, whatever else lies in the data folder."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.estimate import estimate, last_timed
from pipeline.manifest import write_record
from pipeline.pilot import LABEL_BYTES
from pipeline.recipe import check
from pipeline.run import Run
from pipeline.runner import Runner
from pipeline.stage import Bill
from tests import synthetic

RECIPE = {
    "teacher": {"model": "anything", "engine": "openai"},
    "student": {"model": "anything"},
    "seed": {"sources": [{"kind": "file", "path": "a.jsonl"}]},
}


def timed(folder: Path, weights: str, finished: str, speed: float) -> None:
    made = synthetic.manifest("generate", tokens_per_s=speed)
    identity = made.identity.model_copy(update={"models": {"teacher": weights}})
    folder.mkdir(parents=True)
    write_record(folder / "manifest.json", made.model_copy(update={"identity": identity, "finished": finished}))


@pytest.mark.parametrize("damage", ["{", '{"stage": "generate", "written_by": "another version"}'])
def test_a_manifest_that_cannot_be_read_is_passed_over(tmp_path: Path, damage: str) -> None:
    run = Run(check(RECIPE, "mine", "mine"), data=tmp_path)
    runs = tmp_path / "runs"
    timed(runs / "old" / "generate", "served:anything", "2026-01-01", 100.0)
    timed(runs / "new" / "generate", "served:anything", "2026-02-02", 200.0)
    timed(runs / "reused" / "generate", "served:anything", "2026-03-03", 0.0)
    timed(runs / "other" / "generate", "served:another", "2026-04-04", 300.0)
    (runs / "damaged" / "generate").mkdir(parents=True)
    (runs / "damaged" / "generate" / "manifest.json").write_text(damage)
    found = last_timed(run)
    assert found is not None
    assert found.facts["tokens_per_s"] == 200.0


@pytest.mark.parametrize(
    ("by", "expected"), [("own", 1), ("all", 3), (["second"], 2), (["second", "teacher", "third"], 3)]
)
def test_a_trace_is_labelled_by_its_own_teacher_and_those_named(by: object, expected: int) -> None:
    more = {name: {"model": name} for name in ("second", "third")}
    found = check(RECIPE | {"more_teachers": more, "generate": {"logprobs": 5, "labelled_by": by}}, "mine", "mine")
    config: Any = found.sections["generate"]
    assert config.labellers(found.teachers) == expected
    assert config.label_bytes(found.teachers) == pytest.approx(LABEL_BYTES * 5 * expected)


@pytest.mark.parametrize(
    ("truncated", "tokens", "disk"), [("keep", "200", "0.0"), ("again", "4,200", "0.1"), ("continue", "4,000", "0.0")]
)
def test_the_most_tokens_count_what_is_asked_for_a_second_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, truncated: str, tokens: str, disk: str
) -> None:
    monkeypatch.setattr(Runner, "bill", lambda *_: Bill(wanted=3, reused=1, missing=2, dropped=0, tokens=None))
    second = {} if truncated == "keep" else {"second_max_tokens": 2000}
    values = RECIPE | {"generate": {"max_tokens": 100, "truncated": truncated, **second}}
    lines = estimate(Run(check(values, "mine", "mine"), data=tmp_path))
    assert f"Tokens to generate: at most {tokens};" in lines[1]
    assert lines[2] == f"Disk: about {disk} MB."
