"""The C library's heap: whether memory that was freed stays with the process, and giving it back, a GPU's too.

By default glibc returns every large block as soon as it is freed, and the kernel clears the next one page by page: at
tensors of megabytes that is a fifth of a training's time on a CPU (mallopt(3)). Kept are blocks up to the largest size
that glibc lets the heap hold; keeping the few above it too gains nothing and once doubled a training's memory. On
systems without glibc nothing of this is done.
"""

import contextlib
import ctypes
import gc
import sys
from collections.abc import Iterator

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_DEFAULTS = {_TRIM_THRESHOLD: 128 << 10, _TOP_PAD: 128 << 10, _MMAP_THRESHOLD: 128 << 10}
_KEEPING = {_TRIM_THRESHOLD: (1 << 31) - 1, _TOP_PAD: 64 << 20, _MMAP_THRESHOLD: 32 << 20}


def keep() -> None:
    """From here on what is freed is used again by this process."""
    _set(_KEEPING)


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Within it what is freed is used again; after it what is freed goes back, by the limits the C library begins with.

    It will not adapt them any more: to set any of them turns that off for the rest of the process (mallopt(3)).
    """
    keep()
    try:
        yield
    finally:
        _set(_DEFAULTS)


def release() -> None:
    """Give what is free back to the system, after collecting what lies in cycles (as a trainer's weights do).

    So with a GPU's memory: torch keeps what it freed for this process, and vLLM does not start beside it.
    """
    gc.collect()
    torch = sys.modules.get("torch")  # a process that has not imported it holds nothing there
    if torch is not None:
        torch.cuda.empty_cache()  # does nothing where no GPU is in use
    library = _library()
    if library is not None:
        library.malloc_trim(0)


def _set(options: dict[int, int]) -> None:
    library = _library()
    if library is not None:
        for option, value in options.items():
            library.mallopt(option, value)


def _library() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
