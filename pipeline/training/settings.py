"""A recipe's values of training in the words of TRL and PEFT. It decides nothing: `options.py` says what runs here."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.training.options import Lora, Options, with_liger

# Seconds that processes wait for each other: the first one alone hashes checkpoints and merges and writes the student.
_PATIENCE_S = 4 * 3600
_SCHEDULES = {"linear": "linear", "constant": "constant_with_warmup"}


def interval(steps: int, evaluations: int) -> int:
    """Steps between two of so many evaluations, the last at the last step."""
    return max(1, math.ceil(steps / evaluations))


def run_name(folder: Path) -> str:
    """What a training is called where its losses are reported: its run, and the round where it is one of several."""
    above = next((up for up in list(folder.parents)[:2] if up.name == "runs"), folder.parent)
    return str(folder.relative_to(above))


def arguments(options: Options, folder: Path, steps: int, evaluated: bool, on_gpu: bool) -> dict[str, Any]:
    """TRL's SFTConfig for a training of `steps` batches, which the trainer sees as one epoch."""
    every = interval(steps, options.epochs * options.evals_per_epoch)
    cosine_to = {"min_lr_rate": options.final_learning_rate_share}
    checkpointing = options.exec.gradient_checkpointing
    return {
        "output_dir": str(folder),
        "num_train_epochs": 1,
        "per_device_train_batch_size": 1,  # of no effect: the batches are planned
        "learning_rate": options.learning_rate,
        "lr_scheduler_type": "cosine_with_min_lr" if options.schedule == "cosine" else _SCHEDULES[options.schedule],
        "lr_scheduler_kwargs": cosine_to if options.schedule == "cosine" else None,
        "warmup_steps": round(options.warmup_share * steps),
        "weight_decay": options.weight_decay,
        "max_grad_norm": options.max_grad_norm,
        "optim": "adamw_torch_fused",
        "seed": options.seed,
        "data_seed": options.seed,
        "bf16": False,  # autocast is the trainer's own; accelerate's copies every output to float32
        "gradient_checkpointing": on_gpu if checkpointing is None else checkpointing,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "eval_strategy": "steps" if evaluated else "no",
        "eval_steps": every,
        "save_strategy": "steps",
        "save_steps": every,
        "save_only_model": not options.exec.resumable,
        "load_best_model_at_end": evaluated and options.keep == "best",
        "metric_for_best_model": "eval_loss" if evaluated else None,
        "greater_is_better": False if evaluated else None,
        "restore_callback_states_from_checkpoint": True,
        "report_to": "none",  # the callbacks are given
        "project": "seqdistill",
        "run_name": run_name(folder.parents[2]),  # the folder that holds sft's
        "use_liger_kernel": with_liger(options.exec, on_gpu),
        "liger_kernel_config": {"fused_linear_cross_entropy": False, "cross_entropy": False},  # losses are objectives'
        "disable_tqdm": True,
        "use_cpu": not on_gpu,
        "ddp_find_unused_parameters": False,
        "ddp_timeout": _PATIENCE_S,
        "remove_unused_columns": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "packing": False,
        "max_length": None,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": on_gpu,
        "accelerator_config": {"even_batches": False},
    }


def adapter(lora: Lora, added_tokens: Sequence[int]) -> dict[str, Any]:
    """PEFT's names for an adapter's values. Rows of tokens that the student was given are trained beside it.

    While such a row is the mean of others, no greedy answer could ever hold its token.
    """
    trained = {name: list(added_tokens) for name in ("embed_tokens", "lm_head")}
    return {
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": list(lora.targets),
        "trainable_token_indices": trained if added_tokens else None,
    }
