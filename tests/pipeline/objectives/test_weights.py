"""Weights of teachers: by name, by domain before that, and refused where they can be none."""

import math
from typing import Any

import pytest

from pipeline.objectives.weights import Weights


def test_weights_go_by_teacher_and_a_domain_has_its_own() -> None:
    weights = Weights(teachers={"big": 3.0, "odd": 0.0}, domains={"code": {"coder": 5.0, "big": 0.5}})
    teachers = ("big", "coder", "odd")
    assert [weights.of(teacher, "maths") for teacher in teachers] == [3.0, 1.0, 0.0]
    assert [weights.of(teacher, "code") for teacher in teachers] == [0.5, 5.0, 0.0]
    assert [weights.of(teacher, None) for teacher in teachers] == [3.0, 1.0, 0.0]
    assert Weights().of("big", "maths") == 1.0
    weights.check({"big", "coder", "odd"}, {"code", "maths"})
    with pytest.raises(ValueError, match="teacher 'coder'"):
        weights.check({"big", "odd"}, {"code"})
    with pytest.raises(ValueError, match=r"domain 'code'.*did you mean 'codes'\?"):
        weights.check({"big", "coder", "odd"}, {"codes"})


@pytest.mark.parametrize("wrong", [{"teachers": {"a": -1}}, {"domains": {"d": {"a": math.inf}}}, {"teacher": {}}])
def test_weights_that_are_none_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"finite numbers|Extra inputs"):
        Weights(**wrong)
