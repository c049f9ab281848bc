"""Names -> local weights: an entry of data/models.yaml, a hub id at a commit, a path, or a student made from one.

It runs no model and decides nothing about prompts. `resolve` needs no network; `pin` and `fetch` may use it. Code of a
model's repository is never fetched or run, and neither are pickled weights.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from pipeline import lock, mirror, student
from pipeline.digests import remembered
from pipeline.manifest import replace_folder, write_durably
from pipeline.mirror import Mirror
from pipeline.records import content_id
from pipeline.roles import Role, Student
from pipeline.section import Section
from pipeline.text import closest

CATALOGUE = Path("data/models.yaml")
FOLDER = Path("data/models")
MADE = "made"  # the folder in it of students made from a model's layers

HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([0-9a-f]{40}))?")
# What a model is read from. Pickled weights (*.bin) and code (*.py) are left behind on purpose.
POOLING = "1_Pooling/config.json"  # how an embedding model's states become one vector, as sentence-transformers says
NEEDED = ("*.safetensors", "*.gguf", *student.TEXTS, POOLING)
# JSON that trainers and this project leave beside weights, which no loader of a model reads.
BESIDE = ("trainer_state.json", mirror.SEAL, student.RECORD)

ALLOWED = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"  # set: vLLM reads beyond a model's positions

Say = Callable[[str], None]
Kind = Literal["mirror", "hub", "path", "served", "made"]


class ModelError(ValueError):
    """A model cannot be found or fetched; the message names the ways out."""


class Entry(Section):
    """A model of data/models.yaml: exactly one of `mirror`, `commit` and `path`."""

    about: str = ""  # a line for people
    license: str | None = None  # as the hub spells it
    hub: str | None = None  # owner/name
    commit: str | None = Field(None, pattern=r"^[0-9a-f]{40}$")  # of `hub`
    mirror: Mirror | None = None
    path: str | None = None  # a folder, from the project's root where it is relative
    # Values that stand in the model's config.json in place of its own: a longer context, say. Of a commit only.
    config: dict[str, int | float | str | bool] = {}

    @model_validator(mode="after")
    def _one_source(self) -> "Entry":
        if self.config and not self.commit:
            raise ValueError("config changes a model of the hub: give its hub and commit, or edit the folder's own")
        if sum(source is not None for source in (self.mirror, self.commit, self.path)) != 1:
            raise ValueError("give exactly one source: mirror, commit (with hub) or path")
        if self.commit and not self.hub:
            raise ValueError("a commit needs the hub id it belongs to")
        return self


@dataclass(frozen=True)
class Model:
    """A model as far as it is known without the network."""

    name: str  # as the recipe or data/models.yaml names it
    kind: Kind
    identity: str  # decides its words: a digest of the weights, or owner/name@commit ("@unpinned" before first use)
    source: str  # for people: where it comes from
    present: bool  # its files are on this machine
    folder: Path | None = None  # where they are or will be; None for the hub's own cache and for a served model
    hub: str | None = None
    commit: str | None = None
    license: str | None = None
    mirror: Mirror | None = None
    config: Mapping[str, int | float | str | bool] = field(default_factory=dict)  # see Entry.config
    base: "Model | None" = None  # what a made student is made from

    @property
    def pinned(self) -> bool:
        return self.base.pinned if self.base else self.kind != "hub" or self.commit is not None


def resolve(wanted: str | Role, root: Path) -> Model:
    """The model that a recipe's role, or a name, stands for. Touches no network; a path's files are digested.

    A name of data/models.yaml comes first, then an existing path (from `root` where it is relative), then a hub id.
    Raises ModelError for anything else, for a path that does not exist, and for a damaged data/models.yaml.
    """
    if isinstance(wanted, Role):
        if isinstance(wanted, Student) and wanted.made:
            return _made(wanted, root)
        if wanted.engine == "openai":
            return Model(wanted.model, "served", f"served:{wanted.model}", "an OpenAI-compatible server", present=True)
        wanted = wanted.model
    entries = read_catalogue(root)
    if wanted in entries:
        return _listed(wanted, entries[wanted], root)
    path = root / Path(wanted).expanduser()
    if path.exists():
        return _local(wanted, path, root)
    match = HUB_ID.fullmatch(wanted)
    # "data/my-modle" is a path with a slip in it, not a repository of an owner called data.
    if match and not (root / wanted.split("/")[0]).is_dir():
        return _on_hub(wanted, match[1], match[2], None)
    near = closest(wanted, entries)
    hint = f" Did you mean {near}?" if near else ""
    raise ModelError(
        f"No model {wanted!r}: it is not in {CATALOGUE} (which has {', '.join(sorted(entries))}), {path} does not "
        f"exist, and it is no hub id (owner/name, or owner/name@ and the 40 hex digits of a commit).{hint}"
    )


def _listed(name: str, entry: Entry, root: Path) -> Model:
    if entry.mirror:
        folder = root / FOLDER / name
        identity = entry.mirror.identity
        files = mirror.sealed_files(folder, identity)
        return Model(
            name,
            "mirror",
            identity,
            source=f"mirror of {entry.hub}" if entry.hub else "mirror",
            present=files is not None and all((folder / file).exists() for file in files),
            folder=folder,
            hub=entry.hub,
            license=entry.license,
            mirror=entry.mirror,
        )
    if entry.path:
        path = root / Path(entry.path).expanduser()
        if not path.exists():
            raise ModelError(f"{CATALOGUE} says {name} lies in {path}, which does not exist. Correct the path.")
        return _local(name, path, root)
    assert entry.hub is not None
    model = _on_hub(name, entry.hub, entry.commit, entry.license)
    if not entry.config:
        return model
    identity = f"{model.identity}+{content_id(entry.config)}"
    return replace(model, identity=identity, config=entry.config, folder=root / FOLDER / name)


def _made(wanted: Student, root: Path) -> Model:
    base = resolve(wanted.model, root)
    key = content_id("student", student.VERSION, base.identity, wanted.layers, wanted.think_tokens)
    folder, identity = root / FOLDER / MADE / key[:16], f"made:{key}"
    return Model(
        f"{MADE}-{key[:16]}",
        "made",
        identity,
        source=f"made from {base.name}",
        present=mirror.sealed_files(folder, identity) is not None,
        folder=folder,
        license=base.license,
        base=base,
    )


def _on_hub(name: str, hub: str, commit: str | None, license: str | None) -> Model:
    identity = f"{hub}@{commit or 'unpinned'}"
    present = commit is not None and _snapshot(hub, commit).is_dir()
    return Model(name, "hub", identity, f"hub: {hub}", present, hub=hub, commit=commit, license=license)


def _snapshot(hub: str, commit: str) -> Path:
    """Where the hub's own cache keeps a commit. Its documented layout; importing its library takes too long here."""
    caches = os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")
    home = os.environ.get("HF_HOME", Path(caches) / "huggingface")
    older = os.environ.get("HUGGINGFACE_HUB_CACHE", Path(home) / "hub")
    cache = Path(os.path.expandvars(os.environ.get("HF_HUB_CACHE", older))).expanduser()
    return cache / f"models--{hub.replace('/', '--')}" / "snapshots" / commit


