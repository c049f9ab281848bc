"""Augmented prompts: which training problems a teacher rewrites, what it is asked, and what its answers become.

It starts no engine (whoever calls it gets the answers), reads no text (`variants.py` does) and knows no duplicates
(`sources/selection.py` does).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from pipeline.ballots import Ballot, agreements
from pipeline.orders import Order
from pipeline.records import content_id
from pipeline.roles import Sampling
from pipeline.section import Section
from pipeline.sources.candidate import TRAIN, Candidate, canonical_json
from pipeline.sources.selection import Found, Selection
from pipeline.variants import flaw, options, rewritten
from pipeline.verifiers import UNVERIFIABLE
from pipeline.verifiers.judging import Answered, answer_of
from pipeline.verifiers.pool import Pool, processors

# Verifiers that need no data of the problem: what they take for an answer, they take for a harder problem's too.
GENERAL = ("math", "exact")
COMPARING_LIMIT_S = 10.0  # of one comparison of two answers
COMPARING_MEMORY_MIB = 1024  # that one comparison may add to its process

Row = Mapping[str, Any]
Answers = Mapping[str, Sequence[Row]]  # problem id -> its samples' rows: sample, raw, finish, cause
Ask = Callable[[Sequence[Order], str], Sequence[Answers]]  # the answers to each order; it is told what to call them


class Rewriting(Section):
    """What every kind of augmentation is told."""

    keeps_answer: ClassVar[bool] = True

    share: float = Field(1.0, gt=0, le=1)  # of the training problems; their ids decide which, so adding some moves none
    samples: int = Field(1, ge=1)  # variants of each
    seed: int = Field(0, ge=0)  # another seed chooses other problems
    sampling: Sampling = Sampling()
    max_tokens: int = Field(1024, ge=1)  # of one answer, reasoning included

    @property
    def words(self) -> dict[str, str]:
        """What stands for a field of the templates, beside {problem}."""
        return {}

    @property
    def following(self) -> int:
        """How many answers of a second step one rewriting calls for, at most."""
        return 0

    @property
    def numbers_stay(self) -> bool:
        """Whether a variant gives the numbers of its parent, no other ones."""
        return self.keeps_answer


class Paraphrase(Rewriting):
    """The same problem in other words."""

    later: ClassVar[frozenset[str]] = frozenset({"keeps_numbers"})

    kind: Literal["paraphrase"]
    prompt: str = "augment/paraphrase"  # a template in prompts/, here and below
    keeps_numbers: bool = True  # false where the answer does not hang on them, as a label does not

    @property
    def numbers_stay(self) -> bool:
        return self.keeps_numbers

    @property
    def prompts(self) -> tuple[str, ...]:
        return (self.prompt,)


class BackTranslation(Rewriting):
    """The same problem, to another language and back."""

    kind: Literal["back_translation"]
    prompt: str = "augment/translate"
    prompt_back: str = "augment/translate-back"
    language: str = "French"  # in between; {language} in the templates
    original_language: str = "English"  # of the problems; {original_language} in the templates

    @property
    def prompts(self) -> tuple[str, ...]:
        return (self.prompt, self.prompt_back)

    @property
    def words(self) -> dict[str, str]:
        return {"{language}": self.language, "{original_language}": self.original_language}

    @property
    def following(self) -> int:
        return 1


class Harder(Rewriting):
    """A harder problem. Its answer is the one that most of the teacher's own attempts agree on."""

    keeps_answer: ClassVar[bool] = False

    kind: Literal["harder"]
    prompt: str = "augment/harder"
    votes: int = Field(5, ge=1)  # attempts at each, put to the teacher as `generate` puts problems
    agreement_share: float = Field(0.6, gt=0.5, le=1)  # of all attempts, that must agree on the answer
    # Where it equals generate.sampling, `generate` takes the attempts over as its first samples.
    vote_sampling: Sampling = Sampling()
    vote_max_tokens: int = Field(1024, ge=1)  # of one attempt
    # What a problem without such a majority becomes: one that no verifier decides, or none.
    without_majority: Literal["unverifiable", "reject"] = "unverifiable"

    @property
    def prompts(self) -> tuple[str, ...]:
        return (self.prompt,)

    @property
    def following(self) -> int:
        return self.votes


Augmentation = Annotated[Paraphrase | BackTranslation | Harder, Field(discriminator="kind")]


@dataclass(frozen=True)
class Draft:
    """A variant on its way: `row` has the teacher's text so far, and all else that it takes from its parent."""

    origin: int  # the position of the parent's source in the recipe
    parent: Candidate
    row: Candidate

    def changed(self, **values: Any) -> "Draft":
        """With other fields of its row."""
        return replace(self, row=replace(self.row, **values))


