"""The figures of a training for its manifest. It trains nothing."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.training.material import Material
from pipeline.training.options import Options

if TYPE_CHECKING:
    from pipeline.training.trainer import Planned

CURVE_POINTS = 500  # of the training loss in the manifest; TensorBoard has every step
# What transformers' trainer writes of a step by itself; the rest is what the objective reports.
_OF_A_STEP = frozenset({"loss", "grad_norm", "learning_rate", "epoch", "step", "num_input_tokens_seen"})


def curve(history: Sequence[Mapping[str, Any]], key: str, points: int) -> list[list[float]]:
    """[step, value] pairs of a key in the trainer's log; runs of steps are averaged where there are too many."""
    pairs = [(entry["step"], entry[key]) for entry in history if entry.get(key) is not None]
    width = max(1, math.ceil(len(pairs) / points))
    runs = [pairs[start : start + width] for start in range(0, len(pairs), width)]
    return [[run[-1][0], sum(value for _, value in run) / len(run)] for run in runs]


def figures(history: Sequence[Mapping[str, Any]]) -> dict[str, list[list[float]]]:
    """What the objective reported of steps, by its name; of those before a resumption too."""
    steps = [entry for entry in history if "loss" in entry]
    names = sorted({key for entry in steps for key in entry} - _OF_A_STEP)
    return {name: curve(steps, name, CURVE_POINTS) for name in names}


def results(options: Options, material: Material, trainer: "Planned", begun: int, seconds: float) -> dict[str, Any]:
    """The figures of a training for the manifest. Rates are of the steps run by this process."""
    lengths = [one.length for one in material.train]
    history, state = trainer.state.log_history, trainer.state
    trained = [index for batch in material.train_batches[begun : state.global_step] for index in batch]
    stepping = seconds - sum(trainer.plan.seconds.values())
    tokens = sum(lengths[index] for index in trained)
    whole = [index for batch in material.train_batches[: state.global_step] for index in batch]
    best = state.best_global_step if material.validation and options.keep == "best" else None
    return {
        "steps": state.global_step,
        "steps_planned": len(material.train_batches),
        "resumed_at_step": begun,
        "processes": trainer.world,
        "loss": curve(history, "loss", CURVE_POINTS),
        "loss_figures": figures(history) if trainer.reports else {},
        "eval_loss": curve(history, "eval_loss", CURVE_POINTS),
        "eval_figures": {
            key.removeprefix("eval_"): curve(history, key, CURVE_POINTS)
            for key in sorted({key for entry in history for key in entry})
            if key.startswith("eval_") and key != "eval_loss"
        },
        "best_step": best or state.global_step,
        "tokens_per_epoch": sum(lengths),
        "loss_tokens": sum(len(material.train[index].completion) for index in whole),
        "padding_share": material.audit.padding_share,
        "tokens_per_s": tokens / stepping if tokens and stepping > 0 else None,
        "seconds_stepping": stepping,
        "seconds_evaluating": trainer.plan.seconds["evaluate"],
        "seconds_saving": trainer.plan.seconds["save"],
    }
