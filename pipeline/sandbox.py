"""Runs a Python program that nobody trusts, in bubblewrap: without network, environment, or any file but Python's own.

It judges nothing, and where it cannot isolate it runs nothing. A program is one process, may start threads, has a small
/tmp for itself, and is ended at its limits; when this process dies, so does it.
"""

import fcntl
import json
import math
import os
import resource
import selectors
import shutil
import site
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from pipeline import isolation
from pipeline.seccomp import filter_bytes

PROGRAM = "/program.py"  # where a program lies inside
MIB = 1 << 20
CHUNK = 1 << 16  # bytes read at once
ERRORS_KEPT = 4096  # the last bytes of what a program wrote to standard error
OPEN_FILES = 64
STACK_MIB = 8
DEATH_WAIT_S = 10.0  # for a killed sandbox to be gone
NOBODY = "65534"
# All of /proc that is not about a program's own processes is covered, but for what libraries read. Run by root, a
# program owns what stands there, kernel settings included, though it has no capability; bubblewrap leaves them open.
PLAIN_PROC = {"self", "thread-self", "net", "mounts", "cpuinfo", "meminfo", "stat", "uptime", "loadavg", "filesystems"}

INSTALL = "Install it: apt-get install bubblewrap (Debian, Ubuntu), dnf install bubblewrap (Fedora)."
PERMIT = (
    "It needs user namespaces. Ubuntu: sysctl kernel.apparmor_restrict_unprivileged_userns=0. Older Debian: sysctl "
    "kernel.unprivileged_userns_clone=1. Anywhere: user.max_user_namespaces must not be 0. In a container: start "
    "it with --security-opt seccomp=unconfined --security-opt systempaths=unconfined."
)


class SandboxError(RuntimeError):
    """The sandbox cannot be built here, or broke: nothing is known of the program."""


@dataclass(frozen=True)
class Limits:
    """What one program may use."""

    cpu_s: float = 3.0  # of all its threads together; the kernel counts whole seconds, rounded up
    wall_s: float = 6.0
    memory_mib: int = 512  # of address space
    output_bytes: int = MIB  # to standard output
    scratch_mib: int = 16  # in /tmp, and the size of any file


@dataclass(frozen=True)
class Ending:
    """How a program ended. `status` is its exit status, 128 + n after signal n; None where a limit ended it."""

    status: int | None
    limit: Literal["time", "output"] | None
    output: bytes
    errors: str  # the end of its standard error
    wall_s: float


def run(arguments: Sequence[str], limits: Limits, program: str = "", stdin: bytes = b"") -> Ending:
    """Run `python *arguments` inside, with `program` at PROGRAM, and wait for its end.

    Only the standard library can be imported. Raises SandboxError where it cannot be isolated here, or breaks.
    """
    if why := lacking():
        raise SandboxError(why)
    return _run(arguments, limits, program, stdin)


@cache
def lacking() -> str:
    """Why nothing can be run here, with the fix; empty where a probe finds all shut. Looked at once a process."""
    if shutil.which("bwrap") is None:
        return f"bubblewrap is not installed. {INSTALL}"
    limits = Limits()
    try:
        filter_bytes()
        with _host(limits) as host:
            probe = Path(isolation.__file__).read_text(encoding="utf-8")
            ending = _run([PROGRAM], limits, probe, json.dumps(host).encode("ascii"))
    except SandboxError as error:
        return f"{error} {PERMIT}"
    except ValueError as error:
        return f"{error}. Judge on another machine."
    if ending.status != 0:
        return f"a program in bubblewrap does not work: {ending.errors.strip()[-500:] or ending}. {PERMIT}"
    found = json.loads(ending.output)
    return f"bubblewrap does not isolate here: {'; '.join(found)}. {PERMIT}" if found else ""


