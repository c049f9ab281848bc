"""Length bounds include their limits."""

import pytest

from pipeline.rules.length import too_long, too_short
from pipeline.rules.limits import Limits
from pipeline.rules.trace import Trace


def trace(tokens: int) -> Trace:
    return Trace("x", "stop", tokens, False)


@pytest.mark.parametrize(("tokens", "broken"), [(4, True), (5, False), (6, False)])
def test_too_short_is_below_the_limit(tokens: int, broken: bool) -> None:
    assert too_short(trace(tokens), Limits(min_tokens=5)) == ({"tokens": tokens, "limit": 5} if broken else None)


@pytest.mark.parametrize(("tokens", "broken"), [(4, False), (5, False), (6, True)])
def test_too_long_is_above_the_limit(tokens: int, broken: bool) -> None:
    assert too_long(trace(tokens), Limits(max_tokens=5)) == ({"tokens": tokens, "limit": 5} if broken else None)


@pytest.mark.parametrize(("tokens", "broken"), [(0, True), (1, False), (10**6, False)])
def test_without_limits_only_an_empty_completion_is_refused(tokens: int, broken: bool) -> None:
    found = [too_short(trace(tokens), Limits()), too_long(trace(tokens), Limits())]
    assert found == [{"tokens": 0, "limit": 1} if broken else None, None]
