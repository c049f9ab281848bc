"""A disk that is full or fails while completions are generated: one clear error, and nothing is lost once it is mended.

Run: python -m tests.faults.full_disk, as root: it mounts a small tmpfs of its own, and compiles tests/faults/refuse.c
with cc; where it can do neither it says so and exits with 2. The loop of pipeline.sampling, and the whole command line
up to generate, run on a tmpfs that grows a little after each failure until they end, and on a disk that refuses single
writes and fsyncs of journals, shards and manifests. After each failure the exit code and the message are looked at; in
the end the rows must be those of an unbroken run. The last line is JSON; exit code 1 where a bar is missed.
"""

import argparse
import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pipeline import recipe
from pipeline.run import Run
from pipeline.store import Store
from tests import bars, small
from tests.faults import kill_generate

ROOT = Path(__file__).resolve().parents[2]
PROBLEMS = 150  # of the loop, three samples each: half a megabyte of journals
LOOP_STEP_KB, LINE_STEP_KB = 96, 12
NO_FAULT: Mapping[str, str] = {}


class CannotTest(Exception):
    """This machine has not what these faults need."""


@dataclass
class Tally:
    """What a number of failures did."""

    failures: int = 0
    unclear: list[str] = field(default_factory=list)  # messages that do not say what happened and what to do
    unnoticed: list[str] = field(default_factory=list)  # faults after which a process said that all was well
    lost: int = 0  # completions that were stored, and were not there after a failure or in the end
    doubled: int = 0
    changed: int = 0  # rows, or column fingerprints of the traces, that differ from an unbroken run's


@contextmanager
def small_disk(kilobytes: int) -> Iterator[Path]:
    """A tmpfs of so many kilobytes."""
    with tempfile.TemporaryDirectory() as folder:
        if _mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder):
            raise CannotTest("A tmpfs cannot be mounted here; run this as root, with the right to mount.")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


def grow(disk: Path, kilobytes: int) -> None:
    if _mount("-o", f"remount,size={kilobytes}k", str(disk)):
        raise RuntimeError(f"the tmpfs at {disk} cannot be made larger")


def _mount(*words: str) -> int:
    try:
        return subprocess.run(["mount", *words], capture_output=True).returncode
    except FileNotFoundError:
        return 1


def shim(folder: Path) -> Path:
    """Compile the library that refuses."""
    made = folder / "refuse.so"
    source = Path(__file__).with_name("refuse.c")
    try:
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", made, source, "-ldl"], check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise CannotTest(f"{source.name} cannot be compiled with cc ({error}); install a C compiler.") from error
    return made


def fault(library: Path, path: str, call: str, after: int, error: int) -> dict[str, str]:
    """The environment in which files with `path` in their path fail so, after so many calls that work."""
    return {
        "LD_PRELOAD": str(library),
        "REFUSE_PATH": path,
        "REFUSE_CALL": call,
        "REFUSE_AFTER": str(after),
        "REFUSE_ERRNO": str(error),
    }


def told(message: str, error: int) -> bool:
    """Whether a message names a file, the error and the way on."""
    return "/" in message and f"cannot be written: {os.strerror(error)}" in message and "run again" in message


class Loop:
    """The loop of pipeline.sampling in a process of its own, on one folder."""

    def __init__(self, folder: Path, unbroken: Path) -> None:
        self._folder, self._unbroken = folder, unbroken
        self._stored: set[str] = set()

    def run(self, environment: Mapping[str, str], error: int, tally: Tally) -> bool:
        """Run it once; returns whether it ended well."""
        command = kill_generate.command(self._folder, PROBLEMS, 0.0)
        answer = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)
        stored = set(Store(self._folder, kill_generate.order_of(PROBLEMS).weights).ids())
        tally.lost += len(self._stored - stored)
        self._stored = stored
        if answer.returncode == 0:
            return True
        tally.failures += 1
        # A script's own traceback ends with the message, which here may have causes above it.
        if not told(answer.stderr.rstrip().splitlines()[-1], error):
            tally.unclear.append(answer.stderr)
        return False

    def compare(self, tally: Tally) -> None:
        ended, unbroken = (kill_generate.rows(each, PROBLEMS) for each in (self._folder, self._unbroken))
        tally.lost += len(unbroken.keys() - ended.keys())
        tally.changed += sum(unbroken.get(key) != row for key, row in ended.items())
        tally.doubled += sum(count > 1 for count in kill_generate.appended(self._folder).values())


