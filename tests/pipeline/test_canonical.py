"""Canonical keys: which problems are one exercise, which are not, and how large a space of them is."""

from random import Random

import pytest

from pipeline.canonical import Space, canonical_key, canonical_keys, draws_to_tell

SUM = "State the final answer to the following arithmetic problem: {} ="
GCD = "Find the Greatest Common Divisor (GCD) of these numbers: {}. Give only the GCD as your final answer."
LCM = "Find the Least Common Multiple (LCM) of these numbers: {}"


@pytest.mark.parametrize(
    ("task", "one", "other"),
    [
        ("chain_sum", SUM.format("4 + 17"), SUM.format("17 + 4")),
        ("chain_sum", SUM.format("4 - 17 + 3"), SUM.format("3 + 4 - 17")),
        ("chain_sum", SUM.format("4 - 3"), SUM.format("-3 + 4")),
        ("chain_sum", SUM.format("4 - 3"), "What is 4\u22123?"),
        ("basic_arithmetic", "Calculate 2 * 3 + 4.", "Calculate 4 + 3 * 2."),
        ("basic_arithmetic", "Calculate -( 2 + 3 ) * 4.", "Calculate 4 * -( 3 + 2 )."),
        ("basic_arithmetic", "Calculate 8 / 2 * 3.", "Evaluate: 3 * 8 / 2."),
        ("products", "Solve the following multiplication: 12 * 7.", "Solve the following multiplication: 7 \u00d7 12."),
        ("decimal_chain_sum", SUM.format("1.50 + 2.25"), SUM.format("2.25 + 1.5")),
        ("gcd", GCD.format("12, 18"), GCD.format("18, 12")),
        ("gcd", GCD.format("12, 18"), "What is the gcd of 18 and 12?"),
        ("lcm", LCM.format("6, 4, 10"), LCM.format("10, 6, 4")),
        ("simple_equations", "Solve for e: 5 - 8*e = -51", "Find the value of q in the equation: 5 - 8*q = -51"),
        ("simple_equations", "Solve for e: 5 - 8*e = -51", "Solve for e: -51 = -8*e + 5"),
        ("word_problem", "Ann has 3 apples\nand buys 4.", "ann has 3  apples and buys 4."),
        ("chain_sum", "How many numbers are there?", "how many  NUMBERS are there?"),
    ],
)
def test_problems_that_are_one_exercise_share_their_key(task: str, one: str, other: str) -> None:
    assert canonical_key(task, one) == canonical_key(task, other)


@pytest.mark.parametrize(
    ("task", "one", "other"),
    [
        ("chain_sum", SUM.format("4 - 17"), SUM.format("17 - 4")),
        ("chain_sum", SUM.format("4 + 17"), SUM.format("4 - 17")),
        ("chain_sum", SUM.format("1 + 23"), SUM.format("12 + 3")),
        ("basic_arithmetic", "Calculate 2 * (3 + 4).", "Calculate 2 * 3 + 4."),
        ("basic_arithmetic", "Calculate 8 / 2.", "Calculate 2 / 8."),
        ("products", "Solve the following multiplication: 12 * 7.", "Solve the following multiplication: 12 * 77."),
        ("gcd", GCD.format("12, 18"), GCD.format("12, 18, 18")),
        ("gcd", GCD.format("12, 18"), LCM.format("12, 18")),
        ("simple_equations", "Solve for e: 5 - 8*e = -51", "Solve for e: 8*e - 5 = -51"),
        ("simple_equations", "Solve for e: 5 - 8*e = -51", "Solve for e: 5 - 8*e = 51"),
        ("word_problem", "Ann has 3 apples and buys 4.", "Ann has 4 apples and buys 3."),
        ("mini_sudoku", "1 _ 2\n_ 3 4", "1 2 _\n_ 3 4"),
    ],
)
def test_different_exercises_have_different_keys(task: str, one: str, other: str) -> None:
    assert canonical_key(task, one) != canonical_key(task, other)


def test_the_key_of_an_item_is_that_of_its_text() -> None:
    text = SUM.format("4 + 17 - 2")
    assert canonical_key("chain_sum", text, {"expression": "4 + 17 - 2"}) == canonical_key("chain_sum", text)
    assert canonical_key("gcd", GCD.format("9, 6"), {"numbers": [9, 6]}) == "gcd 6 9"
    equation = {"equation": "5 - 8*e = -51", "variable": "e"}
    assert canonical_key("simple_equations", "", equation) == "equation +*5-*8*x = -*51"


