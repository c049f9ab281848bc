"""Which candidates become problems: held-out ones first, then training ones that match none of them nor each other.

It opens no source and writes nothing; every refused candidate stays with its reason.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from typing import Any, Literal

from pipeline.records import content_id
from pipeline.similarity.meaning import Paraphrased, numbers_of
from pipeline.similarity.minhash import Shingling
from pipeline.similarity.ngrams import Overlap, Reference
from pipeline.similarity.repeats import repeats
from pipeline.sources.candidate import TRAIN, Candidate, SourceError
from pipeline.sources.columns import WITHOUT_ANSWER
from pipeline.text import fold
from pipeline.verifiers import UNVERIFIABLE
from pipeline.verifiers.plain import plain

TRAIN_DRAWS = 3  # times the training problems asked of a generator: no more items are drawn for them
HELD_OUT_DRAWS = 10  # likewise for a held-out block, which must come out whole

_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d{1,40})(?:\.\d{1,40}|/\d{1,40})?")
Survivor = Literal["smallest_id", "first_source", "shortest"]

# A candidate with its origin: the position of its source in the recipe.
Found = tuple[int, Candidate]


class Selection:
    """What was decided so far. Everything is held out before anything is trained on."""

    def __init__(
        self,
        overlap_words: int,
        template_share: float,
        near_duplicate_jaccard: float,
        shown: Mapping[str, str],
        survivor: Survivor = "smallest_id",
        outside: Sequence[Reference] = (),
        paraphrased: Paraphrased | None = None,
    ) -> None:
        """`overlap_words` and `template_share` are Overlap's, `near_duplicate_jaccard` is the threshold of MinHash,
        `survivor` says which of near-duplicates stays.

        `shown` are the canonical keys of what prompts show with its answer, each with the prompt's name; `outside` are
        questions of benchmarks, which no problem may repeat either. `paraphrased` finds problems that ask the same in
        other words; without it none are looked for.
        """
        self.accepted: dict[str, Found] = {}  # by problem id
        self.rejected: list[dict[str, Any]] = []  # REJECT rows
        self._held_out: dict[str, Candidate] = {}  # canonical key -> the held-out problem that goes by it
        self._disputed: set[str] = set()  # ids of training texts with two answers
        self._overlap_words, self._template_share = overlap_words, template_share
        self._jaccard, self._survivor = near_duplicate_jaccard, survivor
        self.outside = tuple(outside)
        self._shown, self._paraphrased = shown, paraphrased
        self._benchmarks = frozenset(item.set_name for item in outside)
        self._overlap: Overlap | None = None  # built when the first training candidate is looked at

    def reject(self, origin: int, candidate: Candidate, reason: str, detail: str = "") -> None:
        """Keep a candidate with the reason against it."""
        row = {
            "id": content_id("reject", origin, candidate.split, candidate.place, candidate.text, reason),
            "text": candidate.text,
            "answer": candidate.answer,
            "task": candidate.task,
            "source": candidate.source,
            "split": candidate.split,
            "reason": reason,
            "detail": "; ".join(filter(None, [candidate.place, detail])),
        }
        self.rejected.append(row)

    def hold_out_rows(self, rows: Iterable[Found]) -> None:
        """Hold out rows of files and hub sets, block by block in the order of names."""
        ordered = sorted(rows, key=lambda found: found[1].split)
        disputed = _disputed(ordered)
        for origin, row in ordered:
            twin = self._twin(row)
            if row.id in disputed:
                self.reject(origin, row, "conflicting_answer")
            elif self._answered_by(row):
                self.reject(origin, row, "worked_example", self._answered_by(row))
            elif row.id in self.accepted and self.accepted[row.id][1].split == row.split:
                self.reject(origin, row, "duplicate")
            elif twin is not None and twin.split != row.split:
                self.reject(origin, row, "held_out_match", _named(twin))
            else:
                self._hold_out(origin, row)

    def hold_out_draws(self, origin: int, drawn: Iterator[Candidate], block: str, wanted: int) -> None:
        """Draw a generator's problems for a block until `wanted` are different from all that are held out.

        Different means that no canonical key is shared, so that the block's questions are independent of each other.
        Raises SourceError where the draws allowed do not bring as many.
        """
        kept = 0
        for item in islice(drawn, HELD_OUT_DRAWS * wanted):
            row = replace(item, split=block)
            twin = self._twin(row)
            if row.fault is not None:
                self.reject(origin, row, row.fault, row.detail)
            elif self._answered_by(row):
                self.reject(origin, row, "worked_example", self._answered_by(row))
            elif twin is not None:
                self.reject(origin, row, "held_out_match", _named(twin))
            else:
                self._hold_out(origin, row)
                kept += 1
            if kept == wanted:
                return
        raise SourceError(
            f"held_out.{block}: {HELD_OUT_DRAWS * wanted} items of sources.{origin} gave {kept} problems that differ "
            f"from each other and from other blocks; {wanted} are asked. Widen the task's config, or lower "
            "count_per_task"
        )

    def train_on_rows(self, rows: Iterable[Found]) -> None:
        """Take the training rows of files and hub sets that stand against what is held out and against each other.

        Which of near-duplicates stays, `survivor` says, so that the order of rows decides nothing. Their answers are
        the same: where a word is the question (the capital of France, of Spain), another answer is another problem.
        """
        rows = list(rows)
        self._disputed |= _disputed(rows)
        left: dict[str, Found] = {}
        for origin, row in rows:
            reason, detail = self._against(row)
            if reason is not None:
                self.reject(origin, row, reason, detail)
            elif row.id in self._disputed:
                self.reject(origin, row, "conflicting_answer")
            elif row.id in left:
                self.reject(origin, row, "duplicate")
            else:
                left[row.id] = (origin, row)
        self._accept(left)

    def train_on_draws(self, origin: int, drawn: Iterator[Candidate], wanted: int) -> int:
        """Take a generator's problems in the order of seeds until `wanted` stand or the draws allowed are spent.

        A larger `wanted` keeps every earlier problem. Returns how many items were drawn.
        """
        kept = draws = 0
        while kept < wanted and draws < TRAIN_DRAWS * wanted:
            row = next(drawn)
            draws += 1
            reason, detail = self._against(row)
            stood = row.id in self.accepted and self.accepted[row.id][0] == origin
            if reason is not None:
                self.reject(origin, row, reason, detail)
            elif self._dispute(row):
                self.reject(origin, row, "conflicting_answer")
                kept -= stood  # taken back with it
            elif row.id in self.accepted:
                self.reject(origin, row, "duplicate")
            else:
                self.accepted[row.id] = (origin, row)
                kept += 1
        return draws

    def stands(self, origin: int, row: Candidate) -> bool:
        """Whether a training candidate has nothing against it in itself or in what is held out; else it is rejected."""
        reason, detail = self._against(row)
        if reason is not None:
            self.reject(origin, row, reason, detail)
        return reason is None

    def train_on_variants(self, rows: Iterable[Found]) -> None:
        """Take rewritings that stand (see `stands`) where they repeat no training problem and none of each other.

        Whatever they collide with stays, and of equal variants one with an answer, then the first by place: so the
        order of rows decides nothing, and no variant costs a source's own problem.
        """
        ordered = sorted(rows, key=lambda found: (found[1].id, found[1].verifier == UNVERIFIABLE, found[1].place))
        disputed = self._disputed | _disputed(ordered)
        left: dict[str, Found] = {}
        for origin, row in ordered:
            known = self.accepted.get(row.id) or left.get(row.id)
            if row.id in disputed or (known is not None and not _same_answer(known[1], row)):
                self.reject(origin, row, "conflicting_answer")
            elif known is not None:
                self.reject(origin, row, "duplicate")
            else:
                left[row.id] = (origin, row)
        self._accept(left, [found for found in self.accepted.values() if found[1].split == TRAIN])

    def _accept(self, left: Mapping[str, Found], standing: Sequence[Found] = ()) -> None:
        """Accept candidates by id, but for those that repeat an accepted one: of `standing` or ranked before it."""
        rows = [*standing, *sorted(left.values(), key=self._rank)]
        found = repeats(
            [row.text for _, row in rows],
            Shingling(self._jaccard),
            standing=len(standing),
            same_numbers=True,
            may_repeat=lambda better, other: _same_answer(rows[better][1], rows[other][1]),
        )
        alike = self._alike(rows, [place for place in range(len(rows)) if place not in found], len(standing))
        for place, (origin, row) in enumerate(rows[len(standing) :], start=len(standing)):
            if place in found:
                kept = rows[found[place].of][1].id
                self.reject(origin, row, "near_duplicate", f"Jaccard {found[place].jaccard:.2f} with problem {kept}")
            elif place in alike:
                better, cosine = alike[place]
                self.reject(origin, row, "same_meaning", f"cosine {cosine:.2f} with problem {rows[better][1].id}")
            else:
                self.accepted[row.id] = (origin, row)

    def _alike(self, rows: Sequence[Found], left: Sequence[int], standing: int) -> dict[int, tuple[int, float]]:
        """Of the rows in some places, those that ask the same as a better one: its place, and their cosine."""
        if self._paraphrased is None or len(left) < 2:
            return {}
        found = self._paraphrased(
            [rows[place][1].text for place in left],
            standing,
            lambda better, other: _may_ask_the_same(rows[left[better]][1], rows[left[other]][1]),
        )
        return {left[at]: (left[kept], cosine) for at, (kept, cosine) in found.items()}

    def _rank(self, found: Found) -> tuple[Any, ...]:
        """The smallest of near-duplicates stays."""
        origin, row = found
        if self._survivor == "first_source":
            return origin, row.id
        return (len(row.text), row.id) if self._survivor == "shortest" else (row.id,)

    def _hold_out(self, origin: int, candidate: Candidate) -> None:
        assert self._overlap is None, "hold out before training"
        self.accepted[candidate.id] = (origin, candidate)
        for key in candidate.keys:
            self._held_out.setdefault(key, candidate)

    def _twin(self, candidate: Candidate) -> Candidate | None:
        """The held-out problem that is the same exercise, if there is one."""
        return next((self._held_out[key] for key in sorted(candidate.keys) if key in self._held_out), None)

    def _answered_by(self, candidate: Candidate) -> str:
        """The prompt that shows this exercise with its answer; empty where none does."""
        return next((f"prompt {self._shown[key]}" for key in sorted(candidate.keys) if key in self._shown), "")

    def _against(self, row: Candidate) -> tuple[str | None, str]:
        """The reason against a training candidate that lies in itself or in what is held out, and its detail."""
        if row.fault is not None:
            return row.fault, row.detail
        if self._answered_by(row):
            return "worked_example", self._answered_by(row)
        twin = self._twin(row)
        if twin is not None:
            return "held_out_match", _named(twin)
        if self._overlap is None:
            held_out = (other for _, other in self.accepted.values() if other.split != TRAIN)
            references = [Reference(other.split, other.id, other.text, other.task) for other in held_out]
            references += self.outside
            self._overlap = Overlap(references, self._overlap_words, self._template_share)
        hits = self._overlap.find(row.text, row.task)
        if hits:
            hit = hits[0]
            reason = "near_benchmark" if hit.set_name in self._benchmarks else "near_held_out"
            return reason, f"{hit.set_name} problem {hit.item_id}, {hit.kind} {hit.score:.2f}: {hit.span}"
        return None, ""

    def _dispute(self, candidate: Candidate) -> bool:
        """Whether the text has two answers by now. A problem made of it before is taken back."""
        known = self.accepted.get(candidate.id)
        if known is not None and not _same_answer(known[1], candidate):
            self._disputed.add(candidate.id)
            self.reject(*self.accepted.pop(candidate.id), "conflicting_answer")
        return candidate.id in self._disputed


def _same_answer(one: Candidate, other: Candidate) -> bool:
    """Whether two candidates have one answer, as far as is known."""
    return not _answers_known(one, other) or _answer(one) == _answer(other)


def _answers_known(one: Candidate, other: Candidate) -> bool:
    return {one.verifier, other.verifier}.isdisjoint(WITHOUT_ANSWER)


def _answer(one: Candidate) -> str:
    """A candidate's answer, equal for those that are one whoever reads them: typography apart, and the value of a
    number: 1,000 is 1000.0.
    """
    text = fold(plain(one.answer))
    try:
        return str(Fraction(text.replace(",", ""))) if _NUMBER.fullmatch(text) else text
    except ZeroDivisionError:
        return text


def _may_ask_the_same(one: Candidate, other: Candidate) -> bool:
    """Whether two texts that a model takes for the same may be. Models see little of what is calculated: "gives 4 to"
    and "gets 4 from" lie closer than most paraphrases, so with numbers both answers must be known, and be one.
    """
    return _same_answer(one, other) and (_answers_known(one, other) or not numbers_of(one.text))


def _named(twin: Candidate) -> str:
    return f"{twin.split} problem {twin.id}: {twin.text[:120]}"


def _disputed(rows: Iterable[Found]) -> set[str]:
    """The ids of texts that are given with two different answers."""
    answers: dict[str, set[str]] = {}
    for _, row in rows:
        answers.setdefault(row.id, set()).update(() if row.verifier in WITHOUT_ANSWER else (_answer(row),))
    return {row_id for row_id, found in answers.items() if len(found) > 1}
