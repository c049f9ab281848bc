"""Training on long examples with a GPU: tokens a second, peak memory, and the share of the GPU's arithmetic in use.

Run: python -m tests.bench.sft_long [--lengths 4096 16384] [--steps 8] [--model FOLDER] [--peak-tflops 989]. The stage's
trainer trains a student of half a billion parameters (the shape of Qwen2.5-0.5B with random weights; --model takes a
real one) on random tokens, a batch of one example each, optimizer included, with and without recomputed activations.
The first two steps warm up and count for nothing. Where memory is not enough, the arm says so.

Model FLOPs utilisation is that of PaLM (arXiv 2204.02311, appendix B): a token costs 6 FLOPs for each parameter that
multiplies (the embedding does not, the head does) and 12 x layers x heads x head width x length for attention; what is
recomputed does not count. The peak is the dense bfloat16 rate of the GPU's data sheet, by its name, or --peak-tflops.

Without a GPU nothing is measured and the last line says so; --cpu runs the script all the same, to try it with small
numbers (--layers 2 --lengths 256). The last line is JSON.
"""

import argparse
import random
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pipeline.training.encode import Encoded
from tests import bars
from tests.bench.sft_throughput import model_folder, ours, student

WARM_UP = 2
PROMPT = 64  # tokens of an example that are not learnt
# Dense bfloat16 TFLOPS of NVIDIA's data sheets, by a part of the device's name.
PEAKS = {"H200": 989.0, "H100 PCIe": 756.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "RTX 4090": 165.0, "L4": 121.0}
QWEN_HALF_BILLION = {
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
}


def network(chosen: argparse.Namespace, device: str) -> Any:
    """A student with float32 weights on the device."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    if chosen.model is not None:
        return student(chosen.model, chosen.attention).to(device)
    torch.manual_seed(0)
    config = Qwen2Config(**QWEN_HALF_BILLION | {"num_hidden_layers": chosen.layers}, use_cache=False)
    made = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=chosen.attention)
    return made.to(device)


def examples(count: int, length: int, vocabulary: int) -> list[Encoded]:
    rng = random.Random(1)
    tokens = [rng.randrange(5, vocabulary) for _ in range(count * length)]
    rows = [tokens[place : place + length] for place in range(0, len(tokens), length)]
    return [Encoded(f"trace-{number}", (), "", row[:PROMPT], row[PROMPT:]) for number, row in enumerate(rows)]


def flops_per_token(network: Any, length: int) -> float:
    """Of a forward and a backward pass over an example of so many tokens, by PaLM's count."""
    config = network.config.get_text_config()
    head, embedding = network.get_output_embeddings().weight, network.get_input_embeddings().weight
    multiplying = sum(one.numel() for one in network.parameters()) - (0 if head is embedding else embedding.numel())
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 6.0 * multiplying + 12.0 * config.num_hidden_layers * config.num_attention_heads * width * length


def steps_s(trainer_of: Any) -> list[float]:
    """Seconds of each step after those that warm up."""
    import torch
    from transformers import TrainerCallback

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    trainer_of.add_callback(Clock())
    trainer_of.train()
    return [later - earlier for earlier, later in zip(ends[WARM_UP - 1 :], ends[WARM_UP:], strict=False)]


def measured(chosen: argparse.Namespace, length: int, recomputed: bool, on_gpu: bool, peak: float | None) -> Any:
    """One arm: what was seen, as JSON values."""
    import torch

    found = network(chosen, "cuda" if on_gpu else "cpu")
    rows = examples(chosen.steps + WARM_UP, length, found.config.get_text_config().vocab_size)
    plan = [[place] for place in range(len(rows))]
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    arm: dict[str, Any] = {"tokens": length, "recomputed": recomputed}
    with tempfile.TemporaryDirectory() as folder:
        options = {"exec": {"gradient_checkpointing": recomputed}, "max_length": length, "batch_tokens": length}
        try:
            seconds = steps_s(ours(found, rows, plan, Path(folder) / "trainer", on_gpu, **options))
        except torch.OutOfMemoryError:
            bars.show(f"{length:,} tokens, {'' if recomputed else 'not '}recomputed: memory is not enough")
            return arm | {"out_of_memory": True}
    step = statistics.median(seconds)
    memory = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    arm |= {
        "tokens_per_s": round(length / step, 1),
        "spread": [round(length / max(seconds), 1), round(length / min(seconds), 1)],
        "peak_memory_gib": round(memory / 2**30, 2),
        "model_flops_utilisation": round(flops_per_token(found, length) * length / step / peak, 4) if peak else None,
    }
    bars.show(f"{length:,} tokens, {'' if recomputed else 'not '}recomputed: {arm}")
    return arm


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=model_folder, help="a folder with a Llama- or Qwen-class model")
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 16384], help="tokens of an example")
    parser.add_argument("--steps", type=int, default=8, help="that count, of each arm")
    parser.add_argument("--layers", type=int, default=24, help="without --model")
    parser.add_argument("--attention", default="sdpa", help="or flash_attention_2, where it is installed")
    parser.add_argument("--peak-tflops", type=float, help="dense bfloat16, of a GPU that the script does not know")
    parser.add_argument("--cpu", action="store_true", help="run it without a GPU, to try it")
    chosen = parser.parse_args()

    import torch

    from pipeline.training import model

    bar = "training on long examples, tokens/s, memory and model FLOPs utilisation"
    on_gpu = torch.cuda.is_available() and not chosen.cpu
    if not on_gpu and not chosen.cpu:
        bars.show("no GPU here: nothing is measured (--cpu tries the script)")
        return bars.end({"bar": bar, "value": None, "limit": None, "n": 0, "spread": None, "device": None, "ok": True})
    model.quiet()
    name = torch.cuda.get_device_name() if on_gpu else "cpu"
    known = next((peak for part, peak in PEAKS.items() if part in name), None) if on_gpu else None
    peak = (chosen.peak_tflops or known or 0) * 1e12 or None
    if on_gpu and peak is None:
        bars.show(f"the peak rate of {name} is not known: no utilisation without --peak-tflops")
    arms = [
        measured(chosen, length, recomputed, on_gpu, peak) for length in chosen.lengths for recomputed in (True, False)
    ]
    best = max((one["tokens_per_s"] for one in arms if "tokens_per_s" in one), default=None)
    return bars.end(
        {"bar": bar, "value": best, "limit": None, "n": chosen.steps, "spread": None, "device": name, "arms": arms}
        | {"ok": best is not None}
    )


if __name__ == "__main__":
    sys.exit(main())