def test_tasks_unknown_here_are_read_by_every_reader() -> None:
    assert canonical_keys("chain_sum", SUM.format("4 + 17")) & canonical_keys("my_own", "What is 17 + 4?")
    assert canonical_keys("gcd", GCD.format("8, 6")) & canonical_keys("", "Compute the greatest common divisor: 6, 8")
    assert not canonical_keys("chain_sum", SUM.format("4 + 17")) & canonical_keys("my_own", "Ann has 4 plus 17 apples")


@pytest.mark.parametrize(
    ("text", "answer", "is_one"),
    [
        ("What is the reciprocal of 1/2?", "2", False),
        ("John painted 1/2 of a fence. What percentage is that?", "50", False),
        ("Which coach left the club in the 2010-2011 season?", "Ann Lee", False),
        ("A tank is 3/4 full and then drained. How many quarters were drained?", "3", False),
        ("Mia reads 3/4 of a book. Which share of it is left?", "1 - 3/4 is a quarter. The answer is 1/4.", False),
        ("Write 12 and 18 as products of primes. How often has their greatest common divisor 2?", "once", False),
        ("What is 1/0?", "1/0", False),
        ("What is 17 + 4?", "21", True),
        ("What is 17 + 4?", "Seventeen and four: 17 + 4 = 21\n#### 21", True),
        ("What is 17 - 40?", "$-23$", True),
        ("What is 17 - 40?", "\N{MINUS SIGN}23", True),
        ("What is 17 * 4000?", "68,000 apples", True),
        ("What is 2/3 as a decimal?", "0.667", True),
        ("What is 2/3 as a decimal?", "0.66", False),
        ("Simplify 92/524.", r"\boxed{\frac{23}{131}}", True),
        ("What is the greatest common divisor of 12 and 18?", "6", True),
        ("What is the least common multiple of 12 and 18?", "36", True),
        ("What is the least common multiple of 12 and 18?", "6", False),
        ("Solve for e: 5 - 8*e = -51", "e = 7", True),
        ("Solve for e: 5 - 8*e = -51", "8", False),
        ("Solve for e: 3*e = 1", "0.33", True),
    ],
)
def test_a_text_of_another_task_is_an_exercise_that_its_answer_solves(text: str, answer: str, is_one: bool) -> None:
    assert (len(canonical_keys("my_own", text, answer=answer)) == 2) == is_one
    assert len(canonical_keys("my_own", text)) == 2, "nobody knows the answer"


def test_metadata_of_another_task_is_not_read() -> None:
    metadata = {"numbers": 3, "expression": "1 + 2", "equation": "x = 2"}
    assert canonical_keys("my_own", "How many?", metadata) == {"text how many ?"}


def test_one_exercise_asked_by_two_tasks_shares_a_key() -> None:
    assert canonical_keys("chain_sum", SUM.format("4 + 1")) & canonical_keys("basic_arithmetic", "Calculate 1 + 4.")


@pytest.mark.parametrize("text", ["-" * 50_000, "9" * 50_000, " " * 50_000 + "gcd 0 00", "( " * 20_000, "\ud800 1 + 2"])
def test_hostile_texts_have_keys(text: str) -> None:
    assert canonical_keys("my_own", text)
    assert canonical_keys("my_own", "What is 1 + 2?", answer=text)
    assert canonical_keys("my_own", text, answer="3")


@pytest.mark.parametrize("size", [100, 1_000, 10_000])
def test_the_estimate_of_an_even_space_is_near_its_size(size: int) -> None:
    random, space = Random(size), Space()
    space.add(str(random.randrange(size)) for _ in range(draws_to_tell(size)))
    assert 0.8 * size < space.estimate < 1.25 * size


def test_an_uneven_space_is_undercounted_and_grows_with_the_draws() -> None:
    random, space = Random(7), Space()
    estimates = []
    for draws in (1000, 4000, 16000):
        space.add(str(random.randrange(50) if random.random() < 0.9 else random.randrange(2000)) for _ in range(draws))
        estimates.append(space.estimate)
    assert estimates == sorted(estimates)
    assert 1900 < estimates[-1] < 2100


def test_a_space_without_draws_is_empty() -> None:
    assert (Space().estimate, Space().covered, Space().drawn) == (0, 0.0, 0)


def test_a_space_seen_whole_is_covered() -> None:
    space = Space()
    space.add(["a", "a", "b", "b"])
    assert (space.estimate, space.covered, space.drawn) == (2, 1.0, 4)
