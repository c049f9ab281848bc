"""vLLM's own OpenAI-compatible server on what a run exported, as a process below this one.

It starts and ends that process, and answers no request itself.
"""

import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from pipeline.engines import vllm
from pipeline.engines.lifeline import Lifeline
from pipeline.roles import Role
from pipeline.run import Run, artifact
from pipeline.stage import StageError

# What `vllm serve` runs. The command itself asks for a package called vllm, which the CPU build is not (0.32).
SERVER = "vllm.entrypoints.launchers.api_server.entry"
POLL_S = 0.5  # between two looks whether the server is up
END_S = 15.0  # what it gets to end by itself before it is killed

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # this machine is behind no proxy to itself

Say = Callable[[str], None]


def exported(run: Run, form: str | None) -> Path:
    """The folder of a fresh export: of a format, or of the first that the recipe names. Raises StageError.

    Of a recipe with rounds, it is the chosen round's.
    """
    run = run.best()
    word = run.states()["export"].word
    if word != "fresh":
        raise StageError(f"export is {word}; only a fresh export is served. Run it first with --to export.")
    manifest = run.manifest("export")
    assert manifest is not None
    forms: list[str] = manifest.identity.config["weights"]
    if form is not None and form not in forms:
        raise StageError(
            f"found exports of {', '.join(forms)}, none of {form}. Choose one of them with --weights, or add it to "
            f"export.weights and run --to export."
        )
    return artifact(run.stage_folder("export"), manifest, "models") / (form or forms[0])


def taught(role: Role) -> str:
    """How the student was asked in its training, which is how it is best asked now."""
    said = f"it was taught with the prompt {role.prompt}"
    if role.task_prompts:
        said += f" ({', '.join(f'{prompt} for {task}' for task, prompt in sorted(role.task_prompts.items()))})"
    return said if role.system is None else f"{said}, after the system message {role.system!r}"


def command(folder: Path, name: str, role: Role, host: str, port: int, more: Sequence[str] = ()) -> list[str]:
    """What starts vLLM's server on a model folder, for clients known by `name`; `more`: words of its own that follow.

    Values that change words (dtype, quantization, context) are the role's, as eval has them; so is the machine's part.
    """
    settings = role.exec
    values: dict[str, object] = {
        "host": host,
        "port": port,
        "served-model-name": name,
        "dtype": role.dtype,
        "quantization": role.quantization,
        "max-model-len": role.max_model_len,
        "max-num-seqs": settings.max_num_seqs,
        "max-num-batched-tokens": settings.max_num_batched_tokens,
    }
    if vllm.on_cpu():
        values |= {"block-size": vllm.CPU_BLOCK_SIZE, "max-num-seqs": settings.max_num_seqs or vllm.CPU_MAX_NUM_SEQS}
        values["kv-cache-memory-bytes"] = vllm.kv_cache_bytes(settings)
    else:
        values["gpu-memory-utilization"] = settings.gpu_memory_utilization
        values["tensor-parallel-size"] = settings.tensor_parallel_size
    options = [word for key, value in values.items() if value is not None for word in (f"--{key}", str(value))]
    eager = ["--enforce-eager"] if vllm.on_cpu() else []
    return [sys.executable, "-m", SERVER, "--model", str(folder), *options, *eager, *more]


def address(host: str, port: int) -> str:
    """Where a client finds the server: an IPv6 address stands in brackets."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def environment() -> Mapping[str, str]:
    """What the server's process finds in its environment."""
    own = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    # By default the CPU build keeps a core for itself.
    return os.environ | own | ({"VLLM_CPU_NUM_OF_RESERVED_CPU": "0"} if vllm.on_cpu() else {})


def check_place(host: str, port: int) -> None:
    """Raises StageError where there is no vLLM, or where the port is taken, before a model is loaded."""
    if find_spec("vllm") is None:
        raise StageError("vLLM is not installed, and the server is its own. Any make target installs it: make status.")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StageError(
                f"{host}:{port} cannot be served from: {error.strerror}. Choose another with --port or --host."
            ) from error


def serve(words: Sequence[str], address: str, say: Say) -> int:
    """Run the server until it ends or this process is interrupted; its exit code, 0 for an interruption.

    It has a session of its own: Ctrl-C reaches this process alone, which then ends the server and all below it.
    """
    line = Lifeline()
    server = subprocess.Popen(words, env=dict(environment()), start_new_session=True)
    try:
        while server.poll() is None and not _up(address):
            try:
                server.wait(POLL_S)
            except subprocess.TimeoutExpired:
                continue
        line.up()
        if server.poll() is None:
            say(f"ready: {address}/v1  (Ctrl-C ends it)")
        return server.wait()
    except KeyboardInterrupt:
        say("ending the server")
        return 0
    finally:
        server.terminate()
        try:
            server.wait(END_S)
        except subprocess.TimeoutExpired:
            server.kill()
        line.cut()


def _up(address: str) -> bool:
    try:
        with _DIRECT.open(f"{address}/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
