"""Languages mixed inside a reasoning, and the one that was asked for."""

# ruff: noqa: RUF001 - letters and signs of other scripts are what it is about
import pytest

from pipeline.rules.languages import Languages
from pipeline.rules.limits import Limits
from pipeline.rules.prose import prose
from tests.pipeline.rules.cases import Case, Table, figures, listed, named, thinking, trace

ENGLISH = (
    "First we add the two numbers, and then we have to divide by the number of children. So each of them gets 4.\n"
)
CHINESE = "首先，我们把两个数相加，然后除以孩子的人数。所以每个孩子得到四个苹果。\n"
JAPANESE = "まず、二つの数を足します。それから子供の人数で割ると、一人あたり四個になります。\n"
GERMAN = (
    "Zuerst addieren wir die Zahlen, und dann teilen wir durch die Anzahl der Kinder. Es ist also nicht mehr als 4.\n"
)
FRENCH = "Nous avons deux nombres, donc la somme est dans cette ligne. Alors le reste est pour les autres enfants.\n"
SPANISH = "Primero tenemos que sumar los dos números, entonces cada uno de los niños tiene cuatro.\n"
RUSSIAN = "Сначала сложим оба числа, и это будет восемь. Значит, ответ четыре, так как детей два.\n"
KOREAN = "먼저 두 수를 더하면 여덟이 됩니다. 그래서 답은 넷입니다.\n"


OTHERS = {
    "sv": "Först lägger vi ihop talen, och sedan delar vi med antalet barn. Det är alltså inte mer än 4 till var och "
    "en.\n",
    "da": "Først lægger vi tallene sammen, og så deler vi med antallet af børn. Det er altså ikke mere end 4 til "
    "hver.\n",
    "pl": "Najpierw dodajemy obie liczby, a potem dzielimy przez liczbę dzieci, więc każde dostaje 4, ponieważ nie "
    "ma ich więcej.\n",
    "cs": "Nejprve sečteme obě čísla a pak je vydělíme počtem dětí, takže každé dostane 4, protože jich není více.\n",
    "ro": "Mai întâi adunăm cele două numere, și apoi împărțim la numărul de copii, deci fiecare primește 4, pentru "
    "că sunt doi copii.\n",
    "tr": "Önce iki sayıyı toplarız ve sonra çocuk sayısına böleriz, çünkü her çocuk için 4 elma kalır ve bu daha "
    "fazla değil.\n",
    "id": "Pertama kita jumlahkan kedua bilangan itu, lalu dibagi dengan jumlah anak, jadi setiap anak mendapat 4 "
    "dan tidak lebih.\n",
    "vi": "Trước hết ta cộng hai số, nên tổng của các số này là 8, và nếu chia cho hai em thì được 4.\n",
    "fi": "Ensin laskemme luvut yhteen, ja sitten jaamme lasten määrällä, joten jokainen saa 4, koska lapsia ei ole "
    "enempää.\n",
    "hu": "Először összeadjuk a két számot, és akkor elosztjuk a gyerekek számával, tehát egy gyerek 4 almát kap, "
    "mert nem több.\n",
}


def said(*texts: str) -> list[Case]:
    return [Case(text[-60:].strip(), thinking(text)) for text in texts]


def asked(language: str, reasoning: str, problem: str = "") -> Case:
    limits = Limits(reasoning_language=language)  # type: ignore[arg-type]
    return Case(f"{language}: {reasoning[:40].strip()}", thinking(reasoning, problem=problem), limits)


