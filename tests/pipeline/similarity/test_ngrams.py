"""The overlap rule: every copy is found, and what is another problem is not."""

import random
import textwrap

import pytest

from pipeline.similarity import ngrams
from pipeline.similarity.ngrams import Hit, Overlap, Reference
from pipeline.similarity.normal import normal_words

CARRIER = "A class of 24 did this on 3 May.\n{}\nThey were done after 15 minutes; 2 of them asked for more."
DUCKS = (
    "Janet's ducks lay 16 eggs per day. She eats three for breakfast every morning and bakes muffins for her friends "
    "every day with four. She sells the remainder at the farmers' market daily for $2 per fresh duck egg. How much in "
    "dollars does she make every day at the farmers' market?"
)


def sums(count: int) -> list[str]:
    """Problems that differ in their numbers and signs only; the template alone is longer than an n-gram."""
    rng = random.Random(5)
    terms = [(rng.randint(1, 99), rng.choice("+-"), rng.randint(1, 99)) for _ in range(count)]
    return [f"State the final answer to the following arithmetic problem: {a} {sign} {b} =" for a, sign, b in terms]


def overlap_of(*texts: str, group: str = "sums") -> Overlap:
    return Overlap([Reference("eval", str(place), text, group) for place, text in enumerate(texts)])


def items(hits: list[Hit]) -> list[str]:
    return [hit.item_id for hit in hits]


FORMS = {
    "verbatim": lambda text: text,
    "other case": str.upper,
    "re-wrapped": lambda text: "\n ".join(text.split(" ")),
    "embedded": CARRIER.format,
    "embedded, re-wrapped, other case": lambda text: CARRIER.format(textwrap.fill(text.lower(), 20)),
    "in bold type": lambda text: CARRIER.format(f"**{text}**"),
    "a line of a list": lambda text: f"- {text}\n- {text}\n- Then rest.",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [1, 2, 20, 300])
def test_every_planted_copy_of_a_short_item_is_found(form: str, count: int) -> None:
    texts = sums(count)
    overlap = overlap_of(*texts)
    assert [text for place, text in enumerate(texts) if str(place) not in items(overlap.find(FORMS[form](text)))] == []


@pytest.mark.parametrize("form", FORMS)
def test_every_planted_copy_of_a_long_item_is_found(form: str) -> None:
    hits = overlap_of(DUCKS).find(FORMS[form](DUCKS))
    assert [(hit.kind, hit.score) for hit in hits] == [("ngram", 1.0)]


def test_whatever_finds_something_is_a_suspect_and_little_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [*sums(20), DUCKS, "3 + 4"]
    overlap = overlap_of(*texts)
    clean = ["", "Nothing of it.", CARRIER.format("An apple a day."), "3 + 5"]
    draw = random.Random(8)
    for size in (1, 50, 1 << 16):
        monkeypatch.setattr(ngrams, "_BATCH_CHARACTERS", size)
        forms = [FORMS[form](text) for form in FORMS for text in texts] + clean * 40
        draw.shuffle(forms)
        found = {place for place, text in enumerate(forms) if overlap.find(text)}
        assert found <= overlap.suspects(forms)
        assert not overlap.suspects(forms) & {place for place, text in enumerate(forms) if text in clean}


