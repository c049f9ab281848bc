"""The loss of feature distillation: runs student and teacher over a batch, and weighs the terms of `terms.py`.

It chooses and loads no teacher (`features.py` does).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from pipeline.objectives import IGNORED, Context, Loss, Objective, forward, live, terms
from pipeline.objectives.features import Config
from pipeline.objectives.forward import States

_HIDDEN: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"cosine": terms.hidden_cosine, "mse": terms.hidden_mse}
_ATTENTION = {"kl": terms.attention_kl, "mse": terms.attention_mse}
_RELATIONS = {"distance": terms.distance_relations, "similarity": terms.similarity_relations}


class Features(Objective):
    """The weighted terms of one training. Each is a mean, and a batch counts by its learnt tokens.

    Raises ValueError where the teacher's layers, heads or logits do not fit what the config asks for.
    """

    def __init__(self, config: Config, teacher: Any, context: Context) -> None:
        self.config, self.teacher, self.compute_dtype = config, teacher, context.compute_dtype
        self.vocabulary = len(context.tokenizer)
        ours, theirs = context.student.config.get_text_config(), teacher.config.get_text_config()
        depths = ours.num_hidden_layers, theirs.num_hidden_layers
        if config.logits.weight:
            forward.refuse_changed_logits(teacher)
        self.hidden_pairs = terms.layer_pairs(config.hidden.layers, *depths) if config.hidden.weight else []
        self.attention_pairs = terms.layer_pairs(config.attention.layers, *depths) if config.attention.weight else []
        heads = ours.num_attention_heads, theirs.num_attention_heads
        if self.attention_pairs and config.attention.heads == "each" and heads[0] != heads[1]:
            raise ValueError(
                f"found {heads[0]} attention heads in the student and {heads[1]} in the teacher, with "
                f"sft.features.attention.heads: each; expected as many in both. Set it to average, which compares the "
                f"mean over all heads."
            )
        self.projections = _projections(len(self.hidden_pairs), ours.hidden_size, theirs.hidden_size, context.seed)

    def modules(self) -> Mapping[str, nn.Module]:
        """The linear maps of the student's hidden states, where widths differ."""
        return {"projections": self.projections} if len(self.projections) else {}

    def loss(self, model: Any, batch: Mapping[str, Any], moment: float) -> Loss:
        """See `Objective.loss`."""
        layers = bool(self.hidden_pairs) or self.config.relations.weight > 0
        attentions = bool(self.attention_pairs)
        targets = forward.targets(batch)
        count = len(targets)
        with torch.no_grad():
            self.teacher.to(targets.device)
            shown = forward.states(self.teacher, batch, self.compute_dtype, None, layers, attentions)
        toward = self._of_tokens(targets, shown)
        found = forward.states(model, batch, self.compute_dtype, toward, layers, attentions)
        total, figures = found.total, {} if toward is None else dict(toward.sums)
        for name, weight, value in self._of_states(found, shown, self._positions(batch)):
            total = total + weight * count * value
            figures[name] = count * value.detach()
        return Loss(total, count, {name: (value, count) for name, value in figures.items()})

    def _positions(self, batch: Mapping[str, Any]) -> Tensor:
        """[rows, longest] bool: where states are compared."""
        if self.config.positions == "all":
            there: Tensor = batch["attention_mask"].bool()
            return there
        return pad(batch["labels"][:, 1:] != IGNORED, (0, 1))

    def _of_tokens(self, targets: Tensor, shown: States) -> live.Toward | None:
        """The loss of the tokens and of the teacher's distributions; None where neither is a term."""
        hard, logits = self.config.cross_entropy_weight, self.config.logits
        if not hard and not logits.weight:
            return None
        other = live.Other(self.teacher, shown.hidden, self.compute_dtype) if logits.weight else None
        return live.Toward(targets, other, hard, logits.weight, logits.temperature, self.vocabulary)

    def _of_states(self, found: States, shown: States, positions: Tensor) -> Iterable[tuple[str, float, Tensor]]:
        """(name, weight, value) of the terms of inner states."""
        if self.hidden_pairs:
            yield "hidden", self.config.hidden.weight, self._hidden(found, shown, positions)
        if self.attention_pairs:
            yield "attention", self.config.attention.weight, self._attention(found, shown, positions)
        if self.config.relations.weight:
            ours, theirs = (terms.sequence_means(_given(one.layers)[-1], positions) for one in (found, shown))
            yield "relations", self.config.relations.weight, _RELATIONS[self.config.relations.kind](ours, theirs)

    def _hidden(self, found: States, shown: States, positions: Tensor) -> Tensor:
        compare, values = _HIDDEN[self.config.hidden.loss], []
        for number, (layer, of_teacher) in enumerate(self.hidden_pairs):
            # The first hidden state is the embedding, before any layer.
            ours = _given(found.layers)[layer + 1][positions].float()
            ours = self.projections[number](ours) if len(self.projections) else ours
            values.append(compare(ours, _given(shown.layers)[of_teacher + 1][positions]))
        return torch.stack(values).mean()

    def _attention(self, found: States, shown: States, positions: Tensor) -> Tensor:
        compare, values = _ATTENTION[self.config.attention.loss], []
        for layer, of_teacher in self.attention_pairs:
            ours = _given(found.attentions)[layer].transpose(1, 2)[positions].float()
            theirs = _given(shown.attentions)[of_teacher].transpose(1, 2)[positions].float()
            if self.config.attention.heads == "average":
                ours, theirs = ours.mean(1, keepdim=True), theirs.mean(1, keepdim=True)
            values.append(compare(ours, theirs))
        return torch.stack(values).mean()


def _given(states: tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
    """States that were asked for. Raises ValueError for a model that hands none out."""
    if not states:
        raise ValueError(
            "found a model that hands out no inner states; expected one of the Llama or Qwen class. Choose another "
            "student.model or teacher.model, or set the weights of sft.features that need them to 0."
        )
    return states


def _projections(count: int, width: int, onto: int, seed: int) -> nn.ModuleList:
    """A linear map for each pair of layers, drawn from a seed so that lengths stay about as they are; none where widths
    are equal.
    """
    generator = torch.Generator().manual_seed(seed)
    made = nn.ModuleList()
    for _ in range(count if width != onto else 0):
        linear = nn.Linear(width, onto, bias=False)
        nn.init.normal_(linear.weight, std=width**-0.5, generator=generator)
        made.append(linear)
    return made
