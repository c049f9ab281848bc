"""A whole small run's export, in 8 bits, behind vLLM's own server: one chat completion, then Ctrl-C."""

import json
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

from pipeline.engines.lifeline import descendants, started
from pipeline.templates import load_tokenizer, prompt_ids
from tests import small


def asked(address: str, words: str) -> dict[str, Any]:
    """The server's answer to a chat of one message."""
    messages = [{"role": "user", "content": words}]
    body = {"model": "small", "messages": messages, "max_tokens": 5, "temperature": 0.0, "ignore_eos": True}
    request = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def test_the_exported_student_answers_a_chat_until_it_is_interrupted(tmp_path: Path) -> None:
    recipe = small.write(tmp_path, export__weights=["int8"], student__exec={"kv_cache_gib": 1, "max_num_seqs": 4})
    data = tmp_path / "data"
    small.seqdistill(data, "run", recipe, "--to", "export")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path / "serve.log"
    with open(log, "wb") as file:
        server = subprocess.Popen(
            small.command("serve", recipe, "--port", str(port)),
            cwd=small.ROOT,
            env=small.environment(data),
            stdout=file,
            stderr=file,
            # A shell that runs the tests in the background has them, and so what they start, ignore it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    try:
        while b"ready: " not in log.read_bytes():
            assert server.poll() is None, log.read_text()
            time.sleep(0.2)
        answer = asked(f"http://127.0.0.1:{port}", "What is 10 + 30?")
        assert answer["usage"]["completion_tokens"] == 5
        assert answer["choices"][0]["message"]["role"] == "assistant"
        made = load_tokenizer(tmp_path / "student")
        prompt = prompt_ids(made, [{"role": "user", "content": "What is 10 + 30?"}])
        assert answer["usage"]["prompt_tokens"] == len(prompt), "not asked in the student's chat template"
        below = descendants(server.pid)
        assert len(below) >= 2
    finally:
        server.send_signal(signal.SIGINT)
        code = server.wait(timeout=60)
    assert code == 0, log.read_text()
    assert all(started(pid) != born for pid, born in below.items())
