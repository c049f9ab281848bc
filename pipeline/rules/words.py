"""Words as the rules against repetition count them, cheaper than `pipeline.text.words` and cruder: signs stay on the
words that they touch, which changes nothing where a text repeats itself.
"""

import re
import unicodedata

# Thai, Lao, Burmese, Khmer, Kana, Han and Hangul: a run of them is many words.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_UNSPACED_LETTER = re.compile(f"[{_UNSPACED}]")
# Every repeat is possessive: no backtracking.
_PART = re.compile(rf"\d++|[{_UNSPACED}]|[^\W\d_{_UNSPACED}]++|[^\w\s]|_")
_LONGEST = 40  # a longer run without white space is no word, but a formula


def folded(text: str) -> str:
    """The text with compatibility forms (NFKC) and case folded, its lines kept."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def words(text: str, parts: list[str]) -> list[str]:
    """The words of a folded text: its `parts` between white space. Where those are no words (a formula or a
    script without spaces) the whole text is taken apart into words, numbers and single signs.
    """
    spaced = not parts or (max(map(len, parts)) <= _LONGEST and (text.isascii() or not _UNSPACED_LETTER.search(text)))
    return parts if spaced else _PART.findall(text)