def _local(name: str, path: Path, root: Path) -> Model:
    if path.is_file():
        return Model(
            name,
            "path",
            f"sha256:{remembered(root).of(path)}",
            f"file {path}",
            present=True,
            folder=path,
        )
    files = sorted({file for pattern in NEEDED for file in path.glob(pattern) if file.name not in BESIDE})
    if not (path / "config.json").exists():
        raise ModelError(
            f"{path} has no config.json; expected a folder with config.json, safetensors and a tokenizer, as "
            "save_pretrained writes it."
        )
    if not any(file.suffix in (".safetensors", ".gguf") for file in files):
        raise ModelError(
            f"{path} has no safetensors; pickled weights are not loaded. Save the model again with save_pretrained."
        )
    digests = remembered(root)
    listing = "".join(f"{digests.of(file)}  {file.relative_to(path).as_posix()}\n" for file in files)
    identity = f"sha256:{hashlib.sha256(listing.encode()).hexdigest()}"
    return Model(name, "path", identity, f"folder {path}", present=True, folder=path)


def read_catalogue(root: Path) -> dict[str, Entry]:
    """The entries of data/models.yaml by name; none where there is no such file. Raises ModelError for a bad one."""
    path, name, found = root / CATALOGUE, "an entry", dict[str, Entry]()
    try:
        for name, value in (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).items():
            found[str(name)] = Entry.model_validate(value)
        return found
    except FileNotFoundError:
        return {}
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in (name, *first["loc"]))
        raise ModelError(f"{path}: {where}: {first['msg']}. See the head of that file.") from error
    except (yaml.YAMLError, AttributeError) as error:
        raise ModelError(f"{path} is no YAML mapping of names to models: {error}") from error


