"""The bar of the trace filters: traces a second on one core, all rules together.

Run: python -m tests.bench.rules [--traces 100000] [--repeats 3]. Made-up traces of some 300 tokens (1,200 characters of
sentences, sums and formulas, in think tags, with an answer; four of a problem), one in ten of them broken in one of
nine ways, are judged with every rule in use and no limit switched off, in the batches that the stage judges. Seconds
are of the processor, so that a busy machine counts less; making the traces and reading Parquet are not part of them.
The last line is JSON; exit code 1 where the bar is missed.
"""

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from pipeline.rules import RULES, load
from pipeline.rules.limits import Limits
from pipeline.rules.trace import Trace, Traces
from stages.filter import batches
from tests import bars

BAR = 5000.0  # traces a second
SAMPLES = 4  # of each problem
LIMITS = Limits(max_tokens=4096, length_ratio=4.0, reasoning_language="problem")
TASK = "Reason step by step, and put your final answer within \\boxed{}."
STEPS = (
    "First, let's look at what the problem gives us: {a} boxes with {b} pencils in each of them.",
    "Then we have {a} + {b} = {c}, so the sum of the two is {c}.",
    "If $x = {a}$ and $y = {b}$, then \\(x + y = {c}\\) must hold.",
    "Wait, let me check this again: {c} - {b} = {a}, which is what we had before.",
    "Now multiply both sides by {a}; this gives \\[ {a}x + {b} = {c} \\] as we wanted.",
    "Since {a} is less than {c}, there are {b} left, and none of them is counted twice.",
    "Therefore the number of pencils that were sold on day {a} is {b}, not {c}.",
    "The third group holds {a} cards; take away {b} and look at what remains on the table.",
    "Suppose for a moment that every second child leaves: then about {b} chairs stay empty.",
    "Hmm, dividing {c} by {a} does not come out even, which means some step above must be off.",
    "Let me define f(n) = {a}n + {b}; its value at n = 1 equals {c} according to our table.",
    "By symmetry each corner gets the same weight, namely one quarter of {c}.",
    "Next comes the harder part: how often does {b} fit between {a} and {c}?",
    "Reading the question once more, it asks for whole weeks only, not for single days ({a}).",
    "Using the identity $(u+v)^2 = u^2 + 2uv + v^2$ with u = {a}, v = {b} saves some work here.",
    "That would make {c} euros altogether, a price nobody sane pays for old bicycles.",
    "Okay, another idea: draw a line from {a} up to {c}, mark halfway, then compare lengths.",
    "Substituting back yields {a}k = {c} - {b}, hence k is determined uniquely.",
    "It follows that neither train arrives before minute {b}; the slower one needs {c}.",
    "Alternatively, we could count them by hand - {a}, {b}, {c} - but that takes too long.",
)
FAULTS = (
    lambda text: text.replace("</think>", ""),
    lambda text: text.replace("\\boxed", "box"),
    lambda text: text.replace("Now multiply", "现在我们 multiply").replace("First,", "首先我们"),
    lambda text: text.replace("\\boxed{", "\\boxed{1"),
    lambda text: text + "\n```python\nprint(4)\n```",
    lambda text: text + " wait, let me see," * 40,
    lambda text: text.replace("<think>\n", "<think>\nAs an AI, I obey: " + TASK + "\n"),
    lambda text: text.replace("</think>", "Zuerst haben wir die Zahl, und dann ist sie nicht mehr das.\n</think>"),
    lambda text: text + "<|im_end|>",
)


def made_up(count: int, seed: int = 1) -> Iterator[Trace]:
    """So many traces, one in ten with a fault."""
    draw = random.Random(seed)
    for number in range(count):
        problem = f"There are {number // SAMPLES} boxes with 12 pencils in each of them. How many are there?"
        lines, chars = [], 0
        while chars < 1100:
            a, b = draw.randrange(2, 999), draw.randrange(2, 999)
            lines.append(draw.choice(STEPS).format(a=a, b=b, c=a + b))
            chars += len(lines[-1])
        answer = draw.randrange(999)
        raw = "\n".join(["<think>", *lines, f"So the answer is {answer}.", "</think>", "", f"\\boxed{{{answer}}}"])
        if number % 10 == 0:
            raw = FAULTS[number // 10 % len(FAULTS)](raw)
        prompt = f"<|im_start|>user\n{TASK}\n\n{problem}<|im_end|>\n<|im_start|>assistant\n"
        yield Trace(raw, "stop", len(raw) // 4, True, "math", problem, prompt, 300.0)


def judged(rows: list[Trace], seconds: Counter[str]) -> Counter[str]:
    """Judge copies of the traces, with nothing computed before; returns the traces by rule, and adds up the seconds."""
    rules = {name: load(name) for name in RULES}
    broken: Counter[str] = Counter()
    for batch in batches(replace(row) for row in rows):
        begun = time.process_time()
        traces = Traces(batch)
        seconds["(columns)"] += time.process_time() - begun
        for name, rule in rules.items():
            begun = time.process_time()
            broken[name] += len(rule(traces, LIMITS))
            seconds[name] += time.process_time() - begun
    return broken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    speeds = []
    for _ in range(chosen.repeats):
        rows = list(made_up(chosen.traces))
        seconds: Counter[str] = Counter()
        broken = judged(rows, seconds)
        speeds.append(chosen.traces / seconds.total())
        each = ", ".join(f"{name} {1e6 * spent / chosen.traces:.1f}" for name, spent in seconds.most_common())
        bars.show(f"{speeds[-1]:,.0f} traces/s; microseconds a trace: {each}")
        bars.show(f"broken: {', '.join(f'{name} {count:,}' for name, count in broken.most_common() if count)}")
    return bars.end(bars.above("traces a second on one core, all rules", speeds, BAR, traces=chosen.traces))


if __name__ == "__main__":
    sys.exit(main())
