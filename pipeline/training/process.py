"""Training in processes of its own: accelerate starts several from a job on the disk, and the first one's result comes
back.

It knows no training (a job is any function of a module and its arguments), and which processes there are is for
accelerate's configuration to say. Machines beside this one are started by hand, with a command that it tells.
"""

import json
import os
import pickle
import shlex
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.engines.lifeline import Lifeline

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "pipeline" / "recipes" / "accelerate"
JOB, RESULT, LOG = "job.pickle", "result.pickle", "launch.log"
TOLD = "\x1eseqdistill "  # begins the lines of a process's output that are for this module
# accelerate's name for a kind of processes -> how a student lies in them: each holds it whole, or all of them share it.
LAYOUTS = {"MULTI_GPU": "whole", "MULTI_CPU": "whole", "FSDP": "fsdp", "DEEPSPEED": "deepspeed"}
TAIL_LINES = 15  # of the log, in a message


class Failed(Exception):
    """A process ended with an error; `batches` are those of a loss that went wild, as JSON values."""

    def __init__(self, message: str, batches: list[dict[str, Any]]) -> None:
        super().__init__(message)
        self.batches = batches


class Telling:
    """What a job may use of a stage's Output: its folders, and lines and moments that go back to who started it."""

    def __init__(self, folder: Path, work: Path) -> None:
        self.folder, self.work = folder, work

    def progress(self, moment: Any) -> None:
        self._tell("progress", vars(moment))

    def say(self, line: str) -> None:
        self._tell("say", line)

    def _tell(self, kind: str, value: Any) -> None:
        if is_first():
            sys.stdout.write(f"{TOLD}{json.dumps([kind, value])}\n")
            sys.stdout.flush()


class Given:
    """What a job may use of a stage's Inputs: the folders of models, by role, and where relative paths start."""

    def __init__(self, models: Mapping[str, Path], root: Path) -> None:
        self.models, self.root = models, root

    def model(self, role: str) -> Path:
        return self.models[role]


def is_first() -> bool:
    """Whether this process is the one that writes what all of them made."""
    return int(os.environ.get("RANK", "0")) == 0


@dataclass(frozen=True)
class Start:
    """Which processes accelerate starts: as its configuration says, `count` on all `machines` together."""

    config: Path
    count: int
    machines: int
    layout: str = "whole"  # of LAYOUTS


# One process without accelerate: what its libraries hold of a GPU, and set in their environment, ends with it.
APART = Start(SHIPPED / "ddp.yaml", 1, 1)


def start(name: str, root: Path, here: int | None) -> Start:
    """The processes of a configuration that ships, or of one by its path; `here` are those of this machine (None: as
    the configuration says). Raises ValueError for no configuration, and for processes of another kind.
    """
    path = next((path for path in (SHIPPED / f"{name}.yaml", root / name) if path.is_file()), None)
    if path is None:
        shipped = ", ".join(sorted(path.stem for path in SHIPPED.glob("*.yaml")))
        raise ValueError(
            f"no accelerate configuration {name!r}: expected one of {shipped}, or the path of a file that `accelerate "
            f"config` wrote"
        )
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    kind = values.get("distributed_type", "MULTI_GPU")
    if kind not in LAYOUTS:
        raise ValueError(f"{path} has distributed_type {kind}; expected one of {', '.join(LAYOUTS)}")
    if kind == "FSDP":
        refuse_other_fsdp(path, values.get("fsdp_config") or {})
    if kind == "DEEPSPEED":
        refuse_other_deepspeed(path, values.get("deepspeed_config") or {})
    machines = int(values.get("num_machines") or 1)
    return Start(path, (here or 0) * machines or int(values.get("num_processes") or 1), machines, LAYOUTS[kind])


def refuse_other_fsdp(path: Path, values: Mapping[str, Any]) -> None:
    """Raises ValueError where an `fsdp_config` is not of FSDP2, with checkpoints sharded as the student is."""
    for key, expected in (("fsdp_version", 2), ("fsdp_state_dict_type", "SHARDED_STATE_DICT")):
        if values.get(key) != expected:
            raise ValueError(f"{path} has {key} {values.get(key)}; expected {expected}. See {SHIPPED / 'fsdp2.yaml'}")


