"""Requests whose completions have a length given beforehand, as orders for the loop of pipeline.sampling.

It runs no model. A completion is held to its length from both sides, so two engines do the same work, token for token.
"""

import math
import random
from collections.abc import Iterable, Iterator
from typing import Any

from pipeline.engines import Engine, Request
from pipeline.roles import Role, Sampling
from pipeline.sampling import Order

# No completion ends by itself: vLLM is never told a min_tokens above the request's own limit.
ENDLESS = Sampling(temperature=1.0, top_p=1.0, min_tokens=1 << 20)
TEXTS = {"question": "{problem}"}


def heavy_tailed(count: int, mean: float, limit: int, seed: int) -> list[int]:
    """Log-normal lengths in no order, as those of reasoning are: a few are ten times the mean."""
    draw = random.Random(seed)
    deviation = 1.0
    middle = math.log(mean) - deviation**2 / 2
    return [min(limit, max(4, round(draw.lognormvariate(middle, deviation)))) for _ in range(count)]


def questions(count: int, seed: int) -> list[str]:
    """Sums of three numbers, no two alike; each seed has its own."""
    draw = random.Random(seed)
    return [f"{seed}.{number}: what is {draw.randint(2, 999)} + {draw.randint(2, 999)} + 7?" for number in range(count)]


def orders(role: Role, weights: str, tokenizer: Any, lengths: Iterable[int], seed: int) -> list[Order]:
    """An order for each length, so that lengths come in the order given; all of them go to one engine."""
    lengths = list(lengths)

    def order(text: str, length: int) -> Order:
        row = {"id": text, "text": text, "task": "sum"}
        return Order(
            role=role,
            weights=weights,
            problems=lambda: [row],
            texts=TEXTS,
            tokenizer=tokenizer,
            sampling=ENDLESS,
            samples=1,
            max_tokens=length,
        )

    return [order(text, length) for text, length in zip(questions(len(lengths), seed), lengths, strict=True)]


class Kept:
    """An engine that a call of `complete` must not close, since the next one uses it too."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def figures(self) -> dict[str, float]:
        return self._engine.figures

    def stream(self, requests: Iterable[Request]) -> Iterator[Any]:
        return self._engine.stream(requests)

    def close(self) -> None:
        """Stays open."""