@dataclass(frozen=True)
class Outcome:
    """What came of an augmentation."""

    kind: str
    parents: int  # problems that were rewritten
    asked: int  # variants asked for
    problems: list[Candidate]  # variants that were taken


def drafts(wishes: Sequence[Augmentation], accepted: Iterable[Found]) -> list[list[Draft]]:
    """For each augmentation the problems that it rewrites, as drafts that still have their parent's text.

    They are training problems, chosen by content id alone. A choice whose options `verifier_data` does not list is
    left alone where the answer is kept: nobody could tell whether the letters still fit.
    """
    training = [found for found in accepted if found[1].split == TRAIN]
    return [
        [Draft(origin, row, _child(row, wish, place)) for origin, row in training if _is_chosen(wish, row)]
        for place, wish in enumerate(wishes)
    ]


def _is_chosen(wish: Augmentation, row: Candidate) -> bool:
    if wish.keeps_answer and row.verifier == "choice" and not options(row):
        return False
    return int(content_id("augment", wish.kind, wish.seed, row.id), 16) < wish.share * 2**128


def _child(parent: Candidate, wish: Augmentation, place: int) -> Candidate:
    row = replace(
        parent,
        metadata={},  # what a generator says of its item is about the parent's text
        place=f"augment.{place} ({wish.kind}) of problem {parent.id}",
        parent_id=parent.id,
        augmentation=wish.kind,
    )
    if wish.keeps_answer:
        return row
    verifier = parent.verifier if parent.verifier in GENERAL else GENERAL[0]
    return replace(row, answer="", verifier=verifier, verifier_data="{}")


def rewriting(base: Order, wish: Augmentation, prompt: str, asked: Sequence[Draft], samples: int) -> Order:
    """The order that has drafts rewritten with a template. A system message tells how to solve: it is left out."""
    text = base.texts[prompt]
    for field, word in wish.words.items():
        text = text.replace(field, word)
    return replace(
        base,
        role=base.role.model_copy(update={"prompt": prompt, "task_prompts": {}, "system": None}),
        problems=lambda: _asked(asked),
        texts={**base.texts, prompt: text},
        sampling=wish.sampling,
        samples=samples,
        max_tokens=wish.max_tokens,
    )


def solving(base: Order, wish: Harder, asked: Sequence[Draft]) -> Order:
    """The order that has drafts solved, with the teacher's own prompts."""
    return replace(
        base,
        problems=lambda: _asked(asked),
        sampling=wish.vote_sampling,
        samples=wish.votes,
        max_tokens=wish.vote_max_tokens,
    )


def _asked(some: Iterable[Draft]) -> Iterable[Row]:
    """Each text once, as an order takes problems."""
    rows: dict[str, Row] = {}
    for draft in sorted(some, key=lambda draft: (draft.row.id, draft.row.task)):
        rows.setdefault(draft.row.id, {"id": draft.row.id, "text": draft.row.text, "task": draft.row.task})
    return list(rows.values())


@dataclass(frozen=True)
class Begun:
    """Variants after the first step, by their wish: those asked for, those it left, and what is asked of those."""

    drafts: list[list[Draft]]
    first: list[Order]
    written: list[list[Draft]]
    second: dict[int, Order]  # by the wish's place; not every wish has a second step


def begin(wishes: Sequence[Augmentation], base: Order, selection: Selection, ask: Ask) -> Begun:
    """The first step of `augment`: problems rewritten, and what the second step is to ask."""
    begun = drafts(wishes, selection.accepted.values())
    first = [rewriting(base, wish, wish.prompt, some, wish.samples) for wish, some in zip(wishes, begun, strict=True)]
    written = [
        _first(wish, some, answers, selection)
        for wish, some, answers in zip(wishes, begun, ask(first, "rewritings"), strict=True)
    ]
    second = {
        place: order
        for place, (wish, some) in enumerate(zip(wishes, written, strict=True))
        if some and (order := _second(base, wish, some)) is not None
    }
    return Begun(begun, first, written, second)


