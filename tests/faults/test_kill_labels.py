"""generate with logprobs on real vLLM, killed by SIGKILL while it captures them: every trace gets its labels, once."""

from pathlib import Path
from typing import Any

from pipeline import labelling
from pipeline.run import Run
from pipeline.shards import read_shards
from pipeline.soft_labels import hash_tokens
from pipeline.store import Store
from tests import small, tiny

PROBLEMS, K = 48, 20


def run_of(folder: Path, model: Path) -> tuple[Run, Path]:
    """A run of greedy completions in float32, whose tokens do not depend on what else is in the batch."""
    path = small.write(
        folder,
        problems=PROBLEMS,
        teacher={
            "model": str(model),
            "engine": "vllm",
            "dtype": "float32",
            "max_model_len": 512,
            "exec": {"max_num_seqs": 4, "kv_cache_gib": 1},
        },
        generate={"samples": 1, "max_tokens": 96, "logprobs": K, "sampling": {"temperature": 0.0}},
    )
    return small.run_of(path), path


def store_of(run: Run) -> Store:
    """The store as a reader finds it, while a writer may be at work."""
    return Store(run.store, run.weights("teacher"))


def completions(run: Run) -> dict[str, list[int]]:
    store = store_of(run)
    return {row["id"]: row["token_ids"] for row in store.rows(store.ids())}


def dataset(run: Run, name: str) -> list[dict[str, Any]]:
    tables = read_shards(run.stage_folder("generate"), small.manifest(run, "generate").datasets[name].shards)
    return [row for table in tables for row in table.to_pylist()]


def test_a_killed_capture_and_its_rerun_label_every_trace_once_as_an_unbroken_run_does(tmp_path: Path) -> None:
    model = tiny.build(tmp_path / "teacher")
    (tmp_path / "killed").mkdir()
    (tmp_path / "unbroken").mkdir()
    run, path = run_of(tmp_path / "killed", model)
    assert small.killed(
        run.data,
        *("run", path, "--to", "generate"),
        when=lambda: run.store.exists() and len(completions(run)) >= PROBLEMS // 4,
        poll_s=0.02,
    )
    before = completions(run)
    assert PROBLEMS // 4 <= len(before) < PROBLEMS
    captured = {key: store_of(run).labels.get(key, hash_tokens(ids)) for key, ids in before.items()}
    assert None not in captured.values()

    small.seqdistill(run.data, "run", path, "--to", "generate")
    rows = dataset(run, "soft_labels")
    traces = {row["id"]: row["token_ids"] for row in dataset(run, "traces")}
    assert len(rows) == len(traces) == PROBLEMS
    assert {row["id"]: row["token_hash"] for row in rows} == {
        key: hash_tokens(token_ids).hex() for key, token_ids in traces.items()
    }
    for row, labels in labelling.read(run.store, rows):
        assert labels.sampled.tolist() == traces[row["id"]]
        assert labels.ids.shape == (len(traces[row["id"]]), K)
    assert {key: store_of(run).labels.get(key, hash_tokens(ids)) for key, ids in before.items()} == captured
    facts = small.manifest(run, "generate").facts
    # Labels are stored before the completion they are of: none has to be scored.
    assert facts["soft_labels"]["labels_scored_later"] == 0
    assert facts["reused"] == len(before)

    whole, path = run_of(tmp_path / "unbroken", model)
    small.seqdistill(whole.data, "run", path, "--to", "generate")
    same = ("id", "teacher", "vocabulary", "token_hash", "k", "tokens")
    assert sorted([row[name] for name in same] for row in rows) == sorted(
        [row[name] for name in same] for row in dataset(whole, "soft_labels")
    )