FAILS: Table = {
    "languages_mixed": said(
        ENGLISH * 3 + CHINESE,
        ENGLISH * 3 + "Wait, 我们 need the sum, 所以 it is 8.",
        ENGLISH * 3 + "因此每人四个苹果，",
        CHINESE * 3 + ENGLISH,
        CHINESE * 3 + "So we have to divide by 2.",
        ENGLISH * 3 + JAPANESE,
        ENGLISH * 3 + RUSSIAN,
        ENGLISH * 3 + KOREAN,
        ENGLISH * 3 + GERMAN,
        ENGLISH * 3 + FRENCH,
        GERMAN * 3 + "So we have to divide this by the number of children.",
        RUSSIAN * 3 + CHINESE,
        SPANISH * 3 + ENGLISH,
        ENGLISH * 3 + "Это ответ, и так далее по списку.",
        "$x$ " + ENGLISH + "$y = 3$ and 那么 we have $z$, 但是 not $t$.",
    ),
    "language_differs": [
        asked("en", CHINESE),
        asked("en", GERMAN * 2),
        asked("zh", ENGLISH),
        asked("ja", CHINESE),
        asked("ru", ENGLISH),
        asked("de", FRENCH * 2),
        asked("problem", ENGLISH, CHINESE),
        asked("problem", CHINESE, ENGLISH),
        asked("problem", ENGLISH, RUSSIAN),
        asked("zh", "apples plus pears minus oranges times bananas over cherries gives lemons, grapes, figs, limes"),
    ],
}
PASSES: Table = {
    "languages_mixed": said(
        ENGLISH * 3,
        CHINESE * 3,
        JAPANESE * 3,
        GERMAN * 3,
        FRENCH * 3,
        SPANISH * 3,
        RUSSIAN * 3,
        KOREAN * 3,
        ENGLISH + "The poet 李白 wrote 4 of them, and 杜甫 wrote 5.",
        ENGLISH + "The sign \u201c首先，我们把两个数相加\u201d has 10 letters.",
        ENGLISH + 'He said "我们不知道答案，但是我们可以计算" and left.',
        ENGLISH + "It is called a sum (我们把它叫做和) here.",
        ENGLISH + "The character 是 stands for a verb.",
        ENGLISH + "So $\\text{我们的答案是四个苹果}$ holds, as does \\(因此所以\\).",
        ENGLISH + "```\n# 我们把两个数相加，所以得到四\n```\n",
        ENGLISH + "Run `print('我们的答案是四')` now.",
        ENGLISH + "With α, β and γ, let Δ = β² − 4αγ and take π ≈ 3.14 in ℝ.",
        ENGLISH + "Charles de Gaulle, Ludwig van Beethoven and El Greco met in Los Angeles.",
        ENGLISH + "Leo Tolstoy (Лев Толстой) and Анна each have 4.",
        ENGLISH + "Les Halles and Les Invalides are far off. The plus sign is on par with it.",
        ENGLISH + "This is done et cetera, per se, ad hoc and vice versa.",
        CHINESE * 2 + "设 x = 3，用 Python 的 print 函数，得到 sin(x) + cos(y)。",
        CHINESE * 2 + "他听了 The Beatles 的歌。",
        CHINESE * 2 + "极限 (the limit of a function) 存在。",
        "\\frac{1}{2} + \\sqrt{3} = \\boxed{4}",
        "4 + 4 = 8\n8 / 2 = 4",
        "",
    ),
    "language_differs": [
        asked("any", CHINESE),
        asked("en", ENGLISH),
        asked("zh", CHINESE),
        asked("ja", JAPANESE),
        asked("de", GERMAN),
        asked("problem", ENGLISH, ENGLISH),
        asked("problem", CHINESE, "计算三加五等于多少？"),
        asked("problem", ENGLISH, "3 + 5 = ?"),
        asked("en", "4 + 4 = 8, 8 / 2 = 4"),
        asked("zh", "$x = 4$"),
        asked("en", "apples plus pears minus oranges times bananas over cherries gives lemons, grapes, figs, limes"),
        asked("en", ENGLISH * 3 + CHINESE),
    ],
}


@pytest.mark.parametrize(("rule", "case"), listed(FAILS), ids=named)
def test_a_reasoning_that_leaves_its_language_fails(rule: str, case: Case) -> None:
    assert figures(rule, case.trace, case.limits) is not None


@pytest.mark.parametrize(("rule", "case"), listed(PASSES), ids=named)
def test_formulas_code_names_and_quotes_are_no_language(rule: str, case: Case) -> None:
    assert figures(rule, case.trace, case.limits) is None


@pytest.mark.parametrize("code", OTHERS)
def test_further_languages_in_latin_letters_are_told(code: str) -> None:
    text = OTHERS[code]
    assert Languages(text).main == code
    mixed = figures("languages_mixed", thinking(ENGLISH * 3 + text))
    assert mixed is not None
    assert (mixed["main"], mixed["other"]) == ("en", code)
    assert figures("languages_mixed", thinking(text * 3 + ENGLISH)) is not None
    assert figures("languages_mixed", thinking(text * 3)) is None
    assert figures("language_differs", thinking(text), Limits(reasoning_language="en")) is not None
    asked_for = Limits.model_validate({"reasoning_language": code})
    assert figures("language_differs", thinking(text), asked_for) is None


def test_the_figures_say_which_languages() -> None:
    found = figures("languages_mixed", thinking(ENGLISH * 3 + "Wait, 我们 need it, 所以 8."))
    assert found == {"main": "en", "other": "zh", "words": 2, "function_words": 2, "text": "我们"}
    assert figures("language_differs", thinking(CHINESE), Limits(reasoning_language="en")) == {
        "found": "zh",
        "expected": "en",
    }


def test_an_answer_in_another_language_is_not_the_reasoning() -> None:
    assert figures("languages_mixed", thinking(ENGLISH * 2, CHINESE + "\\boxed{4}")) is None


def test_thresholds_are_counts_of_words() -> None:
    one = trace(ENGLISH + "北京 上海 广州")
    assert figures("languages_mixed", one) is None
    assert figures("languages_mixed", one, Limits(foreign_words=2)) is not None


@pytest.mark.parametrize(
    ("text", "main"),
    [(ENGLISH, "en"), (CHINESE, "zh"), (JAPANESE, "ja"), (GERMAN, "de"), (FRENCH, "fr"), (SPANISH, "es"),
     (RUSSIAN, "ru"), (KOREAN, "ko"), ("4 = 4", None)],
)  # fmt: skip
def test_the_main_language_is_told(text: str, main: str | None) -> None:
    assert Languages(text).main == main


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a `b` c", "a   c"),
        ("a ` c", "a ` c"),
        ("a\n```\nb\n```\nc", "a\n \nc"),
        ("$a$ b $c$", "  b  "),
        ("it costs $5 now", "it costs $5 now"),
        ("a \\[b\\] c", "a   c"),
        ("a \\alpha b", "a   b"),
        ('"a" b "', '"a" b "'),
        ("(a) b", "  b"),
        (f"({'a' * 61}) b", f" {'a' * 61}) b"),
        ("“a” b «c", "  b  c"),
    ],
)
def test_prose_is_what_is_left_of_a_text(text: str, left: str) -> None:
    assert prose(text) == left