def augment(
    wishes: Sequence[Augmentation], base: Order, thinking: bool, selection: Selection, ask: Ask
) -> list[Outcome]:
    """Have problems rewritten, and add to the selection what stands beside its own.

    `base` is the teacher's own order, the templates of all wishes among its texts; `thinking` says that its answers
    stand after its reasoning. The teacher is asked twice, whatever is wished: for rewritings, then for what builds on
    them (translations back, attempts at harder problems). Every draft without a problem is rejected with its reason.
    """
    begun = begin(wishes, base, selection, ask)
    written = list(begun.written)
    if begun.second:
        for place, answers in zip(begun.second, ask(list(begun.second.values()), "second steps"), strict=True):
            written[place] = _finished(wishes[place], written[place], answers, thinking, selection)
    selection.train_on_variants((draft.origin, draft.row) for some in written for draft in some)
    taken = {row.place for _, row in selection.accepted.values() if row.parent_id is not None}
    return [
        Outcome(wish.kind, len(some), len(some) * wish.samples, [one.row for one in left if one.row.place in taken])
        for wish, some, left in zip(wishes, begun.drafts, written, strict=True)
    ]


def _first(wish: Augmentation, some: Sequence[Draft], answers: Answers, selection: Selection) -> list[Draft]:
    """What the first step leaves. A translation is not looked at before it is back; only what is sound is solved."""
    pairs = [
        (draft.changed(place=f"{draft.row.place}, sample {row['sample']}"), row)
        for draft in some
        for row in answers[draft.row.id]
    ]
    read = _read(pairs, selection)
    return read if isinstance(wish, BackTranslation) else _sound(wish, read, selection)


def _second(base: Order, wish: Augmentation, some: Sequence[Draft]) -> Order | None:
    if isinstance(wish, BackTranslation):
        return rewriting(base, wish, wish.prompt_back, some, samples=1)
    return solving(base, wish, some) if isinstance(wish, Harder) else None


def _finished(
    wish: Augmentation, some: Sequence[Draft], answers: Answers, thinking: bool, selection: Selection
) -> list[Draft]:
    """What the second step leaves."""
    if isinstance(wish, Harder):
        return _settled(wish, some, answers, thinking, selection)
    pairs = [(draft, row) for draft in some for row in answers[draft.row.id]]
    return _sound(wish, _read(pairs, selection), selection)


def _read(pairs: Iterable[tuple[Draft, Row]], selection: Selection) -> list[Draft]:
    """The drafts whose answer holds a text, with that text."""
    read = []
    for draft, row in pairs:
        text = rewritten(row["raw"] or "") if row["finish"] == "stop" else None
        if text is not None:
            read.append(draft.changed(text=text))
            continue
        reason = {"error": "generation_error", "length": "truncated"}.get(row["finish"], "variant_missing")
        selection.reject(draft.origin, replace(draft.row, text=row["raw"] or ""), reason, row["cause"] or "")
    return read


def _sound(wish: Augmentation, some: Iterable[Draft], selection: Selection) -> list[Draft]:
    """The drafts whose text neither their parent nor anything held out speaks against."""
    sound = []
    for draft in some:
        against = flaw(draft.parent, draft.row.text, wish.keeps_answer, wish.numbers_stay)
        if against is not None:
            selection.reject(draft.origin, draft.row, *against)
        elif selection.stands(draft.origin, draft.row):
            sound.append(draft)
    return sound


def _settled(
    wish: Harder, some: Sequence[Draft], answers: Answers, thinking: bool, selection: Selection
) -> list[Draft]:
    """Harder problems with the answer that most attempts agree on, marked as such, or as nobody's to verify."""
    ballots = [Ballot([_vote(row, thinking) for row in answers[draft.row.id]], draft.row.verifier) for draft in some]
    with Pool(processors(), COMPARING_LIMIT_S, COMPARING_MEMORY_MIB) as pool:
        agreed = agreements(ballots, pool)
    settled = []
    for draft, agreement in zip(some, agreed, strict=True):
        agreeing = 0 if agreement is None else agreement.count
        counts = {"agreeing": agreeing, "votes": wish.votes}
        if agreement is not None and agreeing / wish.votes >= wish.agreement_share:
            data = canonical_json({"pseudo_gold": counts})
            settled.append(draft.changed(answer=agreement.answer, verifier_data=data))
        elif wish.without_majority == "unverifiable":
            settled.append(draft.changed(verifier=UNVERIFIABLE, verifier_data=canonical_json(counts)))
        else:
            selection.reject(draft.origin, draft.row, "no_majority", f"{agreeing} of {wish.votes} attempts agree")
    return settled


def _vote(row: Row, thinking: bool) -> str | None:
    """The final answer of an attempt; None for one that was cut off, whatever it says by then."""
    if row["finish"] != "stop":
        return None
    return answer_of(Answered("", row["raw"] or "", row["finish"], thinking, "", UNVERIFIABLE))
