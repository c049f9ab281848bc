"""Checks a folder against what was recorded of it: a published dataset, a stage's folder, or a whole run.

It also writes the record of a published dataset, its checksums. It repairs nothing, and trusts neither the names nor
the sizes it finds recorded.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import plan, wanted
from pipeline.digests import sha256
from pipeline.manifest import INTENT_FILE, MANIFEST_FILE, File, Manifest, read_manifest, write_durably
from pipeline.pilot import PILOT_FILE
from pipeline.records import content_id
from pipeline.shards import add_sums, file_entry

CHECKSUMS = "checksums.json"
# What of a stage's folder no manifest lists: its records, a running stage's state, a pilot's predictions, which
# variants were asked for, and what was logged for TensorBoard.
_UNRECORDED = (INTENT_FILE, MANIFEST_FILE, PILOT_FILE, wanted.FOLDER, "work", "logs")


def checksums(folder: Path) -> None:
    """Write the checksums of every file in a folder, into it."""
    files = [file_entry(path, folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    write_durably(folder / CHECKSUMS, _text(files))


def _text(files: Sequence[File]) -> str:
    """What a checksums file says, character for character, so that any change of it shows."""
    listed = [file.model_dump() for file in files]
    return json.dumps({"fingerprint": content_id(listed), "files": listed}, indent=1, ensure_ascii=False) + "\n"


def check(folder: Path) -> list[str]:
    """What is wrong with a folder, one line a finding; empty where all is as recorded.

    For a published dataset every file and bit counts. For a stage's folder, the files that its manifest names and any
    it does not (its intent, logs and state for resuming aside); for a run's folder, those of each stage.
    """
    if (folder / CHECKSUMS).is_file():
        return _check_published(folder)
    if (folder / MANIFEST_FILE).is_file():
        return _check_stage(folder)
    places = [folder, *sorted(folder.glob("round-*"))]
    stages = [place / name for place in places for name in plan.ORDER if (place / name / MANIFEST_FILE).is_file()]
    if stages:
        found = [(stage.relative_to(folder).as_posix(), finding) for stage in stages for finding in _check_stage(stage)]
        return [f"{name}/{finding}" for name, finding in found]
    return [f"{folder} holds neither {CHECKSUMS} nor {MANIFEST_FILE}; expected a published dataset, a stage or a run"]


def _check_published(folder: Path) -> list[str]:
    try:
        text = (folder / CHECKSUMS).read_bytes().decode("utf-8")
        files = [File.model_validate(item) for item in _listed(json.loads(text))]
    except (ValueError, KeyError, TypeError) as error:
        return [f"{CHECKSUMS}: cannot be read ({error.__class__.__name__}); it was changed"]
    if text != _text(files):
        return [f"{CHECKSUMS}: was changed: it is not what its own fingerprint says"]
    return _compare(folder, files, (CHECKSUMS,))


def _listed(value: Any) -> list[Any]:
    return list(value["files"])


def _check_stage(folder: Path) -> list[str]:
    try:
        manifest = read_manifest(folder)
    except ValueError as error:
        return [f"{MANIFEST_FILE}: {error}"]
    assert manifest is not None
    shards = [shard for dataset in manifest.datasets.values() for shard in dataset.shards]
    artifacts = [file for artifact in manifest.artifacts.values() for file in artifact.files]
    return [*_compare(folder, [*shards, *artifacts], _UNRECORDED), *_inconsistent(manifest)]


def _inconsistent(manifest: Manifest) -> list[str]:
    """Where a manifest's sums are not those of its own parts."""
    findings = []
    for name, dataset in manifest.datasets.items():
        parts = (sum(s.rows for s in dataset.shards), sum(s.bytes for s in dataset.shards), add_sums(dataset.shards))
        if parts != (dataset.rows, dataset.bytes, dataset.columns):
            findings.append(
                f"{MANIFEST_FILE}: the dataset {name} is not the sum of its shards; the manifest was changed"
            )
    for name, artifact in manifest.artifacts.items():
        if content_id([(file.path, file.sha256) for file in artifact.files]) != artifact.fingerprint:
            findings.append(f"{MANIFEST_FILE}: the artifact {name} has another fingerprint; the manifest was changed")
    return findings


def _compare(folder: Path, files: Sequence[File], apart: Sequence[str]) -> list[str]:
    """Findings for each recorded file, then for each that is there, not recorded, and not (in) one of `apart`."""
    findings = [finding for file in files if (finding := _finding(folder, file))]
    known = {file.path for file in files}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if (path.is_file() or path.is_symlink()) and name not in known and name.split("/")[0] not in apart:
            findings.append(f"{name}: extra, recorded nowhere")
    return findings


def _finding(folder: Path, file: File) -> str | None:
    path = folder / file.path
    if Path(file.path).is_absolute() or ".." in Path(file.path).parts:
        return f"{file.path}: recorded outside the folder; the record was changed"
    if path.is_symlink() or not path.is_file():
        return f"{file.path}: missing, or no plain file"
    size = path.stat().st_size
    if size != file.bytes:
        return f"{file.path}: {size} bytes; recorded {file.bytes}"
    return None if sha256(path) == file.sha256 else f"{file.path}: its contents changed (another sha256)"
