"""Programs that try to get out of the sandbox, to use up the machine, or to be judged right without an answer.

It runs none of them.
"""

# ruff: noqa: E501 (a program in a string is read better unbroken)

# What every one of DOORS begins with. `host` is what it is told of the world outside.
PRELUDE = """
import ctypes, json, os, platform, socket, struct, sys, signal, time
host = json.load(sys.stdin)
libc = ctypes.CDLL(None, use_errno=True)
ARM = platform.machine() == "aarch64"

def syscall(x86_64, aarch64, *arguments):
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    return libc.syscall(ctypes.c_long(aarch64 if ARM else x86_64), *words)

def fails(deed, *arguments):
    try:
        deed(*arguments)
    except Exception:
        return True
    return False

def shut(closed, why="open"):
    print("shut" if closed else f"OPEN: {why}", flush=True)
"""

# Each prints "shut" where the door it tries is shut.
DOORS = {
    "fork": "shut(fails(os.fork))",
    "double fork and setsid": """
def daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(300)
        os._exit(0)
shut(fails(daemon))
""",
    "a child that survives": """
import subprocess
shut(fails(subprocess.Popen, ["/usr/bin/sleep", "300"]) and fails(os.posix_spawn, "/usr/bin/sleep", ["sleep", "300"], {}))
""",
    "multiprocessing": """
import multiprocessing
shut(fails(multiprocessing.get_context("fork").Process(target=print).start))
""",
    "a shell": "shut(os.system('true') != 0)",
    "clone without libc": "shut(syscall(56, 220, signal.SIGCHLD, 0, 0, 0, 0) == -1)",
    "vfork without libc": "shut(ARM or syscall(58, 0) == -1)",
    "clone3 without libc": """
arguments = ctypes.create_string_buffer(struct.pack("<11Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, 0))
shut(syscall(435, 435, arguments, 88) == -1)
""",
    "a 32-bit call": """
code = bytes([0xB8, 2, 0, 0, 0, 0xCD, 0x80, 0xC3])  # mov eax, 2 (fork); int 0x80; ret
import mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(code)
shut(True)  # said before: the call ends the program
if not ARM:
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
    print("OPEN: it went on")
""",
    "tcp to the host": "shut(fails(socket.create_connection, ('127.0.0.1', host['port']), 1))",
    "tcp outwards": "shut(fails(socket.create_connection, ('1.1.1.1', 53), 1))",
    "udp": """
def send():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.sendto(b"out", ("127.0.0.1", host["udp"]))
shut(fails(send))
""",
    "a unix socket's path": """
def knock(address):
    with socket.socket(socket.AF_UNIX) as unix:
        unix.connect(address)
shut(fails(knock, host["unix"]))
""",
    "an abstract unix socket": """
def knock(address):
    with socket.socket(socket.AF_UNIX) as unix:
        unix.connect(address)
shut(fails(knock, "\\0" + host["abstract"]))
""",
    "names": "shut(fails(socket.getaddrinfo, 'example.org', 80))",
    "netlink, vsock, raw and packet sockets": """
kinds = [(16, 3, 0), (40, 1, 0), (socket.AF_INET, socket.SOCK_RAW, 1), (17, 3, 0), (38, 5, 0)]
shut(all(fails(socket.socket, *kind) for kind in kinds))
""",
    "network devices": """
with open("/proc/net/dev") as file:
    shut({line.partition(":")[0].strip() for line in file if ":" in line} <= {"lo"})
""",
    "the home folder": "shut(not any(map(os.path.lexists, host['home'])))",
    "the project and its data": "shut(not any(map(os.path.lexists, host['files'])))",
    "the host's temporary files": "shut(os.listdir('/tmp') == [])",
    "the environment": "shut(set(os.environ) <= {'PYTHONHASHSEED', 'PWD', 'LC_CTYPE'}, str(os.environ))",
    "the environment of process 1": "shut(b'SECRET' not in open('/proc/1/environ', 'rb').read())",
    "the arguments of process 1": "shut(host['secret'].encode() not in open('/proc/1/cmdline', 'rb').read())",
    "other processes": "shut({int(name) for name in os.listdir('/proc') if name.isdigit()} <= {1, 2, 3})",
    "passwords": "shut(not any(map(os.path.lexists, ['/etc/shadow', '/etc/passwd', '/etc/hosts', '/etc/machine-id'])))",
    "a symbolic link": """
os.symlink("/etc/shadow", "/tmp/link")
os.symlink(host["files"][0], "/tmp/other")
shut(fails(open, "/tmp/link") and fails(open, "/tmp/other"))
""",
    "a path upwards": "shut(fails(open, '/tmp/' + '../' * 40 + 'etc/shadow') and fails(open, '../../../etc/passwd'))",
    "the root of process 1": """
places = ["/proc/1/root/etc/shadow", "/proc/self/root/etc/shadow", "/proc/1/cwd/etc/shadow", "/proc/1/root/root/.bashrc"]
shut(not any(map(os.path.exists, places)))
""",
    "inherited files": """
names = {name: os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}")}
shut(set(names) <= {"0", "1", "2"}, str(names))
""",
    "killing process 1": """
os.kill(1, signal.SIGKILL)
os.kill(1, signal.SIGTERM)
shut(os.path.exists("/proc/1"))
""",
    "killing the parent": """
fails(os.kill, os.getppid(), signal.SIGKILL)
shut(os.getppid() == 1)
""",
    "killing everything": """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
fails(os.kill, -1, signal.SIGTERM)
fails(os.killpg, 0, signal.SIGTERM)
shut(os.path.exists("/proc/1"))
""",
    "killing the host's processes": "shut(fails(os.kill, host['pid'], 0) or host['pid'] <= 3)",
    "ptrace": "shut(syscall(101, 117, 16, 1, 0, 0) == -1 and syscall(101, 117, 0, 0, 0, 0) == -1)",
    "reading another process": "shut(syscall(310, 270, 1, 0, 0, 0, 0, 0) == -1 and ctypes.get_errno() == 1)",
    "the memory of process 1": "shut(fails(lambda: open('/proc/1/mem', 'r+b', buffering=0).write(b'x')))",
    "taking over a descriptor": "shut(syscall(438, 438, 0, 0, 0) == -1 and ctypes.get_errno() == 1)",
    "mount": """
shut(libc.mount(b"none", b"/tmp", b"tmpfs", 0, b"") == -1 and libc.mount(b"/", b"/tmp", None, 4096, None) == -1)
""",
    "remounting as writable": "shut(libc.mount(None, b'/usr', None, 32 | 4096, None) == -1)",
    "umount": "shut(libc.umount2(b'/usr', 2) == -1 and libc.umount2(b'/proc', 2) == -1)",
    "the new mount calls": "shut(all(syscall(number, number, 0, 0, 0, 0, 0) == -1 for number in (428, 429, 430, 442)))",
    "chroot": "shut(fails(os.chroot, '/tmp'))",
    "pivot_root": "shut(syscall(155, 41, b'/tmp', b'/tmp') == -1)",
    "a nested user namespace": "shut(libc.unshare(0x10000000) == -1 and libc.unshare(0x00020000) == -1)",
    "entering a namespace": """
descriptor = os.open("/proc/1/ns/net", os.O_RDONLY) if os.path.exists("/proc/1/ns/net") else -1
shut(libc.setns(descriptor, 0) == -1)
""",
    "keyrings": """
calls = [syscall(250, 219, 0, -3, 0), syscall(248, 217, b"user", b"x", b"y", 1, -3), syscall(249, 218, b"user", b"x", 0, 0)]
shut(calls == [-1] * 3 and ctypes.get_errno() == 1)
""",
    "io_uring": "shut(syscall(425, 425, 8, ctypes.create_string_buffer(256)) == -1 and ctypes.get_errno() == 1)",
    "bpf": "shut(syscall(321, 280, 0, 0, 0) == -1 and ctypes.get_errno() == 1)",
    "perf_event_open": "shut(syscall(298, 241, 0, 0, -1, -1, 0) == -1 and ctypes.get_errno() == 1)",
    "userfaultfd": "shut(syscall(323, 282, 0) == -1 and ctypes.get_errno() == 1)",
    "memory that no limit counts": """
shut(fails(os.memfd_create, "x") and syscall(29, 194, 0, 1 << 30, 0o1600) == -1 and syscall(68, 186, 0, 0o1600) == -1)
""",
    "devices": """
known = {"null", "zero", "full", "random", "urandom", "tty", "stdin", "stdout", "stderr", "fd", "core", "shm", "pts", "ptmx", "console"}
shut(set(os.listdir("/dev")) <= known, str(os.listdir("/dev")))
""",
    "making a device": "shut(fails(os.mknod, '/tmp/disk', 0o60600, os.makedev(8, 0)))",
    "the terminal": "shut(fails(open, '/dev/tty') and fails(open, '/dev/console', 'rb+'))",
    "the kernel's memory and log": """
shut(all(fails(open, path, "rb") for path in ("/dev/mem", "/dev/kmem", "/dev/kmsg", "/dev/port")) and syscall(103, 116, 3, 0, 0) == -1)
""",
    "the kernel's settings": """
paths = [os.path.join(folder, name) for folder, _, names in os.walk("/proc") for name in names if not folder.startswith("/proc/1")]
opened = [path for path in paths if not fails(lambda: os.close(os.open(path, os.O_WRONLY)))]
shut(not [path for path in opened if "/fd/" not in path], str(opened))
""",
    "what the kernel tells": """
paths = ["/proc/keys", "/proc/kallsyms", "/proc/kcore", "/proc/cmdline", "/proc/timer_list", "/proc/sys/kernel/hostname", "/proc/fs", "/proc/modules"]
def told(path):
    return os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(1)
shut(all(fails(told, path) or not told(path) for path in paths))
""",
    "sys": "shut(not os.path.exists('/sys') and not os.path.exists('/run'))",
    "writing to the system": """
places = ["/", "/usr", "/usr/bin", "/usr/lib", "/dev", "/dev/shm", "/lib", os.path.dirname(os.__file__), os.path.dirname(sys.executable)]
shut(all(fails(open, os.path.join(place, "mine"), "w") for place in places))
""",
    "changing the interpreter": "shut(fails(open, sys.executable, 'r+b') and fails(open, os.__file__, 'a'))",
    "changing itself": "shut(fails(open, '/program.py', 'a') and fails(os.unlink, '/program.py'))",
    "becoming another": "shut(fails(os.setuid, 0) and fails(os.setgid, 0) and fails(os.setgroups, [0]))",
    "rights": """
with open("/proc/self/status") as file:
    rights = dict(line.split(":", 1) for line in file)
caps = {int(rights[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb", "CapInh")}
shut(caps == {0} and rights["NoNewPrivs"].strip() == "1" and rights["Seccomp"].strip() == "2")
""",
    "raising limits": """
import resource
kinds = [resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE]
shut(all(fails(resource.setrlimit, kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)) for kind in kinds))
""",
    "a file by its handle": "shut(syscall(304, 265, 0, 0, 0) == -1 and ctypes.get_errno() == 1)",
    "the machine's name and clock": "shut(fails(socket.sethostname, 'mine') and fails(time.clock_settime, time.CLOCK_REALTIME, 0))",
    "restarting the machine": "shut(syscall(169, 142, 0, 0, 0, 0) == -1 and ctypes.get_errno() == 1)",
    "kernel modules": "shut(syscall(313, 273, 0, b'', 0) == -1 and ctypes.get_errno() == 1)",
    "installed packages": "shut(all(fails(__import__, name) for name in ('pip', 'numpy', 'pydantic', 'pipeline')))",
}

