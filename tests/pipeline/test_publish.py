"""A published folder opens as a dataset, tells no secrets, and shows any change; a push sends what was agreed to."""

import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import httpx2
import huggingface_hub
import huggingface_hub.errors
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline import publish as publishing
from pipeline.check import CHECKSUMS, check
from pipeline.page.card import card
from pipeline.publish import PublishError, _writers, publish, push
from pipeline.records import EXAMPLE
from tests import synthetic


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.write_run(tmp_path_factory.mktemp("runs") / "made-up")


@pytest.fixture(scope="module")
def published(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(run_folder, tmp_path_factory.mktemp("out") / "dataset", languages=("en",)).folder


@pytest.fixture
def copy(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "copy"))


def test_load_dataset_opens_it_both_ways(published: Path, run_folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    import datasets

    cache = str(tmp_path / "cache")
    examples = synthetic.tables()["mix"]["examples"]
    expected = {split: examples.column("split").to_pylist().count(split) for split in ("train", "validation")}
    assert min(expected.values()) > 0
    for opened in (
        datasets.load_dataset("parquet", data_dir=str(published), cache_dir=cache),
        datasets.load_dataset(str(published), cache_dir=cache),
    ):
        assert {split: len(rows) for split, rows in opened.items()} == expected
        assert opened["train"].column_names == examples.schema.names
        assert opened["train"][0]["prompt"] == examples.filter(_in_train(examples)).column("prompt")[0].as_py()


def _in_train(table: Any) -> Any:
    import pyarrow.compute as pc

    return pc.equal(table.column("split"), "train")


def test_every_row_of_the_mix_is_there_in_its_order(published: Path) -> None:
    examples = synthetic.tables()["mix"]["examples"].to_pylist()
    for split in ("train", "validation"):
        rows = pq.read_table(sorted((published / "data").glob(f"{split}-*.parquet"))[0]).to_pylist()
        assert [row["id"] for row in rows] == [row["id"] for row in examples if row["split"] == split]
        assert all(row["completion"] for row in rows)


def test_each_shard_of_the_mix_is_read_once(
    run_folder: Path, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, real = [], publishing.read_shard
    monkeypatch.setattr(publishing, "read_shard", lambda *given: read.append(given[1].path) or real(*given))
    again = publish(run_folder, tmp_path / "out", languages=("en",)).folder
    assert len(read) == len(set(read)) == 2
    names = sorted(path.relative_to(published) for path in published.rglob("*") if path.is_file())
    assert [(again / name).read_bytes() for name in names] == [(published / name).read_bytes() for name in names]


def test_a_split_of_several_files_keeps_its_rows_in_order(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "SHARD_BYTES", 1)
    folder = publish(run_folder, tmp_path / "out").folder
    paths = sorted((folder / "data").glob("train-*.parquet"))
    assert [path.name for path in paths] == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    examples = synthetic.tables()["mix"]["examples"].to_pylist()
    ids = [row["id"] for path in paths for row in pq.read_table(path).to_pylist()]
    assert ids == [row["id"] for row in examples if row["split"] == "train"]


def test_nothing_names_a_host_a_person_or_a_local_path(published: Path) -> None:
    texts = [path.read_text(encoding="utf-8") for path in published.rglob("*") if path.suffix in (".md", ".json")]
    texts += [json.dumps(pq.read_table(path).to_pylist()) for path in published.rglob("*.parquet")]
    for word in ("somebody", "workstation", "gpu-7", "/home", str(published.parent)):
        assert not [text for text in texts if word in text], word


def test_the_card_is_made_from_the_manifests(published: Path) -> None:
    card = (published / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == ["apache-2.0", "mit"]
    assert front["language"] == ["en"]
    assert front["size_categories"] == ["n<1K"]
    assert [entry["split"] for entry in front["configs"][0]["data_files"]] == ["train", "validation"]
    for text in (
        "teacher-7b",
        "digest-of-teacher",
        "sums.jsonl",
        "near\\_duplicate",
        "| temperature | 0.6 |",
        "0123456789ab",
    ):
        assert text in card, text
    assert "| | **all** | **120** |" in card
    expected = synthetic.tables()["mix"]["examples"].num_rows  # none is repeated, or without a teacher
    assert f"\n{expected} reasoning traces, written by" in card
    columns = re.findall(r"^\| `(\w+)` \| .+ \| (.+) \|$", card, re.MULTILINE)
    assert [name for name, meaning in columns] == EXAMPLE.names, "a column without a meaning"


@pytest.mark.parametrize(
    ("languages", "wrong"),
    [(("en", "swe", "multilingual"), None), (("en", "English"), "English"), (("en,de",), "en,de"), (("EN",), "EN")],
)
def test_languages_are_codes(run_folder: Path, tmp_path: Path, languages: tuple[str, ...], wrong: str | None) -> None:
    if wrong is not None:
        with pytest.raises(PublishError, match=f"'{wrong}' is no language code"):
            publish(run_folder, tmp_path / "out", languages)
        assert not (tmp_path / "out").exists()
        return
    card = (publish(run_folder, tmp_path / "out", languages).folder / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(card.split("---\n")[1])["language"] == list(languages)


def test_an_intact_folder_has_no_findings(published: Path, run_folder: Path) -> None:
    assert check(published) == []
    assert check(run_folder) == []
    assert check(run_folder / "mix") == []


def test_any_flipped_bit_is_found(copy: Path) -> None:
    paths = sorted(path for path in copy.rglob("*") if path.is_file())
    for path in paths:
        whole = path.read_bytes()
        for place in {0, len(whole) // 3, len(whole) // 2, len(whole) - 1}:
            for bit in (0, 5, 7):
                torn = bytearray(whole)
                torn[place] ^= 1 << bit
                path.write_bytes(torn)
                assert len(check(copy)) == 1, (path.name, place, bit)
        path.write_bytes(whole)
    assert check(copy) == []


def test_a_flipped_bit_anywhere_in_the_checksums_is_found(copy: Path) -> None:
    path = copy / CHECKSUMS
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        torn = bytearray(whole)
        torn[place] ^= 1 << (place % 8)
        path.write_bytes(torn)
        assert check(copy), place


def test_missing_extra_and_linked_files_are_found(copy: Path) -> None:
    (copy / "data" / "more.parquet").write_bytes(b"x")
    (copy / "work").mkdir()
    (copy / "work" / "hidden").write_bytes(b"x")
    gone = next((copy / "data").glob("validation-*.parquet"))
    gone.rename(copy.parent / "elsewhere")
    gone.symlink_to(copy.parent / "elsewhere")
    (copy / "README.md").unlink()
    assert check(copy) == [
        "README.md: missing, or no plain file",
        f"data/{gone.name}: missing, or no plain file",
        "data/more.parquet: extra, recorded nowhere",
        "work/hidden: extra, recorded nowhere",
    ]


def test_damage_in_a_stage_is_found_and_not_published(run_folder: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(run_folder, tmp_path / "run"))
    shard = next((damaged / "mix" / "examples").glob("*.parquet"))
    torn = bytearray(shard.read_bytes())
    torn[len(torn) // 2] ^= 1
    shard.write_bytes(torn)
    (damaged / "mix" / "stray.parquet").write_bytes(b"")
    assert check(damaged) == [
        f"mix/examples/{shard.name}: its contents changed (another sha256)",
        "mix/stray.parquet: extra, recorded nowhere",
    ]
    with pytest.raises(PublishError, match="The mix is damaged: examples/"):
        publish(damaged, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_said_to_be_that(tmp_path: Path) -> None:
    assert check(tmp_path) == [
        f"{tmp_path} holds neither checksums.json nor manifest.json; expected a published dataset, a stage or a run"
    ]


def test_without_a_mix_or_its_lineage_nothing_is_published(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="no finished mix"):
        publish(tmp_path / "nothing", tmp_path / "out")
    orphan = Path(shutil.copytree(run_folder, tmp_path / "run"))
    (orphan / "verify" / "manifest.json").unlink()
    with pytest.raises(PublishError, match="no manifest of verify"):
        publish(orphan, tmp_path / "out")


def test_what_stands_at_the_destination_is_kept_unless_it_is_an_intact_dataset(
    run_folder: Path, tmp_path: Path
) -> None:
    dest = tmp_path / "out"
    dest.mkdir()
    (dest / "thesis.txt").write_text("mine")
    with pytest.raises(PublishError, match="no dataset that seqdistill published"):
        publish(run_folder, dest)
    assert (dest / "thesis.txt").read_text() == "mine"
    (dest / "thesis.txt").unlink()
    first = publish(run_folder, dest)
    assert publish(run_folder, dest) == first
    (dest / "README.md").write_text("edited by hand")
    with pytest.raises(PublishError, match=r"changed since it was published: README\.md"):
        publish(run_folder, dest)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_cannot_be_published_whole_leaves_what_stood_there(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dest = tmp_path / "out"
    publish(run_folder, dest)
    monkeypatch.setattr(publishing, "SPLITS", ("train",))
    with pytest.raises(PublishError, match=r"hold \d+ of the mix's \d+ examples"):
        publish(run_folder, dest)
    monkeypatch.undo()
    assert check(dest) == []

    real = os.replace

    def refuse(source: Path, target: Path) -> None:
        if source.name.endswith(".tmp") and target == dest:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="No space left"):
        publish(run_folder, dest)
    monkeypatch.undo()
    assert check(dest) == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


class Hub:
    """A hub that records what it is asked; its methods have the signatures of the real client's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, private: bool = True) -> None:
        self.api = create_autospec(huggingface_hub.HfApi, instance=True)
        self.api.repo_info.return_value.private = private
        self.api.upload_folder.return_value.commit_url = "https://example.org/commit/1"
        self.opened = 0
        monkeypatch.setattr(huggingface_hub, "HfApi", self.open)

    def open(self) -> Any:
        self.opened += 1
        return self.api


def test_a_push_sends_exactly_what_was_shown_and_is_private(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub, shown = Hub(monkeypatch), []
    monkeypatch.setenv("HF_TOKEN", "secret")
    address = push(published, "me/sums", lambda text: bool(shown.append(text)) or True)
    assert address == "https://example.org/commit/1"
    assert hub.opened == 1
    hub.api.create_repo.assert_called_once_with("me/sums", repo_type="dataset", private=True, exist_ok=True)
    sent = hub.api.upload_folder.call_args.kwargs["allow_patterns"]
    assert sent == sorted(path.relative_to(published).as_posix() for path in published.rglob("*") if path.is_file())
    assert "private: only its owners" in shown[0]
    assert "secret" not in shown[0]
    assert all(name in shown[0] for name in sent)


def test_a_refused_push_sends_nothing(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch)
    assert push(published, "me/sums", lambda text: False) is None
    assert hub.opened == 0


def test_a_private_push_never_lands_in_a_public_repository(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch, private=False)
    with pytest.raises(PublishError, match="exists and is public"):
        push(published, "me/sums", lambda text: True)
    hub.api.upload_folder.assert_not_called()
    assert push(published, "me/sums", lambda text: "PUBLIC" in text, private=False)


def test_a_changed_folder_is_not_pushed(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch)
    (copy / "notes.txt").write_text("secret plans")
    with pytest.raises(PublishError, match=r"notes.txt: extra"):
        push(copy, "me/sums", lambda text: True)
    assert hub.opened == 0


@pytest.mark.parametrize(
    "refusal",
    [
        huggingface_hub.errors.HFValidationError("no such name"),
        huggingface_hub.errors.LocalTokenNotFoundError("no such name"),
        httpx2.ConnectError("no such name"),
    ],
)
def test_what_the_hub_refuses_is_an_error_with_the_fix(
    published: Path, monkeypatch: pytest.MonkeyPatch, refusal: Exception
) -> None:
    hub = Hub(monkeypatch)
    hub.api.create_repo.side_effect = refusal
    with pytest.raises(PublishError, match="did not take me/sums: no such name"):
        push(published, "me/sums", lambda text: True)


def test_the_card_names_every_teacher_with_its_weights() -> None:
    role = {"model": "one", "engine": "vllm", "dtype": "bfloat16", "quantization": None}
    recipe = {"teacher": role, "more_teachers": {"coder": {**role, "model": "two"}}, "generate": {}}
    common = {"run": "r", "commit": None, "finished": "now", "facts": {"funnel": []}, "recipe": recipe}
    generate = {**common, "identity": {"models": {"teacher": "w1", "coder": "w2"}, "prompts": {}}}
    text = card(
        {"mix": common, "generate": generate},
        {"train": 1},
        Counter(traces=1),
        {"teacher", "coder"},
        [],
        [],
        EXAMPLE,
        [],
    )
    assert "1 reasoning traces, written by `one` and `two` and kept" in text
    assert "ready-made" not in text
    assert "repeat some" not in text
    found = re.findall(r"^\| (teacher|weights) \| `(\w+)` \|$", text, re.MULTILINE)
    assert found == [("teacher", "one"), ("weights", "w1"), ("teacher", "two"), ("weights", "w2")]
    table = text.split("## How it was made")[1].split("What became")[0].strip().splitlines()[2:]
    assert all(line.startswith("|") for line in table), table


@pytest.mark.parametrize(
    ("writers", "said"),
    [
        ({"teacher", "last_student"}, "`one` and a student trained from `small`"),
        ({"teacher"}, "`one`"),
        ({"last_student"}, "a student trained from `small`"),
        ({"other"}, "`models/two`"),
    ],
)
def test_the_card_credits_the_teachers_that_rows_name_and_a_student_by_what_it_was_trained_from(
    writers: set[str], said: str
) -> None:
    role = {"model": "one", "engine": "openai", "dtype": "bfloat16", "quantization": None}
    local = {**role, "engine": "vllm"}
    more = {"last_student": {**local, "model": "last_student"}, "other": {**local, "model": "models/two"}}
    recipe = {"teacher": role, "more_teachers": more, "student": {"model": "small"}, "generate": {}}
    common = {"run": "r", "commit": None, "finished": "now", "facts": {"funnel": []}, "recipe": recipe}
    models = dict.fromkeys(("teacher", "last_student", "other"), "w")
    generate = {**common, "identity": {"models": models, "prompts": {}}}
    counted = Counter(traces=1, ready=2)
    text = card({"mix": common, "generate": generate}, {"train": 3}, counted, writers, [], [], EXAMPLE, [])
    assert f"1 reasoning traces, written by {said} and kept after" in text
    assert ", and 2 ready-made examples" in text
    assert ("| engine | openai |" in text) is ("teacher" in writers)  # what a server computes in, nobody knows
    assert text.count("| engine, dtype | vllm, bfloat16 |") == len(writers - {"teacher"})


def test_a_teacher_is_found_by_the_label_that_its_rows_carry() -> None:
    names = {"teacher": "/data/models/Qwen3-8B/", "hub": "Qwen/Qwen3-8B", "other": "~/models/two", "silent": "a/b"}
    recipe = {"teacher": {"model": names.pop("teacher")}, "more_teachers": {k: {"model": v} for k, v in names.items()}}
    assert _writers(recipe, {"Qwen3-8B", "two"}) == {"teacher", "other"}
    assert _writers(recipe, {"Qwen/Qwen3-8B"}) == {"hub"}


def test_the_card_tells_traces_from_their_repeats_and_from_examples_that_no_teacher_wrote() -> None:
    role = {"model": "one", "engine": "vllm", "dtype": "bfloat16", "quantization": None}
    funnel = [{"stage": "mix", "reason": "kept", "traces": 72}]
    common = {"run": "r", "commit": None, "finished": "now", "facts": {"funnel": funnel}}
    mix = {**common, "recipe": {"teacher": role, "generate": {}}, "identity": {"models": {}, "prompts": {}}}
    text = card(
        {"mix": mix}, {"train": 180}, Counter(traces=36, repeats=124, ready=20), {"teacher"}, [], [], EXAMPLE, []
    )
    said = " ".join(text.split("## Sources")[0].split())
    assert "36 reasoning traces, written by `one` and kept after judging" in said
    assert "of 72 in all, 20 ready-made examples that no teacher wrote, and 124 rows that repeat some of them." in said
    assert "Those of the ready-made examples (no `teacher`) are their source's." in text
