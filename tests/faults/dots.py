"""What a process that will be killed says of each completion that was stored: a dot on its standard output."""

import os
from collections.abc import Callable


def teller() -> Callable[[int, int, str], None]:
    """A `progress` of `sampling.complete` that writes a dot, unbuffered, for each completion more than at its first
    call, which counts what was there.
    """
    told: int | None = None

    def progress(done: int, total: int, note: str) -> None:
        nonlocal told
        os.write(1, b"." * (done - (done if told is None else told)))
        told = done

    return progress
