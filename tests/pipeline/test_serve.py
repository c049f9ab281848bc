"""How the server is started, and when it is not."""

import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest

from pipeline import serve
from pipeline.engines import vllm
from pipeline.manifest import Artifact, File, write_record
from pipeline.roles import Student
from pipeline.run import Run
from pipeline.stage import StageError
from tests import small, synthetic

STUDENT = Student(model="m", max_model_len=512, dtype="bfloat16")
EXEC = {"tensor_parallel_size": 2, "max_num_seqs": 7, "kv_cache_gib": 3}


def options(words: list[str]) -> dict[str, str]:
    return {name: value for name, value in pairwise(words) if name.startswith("--")}


def test_the_server_is_vllms_own_with_the_roles_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "on_cpu", lambda: True)
    assert "--quantization" not in serve.command(Path("made"), "mine", STUDENT, "127.0.0.1", 8001)
    student = STUDENT.model_copy(update={"quantization": "fp8"})
    words = serve.command(Path("made"), "mine", student, "127.0.0.1", 8001, ["--api-key", "k"])
    assert options(words)["--quantization"] == "fp8"
    assert words[:5] == [sys.executable, "-m", serve.SERVER, "--model", "made"]
    assert words[-3:] == ["--enforce-eager", "--api-key", "k"]
    found = options(words)
    assert found["--served-model-name"] == "mine"
    assert (found["--host"], found["--port"]) == ("127.0.0.1", "8001")
    assert (found["--dtype"], found["--max-model-len"]) == ("bfloat16", "512")
    assert (found["--max-num-seqs"], found["--block-size"]) == ("128", "32")
    assert int(found["--kv-cache-memory-bytes"]) == vllm.kv_cache_bytes(STUDENT.exec)
    assert not {"--tensor-parallel-size", "--max-num-batched-tokens"} & set(words)
    assert serve.environment()["VLLM_CPU_NUM_OF_RESERVED_CPU"] == "0"


def test_on_a_gpu_it_takes_the_gpus_that_the_role_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "on_cpu", lambda: False)
    words = serve.command(Path("made"), "mine", STUDENT.model_copy(update={"exec": EXEC_OF_GPU}), "::1", 8000)
    found = options(words)
    assert (found["--tensor-parallel-size"], found["--max-num-seqs"]) == ("2", "7")
    assert found["--gpu-memory-utilization"] == "0.9"
    assert not {"--enforce-eager", "--kv-cache-memory-bytes", "--block-size"} & set(words)


EXEC_OF_GPU = Student(model="m", exec=EXEC).exec


@pytest.mark.parametrize(
    ("host", "address"), [("127.0.0.1", "http://127.0.0.1:80"), ("::1", "http://[::1]:80"), ("gpu", "http://gpu:80")]
)
def test_the_address_is_one_that_clients_take(host: str, address: str) -> None:
    assert serve.address(host, 80) == address
    assert urlsplit(address).port == 80


def test_only_a_fresh_export_is_served_and_only_in_a_format_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small.run_of(small.write(tmp_path))
    with pytest.raises(StageError, match=r"export is absent; .*--to export"):
        serve.exported(run, None)
    folder = run.stage_folder("export")
    folder.mkdir(parents=True)
    made = synthetic.manifest("export")
    identity = made.identity.model_copy(update={"config": {"weights": ["int8", "bfloat16"]}})
    files = [File(path=f"models/{form}/config.json", bytes=2, sha256="") for form in ("int8", "bfloat16")]
    artifacts = {"models": Artifact(files=files, fingerprint="")}
    write_record(folder / "manifest.json", made.model_copy(update={"identity": identity, "artifacts": artifacts}))
    for file in files:
        (folder / file.path).parent.mkdir(parents=True)
        (folder / file.path).write_text("{}")
    state = run.state("export")
    monkeypatch.setattr(Run, "states", lambda _: {"export": type(state)("fresh", [], None, None)})
    assert serve.exported(run, None) == folder / "models" / "int8"
    assert serve.exported(run, "bfloat16") == folder / "models" / "bfloat16"
    with pytest.raises(StageError, match="found exports of int8, bfloat16, none of int4"):
        serve.exported(run, "int4")
    (folder / files[0].path).unlink()
    with pytest.raises(StageError, match=r"int8/config\.json is missing.*run stage export again"):
        serve.exported(run, None)


def test_a_port_that_is_taken_is_said_before_a_model_is_loaded() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StageError, match=rf"127.0.0.1:{port} cannot be served from: .*--port"):
            serve.check_place("127.0.0.1", port)
    serve.check_place("127.0.0.1", port)


def test_a_server_that_fails_gives_its_code() -> None:
    said: list[str] = []
    assert serve.serve([sys.executable, "-c", "raise SystemExit(3)"], "http://127.0.0.1:9", said.append) == 3
    assert said == []


def test_a_proxy_is_not_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        Thread(target=server.handle_request, daemon=True).start()
        assert serve._up(serve.address("127.0.0.1", server.server_port))


def test_an_interruption_ends_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def popen(words: list[str], **values: object) -> "subprocess.Popen[bytes]":
        process = real(words, **values)  # type: ignore[call-overload]
        if "sleep" in words[-1]:
            started.append(process)
        return process

    def interrupted(address: str) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(serve.subprocess, "Popen", popen)
    monkeypatch.setattr(serve, "_up", interrupted)
    said: list[str] = []
    words = [sys.executable, "-c", "import time; time.sleep(600)"]
    assert serve.serve(words, "http://127.0.0.1:9", said.append) == 0
    assert said == ["ending the server"]
    assert started[0].poll() is not None
