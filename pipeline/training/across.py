"""GOLD, TRL's experimental trainer across tokenizers, asked as this project asks (`on_policy.py` says what is shared).

It aligns no tokens itself: TRL does, by the bytes that both sides' tokens end at.
"""

import os
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # a test pins what is used of it

from trl.experimental.gold import GOLDConfig, GOLDTrainer

from pipeline.objectives import IGNORED
from pipeline.objectives.vocabulary import vocabulary
from pipeline.templates import decode, load_tokenizer, prompt_ids, render
from pipeline.training.encode import Encoded
from pipeline.training.on_policy import OnPolicy, Padding, Setting, given, values_of
from pipeline.training.trainer import Plan


class AcrossTrainer(OnPolicy, GOLDTrainer):
    """GOLDTrainer that asks the student the prompts it is given, and the teacher the same turns in its own template.

    TRL's own shows the teacher the student's template, and the student's end token as text.
    """

    def __init__(self, plan: Plan, padding: Padding, compute_dtype: torch.dtype, **kwargs: Any) -> None:
        self.plan, self.padding, self.compute_dtype = plan, padding, compute_dtype
        super().__init__(**kwargs)
        self.remove_callback(PrinterCallback)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        self.asked = generation_batch["ids"]
        return super()._prepare_inputs(generation_batch)

    def _fill_buffer(self, generation_batch: Any, buffer_steps: int) -> None:
        with self.answering():
            super()._fill_buffer(generation_batch, buffer_steps)
        made: list[dict[str, Any]] = self._buffered_inputs  # type: ignore[assignment]
        self.answered = sum(int((part["labels"] != IGNORED).sum()) for part in made)
        for part in made:
            part["original_prompt_text"] = part["teacher_prompts"]
            part["original_completion_text"] = [self._without_end(text) for text in part["original_completion_text"]]
            places = part["byte_offsets"]
            ended = part["labels"] == self._tokenizer.eos_token_id
            places[..., 1] = torch.where(ended, places[..., 0], places[..., 1])  # an end takes up no bytes

    def _without_end(self, text: str) -> str:
        return text.removesuffix(str(self._tokenizer.eos_token))


def build(setting: Setting) -> AcrossTrainer:
    """The trainer beside a teacher with another tokenizer, ready to train. Raises ValueError as `given` does."""
    config = setting.config
    assert config.across is not None
    pad = setting.plan.pad_token_id
    theirs = load_tokenizer(setting.teacher)
    return AcrossTrainer(
        **given(setting, theirs),
        args=GOLDConfig(
            **values_of(setting),
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            lmbda=config.across.on_policy_share,
            use_uld_loss=True,
            use_extended_uld=True,
            uld_skip_student_eos=False,  # where to stop is taught too
            uld_skip_teacher_eos=False,
            uld_use_hybrid_loss=config.across.hybrid,
            uld_token_merge_strategy=config.across.merge,
            uld_student_temperature=config.temperature,
            uld_teacher_temperature=config.temperature,
            teacher_tokenizer_name_or_path=str(setting.teacher),
        ),
        data_collator=lambda rows: collate_pairs(rows, pad),
        train_dataset=as_pairs(setting.train, setting.tokenizer, theirs),
        eval_dataset=as_pairs(setting.validation, setting.tokenizer, theirs) if setting.validation else None,
    )


def as_pairs(examples: Sequence[Encoded], tokenizer: Any, teacher: Any) -> Dataset:
    """The columns that `collate_pairs` reads: ids, tokens and byte offsets for the student, text for the teacher.

    Raises ValueError where the teacher's tokenizer would not give its own prompt the tokens it is generated with.
    """
    rows, lengths = [], vocabulary(tokenizer).lengths.tolist()
    for one in examples:
        said = list(one.completion[: len(one.completion) - one.ended])
        ends = [0, *accumulate(lengths[token] for token in said)]
        end = [[ends[-1], ends[-1]]] if one.ended else []
        rows.append(
            {
                "id": one.id,
                "input_ids": one.input_ids,
                "labels": one.labels,
                "prompt_length": len(one.prompt),
                "teacher_prompt": teacher_text(teacher, one),
                "completion_text": decode(tokenizer, said),
                "offsets": [*map(list, pairwise(ends)), *end],
            }
        )
    return Dataset.from_list(rows)


def teacher_text(teacher: Any, example: Encoded) -> str:
    """What a teacher with another tokenizer is asked: the example's turns in its own template.

    GOLD tokenises the text once more and lets the tokenizer add its opening token, so that one is left out here.
    """
    text = render(teacher, example.messages)
    added = teacher("", add_special_tokens=True)["input_ids"]
    if added and text.startswith(str(teacher.bos_token)) and added[0] == teacher.bos_token_id:
        text = text.removeprefix(str(teacher.bos_token))
    if list(teacher(text, add_special_tokens=True)["input_ids"]) != prompt_ids(teacher, example.messages):
        raise ValueError(
            f"the teacher's tokenizer does not give the prompt of {example.id} the tokens that its own template does; "
            f"expected the same, or it would be asked something else. Name another teacher."
        )
    return text


def collate_pairs(rows: Sequence[Mapping[str, Any]], pad_token_id: int) -> dict[str, Any]:
    """A batch as GOLD wants it: sequences padded right, prompts padded left, and the teacher's text beside them."""

    def padded(parts: Sequence[Any], value: int, left: bool = False) -> torch.Tensor:
        tensors = [torch.as_tensor(part, dtype=torch.long) for part in parts]
        side = "left" if left else "right"
        return torch.nn.utils.rnn.pad_sequence(tensors, True, value, padding_side=side)

    prompts = [row["input_ids"][: row["prompt_length"]] for row in rows]
    offsets = [[[0, 0]] * row["prompt_length"] + row["offsets"] for row in rows]
    return {
        "input_ids": padded([row["input_ids"] for row in rows], pad_token_id),
        "attention_mask": padded([[1] * len(row["input_ids"]) for row in rows], 0),
        "labels": padded([row["labels"] for row in rows], IGNORED),
        "prompts": padded(prompts, pad_token_id, left=True),
        "prompt_attention_mask": padded([[1] * len(prompt) for prompt in prompts], 0, left=True),
        "byte_offsets": padded(offsets, 0),
        "original_prompt_text": [row["teacher_prompt"] for row in rows],
        "original_completion_text": [row["completion_text"] for row in rows],
        "teacher_prompts": [row["teacher_prompt"] for row in rows],
        "ids": [row["id"] for row in rows],
    }
