"""vLLM: a loop over its engine that keeps a bounded window of requests in flight, in a process of its own.

It waits for no batch to end and keeps no result; it renders no prompts (requests carry token ids).
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from pipeline import heap, models, soft_labels
from pipeline.engines import LOGPROBS_LIMIT, Completion, Request, failed
from pipeline.engines.capture import Capture
from pipeline.engines.host import Hosted, Place
from pipeline.roles import EngineExec, Role, Sampling, Speculative, thinking_budget
from pipeline.think import CLOSE, OPEN

# Requests handed to the engine beyond those it can run at once, so that none of its places waits for this loop.
WINDOW = 1.5
CPU_MAX_NUM_SEQS, GPU_MAX_NUM_SEQS = 128, 256
CPU_BLOCK_SIZE = 32  # the CPU build's own 128 never shares the prefix of a short prompt; below 32 it is slow
GIB = 1 << 30
ROOT = Path(__file__).resolve().parents[2]
Device = TypeVar("Device")


def start(role: Role, model: Path | None, seed: int, log: Path | None) -> Hosted:
    """Start vLLM on the weights in `model`. Raises ValueError with the log's place where it does not come up."""
    if model is None:
        raise ValueError(f"vLLM needs a local folder of weights for {role.model}; found none")
    return Hosted(__name__, with_guesser(role, ROOT), model, seed, log)


def with_guesser(role: Role, root: Path) -> Role:
    """The role with the model that guesses for it, where it has one, named by its local folder.

    Raises ModelError for one that cannot be found or fetched.
    """
    speculative = role.exec.speculative
    if speculative is None or speculative.model is None:
        return role
    folder = models.fetch(speculative.model, root, lambda line: None)
    found = speculative.model_copy(update={"model": str(folder)})
    return role.model_copy(update={"exec": role.exec.model_copy(update={"speculative": found})})


def check_sampling(role: Role, sampling: Sampling) -> None:
    """Raises ValueError for sampling that would not draw the same words with `exec.speculative` as without."""
    if role.exec.speculative is None:
        return
    if sampling.min_p:
        raise ValueError(
            f"sampling has min_p {sampling.min_p:g}, and {role.label} has exec.speculative; vLLM cannot check guessed "
            f"tokens against min_p. Set one of them to nothing (min_p: 0, or speculative: null)."
        )
    if sampling.temperature and on_cpu():
        # 0.32's `_expand_kernel_impl` writes each token's temperature into a copy that it drops: guesses are judged at
        # whatever the memory held, and were taken 959 times where the model would have 4. Greedy words are right.
        raise ValueError(
            f"sampling has temperature {sampling.temperature:g}, and {role.label} has exec.speculative; vLLM's CPU "
            f"build judges guessed tokens at a temperature of its own. Set temperature: 0, or speculative: null."
        )


def load(role: Role, model: Path, seed: int, place: Place) -> "Vllm":
    """Load vLLM into this process, on its place's part of the machine."""
    if on_cpu():
        cores = part(sorted(os.sched_getaffinity(0)), 1, place)
        os.sched_setaffinity(0, cores)
        heap.keep()
    elif place.of > 1:
        devices = part(visible_gpus(), role.exec.tensor_parallel_size, place)
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    return Vllm(role, model, seed)


def part(devices: Sequence[Device], least: int, place: Place) -> list[Device]:
    """A replica's share of the devices, the same number for each. Raises ValueError where that is under `least`."""
    share = len(devices) // place.of
    if share < least:
        raise ValueError(
            f"exec.replicas is {place.of} with {least} device(s) for each, but only {len(devices)} can be used. Lower "
            f"exec.replicas or exec.tensor_parallel_size"
        )
    return list(devices[place.number * share : (place.number + 1) * share])


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    return [str(number) for number, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]


