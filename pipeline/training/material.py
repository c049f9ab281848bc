"""What a student is trained on: examples in tokens, their audit, and the batches they come in.

It reads no dataset, and refuses nothing: `audit.faults` says what is wrong with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.training import audit as audits
from pipeline.training import batches
from pipeline.training.encode import Encoded, LeftOut, encode
from pipeline.training.options import Options


@dataclass(frozen=True)
class Material:
    """What is trained on, in tokens and in batches."""

    train: list[Encoded]
    validation: list[Encoded]
    left_out: list[LeftOut]
    audit: audits.Audit
    train_batches: list[list[int]]
    validation_batches: list[list[int]]
    places: list[float] | None = None  # of the examples to train on in the order that mix declares, where it does
    targets: Path | None = None  # where the soft targets of the examples lie, for an objective that learns them


def prepare(
    options: Options, tokenizer: Any, rows: Sequence[Mapping[str, Any]], system: str | None, packed: bool = False
) -> Material:
    """Encode, audit and batch the examples. Rows are taken by id, so that no layout of shards changes the result."""
    ordered = sorted(rows, key=lambda row: str(row["id"]))
    own = options.on_policy
    # Where the student answers by itself, a prompt is asked whatever the length of its trace.
    asked, asked_last = own is not None and own.answers_alone, own is not None and own.across is None
    to_train, to_validate = ([row for row in ordered if (row["split"] == "train") is first] for first in (True, False))
    train, longer, dropped = encode(tokenizer, to_train, options.max_length, prompts_alone=asked)
    validation, _, missed = encode(tokenizer, to_validate, options.max_length, prompts_alone=asked_last)
    count, repeated = options.batch_examples if own is None else own.prompts_per_step, list[LeftOut]()
    if asked:
        (train, repeated), (validation, _) = asked_once(train), asked_once(validation)
    lengths = [len(one.prompt) if asked else one.length for one in train]
    places = places_of(train, ordered)
    of_epoch = partial(
        batches.epoch_batches,
        lengths,
        options.batch_tokens,
        options.seed,
        pool_batches=options.pool_batches,
        batch_examples=count,
        places=places,
    )
    if options.loss_tokens is None:
        train_batches = [batch for epoch in range(options.epochs) for batch in of_epoch(epoch)]
    else:
        train_batches = batches.within(of_epoch, [len(one.completion) for one in train], options.loss_tokens)
    known = own is None and not packed  # answers have yet to be written, and what is packed needs no padding
    wasted = batches.padding_share(in_parts(options, train_batches, lengths), lengths) if known else 0.0
    return Material(
        train=train,
        validation=validation,
        left_out=[*dropped, *missed, *repeated],
        audit=audits.audit(tokenizer, train, longer, options.max_length, system, wasted),
        train_batches=train_batches,
        validation_batches=batches.epoch_batches(
            [len(one.prompt) if asked_last else one.length for one in validation],
            options.batch_tokens,
            options.seed,
            0,
            len(validation) + 1,
            None if own is None else count,
        ),
        places=places,
    )


def asked_once(examples: Sequence[Encoded]) -> tuple[list[Encoded], list[LeftOut]]:
    """The first example of each prompt, and the others: whoever answers prompts himself needs each of them once."""
    first: dict[tuple[int, ...], Encoded] = {}
    for example in examples:
        first.setdefault(tuple(example.prompt), example)
    kept = {example.id for example in first.values()}
    others = [LeftOut(one.id, "prompt_repeated", one.length) for one in examples if one.id not in kept]
    return list(first.values()), others


def in_parts(options: Options, planned: Sequence[list[int]], lengths: Sequence[int]) -> list[list[int]]:
    """The parts of all batches, padded."""
    return [part for batch in planned for part in batches.parts(batch, lengths, options.batch_tokens)]


def places_of(examples: Sequence[Encoded], rows: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """The place of each example in the order that mix declares; None where it declares none."""
    places = {row["id"]: row.get("place") for row in rows}
    found = [place for one in examples if (place := places[one.id]) is not None]
    return found if len(found) == len(examples) else None
