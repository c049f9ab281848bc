"""A teacher's soft labels on a student's tokens: what the teacher said at the bytes that a student's token covers.

It reads no labels, encodes no text and computes no loss. Places are bytes of UTF-8, not characters: a token may hold
half of one.

A student's token is covered where the teacher had a token of exactly the same bytes at the same place of what it
wrote. Where two tokens only begin together, the teacher's distribution is over another way of cutting the text, and
the student's token keeps its hard target. So do tokens with inserted text in them, tokens across the border of two
spans, and text that is copied again: there the student has read more than the teacher had written. White space that a
layout trims, and tags that it inserts, are the only other differences in what the two have read.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.objectives.vocabulary import Vocabulary
from pipeline.soft_labels import SoftLabels

UNUSED = -1  # the id of an entry without candidate
_NOWHERE = -(1 << 40)  # a place that no token begins at

Ids = npt.NDArray[np.int32]
Masses = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Targets:
    """Soft targets of the S tokens of a completion, its end token included, in the student's vocabulary.

    covered [S] bool: where there is a distribution; elsewhere only the token itself is to be learnt. ids [S, k] int32:
    the candidates, each once, UNUSED between and after them. logprobs [S, k] float32: natural logarithms, -inf where
    unused. tail [S] float32: the mass of all tokens that are no candidates (1 where not covered), so that the
    candidates' masses and the tail add up to 1.
    """

    covered: npt.NDArray[np.bool_]
    ids: Ids
    logprobs: Masses
    tail: Masses


def uncovered(tokens: int, k: int) -> Targets:
    """Targets of so many tokens, none of them covered."""
    return Targets(
        np.zeros(tokens, np.bool_),
        np.full((tokens, k), UNUSED, np.int32),
        np.full((tokens, k), -np.inf, np.float32),
        np.ones(tokens, np.float32),
    )


@dataclass(frozen=True, eq=False)
class Bridge:
    """From one tokenizer to another. to_student [teacher's ids + 1] int32: the student's id, UNUSED without one.

    shared [teacher's ids + 1] bool: ids that become a student's id together with others. The last entry of both stands
    for all ids above the teacher's tokens, which a padded model may name.
    """

    teacher: Vocabulary
    student: Vocabulary
    to_student: Ids
    shared: npt.NDArray[np.bool_]
    teacher_ends: frozenset[int]
    student_end: int


def bridge(teacher: Vocabulary, student: Vocabulary, teacher_ends: Collection[int], student_end: int) -> Bridge:
    """Map each of the teacher's tokens to the student's token of the same bytes, where there is one.

    Each token that ends a reply of the teacher's becomes the one that ends a reply of the student's: both say that
    nothing follows. Other special tokens steer the model they were made for and have no counterpart, unless both
    vocabularies are the same: then each id is itself. Of the student's tokens with the same bytes the text is encoded
    with the one that is no fallback, or the lower one. To be made once for a pair of tokenizers. Raises ValueError for
    an end token outside the vocabulary it is of.
    """
    for end, known, owner in [*((end, teacher, "teacher") for end in teacher_ends), (student_end, student, "student")]:
        if not 0 <= end < len(known.tokens):
            raise ValueError(
                f"the {owner}'s end token is {end}, and its vocabulary has ids up to {len(known.tokens) - 1}; expected "
                f"one of them. Take the end token from the same tokenizer as the vocabulary."
            )
    to_student = np.full(len(teacher.tokens) + 1, UNUSED, np.int32)
    if teacher.same(student):
        to_student[:-1] = np.arange(len(teacher.tokens))
    else:
        by_bytes = _by_bytes(student)
        to_student[:-1] = [by_bytes.get(token, UNUSED) for token in teacher.tokens]
        to_student[:-1][teacher.special] = UNUSED
    to_student[sorted(teacher_ends)] = student_end
    times = np.bincount(to_student[to_student != UNUSED], minlength=len(student.tokens))
    shared = (to_student != UNUSED) & (times[to_student] > 1)
    return Bridge(teacher, student, to_student, shared, frozenset(teacher_ends), student_end)


def _by_bytes(known: Vocabulary) -> dict[bytes, int]:
    """The id that a text of these bytes is encoded with, of tokens that are text."""
    text = ~known.special & (known.lengths > 0)
    fallback, proper = np.flatnonzero(text & known.fallback), np.flatnonzero(text & ~known.fallback)
    # What is written last stays.
    return {known.tokens[each]: each for each in [*fallback[::-1].tolist(), *proper[::-1].tolist()]}


def align(
    bridge: Bridge,
    labels: SoftLabels,
    raw: str,
    finish: str,
    spans: Sequence[Mapping[str, Any]],
    completion: Sequence[int],
    trace_id: str,
    ended: bool = True,
) -> Targets:
    """The targets of a training completion's tokens, from the labels of the trace that it was laid out from.

    raw, finish and trace_id are the trace's (`records.TRACE`), spans say how the completion was made of raw
    (`think.lay_out`), completion holds the student's token ids of it, the end token last where it has `ended`.

    A candidate without counterpart leaves its mass to the tail; candidates that become the same token add up. The end
    token is covered where the teacher ended its reply itself (finish is stop, its last token is one of its end tokens)
    and the student's text ends where the teacher's did: after white space that the layout trimmed the teacher's word
    on ending is about another text. A text that the student's tokenizer changes (it normalises, or lacks a byte) is
    covered up to its first change and from its last one on; one in which the teacher's own bytes made no characters
    not at all.

    Raises ValueError, naming the trace, where the labels' tokens do not make its text, and where a completion that has
    ended does not end with the student's end token.
    """
    if ended and (not len(completion) or completion[-1] != bridge.student_end):
        raise ValueError(
            f"the student's tokens of trace {trace_id} end with {list(completion[-1:])}; expected its end token, "
            f"{bridge.student_end}. Encode the completion with the tokenizer that the bridge was made for."
        )
    targets = uncovered(len(completion), labels.ids.shape[1])
    edges = _edges(bridge, labels.sampled, raw, finish, trace_id)
    if edges is None or not len(labels.sampled):
        return targets
    whole = completion if ended else [*completion, bridge.student_end]
    starts, ends = (places[: len(completion)] for places in _places(bridge, raw, spans, whole))
    rows = np.minimum(np.searchsorted(edges[:-1], starts), len(labels.sampled) - 1)
    same = (edges[rows] == starts) & (edges[rows + 1] == ends)
    same &= bridge.to_student.take(labels.sampled[rows]) == np.asarray(completion)
    targets.covered[:] = same
    _fill(bridge, labels, rows[same], targets)
    return targets


def _fill(bridge: Bridge, labels: SoftLabels, rows: Places, targets: Targets) -> None:
    """Write the labels' rows into the targets' covered positions."""
    of_teacher, logprobs, covered = labels.ids[rows], labels.logprobs[rows], targets.covered
    ids = bridge.to_student.take(of_teacher, mode="clip")
    lost = np.where(ids == UNUSED, logprobs, -np.inf)
    logprobs = np.where(ids == UNUSED, -np.inf, logprobs).astype(np.float32)
    together = bridge.shared.take(of_teacher, mode="clip").sum(axis=1) > 1
    if together.any():
        ids[together], logprobs[together] = summed(ids[together], logprobs[together])
    targets.ids[covered], targets.logprobs[covered] = ids, logprobs
    targets.tail[covered] = labels.tail[rows] + np.exp(lost.astype(np.float64)).sum(axis=1)


def summed(ids: Ids, logprobs: npt.NDArray[Any]) -> tuple[Ids, Masses]:
    """Candidates [rows, k] with those of the same id added up, by rising id, then what is UNUSED."""
    last = np.iinfo(np.int32).max
    keys = np.where(ids == UNUSED, last, ids)
    order = np.argsort(keys, axis=1, kind="stable")
    keys = np.take_along_axis(keys, order, axis=1)
    masses = np.exp(np.take_along_axis(logprobs, order, axis=1).astype(np.float64))
    new = np.ones(keys.shape, np.bool_)
    new[:, 1:] = keys[:, 1:] != keys[:, :-1]
    rows, _ = np.indices(keys.shape)
    groups = np.cumsum(new, axis=1) - 1
    together, total = np.full(keys.shape, last, np.int32), np.zeros(keys.shape)
    together[rows, groups] = keys
    np.add.at(total, (rows, groups), masses)
    with np.errstate(divide="ignore"):
        found = np.where(together == last, -np.inf, np.log(total)).astype(np.float32)
    return np.where(together == last, UNUSED, together).astype(np.int32), found


def _edges(bridge: Bridge, sampled: Ids, raw: str, finish: str, trace_id: str) -> Places | None:
    """Where each of the teacher's tokens begins in the raw text, and where the last one ends. The end token is empty.

    None where the text does not hold the tokens' bytes as they are. Raises ValueError where they are of another text.
    """
    known = bridge.teacher
    if len(sampled) and not 0 <= sampled.min() <= sampled.max() < len(known.tokens):
        raise ValueError(_foreign(trace_id, f"token ids from {sampled.min()} to {sampled.max()}", raw))
    ended = finish == "stop" and len(sampled) > 0 and int(sampled[-1]) in bridge.teacher_ends
    lengths = known.lengths[sampled]
    if ended:
        lengths[-1] = 0
    written, text = known.joined(sampled[: len(sampled) - ended].tolist()), raw.encode()
    lead = int(known.leading_space and not written.startswith(text) and written.startswith(b" " + text))
    if written.startswith(text, lead) and _unshown(written[lead + len(text) :], ended, finish):
        return np.concatenate([[0], np.cumsum(lengths)]) - lead
    decoded = written.decode(errors="replace")
    if "\ufffd" in raw and decoded[lead:].startswith(raw):
        return None
    raise ValueError(_foreign(trace_id, f"tokens of {decoded[:80]!r} ({len(written)} bytes)", raw))


def _unshown(left: bytes, ended: bool, finish: str) -> bool:
    """Whether a trace's text may lack the bytes that its tokens end with: a stop string, or a character cut in two."""
    if not left or (finish == "stop" and not ended):
        return True
    return not left.decode(errors="replace").strip("\ufffd")


def _foreign(trace_id: str, found: str, raw: str) -> str:
    return (
        f"the soft labels of trace {trace_id} are of {found}; expected those of its text, {raw[:80]!r} "
        f"({len(raw.encode())} bytes). They belong to another trace, or to another tokenizer than the teacher's: have "
        f"generate label the traces again."
    )


def _places(
    bridge: Bridge, raw: str, spans: Sequence[Mapping[str, Any]], completion: Sequence[int]
) -> tuple[Places, Places]:
    """Where each of the student's tokens begins and ends in the raw text; it begins _NOWHERE where it was not copied.

    The end token is empty. Copied again is not copied.
    """
    pieces: list[bytes] = []
    shifts: list[int] = []
    reached = 0
    for span in spans:
        copied = span["text"] is None
        piece = raw[span["start"] : span["end"]] if copied else span["text"]
        if not piece:
            continue
        at = sum(map(len, pieces))
        first = copied and span["start"] >= reached
        reached = max(reached, span["end"]) if copied else reached
        pieces.append(piece.encode())
        shifts.append(len(raw[: span["start"]].encode()) - at if first else _NOWHERE)
    starts, ends = _in_text(bridge.student, b"".join(pieces), completion)
    if not pieces:
        return np.full(len(starts), _NOWHERE), ends
    borders = np.cumsum([0, *map(len, pieces)])
    piece_of = np.clip(np.searchsorted(borders[:-1], starts, side="right") - 1, 0, None)
    shift = np.asarray(shifts)[piece_of]
    whole = (starts >= 0) & (ends <= borders[piece_of + 1])
    return np.where(whole, starts + shift, _NOWHERE), ends + shift


def _in_text(known: Vocabulary, text: bytes, completion: Sequence[int]) -> tuple[Places, Places]:
    """Where each token begins and ends in a text that they were made of; one begins _NOWHERE that is not in it.

    A text's beginning may be missing: a tag that the prompt had already. What a tokenizer changes lies between the
    longest beginning and the longest end that its tokens and the text have in common.
    """
    lengths = known.lengths[np.asarray(completion)]
    lengths[-1] = 0
    written = known.joined(completion[:-1])
    ends = np.cumsum(lengths)
    starts = ends - lengths
    gap = len(text) - len(written)
    if text.endswith(written):
        return starts + gap, ends + gap
    shorter = min(len(text), len(written))
    head = _common(written, text)
    rest = min(_common(written[::-1], text[::-1]), shorter - head)
    before, after = ends <= head, (starts >= len(written) - rest) & (rest > 0)
    shift = np.where(before, 0, gap)
    return np.where(before | after, starts + shift, _NOWHERE), ends + shift


def _common(one: bytes, other: bytes) -> int:
    """How many bytes two texts begin with in common."""
    size = min(len(one), len(other))
    if not size:
        return 0
    differ = np.flatnonzero(np.frombuffer(one, np.uint8, size) != np.frombuffer(other, np.uint8, size))
    return int(differ[0]) if len(differ) else size
