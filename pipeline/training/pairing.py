"""Pairs training examples with the soft labels of the traces that they were made from, once, before the first step.

It makes no labels, aligns no tokens and mixes no distributions by itself (`alignment.py`, `mixture.py`), and opens no
dataset. A pair is made by the trace's id and checked by its tokens; what does not fit is refused by name, and nothing
is left on the disk that a training reads.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, tee
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.objectives import targets
from pipeline.objectives.alignment import Bridge, Targets, align, bridge
from pipeline.objectives.mixture import Shares, mixture, shares
from pipeline.objectives.vocabulary import vocabulary
from pipeline.objectives.weights import Weights
from pipeline.records import base_id
from pipeline.soft_labels import SoftLabels, hash_tokens, vocabulary_fingerprint
from pipeline.templates import end_token_id
from pipeline.training.encode import Encoded

Row = Mapping[str, Any]
# Ids above a tokenizer's are padding of the teacher's head, and get next to no mass; more is another tokenizer's token.
PADDING_MASS_LIMIT = 1e-3
NAMED = 3  # traces in an error


class Teacher(NamedTuple):
    """A teacher as far as its labels need it: its tokenizer, and the tokens that end its replies."""

    tokenizer: Any
    ends: frozenset[int]


def opened(folder: Path) -> Teacher:
    """The teacher in a local model folder. No weights are read."""
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    try:
        ends = GenerationConfig.from_pretrained(str(folder), local_files_only=True).eos_token_id
    except OSError:  # it has none
        ends = None
    return Teacher(tokenizer, frozenset([ends] if isinstance(ends, int) else ends or []) | {tokenizer.eos_token_id})


class Heard(NamedTuple):
    """What one teacher says of a trace: the row that says where its labels lie, and what it counts beside others."""

    row: Row
    weight: float

    def named(self) -> list[Any]:
        """All that decides its distributions."""
        return [self.row[name] for name in ("vocabulary", "token_hash", "k", "check", "folder")]


@dataclass(frozen=True)
class Wanted:
    """What is to be paired: examples by their trace's id, how each was laid out, and who labelled its trace.

    Examples without a teacher (a general set's) are not in `layouts`; they have hard targets alone.
    """

    examples: Mapping[str, Encoded]
    layouts: Mapping[str, Sequence[Row]]  # trace id -> spans over its raw text
    heard: Mapping[str, Sequence[Heard]]  # trace id -> its labels, each with a weight above 0; its own teacher's first

    @property
    def labelled(self) -> list[str]:
        """The traces that have labels, in the order of the examples."""
        return [key for key in self.examples if key in self.layouts and key in self.heard]

    @property
    def unlabelled(self) -> list[str]:
        """The traces that have none."""
        return [key for key in self.examples if key in self.layouts and key not in self.heard]

    def candidates(self) -> int:
        """The most candidates that a token can have: all that its teachers name."""
        return max((sum(one.row["k"] for one in heard) for heard in self.heard.values()), default=1)

    def digest(self, student: str) -> str:
        """A hex digest of all that decides the targets; `student` is the fingerprint of its vocabulary.

        What a teacher counts that is alone decides nothing.
        """
        state = hashlib.blake2b(student.encode(), digest_size=16)
        for key, example in sorted(self.examples.items()):
            heard = self.heard.get(key, ())
            named = heard[0].named() if heard else [None] * 5
            said: list[Any] = [key, hash_tokens(example.completion).hex(), self.layouts.get(key), named]
            if len(heard) > 1:
                said += [heard[0].weight, *([*one.named(), one.weight] for one in heard[1:])]
            state.update(json.dumps(said, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        return state.hexdigest()


def wanted(
    examples: Iterable[Encoded],
    layouts: Iterable[Row],
    rows: Iterable[Row],
    weights: Weights,
    domains: Mapping[str, str],
    teachers: Collection[str] = (),
) -> Wanted:
    """What is to be paired, from encoded examples, rows of EXAMPLE (id, spans, teacher) and rows of SOFT_LABELS.

    domains: trace id -> domain, where weights depend on it. teachers: labels of teachers that may have a weight even if
    they labelled none of the traces. Repeats of an example are one. Raises ValueError where two of them differ, and for
    a weight of any other teacher, or in a domain that none of the traces is of.
    """
    found: dict[str, Encoded] = {}
    for example in examples:
        first = found.setdefault(base_id(example.id), example)
        if first.completion != example.completion:
            raise ValueError(
                f"examples {first.id} and {example.id} are of one trace and differ; expected repeats to be the same. "
                f"Run mix again."
            )
    laid_out = {
        base_id(row["id"]): row["spans"]
        for row in layouts
        if row["teacher"] is not None and base_id(row["id"]) in found
    }
    labelled: dict[str, list[Row]] = {}
    for row in rows:
        if base_id(row["id"]) in laid_out:
            labelled.setdefault(base_id(row["id"]), []).append(row)
    known = {row["teacher"] for some in labelled.values() for row in some}
    weights.check(known.union(teachers), {domains[key] for key in laid_out if key in domains})
    heard: dict[str, list[Heard]] = {}
    for key, some in labelled.items():
        for row in sorted(some, key=itemgetter("id")):
            if (weight := weights.of(row["teacher"], domains.get(key))) > 0:
                heard.setdefault(key, []).append(Heard(row, weight))
    return Wanted(found, laid_out, heard)


@dataclass
class Voice:
    """What one teacher said, over all traces."""

    traces: int = 0
    covered: int = 0  # tokens
    share: float = 0.0  # of the targets, summed over the covered tokens


@dataclass
class Figures:
    """What was paired. Tokens are those learnt from traces, each trace counted once."""

    tokens: int = 0
    covered: int = 0
    mass: float = 0.0  # of the candidates, summed over the covered tokens
    voices: dict[str, Voice] = field(default_factory=dict)  # by the teacher's label

    @property
    def covered_share(self) -> float:
        return self.covered / self.tokens if self.tokens else 0.0

    def add(self, targets: Targets) -> None:
        """Count the targets of a trace."""
        self.tokens += len(targets.covered)
        self.covered += int(targets.covered.sum())
        self.mass += float((1 - targets.tail[targets.covered].astype(np.float64)).sum())

    def hear(self, heard: Sequence[Heard], parts: Sequence[Targets], counts: Shares) -> None:
        """Count what went into the targets of a trace: each teacher's own, and what it counts at each token."""
        for one, part, share in zip(heard, parts, counts.T, strict=True):
            voice = self.voices.setdefault(one.row["teacher"], Voice())
            voice.traces += 1
            voice.covered += int(part.covered.sum())
            voice.share += float(share.sum())

    def facts(self, these: Wanted, k: int) -> dict[str, Any]:
        """Figures for the manifest; the mass is a mean over the covered tokens, and so is what each of several teachers
        counts."""
        found = {
            "traces": len(these.labelled),
            "traces_unlabelled": len(these.unlabelled),
            "examples_without_teacher": sum(key not in these.layouts for key in these.examples),
            "tokens": self.tokens,
            "covered_share": self.covered_share,
            "candidates": k,
            "candidates_mass": self.mass / self.covered if self.covered else 0.0,
        }
        if len(self.voices) < 2:
            return found
        teachers = {
            label: {
                "traces": voice.traces,
                "covered_share": voice.covered / self.tokens if self.tokens else 0.0,
                "mean_share": voice.share / self.covered if self.covered else 0.0,
            }
            for label, voice in sorted(self.voices.items())
        }
        return found | {"teachers": teachers}


class Bridges:
    """From each teacher's tokenizer to the student's, made when the first labels of it come."""

    def __init__(self, student: Any, fingerprint: str, teacher: Callable[[str], Teacher]) -> None:
        """student: a tokenizer; fingerprint: of its vocabulary; teacher: see `pair`."""
        self._student, self._fingerprint, self._teacher = student, fingerprint, teacher
        self._known = vocabulary(student)
        self._end = end_token_id(student)
        self._made: dict[tuple[str, str], Bridge] = {}

    def of(self, row: Row) -> Bridge:
        """The bridge for the labels of a row. Raises ValueError where the teacher has another vocabulary than they."""
        key = row["teacher"], row["vocabulary"]
        if key not in self._made:
            self._made[key] = self._bridge(row)
        return self._made[key]

    def _bridge(self, row: Row) -> Bridge:
        if row["vocabulary"] == self._fingerprint:
            ends = {self._end, self._student.eos_token_id} - {None}
            return bridge(self._known, self._known, ends, self._end)
        teacher = self._teacher(row["teacher"])
        found = vocabulary_fingerprint(teacher.tokenizer)
        if found != row["vocabulary"]:
            raise ValueError(
                f"the soft labels of trace {row['id']} are of the vocabulary {row['vocabulary']}; the student has "
                f"{self._fingerprint}, and teacher {row['teacher']} has {found}. Expected one of these two: the model "
                f"was changed since. Run generate again, so that the traces are labelled by the teacher of now."
            )
        return bridge(vocabulary(teacher.tokenizer), self._known, teacher.ends, self._end)


def check(trace: Row, row: Row, labels: SoftLabels) -> None:
    """Raises ValueError unless labels are of exactly a trace's tokens, and as many as their row says.

    Another teacher than its own may read its text as other tokens: `align` compares those with it byte for byte.
    """
    token_ids = trace["token_ids"] if row["id"] == trace["id"] else labels.sampled.tolist()
    if token_ids is None:
        raise ValueError(f"trace {trace['id']} has soft labels and no token ids to check them by. Run generate again.")
    tokens, k = labels.ids.shape
    expected = (hash_tokens(token_ids).hex(), len(token_ids), row["k"])
    sampled = np.array_equal(labels.sampled, token_ids)
    if (row["token_hash"], row["tokens"], k) != expected or tokens != len(token_ids) or not sampled:
        raise ValueError(
            f"the soft labels of trace {trace['id']} are of {tokens} tokens with {k} candidates each (token hash "
            f"{row['token_hash']}); expected those of its own {len(token_ids)} tokens with {row['k']} (token hash "
            f"{expected[0]}). They were shuffled, cut or made for another text: delete the stage folder of generate "
            f"and run it again, which keeps its completions."
        )


def refuse_foreign(across: Bridge, row: Row, labels: SoftLabels) -> None:
    """Raises ValueError where candidates that the teacher's tokenizer has no token for get some of the mass.

    A head is often padded to a round number of tokens. What it gives to padding is rounding, and goes to the tail.
    """
    size = len(across.teacher.tokens)
    beyond = labels.ids >= size
    if beyond.any() and float(np.exp(labels.logprobs[beyond].astype(np.float64)).max()) > PADDING_MASS_LIMIT:
        raise ValueError(
            f"the soft labels of trace {row['id']} give mass to the token {int(labels.ids.max())}; expected ids below "
            f"{size}, the teacher's vocabulary. They were made with another tokenizer: delete the stage folder of "
            f"generate and run it again, which keeps its completions."
        )


def pair(
    folder: Path,
    these: Wanted,
    traces: Iterable[Row],
    read: Callable[[Iterable[Row]], Iterator[tuple[Row, SoftLabels]]],
    student: Any,
    teacher: Callable[[str], Teacher],
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Write the soft targets of all examples into a folder that `objectives.targets.Stored` opens; returns figures.

    traces: rows of TRACE (id, raw, token_ids, finish), those wanted among any others; each is held for a moment. read:
    rows of SOFT_LABELS -> each with its labels, in order (`labelling.read`). student: its tokenizer. teacher: a label
    that traces carry -> what that teacher is; called only where the vocabulary is not the student's. What an earlier
    pairing of the same examples and labels has finished is taken as it is.

    Raises ValueError, naming the trace, for labels that are missing, damaged, of other tokens, or of a tokenizer that
    is not the teacher's.
    """
    fingerprint = vocabulary_fingerprint(student)
    mark = these.digest(fingerprint)
    said = targets.said_of(folder)
    if said is not None and said["mark"] == mark:
        return dict(said["figures"])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    bridges = Bridges(student, fingerprint, teacher)
    left = dict.fromkeys(these.labelled)
    total, k = len(left), these.candidates()
    figures = Figures()
    with targets.Writer(folder, k) as writer:
        used, again = tee(trace for trace in traces if trace["id"] in left)
        read_rows = read(one.row for trace in again for one in these.heard[trace["id"]])
        for trace in used:
            key, example = trace["id"], these.examples[trace["id"]]
            completion, heard = example.completion, these.heard[key]
            parts = []
            for row, labels in islice(read_rows, len(heard)):
                check(trace, row, labels)
                across = bridges.of(row)
                refuse_foreign(across, row, labels)
                laid_out = these.layouts[key]
                parts.append(
                    align(across, labels, trace["raw"], trace["finish"], laid_out, completion, key, example.ended)
                )
            counts = shares(parts, [one.weight for one in heard])
            found = parts[0] if len(parts) == 1 else mixture(parts, counts)
            writer.add(key, completion, found.covered, found.ids, found.logprobs, found.tail)
            figures.add(found)
            figures.hear(heard, parts, counts)
            del left[key]
            progress(total - len(left), total)
        if left:
            raise ValueError(
                f"{len(left)} traces that examples were made from are not among those of generate: "
                f"{', '.join(list(left)[:NAMED])}. Run generate again, then mix."
            )
        for key, example in these.examples.items():
            if key not in these.layouts or key not in these.heard:
                writer.add_none(key, example.completion)
                figures.tokens += len(example.completion) * (key in these.layouts)
        facts = figures.facts(these, k)
        writer.done({"mark": mark, "figures": facts})
    return facts
