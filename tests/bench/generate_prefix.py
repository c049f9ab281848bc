"""The bar of samples that share a prompt: eight compute the prompt once, and at most a block more for each sibling.

Run: python -m tests.bench.generate_prefix [--model FOLDER] [--prompts 24]. Prompts of 100 to 1,000 tokens, and some
that vLLM computes in several steps, eight samples each, through the engine as generate starts it. What a sample
computed of its prompt is what the engine counts: prompt tokens less those it found cached. `alone`: the eight of one
prompt are all there is, asked for at once. `together`: all prompts in one stream, 64 sequences in flight, completions
of all lengths, so that siblings start in different steps. No time is measured, and the model is a tiny random Llama
unless another is named. The last line is JSON, its value the blocks that the worst prompt computed beyond its own
tokens; exit code 1 where a prompt missed the bar.
"""

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

from pipeline.engines import Engine, Request, start
from pipeline.engines.vllm import CPU_BLOCK_SIZE
from pipeline.roles import Role
from tests import bars, tiny, workload

SAMPLES = 8
IN_FLIGHT = 64
LONG = 6000  # more tokens than vLLM computes in one step on the CPU (4,096)


def prompts(count: int, seed: int) -> list[list[int]]:
    """Random tokens: an eighth of the prompts is long, an eighth ends with a block, where all of it is cached."""
    draw = random.Random(seed)

    def length(number: int) -> int:
        if number % 8 == 3:
            return LONG + draw.randrange(CPU_BLOCK_SIZE)
        return CPU_BLOCK_SIZE * draw.randint(4, 30) if number % 8 == 5 else draw.randint(100, 1000)

    return [[draw.randrange(5, 300) for _ in range(length(number))] for number in range(count)]


def requests(some: list[list[int]], name: int, lengths: Iterator[int]) -> Iterator[Request]:
    """The samples of each prompt, one after the other. An id starts with the number of its prompt."""
    for number, ids in enumerate(some):
        for sample in range(SAMPLES):
            known = f"{number:08x}{name:016x}{sample:08x}"
            yield Request(known, f"{name} {number}", ids, [], workload.ENDLESS, next(lengths), sample, "")


def computed(engine: Engine, some: list[list[int]], name: int, lengths: Iterator[int]) -> Counter[int]:
    """The prompt tokens that the samples of each prompt computed, by the prompt's number."""
    tokens: Counter[int] = Counter()
    known = dict(engine.figures) or {"prompt_tokens": 0, "cached_prompt_tokens": 0}
    for completion in engine.stream(requests(some, name, lengths)):
        assert completion.finish == "length", completion
        now = dict(engine.figures)  # they grow by one completion at a time
        rise = {key: now[key] - known[key] for key in known}
        number = int(completion.id[:8], 16)
        assert rise["prompt_tokens"] == len(some[number])
        tokens[number] += round(rise["prompt_tokens"] - rise["cached_prompt_tokens"])
        known = now
    return tokens


def blocks(engine: Engine, some: list[list[int]], name: int, lengths: Iterator[int]) -> list[float]:
    """The blocks that the samples of each prompt computed beyond the prompt itself."""
    found = computed(engine, some, name, lengths)
    return [(found[number] - len(ids)) / CPU_BLOCK_SIZE for number, ids in enumerate(some)]


def measure(model: Path | None, count: int) -> dict[str, list[float]]:
    """Blocks beyond the prompt, a value a prompt, alone and together."""
    lengths = workload.heavy_tailed(count * SAMPLES, 24, 200, seed=5)
    with tempfile.TemporaryDirectory() as scratch:
        folder = model or tiny.build(Path(scratch) / "tiny", positions=8192)
        role = Role(model=str(folder), max_model_len=8192, exec={"max_num_seqs": IN_FLIGHT})  # type: ignore[arg-type]
        engine = start(role, folder, 1, Path(scratch) / "engine.log")
        try:
            alone = [
                value
                for number, prompt in enumerate(prompts(count, seed=1))
                for value in blocks(engine, [prompt], number, repeat(8))
            ]
            return {"alone": alone, "together": blocks(engine, prompts(count, seed=2), count, iter(lengths))}
        finally:
            engine.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a folder with weights for 8,192 positions")
    parser.add_argument("--prompts", type=int, default=24, help="of each of the two")
    chosen = parser.parse_args()
    found = measure(chosen.model, chosen.prompts)
    for name, values in found.items():
        bars.show(f"{name}: {' '.join(f'{value:.1f}' for value in values)}")
    return bars.end(
        *(
            bars.below_always(
                f"blocks computed beyond one prompt by {SAMPLES} samples of it, {name}",
                values,
                SAMPLES - 1,
                block_tokens=CPU_BLOCK_SIZE,
            )
            for name, values in found.items()
        )
    )


if __name__ == "__main__":
    sys.exit(main())
