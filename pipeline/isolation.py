"""What a program finds open that should be shut: this file's text runs inside the sandbox before anything else does.

It shuts nothing (`sandbox.py` does), and imports the standard library alone.
"""

import json
import os
import resource
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

ENVIRONMENT = {"PYTHONHASHSEED", "PWD", "LC_CTYPE"}  # what a program may find set
NAMESPACES = ("user", "pid", "net", "ipc", "uts", "mnt")
SHUT = ("/", "/usr", "/lib", "/dev", "/dev/shm", "/proc")
# What root writes to rule the machine; in a user namespace, root without any capability is still their owner.
RULING = (
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/vm/drop_caches",
    "/proc/sysrq-trigger",
)
PROCESSES = 3  # bubblewrap's own, this one, and one that is about to end


def namespaces() -> dict[str, str]:
    """The namespaces of this process, by kind."""
    return {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in NAMESPACES}


def leaks(host: dict[str, Any]) -> list[str]:
    """What is open, in words. `host` says of the world outside: "files" that exist there, its "namespaces", a "port" of
    127.0.0.1 that somebody listens to; and what the limits are: "memory_bytes", "scratch_bytes".
    """
    return [*_of_files(host), *_of_processes(host), *_of_the_network(host), *_of_rights(), *_of_limits(host)]


def _of_files(host: dict[str, Any]) -> Iterator[str]:
    yield from (f"the file {path} can be seen" for path in host["files"] if os.path.lexists(path))
    for place in SHUT:
        path = os.path.join(place, "seqdistill-probe")
        try:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        except OSError:
            continue
        os.unlink(path)
        yield f"{place} can be written"
    for path in RULING:
        try:
            os.close(os.open(path, os.O_WRONLY))
        except OSError:
            continue
        yield f"{path} can be written"


def _of_processes(host: dict[str, Any]) -> Iterator[str]:
    mine = namespaces()
    yield from (
        f"the {kind} namespace is the host's" for kind, name in host["namespaces"].items() if mine[kind] == name
    )
    if len([name for name in os.listdir("/proc") if name.isdigit()]) > PROCESSES:
        yield "other processes can be seen"
    found = set(os.environ)
    for process in ("1", "self"):
        with suppress(OSError), open(f"/proc/{process}/environ", "rb") as file:
            found |= {entry.partition(b"=")[0].decode() for entry in file.read().split(b"\0") if entry}
    yield from (f"the variable {name} can be read" for name in sorted(found - ENVIRONMENT))
    try:
        child = os.fork()
    except OSError:
        return
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    yield "processes can be started"


def _of_the_network(host: dict[str, Any]) -> Iterator[str]:
    with open("/proc/net/dev", encoding="ascii") as file:
        names = [line.partition(":")[0].strip() for line in file if ":" in line]
    yield from (f"the network device {name} can be seen" for name in names if name != "lo")
    with suppress(OSError), socket.create_connection(("127.0.0.1", host["port"]), timeout=1.0):
        yield "the host's network can be reached"


def _of_rights() -> Iterator[str]:
    wanted = {"CapInh": 0, "CapPrm": 0, "CapEff": 0, "CapBnd": 0, "CapAmb": 0, "NoNewPrivs": 1, "Seccomp": 2}
    with open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name in wanted and int(value, 16) != wanted[name]:
                yield f"{name} is {value.strip()}, not {wanted[name]}"


def _of_limits(host: dict[str, Any]) -> Iterator[str]:
    if not 0 <= resource.getrlimit(resource.RLIMIT_AS)[1] <= host["memory_bytes"]:
        yield "memory is not limited"
    scratch = os.statvfs("/tmp")
    if scratch.f_blocks * scratch.f_frsize > host["scratch_bytes"]:
        yield "/tmp is not limited"


if __name__ == "__main__":
    sys.stdout.write(json.dumps(leaks(json.load(sys.stdin))))