# Each ends at a limit, with one of these reasons.
GREED = {
    "a fork bomb": ("import os\nwhile True:\n    os.fork()", {"program_failed"}),
    "a shell's fork bomb": (
        "import os\nos.execv('/usr/bin/bash', ['bash', '-c', ':(){ :|:& };:'])",
        {"program_failed"},
    ),
    "a setuid program": ("import os\nos.execv('/usr/bin/su', ['su', '-c', 'id'])", {"program_failed"}),
    "threads without end": (
        "import threading, time\nthreading.stack_size(32768)\nwhile True:\n"
        "    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
        {"program_failed", "memory_limit", "time_limit"},
    ),
    "a loop": ("while True:\n    pass", {"time_limit"}),
    "a loop that is deaf to signals": (
        "import signal\nfor number in signal.valid_signals() - {9, 19}:\n"
        "    try:\n        signal.signal(number, signal.SIG_IGN)\n    except (OSError, ValueError):\n        pass\n"
        "while True:\n    pass",
        {"time_limit"},
    ),
    "a loop in C": ("sum(range(10 ** 12))", {"time_limit"}),
    "a sleep": ("import time\ntime.sleep(600)", {"time_limit"}),
    "a sleep with closed output": ("import os, time\nos.close(1)\nos.close(2)\ntime.sleep(600)", {"time_limit"}),
    "a stopped process": ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", {"time_limit"}),
    "memory": ("waste = []\nwhile True:\n    waste.append(bytearray(1 << 24))", {"memory_limit"}),
    "one large allocation": ("x = bytearray(1 << 40)", {"memory_limit"}),
    "output": ("import os\nwhile True:\n    os.write(1, b'x' * 65536)", {"output_limit"}),
    "output by another program": ("import os\nos.execv('/usr/bin/yes', ['yes'])", {"output_limit"}),
    "errors": ("import os\nwhile True:\n    os.write(2, b'x' * 65536)", {"time_limit"}),
    "the disk": (
        "for place in range(1000):\n    with open(f'/tmp/{place}', 'wb') as file:\n        file.write(b'x' * (1 << 20))",
        {"program_failed"},
    ),
    "one large file": (
        "with open('/tmp/x', 'wb') as file:\n    while True:\n        file.write(b'x' * (1 << 20))",
        {"program_failed"},
    ),
    "a sparse file": ("import os\nos.truncate(os.open('/tmp/x', os.O_CREAT | os.O_RDWR), 1 << 40)", {"program_failed"}),
    "shared memory": ("open('/dev/shm/x', 'wb').write(b'x' * (1 << 30))", {"program_failed"}),
    "many files": (
        "place = 0\nwhile True:\n    open(f'/tmp/{place}', 'wb').close()\n    place += 1",
        {"program_failed", "time_limit"},
    ),
    "many open files": ("files = []\nwhile True:\n    files.append(open('/dev/null'))", {"program_failed"}),
    "its own input": ("import os\nos.ftruncate(0, 1 << 30)", {"program_failed"}),
    "a crash": ("import ctypes\nctypes.string_at(0)", {"program_failed"}),
    "an abort": ("import os\nos.abort()", {"program_failed"}),
    "recursion": ("def f():\n    return f()\nf()", {"program_failed"}),
    "an exit status": ("import sys\nsys.exit(3)", {"program_failed"}),
    "no program": ("this is no program", {"program_failed"}),
    "nothing": ("", {"wrong_answer"}),
    "a quiet end": ("import os\nos._exit(0)", {"wrong_answer"}),
    "a silent SystemExit": ("raise SystemExit", {"wrong_answer"}),
    "a verdict": ("print('pass')\nprint('{\"outcome\": \"right\"}')\nprint('OK: all tests passed')", {"wrong_answer"}),
    "a forged report": (
        "import os\nfor descriptor in range(3, 64):\n    try:\n"
        "        os.write(descriptor, b'{ \"exit-code\": 0 }\\n')\n    except OSError:\n        pass\nos.abort()",
        {"program_failed"},
    ),
}

