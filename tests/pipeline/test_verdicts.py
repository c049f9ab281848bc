"""Verdicts beside their traces, whatever the order that either comes in."""

import random

import pyarrow as pa

from pipeline.records import VERDICT
from pipeline.shards import as_table
from pipeline.verdicts import joined


def rows(*ids: str) -> pa.Table:
    made = [
        {
            "id": key,
            "outcome": "fail" if key < "m" else "pass",
            "reasons": ["late", "long"] if key < "m" else [],
            "score": None,
            "detail": f'{{"of": "{key}"}}' if key < "c" else "{}",
        }
        for key in ids
    ]
    return as_table(made, VERDICT)


def test_each_trace_gets_its_own_verdict_in_whatever_order_the_shards_have_them() -> None:
    ids = list("abcmnop")
    found = random.Random(3).sample(ids, len(ids))
    known = joined(pa.chunked_array([ids[:2], ids[2:]]), [rows(*found[:3]), rows(), rows(*found[3:])], True)
    kinds = [known.kinds[code] for code in known.codes.tolist()]
    assert kinds == [("fail", ("late", "long"))] * 3 + [("pass", ())] * 4
    assert known.details == {0: '{"of": "a"}', 1: '{"of": "b"}'}
    assert (known.missing(), known.strange) == (None, 0)


def test_a_trace_without_a_verdict_and_a_verdict_without_a_trace_are_told() -> None:
    known = joined(pa.chunked_array([["a", "b", "c"]]), [rows("c", "a", "x")])
    assert known.missing() == 1
    assert known.strange == 1
    assert joined(pa.chunked_array([["a"]]), []).missing() == 0
