r"""A reasoning without what is no language: code, formulas, LaTeX commands, quotes, short parentheses.

It works by cutting at single signs, so that its time is linear in the text whatever the text is.
"""

import re

_COMMAND = re.compile(r"\\[A-Za-z]++")
_QUOTES = (("\u201c", "\u201d"), ("\u201e", "\u201c"), ("\u00ab", "\u00bb"), ("\u300c", "\u300d"), ("\u300e", "\u300f"))
_PARENTHESES = (("(", ")"), ("\uff08", "\uff09"))
_QUOTE_CHARS, _PARENTHESIS_CHARS = 300, 60  # longer ones are the text's own


def prose(text: str) -> str:
    """What is left of a text; each piece that goes leaves a space."""
    if "`" in text:
        text = " ".join(text.split("```")[::2])
        text = _outside(text, "`")
    if "$" in text or "\\" in text:
        for sign in ("\\[", "\\]", "\\(", "\\)", "$$"):
            text = text.replace(sign, "$")
        text = "\n\n".join(_outside(paragraph, "$", whole=True) for paragraph in text.split("\n\n"))
        text = _COMMAND.sub(" ", text)
    text = _outside(text, '"')
    for opening, closing in _QUOTES:
        text = _without(text, opening, closing, _QUOTE_CHARS)
    for opening, closing in _PARENTHESES:
        text = _without(text, opening, closing, _PARENTHESIS_CHARS)
    return text


def _outside(text: str, sign: str, whole: bool = False) -> str:
    """The text outside pairs of a sign, line by line (or as a `whole`). Where a sign has no partner nothing goes."""
    if sign not in text:
        return text
    if not whole:
        return "\n".join(_outside(line, sign, whole=True) for line in text.split("\n"))
    pieces = text.split(sign)
    return " ".join(pieces[::2]) if len(pieces) % 2 else text


def _without(text: str, opening: str, closing: str, longest: int) -> str:
    """The text without what stands between two different signs, up to `longest` characters within a line."""
    if opening not in text:
        return text
    first, *pieces = text.split(opening)
    kept = [first]
    for piece in pieces:
        inside, found, after = piece.partition(closing)
        gone = found and len(inside) <= longest and "\n" not in inside
        kept.append(after if gone else piece)
    return " ".join(kept)
