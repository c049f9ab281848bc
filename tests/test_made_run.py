"""The made-up run: its stages are fresh, and curation finds what was planted, all of it and nothing else."""

from collections import Counter
from pathlib import Path

import pyarrow as pa

from pipeline import plan, recipe
from pipeline.run import Run
from pipeline.runner import Runner, Watcher
from pipeline.shards import read_shards
from tests import made_run


def test_curation_finds_what_was_planted_in_a_made_up_run_and_nothing_else(tmp_path: Path) -> None:
    path = made_run.write(tmp_path, 960)
    run = Run(recipe.load(path, ["mix.traces_per_problem=null"]), data=tmp_path / "data")
    ran: list[str] = []
    watcher = Watcher(ends=lambda name, manifest, did: ran.append(name) if did else None)
    Runner(run, watcher).execute(plan.ORDER[: plan.ORDER.index("mix") + 1])
    assert ran == ["verify", "filter", "dedupe", "decontaminate", "mix"]
    made, mix = run.manifest("generate"), run.manifest("mix")
    assert made is not None
    assert mix is not None
    planted = made.facts["planted"]
    fates = pa.concat_tables(read_shards(run.stage_folder("mix"), mix.datasets["fates"].shards)).to_pylist()
    found = Counter(reason for row in fates for reason in set(row["reasons"]))
    assert len(fates) == 960
    assert min(planted.values()) > 0
    assert found["wrong_answer"] == planted["wrong"]
    assert found["truncated"] == planted["truncated"] + planted["looping"]
    assert found["looping_tail"] == planted["looping"]
    assert found["languages_mixed"] == planted["two_languages"]
    assert found["contaminated"] == planted["contaminated"]
    assert found["duplicate_exact"] + found["duplicate_near"] == planted["copied"] + planted["reworded"]
    assert found["answer_missing"] == sum(planted[kind] for kind in ("unanswered", "truncated", "looping", "unclosed"))
    assert sum(row["kept"] for row in fates) == planted["right"]