@contextmanager
def _host(limits: Limits) -> Iterator[dict[str, Any]]:
    """What the probe is told of the world outside, while it is so."""
    with tempfile.NamedTemporaryFile() as file, socket.create_server(("127.0.0.1", 0)) as server:
        yield {
            "files": [file.name, __file__, "/etc/passwd", "/sys", "/run", "/var", *_homes()],
            "namespaces": isolation.namespaces(),
            "port": server.getsockname()[1],
            "memory_bytes": limits.memory_mib * MIB,
            "scratch_bytes": limits.scratch_mib * MIB,
        }


def _homes() -> list[str]:
    """What lies in the home folder, but for the way to Python itself."""
    home = Path("~").expanduser()
    ways = [str(folder) for folder in _python_folders()]
    try:
        entries = [] if home == Path("/") else sorted(map(str, home.iterdir()))
    except OSError:  # there is no such folder, or nobody may read it
        return []
    return [entry for entry in entries if not any(way.startswith(entry) for way in ways)][:50]


def _run(arguments: Sequence[str], limits: Limits, program: str, stdin: bytes) -> Ending:
    started = time.monotonic()
    with ExitStack() as stack:
        given, source, rules = (
            stack.enter_context(_sealed(data)) for data in (stdin, program.encode("utf-8", "replace"), filter_bytes())
        )
        heard, said = os.pipe()
        report = stack.enter_context(os.fdopen(heard, "rb"))
        with os.fdopen(said, "wb"):
            process = _start(_command(arguments, source, rules, said, limits), given, (source, rules, said), limits)
        with process:
            try:
                limit, output, errors = _watch(process, started + limits.wall_s, limits.output_bytes)
            finally:
                process.kill()  # bubblewrap's death is that of all it started
            _await_end(process)
        status = _status(report.read())
    text = bytes(errors).decode("utf-8", "replace")
    if limit is None and status is None:
        raise SandboxError(f"bubblewrap did not run the program: {text.strip()[-500:] or 'it said nothing'}.")
    return Ending(None if limit else status, limit, bytes(output), text, time.monotonic() - started)


def _start(command: list[str], stdin: int, kept: tuple[int, ...], limits: Limits) -> "subprocess.Popen[bytes]":
    """bubblewrap stays in this process's group, so that who kills the group kills it too."""
    try:
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=kept,
            cwd="/",
            env={"PYTHONHASHSEED": "0"},  # the order of a set must not change a verdict
            preexec_fn=partial(_limit, limits),
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise SandboxError(f"bubblewrap cannot be started: {error}.") from error


def _limit(limits: Limits) -> None:
    """In the child, before bubblewrap: what a program uses is counted by the kernel."""
    seconds = math.ceil(limits.cpu_s)
    for what, soft, hard in (
        (resource.RLIMIT_CPU, seconds, seconds + 1),  # one second for those who take SIGXCPU as a hint
        (resource.RLIMIT_AS, limits.memory_mib * MIB, limits.memory_mib * MIB),
        (resource.RLIMIT_FSIZE, limits.scratch_mib * MIB, limits.scratch_mib * MIB),
        (resource.RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES),
        (resource.RLIMIT_STACK, STACK_MIB * MIB, STACK_MIB * MIB),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_MEMLOCK, 0, 0),
    ):
        most = resource.getrlimit(what)[1]
        resource.setrlimit(what, (soft, hard) if most == resource.RLIM_INFINITY else (min(soft, most), min(hard, most)))


