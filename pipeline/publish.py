"""A fresh mix as a folder to share: Parquet, a card, manifests and checksums; and pushing that folder to a hub.

It does not decide whether the mix is fresh (the command line asks the run), and checks folders through `check.py`.
"""

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import plan
from pipeline.check import CHECKSUMS, check, checksums
from pipeline.manifest import File, Manifest, read_manifest, replace_folder, sync_files, write_durably
from pipeline.page.card import card, teachers_of
from pipeline.page.scrub import scrub_text, shareable
from pipeline.records import EXAMPLE, base_id
from pipeline.roles import label_of
from pipeline.shards import file_entry, read_shard, write_shard

SPLITS = ("train", "validation")
SHARD_BYTES = 256 << 20  # held in memory by whoever writes a published file; on the disk a third of it or less
_LANGUAGE = re.compile(r"[a-z]{2,3}|multilingual|code")  # as the hub takes them in a card
# Columns that name files or models as the recipe did, perhaps by a local path.
_NAMING_COLUMNS = ("source", "teacher")


class PublishError(ValueError):
    """A dataset cannot be shared as it is; the message says what was found, what was expected, and the fix."""


@dataclass(frozen=True)
class Published:
    """A published folder and its examples per split."""

    folder: Path
    rows: dict[str, int]


def publish(run_folder: Path, dest: Path, languages: Sequence[str] = (), seed_folder: Path | None = None) -> Published:
    """Copy the mix of a run out as a dataset folder at `dest`, whole or not at all.

    run_folder: of the run, or of one of its rounds, which share the seed in `seed_folder`. languages (the hub's codes:
    "en") go into the card; the rows do not say. An earlier published folder at `dest` that is still intact is replaced;
    anything else there is refused. Raises PublishError.
    """
    dest = dest.resolve()
    _check_languages(languages)
    manifests = _lineage(run_folder, seed_folder or run_folder / "seed")
    mix = manifests["mix"]
    damage = check(run_folder / "mix")
    if damage:
        raise PublishError(
            f"The mix is damaged: {damage[0]}. Restore the file, or delete {run_folder / 'mix'} to rebuild it."
        )
    _claim(dest)
    dest.parent.mkdir(parents=True, exist_ok=True)
    building, aside = (dest.parent / f".{dest.name}.{os.getpid()}.{ending}" for ending in ("tmp", "old"))
    try:
        rows = _build(building, run_folder, manifests, languages)
        expected = mix.datasets["examples"].rows
        if sum(rows.values()) != expected:
            raise PublishError(
                f"The splits {' and '.join(SPLITS)} hold {sum(rows.values())} of the mix's {expected} examples, and "
                f"nothing was published. Rebuild the mix: seqdistill run RECIPE --to mix."
            )
        checksums(building)
        sync_files(building)
        replace_folder(building, dest, aside)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return Published(dest, rows)


def _check_languages(languages: Sequence[str]) -> None:
    """Raise PublishError for what the hub would not show as a language."""
    wrong = [language for language in languages if not _LANGUAGE.fullmatch(language)]
    if wrong:
        raise PublishError(
            f"{wrong[0]!r} is no language code; expected ISO 639, in small letters: en, zh, swe. Give the code."
        )


def _lineage(run_folder: Path, seed_folder: Path) -> dict[str, Manifest]:
    """The manifests of the mix and of every stage before it that has one."""
    names = plan.ORDER[: plan.ORDER.index("mix") + 1]
    try:
        found = {name: read_manifest(seed_folder if name == "seed" else run_folder / name) for name in names}
    except ValueError as error:
        raise PublishError(str(error)) from error
    manifests = {name: manifest for name, manifest in found.items() if manifest is not None}
    if "mix" not in manifests:
        raise PublishError(
            f"{run_folder / 'mix'} holds no finished mix. Run the recipe up to it: seqdistill run RECIPE --to mix."
        )
    missing = [name for name in names if name not in manifests]
    if missing:
        raise PublishError(
            f"The mix in {run_folder} is there, but what it was made from is not: no manifest of {', '.join(missing)}. "
            f"A shared dataset says how it was made; run the recipe up to mix again."
        )
    if not manifests["mix"].datasets["examples"].rows:
        raise PublishError(f"The mix in {run_folder} holds no examples; there is nothing to share.")
    return manifests


def _claim(dest: Path) -> None:
    """Raise PublishError where something stands at `dest` that is not an intact published folder."""
    if not dest.exists() or (dest.is_dir() and not any(dest.iterdir())):
        return
    if not (dest / CHECKSUMS).is_file():
        raise PublishError(
            f"{dest} exists and is no dataset that seqdistill published. Name a new folder, or delete it."
        )
    changed = check(dest)
    if changed:
        raise PublishError(f"{dest} was changed since it was published: {changed[0]}. Name a new folder, or delete it.")


