"""What tests that run hostile programs need of the machine."""

import os

import pytest

from pipeline import sandbox


def required() -> None:
    """Skip the test, with the fix, where programs cannot be shut in; fail it where CI is set, so that it runs there."""
    if why := sandbox.lacking():
        why = f"it runs hostile programs and needs a sandbox. {why}"
        if os.environ.get("CI"):
            pytest.fail(why, pytrace=False)
        pytest.skip(why)