def refuse_other_deepspeed(path: Path, values: Mapping[str, Any]) -> None:
    """Raises ValueError where a `deepspeed_config` leaves it to DeepSpeed what is computed in: in float32."""
    file = ROOT / str(values.get("deepspeed_config_file"))
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if not known.get("torch_autocast", {}).get("enabled"):
        raise ValueError(
            f"{path} names no deepspeed_config_file with torch_autocast enabled; expected one, or all would be "
            f"computed in float32. Take {SHIPPED / 'zero3.json'}"
        )


def launch(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    start: Start,
    folder: Path,
    tell: Callable[[str, Any], None],
    variables: Mapping[str, str],
) -> Any:
    """Run function(*arguments) in processes, and return what the first one returns.

    `folder` is where the job and its log lie, on a disk that all machines share.
    tell(kind, value) is given what the job tells (see Telling); `variables` go over the environment. Processes end with
    this one, however it ends. Raises Failed where one of them fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in (folder / RESULT, *folder.glob("error-*.json")):
        old.unlink(missing_ok=True)
    with open(folder / JOB, "wb") as file:
        pickle.dump((function, arguments), file)
    for rank in range(1, start.machines):
        told = shlex.join([*_launcher(start), "--machine_rank", str(rank), "--module", *_module(folder)])
        tell("say", f"start on machine {rank} of {start.machines}, in this folder of a shared disk: {told}")
    lifeline = Lifeline()
    try:
        code = _run(_command(start, folder), folder / LOG, tell, variables)
    finally:
        lifeline.cut()
    if code or not (folder / RESULT).is_file():
        raise _failure(folder, code)
    with open(folder / RESULT, "rb") as file:
        return pickle.load(file)


def _command(start: Start, folder: Path) -> list[str]:
    if start == APART:
        return [sys.executable, "-m", *_module(folder)]
    port = ["--main_process_port", str(_free_port())] if start.machines == 1 else []
    return [*_launcher(start), "--machine_rank", "0", *port, "--module", *_module(folder)]


def _launcher(start: Start) -> list[str]:
    program = [sys.executable, "-m", "accelerate.commands.launch"]
    return [*program, "--config_file", str(start.config), "--num_processes", str(start.count)]


def _module(folder: Path) -> list[str]:
    return ["pipeline.training.process", str(folder / JOB)]


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _run(command: list[str], log: Path, tell: Callable[[str, Any], None], variables: Mapping[str, str]) -> int:
    """Run a command with its output in a log, but for what is told."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", **variables}
    with (
        open(log, "w", encoding="utf-8") as file,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=file, text=True, errors="replace"
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith(TOLD):
                    tell(*json.loads(line.removeprefix(TOLD)))
                else:
                    file.write(line)
                    file.flush()
        except BaseException:
            process.terminate()
            raise
    return process.returncode


def _failure(folder: Path, code: int) -> Failed:
    """What is known of why processes failed. One that found a cause says more than those that waited for it in vain."""
    errors = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("error-*.json"))]
    errors.sort(key=lambda error: not error["batches"])
    if errors:
        return Failed(errors[0]["message"], errors[0]["batches"])
    tail = "\n".join((folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:])
    return Failed(f"accelerate ended with {code}, and no process said why. The end of {folder / LOG}:\n{tail}", [])


def main(job: Path) -> None:
    """One of the processes: do the job; the first one keeps the result."""
    with open(job, "rb") as file:
        function, arguments = pickle.load(file)
    try:
        result = function(*arguments)
    except Exception as error:
        told = {"message": f"{type(error).__name__}: {error}", "batches": getattr(error, "batches", [])}
        if told["batches"]:
            told["message"] = str(error)
        path = job.with_name(f"error-{os.environ.get('RANK', '0')}.json")
        path.write_text(json.dumps(told), encoding="utf-8")
        traceback.print_exc()
        sys.exit(1)
    if is_first():
        partial = job.with_name(f".{RESULT}.tmp")
        with open(partial, "wb") as file:
            pickle.dump(result, file)
        partial.replace(job.with_name(RESULT))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
