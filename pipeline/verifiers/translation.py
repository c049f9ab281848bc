"""The verifier `translation`: chrF and BLEU of sacrebleu against reference translations, with a threshold. It judges
likeness, not meaning: a good translation in other words scores low.
"""

from functools import lru_cache
from typing import Any, Protocol

from pipeline.text import fold, squeeze
from pipeline.verifiers import Judgement, right, undecided, wrong

METRICS = ("chrf", "bleu")
DEFAULT = {"chrf": 50.0}
# Written without spaces between words: BLEU counts their characters (sacrebleu's zh splits Chinese alone).
_TOKENIZERS = {"zh": "zh", "ja": "char", "ko": "char", "th": "char", "lo": "char", "km": "char", "my": "char"}
LENGTH_FACTOR = 2.0  # beyond which an answer holds more, or less, than a translation
LENGTH_SLACK = 16  # characters


class Metric(Protocol):
    def sentence_score(self, hypothesis: str, references: list[str]) -> Any: ...


def prepare() -> None:
    """Import sacrebleu."""
    _metric("chrf", "13a")


def judge(given: str, gold: str, data: dict[str, Any]) -> Judgement:
    """`data` is {"chrf": 0 to 100, "bleu": 0 to 100, "language": code, "references": [texts], "source": text}, all
    optional; `language` is that of the translation ("zh", "de"), `references` stand beside the reference answer.

    Right where every metric named reaches its threshold; without one, where chrF reaches 50. The score is the lowest
    of them, over 100. The source repeated is wrong, and so is an answer more than twice as long as any reference, or
    less than half: chrF forgives what is added.
    """
    more = data.get("references", [])
    references = [text for text in map(squeeze, [gold, *(more if isinstance(more, list) else [str(more)])]) if text]
    wanted = {name: data[name] for name in METRICS if name in data} or DEFAULT
    if not references:
        return undecided("gold_unparseable", error="the reference translation is empty")
    for name, threshold in wanted.items():
        if not (isinstance(threshold, int | float) and 0 < threshold <= 100):
            return undecided("gold_unparseable", error=f"found {name} {threshold!r}; expected a threshold up to 100")
    answer = squeeze(given)
    tokenizer = _TOKENIZERS.get(str(data.get("language", "")).casefold().split("-")[0], "13a")
    found = {name: _metric(name, tokenizer).sentence_score(answer, references).score for name in wanted}
    detail = {name: round(value, 2) for name, value in found.items()}
    score = min(1.0, min(found.values()) / 100)
    fault = _fault(answer, references, str(data.get("source", "")))
    if fault is not None:
        return wrong(score, error=fault, **detail)
    reached = all(found[name] >= threshold for name, threshold in wanted.items())
    return right(score, **detail) if reached else wrong(score, **detail)


def _fault(answer: str, references: list[str], source: str) -> str | None:
    if source and fold(answer) == fold(source) and fold(answer) not in map(fold, references):
        return "the answer is the source text"
    shortest, longest = min(map(len, references)), max(map(len, references))
    if len(answer) > LENGTH_FACTOR * longest + LENGTH_SLACK or len(answer) + LENGTH_SLACK < shortest / LENGTH_FACTOR:
        return f"the answer has {len(answer)} characters; the references have {shortest} to {longest}"
    return None


@lru_cache(maxsize=8)
def _metric(name: str, tokenizer: str) -> Metric:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    # Short sentences often lack 4-grams: effective_order leaves out the orders that have none (its own advice).
    metric: Metric = CHRF() if name == "chrf" else BLEU(effective_order=True, tokenize=tokenizer)
    return metric