class CommandLine:
    """`seqdistill run RECIPE --to generate`, with one data folder."""

    def __init__(self, path: Path, data: Path, unbroken: Path) -> None:
        self._path, self._data, self._unbroken = path, data, unbroken
        self._stored: set[str] = set()

    def run(self, environment: Mapping[str, str], error: int, tally: Tally, to: str = "generate") -> bool:
        """Run it once; returns whether it ended well."""
        answer = subprocess.run(
            small.command("run", self._path, "--to", to),
            cwd=ROOT,
            env={**small.environment(self._data), **environment},
            capture_output=True,
            text=True,
        )
        run = Run(recipe.load(self._path), data=self._data)
        stored = set(Store(run.store, run.weights("teacher")).ids())
        tally.lost += len(self._stored - stored)
        self._stored = stored
        if answer.returncode == 0:
            return True
        tally.failures += 1
        said = answer.stderr.strip()
        if answer.returncode != 1 or "\n" in said or not said.startswith("error: ") or not told(said, error):
            tally.unclear.append(f"exit {answer.returncode}: {answer.stdout}{answer.stderr}")
        return False

    def compare(self, tally: Tally) -> None:
        """The traces against those of an unbroken run, by the fingerprints of their columns."""
        found = [Run(recipe.load(self._path), data=data).manifest("generate") for data in (self._data, self._unbroken)]
        ended, unbroken = (None if each is None else each.datasets["traces"].columns for each in found)
        assert unbroken is not None
        tally.changed += ended != unbroken
        tally.doubled += sum(count > 1 for count in kill_generate.appended(self._data / "store").values())


def fill_up(subject: Loop | CommandLine, disk: Path, step_kb: int, tally: Tally) -> None:
    """Run on a full disk, make it a little larger, run again, until it ends well."""
    size_kb = step_kb
    while not subject.run(NO_FAULT, errno.ENOSPC, tally):
        size_kb += step_kb
        if size_kb > 60 * step_kb:
            raise RuntimeError(f"still not enough room at {size_kb} KB: {tally}")
        grow(disk, size_kb)
    subject.compare(tally)


def refuse(subject: Loop | CommandLine, name: str, environment: Mapping[str, str], tally: Tally) -> None:
    """Run with a fault, then without."""
    error = int(environment["REFUSE_ERRNO"])
    if subject.run(environment, error, tally):
        tally.unnoticed.append(name)
    if not subject.run(NO_FAULT, error, tally):
        tally.unclear.append(f"{name}: it fails on the mended disk too")
    subject.compare(tally)


def loop_faults(folder: Path, library: Path, tally: Tally) -> None:
    """The loop on a disk that refuses a journal's writes or fsyncs, sooner or later."""
    cases = [("write", after, error) for error in (errno.ENOSPC, errno.EIO) for after in (0, 1, 17, 200)]
    cases += [("fsync", 0, error) for error in (errno.ENOSPC, errno.EIO)]
    for call, after, error in cases:
        name = f"loop: {call} of a journal, {errno.errorcode[error]} after {after}"
        subject = Loop(folder / f"loop-{call}-{after}-{error}", folder / "unbroken")
        refuse(subject, name, fault(library, "/journal-", call, after, error), tally)
        bars.show(name)


# What generate writes, in its order, by a part of its path.
WRITTEN = ("generate/.intent.json", "wanted/.teacher.txt", "/journal-", "traces/.traces-", "generate/.manifest.json")


def line_faults(path: Path, folder: Path, library: Path, tally: Tally) -> None:
    """The command line on a disk that refuses what generate writes, one kind of file at a time."""
    for number, (part, call) in enumerate((part, call) for part in WRITTEN for call in ("write", "fsync")):
        error = (errno.ENOSPC, errno.EIO)[number % 2 ^ (number // 2) % 2]
        name = f"command line: {call} of {part}, {errno.errorcode[error]}"
        subject = CommandLine(path, folder / f"data-{number}", folder / "unbroken-data")
        subject.run(NO_FAULT, error, tally, to="seed")
        refuse(subject, name, fault(library, part, call, 0, error), tally)
        bars.show(name)


def all_faults(tally: Tally) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        kill_generate.generate(folder / "unbroken", PROBLEMS)
        (folder / "student").mkdir()  # generate needs none
        path = small.write(folder)
        small.seqdistill(folder / "unbroken-data", "run", path, "--to", "generate")
        with small_disk(LOOP_STEP_KB) as disk:
            fill_up(Loop(disk / "store", folder / "unbroken"), disk, LOOP_STEP_KB, tally)
        bars.show(f"loop on a disk that fills up: {tally.failures} failures")
        with small_disk(LINE_STEP_KB) as disk:
            fill_up(CommandLine(path, disk / "data", folder / "unbroken-data"), disk, LINE_STEP_KB, tally)
        bars.show(f"command line on a disk that fills up: {tally.failures} failures with the loop's")
        library = shim(folder)
        loop_faults(folder, library, tally)
        line_faults(path, folder, library, tally)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    tally = Tally()
    try:
        all_faults(tally)
    except CannotTest as error:
        bars.show(str(error))
        return 2
    for message in tally.unclear + tally.unnoticed:
        bars.show(f"--\n{message}")
    return bars.end(
        bars.none("faults that went unnoticed", len(tally.unnoticed), tally.failures),
        bars.none("failures without one clear message and exit code", len(tally.unclear), tally.failures),
        bars.none("completions lost to a full or failing disk", tally.lost, tally.failures),
        bars.none("completions stored twice", tally.doubled, tally.failures),
        bars.none("rows that differ from an unbroken run's", tally.changed, tally.failures),
    )


if __name__ == "__main__":
    sys.exit(main())
