"""Programs in the sandbox find every door shut, end at their limits, and die with whoever runs them."""

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline import isolation, sandbox
from pipeline.sandbox import MIB, PROGRAM, Ending, Limits, SandboxError
from pipeline.seccomp import filter_bytes
from pipeline.verifiers.code import failed
from tests import isolated
from tests.pipeline.hostile import DOORS, GREED, PRELUDE

ROOT = Path(__file__).resolve().parents[2]
SECRET = "SECRET_OF_THE_HOST"
PATIENT = Limits(cpu_s=20.0, wall_s=60.0)  # for programs that end by themselves, on a busy machine
HASTY = Limits(cpu_s=1.0, wall_s=3.0, memory_mib=256)


@pytest.fixture(scope="module", autouse=True)
def _isolated() -> None:
    isolated.required()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What programs are told of this machine, with somebody at every port."""
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("HOST_VARIABLE", SECRET)
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        udp.setblocking(False)
        path = str(tmp_path_factory.mktemp("socket") / "s")
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(path)
        unix.listen()
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind(f"\0seqdistill-{os.getpid()}")
        abstract.listen()
        outside = stack.enter_context(tempfile.NamedTemporaryFile("w"))
        outside.write(SECRET)
        outside.flush()
        yield {
            "port": tcp.getsockname()[1],
            "udp": udp.getsockname()[1],
            "unix": path,
            "abstract": f"seqdistill-{os.getpid()}",
            "pid": os.getpid(),
            "secret": SECRET,
            "home": sandbox._homes(),
            "files": [outside.name, str(ROOT / "README.md"), str(ROOT / "data"), str(Path.cwd() / "pyproject.toml")],
        }
        with pytest.raises(BlockingIOError):
            udp.recv(1)


def run(program: str, stdin: str = "", limits: Limits = PATIENT) -> Ending:
    return sandbox.run([PROGRAM], limits, program, stdin.encode())


@pytest.mark.parametrize("name", DOORS)
def test_every_door_is_shut(host: dict[str, Any], name: str) -> None:
    ending = run(PRELUDE + DOORS[name], json.dumps(host))
    assert ending.output.decode() == "shut\n", ending


def test_a_door_that_is_open_is_told_as_open(host: dict[str, Any]) -> None:
    """The same probes outside: they can fail."""
    found = {}
    for name in ("the environment", "passwords", "tcp to the host", "an abstract unix socket", "other processes"):
        answer = subprocess.run(
            [sys.executable, "-c", PRELUDE + DOORS[name]], input=json.dumps(host), capture_output=True, text=True
        )
        found[name] = answer.stdout[:4]
    assert set(found.values()) == {"OPEN"}, found


@pytest.mark.parametrize("name", GREED)
def test_whoever_uses_up_what_there_is_ends_at_a_limit(name: str) -> None:
    program, reasons = GREED[name]
    ending = run(program, limits=HASTY)
    failure = failed(ending, HASTY)
    assert (failure[0] if failure else "wrong_answer") in reasons, ending
    assert len(ending.output) <= HASTY.output_bytes
    assert len(ending.errors) <= sandbox.ERRORS_KEPT


def test_an_honest_program_runs_as_it_would_outside() -> None:
    program = """
import asyncio, ctypes, dataclasses, decimal, hashlib, math, random, re, sqlite3, sys, threading, zlib
from concurrent.futures import ThreadPoolExecutor
with open("/tmp/own", "w") as file:
    file.write("mine")
with ThreadPoolExecutor(4) as pool:
    total = sum(pool.map(lambda n: n * n, range(10)))
async def later():
    await asyncio.sleep(0.01)
    return "later"