def _command(arguments: Sequence[str], source: int, rules: int, said: int, limits: Limits) -> list[str]:
    bubblewrap = shutil.which("bwrap")
    if bubblewrap is None:
        raise SandboxError(f"bubblewrap is not installed. {INSTALL}")
    apart = ["--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    apart += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    apart += ["--uid", NOBODY, "--gid", NOBODY, "--hostname", "sandbox"]
    scratch = ["--size", str(limits.scratch_mib * MIB), "--tmpfs", "/tmp", "--chdir", "/tmp"]
    shut = [word for place in ("/proc", "/dev", "/") for word in ("--remount-ro", place)]
    return [
        *[bubblewrap, *apart, *_system(), "--proc", "/proc", *_covers(), "--dev", "/dev", *scratch],
        *["--file", str(source), PROGRAM, *shut, "--seccomp", str(rules), "--json-status-fd", str(said), "--"],
        *[_interpreter(), "-s", "-P", "-B", "-X", "utf8", *arguments],
    ]


@cache
def _system() -> tuple[str, ...]:
    """The folders inside: the system's libraries and Python, both read-only, without any installed package."""
    words = ["--ro-bind", "/usr", "/usr", "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    for path in sorted(Path("/").glob("lib*")):
        if path.is_symlink():
            words += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            words += ["--ro-bind", str(path), str(path)]
    for folder in _python_folders():
        words += ["--ro-bind", str(folder), str(folder)]
    project = Path(__file__).resolve().parents[1]  # images of containers keep programs in /usr/src
    for folder in [*map(Path, site.getsitepackages([sys.base_prefix])), project]:
        hidden = str(folder.resolve())
        if folder.is_dir() and hidden.startswith(("/usr/", f"{os.path.realpath(sys.base_prefix)}/lib/")):
            words += ["--tmpfs", hidden, "--remount-ro", hidden]
    return tuple(words)


@cache
def _covers() -> tuple[str, ...]:
    """Nothing where the kernel's own entries of /proc would be."""
    words: list[str] = []
    for entry in sorted(Path("/proc").iterdir()):
        if entry.name.isdigit() or entry.name in PLAIN_PROC or entry.is_symlink():
            continue
        path = str(entry)
        words += ["--tmpfs", path, "--remount-ro", path] if entry.is_dir() else ["--ro-bind", os.devnull, path]
    return tuple(words)


def _python_folders() -> list[Path]:
    """Where Python lies, if not with the system."""
    prefix = Path(sys.base_prefix).resolve()
    folders = {Path(_interpreter()).parent, *(prefix / name for name in ("lib", "lib64"))}
    return sorted(folder for folder in folders if folder.is_dir() and not folder.resolve().is_relative_to("/usr"))


def _interpreter() -> str:
    """The Python that a virtual environment was made from."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


@contextmanager
def _sealed(data: bytes) -> Iterator[int]:
    """A file in memory with these bytes, which nobody can change or let grow."""
    descriptor = os.memfd_create("given", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        yield descriptor
    finally:
        os.close(descriptor)


def _watch(
    process: "subprocess.Popen[bytes]", deadline: float, output_bytes: int
) -> tuple[Literal["time", "output"] | None, bytearray, bytearray]:
    """Read what it writes until it ends or is over a limit: which, standard output, the end of standard error.

    bubblewrap itself holds both pipes until the last process inside has ended.
    """
    output, errors = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        for stream, kept in ((process.stdout, output), (process.stderr, errors)):
            assert stream is not None
            selector.register(stream, selectors.EVENT_READ, kept)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                return "time", output, errors
            for key, _ in selector.select(left):
                data = os.read(key.fd, CHUNK)
                if not data:
                    selector.unregister(key.fileobj)
                key.data.extend(data)
                del errors[:-ERRORS_KEPT]
                if len(output) > output_bytes:
                    return "output", output[:output_bytes], errors
    return None, output, errors


def _await_end(process: "subprocess.Popen[bytes]") -> None:
    """Wait until the last process inside is gone: nobody holds the pipes any more."""
    deadline = time.monotonic() + DEATH_WAIT_S
    with selectors.DefaultSelector() as selector:
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                raise SandboxError(f"a killed program is still there after {DEATH_WAIT_S:.0f} s.")
            for key, _ in ready:
                if not os.read(key.fd, CHUNK):
                    selector.unregister(key.fileobj)


def _status(report: bytes) -> int | None:
    """The exit status that bubblewrap reports, on a pipe that the program does not have; None where none ran."""
    for line in report.splitlines():
        code = json.loads(line).get("exit-code")
        if code is not None:
            return int(code)
    return None
