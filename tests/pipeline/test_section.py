from pipeline.roles import EngineExec, Teacher
from pipeline.section import declared


def test_exec_keys_are_left_out_of_what_is_declared_however_deep() -> None:
    plain = Teacher(model="a")
    fast = Teacher(model="a", exec=EngineExec(max_num_seqs=512, base_urls=("http://localhost:1/v1",)))
    assert declared(plain) == declared(fast)
    assert "exec" not in declared(plain)
    assert declared({"a": [{"exec": 1, "b": 2}]}) == {"a": [{"b": 2}]}


def test_every_other_value_is_declared() -> None:
    assert declared(Teacher(model="a")) != declared(Teacher(model="a", max_model_len=4096))
