"""The verifier `label`: one of the classes of a classification, by its name or a synonym. It reads no sentences: of an
answer that talks about a class it decides nothing.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from pipeline.text import fold, words
from pipeline.verifiers import Judgement, right, undecided, wrong
from pipeline.verifiers.plain import plain

_HEAD = re.compile(r"^(?:(?:the|a|an)\s+)?(?:(?:label|class|category|answer)\b\s*(?:(?:is|:|=)\s*)?)?", re.IGNORECASE)


def judge(given: str, gold: str, data: dict[str, Any]) -> Judgement:
    """`data` is {"labels": [names], "synonyms": {name: [other names]}}, both optional; case and typography never count.

    Right where answer and reference name the same label. Wrong where the answer names another one, or none at all;
    without `labels`, any other answer. Undecided (answer_unparseable) where it says more than a name and mentions one
    of them ("not negative"), and (gold_unparseable) where the reference is no label or two labels share a name.
    """
    try:
        names = _names(data)
    except ValueError as error:
        return undecided("gold_unparseable", error=str(error))
    expected = _expected(gold, data, names)
    if not expected:
        return undecided("gold_unparseable", error="the reference answer is none of the labels")
    found = _named(given, names)
    if found is not None or _bare(given) == expected:
        return right() if found in (None, expected) else wrong(label=found)
    mentioned = _mentioned(given, {**names, expected: expected})
    if mentioned:
        return undecided("answer_unparseable", error=f"more than a label, about {', '.join(sorted(mentioned))}")
    return wrong(error="the answer is none of the labels")


def classes(
    given: str | None, gold: str, data: dict[str, Any], known: Iterable[str] = ()
) -> tuple[str, str | None] | None:
    """The labels, folded, of a reference and of an answer (None: it names none); None where the reference has none.

    `known` are the references of the whole task: without `labels` in `data`, those are the classes that there are.
    """
    try:
        names = _names(data)
    except ValueError:
        return None
    for other in () if data.get("labels") else known:
        names.setdefault(fold(plain(other)), fold(plain(other)))
    expected = _expected(gold, data, names)
    if not expected:
        return None
    said = None if given is None else _named(given, names) or (expected if _bare(given) == expected else None)
    return expected, said


def _expected(gold: str, data: dict[str, Any], names: dict[str, str]) -> str | None:
    return _named(gold, names) or (None if data.get("labels") else fold(plain(gold)))


def _names(data: dict[str, Any]) -> dict[str, str]:
    """Every folded name -> the folded label that it stands for. Raises ValueError where one stands for two."""
    names: dict[str, str] = {}
    for name, label in _pairs(data):
        if names.setdefault(name, label) != label:
            raise ValueError(f"found {name!r} for both {names[name]!r} and {label!r}; expected each name once")
    return names


def _pairs(data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    labels, synonyms = data.get("labels", []), data.get("synonyms", {})
    if not isinstance(labels, list) or not isinstance(synonyms, dict):
        raise ValueError('expected {"labels": [names], "synonyms": {label: [names]}} in verifier_data')
    for label in [*labels, *synonyms]:
        yield fold(plain(str(label))), fold(plain(str(label)))
    for label, others in synonyms.items():
        for other in others if isinstance(others, list) else [others]:
            yield fold(plain(str(other))), fold(plain(str(label)))


def _named(text: str, names: dict[str, str]) -> str | None:
    """The label that the whole of a text names, with or without "the label is" before it."""
    folded = fold(plain(text))
    return names.get(folded) or names.get(_bare(text))


def _bare(text: str) -> str:
    folded = fold(plain(text))
    return fold(plain(_HEAD.sub("", folded, count=1))) or folded


def _mentioned(text: str, names: dict[str, str]) -> set[str]:
    """The labels whose names stand as whole words within a text."""
    said = f" {' '.join(words(text))} "
    return {label for name, label in names.items() if f" {' '.join(words(name))} " in said}