def list_models(root: Path) -> list[Model]:
    """Every model of data/models.yaml, in its order; of one that cannot be there, why. Touches no network."""

    def one(name: str, entry: Entry) -> Model:
        try:
            return _listed(name, entry, root)
        except ModelError as error:
            return Model(name, "path", "unknown", str(error), present=False)

    return [one(name, entry) for name, entry in read_catalogue(root).items()]


def pin(wanted: str | Role, root: Path, say: Say) -> Model:
    """Like `resolve`, but a hub id without a commit gets today's, appended to data/models.yaml for good.

    To be called before identities are computed. Raises ModelError where the commit cannot be learned.
    """
    model = resolve(wanted, root)
    if model.pinned:
        return model
    if model.base is not None:
        assert isinstance(wanted, Student)
        pin(wanted.model, root, say)
        return resolve(wanted, root)
    with _alone(root, "catalogue", say):
        model = resolve(wanted, root)
        if not model.pinned:
            assert model.hub is not None
            commit = newest_commit(model.hub, wanted)
            path = root / CATALOGUE
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            entry = f"{model.hub}:\n  about: recorded at first use\n  hub: {model.hub}\n  commit: {commit}\n"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(path, f"{text.rstrip()}\n\n{entry}".lstrip())
            say(f"{model.hub} is pinned to commit {commit} in {CATALOGUE}")
    return resolve(wanted, root)


def foresee(role: Role, root: Path, say: Say) -> None:
    """Pin a role's model, which a later stage will fetch. Raises ModelError as `pin`, and, where the model's files (a
    made student's source's) are at hand, for layers that it does not have and for more tokens than it can read.
    """
    model = pin(role, root, say)
    folder = _at_hand(model)
    if folder is None:
        return
    if isinstance(role, Student):
        with _makable(role):
            _layers(folder, role)
    limit = _positions(model)
    if limit is not None and role.engine == "vllm" and role.max_model_len > limit and ALLOWED not in os.environ:
        raise ModelError(
            f"{type(role).__name__.lower()}.max_model_len is {role.max_model_len}, but {model.name} has only {limit} "
            f"positions, and vLLM serves no more. Set it to {limit} or less, or name another model."
        )


def at_hand(wanted: str | Role, root: Path) -> Path | None:
    """The folder of a model whose files are on this machine; of a student that is made, its source's. None where they
    are not, or where the model has none here.
    """
    return _at_hand(resolve(wanted, root))


def positions(wanted: str | Role, root: Path) -> int | None:
    """The longest sequence that a model reads, in tokens. None where its files are not at hand, or do not say it."""
    return _positions(resolve(wanted, root))


def _positions(model: Model) -> int | None:
    folder = _at_hand(model)
    return None if folder is None else positions_in(folder, (model.base or model).config)


