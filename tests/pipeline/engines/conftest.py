"""One real vLLM engine for all tests that need one: starting it costs more than all they ask of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline import models, templates
from pipeline.engines import Engine, start
from pipeline.roles import Role

ROOT = Path(__file__).resolve().parents[3]
MODEL = "smollm2-135m-instruct"


@dataclass
class Running:
    """An engine with what it runs: its role, its tokenizer and the file its libraries log to."""

    engine: Engine
    role: Role
    tokenizer: Any
    log: Path


@pytest.fixture(scope="session")
def vllm_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = models.fetch(MODEL, ROOT, lambda line: None)
    role = Role(model=MODEL, max_model_len=512, exec={"max_num_seqs": 16, "kv_cache_gib": 1})
    log = tmp_path_factory.mktemp("vllm") / "engine.log"
    engine = start(role, folder, 11, log)
    try:
        yield Running(engine, role, templates.load_tokenizer(folder), log)
    finally:
        engine.close()
