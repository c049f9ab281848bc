"""One real vLLM engine for all tests that need one: starting it costs more than all they ask of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline import models, templates
from pipeline.engines import Engine, start
from pipeline.roles import Role, Teacher
from pipeline.think import CLOSE, OPEN

ROOT = Path(__file__).resolve().parents[3]
MODEL = "smollm2-135m-instruct"


@dataclass
class Running:
    """An engine with what it runs: its role, its tokenizer, its weights and the file its libraries log to."""

    engine: Engine
    role: Role
    tokenizer: Any
    log: Path
    model: Path  # the folder of its weights


def with_tags(folder: Path, made: Path) -> Path:
    """The model of a folder, its tokenizer with the think tags in place of two tokens that it has and never writes."""
    made.mkdir()
    for file in folder.iterdir():
        if file.name != "tokenizer.json":
            (made / file.name).symlink_to(file)
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    for spare, tag in (("<issue_start>", OPEN), ("<issue_closed>", CLOSE)):
        text = text.replace(f'"{spare}"', f'"{tag}"')
    (made / "tokenizer.json").write_text(text, encoding="utf-8")
    return made


@pytest.fixture(scope="session")
def vllm_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    place = tmp_path_factory.mktemp("vllm")
    folder = with_tags(models.fetch(MODEL, ROOT, lambda line: None), place / "model")
    settings = {"max_num_seqs": 16, "kv_cache_gib": 1}
    # Of the budget the engine only needs to know that there is one: how many tokens, each request says.
    role = Teacher(model=MODEL, thinking=True, thinking_budget=1, max_model_len=512, exec=settings)
    log = place / "engine.log"
    engine = start(role, folder, 11, log)
    try:
        yield Running(engine, role, templates.load_tokenizer(folder), log, folder)
    finally:
        engine.close()
