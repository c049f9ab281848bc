"""The models of a run as the recipe declares them: the teacher, the student, and how either is sampled.

It loads nothing: `models.py` finds weights, `engines/` runs them.
"""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.section import Section

EngineName = Literal["vllm", "openai", "replay", "hf"]
# Engines that run here: they are given token ids and a seed. A server applies its own chat template and keeps its seed.
LOCAL = ("vllm", "hf")


class Speculative(Section):
    """Tokens that something cheaper guesses, and the model checks several at a time: sooner, and drawn no otherwise.

    Field by field vLLM's own `speculative_config`.
    """

    method: Literal["ngram", "draft_model", "eagle", "eagle3"]  # ngram: what followed the same words before
    model: str | None = None  # the guessing one, named as `teacher.model` is; ngram has none
    num_speculative_tokens: int = Field(4, ge=1, le=128)  # guessed in one step
    prompt_lookup_min: int = Field(2, ge=1)  # ngram only: tokens that must have stood there before, at least
    prompt_lookup_max: int = Field(4, ge=1)  # and at most

    @model_validator(mode="after")
    def _fitting(self) -> "Speculative":
        if self.method == "ngram" and self.model is not None:
            raise ValueError(
                f"method is ngram, which guesses from the words so far, and model is {self.model!r}. Unset model, or "
                f"set method: draft_model"
            )
        if self.method != "ngram" and self.model is None:
            raise ValueError(f"method {self.method} needs model, the one that guesses. Set it, or take method: ngram")
        if self.prompt_lookup_min > self.prompt_lookup_max:
            raise ValueError(
                f"prompt_lookup_min is {self.prompt_lookup_min}, above prompt_lookup_max ({self.prompt_lookup_max}). "
                f"Lower it, or raise the other"
            )
        return self


class EngineExec(Section):
    """Where and how fast an engine runs; never what it answers. Unset values are chosen from the machine."""

    max_num_seqs: int | None = Field(None, ge=1)  # sequences in flight
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    tensor_parallel_size: int = Field(1, ge=1)  # GPUs of one engine
    max_num_batched_tokens: int | None = Field(None, ge=1)  # of one step, of all sequences together
    replicas: int = Field(1, ge=1)  # engines side by side over one queue, each with GPUs (or cores) of its own
    kv_cache_gib: int | None = Field(None, ge=1)  # CPU build only
    speculative: Speculative | None = None  # vllm only; null: one token a step
    base_urls: tuple[str, ...] = ()  # of OpenAI-compatible servers, ending in /v1
    api_key_variable: str = "OPENAI_API_KEY"  # the environment variable that holds the key; the key never stands here
    concurrency: int = Field(16, ge=1)  # requests in flight to servers
    timeout_s: float = Field(600.0, gt=0)  # of one request to a server, from connecting to its last byte
    delay_s: float = Field(0.0, ge=0)  # replay only: pause before each answer

    @model_validator(mode="before")
    @classmethod
    def _one_engine_a_process(cls, values: Any) -> Any:
        if isinstance(values, dict) and "data_parallel_size" in values:
            raise ValueError(
                "vLLM refuses data_parallel_size in one process. Set replicas to the number of engines: each gets a "
                "process and GPUs of its own, and all work on one queue"
            )
        return values


class Sampling(Section):
    """Every value that shapes the next token. All of them are sent explicitly and enter a trace's id."""

    temperature: float = Field(0.6, ge=0)
    top_p: float = Field(0.95, gt=0, le=1)
    top_k: int = Field(0, ge=0)  # 0: no limit
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0)
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_tokens: int = Field(0, ge=0)
    stop: tuple[str, ...] = ()  # strings that end a completion; not part of its text


class Role(Section):
    """A model and all about it that could change its words."""

    model: str  # a name in data/models.yaml, a hub id, or a path; replay: a JSONL file of canned answers
    engine: EngineName = "vllm"
    prompt: str = "question"  # a template in prompts/, without its ending
    task_prompts: dict[str, str] = {}  # task -> a template for its problems, in place of `prompt`
    system: str | None = None  # a template in prompts/ for the system message; null: what the chat template does alone
    chat_template: str | None = None  # a template in prompts/chat/; null: the model's own
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "bfloat16"
    quantization: str | None = None  # as vLLM names it
    max_model_len: int = Field(2048, ge=16)  # tokens of prompt and completion together
    exec: EngineExec = EngineExec()

    @model_validator(mode="after")
    def _speculates_where_it_can(self) -> "Role":
        if self.exec.speculative is not None and self.engine != "vllm":
            raise ValueError(
                f"exec.speculative is set with engine {self.engine}; only vllm is told by us what to guess with. Unset "
                f"it (a server has options of its own), or set engine: vllm"
            )
        return self

    @model_validator(mode="after")
    def _formats_where_it_can(self) -> "Role":
        if self.chat_template is not None and self.engine not in LOCAL:
            raise ValueError(
                f"chat_template is {self.chat_template!r} with engine {self.engine}, which applies none of ours. Unset "
                f"it, or use engine {' or '.join(LOCAL)}"
            )
        return self

    @property
    def label(self) -> str:
        """How data names the model: as the recipe does, a path by its last part alone."""
        return label_of(self.model)


