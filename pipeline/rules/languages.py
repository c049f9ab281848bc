"""Rules about the language of a reasoning: mixed with another one, or not the one that was asked for.

Scripts tell most languages apart; those in Latin letters are told by their function words, which sums, names and terms
do not hold. Languages in Latin letters that are not in FUNCTION_WORDS are not seen, nor is one sentence of a language
whose script the reasoning shares otherwise. There is no model: the same text always gets the same verdict.
"""

import re
from collections import Counter
from functools import lru_cache

from pipeline.rules.limits import Limits
from pipeline.rules.prose import prose
from pipeline.rules.trace import Broken, Trace, Traces

# Words that stand in almost any sentence of a language, but no particles of names (de, van, der). A word of two
# languages speaks for both; English has its homographs of the others (come, plus) too, so that they count against it
# nowhere.
_WORDS = {
    "en": "the and is are of that this then we have with which from because so what would should there these they "
    "their was were been it for not let since therefore thus hence its you your how if but by to get need "
    "first can be as at on each all has will must just only now when where also plus par per come do no met "
    "die den son con pour",
    "de": "und nicht ist das ein eine einen wir ich auch mit sich wenn dann aber oder wird werden sind haben daher "
    "weil deshalb dass durch nach zuerst damit kann muss müssen ergibt somit wie zum zur beide auf bei für "
    "gilt als nun jetzt",
    "fr": "les est et qui que dans pour avec sur nous vous une donc alors mais cette sont pas aux avons puis ainsi "
    "il elle on ce ces leur chaque comme peut fait même aussi doit par plus",
    "es": "que es una con para por como pero entonces porque cuando tiene donde cada este esta estos puede tenemos "
    "vamos primero luego ahora se un lo son más también al nos",
    "it": "il gli che una per con non come ma anche sono questo questa nel nella quindi allora abbiamo possiamo "
    "ogni dove quando prima poi se si un sia dal al",
    "pt": "os um uma não com para por como mas também então porque mais são isso temos podemos onde quando primeiro "
    "depois agora que em se na no ao esta este cada",
    "nl": "het een dat niet we met voor op zijn maar ook als dan wordt worden dus omdat naar dit deze er heeft "
    "hebben kunnen moet nu eerst en is aan bij uit",
    "sv": "och det är att som inte med av till har vi om så kan från när då också eller detta därför ett en på för "
    "varje blir alltså eftersom sedan",
    # Norwegian too: a sentence of one holds hardly a word that the other lacks.
    "da": "og det er at som ikke ikkje med af av til har vi hvis så kan fra når da også eller dette derfor jeg et på "
    "for hver bliver blir altså fordi",
    "pl": "nie jest się że na jak ale tak czy oraz więc dla który która które mamy można jeśli wtedy ponieważ dlatego "
    "przez są być teraz",
    "cs": "je se že na jak ale tak pro který která které máme pokud pak protože proto jsou být nebo když tedy od při "
    "není takže",
    "ro": "și este nu că cu pentru din care sunt mai dar sau dacă atunci deci avem prin pe acum fiecare când unde apoi",
    "tr": "ve bir bu için ile olarak olan çok daha gibi ama değil eğer ise çünkü sonra kadar olur",
    "id": "dan yang adalah tidak ini itu dengan untuk dari pada karena jadi maka kita akan atau juga dapat bisa jika "
    "setiap sebagai",
    "vi": "là và của có không một các được này với thì những nếu vì nên bằng đó số",
    "fi": "ja ei että niin kun mutta myös ovat joka jos siis koska sitten nyt tämä mitä voi olla kuin sekä ole",
    "hu": "és az hogy nem egy ez akkor mert tehát így csak kell vagy már minden lesz volt",
}
FUNCTION_WORDS = {code: frozenset(words.split()) for code, words in _WORDS.items()}
# Scripts with the RE2 name of each. A run of letters is a word; where words are not set apart, so many letters are one.
SCRIPTS = {
    "zh": ("Han", "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f", 2),
    "ja": ("Hiragana|Katakana", "\u3041-\u30ff", 2),
    "ko": ("Hangul", "\u1100-\u11ff\uac00-\ud7af", 0),
    "ru": ("Cyrillic", "\u0400-\u052f", 0),
    "el": ("Greek", "\u0370-\u03ff\u1f00-\u1fff", 0),
    "ar": ("Arabic", "\u0600-\u06ff\u0750-\u077f", 0),
    "he": ("Hebrew", "\u0590-\u05ff", 0),
    "hi": ("Devanagari", "\u0900-\u097f", 0),
    "th": ("Thai", "\u0e00-\u0e7f", 4),
}
# What a name or a term does not hold.
_CHINESE = re.compile(
    "我们|所以|因此|因为|首先|然后|但是|如果|那么|这个|这里|可以|需要|等于|根据|由于|接下来|最后|也就是|就是|不是|没有|"
    "现在|计算|得到|假设|等等|不对|答案|或者|而且|于是|这样|题目|[的是了吗呢则]"
)
_RUSSIAN = re.compile("и|не|что|это|как|для|мы|если|то|но|так|из|на|по|есть|тогда|поэтому|значит|также|или|нам")
_RUNS = re.compile("|".join(f"(?P<{name}>[{letters}]++)" for name, (_, letters, _) in SCRIPTS.items()))
_LATIN = re.compile(r"[a-z\u00df-\u00f6\u00f8-\u024f\u1e00-\u1eff]{2,}+")
_SENTENCE = re.compile("[.!?;:\\n\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f]")
_DISTINCT = 3  # so many different function words of a language in one sentence are that language
_LATIN_WORDS = 10  # in so many words of Latin letters some function word is expected
_PLAIN_WORDS = 15  # so many function words leave no doubt, if those of other languages are not half as many
_GREEK_LETTERS = 3  # a shorter run is a name in a formula
_KANA_SHARE = 0.1  # of Han and Kana together, from which on both are Japanese

