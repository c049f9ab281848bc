"""The order of the stages, and which of them a stage needs. It runs nothing."""

from importlib import import_module
from typing import cast

from pipeline.stage import Stage

ORDER = ("seed", "generate", "verify", "filter", "dedupe", "decontaminate", "mix", "sft", "export", "eval", "report")
ROUND = ORDER[ORDER.index("generate") : ORDER.index("report")]  # what a round repeats, where a recipe has rounds


def stage(name: str) -> Stage:
    """The stage of that name. Raises KeyError for another one."""
    if name not in ORDER:
        raise KeyError(name)
    return cast(Stage, import_module(f"stages.{name}").STAGE)


def stages() -> list[Stage]:
    """All stages in order."""
    return [stage(name) for name in ORDER]


def upstream(name: str) -> list[str]:
    """The stages whose output a stage may read (`Run.upstream`: does read), in order, itself not among them."""
    reads = {read.stage for read in stage(name).reads.values()}
    return [other for other in ORDER if other in reads]
