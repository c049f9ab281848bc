"""generate on real vLLM, killed by SIGKILL: ids equal, each once, what was durable before the kill is unchanged."""

from pathlib import Path

from pipeline import models
from pipeline.run import ROOT, Run
from pipeline.shards import read_shards
from pipeline.store import Store
from tests import small

TEACHER = "smollm2-135m-instruct"


def stored(run: Run) -> dict[str, dict[str, object]]:
    """Every whole record of the store by id, as a reader finds it while a writer may be at work."""
    store = Store(run.store, run.weights("teacher"))
    return {row["id"]: row for row in store.rows(store.ids())}


def test_a_killed_generation_buys_only_what_was_not_durable(tmp_path: Path) -> None:
    models.fetch(TEACHER, ROOT, lambda line: None)
    path = small.write(
        tmp_path,
        problems=24,
        teacher={"model": TEACHER, "engine": "vllm", "max_model_len": 512, "exec": {"max_num_seqs": 8}},
        generate={"samples": 2, "max_tokens": 48},
    )
    run = small.run_of(path)
    assert small.killed(
        run.data, *("run", path, "--to", "generate"), when=lambda: run.store.exists() and len(stored(run)) >= 16
    )
    before = stored(run)
    assert 16 <= len(before) < 48

    small.seqdistill(run.data, "run", path, "--to", "generate")
    manifest = small.manifest(run, "generate")
    assert manifest.facts["reused"] == len(before)
    assert manifest.facts["bought"] == 48 - len(before)
    shards = manifest.datasets["traces"].shards
    traces = {
        row["id"]: row for table in read_shards(run.stage_folder("generate"), shards) for row in table.to_pylist()
    }
    assert manifest.rows["traces"] == len(traces) == 48
    kept = ("raw", "token_ids", "finish", "engine_seed", "sample", "prompt")
    assert {key: [traces[key][name] for name in kept] for key in before} == {
        key: [row[name] for name in kept] for key, row in before.items()
    }
    assert len({row["engine_seed"] for row in traces.values()}) == 2
