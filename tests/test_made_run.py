"""The made-up run: its stages are fresh, and curation finds what was planted, all of it and nothing else."""

from collections import Counter
from pathlib import Path

import pyarrow as pa

from pipeline.shards import read_shards
from tests import made_run, small


def test_curation_finds_what_was_planted_in_a_made_up_run_and_nothing_else(tmp_path: Path) -> None:
    path = made_run.write(tmp_path, 960)
    run = small.run_of(path, "mix.traces_per_problem=null")
    assert small.ran(run, "mix") == ["verify", "filter", "dedupe", "decontaminate", "mix"]
    planted = small.manifest(run, "generate").facts["planted"]
    shards = small.manifest(run, "mix").datasets["fates"].shards
    fates = pa.concat_tables(read_shards(run.stage_folder("mix"), shards)).to_pylist()
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
