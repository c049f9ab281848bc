"""The verifier `unverifiable`: of a problem whose answer nobody knows. It compares nothing, and decides nothing."""

from typing import Any

from pipeline.verifiers import Judgement, undecided


def judge(given: str, gold: str, data: dict[str, Any]) -> Judgement:
    """Undecided, whatever the answer."""
    return undecided("unverifiable")
