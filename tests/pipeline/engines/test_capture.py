"""The capture of logprobs, fed with arrays as vLLM's engine core hands them over."""

from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline.engines.capture import Capture
from pipeline.soft_labels import SoftLabels, unpack
from tests.pipeline.labels import made_up

K, TOKENS = 4, 6


class Made(NamedTuple):
    """Rows of a sampled token and its candidates, as vLLM's LogprobsLists and LogprobsTensors have them."""

    logprob_token_ids: Any
    logprobs: Any


class Output(NamedTuple):
    """What a capture reads of an EngineCoreOutput."""

    new_logprobs: Made | None = None
    new_prompt_logprobs_tensors: Made | None = None


def rows(labels: SoftLabels, start: int, end: int, wider: int = 0) -> Made:
    """Some tokens' rows; a batch with a request for more candidates has wider ones."""
    some = slice(start, end)
    more = np.full((end - start, wider), 99)
    return Made(
        np.concatenate([labels.sampled[some, None], labels.ids[some], more], axis=1),
        np.concatenate([labels.sampled_logprobs[some, None], labels.logprobs[some], -more], axis=1).astype(np.float32),
    )


def labels_of(capture: Capture) -> SoftLabels:
    return unpack(capture.packed())


def test_each_step_adds_its_tokens_and_candidates_nobody_asked_for_are_left_out() -> None:
    given, capture = made_up(TOKENS, K, 200), Capture(K)
    for step in range(0, TOKENS, 2):
        capture.update_from_output(Output(rows(given, step, step + 2, wider=step)))
    capture.update_from_output(Output())
    found = labels_of(capture)
    assert found.sampled.tolist() == given.sampled.tolist()
    assert np.sort(found.ids).tolist() == np.sort(given.ids).tolist()


def test_what_is_kept_is_not_what_vllm_may_use_again() -> None:
    given, capture = made_up(TOKENS, K, 200), Capture(K)
    made = rows(given, 0, TOKENS)
    capture.update_from_output(Output(made))
    made.logprob_token_ids[:] = 0
    assert labels_of(capture).sampled.tolist() == given.sampled.tolist()


def test_a_scored_completion_has_the_rows_of_its_tokens_and_none_of_the_prompt() -> None:
    """A prompt of three tokens and a completion of TOKENS: the last row comes as if it were generated."""
    whole = made_up(2 + TOKENS, K, 200)
    capture = Capture(K, skip=3)
    prompt = rows(whole, 0, 1 + TOKENS)
    capture.update_from_output(
        Output(rows(whole, 1 + TOKENS, 2 + TOKENS), Made(*(torch.from_numpy(part.copy()) for part in prompt)))
    )
    assert labels_of(capture).sampled.tolist() == whole.sampled[2:].tolist()


def test_what_vllm_reads_of_it_says_that_there_is_nothing() -> None:
    capture = Capture(K)
    assert (capture.logprobs, capture.prompt_logprobs, capture.cumulative_logprob) == (None, None, None)
    assert capture.prompt_token_id_logprobs is None
    assert capture.pop_prompt_logprobs() is None
    assert capture.pop_prompt_token_id_logprobs() is None
