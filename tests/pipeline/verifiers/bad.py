"""Verifiers that misbehave, for the pool's tests. None of them is on the shelf."""

import os
import re
import signal
import time
from typing import Any

from pipeline.verifiers import Judgement, right, wrong

WASTE: list[bytearray] = []


def judge(given: str, gold: str, data: dict[str, Any]) -> Judgement:
    """Does what the answer says; anything else is compared with the reference."""
    if given in DEEDS:
        return DEEDS[given](data)
    return right() if given == gold else wrong()


def hang(data: dict[str, Any]) -> Judgement:
    time.sleep(600)
    return right()


def hang_in_c(data: dict[str, Any]) -> Judgement:
    return right() if re.match(r"(a+)+$", "a" * 60 + "b") else wrong()


def hang_deaf(data: dict[str, Any]) -> Judgement:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    return hang(data)


def hang_with_a_child(data: dict[str, Any]) -> Judgement:
    child = os.fork()
    if child and "file" in data:
        with open(data["file"], "w", encoding="ascii") as file:
            file.write(str(child))
    return hang(data)


def leave(data: dict[str, Any]) -> Judgement:
    os._exit(0)


def abort(data: dict[str, Any]) -> Judgement:
    os.abort()


def fail(data: dict[str, Any]) -> Judgement:
    raise ZeroDivisionError("nothing to divide by")


def end(data: dict[str, Any]) -> Judgement:
    raise SystemExit(0)


def eat(data: dict[str, Any]) -> Judgement:
    while True:
        WASTE.append(bytearray(1 << 24))


def eat_and_hide_it(data: dict[str, Any]) -> Judgement:
    try:
        return eat(data)
    except MemoryError:
        WASTE.clear()
        return wrong()


def which(data: dict[str, Any]) -> Judgement:
    return right(pid=os.getpid())


DEEDS = {
    "sleep": hang,
    "spin in C": hang_in_c,
    "ignore signals": hang_deaf,
    "leave a child": hang_with_a_child,
    "exit": leave,
    "abort": abort,
    "raise": fail,
    "leave": end,
    "eat": eat,
    "eat and hide it": eat_and_hide_it,
    "which": which,
}


def patient(given: str, gold: str, data: dict[str, Any]) -> Judgement:
    """Takes half a second."""
    time.sleep(0.5)
    return right()
