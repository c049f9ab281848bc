"""Made-up traces as long and as varied as a teacher's are, in numbers, for measuring what stores them.

Their text says nothing: words are drawn by Zipf's law, which leaves out the phrases that real reasoning repeats, so a
compressor finds less to save than it would in a teacher's own words.
"""

import random
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from pipeline.records import content_id

VOCABULARY = 49152  # ids of SmolLM2's tokenizer; its commonest words are in the low thousands
WORDS = 20_000
LETTERS = "etaoinshrdlucmfwypvbgk"
WEIGHTS = "sha256:" + "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53/adeab4a9"
SAMPLING = '{"min_p": 0.0, "repetition_penalty": 1.0, "stop": [], "temperature": 0.6, "top_k": 0, "top_p": 0.95}'


class Writer:
    """Draws text with the token ids it would have: a token or two a word, one a digit or a sign."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._words = [self._word() for _ in range(WORDS)]
        self._weights = list(accumulate(1 / rank for rank in range(1, WORDS + 1)))

    def _word(self) -> str:
        return "".join(self._random.choices(LETTERS, range(len(LETTERS), 0, -1), k=self._random.randint(2, 9)))

    def text(self, tokens: int) -> tuple[str, list[int]]:
        """A text of about so many tokens, and their ids."""
        ranks = self._random.choices(range(WORDS), cum_weights=self._weights, k=tokens)
        parts: list[str] = []
        ids: list[int] = []
        for rank in ranks:
            if len(ids) >= tokens:
                break
            if rank % 5 == 0:  # every fifth word is a sum: reasoning about numbers
                figures = f" {self._random.randint(2, 999)} + {self._random.randint(2, 999)} ="
                parts.append(figures)
                ids += [ord(sign) for sign in figures.replace(" ", "")]
            else:
                parts.append(f" {self._words[rank]}")
                ids += [500 + rank] if rank < 8000 else [500 + rank, 30_000 + rank % 19_000]
            if rank == 1:
                parts.append(".\n")
                ids.append(30)
        return "".join(parts).strip(), ids

    def length(self, mean_tokens: int) -> int:
        """Log-normal, as lengths of reasoning are."""
        return max(16, round(mean_tokens * self._random.lognormvariate(-0.125, 0.5)))


def records(count: int, samples: int = 4, mean_tokens: int = 300, seed: int = 1) -> Iterator[dict[str, Any]]:
    """Records for the store, `samples` of each prompt one after the other: rows of the traces, and their `limit`."""
    writer = Writer(seed)
    prompt, prompt_ids, problem = "", [0], ""
    for number in range(count):
        if number % samples == 0:
            question, prompt_ids = writer.text(60)
            prompt = (
                f"<|im_start|>user\n{question}\n\nReason step by step, and put your final answer within \\boxed{{}}."
                f"<|im_end|>\n<|im_start|>assistant\n<think>\n"
            )
            problem = content_id("problem", question)
        raw, ids = writer.text(writer.length(mean_tokens))
        yield {
            "id": content_id("trace", seed, number),
            "finish": "stop",
            "completion_tokens": len(ids),
            "limit": 4096,
            "problem_id": problem,
            "sample": number % samples,
            "teacher": "smollm2-135m-instruct",
            "weights": WEIGHTS,
            "prompt": prompt,
            "raw": raw,
            "token_ids": ids,
            "cause": None,
            "prompt_tokens": len(prompt_ids) + 24,
            "sampling": SAMPLING,
            "engine_seed": 1234567890,
            "parent_trace_id": None,
        }
