"""The verifier `choice`: one of several options, named by its letter or by its text. It knows nothing of the question;
options come with the problem.
"""

import re
from typing import Any

from pipeline.text import fold
from pipeline.verifiers import Judgement, right, undecided, wrong
from pipeline.verifiers.plain import plain, untypeset

_LETTER = re.compile(r"(?:(?:option|choice|answer)\s+)?\(?([a-z])\)?(?:\s*[.,:)\-]\s*|\s+|$)(.*)", re.DOTALL)
_REASON = re.compile(r"(?:^|[,;.]|\s)\s*(?:because|since|as|which|this|that)\b.*", re.DOTALL)
_LONE = re.compile(r"(?:(?:option|choice|answer)\s+)?\(?([a-z])\)?[.:)]?")


def judge(given: str, gold: str, data: dict[str, Any]) -> Judgement:
    """`data` is {"choices": [texts in the order of their letters]}; without choices only letters are compared.

    The answer and the reference each are a letter ("B", "(b)", "Option B"), a letter with its text ("B) 12"), or the
    text of an option; a reason may follow ("B, because ..."). An answer that names no option, or a letter with the text
    of another, is wrong. One that can be read as two options (options that are letters themselves) is undecided.
    """
    choices = [_folded(str(choice)) for choice in data.get("choices", [])]
    expected = options(gold, choices)
    if len(expected) != 1:
        return undecided("gold_unparseable", error=f"the reference answer names {len(expected)} of the options")
    found = options(given, choices)
    if len(found) > 1:
        return undecided("answer_unparseable", error=f"the answer can be read as {len(found)} options")
    return right() if found == expected else wrong()


def options(text: str, choices: list[str]) -> set[int]:
    """The positions of the options that a text can mean; `choices` are folded. Without choices any letter will do."""
    folded = _folded(text)
    found = {position for position, choice in enumerate(choices) if choice == folded}
    lone = _LONE.fullmatch(folded)
    if lone is not None:
        return found | _existing(lone[1], choices)
    if found:
        return found
    lettered = _LETTER.fullmatch(folded)
    if lettered is None:
        return set()
    letter, rest = _existing(lettered[1], choices), fold(plain(lettered[2]))
    named = _REASON.sub("", rest, count=1).strip(" ,;:.()")
    if rest and not named:
        return letter  # and a reason for it
    if not choices:
        return letter if not re.match(r"(?:or|and|,)\b", rest) and _marked(folded) else set()
    return {position for position in letter if choices[position] in (rest, named)}


def _folded(text: str) -> str:
    return fold(plain(untypeset(plain(text))))


def _existing(letter: str, choices: list[str]) -> set[int]:
    position = ord(letter) - ord("a")
    return {position} if not choices or position < len(choices) else set()


def _marked(folded: str) -> bool:
    """The letter is set off as a label ("b) ..."), not the first word of a sentence ("a dog")."""
    return re.match(r"(?:(?:option|choice|answer)\s+[a-z]\b|\([a-z]\)|[a-z]\s*[.:)])", folded) is not None