@pytest.mark.parametrize("count", [1, 2, 20, 300])
def test_problems_with_other_numbers_are_clean(count: int) -> None:
    texts = sums(300 + count)
    known = {tuple(normal_words(text)) for text in texts[:count]}
    overlap = overlap_of(*texts[:count])
    clean = [text for text in texts[count:] if tuple(normal_words(text)) not in known]
    assert len(clean) > 250
    assert [text for text in clean if overlap.find(CARRIER.format(text))] == []


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ("What is 12 + 5 - 7?", "What is 12 + 5 - 8?"),
        ("What is 12 + 5?", "What is 12 + 5 - 8?"),
        ("What is 12 + 5?", "First we add: 12 + 5 = 17."),
        ("Calculate 10 / 8.", "Calculate 10 / 8 - 0."),
        # Enough words for n-grams, too few for them to tell the item from a part of it or from more than it.
        ("Please tell me what this comes to: 98 + 93", "Please tell me what this comes to: 98 + 93 - 77"),
        (f"{sums(1)[0][:-1]}- 77 =", sums(1)[0]),
        ("Spell the word banana backwards and write it down", "Spell the word banana backwards and write it twice"),
        ("5 * 3 is how much", "2 + 5 * 3 is how much"),
        ("5 * 3 is how much", "-5 * 3 is how much"),
        ("12 + 5", "so 12 + 5 makes 17"),  # no question in words: only a text that is nothing else is a copy
        (DUCKS, DUCKS.replace("16", "17")),
        (DUCKS, DUCKS.replace("$2", "$3")),
        (DUCKS, DUCKS.replace("lay 16", "lay -16")),
        (DUCKS, "Janet's ducks lay 16 eggs per day. She eats three for breakfast every morning."),
        (DUCKS, "How much in dollars does she make every day at the farmers' market?"),
    ],
)
def test_another_problem_is_not_the_item(item: str, text: str) -> None:
    assert overlap_of(item).find(text) == []


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ("What is 12 + 5?", "What is 12 + 5? 12 + 5 = 17."),
        ("What is 12 + 5?", "- What is 12 + 5\n- What is 3 + 4"),
        ("12 + 5", "12+5"),
        (DUCKS, DUCKS.replace("fresh duck egg", "egg").replace("daily", "each day")),
        (DUCKS, DUCKS.replace("16", "sixteen")),
    ],
)
def test_a_copy_with_other_words_around_or_few_within_is_the_item(item: str, text: str) -> None:
    assert items(overlap_of(item).find(text)) == ["0"]


IDENTITY = r"x = \frac{-b \pm \sqrt{b^2 - 4ac}}{2a}"


def test_an_identity_that_an_item_is_about_is_no_copy_of_it() -> None:
    overlap = overlap_of(f"Show that ${IDENTITY}$ holds for all values for which both sides exist.")
    assert overlap.find(f"We use that ${IDENTITY}$, which holds for all values.") == []
    assert overlap.find(f"Since {IDENTITY} the claim follows.") == []
    assert items(overlap.find(f"Show that {IDENTITY} holds for all values for which both sides exist.")) == ["0"]


def test_a_formula_with_numbers_of_its_own_is_telling() -> None:
    formula = "137 * x^2 + 52 * x - 911 = 64 * y + 18 * y^2 - 77 * x * y + 45"
    overlap = overlap_of(f"Find all pairs of integers x and y that solve {formula} where x is positive.")
    assert items(overlap.find(f"We look for integers with {formula} and start with x.")) == ["0"]


def test_scripts_without_spaces_have_words() -> None:
    text = "农夫在谷仓后面养了十二只母鸡和七只鹅每只母鸡每周下五个蛋请问一共有多少个蛋"
    assert items(overlap_of(text).find(f"请回答 {text[:-4]}呢")) == ["0"]


def test_template_text_alone_is_no_hit() -> None:
    frame = "In the village of {} every house has a garden, every garden has a tree and every tree has fruit. {}"
    texts = [frame.format(name, f"What do {name} and its mayor like about it?") for name in ("Ab", "Cd", "Ef")]
    assert overlap_of(*texts).find(frame.format("Gh", "Nobody knows.")) == []


def test_the_template_of_the_text_s_own_group_does_not_count() -> None:
    frame = "In the village of {} every house has a garden, every garden has a tree and every tree bears ripe fruit."
    lone = Reference("bench", "0", frame.format("Ab"), "bench")
    overlap = Overlap([lone, *(Reference("eval", name, frame.format(name), "village") for name in ("Cd", "Ef"))])
    text = frame.format("Gh")
    assert [(hit.set_name, hit.item_id) for hit in overlap.find(text)] == [("bench", "0")]
    assert overlap.find(text, "village") == []
    assert [(hit.set_name, hit.item_id) for hit in overlap.find(lone.text, "village")] == [("bench", "0")]


def test_an_item_listed_twice_is_not_its_own_template() -> None:
    overlap = Overlap([Reference(name, "7", DUCKS, "g") for name in ("dev", "eval")])
    assert [(hit.set_name, hit.kind) for hit in overlap.find(DUCKS)] == [("dev", "ngram"), ("eval", "ngram")]


