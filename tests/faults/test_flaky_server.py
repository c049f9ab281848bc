"""The openai engine against servers that mistreat requests, in small; `flaky_server.py` is the whole rehearsal."""

from pathlib import Path

import pytest

from tests.faults.flaky_server import REHEARSALS, bought, faults, order, rehearse, rows, running


@pytest.mark.parametrize(("name", "servers", "dying"), REHEARSALS, ids=[each[0] for each in REHEARSALS])
def test_every_request_is_answered_once_or_recorded_as_an_error(name: str, servers: int, dying: int) -> None:
    result = rehearse(name, 60, 0.3, 1, servers, dying)
    assert result["faults"] == []
    assert result["ok"]
    assert result["mistreated"]
    if servers == dying:
        assert result["errors"] > 0
        assert result["engine"]["circuits_opened"] >= servers


def test_the_rehearsal_sees_what_is_wrong(tmp_path: Path) -> None:
    with running("a", 0.0, 0) as server:
        made = order([server], 6)
        bought(tmp_path, made)
        assert faults(tmp_path, made, server.sent) == []
        prompt, texts = next(iter(server.sent.items()))
        torn = {**server.sent, prompt: {text[:-1] for text in texts}}
        assert len(faults(tmp_path, made, torn)) == 2
        assert [line.split(":")[0] for line in faults(tmp_path, order([server], 8), server.sent)] == ["lost"] * 2
        assert [line.split(":")[0] for line in faults(tmp_path, order([server], 4), server.sent)] == ["invented"] * 2
        assert len(rows(tmp_path)) == 6
