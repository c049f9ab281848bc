"""All eleven stages by the command line, as a user types them: canned teacher, tiny student, then publish and check."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline import plan
from tests import small
from tests.small import seqdistill


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a finished run, and what the run printed."""
    folder = tmp_path_factory.mktemp("whole")
    recipe = small.write(folder, eval__max_tokens=48)
    return folder, seqdistill(folder / "data", "run", recipe)


def test_the_run_ends_with_the_table_the_funnel_and_the_reports_path(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    page = folder / "data/runs/small/report/page"
    lines = printed.rstrip().splitlines()
    assert lines[-1] == f"Report: {page / 'index.html'}"
    assert "Held-out questions: 6" in lines
    report = json.loads((page / "report.json").read_text())
    assert report["questions"] == 6
    assert set(report["models"]) == {"teacher", "base", "student"}
    assert sum(row["traces"] for row in report["funnel"]) == 72
    assert set(report["seconds"]) == set(plan.ORDER) - {"export", "report"}


def test_status_says_that_everything_is_fresh_and_a_rerun_runs_nothing(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    status = json.loads(seqdistill(folder / "data", "status", folder / "small.yaml", "--json"))
    assert {name: row["state"] for name, row in status["stages"].items()} == dict.fromkeys(plan.ORDER, "fresh")
    printed = seqdistill(folder / "data", "run", folder / "small.yaml")
    assert printed.count("fresh, skipped") == 11


def test_a_changed_training_value_stops_with_code_3_and_names_it(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    said = seqdistill(folder / "data", "run", folder / "small.yaml", "--set", "sft.epochs=2", code=3)
    assert "config.epochs: 1 -> 2" in said
    assert "--force sft" in said
    explained = seqdistill(folder / "data", "explain", folder / "small.yaml", "sft", "--set", "sft.epochs=2")
    assert "sft is stale." in explained


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["run", "none.yaml"], 2, "No recipe at none.yaml"),
        (["run", "RECIPE", "--set", "sft.epoch=2"], 2, "sft.epoch: unknown key. Did you mean epochs?"),
        (["run", "RECIPE", "--to", "trian"], 2, "No stage 'trian'"),
        (["run", "RECIPE", "--only", "sft", "--to", "sft"], 2, "exclude each other"),
        (["run", "RECIPE", "--to", "seed", "--set", "seed.sources.0.path=gone.jsonl"], 1, "gone.jsonl"),
        (["run", "RECIPE", "--set", "teacher.prompt=none"], 1, "No prompt template"),
        (["run", "RECIPE", "--set", "student.model=no/such/model"], 1, "no/such/model"),
        (["peek", "RECIPE", "generate", "--reason", "nothing"], 0, "No rows match."),
        (["peek", "RECIPE", "verify", "--reason", "wrong_answer", "-n", "1"], 0, "reference answer"),
        (["peek", "RECIPE", "mix", "-n", "1"], 0, "[assistant]"),
        (["plan", "RECIPE"], 0, "Nothing is to be bought."),
        (["plan", "RECIPE", "--no-pilot", "--set", "generate.samples=5"], 0, "48 are missing"),
        (["plan", "RECIPE", "--set", "generate.samples=4"], 0, "Pilot: 96 completions of 24 problems, kept"),
        (["check", "RUN/mix"], 0, "every file is as its manifest says"),
        (["check", "RUN/sft"], 0, "every file is as its manifest says"),
        (["check", "RUN"], 0, "every file is as its manifest says"),
        (["publish", "RECIPE", "OUT", "--set", "mix.prefer=first"], 1, "only a fresh mix is published"),
    ],
)
def test_what_is_typed_gets_its_answer_and_never_a_traceback(
    finished: tuple[Path, str], words: list[str], code: int, says: str
) -> None:
    folder, _ = finished
    run = folder / "data/runs/small"
    places = {"RECIPE": folder / "small.yaml", "OUT": folder / "refused"}
    places |= {"RUN": run, "RUN/mix": run / "mix", "RUN/sft": run / "sft"}
    printed = seqdistill(folder / "data", *(places.get(word, word) for word in words), code=code)
    assert says in printed
    assert "Traceback" not in printed


def test_a_report_without_its_figures_is_an_error_at_the_end_of_a_run_and_no_traceback(
    finished: tuple[Path, str],
) -> None:
    folder, _ = finished
    figures = folder / "data/runs/small/report/page/report.json"
    content = figures.read_bytes()
    figures.unlink()
    try:
        printed = seqdistill(folder / "data", "run", folder / "small.yaml", code=1)
    finally:
        figures.write_bytes(content)
    assert "report.json" in printed
    assert "Traceback" not in printed


def test_a_path_with_brackets_is_shown_as_it_is(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = finished
    copy = shutil.copytree(folder / "data/runs/small/mix", tmp_path / "[b]mix[" / "x]")
    assert f"{copy}: every file" in seqdistill(folder / "data", "check", copy)


def test_a_published_run_opens_with_datasets_and_checks_out(finished: tuple[Path, str]) -> None:
    import datasets

    folder, _ = finished
    dest = folder / "published"
    seqdistill(folder / "data", "publish", folder / "small.yaml", dest)
    seqdistill(folder / "data", "check", dest)
    for opened in (
        datasets.load_dataset(str(dest), cache_dir=str(folder / "cache")),
        datasets.load_dataset("parquet", data_dir=str(dest), cache_dir=str(folder / "cache2")),
    ):
        assert sorted(opened) == ["train", "validation"]
        assert opened["train"].num_rows + opened["validation"].num_rows == 36
        assert [turn["role"] for turn in opened["train"][0]["prompt"]] == ["user"]
    shard = next(dest.rglob("*.parquet"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(bytes(content))
    assert shard.name in seqdistill(folder / "data", "check", dest, code=1)
