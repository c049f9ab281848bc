import pytest

from pipeline.verifiers.unverifiable import judge


@pytest.mark.parametrize(("given", "gold"), [("5", ""), ("5", "5"), ("", ""), ("no", "yes")])
def test_it_decides_nothing(given: str, gold: str) -> None:
    found = judge(given, gold, {"agreeing": 2, "votes": 5})
    assert (found.outcome, found.reason, found.score) == ("undecided", "unverifiable", None)