def _build(folder: Path, run_folder: Path, manifests: dict[str, Manifest], languages: Sequence[str]) -> dict[str, int]:
    """Write everything but the checksums; returns the examples per split."""
    splits = {split: _Split(folder, split) for split in SPLITS}
    sources = _Sources()
    for shard in manifests["mix"].datasets["examples"].shards:
        table = _without_paths(read_shard(run_folder / "mix", shard))
        sources.add(table)
        for name, split in splits.items():
            split.add(table.filter(pc.equal(table.column("split"), name)))
    rows = {name: written for name, split in splits.items() if (written := split.close())}
    shared = {name: shareable(manifest) for name, manifest in manifests.items()}
    (folder / "manifests").mkdir()
    for name, values in shared.items():
        write_durably(folder / "manifests" / f"{name}.json", json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    write_durably(
        folder / "README.md",
        card(
            shared,
            rows,
            sources.written,
            _writers(json.loads(manifests["mix"].recipe), sources.teachers),
            sources.rows(),
            sources.domains(),
            EXAMPLE,
            languages,
        ),
    )
    return rows


def _writers(recipe: Mapping[str, Any], labels: Collection[str]) -> set[str]:
    """The names that a recipe has for the teachers whose labels rows carry."""
    asked = teachers_of(recipe)
    return {name for name, role in asked.items() if scrub_text(label_of(role.get("model", ""))) in labels}


class _Split:
    """A split's rows, in the order they come, on their way to data/<split>-0000i-of-0000n.parquet."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._buffer: list[pa.Table] = []
        self._paths: list[Path] = []
        self._rows = 0

    def add(self, table: pa.Table) -> None:
        if table.num_rows:
            self._buffer.append(table)
        if sum(part.nbytes for part in self._buffer) >= SHARD_BYTES:
            self._flush()

    def _flush(self) -> None:
        path = self._folder / "data" / f"{self._name}-{len(self._paths):05d}.parquet"
        table = pa.concat_tables(self._buffer)
        write_shard(path, table, self._folder)
        self._paths.append(path)
        self._rows += table.num_rows
        self._buffer = []

    def close(self) -> int:
        """Write what is left, and name the files by their number; returns how many rows there were."""
        if self._buffer:
            self._flush()
        for number, path in enumerate(self._paths):
            path.rename(path.with_name(f"{self._name}-{number:05d}-of-{len(self._paths):05d}.parquet"))
        return self._rows


def _without_paths(table: pa.Table) -> pa.Table:
    for name in _NAMING_COLUMNS:
        values = [None if value is None else scrub_text(value) for value in table.column(name).to_pylist()]
        position = table.schema.get_field_index(name)
        table = table.set_column(position, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    return table


class _Sources:
    """Examples by source, licence and task, and their domains."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._domains: set[str] = set()
        self.written: Counter[str] = Counter()  # traces, examples that no teacher wrote, and repeats of either
        self.teachers: set[str] = set()

    def add(self, table: pa.Table) -> None:
        for row in table.select(["id", "teacher", "source", "license", "task", "domain"]).to_pylist():
            repeat = base_id(row["id"]) != row["id"]
            self.written["repeats" if repeat else "ready" if row["teacher"] is None else "traces"] += 1
            if row["teacher"] is not None:
                self.teachers.add(row["teacher"])
            self._counts[(row["source"] or "not recorded", row["license"] or "unknown", row["task"] or "")] += 1
            self._domains.add(row["domain"] or "")

    def rows(self) -> list[dict[str, Any]]:
        """The most frequent first."""
        ordered = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))
        return [
            {"source": source, "license": license_name, "task": task, "examples": count}
            for (source, license_name, task), count in ordered
        ]

    def domains(self) -> list[str]:
        return sorted(self._domains - {""})


def push(folder: Path, repo: str, confirm: Callable[[str], bool], private: bool = True) -> str | None:
    """Upload a published folder to a Hugging Face dataset repository, after `confirm` said yes to what would be sent.

    It goes with the token that `hf auth login` stored, or HF_TOKEN. Returns the commit's address, or None where
    `confirm` said no (nothing was sent then). Raises PublishError for a folder that is not intact, a repository that
    is public where a private one was asked for, and for what the hub refuses.
    """
    problems = check(folder) if (folder / CHECKSUMS).is_file() else [f"{folder} holds no {CHECKSUMS}; publish it first"]
    if problems:
        raise PublishError(f"{folder} is not what was published, so nothing was sent: {problems[0]}.")
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [file_entry(path, folder) for path in paths]
    if not confirm(_notice(files, repo, private)):
        return None
    from httpx2 import HTTPError  # the hub's library speaks through it, and lets its errors out
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    api = HfApi()
    try:
        api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        if private and not api.repo_info(repo, repo_type="dataset").private:
            raise PublishError(
                f"{repo} exists and is public, and a private repository was asked for; nothing was sent. Name another, "
                f"make it private on the hub, or push with --public."
            )
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            repo_type="dataset",
            commit_message="Publish with seqdistill",
            allow_patterns=[file.path for file in files],
            delete_patterns=["data/*", "manifests/*"],
        )
    except (HTTPError, HFValidationError, OSError) as error:
        raise PublishError(
            f"The hub did not take {repo}: {error}. Check the name (user/dataset), the token (hf auth login, or "
            f"HF_TOKEN) and the connection; the folder {folder} is unchanged."
        ) from error
    return str(commit.commit_url)


def _notice(files: Sequence[File], repo: str, private: bool) -> str:
    """What a person is asked to agree to."""
    lines = [f"  {_size(file.bytes):>10}  {file.path}" for file in files]
    total = _size(sum(file.bytes for file in files))
    seen = "private: only its owners see it" if private else "PUBLIC: everyone can download it"
    return "\n".join(
        [
            f"To send to the dataset repository {repo} ({seen}), {len(files)} files, {total}:",
            *lines,
            "Older files under data/ and manifests/ there are replaced.",
        ]
    )


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