_ANY_SCRIPT = "|".join(
    rf"\p{{Greek}}{{{_GREEK_LETTERS},}}" if name == "Greek" else rf"\p{{{name}}}"
    for names, _, _ in SCRIPTS.values()
    for name in names.split("|")
)
# A word of another language than English; RE2 knows word boundaries at ASCII letters only.
_NOT_ENGLISH = sorted(
    word
    for word in frozenset().union(*FUNCTION_WORDS.values()) - FUNCTION_WORDS["en"]
    if len(word) > 1 and word[0].isascii() and word[-1].isascii()
)
_SUSPECT = rf"{_ANY_SCRIPT}|(?:\b(?:{'|'.join(_NOT_ENGLISH)})\b[^.!?;:\n]*){{2}}"


class Languages:
    """What a text is written in: `main` (a code of SCRIPTS or FUNCTION_WORDS, "latin" for one that its words do not
    tell, None where there are too few words), and how many words of other scripts stand in it.
    """

    def __init__(self, text: str) -> None:
        folded = prose(text).lower()
        self.words: Counter[str] = Counter()
        self.function_words: Counter[str] = Counter()  # of other scripts
        self.first: dict[str, str] = {}  # the first words of each
        if not folded.isascii():
            for run in _RUNS.finditer(folded):
                self._count(run.lastgroup or "", run[0])
            self._join_japanese()
            self.latin = _RUNS.sub("\n", folded) if self.words else folded
        else:
            self.latin = folded  # the text without the runs of other scripts
        self.main = self._main(Counter(_LATIN.findall(self.latin)))

    def _count(self, script: str, run: str) -> None:
        if script == "el" and len(run) < _GREEK_LETTERS:
            return
        letters = SCRIPTS[script][2]
        self.words[script] += -(-len(run) // letters) if letters else 1
        if script == "zh":
            self.function_words[script] += len(_CHINESE.findall(run))
        elif script == "ru":
            self.function_words[script] += _RUSSIAN.fullmatch(run) is not None
        self.first.setdefault(script, run[:40])

    def _join_japanese(self) -> None:
        kana, han = self.words["ja"], self.words["zh"]
        if kana and kana >= _KANA_SHARE * (kana + han):
            self.words["ja"] += self.words.pop("zh", 0)
            self.function_words.pop("zh", None)

    def _main(self, latin: Counter[str]) -> str | None:
        script, words = self.words.most_common(1)[0] if self.words else ("", 0)
        if words > latin.total():
            return script
        told = {code: sum(latin[word] for word in latin.keys() & known) for code, known in FUNCTION_WORDS.items()}
        if max(told.values()) >= _DISTINCT:
            return max(told, key=lambda code: told[code])
        return "latin" if latin.total() >= _LATIN_WORDS else None

    def count_sentences(self) -> None:
        """Count the words of sentences in Latin letters whose function words speak for another language than `main`."""
        if self.main == "latin":
            return
        mine = FUNCTION_WORDS.get(self.main or "", frozenset())
        for sentence in _SENTENCE.split(self.latin):
            words = _LATIN.findall(sentence)
            distinct = set(words)
            if len(distinct) < _DISTINCT:
                continue
            spoken = len(distinct & mine)
            heard = {code: len(distinct & known) for code, known in FUNCTION_WORDS.items() if code != self.main}
            code = max(heard, key=lambda name: heard[name])
            if heard[code] >= _DISTINCT and heard[code] > spoken + 1:
                self.words[code] += len(words)
                self.first.setdefault(code, " ".join(words)[:40])

    def foreign(self, limits: Limits) -> tuple[str, int, int] | None:
        """(language, words, function words among them) of the other language that is over its limits; None without."""
        for code, count in self.words.most_common():
            spoken = self.function_words[code]
            if code != self.main and (count > limits.foreign_words or spoken > limits.foreign_function_words):
                return code, count, spoken
        return None


def languages_mixed(traces: Traces, limits: Limits) -> Broken:
    """Its reasoning leaves its language: more than `foreign_words` words, or `foreign_function_words` function
    words, of another one. Formulas, code, quotes and short parentheses are not looked at; a name or two passes.
    """
    found: Broken = {}
    for place, one in traces.search(_SUSPECT, ignore_case=True):
        languages = Languages(one.reasoning)
        languages.count_sentences()
        other = languages.foreign(limits)
        if other is not None:
            code, count, spoken = other
            figures = {"main": languages.main, "other": code, "words": count, "function_words": spoken}
            found[place] = figures | {"text": languages.first[code]}
    return found


def language_differs(traces: Traces, limits: Limits) -> Broken:
    """Its reasoning is in another language than `reasoning_language` asks for. One that cannot be told passes."""
    asked = limits.reasoning_language
    if asked == "any":
        return {}
    found: Broken = {}
    for place, one in traces:
        wanted = language(one.problem) if asked == "problem" else asked
        if wanted is None or wanted == "latin" or _plainly(one, wanted):
            continue
        main = Languages(one.reasoning).main
        latin = main == "latin" and wanted in FUNCTION_WORDS
        if main is not None and main != wanted and not latin:
            found[place] = {"found": main, "expected": wanted}
    return found


def _plainly(trace: Trace, wanted: str) -> bool:
    """Whether a trace's words speak for a language so much that nothing else needs to be looked at."""
    if wanted not in FUNCTION_WORDS or not trace.raw.isascii():
        return False
    mine = sum(map(FUNCTION_WORDS[wanted].__contains__, trace.words))
    return mine >= _PLAIN_WORDS and mine > 2 * sum(map(_not_of(wanted).__contains__, trace.words))


@lru_cache
def _not_of(code: str) -> frozenset[str]:
    """The function words of all other languages."""
    return frozenset().union(*FUNCTION_WORDS.values()) - FUNCTION_WORDS[code]


@lru_cache(maxsize=4096)
def language(text: str) -> str | None:
    """The main language of a text (see `Languages`)."""
    return Languages(text).main
