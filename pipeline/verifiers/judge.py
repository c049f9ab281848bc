"""The verifier `judge`: whether a free answer means what the reference says, in a language model's opinion.

It asks no model (`pipeline/opinions.py` does). Here stands what surrounds the opinion: what is decided without one, how
the question is fenced, how a verdict is read, and what else has to speak for an answer. Judges call ":" or "Let's solve
this step by step" correct (Zhao et al. 2025, "One Token to Fool LLM-as-a-Judge", arXiv 2507.08794) and do as an answer
tells them, so such answers never reach one, and a judge's opinion alone keeps nothing.
"""

import re
from collections.abc import Mapping
from typing import Any

from pipeline.records import content_id
from pipeline.text import fold, squeeze, words
from pipeline.verifiers import Judgement, right, undecided, wrong
from pipeline.verifiers.plain import plain
from pipeline.verifiers.span import tokens

UNASKED = "judge_unasked"  # nothing stands against asking
ADDRESSED = "judge_addressed"  # the answer speaks to its judge
ALONE = "judge_alone"  # the judge says right, and nothing else does
DISAGREES = "judge_disagrees"  # with itself, the two answers in the other order
UNPARSEABLE = "judge_unparseable"
SUPPORT_SHARE = 0.5  # of the reference's words, numbers counted apart, that an answer judged right must hold
LENGTH_FACTOR, LENGTH_SLACK = 10, 400  # an answer longer than so many references, and characters, is no final answer

LENGTH_LIMIT = 2000  # characters of any answer; a verdict keeps as many (`judging.DETAIL_LIMIT`)

# Openers of a reasoning that says nothing yet: the "master keys" of the paper, and their kin.
_OPENERS = re.compile(
    r"(?:(?:okay|ok|sure|well|so|now|alright),?\s*)?(?:let'?s|let us|we (?:will|need to|can)|i (?:will|need to)|to)?\s*"
    r"(?:(?:first|begin|start|solve|think|work|break|go|reason|analy[sz]e|look|approach|answer|through|"
    r"about|at|this|that|the|it|down|out|by|problem|question|task|steps?|carefully|here(?:'s| is)?|my|a|is|with|and|"
    r"detailed)\b[\s,-]*)*"
    r"(?:thought process|thoughts?|solution|reasoning|explanation|final answer|answer|result|step by step|step \d+)?",
    re.IGNORECASE,
)
_FOREIGN_OPENERS = {
    "解", "解答", "解説", "かいせつ", "答え", "答案", "respuesta", "solución", "réponse", "lösung", "antwort", "ответ",
}  # fmt: skip
_TO_THE_JUDGE = re.compile(
    r"\b(?:ignore|disregard|forget|override)\b.{0,60}"
    r"\b(?:above|previous|prior|earlier|instructions?|rules?|reference|data)\b"
    r"|\b(?:grade|mark|score|rate|judge|evaluate|accept|consider|treat|count|output|respond|reply|say|return|answer)\b"
    r".{0,40}\b(?:as|is|with|it)?\s*(?:correct|right|same|true|full (?:marks|score|credit)|pass(?:ed)?)\b"
    r"|\b(?:judge|grader|evaluator|examiner|assistant|system)\s*:|\bverdict\b|\bas an? (?:judge|grader|evaluator|ai)\b"
    r"|\byou (?:are|must|should|will)\b|\bthis (?:answer|response) is (?:correct|right)\b"
    r"|<\|[a-z_]+\|>|<<<|>>>|\[/?inst\]",
    re.IGNORECASE | re.DOTALL,
)
_VERDICT = re.compile(r"[*_`]*verdict\s*:\s*[*_`]*\s*(same|different)[*_`]*\.?[*_`]*", re.IGNORECASE)


def judge(given: str, gold: str, data: dict[str, Any]) -> Judgement:
    """What needs no opinion: right for the reference's own text; wrong for an answer without a word; undecided for one
    that announces an answer, speaks to its judge or is far longer than a final answer, and (judge_unasked) for every
    other. `data` is not used.
    """
    expected, found = fold(plain(gold)), fold(plain(given))
    if not words_of(gold):
        return undecided("gold_unparseable", error="the reference answer holds no word")
    if found == expected:
        return right()
    if not words_of(given):
        return wrong(error="the answer says nothing")
    if announces(given) and not announces(gold):
        return undecided("answer_unparseable", error="the answer only announces one")
    if _TO_THE_JUDGE.search(squeeze(given)) and not _TO_THE_JUDGE.search(squeeze(gold)):
        return undecided(ADDRESSED)
    if len(given) > min(LENGTH_FACTOR * len(gold) + LENGTH_SLACK, LENGTH_LIMIT):
        return undecided("answer_unparseable", error=f"{len(given)} characters are no final answer")
    return undecided(UNASKED)


def announces(answer: str) -> bool:
    """Whether an answer is no more than the opening of one."""
    folded = fold(plain(answer)).strip(" .,:;!?…*#-")
    return folded in _FOREIGN_OPENERS or _OPENERS.fullmatch(folded) is not None


def words_of(text: str) -> list[str]:
    """The words and numbers of a text, without signs."""
    return [word for word in words(plain(text)) if any(sign.isalnum() for sign in word)]


def fenced(question: str, one: str, other: str) -> str:
    """The question and two answers as data."""
    return fence({"QUESTION": question, "ANSWER 1": one, "ANSWER 2": other})


def fence(texts: Mapping[str, str]) -> str:
    """Named texts as data, between lines that no text among them can hold: their key is a hash of all of them."""
    key = content_id("fence", *texts.values())[:16]
    return "\n\n".join(f"<<<{name} {key}\n{text.strip()}\n{name} {key}>>>" for name, text in texts.items())


def verdict(said: str) -> bool | None:
    """What a judge says: True for the same, False for different; None for anything but exactly one verdict, on the last
    line."""
    lines = [line.strip() for line in said.strip().splitlines()]
    found = _VERDICT.fullmatch(lines[-1]) if lines else None
    if found is None or len(_VERDICT.findall(said)) != 1:
        return None
    return found[1].casefold() == "same"


def decided(given: str, gold: str, opinions: list[bool | None]) -> Judgement:
    """The judgement of an answer from a judge's opinions on it, one for each order of the two answers.

    Right takes the same opinion in both orders and a second ground: that the answer holds the reference's numbers, and
    half of its words at least.
    """
    if not opinions or None in opinions:
        return undecided(UNPARSEABLE)
    if len(set(opinions)) > 1:
        return undecided(DISAGREES)
    if not opinions[0]:
        return wrong(judge="different")
    share = supported(given, gold)
    return right(judge="same", support=share) if share >= SUPPORT_SHARE else undecided(ALONE, support=share)


def supported(given: str, gold: str) -> float:
    """The share of the reference's words that the answer holds; 0 where it lacks one of its numbers."""
    found, expected = set(tokens(given)), set(tokens(gold))
    figures = {token for token in expected if any(sign.isdigit() for sign in token)}
    return len(expected & found) / len(expected) if expected and figures <= found else 0.0