# The keys of a Role that can change its model's words, but for `model`, whose weights are identity by themselves. Where
# data names the model too, `label` is one more.
WORDS = ("engine", "prompt", "system", "chat_template", "dtype", "quantization", "max_model_len", "task_prompts")


class Teacher(Role):
    """The model whose reasoning is distilled."""

    later: ClassVar[frozenset[str]] = frozenset({"thinking_budget"})

    thinking: bool = False  # it writes <think> tags by itself
    # Tokens of reasoning, after which the closing tag is put in for it (vllm only); null: as long as it likes.
    thinking_budget: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _budget_that_is_kept(self) -> "Teacher":
        if self.thinking_budget is None:
            return self
        if not self.thinking:
            raise ValueError(
                f"thinking_budget is {self.thinking_budget} with thinking: false, and a teacher without thinking has "
                f"no reasoning of its own to close. Set thinking: true where it writes think tags, or unset the budget"
            )
        if self.engine != "vllm":
            raise ValueError(
                f"thinking_budget is {self.thinking_budget} with engine {self.engine}, which does not keep one: a "
                f"server that does not know the option leaves it out in silence. Set engine: vllm, or unset the budget"
            )
        if self.exec.speculative is not None:
            # vLLM 0.32 moves on its count by tokens that were guessed and then refused.
            raise ValueError(
                f"thinking_budget is {self.thinking_budget} with exec.speculative, and where a guess is refused vLLM "
                f"loses count: it closes the reasoning late, or twice. Unset one of them"
            )
        return self


class Student(Role):
    """The model that is trained: one as it is, or one made from a model's own layers and embeddings.

    `from: teacher` stands for the model of that teacher. The untouched student that is examined is the made one.
    """

    model: str = ""
    source: str | None = Field(None, alias="from")  # "teacher", or one of more_teachers; in place of model
    # Which layers stay, by number from 0, or how many, evenly spaced with the first and the last; null: all.
    layers: int | tuple[int, ...] | None = None
    # The think tags become a token each, its embedding the mean of its pieces'; where they are tokens, they stay so.
    think_tokens: bool = False

    @property
    def made(self) -> bool:
        """Whether it is made from a model rather than being one as it is."""
        return self.layers is not None or self.think_tokens

    @model_validator(mode="after")
    def _one_origin(self) -> "Student":
        if bool(self.model) == bool(self.source):
            raise ValueError(
                f"found model {self.model!r} and from {self.source!r}; expected one of them. Name a model, or set "
                f"from: teacher"
            )
        return self

    @field_validator("layers")
    @classmethod
    def _rising(cls, layers: int | tuple[int, ...] | None) -> int | tuple[int, ...] | None:
        if layers is None:
            return None
        numbers = (layers - 1,) if isinstance(layers, int) else layers
        if not numbers or any(after <= before for before, after in pairwise((-1, *numbers))):
            raise ValueError(
                "expected a number of layers from 1 on, or the numbers of those that stay, from 0 on, rising, each "
                "once, such as [0, 2, 4]"
            )
        return layers


class Peer(Student):
    """A second student, that teaches the first while both are trained (objective `mutual`)."""


class Judge(Role):
    """The model that is asked whether a free answer means what the reference says (verifier `judge`)."""

    prompt: str = "judge"
    thinking: bool = False  # it writes <think> tags by itself: its verdict stands after them
    sampling: Sampling = Sampling(temperature=0.0, top_p=1.0)
    max_tokens: int = Field(512, ge=16)  # of one opinion, reasoning included


def label_of(model: str) -> str:
    """How data names a model by what a recipe calls it: see `Role.label`."""
    return Path(model).name if model.startswith(("/", ".", "~")) else model


def thinking_budget(role: Role) -> int | None:
    """Tokens of reasoning that a role may spend on an answer; None: without a limit of its own."""
    return role.thinking_budget if isinstance(role, Teacher) else None


def thinkers(teachers: Mapping[str, Teacher]) -> dict[str, bool]:
    """Whether a teacher thinks by itself, by the label that its traces carry.

    Raises ValueError where two teachers of one label are different models, or one of them thinks and the other does
    not: their traces could not be told apart.
    """
    found: dict[str, tuple[str, Teacher]] = {}
    for name, teacher in teachers.items():
        other, first = found.setdefault(teacher.label, (name, teacher))
        if first.model != teacher.model:
            raise ValueError(
                f"found {first.model} for {other} and {teacher.model} for {name}, and traces name them both "
                f"{teacher.label}; expected a name for each. Give one of them a name of its own in data/models.yaml."
            )
        if first.thinking != teacher.thinking:
            raise ValueError(
                f"found thinking: {str(teacher.thinking).lower()} for {name}, and the other way round for {other}, a "
                f"teacher of the same model {teacher.label}; expected the same for both. Give one of them a name of "
                f"its own in data/models.yaml."
            )
    return {label: teacher.thinking for label, (_, teacher) in found.items()}