def positions_in(folder: Path, changed: Mapping[str, Any] = MappingProxyType({})) -> int | None:
    """The longest sequence that the model in a folder reads, in tokens, its configuration with values `changed`. None
    where it does not say so plainly: a scaled rotation of positions makes more of them.
    """
    config = _config(folder) | dict(changed)
    rotation = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kinds = {rotation.get("rope_type"), rotation.get("type")} - {None, "default"}
    nested = any(isinstance(value, dict) for value in rotation.values())  # of each kind of layer its own
    limit = config.get("max_position_embeddings")
    return limit if isinstance(limit, int) and not kinds and not nested else None


def _at_hand(model: Model) -> Path | None:
    """The folder of a model whose files are here; of a student that is made, its source's."""
    model = model.base or model
    kept = _snapshot(model.hub, model.commit) if model.hub and model.commit else None
    folder = (model.folder or kept) if model.present else None
    return folder if folder is not None and (folder / "config.json").is_file() else None


def newest_commit(hub: str, wanted: str | Role) -> str:
    """The commit a hub repository stands at; offline, the one this machine's cache has as its main branch."""
    from httpx2 import HTTPError  # the hub's library speaks through it, and lets its errors out
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        commit = HfApi().model_info(hub).sha
        if commit:
            return commit
        raise ModelError(f"The hub names no commit of {hub}.")
    except (OSError, RuntimeError, HTTPError) as error:
        try:
            return Path(snapshot_download(hub, local_files_only=True, allow_patterns=["config.json"])).name
        except (LocalEntryNotFoundError, OSError):
            problem = f"The commit of {hub} cannot be learned: {_first_line(error)}"
            raise ModelError(_ways_out(problem, None, wanted)) from error


def fetch(wanted: str | Role, root: Path, say: Say) -> Path:
    """A local folder (a replay's answers: a file) with a model's weights and tokenizer, fetched where needed.

    `say` is told of anything slow. Two processes do not fetch one model twice: the second waits. Raises ModelError.
    """
    model = pin(wanted, root, say)
    if model.mirror:
        return _fetch_mirror(model, model.mirror, root, say, wanted)
    if model.base is not None:
        assert isinstance(wanted, Student)
        return _make(model, wanted, root, say)
    if model.kind == "hub":
        snapshot = _fetch_snapshot(model, say, wanted)
        return _with_config(model, snapshot, root, say) if model.config else snapshot
    if model.folder is None:
        raise ModelError(f"{model.name} runs on a server and has no files here. Name a local model instead.")
    return model.folder


def _fetch_mirror(model: Model, source: mirror.Mirror, root: Path, say: Say, wanted: str | Role) -> Path:
    assert model.folder is not None
    if _intact(model, root):
        return model.folder
    with _alone(root, model.name, say):
        if _intact(model, root):
            return model.folder
        if model.folder.exists():
            say(f"{model.name}: {model.folder} is not as it was converted; fetching it again")
        started = time.monotonic()
        try:
            mirror.fetch(source, model.folder, say)
        except mirror.MirrorError as error:
            raise ModelError(_ways_out(f"The mirror of {model.name} failed: {error}", model.hub, wanted)) from error
        say(f"{model.name}: ready in {model.folder} after {time.monotonic() - started:.0f} s")
    return model.folder


def _make(model: Model, wanted: Student, root: Path, say: Say) -> Path:
    """The folder of a student made from a model, made once and by one process."""
    assert model.folder is not None
    if _intact(model, root):
        return model.folder
    source = fetch(wanted.model, root, say)
    with _alone(root, model.name, say):
        if _intact(model, root):
            return model.folder
        started = time.monotonic()
        new, aside = (model.folder.with_name(f".{model.folder.name}.{word}") for word in ("partial", "replaced"))
        shutil.rmtree(new, ignore_errors=True)
        with _makable(wanted):
            layers = _layers(source, wanted)
            say(f"making the student from {wanted.model}")
            student.run_make(source, new, layers, wanted.think_tokens)
        mirror.seal(new, model.identity)
        replace_folder(new, model.folder, aside)
        shutil.rmtree(aside, ignore_errors=True)
        say(f"the student is ready in {model.folder} after {time.monotonic() - started:.0f} s")
    return model.folder


