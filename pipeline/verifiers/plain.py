r"""An answer without its typography: maths delimiters, \text{...}, quotes, a final full stop. It compares nothing."""

import re

from pipeline.text import squeeze

_COMMAND = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|mbox|operatorname|boxed)\s*\{")
_PAIRS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ('"', '"'), ("'", "'"), ("“", "”"), ("**", "**"))
_NUMBER = re.compile(r"-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")


def plain(text: str) -> str:
    """The text inside whatever is wrapped around the whole of it, with one space for any white space and a hyphen for
    a minus sign. What stands within stays as it is.
    """
    text = squeeze(text).replace("\N{MINUS SIGN}", "-")
    while (inner := _unwrapped(text)) != text:
        text = inner
    return text


def numbers(text: str) -> list[str]:
    """The numbers of a text as written, in order."""
    return _NUMBER.findall(text)


def _unwrapped(text: str) -> str:
    if text.endswith(".") and text.strip("."):
        return text.rstrip(". ")
    for opening, closing in _PAIRS:
        inner = text[len(opening) : -len(closing)]
        whole = text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing)
        if whole and opening not in inner and closing not in inner and not inner.endswith("\\"):
            return inner.strip()
    command = _COMMAND.match(text)
    if command is not None and _closes_at_the_end(text, command.end()):
        return text[command.end() : -1].strip()
    return text


def _closes_at_the_end(text: str, start: int) -> bool:
    depth = 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return position == len(text) - 1
    return False
