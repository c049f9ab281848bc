"""Freed memory stays with the process where it is kept, and goes back where it is released."""

import ctypes
import subprocess
import sys
import weakref

import pytest

from pipeline import heap

PROBE = """
import ctypes, mmap
from pipeline import heap

library = ctypes.CDLL(None)
library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * mmap.PAGESIZE // (1 << 20)

def after_use():
    blocks = [library.malloc(ctypes.c_size_t(16 << 20)) for _ in range(16)]
    for block in blocks:
        ctypes.memset(block, 1, 16 << 20)
    for block in blocks:
        library.free(block)
    return resident()

before = resident()
found = {"default": after_use() - before}
with heap.kept():
    found["kept"] = after_use() - before
heap.release()
found["released"] = resident() - before
found["default again"] = after_use() - before
print(found)
"""


@pytest.mark.skipif(heap._library() is None, reason="only glibc has mallopt")
def test_freed_blocks_stay_while_they_are_kept_and_go_back_afterwards() -> None:
    answer = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    found = {name: mib > 128 for name, mib in eval(answer.stdout).items()}
    assert found == {"default": False, "kept": True, "released": False, "default again": False}


def test_without_glibc_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    with heap.kept():
        heap.release()


class Weights:
    """What a trainer leaves behind: it holds itself."""

    def __init__(self) -> None:
        self.trainer = self


def test_a_gpu_gets_back_what_lay_in_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch gives back only what nobody holds any more; else vLLM finds the GPU full after a training."""
    import torch

    held, seen = weakref.ref(Weights()), []
    assert held() is not None
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: seen.append(held()))
    heap.release()
    assert seen == [None]
