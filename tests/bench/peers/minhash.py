"""Other programs' near-duplicate search on a file of texts, as their documentation tells to run them.

Run by an interpreter that has the program: python minhash.py NAME TEXTS.jsonl. The last line is JSON: the seconds of
CPU time from texts in memory (or in the file, where the program reads it itself) to clusters, and how many pairs it
found, or texts it dropped. It imports nothing of the project.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SHINGLE = 5
THRESHOLD = 0.8


def shingles(text: str) -> set[str]:
    """Runs of five words, as the examples of datasketch and rensa make them."""
    words = text.lower().split()
    return {" ".join(words[at : at + SHINGLE]) for at in range(max(1, len(words) - SHINGLE + 1))}


def datasketch(texts: list[str], path: Path) -> int:
    """MinHash of 128 permutations by update_batch, MinHashLSH at the threshold: the library's defaults."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=THRESHOLD, num_perm=128)
    pairs = 0
    for place, text in enumerate(texts):
        sketch = MinHash(num_perm=128)
        sketch.update_batch([shingle.encode() for shingle in shingles(text)])
        pairs += len(index.query(sketch))
        index.insert(place, sketch)
    return pairs


def rensa(texts: list[str], path: Path) -> int:
    """RMinHash of 128 permutations and RMinHashLSH, as its README does."""
    from rensa import RMinHash, RMinHashLSH

    index = RMinHashLSH(threshold=THRESHOLD, num_perm=128, num_bands=16)
    pairs = 0
    for place, text in enumerate(texts):
        sketch = RMinHash(num_perm=128, seed=42)
        sketch.update(list(shingles(text)))
        pairs += len(index.query(sketch))
        index.insert(place, sketch)
    return pairs


def datatrove(texts: list[str], path: Path) -> int:
    """Signatures, buckets, clusters and filter with the defaults (14 bands of 8, five words), in one process."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    config = MinhashConfig(n_grams=SHINGLE)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        source.mkdir()
        shutil.copy(path, source / "texts.jsonl")
        reader = JsonlReader(str(source))
        steps: list[list[Any]] = [
            [reader, MinhashDedupSignature(output_folder=f"{folder}/signatures", config=config)],
            [MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets", config=config)],
            [MinhashDedupCluster(f"{folder}/buckets", f"{folder}/removed", config=config)],
            [
                JsonlReader(str(source)),
                MinhashDedupFilter(
                    f"{folder}/removed", exclusion_writer=JsonlWriter(f"{folder}/dropped", compression=None)
                ),
            ],
        ]
        for number, step in enumerate(steps):
            tasks = config.num_buckets if number == 1 else 1
            LocalPipelineExecutor(step, tasks=tasks, workers=1, logging_dir=f"{folder}/log{number}").run()
        dropped = sum(len(file.read_text().splitlines()) for file in Path(f"{folder}/dropped").glob("*.jsonl"))
    return dropped


def text_dedup(texts: list[str], path: Path) -> int:
    """The program's MinHash command with its defaults (250 permutations) and five words a shingle, in one process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "text_dedup.minhash", "--path", "json", "--data_files", str(path)]
        command += ["--split", "train", "--column", "text", "--ngram", str(SHINGLE), "--threshold", str(THRESHOLD)]
        command += [
            "--num_proc",
            "1",
            "--cache_dir",
            f"{folder}/cache",
            "--output",
            f"{folder}/kept",
            "--batch_size",
            "10000",
        ]
        subprocess.run(command, check=True, stdout=sys.stderr)
        import datasets

        kept = len(datasets.load_from_disk(f"{folder}/kept"))
    return len(texts) - kept


PEERS = {each.__name__: each for each in (datasketch, rensa, datatrove, text_dedup)}


def cpu_s() -> float:
    """CPU time of this process and of its children that have ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def main() -> None:
    name, path = sys.argv[1], Path(sys.argv[2])
    texts = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]
    begun, wall = cpu_s(), time.perf_counter()
    pairs = PEERS[name](texts, path)
    spent = {"cpu_s": cpu_s() - begun, "wall_s": time.perf_counter() - wall}
    sys.stdout.write(json.dumps({**spent, "documents": len(texts), "found": pairs}) + "\n")


if __name__ == "__main__":
    main()
