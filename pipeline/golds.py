"""What the attempts at a problem say of its reference answer: one to doubt, and one to go by where there is none.

It changes no reference answer, and judges no trace against one (`verifiers/` does); a doubted one is for a person to
look at.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field, field_validator

from pipeline.ballots import LONGEST, Agreement, Ballot, agreements, normal
from pipeline.section import Section
from pipeline.verifiers import UNVERIFIABLE, VERIFIERS, Judgement, undecided
from pipeline.verifiers.judging import Answered, verdict_row
from pipeline.verifiers.pool import Item, Pool

SUSPECTED = "gold_suspected"  # the attempts agree with each other, and never with the reference
PSEUDO = "pseudo_gold"  # judged against the majority of the attempts, for want of a reference
NO_MAJORITY = "no_majority"
MINORITY = "minority_answer"  # of a trace that contradicts the pseudo-gold: not known to be wrong

Row = Mapping[str, Any]


class Doubt(Section):
    """When a reference answer is listed as suspected to be wrong."""

    votes: int = Field(3, ge=2)  # traces with an answer that a problem needs, none of them right
    agreement_share: float = Field(0.6, gt=0, le=1)  # of them, that give the same answer


class PseudoGolds(Section):
    """When the majority's answer stands in for the reference of an `unverifiable` problem."""

    votes: int = Field(4, ge=2)  # traces with an answer that a problem needs
    agreement_share: float = Field(0.6, gt=0.5, le=1)  # of them, that give the same answer
    verifier: str = "math"  # compares the answers; one that needs no data of the problem

    @field_validator("verifier")
    @classmethod
    def _is_a_verifier(cls, name: str) -> str:
        if name not in VERIFIERS or name == UNVERIFIABLE:
            raise ValueError(f"found verifier {name!r}; expected one that compares, such as math or exact")
        return name


@dataclass(frozen=True)
class Held:
    """A trace whose verdict waits for the others of its problem."""

    id: str
    problem_id: str
    answer: str


@dataclass
class Attempts:
    """The final answers of each problem's traces, as far as they can tell anything of its reference answer.

    With `pseudo`, traces of unverifiable problems are held back until all of them are known.
    """

    doubt: Doubt
    pseudo: PseudoGolds | None
    _wrong: dict[str, list[str] | None] = field(default_factory=dict)  # None: a right answer was found
    _verifiers: dict[str, str] = field(default_factory=dict)
    _held: list[Held] = field(default_factory=list)

    def take(self, problem_id: str, verifier: str, verdict: Row) -> bool:
        """Look at a verdict row; True where it must not be written yet: `decided` gives another in its place."""
        if self.pseudo is not None and verdict["reasons"] == [UNVERIFIABLE]:
            self._held.append(Held(verdict["id"], problem_id, _answer(verdict) or ""))
            return True
        if verdict["outcome"] == "pass":
            self._wrong[problem_id] = None
        elif verdict["outcome"] == "fail":
            votes = self._wrong.setdefault(problem_id, [])
            answer = _answer(verdict)
            if votes is not None and answer is not None and len(answer) <= LONGEST:
                self._verifiers[problem_id] = verifier
                votes.append(answer)
        return False

    def suspected(self, pool: Pool) -> dict[str, Agreement]:
        """Problem id -> the answer that its traces agree on, for those never answered rightly."""
        doubted = {
            key: votes
            for key, votes in self._wrong.items()
            if votes is not None and len(votes) >= self.doubt.votes and _may_agree(votes, self.doubt.agreement_share)
        }
        ballots = {key: Ballot(votes, self._verifiers[key]) for key, votes in doubted.items()}
        return {
            key: agreement
            for key, agreement in _agreed(ballots, pool)
            if agreement.count >= self.doubt.agreement_share * len(doubted[key])
        }

    def decided(self, pool: Pool) -> Iterator[tuple[str, dict[str, Any], Agreement | None]]:
        """(problem id, VERDICT row, pseudo-gold) of every trace held back. Without a majority it stays undecided."""
        if self.pseudo is None:
            return
        majorities = self._majorities(self.pseudo, pool)
        items = (self._item(self.pseudo, held, majorities.get(held.problem_id)) for held in self._held)
        for index, judgement in pool.judge(items):
            held = self._held[index]
            majority = majorities.get(held.problem_id)
            if judgement.outcome == "wrong":
                judgement = Judgement("wrong", MINORITY, judgement.score, judgement.detail)
            gold = majority.answer if majority is not None else ""
            row = verdict_row(Answered(held.id, "", "stop", False, gold, UNVERIFIABLE), held.answer, judgement)
            marked = {**json.loads(row["detail"]), PSEUDO: majority is not None}
            yield held.problem_id, {**row, "detail": json.dumps(marked, ensure_ascii=False, sort_keys=True)}, majority

    def _majorities(self, rule: PseudoGolds, pool: Pool) -> dict[str, Agreement]:
        votes: dict[str, list[str]] = {}
        for held in self._held:
            if 0 < len(held.answer) <= LONGEST:
                votes.setdefault(held.problem_id, []).append(held.answer)
        ballots = {
            key: Ballot(found, rule.verifier)
            for key, found in votes.items()
            if len(found) >= rule.votes and _may_agree(found, rule.agreement_share)
        }
        return {
            key: agreement
            for key, agreement in _agreed(ballots, pool)
            if agreement.count >= rule.agreement_share * len(votes[key])
        }

    def _item(self, rule: PseudoGolds, held: Held, majority: Agreement | None) -> Item | Judgement:
        return undecided(NO_MAJORITY) if majority is None else Item(rule.verifier, held.answer, majority.answer)


def _agreed(ballots: Mapping[str, Ballot], pool: Pool) -> Iterator[tuple[str, Agreement]]:
    keys = sorted(ballots)
    for key, agreement in zip(keys, agreements([ballots[key] for key in keys], pool), strict=True):
        if agreement is not None:
            yield key, agreement


def _may_agree(votes: Sequence[str], share: float) -> bool:
    """Whether the votes are alike enough, by their letters alone, for comparing every two of them to be worth it: an
    answer is seldom spelled in more than two ways."""
    return max(Counter(normal(vote) for vote in votes).values()) >= share * len(votes) / 2


def _answer(verdict: Row) -> str | None:
    answer = json.loads(verdict["detail"]).get("answer")
    return None if answer is None else str(answer)