SENTENCES = (
    "Which of the following is true?",
    "Which of the following statements about the figure on the left is true?",
)


@pytest.mark.parametrize("sentence", SENTENCES)
@pytest.mark.parametrize("form", ["embedded", "in bold type", "a line of a list"])
def test_a_sentence_that_many_items_share_is_found_only_as_a_whole_text(sentence: str, form: str) -> None:
    texts = [sentence, *(f"A cube has {sides} corners and a prism has seven. {sentence}" for sides in range(2, 200))]
    overlap = overlap_of(*texts, group="bench")
    assert overlap.find(FORMS[form](f"The bird sang all night, and the cat did not like it. {sentence}")) == []
    assert items(overlap.find(sentence.upper())) == ["0"]
    assert items(overlap_of(sentence).find(FORMS[form](sentence))) == ["0"]  # shared by none it is a question
    few = [
        sentence,
        f"One cube, no ball. {sentence}",
        *(f"How many corners has shape {number}?" for number in range(99)),
    ]
    assert "0" in items(overlap_of(*few).find(FORMS[form](sentence)))


def test_three_words_without_a_number_are_no_question_that_a_text_could_copy() -> None:
    overlap = overlap_of("Solve for x.", "Find the 7th.")
    assert overlap.find("First I solve for x: 3x = 15, then I check.") == []
    assert items(overlap.find("Solve for x")) == ["0"]
    assert items(overlap.find("I find the 7th. It is 13.")) == ["1"]


def test_items_of_every_group_are_looked_for() -> None:
    assert items(overlap_of("What is 12 + 5?", group="one").find("What is 12 + 5?", "two")) == ["0"]


def test_a_hit_says_where_it_stands() -> None:
    (hit,) = overlap_of("What is 12 + 5?").find("Well. What is 12 + 5?")
    assert hit == Hit("eval", "0", "whole", "what is 12 + 5", 1, 6, 1.0)


def test_a_hit_s_score_is_the_share_of_one_stretch() -> None:
    half = DUCKS[: len(DUCKS) * 7 // 10]
    (hit,) = overlap_of(DUCKS).find(half)
    assert 0.5 <= hit.score < 0.75


def test_an_item_scattered_over_a_text_is_no_hit() -> None:
    sentences = DUCKS.split(". ")
    filler = " ".join(f"word{chr(97 + place % 26)}{chr(97 + place // 26)}" for place in range(200))
    assert overlap_of(DUCKS).find(f" {filler} ".join(sentences)) == []


def test_items_without_words_are_named() -> None:
    overlap = overlap_of("?!", "What is 12 + 5?")
    assert [item.item_id for item in overlap.unmatchable] == ["0"]
    assert overlap.find("?!") == []


@pytest.mark.parametrize("wrong", [{"n": 1}, {"template_share": 0.0}, {"min_share": 1.5}])
def test_values_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected n of at least 2"):
        Overlap([], **wrong)  # type: ignore[arg-type]


TASKS = {
    "chain_sum": {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 2},
    "basic_arithmetic": {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1, "allow_parentheses": False},
    "simple_equations": {"min_terms": 2, "max_terms": 2, "min_value": 1, "max_value": 10},
    "gcd": {"max_value": 30},
}


def test_generated_problems_are_found_when_copied_and_clean_when_different() -> None:
    import reasoning_gym

    def texts(task: str, seed: int) -> list[str]:
        made = reasoning_gym.create_dataset(task, size=150, seed=seed, **TASKS[task])
        return [item["question"] for item in made]

    held = {task: texts(task, 2_000_000_001) for task in TASKS}
    overlap = Overlap([Reference("eval", text, text, task) for task in TASKS for text in held[task]])
    known = {tuple(normal_words(text)) for task in TASKS for text in held[task]}
    planted = [(text, CARRIER.format(textwrap.fill(text, 25).upper())) for task in TASKS for text in held[task]]
    assert [text for text, copy in planted if text not in items(overlap.find(copy))] == []
    clean = [text for task in TASKS for text in texts(task, 1) if tuple(normal_words(text)) not in known]
    assert len(clean) > 400
    assert [text for text in clean if overlap.find(text) or overlap.find(CARRIER.format(text))] == []
