"""A run on the disk: what its files say, and what is said of a file that says nothing."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline import plan
from pipeline.manifest import Dataset, explain, write_record
from pipeline.recipe import check
from pipeline.run import Run, RunInputs
from pipeline.shards import write_shard
from pipeline.stage import StageError
from tests import small, synthetic

RECIPE = {
    "teacher": {"model": "anything", "engine": "openai"},
    "student": {"model": "anything"},
    "seed": {"sources": [{"kind": "file", "path": "a.jsonl"}]},
    "export": {"weights": ["bfloat16", "int8"]},
}


@pytest.mark.parametrize(
    ("name", "says"),
    [("latin", r"prompts/latin\.txt is not UTF-8 text: .*byte 0xe9"), ("gone", r"No prompt template .*Known: latin")],
)
def test_a_prompt_that_cannot_be_read_is_named_with_its_file(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "latin.txt").write_bytes(b"R\xe9solvez {problem}")
    with pytest.raises(StageError, match=says):
        Run(check(RECIPE, "mine", "mine"), data=tmp_path, root=tmp_path).prompt(name)


@pytest.mark.parametrize("stage", plan.upstream("report"))
@pytest.mark.parametrize(
    "changes",
    [{"facts": {"tokens_per_s": 3.0}}, {"counts": {"kept": 2}}, {"seconds": 12.6}, {"packages": {"torch": "2.14.0"}}],
    ids=lambda changes: next(iter(changes)),
)
def test_the_report_depends_on_all_that_it_shows_of_every_stage(
    tmp_path: Path, stage: str, changes: dict[str, Any]
) -> None:
    run = Run(check(RECIPE, "mine", "mine"), data=tmp_path)
    for name in plan.upstream("report"):
        run.stage_folder(name).mkdir(parents=True)
        write_record(run.stage_folder(name) / "manifest.json", synthetic.manifest(name))
    report = plan.stage("report")
    before = run.identity(report)
    assert run.identity(report) == before
    write_record(run.stage_folder(stage) / "manifest.json", synthetic.manifest(stage).model_copy(update=changes))
    assert [change.key for change in explain(before, run.identity(report))] == [f"inputs.{stage}_facts.manifest"]


def test_the_report_reads_every_stage_before_it() -> None:
    assert plan.upstream("report") == list(plan.ORDER[:-1])


def test_an_export_is_read_only_where_it_holds_more_than_the_checkpoint(tmp_path: Path) -> None:
    plain = Run(check({**RECIPE, "export": {}}, "mine", "mine"), data=tmp_path)
    fewer = Run(check(RECIPE, "mine", "mine"), data=tmp_path)
    for name, read in (("eval", "exports"), ("report", "export_facts")):
        assert read not in plain.reads(plan.stage(name))
        assert "export" not in plain.upstream(name)
        assert read in fewer.reads(plan.stage(name))
        assert "export" in fewer.upstream(name)
    assert plain.upstream("filter") == ["seed", "generate"]


def test_a_stage_that_shows_no_facts_does_not_depend_on_them(tmp_path: Path) -> None:
    run = Run(check(RECIPE, "mine", "mine"), data=tmp_path)
    found = []
    for seconds in (1.0, 2.0):
        for name in ("mix", "sft"):
            run.stage_folder(name).mkdir(parents=True, exist_ok=True)
            made = synthetic.manifest(name, loss=[[1, seconds]]).model_copy(update={"seconds": seconds})
            write_record(run.stage_folder(name) / "manifest.json", made)
        found.append({name: run._input_identity(read) for name, read in plan.stage("eval").reads.items()})
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "told", [{}, {"domain": "math", "finish": "length"}], ids=["as once written", "as written now"]
)
def test_columns_that_are_only_told_of_are_read_where_they_are_and_make_nothing_stale(
    tmp_path: Path, told: dict[str, str]
) -> None:
    run, folder = Run(check(RECIPE, "mine", "mine"), data=tmp_path), tmp_path / "runs" / "mine" / "mix"
    hashed = {"id": "a", "prompt": "p", "completion": "c", "split": "train"}
    shard = write_shard(folder / "examples" / "one.parquet", pa.Table.from_pylist([hashed | told]), folder)
    written = Dataset(rows=1, bytes=shard.bytes, columns=shard.columns, shards=[shard])
    mix = synthetic.manifest("mix").model_copy(update={"datasets": {"examples": written}})
    write_record(folder / "manifest.json", mix)
    read = plan.stage("sft").reads["examples"]
    assert set(read.told) == {"domain", "finish"}
    assert set(run._input_identity(read)) == set(hashed)
    assert RunInputs(run, plan.stage("sft"), print).table("examples").to_pylist() == [hashed | told]


def test_what_is_neither_shown_nor_asked_makes_neither_seed_nor_generate_stale(tmp_path: Path) -> None:
    path = small.write(tmp_path, problems=4, eval_problems=2)
    small.ran(small.run_of(path), "generate")
    judged = small.run_of(path, "judge={model: some-judge, engine: openai}").states()
    assert [judged[name].word for name in ("seed", "generate")] == ["fresh", "fresh"]
    asked = "more_teachers={{coder: {{model: x, engine: openai, prompt: {}}}}}"
    assert small.run_of(path, asked.format("question")).states()["seed"].word == "fresh"
    coder = small.run_of(path, asked.format("program"))
    assert [change.key for change in coder.states()["seed"].changes] == ["prompts.program"]
    assert small.ran(coder, "seed") == ["seed"]