class Vllm:
    """One engine on all of this machine that the role's `exec` gives it."""

    def __init__(self, role: Role, model: Path, seed: int) -> None:
        self.figures: dict[str, float] = {"prompt_tokens": 0, "cached_prompt_tokens": 0}
        if role.exec.speculative is not None:
            self.figures |= {"guessed_tokens": 0, "accepted_tokens": 0}
        self._llm, max_num_seqs = _start(role, model, seed)
        self._captures: dict[str, Capture] = {}
        self.window = int(max_num_seqs * WINDOW)

    def stream(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """See `host.Loaded`."""
        engine, waiting = self._llm.llm_engine, iter(requests)
        running: dict[str, Request] = {}
        while True:
            while len(running) < self.window and (request := next(waiting, None)) is not None:
                refusal = self._add(engine, request)
                if refusal is None:
                    running[request.id] = request
                else:
                    yield refusal
            if not running:
                return
            for output in engine.step():
                if output.finished and not self._again(engine, output, running[output.request_id]):
                    yield self._completion(output, running.pop(output.request_id))

    def _again(self, engine: Any, output: Any, request: Request) -> bool:
        """Whether a completion is scored once more, for the cache held some of its own tokens: what is read from there
        has no logits, and so no labels. Of the prompt none are wanted.
        """
        cached = output.num_cached_tokens or 0
        if request.score_ids is None or cached < max(1, len(request.prompt_token_ids or ())):
            return False
        return self._add(engine, request, cached=False) is None

    def _add(self, engine: Any, request: Request, cached: bool = True) -> Completion | None:
        """Hand a request to the engine. Returns its end where it is refused: a prompt longer than the context.

        cached: whether one to be scored may begin in the prefix cache.
        """
        from vllm.exceptions import VLLMValidationError

        prompt: Any = {"prompt": request.prompt}
        if request.prompt_token_ids is not None:
            # What is to be scored is a prompt up to its last token, which alone is "generated".
            prompt = {"prompt_token_ids": request.prompt_token_ids + (request.score_ids or [])[:-1]}
        try:
            if request.logprobs > (vocabulary := engine.model_config.get_vocab_size()):
                raise ValueError(f"logprobs = {request.logprobs}, and the vocabulary has {vocabulary} tokens")
            params = params_of(request, cached)
            own_id = engine.add_request(request.id, prompt, params)
        except (ValueError, VLLMValidationError) as error:
            return failed(request, f"refused by vLLM: {error}")
        if request.logprobs:
            skip = None if request.score_ids is None else len(request.prompt_token_ids or ())
            self._captures[request.id] = capture = Capture(request.logprobs, skip)
            engine.output_processor.request_states[own_id].logprobs_processor = capture
        return None

    def _completion(self, output: Any, request: Request) -> Completion:
        answer = output.outputs[0]
        prompt_tokens = len(output.prompt_token_ids or ())
        self.figures["prompt_tokens"] += prompt_tokens
        self.figures["cached_prompt_tokens"] += output.num_cached_tokens or 0
        guesses = answer.spec_decode_metrics
        if guesses is not None:
            self.figures["guessed_tokens"] += guesses.num_draft_tokens
            self.figures["accepted_tokens"] += sum(count * steps for count, steps in enumerate(guesses.histogram))
        finish, cause = answer.finish_reason, None
        if finish not in ("stop", "length"):
            finish, cause = "error", f"vLLM ended it with {answer.finish_reason!r}"
        token_ids, text = list(answer.token_ids), answer.text
        if request.score_ids is not None:
            token_ids, text, finish = request.score_ids, "", "stop" if cause is None else finish
        return Completion(
            id=request.id,
            text=text,
            token_ids=token_ids,
            finish=finish,
            cause=cause,
            prompt_tokens=prompt_tokens,
            completion_tokens=len(token_ids),
            labels=self._labels(request.id, token_ids, finish),
        )

    def _labels(self, request_id: str, token_ids: list[int], finish: str) -> bytes | None:
        """What was captured for a request, which must be of the tokens it ended with."""
        capture = self._captures.pop(request_id, None)
        if capture is None or finish == "error":
            return None
        packed = capture.packed()
        if soft_labels.head(packed).token_hash != soft_labels.hash_tokens(token_ids):
            raise RuntimeError(f"the logprobs that vLLM gave for {request_id} are not of the tokens that it gave")
        return packed


def params_of(request: Request, cached: bool = True) -> Any:
    """vLLM's SamplingParams for a request; cached: whether one to be scored may begin in the prefix cache."""
    if request.score_ids is None:
        return sampling_params(request.sampling, request.max_tokens, request.logprobs, request.thinking_budget)
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    # The prefix cache holds no logits: by itself vLLM does not read it for a request with prompt_logprobs. Those of the
    # prompt are not wanted. Raw logprobs are taken before all tokens but the last one are ruled out.
    return SamplingParams(
        prompt_logprobs=request.logprobs,
        skip_reading_prefix_cache=not cached,
        logprobs=request.logprobs,
        allowed_token_ids=request.score_ids[-1:],
        temperature=0.0,
        max_tokens=1,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


@lru_cache(maxsize=8)
def sampling_params(sampling: Sampling, max_tokens: int, logprobs: int = 0, thinking_budget: int | None = None) -> Any:
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
        logprobs=logprobs or None,
        thinking_token_budget=thinking_budget,
        skip_special_tokens=False,
        spaces_between_special_tokens=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _settings(on_cpu: bool) -> dict[str, str]:
    """What vLLM reads from the environment as it is imported."""
    if not on_cpu:
        return {"VLLM_NO_USAGE_STATS": "1"}
    return {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",  # by default the CPU build keeps a core for itself
        # Else it computes on one core where its engine has no processes below it.
        "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
        # The engine in this process, not two more below it: up in a third of the time, as fast, and the same words
        # for the same requests and seed.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }


def on_cpu() -> bool:
    """Whether the vLLM that is installed is its CPU build."""
    try:
        return bool(metadata.version("vllm-cpu"))
    except metadata.PackageNotFoundError:
        return False


def _start(role: Role, model: Path, seed: int) -> tuple[Any, int]:
    cpu = on_cpu()
    os.environ.update(_settings(cpu))
    from vllm import LLM

    settings = role.exec
    max_num_seqs = settings.max_num_seqs or (CPU_MAX_NUM_SEQS if cpu else GPU_MAX_NUM_SEQS)
    machine: dict[str, Any] = {
        "quantization": role.quantization,
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "tensor_parallel_size": settings.tensor_parallel_size,
    }
    if cpu:
        machine = {
            "quantization": role.quantization,
            "block_size": CPU_BLOCK_SIZE,
            "distributed_executor_backend": "uni",
            "enforce_eager": True,  # compiling costs a minute that a small model does not earn back
            "kv_cache_memory_bytes": kv_cache_bytes(settings),
        }
    if settings.max_num_batched_tokens is not None:
        machine["max_num_batched_tokens"] = settings.max_num_batched_tokens
    llm = LLM(
        str(model),
        dtype=role.dtype,
        max_model_len=role.max_model_len,
        max_num_seqs=max_num_seqs,
        seed=seed,
        max_logprobs=LOGPROBS_LIMIT,  # of a request; it costs nothing until one asks
        logprobs_mode="raw_logprobs",  # before temperature, penalties and top-p
        generation_config="vllm",  # the model's own sampling defaults stay out; its end tokens still count
        enable_prefix_caching=True,
        trust_remote_code=False,
        use_tqdm_on_load=False,
        **machine,
        **_options(role),
    )
    return llm, max_num_seqs


def _options(role: Role) -> dict[str, Any]:
    """What vLLM is told only where the recipe asks for it."""
    found: dict[str, Any] = {}
    if thinking_budget(role) is not None:
        found["reasoning_config"] = {"reasoning_start_str": OPEN, "reasoning_end_str": CLOSE}
    if role.exec.speculative is not None:
        found["speculative_config"] = speculative_config(role.exec.speculative)
        found["per_request_spec_decode_metrics"] = "summary"
    return found


def speculative_config(speculative: Speculative) -> dict[str, Any]:
    """vLLM's own, with every value that its method takes explicit."""
    found = {"method": speculative.method, "num_speculative_tokens": speculative.num_speculative_tokens}
    if speculative.method == "ngram":
        lookup = {"prompt_lookup_min", "prompt_lookup_max"}
        return found | speculative.model_dump(include=lookup)
    return found | {"model": speculative.model}


def kv_cache_bytes(settings: EngineExec) -> int:
    """Of the CPU build's cache: what the settings say, else an eighth of the memory, between 1 and 8 GiB."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return (settings.kv_cache_gib or max(1, min(8, memory // (8 * GIB)))) * GIB
