"""The verifier `exact`: the same text, whatever its case, spacing and typography. It knows nothing of numbers: 1,234
and 1234 differ here (`math` reads them).
"""

from typing import Any

from pipeline.text import fold
from pipeline.verifiers import Judgement, right, undecided, wrong
from pipeline.verifiers.plain import plain


def judge(given: str, gold: str, data: dict[str, Any]) -> Judgement:
    """Right where both read the same once folded; every sign within counts. `data` is not used."""
    expected = fold(plain(gold))
    if not expected:
        return undecided("gold_unparseable", error="the reference answer is empty")
    return right() if fold(plain(given)) == expected else wrong()
