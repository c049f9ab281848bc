"""A seccomp filter for programs that nobody trusts, as the bytes that bubblewrap loads. It starts nothing itself.

Allowed is what one process with threads needs. Refused are further processes, sockets (vsock and netlink pass a network
namespace), keyrings (namespaces do not part them), memory that no limit counts (memfd, System V, message queues), and
whatever administers or inspects the system. See seccomp(2) and linux/filter.h.
"""

import errno
import platform
import struct

# name -> (x86_64, aarch64); None where the architecture has no such call (linux: asm/unistd_64.h, asm-generic/unistd.h)
REFUSED: dict[str, tuple[int | None, int | None]] = {
    "fork": (57, None),
    "vfork": (58, None),
    "socket": (41, 198),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "perf_event_open": (298, 241),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "syslog": (103, 116),
    "acct": (163, 89),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "personality": (135, 92),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "uselib": (134, None),
}
CLONE, CLONE3 = (56, 220), 435
CLONE_THREAD = 0x10000
NEWEST = 463  # calls from here on are younger than this list, and no library needs them yet
# machine -> (column of REFUSED, AUDIT_ARCH_*)
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

LOAD_WORD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16  # bytes into struct seccomp_data
ALLOW, KILL = 0x7FFF0000, 0x80000000
REFUSE, UNKNOWN = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS


def filter_bytes(machine: str | None = None) -> bytes:
    """The filter as an array of struct sock_filter. A process with threads runs; what is refused fails with EPERM, and
    with ENOSYS where a library then takes an older call. Raises ValueError for an architecture without a table.
    """
    machine = machine or platform.machine()
    if machine not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ValueError(f"no filter of system calls is written for {machine}; there is one for {known}")
    column, architecture = ARCHITECTURES[machine]
    refused = sorted(number for numbers in REFUSED.values() if (number := numbers[column]) is not None)
    # Jumps count the instructions they skip; the last three are what they lead to.
    after = len(refused)
    return b"".join(
        [
            _instruction(LOAD_WORD, ARCHITECTURE),
            _instruction(JUMP_EQUAL, architecture, equal=1),
            _instruction(RETURN, KILL),  # 32-bit calls on a 64-bit machine have other numbers
            _instruction(LOAD_WORD, NUMBER),
            _instruction(JUMP_EQUAL, CLONE3, equal=after + 6),  # its flags are out of a filter's sight
            _instruction(JUMP_AT_LEAST, NEWEST, equal=after + 5),  # the x32 calls as well
            *(_instruction(JUMP_EQUAL, number, equal=after - place + 3) for place, number in enumerate(refused)),
            _instruction(JUMP_EQUAL, CLONE[column], other=2),
            _instruction(LOAD_WORD, FIRST_ARGUMENT),
            _instruction(JUMP_ANY_BIT, CLONE_THREAD, other=1),
            _instruction(RETURN, ALLOW),
            _instruction(RETURN, REFUSE),
            _instruction(RETURN, UNKNOWN),
        ]
    )


def _instruction(code: int, value: int, equal: int = 0, other: int = 0) -> bytes:
    return struct.pack("<HBBI", code, equal, other, value)
