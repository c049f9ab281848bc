import pytest

from pipeline.verifiers.plain import plain, undelimited, untypeset


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("**5**", "5"),
        ('"**5**"', "5"),
        ("**5** apples", "5 apples"),
        ("5** apples", "5 apples"),
        ("5*** apples", "5 apples"),
        ("B)** 12", "B) 12"),
        ("B** 12", "B 12"),
        ("Option **B:** 12", "Option B: 12"),
        ("3** and **5", "3 and 5"),
        ("x = **5", "x = 5"),
        ("6**, since", "6, since"),
        ("2**3", "2**3"),
        ("2 ** 3", "2 ** 3"),
        ("2** 3", "2** 3"),
        ("(a)**(b)", "(a)**(b)"),
        ("x**2 + y**3", "x**2 + y**3"),
        ("f(x, **y)", "f(x, **y)"),
        ("a/**/b", "a/**/b"),
        ("5 * 3", "5 * 3"),
        ("****", "****"),
    ],
)
def test_emphasis_goes_and_powers_stay(text: str, expected: str) -> None:
    assert plain(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$5$ cm", "5 cm"),
        ("$$5$$ cm", "5 cm"),
        (r"$\frac{1}{2}$ cup", r"\frac{1}{2} cup"),
        ("$3$ and $5$", "3 and 5"),
        (r"\(5\) cm", "5 cm"),
        (r"$\$5$ a day", r"\$5 a day"),
        ("$5", "$5"),
        ("5$", "5$"),
        ("$5 and $6", "$5 and $6"),
        ("$1,000 - $200", "$1,000 - $200"),
        ("$10-$15", "$10-$15"),
        (r"\$5 and \$6", r"\$5 and \$6"),
        (r"\begin{matrix}1\\(2)\end{matrix}", r"\begin{matrix}1\\(2)\end{matrix}"),
    ],
)
def test_dollars_of_formulas_are_told_from_those_of_money(text: str, expected: str) -> None:
    assert undelimited(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\textbf{(B)}\ 12", " (B)  12"),
        (r"5\,\text{cm}", "5  cm "),
        ("5~cm", "5 cm"),
        ("~p", "~p"),
        (r"\frac{1}{2}", r"\frac{1}{2}"),
    ],
)
def test_words_in_commands_are_words(text: str, expected: str) -> None:
    assert untypeset(text) == expected
