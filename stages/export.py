"""export: the finished checkpoint as folders that vLLM serves as they are: whole, and with 8-bit or 4-bit weights.

It trains nothing and scores nothing: eval examines what has fewer bits beside the checkpoint.
"""

from typing import Literal

from pydantic import Field, field_validator

from pipeline import quantisation
from pipeline.section import Section
from pipeline.stage import Inputs, Output, Progress, Reads, Stage, StageError

Weights = Literal["bfloat16", "int8", "int4"]


class Config(Section):
    """What is written, each as a folder of its own."""

    weights: tuple[Weights, ...] = Field(("bfloat16",), min_length=1)  # eval examines int8 and int4 where they are here

    @field_validator("weights")
    @classmethod
    def _each_once(cls, weights: tuple[Weights, ...]) -> tuple[Weights, ...]:
        if len(set(weights)) < len(weights):
            raise ValueError(f"found {', '.join(weights)}; expected each once")
        return weights


def run(config: Config, inputs: Inputs, output: Output) -> None:
    """Write a folder for each format, and say what it weighs."""
    source = inputs.folder("checkpoint")
    models = output.artifact("models")
    output.facts["checkpoint_bytes"] = quantisation.weight_bytes(source)
    output.facts["weight_bytes"] = {}
    for number, form in enumerate(config.weights):
        output.progress(Progress(number, len(config.weights), "exports", form))
        try:
            quantisation.write(source, models / form, form)
        except quantisation.QuantisationError as error:
            raise StageError(str(error)) from error
        output.facts["weight_bytes"][form] = size = quantisation.weight_bytes(models / form)
        output.say(f"{form}: {size / 1e6:,.1f} MB of weights in export/models/{form}")


STAGE = Stage(
    name="export",
    version=1,
    config=Config,
    run=run,
    reads={"checkpoint": Reads("sft", artifact="checkpoint")},
    artifacts=("models",),
)
