"""Takes the top-k logprobs of each token out of vLLM as it makes them, in place of vLLM's own collecting.

vLLM 0.32 keeps every entry of a running request in four Python lists, with each candidate's text: at k = 50 some 8 KB a
token, held until the request ends whatever the kind of output. A capture takes the arrays that the sampler made, and
packs them block by block. It asks vLLM for nothing: the request's SamplingParams do.
"""

from typing import Any

import numpy as np

from pipeline.soft_labels import Packer


class Capture:
    """Stands where vLLM's LogprobsProcessor of one request stood (`RequestState.logprobs_processor`).

    `skip` is the number of prompt tokens before the first that is to be labelled; None labels what is generated.
    """

    # What vLLM reads from it when it makes an output: there is nothing of it here to hand on.
    logprobs = prompt_logprobs = cumulative_logprob = prompt_token_id_logprobs = None

    def __init__(self, k: int, skip: int | None = None) -> None:
        self._packer = Packer(k)
        self._skip = skip

    def update_from_output(self, output: Any) -> None:
        """Take what one step of the engine made for this request (an EngineCoreOutput)."""
        prompt = output.new_prompt_logprobs_tensors
        if prompt is not None and self._skip is not None:
            # The first prompt token is predicted by nothing: row i is of token i + 1.
            start = self._skip - 1
            self._take(prompt.logprob_token_ids.numpy()[start:], prompt.logprobs.numpy()[start:])
        made = output.new_logprobs
        if made is not None:
            self._take(made.logprob_token_ids, made.logprobs)

    def _take(self, ids: np.ndarray[Any, Any], logprobs: np.ndarray[Any, Any]) -> None:
        """Rows of a token, then its candidates by falling logprob; a batch's rows are as wide as its largest k."""
        k = self._packer.k
        self._packer.add(ids[:, 0], logprobs[:, 0], ids[:, 1 : k + 1], logprobs[:, 1 : k + 1])

    def pop_prompt_logprobs(self) -> None:
        """Part of what it stands for."""

    def pop_prompt_token_id_logprobs(self) -> None:
        """Part of what it stands for."""

    def packed(self) -> bytes:
        """The labels of all tokens so far."""
        return self._packer.packed()
