"""vLLM in this process's service: a loop over its engine that keeps a bounded window of requests in flight.

It waits for no batch to end and keeps no result; it renders no prompts (requests carry token ids).
"""

import gc
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.engines import Completion, Request, failed
from pipeline.engines.lifeline import Lifeline
from pipeline.roles import Role, Sampling

# Requests handed to the engine beyond those it can run at once, so that none of its places waits for this loop.
WINDOW = 1.5
CPU_MAX_NUM_SEQS, GPU_MAX_NUM_SEQS = 128, 256
CPU_BLOCK_SIZE = 32  # the CPU build's own 128 never shares the prefix of a short prompt; below 32 it is slow
GIB = 1 << 30


def start(role: Role, model: Path | None, seed: int, log: Path | None) -> "Vllm":
    """Start vLLM on the weights in `model`. Raises ValueError with the log's place where it does not come up."""
    if model is None:
        raise ValueError(f"vLLM needs a local folder of weights for {role.model}; found none")
    return Vllm(role, model, seed, log)


class Vllm:
    """One engine on all of this machine that the role's `exec` gives it."""

    def __init__(self, role: Role, model: Path, seed: int, log: Path | None) -> None:
        self.figures: dict[str, float] = {"prompt_tokens": 0, "cached_prompt_tokens": 0}
        self._log = log or Path(tempfile.gettempdir()) / f"vllm-{os.getpid()}.log"
        self._lifeline = Lifeline()
        self._llm: Any = None
        try:
            with _quiet(self._log), _environment(_SETTINGS):
                self._llm, self._max_num_seqs = _start(role, model, seed)
            self._lifeline.up()
        except Exception as error:
            self._lifeline.cut()
            raise ValueError(f"vLLM did not start with {model}: {error}. Its log is {self._log}") from error
        except BaseException:
            self._lifeline.cut()
            raise

    def stream(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """See `Engine`. Raises ValueError where the engine dies; what it had finished has been yielded."""
        engine, waiting = self._llm.llm_engine, iter(requests)
        window = int(self._max_num_seqs * WINDOW)
        running: dict[str, Request] = {}
        more = True
        while True:
            while more and len(running) < window:
                request = next(waiting, None)
                if request is None:
                    more = False
                    break
                refusal = self._add(engine, request)
                if refusal is None:
                    running[request.id] = request
                else:
                    yield refusal
            if not running:
                return
            for output in self._step(engine):
                if output.finished:
                    yield self._completion(output, running.pop(output.request_id))

    def _add(self, engine: Any, request: Request) -> Completion | None:
        """Hand a request to the engine. Returns its end where it is refused: a prompt longer than the context."""
        from vllm.exceptions import VLLMValidationError

        try:
            engine.add_request(
                request.id,
                {"prompt_token_ids": request.prompt_token_ids}
                if request.prompt_token_ids is not None
                else {"prompt": request.prompt},
                sampling_params(request.sampling, request.max_tokens),
            )
        except (ValueError, VLLMValidationError) as error:
            return failed(request, f"refused by vLLM: {error}")
        return None

    def _step(self, engine: Any) -> list[Any]:
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            return list(engine.step())
        except EngineDeadError as error:
            raise ValueError(
                f"vLLM died while generating. Its log is {self._log}. All completions it had finished are stored: run "
                f"again for the others, with a smaller max_num_seqs or max_model_len if memory ran out."
            ) from error

    def _completion(self, output: Any, request: Request) -> Completion:
        answer = output.outputs[0]
        prompt_tokens = len(output.prompt_token_ids or ())
        self.figures["prompt_tokens"] += prompt_tokens
        self.figures["cached_prompt_tokens"] += output.num_cached_tokens or 0
        finish, cause = answer.finish_reason, None
        if finish not in ("stop", "length"):
            finish, cause = "error", f"vLLM ended it with {answer.finish_reason!r}"
        return Completion(
            id=request.id,
            text=answer.text,
            token_ids=list(answer.token_ids),
            finish=finish,
            cause=cause,
            prompt_tokens=prompt_tokens,
            completion_tokens=len(answer.token_ids),
        )

    def close(self) -> None:
        llm, self._llm = self._llm, None
        if llm is None:
            return
        try:
            llm.llm_engine.engine_core.shutdown()
        finally:
            del llm
            gc.collect()
            self._lifeline.cut()


@lru_cache(maxsize=8)
def sampling_params(sampling: Sampling, max_tokens: int) -> Any:
    """vLLM's SamplingParams with every value explicit.

    No seed: on the CPU a request's own seed kills the engine as soon as a prefill is chunked. Special tokens stay in
    the text, since some tokenizers count think tags among them; vLLM leaves out the token that ended a completion.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        n=1,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        min_tokens=min(sampling.min_tokens, max_tokens),
        stop=list(sampling.stop),
        max_tokens=max_tokens,
        seed=None,
        skip_special_tokens=False,
        spaces_between_special_tokens=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


_SETTINGS = {
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",  # by default the CPU build keeps a core for itself
    "VLLM_NO_USAGE_STATS": "1",
}


def _start(role: Role, model: Path, seed: int) -> tuple[Any, int]:
    from vllm import LLM
    from vllm.platforms import current_platform

    on_cpu = current_platform.is_cpu()
    settings = role.exec
    max_num_seqs = settings.max_num_seqs or (CPU_MAX_NUM_SEQS if on_cpu else GPU_MAX_NUM_SEQS)
    machine: dict[str, Any] = {
        "quantization": role.quantization,
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "tensor_parallel_size": settings.tensor_parallel_size,
    }
    if on_cpu:
        machine = {
            "quantization": role.quantization,
            "block_size": CPU_BLOCK_SIZE,
            "enforce_eager": True,  # compiling costs a minute that a small model does not earn back
            "kv_cache_memory_bytes": (settings.kv_cache_gib or _kv_cache_gib()) * GIB,
        }
    llm = LLM(
        str(model),
        dtype=role.dtype,
        max_model_len=role.max_model_len,
        max_num_seqs=max_num_seqs,
        seed=seed,
        generation_config="vllm",  # the model's own sampling defaults stay out; its end tokens still count
        enable_prefix_caching=True,
        trust_remote_code=False,
        use_tqdm_on_load=False,
        **machine,
    )
    return llm, max_num_seqs


def _kv_cache_gib() -> int:
    """An eighth of the memory, between 1 and 8 GiB."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(8, memory // (8 * GIB)))


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables for the processes that start inside, and undo all that vLLM itself sets for them."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _quiet(log: Path) -> Iterator[None]:
    """Send what vLLM logs, and what the processes that start inside write to their streams, to a file.

    This process's own sys.stdout and sys.stderr still reach where they did, for a display that runs meanwhile.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    settings = log.with_name(f"{log.name}.json")
    settings.write_text(json.dumps(_logging(log)), encoding="utf-8")
    streams, before = (sys.stdout, sys.stderr), (os.dup(1), os.dup(2))
    with open(log, "ab") as file, _environment({"VLLM_LOGGING_CONFIG_PATH": str(settings)}):
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = (os.fdopen(handle, "w", buffering=1, closefd=False) for handle in before)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = streams
            for handle, number in zip(before, (1, 2), strict=True):
                os.dup2(handle, number)
                os.close(handle)


def _logging(log: Path) -> dict[str, Any]:
    """A logging configuration (see logging.config) that sends all of vLLM's loggers to a file."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"plain": {"format": "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"}},
        "handlers": {"log": {"class": "logging.FileHandler", "filename": str(log), "formatter": "plain"}},
        "loggers": {"vllm": {"handlers": ["log"], "level": "INFO", "propagate": False}},
    }
