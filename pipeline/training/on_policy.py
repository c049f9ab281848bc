"""TRL's distillation trainer on prompts rendered elsewhere, and what GOLD (`across.py`) shares with it.

It renders and tokenises no prompt, and chooses none; batches, checkpoints and resuming are those of `trainer.py`.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import GenerationConfig, PrinterCallback
from trl.trainer.distillation_config import DistillationConfig
from trl.trainer.distillation_trainer import DistillationTrainer

from pipeline import models
from pipeline.objectives.companion import frozen
from pipeline.objectives.on_policy import Config
from pipeline.templates import end_token_id, load_tokenizer
from pipeline.training import model, refusals
from pipeline.training.encode import Encoded
from pipeline.training.trainer import Diverged, Plan, Planned


def vocabulary_size(tokenizer: Any) -> int:
    """How many rows of an embedding the tokenizer can name: its highest id and one."""
    return int(max(tokenizer.get_vocab().values())) + 1


@dataclass(frozen=True)
class Padding:
    """The rows of a model's embedding and head beyond its tokenizer, which were cut off."""

    size: int  # of the vocabulary as it was
    embedding: torch.Tensor  # [rows, width]
    head: torch.Tensor | None  # [rows, width]; None where it is tied to the embedding


def without_adapter(model: Any) -> Any:
    """The model without its adapter's wrapping."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def trim(model: Any, size: int) -> Padding:
    """Cut a model's vocabulary to `size` rows, in place; the logits of those that stay do not change.

    A padded vocabulary (Qwen2.5 has 152,064 rows and 151,936 in its small models, for one tokenizer) has rows that no
    text ever reaches; with them two models cannot be compared, and mass would be learnt that nobody can say. Raises
    ValueError for a model with fewer rows than the tokenizer has tokens.
    """
    base = without_adapter(model)
    rows, head = base.get_input_embeddings().weight, base.get_output_embeddings().weight
    if len(rows) < size:
        raise ValueError(
            f"the model has {len(rows)} rows in its vocabulary, and its tokenizer {size} tokens; expected one row for "
            f"each. Name a model that belongs to its tokenizer."
        )
    tied = head is rows
    padding = Padding(len(rows), rows[size:].detach().clone(), None if tied else head[size:].detach().clone())
    if len(rows) > size:
        base.resize_token_embeddings(size)
    return padding


def restore(model: Any, padding: Padding) -> None:
    """Put back the rows that `trim` cut off, as they were: a checkpoint has the shape of the model it came from."""
    base = without_adapter(model)
    kept = len(base.get_input_embeddings().weight)
    if kept == padding.size:
        return
    base.resize_token_embeddings(padding.size, mean_resizing=False)
    with torch.no_grad():
        base.get_input_embeddings().weight[kept:] = padding.embedding
        if padding.head is not None:
            base.get_output_embeddings().weight[kept:] = padding.head


class OnPolicy(Planned):
    """What both trainers add to TRL's: autocast, finite losses, sealed checkpoints, and evaluations that draw alike."""

    args: Any
    padding: Padding
    compute_dtype: torch.dtype
    asked: Sequence[str] = ()  # ids of the examples in the batch at hand
    answered = 0  # tokens of the student's in the last batch

    def mixed(self) -> AbstractContextManager[Any]:
        """Autocast, where products are made in bfloat16."""
        return torch.autocast(self.args.device.type, dtype=torch.bfloat16, enabled=self.compute_dtype != torch.float32)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Autocast where transformers writes the answers (vLLM computes in its own dtype), and a student that samples
        as it is asked alone: what TRL leaves open, transformers takes from the model's own generation configuration
        (Qwen2.5's penalises repetition).
        """
        base = without_adapter(self.model)
        own, base.generation_config = base.generation_config, GenerationConfig()
        try:
            with nullcontext() if self.args.use_vllm else self.mixed():
                yield
        finally:
            base.generation_config = own

    def compute_loss(self, *arguments: Any, **named: Any) -> Any:
        """As TRL does. Raises Diverged, with the ids of the examples, where the loss is not finite."""
        with self.mixed():
            found = super().compute_loss(*arguments, **named)  # type: ignore[misc]
        loss = found[0] if isinstance(found, tuple) else found
        if not torch.isfinite(loss):
            step = self.state.global_step + 1
            raise Diverged(
                f"the loss became {loss.item()} at step {step}, on answers to the prompts of {', '.join(self.asked)}; "
                f"expected a finite number. Lower sft.learning_rate, or look at the examples.",
                [{"step": step, "loss": str(loss.item()), "ids": list(self.asked)}],
            )
        return found

    def evaluate(self, *arguments: Any, **named: Any) -> Any:
        """As transformers does, on answers drawn from one seed each time: two evaluations differ by the student alone,
        and the draws of the training go on as if there had been none.
        """
        start = time.monotonic()
        with torch.random.fork_rng():
            torch.manual_seed(self.args.seed)
            found = super().evaluate(*arguments, **named)  # type: ignore[misc]
        self.plan.seconds["evaluate"] += time.monotonic() - start
        return found

    def log(self, logs: dict[str, float], *arguments: Any, **named: Any) -> None:
        """As TRL does, with the tokens that the step learnt on."""
        if "loss" in logs:
            logs["answer_tokens"] = self.answered
        super().log(logs, *arguments, **named)  # type: ignore[misc]

    def finished(self) -> Any:
        """The trained student with all rows of its vocabulary."""
        restore(self.model, self.padding)
        return self.model


class OnPolicyTrainer(OnPolicy, DistillationTrainer):
    """DistillationTrainer that asks the prompts it is given as token ids."""

    def __init__(self, plan: Plan, padding: Padding, compute_dtype: torch.dtype, **kwargs: Any) -> None:
        self.plan, self.padding, self.compute_dtype = plan, padding, compute_dtype
        super().__init__(**kwargs)
        self.remove_callback(PrinterCallback)

    def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """The prompts as they are: they were rendered and tokenised where those of an evaluation are."""
        return prompts, None, {}

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self.asked = [row["id"] for row in inputs]
        found: dict[str, Any] = super()._generate_and_score_completions(inputs)
        self.answered = int(found["completion_mask"].sum())
        return found

    def _generate_single_turn(self, *arguments: Any, **named: Any) -> Any:
        with self.answering():
            return super()._generate_single_turn(*arguments, **named)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Setting:
    """What a training of either kind is made of."""

    config: Config
    shared: Mapping[str, Any]  # the arguments that any of our trainings has (TRL's names)
    plan: Plan
    student: Any
    tokenizer: Any
    teacher: Path  # the folder of its weights and tokenizer
    train: Sequence[Encoded]
    validation: Sequence[Encoded]
    compute_dtype: torch.dtype
    callbacks: list[Any]


def values_of(setting: Setting) -> dict[str, Any]:
    """TRL's names for what both of its trainers take. Raises ValueError where vLLM is asked for and there is no GPU."""
    config = setting.config
    if config.exec.vllm and not torch.cuda.is_available():
        raise ValueError(
            "sft.on_policy.exec.vllm is true, and torch sees no GPU; TRL hands weights to vLLM on a GPU alone. Leave "
            "it out: transformers writes the answers then."
        )
    own = {"dataset_kwargs", "packing", "max_length"}  # SFTConfig's
    return {
        **{name: value for name, value in setting.shared.items() if name not in own},
        "per_device_train_batch_size": config.prompts_per_step,
        "gradient_accumulation_steps": 1,
        "beta": config.beta,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "top_k": config.top_k,
        "max_completion_length": config.max_tokens,
        "disable_dropout": False,
        "use_vllm": config.exec.vllm,
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": config.exec.gpu_memory_share,
        "vllm_max_model_length": longest(setting),  # the model's own may want a larger cache than there is room for
    }


def longest(setting: Setting) -> int:
    """Tokens of the longest prompt with its answer."""
    return max(len(one.prompt) for one in [*setting.train, *setting.validation]) + setting.config.max_tokens


def served(source: Path, tokenizer: Any, dtype: str, folder: Path) -> str:
    """Write the student of a folder as vLLM has to begin with it: TRL fills in the weights, but neither the size of its
    vocabulary, which `trim` cuts, nor the token that ends an answer. Returns the folder's name.
    """
    made = model.load(source, dtype, "sdpa", None, 0, False)
    trim(made, vocabulary_size(tokenizer))
    model.save(made, tokenizer, folder, dtype)
    return str(folder)


def as_prompts(examples: Sequence[Encoded]) -> Dataset:
    """The columns that OnPolicyTrainer reads: an example's id, and its prompt's token ids."""
    return Dataset.from_dict({"id": [one.id for one in examples], "prompt": [list(one.prompt) for one in examples]})


def given(setting: Setting, theirs: Any) -> dict[str, Any]:
    """What either trainer is called with, but for the arguments and the examples; `theirs` is the teacher's tokenizer.

    Raises ValueError where the teacher has another tokenizer and the recipe does not say so, and the other way round.
    """
    config, tokenizer = setting.config, setting.tokenizer
    same_tokens = config.across is None
    refusals.other_tokenizer(tokenizer, theirs, not same_tokens)
    tokens = longest(setting)
    read = {"student": Path(without_adapter(setting.student).name_or_path)}
    if same_tokens:  # another tokenizer makes more or fewer of them
        read["teacher"] = setting.teacher
    for role, folder in read.items():
        limit = models.positions_in(folder)
        if limit is not None and tokens > limit:
            raise ValueError(
                f"sft.on_policy.max_tokens is {config.max_tokens}; with the longest prompt that makes {tokens} tokens, "
                f"and the {role} has only {limit} positions. Lower it to {config.max_tokens - tokens + limit} or less, "
                f"or sft.max_length, which drops longer prompts."
            )
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end_token_id(tokenizer))  # it ends an answer
    teacher = frozen(setting.teacher, getattr(torch, config.teacher_dtype), "sdpa")
    trim(teacher, vocabulary_size(theirs))
    padding = trim(setting.student, vocabulary_size(tokenizer))
    if config.exec.vllm:
        base = without_adapter(setting.student)
        place = Path(str(setting.shared["output_dir"])) / "served"
        dtype = str(setting.compute_dtype).removeprefix("torch.")
        base.name_or_path = served(Path(base.name_or_path), tokenizer, dtype, place)
    return {
        "plan": setting.plan,
        "padding": padding,
        "compute_dtype": setting.compute_dtype,
        "model": setting.student,
        "teacher_model": teacher,
        "processing_class": tokenizer,
        "callbacks": setting.callbacks,
    }


def build(setting: Setting) -> OnPolicyTrainer:
    """The trainer beside a teacher with the student's tokenizer, ready to train. Raises ValueError as `given` does."""
    return OnPolicyTrainer(
        **given(setting, load_tokenizer(setting.teacher)),
        args=DistillationConfig(**values_of(setting)),
        train_dataset=as_prompts(setting.train),
        eval_dataset=as_prompts(setting.validation) if setting.validation else None,
    )


def figures(history: Sequence[Mapping[str, Any]], begun: int, seconds: float) -> dict[str, Any]:
    """What the log says of the answers; the rate is of the steps after `begun`, which took so many seconds."""
    steps = [(entry["step"], int(entry["answer_tokens"])) for entry in history if "answer_tokens" in entry]
    made = sum(tokens for step, tokens in steps if step > begun)
    return {
        "tokens_per_epoch": None,  # whose lengths are not known before they are written
        "loss_tokens": sum(tokens for _, tokens in steps),
        "padding_share": None,
        "tokens_per_s": made / seconds if made and seconds > 0 else None,
    }
