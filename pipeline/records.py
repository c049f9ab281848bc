"""The row schemas (pyarrow) of every dataset of a run; it reads and writes nothing.

Every dataset has a string column `id`, unique in it, and ids are content: a problem's id hashes its text, a trace's
id hashes what could change the teacher's words. Verdicts and scores carry the id of the trace they judge.
"""

import hashlib
import json
from typing import Any

import pyarrow as pa

STRINGS = pa.list_(pa.string())
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
# A span of a trace format: raw[start:end] where text is null, inserted text where start and end are null.
SPANS = pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32()), ("text", pa.string())]))

PROBLEM = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("answer", pa.string()),
        ("domain", pa.string()),
        ("task", pa.string()),
        ("verifier", pa.string()),
        ("verifier_data", pa.string()),  # JSON: the scorer's entry, choices, code cases; "{}" where there is none
        ("source", pa.string()),
        ("license", pa.string()),
        ("split", pa.string()),  # "train", or the name of a held-out block: "dev", "eval", ...
        ("parent_id", pa.string()),  # the problem it was rewritten from; null for a source's own
        ("augmentation", pa.string()),  # how: paraphrase | back_translation | harder; null for a source's own
    ]
)

# A row that could not become a problem. Its id hashes where it stood and what it said; text may be null.
REJECT = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("answer", pa.string()),
        ("task", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)

# A question of a benchmark that problems were compared with.
REFERENCE = pa.schema(
    [
        ("id", pa.string()),
        ("benchmark", pa.string()),  # its name in the recipe
        ("item", pa.string()),  # where it stood: "line 7"
        ("text", pa.string()),
    ]
)