@contextmanager
def _makable(wanted: Student) -> Iterator[None]:
    try:
        yield
    except student.StudentError as error:
        raise ModelError(f"No student can be made from {wanted.model}: {error}.") from error


def _layers(source: Path, wanted: Student) -> list[int] | None:
    return None if wanted.layers is None else student.chosen(_config(source), wanted.layers)


def _config(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise student.StudentError(f"{folder} has no config.json that can be read ({error})") from error
    return found


def _intact(model: Model, root: Path) -> bool:
    """Every file of a converted or made model still has the digest it was sealed with."""
    assert model.folder is not None
    files = mirror.sealed_files(model.folder, model.identity)
    if files is None or not all((model.folder / name).is_file() for name in files):
        return False
    digests = remembered(root)
    return all(digests.of(model.folder / name) == digest for name, (_, digest) in files.items())


def _fetch_snapshot(model: Model, say: Say, wanted: str | Role) -> Path:
    from httpx2 import HTTPError
    from huggingface_hub import snapshot_download

    assert model.hub is not None
    if not model.present:
        say(f"fetching {model.identity}")
    try:
        folder = Path(snapshot_download(model.hub, revision=model.commit, allow_patterns=list(NEEDED)))
    except (OSError, RuntimeError, ValueError, HTTPError) as error:
        problem = f"{model.identity} cannot be fetched: {_first_line(error)}"
        raise ModelError(_ways_out(problem, None, wanted)) from error
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"{model.identity} has no safetensors; pickled weights are not loaded. Name another model.")
    return folder


def _with_config(model: Model, snapshot: Path, root: Path, say: Say) -> Path:
    """A folder of links to a snapshot's files, but for a config.json that has the model's changes in it."""
    assert model.folder is not None
    values = json.loads((snapshot / "config.json").read_text(encoding="utf-8")) | dict(model.config)
    text = json.dumps(values, indent=2) + "\n"
    links = {file.name: file.resolve() for file in sorted(snapshot.iterdir()) if file.name != "config.json"}
    with _alone(root, model.name, say):
        if model.folder.is_dir():
            there = {file.name: file.resolve() for file in model.folder.iterdir() if file.name != "config.json"}
            written = model.folder / "config.json"
            if there == links and written.is_file() and written.read_text(encoding="utf-8") == text:
                return model.folder
        building = model.folder.with_name(f".{model.folder.name}.{os.getpid()}.tmp")
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        for name, file in links.items():
            (building / name).symlink_to(file)
        write_durably(building / "config.json", text)
        replace_folder(building, model.folder, model.folder.with_name(f".{model.folder.name}.old"))
        shutil.rmtree(model.folder.with_name(f".{model.folder.name}.old"), ignore_errors=True)
    return model.folder


def _ways_out(problem: str, hub: str | None, wanted: str | Role) -> str:
    role, where = "student", " (teacher.model instead of student.model where it is the teacher)"
    if isinstance(wanted, Role):
        role, where = type(wanted).__name__.lower(), ""
    lines = [
        f"{problem.rstrip('.')}.",
        f"Ways out{where}:",
        f'  a copy on this machine:  make distill SET="{role}.model=/path/to/folder"',
    ]
    if hub:
        lines.append(f'  the model hub:           make distill SET="{role}.model={hub}"')
    lines.append("  if the network was down: the same command again; what was fetched whole is kept")
    return "\n".join(lines)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _alone(root: Path, name: str, say: Say) -> AbstractContextManager[None]:
    """The lock of a model (or of the catalogue), waited for: who comes second finds the work done."""
    return lock.hold(root / FOLDER / f".{name.replace('/', '--')}.lock", name, wait=say)