print(total, asyncio.run(later()), open("/tmp/own").read(), sys.stdin.readline().strip(), open("/dev/stdin").read())
print("\u00e9", __name__, file=sys.stderr)
exit(0)
"""
    ending = run(program, "h\u00e9llo\nrest")
    assert (ending.status, ending.limit) == (0, None), ending
    assert ending.output.decode() == "285 later mine h\u00e9llo h\u00e9llo\nrest\n"
    assert ending.errors == "\u00e9 __main__\n"


def test_each_run_begins_anew() -> None:
    program = "import os\nprint(os.listdir('/tmp'))\nopen('/tmp/left', 'w').close()"
    assert [run(program).output for _ in range(2)] == [b"[]\n"] * 2


def test_the_order_of_a_set_is_the_same_in_every_run() -> None:
    program = "print(list({str(n) for n in range(50)}))"
    assert len({run(program).output for _ in range(3)}) == 1


@pytest.mark.parametrize(
    ("program", "status"), [("", 0), ("import sys\nsys.exit(7)", 7), ("import os\nos.abort()", 134)]
)
def test_the_exit_status_is_the_programs(program: str, status: int) -> None:
    assert run(program).status == status


def test_output_is_cut_where_it_is_too_long_and_whole_where_it_is_not() -> None:
    limits = Limits(cpu_s=20.0, wall_s=60.0, output_bytes=1000)
    assert run("print('x' * 999)", limits=limits).limit is None
    ending = run("print('x' * 1000)", limits=limits)
    assert (ending.limit, len(ending.output)) == ("output", 1000)


def descendants() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def test_nothing_is_left_of_a_program_that_was_ended() -> None:
    before = descendants()
    for name in ("a sleep", "a sleep with closed output", "output", "threads without end"):
        run(GREED[name][0], limits=HASTY)
    assert descendants() <= before


def test_a_program_dies_with_the_process_that_runs_it() -> None:
    script = (
        "from pipeline import sandbox\n"
        "sandbox.lacking()\n"
        "print('begun', flush=True)\n"
        "sandbox.run([sandbox.PROGRAM], sandbox.Limits(60, 300), 'import time; time.sleep(300)')\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        inside: list[psutil.Process] = []
        for _ in range(600):  # bubblewrap, its process 1, the program
            inside = psutil.Process(parent.pid).children(recursive=True)
            if len(inside) >= 3 and "python" in inside[-1].name():
                break
            time.sleep(0.05)
        assert len(inside) >= 3
        parent.kill()
    _, alive = psutil.wait_procs(inside, timeout=30)
    assert alive == []


@pytest.fixture
def other_bubblewrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose `bwrap`, once written, is the one found."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    sandbox.lacking.cache_clear()
    yield tmp_path / "bwrap"
    sandbox.lacking.cache_clear()


def write_script(path: Path, text: str) -> None:
    path.write_text(f"#!{sys.executable}\nimport os, sys\n{text}\n")
    path.chmod(0o755)


# Options that are taken from bubblewrap, each with the count of its values, and what the probe must then find.
WEAKENED = {
    "network": ({"--unshare-net": 0}, "the net namespace is the host's"),
    "processes": ({"--unshare-pid": 0}, "other processes can be seen"),
    "messages": ({"--unshare-ipc": 0}, "the ipc namespace is the host's"),
    "name": ({"--unshare-uts": 0, "--hostname": 1}, "the uts namespace is the host's"),
    "system calls": ({"--seccomp": 1}, "processes can be started"),
    "read-only": ({"--remount-ro": 1}, "/ can be written"),
    "scratch": ({"--size": 1}, "/tmp is not limited"),
}


@pytest.mark.parametrize("what", WEAKENED)
def test_a_bubblewrap_that_shuts_less_is_refused(other_bubblewrap: Path, what: str) -> None:
    options, words = WEAKENED[what]
    real = shutil.which("bwrap")
    write_script(
        other_bubblewrap,
        f"words = sys.argv[1:]\nfor option, count in {options!r}.items():\n    while option in words:\n"
        "        place = words.index(option)\n        del words[place:place + 1 + count]\n"
        f"os.execv({real!r}, [{real!r}, *words])",
    )
    assert words in sandbox.lacking()
    with pytest.raises(SandboxError, match="does not isolate here"):
        run("print(1)")


def test_a_bubblewrap_that_shows_files_is_refused(other_bubblewrap: Path) -> None:
    real = shutil.which("bwrap")
    write_script(other_bubblewrap, f"os.execv({real!r}, [{real!r}, '--ro-bind', '/etc', '/etc', *sys.argv[1:]])")
    assert "the file /etc/passwd can be seen" in sandbox.lacking()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("sys.exit('bwrap: No permissions to create new namespace')", "No permissions to create new namespace"),
        ("sys.exit(0)", "it said nothing"),
        ("print('[]')", "it said nothing"),
        ("os.execv(sys.executable, [sys.executable, '-c', 'print([])'])", "it said nothing"),
    ],
)
def test_a_bubblewrap_that_does_not_work_is_refused_with_the_fix(
    other_bubblewrap: Path, script: str, words: str
) -> None:
    write_script(other_bubblewrap, script)
    assert words in sandbox.lacking()
    assert "user.max_user_namespaces" in sandbox.lacking()


def test_without_bubblewrap_nothing_runs_and_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    sandbox.lacking.cache_clear()
    try:
        with pytest.raises(SandboxError, match="apt-get install bubblewrap"):
            run("open('/tmp/seqdistill-ran', 'w')")
    finally:
        sandbox.lacking.cache_clear()
    assert not os.path.exists("/tmp/seqdistill-ran")


def test_outside_the_probe_finds_what_is_open() -> None:
    with sandbox._host(Limits()) as world:
        found = isolation.leaks(world | {"namespaces": isolation.namespaces()})
    expected = ("the file /etc/passwd can be seen", "the net namespace is the host's", "processes can be started")
    assert set(expected) <= set(found)
    assert "the host's network can be reached" in found


def test_a_sandbox_that_breaks_says_nothing_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_interpreter", lambda: "/no/such/python")
    with pytest.raises(SandboxError, match="did not run the program"):
        run("print(1)")


def test_a_kill_from_outside_is_no_verdict() -> None:
    with pytest.raises(SandboxError, match="killed within its limits"):
        failed(Ending(128 + 9, None, b"", "", 0.1), PATIENT)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_is_a_program_that_the_kernel_can_take(machine: str) -> None:
    """Every jump stays within, and no instruction falls off the end."""
    data = filter_bytes(machine)
    code = [(data[n] | data[n + 1] << 8, data[n + 2], data[n + 3]) for n in range(0, len(data), 8)]
    assert len(data) % 8 == 0
    for place, (kind, yes, no) in enumerate(code):
        if kind & 0x07 == 0x05:
            assert max(place + 1 + yes, place + 1 + no) < len(code)
    assert code[-1][0] == 0x06


def test_a_machine_without_a_filter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    sandbox.lacking.cache_clear()
    try:
        assert "riscv64" in sandbox.lacking()
    finally:
        sandbox.lacking.cache_clear()


def test_a_program_can_be_large() -> None:
    program = f"# {'x' * MIB}\nprint(len(input()))"
    assert run(program, "y" * (3 * MIB)).output == b"3145728\n"
