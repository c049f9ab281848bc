"""The shelf's table."""

import inspect

import pytest

from pipeline.rules import RULES, load


@pytest.mark.parametrize("name", RULES)
def test_every_name_is_a_rule_called_like_its_slug(name: str) -> None:
    rule = load(name)
    assert (rule.__name__, list(inspect.signature(rule).parameters)) == (name, ["trace", "limits"])


def test_another_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="no rule named 'too_wide': use one of generation_error, truncated"):
        load("too_wide")
