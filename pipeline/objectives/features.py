"""Feature distillation: a student takes over hidden states, attention and relations of a live, frozen teacher.

How they are compared is in `inner_states.py`. It stores nothing of the teacher and maps no tokens: both models read the
same token ids, so they need one vocabulary.
"""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.objectives import Context, Objective
from pipeline.section import Section

# Which of the student's layers follow which of the teacher's: [student's, teacher's] pairs, counted from 0.
Layers = Literal["uniform", "last"] | tuple[tuple[int, int], ...]


class Logits(Section):
    """The teacher's whole next-token distributions (Hinton et al., arXiv 1503.02531)."""

    weight: float = Field(0.0, ge=0)  # 0: not a term
    temperature: float = Field(2.0, gt=0)  # divides both models' logits


class Hidden(Section):
    """Hidden states after layers; through a linear map, trained with the student, where the models' widths differ."""

    weight: float = Field(1.0, ge=0)  # 0: not a term
    loss: Literal["cosine", "mse"] = "cosine"  # of their direction (DistilBERT), or of their values (TinyBERT)
    layers: Layers = "uniform"  # spread over the teacher's depth, its last alone, or pairs


class Attention(Section):
    """What each position looks at; sft.exec.attention is eager for it."""

    weight: float = Field(0.0, ge=0)  # 0: not a term
    loss: Literal["kl", "mse"] = "kl"  # of the distributions (MiniLM), or of their values (TinyBERT)
    layers: Layers = "last"  # as for hidden
    heads: Literal["each", "average"] = "each"  # head by head, for models with as many; or the mean over all heads


class Relations(Section):
    """How sequences that go through the student together lie to each other, by their mean last hidden state."""

    weight: float = Field(0.0, ge=0)  # 0: not a term
    kind: Literal["distance", "similarity"] = "distance"  # Relational KD, or similarity-preserving KD


class Config(Section):
    """What a student takes over from the teacher, each term with its weight."""

    cross_entropy_weight: float = Field(1.0, ge=0)  # of the traces' own tokens
    logits: Logits = Logits()
    hidden: Hidden = Hidden()
    attention: Attention = Attention()
    relations: Relations = Relations()
    positions: Literal["learnt", "all"] = "learnt"  # of states that are compared: where a token is learnt, or all

    @model_validator(mode="after")
    def _takes_something_over(self) -> "Config":
        if not any(term.weight for term in (self.logits, self.hidden, self.attention, self.relations)):
            raise ValueError(
                "logits, hidden, attention and relations all have weight 0, so nothing is taken over from the teacher. "
                "Give one of them a weight, or set sft.objective: sft"
            )
        return self


def make(config: Config, context: Context) -> Objective:
    """The objective for one training, with the teacher in memory, in the dtype that is computed in.

    Raises ValueError for a teacher of another vocabulary, and where layers or heads do not fit.
    """
    from pipeline.objectives import companion
    from pipeline.objectives.inner_states import Features

    folder = context.folder("teacher")
    companion.refuse_other_vocabulary(context.tokenizer, folder, "teacher")
    return Features(config, companion.frozen(folder, context.compute_dtype, context.attention), context)
