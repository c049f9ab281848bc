from typing import ClassVar

from pipeline.roles import EngineExec, Teacher
from pipeline.section import Section, declared


def test_exec_keys_are_left_out_of_what_is_declared_however_deep() -> None:
    plain = Teacher(model="a")
    fast = Teacher(model="a", exec=EngineExec(max_num_seqs=512, base_urls=("http://localhost:1/v1",)))
    assert declared(plain) == declared(fast)
    assert "exec" not in declared(plain)
    assert declared({"a": [{"exec": 1, "b": 2}]}) == {"a": [{"b": 2}]}


def test_every_other_value_is_declared() -> None:
    assert declared(Teacher(model="a")) != declared(Teacher(model="a", max_model_len=4096))


def test_a_field_that_runs_were_made_without_is_declared_only_where_it_says_something() -> None:
    class Grown(Section):
        later: ClassVar[frozenset[str]] = frozenset({"extra"})

        kept: int = 1
        extra: tuple[int, ...] = ()

    assert declared(Grown()) == declared(Grown(extra=())) == {"kept": 1}
    assert declared(Grown(extra=(2,))) == {"kept": 1, "extra": [2]}
