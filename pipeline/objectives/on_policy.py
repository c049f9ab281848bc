"""On policy: the student answers, and learns at each of its own tokens what the teacher would have said next.

GKD (Agarwal et al. 2024, arXiv 2306.13649) where both have one tokenizer, GOLD (Patino et al. 2025, Hugging Face) where
they do not. It is no loss over given tokens, so nothing is made here: TRL's own trainers train it, by way of
`training/on_policy.py`.
"""

from typing import Literal

from pydantic import Field

from pipeline.section import Section


class OnPolicyExec(Section):
    """Where the student's answers are written; never what."""

    vllm: bool = False  # by vLLM beside the trainer, on its GPU; else by transformers
    gpu_memory_share: float = Field(0.3, gt=0, lt=1)  # of the GPU, for vLLM


class Across(Section):
    """How a teacher with another tokenizer is compared: where both tokenizers end a token at the same byte."""

    # Tokens that both vocabularies have are compared one by one (beta), the others by their sorted masses; false: all
    # by their sorted masses.
    hybrid: bool = True
    # Of a group of tokens that one token of the other side covers: the distribution behind the group's first ones, by
    # the chain rule (bayesian); or TRL's default (observed), which leaves out what predicts an answer's first token.
    merge: Literal["bayesian", "observed"] = "bayesian"
    on_policy_share: float = Field(1.0, ge=0, le=1)  # of the steps (GKD's lambda); the others learn on the traces


class Config(Section):
    """How the student learns from the recipe's teacher, alive, on its own answers to the training examples' prompts."""

    across: Across | None = None  # for a teacher with another tokenizer; null: one with the student's own
    beta: float = Field(1.0, ge=0, le=1)  # 0: forward KL, which covers; 1: reverse KL, which seeks modes; between: JSD
    temperature: float = Field(1.0, gt=0)  # of the answers, and of both distributions
    top_p: float = Field(1.0, gt=0, le=1)  # of the answers
    top_k: int = Field(0, ge=0)  # of the answers; 0: no limit
    max_tokens: int = Field(512, ge=1)  # of one answer
    prompts_per_step: int = Field(8, ge=1)  # answers of one optimizer step
    teacher_dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of the frozen teacher
    exec: OnPolicyExec = OnPolicyExec()

    @property
    def answers_alone(self) -> bool:
        """Whether it learns on its own answers only, and never on a trace."""
        return self.across is None or self.across.on_policy_share == 1.0
