"""The verifier `span`: a passage of a text, compared as SQuAD does (Rajpurkar et al. 2016, section 6.1): exact match,
and F1 over words where the problem sets a threshold. It looks at no passage.

Two holes of the published script are closed. It deletes punctuation inside numbers (1.5 was 15, -3 was 3), and articles
even where nothing else is left ("A" equalled "the").
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pipeline.text import fold
from pipeline.verifiers import Judgement, right, undecided, wrong
from pipeline.verifiers.plain import plain

# A number with its sign, a single sign of a script without spaces between words, or a word.
_TOKEN = re.compile(
    r"(?<![^\W_])-?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"
    r"|(?:(?![\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])[^\W_])+|[%°$€£]"
)
_APOSTROPHE = re.compile("['’`]")
_ARTICLES = {"a", "an", "the"}
THRESHOLD = "f1_threshold"


def judge(given: str, gold: str, data: dict[str, Any]) -> Judgement:
    """`data` is {"answers": [further reference answers], "f1_threshold": 0 to 1}, both optional.

    Right where the answer is one of the references, or where its best F1 reaches the threshold; without one only an
    exact match is right. The score is the best F1. Case, punctuation and English articles never count.
    """
    golds, threshold = [gold, *_listed(data.get("answers", []))], data.get(THRESHOLD)
    if threshold is not None and not (isinstance(threshold, int | float) and 0 < threshold <= 1):
        return undecided("gold_unparseable", error=f"found {THRESHOLD} {threshold!r}; expected more than 0, at most 1")
    expected = [found for found in map(tokens, golds) if found]
    if not expected:
        return undecided("gold_unparseable", error="the reference answer is empty")
    found = tokens(given)
    best = max(f1(found, one) for one in expected)
    if found in expected:
        return right(exact_match=True)
    return right(best) if threshold is not None and best >= threshold else wrong(best)


def tokens(text: str) -> list[str]:
    """The folded words of a text, without punctuation, and without articles unless there is nothing else."""
    found = [token.replace(",", "") for token in _TOKEN.findall(_APOSTROPHE.sub("", fold(plain(text))))]
    return [token for token in found if token not in _ARTICLES] or found


def f1(found: Sequence[str], expected: Sequence[str]) -> float:
    """The harmonic mean of precision and recall over words, each counted as often as it stands there; 0 to 1."""
    common = (Counter(found) & Counter(expected)).total()
    return 2 * common / (len(found) + len(expected)) if common else 0.0


def _listed(answers: Any) -> list[str]:
    return [str(answer) for answer in answers] if isinstance(answers, list) else [str(answers)]