TRACE = pa.schema(
    [
        ("id", pa.string()),
        ("problem_id", pa.string()),
        ("sample", pa.int32()),
        ("teacher", pa.string()),  # the model's name in the recipe
        ("weights", pa.string()),  # digest of the weights, or hub commit
        ("prompt", pa.string()),  # as rendered
        ("raw", pa.string()),  # the completion's text, exactly as it came
        ("token_ids", pa.list_(pa.int32())),  # the completion's token ids; null where a server returns none
        ("finish", pa.string()),  # stop | length | error
        ("cause", pa.string()),  # of an error; null otherwise
        ("prompt_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
        ("sampling", pa.string()),  # JSON of every resolved sampling value
        ("engine_seed", pa.int64()),
        ("parent_trace_id", pa.string()),
    ]
)

# Of a trace's soft labels (the k likeliest candidates of each token, their raw logprobs, the others' mass) where they
# lie: the completion store holds them, once. `labelling.read` finds them.
SOFT_LABELS = pa.schema(
    [
        ("id", pa.string()),  # the trace's; that of another teacher's labels has more behind it (`label_id`)
        ("teacher", pa.string()),  # whose labels they are: the model's name in the recipe
        ("vocabulary", pa.string()),  # fingerprint of what each token id stands for
        # Of the trace's token ids, or of the tokens that another teacher reads its text as: labels of other tokens are
        # never taken for these.
        ("token_hash", pa.string()),
        ("k", pa.int32()),
        ("tokens", pa.int32()),
        ("folder", pa.string()),  # of the store
        ("check", pa.int64()),  # crc32: other labels are never taken for these
    ]
)

# How the sampling of a problem by a teacher ended, where it may end early.
DECISION = pa.schema(
    [
        ("id", pa.string()),
        ("problem_id", pa.string()),
        ("teacher", pa.string()),  # the model's name in the recipe
        ("first_trace_id", pa.string()),  # of sample 0: it stands for prompt, weights and sampling
        ("asked", pa.int32()),  # samples made
        ("right", pa.int32()),
        ("wrong", pa.int32()),
        ("undecided", pa.int32()),
        ("samples", pa.int32()),  # the most there could have been
        ("right_wanted", pa.int32()),
        ("would_add", pa.int32()),  # samples that today's verifiers would add to a problem decided earlier
    ]
)

VERDICT = pa.schema(
    [
        ("id", pa.string()),
        ("outcome", pa.string()),  # pass | fail | undecided
        ("reasons", STRINGS),
        ("score", pa.float64()),
        ("detail", pa.string()),  # JSON
    ]
)

# How well the judge model finds a right trace reasoned and written. id is the trace's.
RATING = pa.schema([("id", pa.string()), ("score", pa.float64())])  # 1 to 10; null where it gave none

# What a text has in common with others, so that it need not be read again. id hashes the text and how it was signed.
SIGNATURE = pa.schema(
    [
        ("id", pa.string()),
        ("packed", pa.binary()),  # a record of `similarity.minhash.Shingling`
    ]
)

# One row a problem: how its traces were judged. id is the problem's. The interval is Wilson's at 95 %, of right among
# right + wrong; null, as the rate, where both are 0. Undecided traces stand apart.
PASS_RATE = pa.schema(
    [
        ("id", pa.string()),
        ("right", pa.int32()),
        ("wrong", pa.int32()),
        ("undecided", pa.int32()),
        ("pass_rate", pa.float64()),  # right / (right + wrong)
        ("pass_rate_low", pa.float64()),
        ("pass_rate_high", pa.float64()),
        ("reasons", STRINGS),  # gold_suspected: the traces agree with each other, never with the reference; pseudo_gold
        ("agreed_answer", pa.string()),  # what most of the traces say, where there is such a reason; else null
        ("agreed_count", pa.int32()),  # how many of them say so
    ]
)

EXAMPLE = pa.schema(
    [
        ("id", pa.string()),  # the trace's; that of a repeat ends in +1, +2, ...; of its own for a general example
        ("problem_id", pa.string()),
        ("parent_id", pa.string()),  # the problem that this one was rewritten from; null for a source's own
        ("prompt", MESSAGES),
        ("completion", MESSAGES),
        ("spans", SPANS),
        ("finish", pa.string()),  # how the trace ended: stop | length; null for a general example, which is whole
        ("split", pa.string()),  # train | validation
        ("place", pa.float64()),  # in the order it is to be learnt in, 0 first, below 1; null where there is none
        ("domain", pa.string()),
        ("task", pa.string()),
        ("answer", pa.string()),
        ("teacher", pa.string()),
        ("weights", pa.string()),
        ("sampling", pa.string()),
        ("source", pa.string()),
        ("license", pa.string()),
    ]
)

# What became of each trace. reason is the first of reasons in the funnel's order; null where it was kept.
FATE = pa.schema(
    [
        ("id", pa.string()),
        ("problem_id", pa.string()),
        ("task", pa.string()),
        ("kept", pa.bool_()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("reasons", STRINGS),
    ]
)

SCORE = pa.schema(
    [
        ("id", pa.string()),  # hash of model and trace id
        ("model", pa.string()),  # teacher | base | student
        ("prompt_name", pa.string()),
        ("problem_id", pa.string()),
        ("split", pa.string()),
        ("task", pa.string()),
        ("sample", pa.int32()),
        ("outcome", pa.string()),
        ("reasons", STRINGS),
        ("finish", pa.string()),
        ("completion_tokens", pa.int32()),
        ("raw", pa.string()),
    ]
)


def base_id(row_id: str) -> str:
    """The id of the trace that a row is about: a repeat of an example, or a further teacher's labels, without what
    stands behind the +.
    """
    return row_id.partition("+")[0]


def label_id(trace_id: str, key: str) -> str:
    """The id of a row of SOFT_LABELS: the trace's, where its own teacher's labels are filed under that, else with the
    key that another teacher's are filed under behind a +.
    """
    return trace_id if key == trace_id else f"{trace_id}+{key}"


def labels_key(row_id: str) -> str:
    """What the labels of a row of SOFT_LABELS are filed under."""
    return row_id.rpartition("+")[2]


def content_id(*parts: Any) -> str:
    """A 128-bit id in hex of JSON-able parts. The same parts give the same id on any machine, in any order of rows."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
