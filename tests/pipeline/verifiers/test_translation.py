from typing import Any

import pytest

from pipeline.verifiers.translation import judge

GOLD = "The cat sat on the mat and looked at the dog."
NEAR = "The cat sat on the mat, and it looked at the dog."
LOOSE = "A cat was sitting on a mat watching the dog."
FAR = "Prices rose by five percent in March."
CHINESE = "今天的天气非常好\uff0c我们去公园散步吧。"


@pytest.mark.parametrize(
    ("gold", "given", "data", "outcome"),
    [
        (GOLD, GOLD, {}, "right"),
        (GOLD, NEAR, {}, "right"),
        (GOLD, NEAR, {"chrf": 70, "bleu": 40}, "right"),
        (GOLD, FAR, {"references": [FAR]}, "right"),
        (GOLD, GOLD, {"source": GOLD}, "right"),
        (CHINESE, "今天天气非常好\uff0c我们去公园散步吧。", {"bleu": 50, "language": "zh-CN"}, "right"),
        (GOLD, FAR, {}, "wrong"),
        (GOLD, LOOSE, {"bleu": 40}, "wrong"),
        (GOLD, NEAR, {"chrf": 99}, "wrong"),
        (GOLD, NEAR, {"chrf": 50, "bleu": 95}, "wrong"),
        (GOLD, "", {}, "wrong"),
        (GOLD, f"{GOLD} {GOLD} {GOLD}", {}, "wrong"),
        ("Hallo Anna Schmidt", "Hello Anna Schmidt", {"source": "hello anna schmidt"}, "wrong"),
        (CHINESE, "今天天气非常好\uff0c我们去公园散步吧。", {"bleu": 50}, "wrong"),
        ("", GOLD, {}, "undecided"),
        (GOLD, GOLD, {"chrf": 0}, "undecided"),
        (GOLD, GOLD, {"bleu": 101}, "undecided"),
        (GOLD, GOLD, {"chrf": "high"}, "undecided"),
    ],
)
def test_a_translation_reaches_every_threshold_or_not(
    gold: str, given: str, data: dict[str, Any], outcome: str
) -> None:
    judgement = judge(given, gold, data)
    assert judgement.outcome == outcome
    assert judgement.reason == {"right": None, "wrong": "wrong_answer", "undecided": "gold_unparseable"}[outcome]


def test_the_figures_are_sacrebleus_own() -> None:
    from sacrebleu import sentence_bleu, sentence_chrf

    judgement = judge(NEAR, GOLD, {"chrf": 1, "bleu": 1})
    bleu, chrf = sentence_bleu(NEAR, [GOLD]).score, sentence_chrf(NEAR, [GOLD]).score
    assert judgement.detail == {"chrf": round(chrf, 2), "bleu": round(bleu, 2)}
    assert judgement.score == min(bleu, chrf) / 100


def test_what_makes_a_likely_looking_answer_wrong_is_told() -> None:
    assert judge(GOLD, "Die Katze", {"source": GOLD}).detail["error"] == "the answer is the source text"
    assert "the references have 45 to 45" in judge(f"{GOLD} {GOLD} {GOLD}", GOLD, {}).detail["error"]
