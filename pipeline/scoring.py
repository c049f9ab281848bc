"""From judged answers to figures: accuracy with its interval, what else went wrong, and how models compare.

It asks no model and judges no answer; the statistics are in `statistics.py`.

An answer counts as judged unless the judge itself failed (no verdict within its limits, an unreadable reference answer)
or the model could not be asked. What the model did (no answer, one cut off, one that cannot be parsed) is judged: not
right. pass@1 is right / judged within a question, averaged over the questions with a judged answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.statistics import gap_recovered, majority, mean_interval, paired_interval, pass_at_k

UNPARSEABLE = "answer_unparseable"
MISSING = "answer_missing"
FAILED = "generation_error"


@dataclass(frozen=True)
class Answer:
    """One judged sample. `vote` is its final answer, for cons@k: equal where two answers are one; None for none."""

    problem_id: str
    task: str
    outcome: str  # pass | fail | undecided
    reasons: tuple[str, ...]
    finish: str
    completion_tokens: int
    vote: str | None = None
    sample: int = 0  # its number among the question's
    # Of a classification: the label that is right, and the one that it says; None where it says none.
    expected: str | None = None
    said: str | None = None

    @property
    def right(self) -> bool:
        return self.outcome == "pass"

    @property
    def judged(self) -> bool:
        return self.outcome != "undecided" or self.reasons == (UNPARSEABLE,)


def by_question(answers: Sequence[Answer]) -> dict[str, list[Answer]]:
    """The judged answers of each question that has one."""
    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        if answer.judged:
            groups.setdefault(answer.problem_id, []).append(answer)
    return groups


def shares(answers: Sequence[Answer]) -> dict[str, float]:
    """Each question's share of right answers among its judged ones."""
    return {key: sum(one.right for one in group) / len(group) for key, group in by_question(answers).items()}


def figures(answers: Sequence[Answer], samples: int) -> dict[str, Any]:
    """All that is said of one model with one prompt, as JSON values; shares are of all answers it gave.

    `samples`: answers asked for per question. pass@k and cons@k (k = samples) stand there where k > 1, over the
    questions with k judged answers. Of classifications every class has its figures (see `by_class`).
    """
    tasks = sorted({answer.task for answer in answers})
    found = {
        **_accuracy(answers, samples),
        "answers": len(answers),
        **_rates(answers),
        "tasks": {task: _accuracy([one for one in answers if one.task == task], samples) for task in tasks},
    }
    return found | (_of_many(answers, samples) if samples > 1 else {}) | by_class(answers)


def by_class(answers: Sequence[Answer]) -> dict[str, Any]:
    """Precision, recall and F1 of each class over the judged answers to classifications, and the mean of F1 over the
    classes that are asked for; nothing where there is no classification.

    An answer that names no class is a miss of its own and a false alarm of none. None: nothing to divide by (van
    Rijsbergen 1979, "Information Retrieval", chapter 7).
    """
    judged = [answer for answer in answers if answer.judged and answer.expected is not None]
    if not judged:
        return {}
    names = sorted({name for answer in judged for name in (answer.expected, answer.said) if name is not None})
    found = {
        name: _class([one.expected == name for one in judged], [one.said == name for one in judged]) for name in names
    }
    return {"classes": found, "macro_f1": _mean([row["f1"] for row in found.values() if row["answers"]])}


def class_line(row: Mapping[str, Any]) -> str:
    """The figures of a class for a person."""
    shown = {name: "-" if row[name] is None else f"{row[name]:.3f}" for name in ("precision", "recall", "f1")}
    return f"precision {shown['precision']}, recall {shown['recall']}, F1 {shown['f1']}"


def _class(expected: Sequence[bool], said: Sequence[bool]) -> dict[str, Any]:
    """Of one class: whether each answer should name it, and whether it does."""
    right = sum(one and other for one, other in zip(expected, said, strict=True))
    return {
        "answers": sum(expected),
        "precision": right / sum(said) if any(said) else None,
        "recall": right / sum(expected) if any(expected) else None,
        "f1": 2 * right / (sum(expected) + sum(said)),
    }


def _accuracy(answers: Sequence[Answer], samples: int) -> dict[str, Any]:
    per_question = list(shares(answers).values())
    estimate = mean_interval(per_question, samples)
    return {"pass_at_1": estimate.value, "interval": estimate.interval, "questions": len(per_question)}


def _rates(answers: Sequence[Answer]) -> dict[str, float | None]:
    given = [answer for answer in answers if answer.finish != "error"]
    return {
        "mean_tokens": _mean([answer.completion_tokens for answer in given]),
        "truncated_share": _mean([answer.finish == "length" for answer in given]),
        "no_answer_share": _mean([MISSING in answer.reasons for answer in given]),
        "unparseable_share": _mean([UNPARSEABLE in answer.reasons for answer in given]),
        "undecided_share": _mean([not answer.judged and FAILED not in answer.reasons for answer in given]),
        "error_share": _mean([answer.finish == "error" for answer in answers]),
    }


def _of_many(answers: Sequence[Answer], samples: int) -> dict[str, Any]:
    groups = [group for group in by_question(answers).values() if len(group) == samples]
    passes = [pass_at_k(samples, sum(one.right for one in group), samples) for group in groups]
    return {
        "pass_at_k": {str(samples): _mean(passes)},
        "cons_at_k": {str(samples): _mean([_agreed_right(group) for group in groups])},
        "questions_at_k": len(groups),
    }


def _agreed_right(group: Sequence[Answer]) -> bool:
    ordered = sorted(group, key=lambda answer: answer.sample)  # whichever was judged first
    chosen = majority([answer.vote for answer in ordered])
    return chosen is not None and ordered[chosen].right


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def better(prompts: Mapping[str, Mapping[str, Any]]) -> str:
    """The name of the prompt with the highest pass@1, the first of equals. `prompts`: figures by prompt."""
    return max(prompts, key=lambda name: prompts[name]["pass_at_1"] or 0.0)


def compare(teacher: Sequence[Answer], base: Sequence[Answer], student: Sequence[Answer]) -> dict[str, Any]:
    """Paired differences and the gap recovered, each over the questions that its models all have judged answers to."""
    of = {"teacher": shares(teacher), "base": shares(base), "student": shares(student)}
    return {
        "paired": {
            "student_minus_base": difference(of["student"], of["base"]),
            "student_minus_teacher": difference(of["student"], of["teacher"]),
        },
        "gap_recovered": _gap(of),
    }


def difference(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, Any]:
    """The paired difference of two models' shares, over the questions that both have judged answers to."""
    common = sorted(one.keys() & other.keys())
    estimate = paired_interval([one[key] for key in common], [other[key] for key in common])
    return {"difference": estimate.value, "interval": estimate.interval, "questions": len(common)}


def _gap(of: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    common = sorted(of["teacher"].keys() & of["base"].keys() & of["student"].keys())
    student, base, teacher = ([of[name][key] for key in common] for name in ("student", "base", "teacher"))
    estimate = gap_recovered(student, base, teacher)
    return {"value": estimate.value, "interval": estimate.interval, "questions": len(common)}
