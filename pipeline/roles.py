"""The models of a run as the recipe declares them: the teacher, the student, and how either is sampled.

It loads nothing: `models.py` finds weights, `engines/` runs them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline.section import Section

EngineName = Literal["vllm", "openai", "replay", "hf"]


class EngineExec(Section):
    """Where and how fast an engine runs; never what it answers. Unset values are chosen from the machine."""

    max_num_seqs: int | None = Field(None, ge=1)  # sequences in flight
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    tensor_parallel_size: int = Field(1, ge=1)  # GPUs of one engine
    max_num_batched_tokens: int | None = Field(None, ge=1)  # of one step, of all sequences together
    replicas: int = Field(1, ge=1)  # engines side by side over one queue, each with GPUs (or cores) of its own
    kv_cache_gib: int | None = Field(None, ge=1)  # CPU build only
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

    @property
    def label(self) -> str:
        """How data names the model: as the recipe does, a path by its last part alone."""
        return Path(self.model).name if self.model.startswith(("/", ".", "~")) else self.model


# The keys of a Role that can change its model's words, but for `model`, whose weights are identity by themselves.
WORDS = ("engine", "prompt", "system", "chat_template", "dtype", "quantization", "max_model_len", "task_prompts")


class Teacher(Role):
    """The model whose reasoning is distilled."""

    thinking: bool = False  # it writes <think> tags by itself


class Student(Role):
    """The model that is trained."""


class Judge(Role):
    """The model that is asked whether a free answer means what the reference says (verifier `judge`)."""

    prompt: str = "judge"
    thinking: bool = False  # it writes <think> tags by itself: its verdict stands after them
    sampling: Sampling = Sampling(temperature=0.0, top_p=1.0)
    max_tokens: int = Field(512, ge=16)  # of one opinion, reasoning included


def thinkers(teachers: Mapping[str, Teacher]) -> dict[str, bool]:
    """Whether a teacher thinks by itself, by the label that its traces carry.

    Raises ValueError where two teachers of one label differ: their traces could not be told apart.
    """
    found: dict[str, bool] = {}
    for name, teacher in teachers.items():
        if found.setdefault(teacher.label, teacher.thinking) != teacher.thinking:
            raise ValueError(
                f"found thinking: {str(teacher.thinking).lower()} for {name}, and the other way round for another "
                f"teacher of the same model {teacher.label}; expected the same for both. Give one of them a name of "
                f"its own in data/models.yaml."
            )
    return found