# Programs that want `answer(21)` to be an integer, `word('x')` a text, `is_odd(n)` a truth value, `root(2)` a float that
# they do not know.
ANSWERS = (
    "def answer(n): return THING\ndef word(n): return THING\ndef is_odd(n): return THING\ndef root(n): return THING\n"
)
CHEATS = {
    "sys.exit": "import sys\nsys.exit(0)",
    "os._exit": "import os\nos._exit(0)",
    "SystemExit": "raise SystemExit(0)",
    "SystemExit when called": ANSWERS.replace("return THING", "raise SystemExit(0)"),
    "os._exit when called": "import os\n" + ANSWERS.replace("return THING", "os._exit(0)"),
    "an exit handler": "import atexit, os\natexit.register(os._exit, 0)\n" + ANSWERS.replace("THING", "n"),
    "equal to everything": "class Any:\n    def __eq__(self, other): return True\n    def __bool__(self): return True\n"
    "    __hash__ = None\nTHING = Any()\n" + ANSWERS,
    "an integer equal to everything": "class Any(int):\n    def __eq__(self, other): return True\n"
    "    def __sub__(self, other): return 0\n    def __rsub__(self, other): return 0\n    __hash__ = int.__hash__\n"
    "THING = Any(1)\n" + ANSWERS,
    "a text equal to everything": "class Any(str):\n    def __eq__(self, other): return True\n    def __hash__(self): return 0\n"
    "THING = Any()\n" + ANSWERS,
    "a float equal to everything": "class Any(float):\n    def __eq__(self, other): return True\n"
    "    def __abs__(self): return 0.0\n    def __sub__(self, other): return 0.0\nTHING = Any('nan')\n" + ANSWERS,
    "always true": ANSWERS.replace("THING", "True"),
    "always false": ANSWERS.replace("THING", "False"),
    "not a number": ANSWERS.replace("THING", "float('nan')"),
    "infinite": ANSWERS.replace("THING", "float('inf')"),
    "patched built-ins": "import builtins\nfor name in ('abs', 'isinstance', 'all', 'any', 'len', 'sorted', 'bool'):\n"
    "    setattr(builtins, name, lambda *a, **k: 0)\n" + ANSWERS.replace("THING", "1"),
    "patched math": "import math\nmath.isclose = lambda *a, **k: True\n" + ANSWERS.replace("THING", "1.0"),
    "patched eval": "import builtins\nbuiltins.eval = lambda *a: True\nbuiltins.compile = lambda *a, **k: 'True'\n"
    + ANSWERS.replace("THING", "1"),
    "a patched evaluator": "import sys\nmain = sys.modules['__main__']\nmain.encode = lambda value: True\n"
    "main.UnreadableError = Exception\n" + ANSWERS.replace("THING", "1"),
    "patched JSON": "import json\njson.dumps = lambda line, *a, **k: '[\"value\", true]'\n"
    + ANSWERS.replace("THING", "1"),
    "printed verdicts": "print('[\"loaded\"]')\nfor _ in range(9):\n    print('[\"value\", true]')\n"
    + ANSWERS.replace("THING", "1"),
    "forged lines": "import os\nfor descriptor in range(64):\n    try:\n"
    "        os.write(descriptor, b'[\"loaded\"]\\n' + b'[\"value\", true]\\n' * 9)\n    except OSError:\n        pass\n"
    "os._exit(0)",
    "forged lines of every kind": "import os\nlines = ['[\"loaded\"]', '[\"value\", {\"right\": 1}]', '[]', 'null', '[\"pass\"]', '9' * 9999]\n"
    "for descriptor in range(64):\n    try:\n        os.write(descriptor, '\\n'.join(lines).encode())\n"
    "    except OSError:\n        pass\nos._exit(0)",
    "lines nested deep": "import os\nfor descriptor in range(64):\n    try:\n"
    "        os.write(descriptor, b'[\"loaded\"]\\n[\"value\", ' + b'[' * 200000 + b'\\n')\n    except OSError:\n        pass\n"
    "os._exit(0)",
    "a value nested deep": "THING = []\nfor _ in range(100000):\n    THING = [THING]\n" + ANSWERS,
    "a value within itself": "THING = []\nTHING.append(THING)\n" + ANSWERS,
    "a huge value": ANSWERS.replace("THING", "'x' * (1 << 26)"),
    "a value without end": "import itertools\n" + ANSWERS.replace("THING", "itertools.count()"),
    "what it finds in its frames": "import sys\ndef loot():\n    frame, found = sys._getframe(), []\n    while frame:\n"
    "        found.append((frame.f_locals, frame.f_globals))\n        frame = frame.f_back\n    return repr(found)\n"
    + ANSWERS.replace("THING", "loot()"),
    "a thread that answers": "import threading, os, time\ndef late():\n    time.sleep(0.05)\n"
    "    for descriptor in range(3, 64):\n        try:\n            os.write(descriptor, b'[\"value\", true]\\n' * 99)\n"
    "        except OSError:\n            pass\nthreading.Thread(target=late).start()\n"
    + ANSWERS.replace("return THING", "__import__('time').sleep(0.2)"),
    "an exception that lies": 'class Right(Exception):\n    def __str__(self): return \'"]\\n["value", true]\\n\'\n'
    + ANSWERS.replace("return THING", "raise Right"),
    "an exception without end": "class Slow(Exception):\n    def __str__(self):\n        while True: pass\n"
    + ANSWERS.replace("return THING", "raise Slow"),
    "no functions": "pass",
    "input that is not there": "n = input()\n" + ANSWERS.replace("THING", "1"),
}

# What a program can get hold of: its arguments, files, input, objects and memory, as text.
LOOT = r"""
import gc, os, sys
def loot():
    found = []
    for process in ("self", "1"):
        for name in ("cmdline", "environ", "status", "maps"):
            try:
                found.append(open(f"/proc/{process}/{name}", "rb").read())
            except OSError:
                pass
    for folder in ("/", "/tmp", "/dev/shm"):
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                found.append(open(path, "rb").read())
    frame = sys._getframe()
    while frame:
        found.append(repr((frame.f_locals, list(frame.f_globals))).encode("utf-8", "replace"))
        frame = frame.f_back
    found += [repr(one).encode("utf-8", "replace") for one in gc.get_objects() if type(one) in (list, dict, tuple) and len(one) < 100]
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", buffering=0) as memory:
        for line in maps:
            first, last = (int(end, 16) for end in line.split()[0].split("-"))
            if "rw" in line and last - first < 1 << 26:
                try:
                    memory.seek(first)
                    found.append(memory.read(last - first))
                except OSError:
                    pass
    return b"\n".join(found)
"""
