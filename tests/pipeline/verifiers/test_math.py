from typing import Any

import pytest

from pipeline.verifiers.math import is_text, judge, prepare

RIGHT = [
    ("1234567", "+1,234,567"), ("7", "007"),
    ("5", "5"), ("1,234", "1234"), ("1234", "1 234"), ("1234", "1{,}234"), ("1234", r"1\,234"), ("-7", "−7"),
    ("5", r"\boxed{x = 5}"), ("5", "x = 5"), ("x=5", "5"), ("5", "2+3=5"), ("5", "5 = 2+3"),
    ("1/2", "0.5"), ("1/2", r"\frac{1}{2}"), (r"\frac{3}{4}", r"\frac34"), ("-1/2", r"\frac{-1}{2}"), ("5/2", "2½"),
    ("50%", "0.5"), ("0.5", r"50\%"), ("50", "50%"), ("0.333333", "1/3"), ("7", "7.0"), ("1500", "1.5e3"),
    ("1500", r"1.5 \times 10^{3}"), ("0.1", "10^{-1}"), ("120", "5!"), (r"\sqrt{2}", "√2"), ("x^2", "x²"),
    ("5", "5 cm"), ("5 cm", "5"), ("5 cm", "5 centimeters"), (r"25\text{ cm}^2", "25"), ("1000", "1,000 dollars"),
    ("5", "$5"), (r"\$5.00", "5"), ("12", "12 apples"), ("90", r"90^\circ"), ("5", "about 5"), ("2", "two"),
    ("Monday", "monday."), (r"\text{Monday}", "Monday"), ("no solution", r"\text{No solution}"), ("yes", '"Yes"'),
    ("[1,2)", "[1, 2)"), ("(1,2)", "1 < x < 2"), ("1 < x < 2", "(1,2)"), (r"x \in [1,2]", "[1,2]"),
    (r"(-\infty, 3]", r"\left(-\infty, 3\right]"), (r"\{1,2,3\}", "3, 2, 1"), ("(1,2)", r"\left( 1, 2 \right)"),
    (r"3 \pm \sqrt{2}", r"3+\sqrt{2}, 3-\sqrt{2}"), ("(x+1)^2", "x^2+2x+1"), ("2x+3", "y = 2x+3"), ("2a + b", "b + 2a"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}"), ("A", r"\text{A}"),
]  # fmt: skip

# Kind -> (reference, answer) pairs that mean the same.
SAME = {
    "sets": [
        (r"\{1, \frac{1}{2}\}", r"\{0.5, 1\}"), (r"\{1,2\}", "1 and 2"), (r"\{1,2\}", r"x=1 \text{ or } x=2"),
        (r"\emptyset", r"\varnothing"), ("-2, 5", r"x = 5 \text{ or } x = -2"), ("1, 2, 3", "1, 2, and 3"),
        (r"\{-1, 1\}", r"\pm 1"), (r"\{(1,2)\}", "(1,2)"),
    ],
    "intervals": [
        ("[0, 1]", r"0 \le x \le 1"), (r"(2, \infty)", "x > 2"), (r"(-\infty, 3]", "x ≤ 3"),
        ("[0.5, 1]", r"[\frac12, 1]"),
        (r"(-\infty,-1)\cup(1,\infty)", r"(1,\infty)\cup(-\infty,-1)"), (r"(-\infty, ∞)", r"\mathbb{R}"),
        (r"[2,5)", r"\left[2, 5\right)"), (r"(-\infty,2)\cup(2,\infty)", r"\mathbb{R} \setminus \{2\}"),
    ],
    "units": [
        ("5 m", "500 cm"), ("5 m", r"500\text{ cm}"), ("2 hours", "120 minutes"), ("150 minutes", "2 hours 30 minutes"),
        ("2.5 km", "2,500 metres"), ("$5", "500 cents"), ("60 km/h", r"60\text{ kilometers per hour}"),
        ("36 km/h", "10 m/s"), (r"25\text{ cm}^2", "25 square centimeters"), ("1 m^2", "10000 cm²"),
        ("1 L", "1000 cm^3"),
        (r"x = 5\text{ cm}", "5"), ("1/2 hour", "30 min"), ("12 apples", "12"), ("90 degrees", r"90^\circ"),
        ("5 feet 6 inches", "66 inches"), ("5 dollars", r"\$5"), ("3 years", "36 months"), ("5m", "5 meters"),
        ("3.5 million", "3,500,000"), ("2 thousand", "2000"), ("36 units^2", "36"), ("36", "36 units^2"),
        ("36 units^2", "36 square units"), ("36 square units", "36 cm^2"), (r"36\pi", "36π units²"),
    ],
    "formulas in a text": [
        ("5 cm", "$5$ cm"), ("$5$ cm", "5 cm"), ("$5$ cm", "5"), ("18", "$18$ dollars"), ("$18$ dollars", "18"),
        ("$5", "$5$ dollars"), ("25 cm^2", "$25$ cm²"), ("25 cm^2", r"$25$ $\text{cm}^2$"), ("5 cm", "$$5$$ cm"),
        ("1/2", r"$\frac{1}{2}$ cup"), ("2 hours", "$120$ minutes"), ("$25$ square meters", "25 m^2"),
        ("3, 5", "$3$ and $5$"), ("x=3, y=4", "$x = 3$ and $y = 4$"), ("5 cm", r"\(5\) cm"), (r"\$5", r"$\$5$"),
        ("$5 and $6", "5 and 6"),
    ],
    "amounts of money": [
        ("5000000", "5 million dollars"), ("$5 million", "5 million dollars"), ("5 million dollars", "$5,000,000"),
        ("£5", "5 pounds"), ("5 pounds", "£5"), ("5 pounds", "5 lb"), ("$18 per day", "18"), ("18", "$18 a day"),
    ],
    "times of day": [
        ("3:30 PM", "3:30 pm"), ("10 AM", "10 am"), ("10 am", "10 AM"), ("10 a.m.", "10 A.M."), ("10 a.m.", "10 am"),
        ("10 am", "10"),
    ],
    "counted things": [
        ("12", "12 dogs"), ("12 dogs", "12"), ("12 dogs", "12 dog"), ("5 boxes", "5 box"), ("3 Apples", "3 apples"),
        ("12 red marbles", "12 marbles"), ("12", r"12\text{ pencils per box}"), ("x = 12", "12 dogs"),
        ("1/2 cup", "1/2"), ("1/2", "1/2 cup"), ("1/2 cup", "1/2 cups"), ("1/2 cup", "0.5"),
        (r"\frac{1}{2} cup", "1/2"),
        ("3500000", "3.5 million people"), ("3.5 million people", "3.5 million"), ("5 km", "5 thousand meters"),
    ],
    "emphasis": [
        ("5", "5** apples"), ("5", "**5** apples"), ("5", "5*** apples"), ("5 km", "5** km"), ("12.5", "12.5** km/h"),
        ("6", "6**, since 2+4=6"), ("18", "18** per day"), ("3, 5", "3** and **5"), ("5", "x = **5"), ("8", "2**3"),
        ("x^2", "x**2"), ("2**3", "8"),
    ],
    "reasons": [("6", "6, since 2+4=6"), ("7", "7 (since 3+4=7)"), ("5 km", "5 km because it is so"), ("no", "No")],
    "powers of ten": [
        ("1500", "1.5 * 10^3"), ("1500", "1.5 × 10³"), ("1500", "1.5·10³"), ("1500", "1.5*10**3"),
        ("1500", "1.5 x 10^3"),
        ("0.00015", "1.5*10^{-4}"), ("0.00015", "1.5 × 10⁻⁴"), ("0.00015", "1.5 × 10^-4"), ("1.5 km", "1.5 * 10^3 m"),
        ("6.02*10^23", "6.02 × 10²³"), ("1.5 x 10^3", "1500"),
    ],
    "ranges and codes": [
        ("3-2", "3 - 2"), ("3–2", "3-2"), ("3-2", "3—2"), ("10-15 cm", "10-15"), ("10-15", "10–15 apples"),
        ("$10-$15", "$10-15"), ("0x1F", "0x1f"), ("1.2.3", "1.2.3"), ("1-2, 3-4", "3-4 and 1-2"), ("10-15%", "10–15%"),
    ],
    "lists": [
        ("2, 2, 3", "3, 2, 2"), ("2, 2, 3", "2 and 2 and 3"), ("1/2, 1/2, 1", "0.5, 1, 0.5"), ("A, C, B", "A, C and B"),
        (r"\{2, 3\}", "2, 2, 3"), (r"\{A, B\}", "B, A"), ("-2, 2", r"\pm 2"), ("0.25", "1/4, 0.25"),
        ("1,2,2", "2, 1, 2"),
    ],
    "percent": [
        ("12.5%", "1/8"), (r"\frac{1}{4}", "25%"), ("50 percent", "50%"), ("0.5%", "0.5"), (r"12.5\%", "12.5"),
        ("33.3333%", "1/3"), (r"20\text{ percent}", "0.2"), (r"\frac{1}{3}\%", r"\frac{1}{300}"),
    ],
    "mixed numbers": [
        ("2 1/2", "5/2"), (r"2\frac{1}{2}", "2.5"), (r"\frac{7}{4}", "1 3/4"), (r"-1\frac{1}{2}", "-1.5"),
        ("3 1/3", "10/3"),
        ("-2 1/4", r"-\frac{9}{4}"),
    ],
    "text in LaTeX": [
        (r"\text{Tuesday}", "Tuesday"), (r"\textbf{East}", "east"), (r"\mathrm{Evelyn}", "Evelyn"),
        (r"\text{(C)}", "(C)"),
        (r"\text{No real solutions}", "no real solutions."), (r"\text{red, blue}", "Red, Blue"), ("no", "No"),
        (r"\text{red}, \text{blue}", "red and blue"), ("C", r"\text{C}"),
    ],
    "matrices": [
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix}"),
        (r"\begin{pmatrix}1/2\\1\end{pmatrix}", r"\begin{pmatrix}0.5\\1\end{pmatrix}"),
        (r"\begin{pmatrix}x+x\\1\end{pmatrix}", r"\begin{pmatrix}2x\\1\end{pmatrix}"),
        (r"\begin{pmatrix}1&0\\0&1\end{pmatrix}", r"\left[\begin{matrix}1&0\\0&1\end{matrix}\right]"),
    ],
    "expressions": [
        (r"\sin^2 x + \cos^2 x", "1"), (r"2\sqrt{3}", r"\sqrt{12}"), (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"),
        (r"\ln 8", r"3\ln 2"), (r"\log_2 8", "3"), ("2^{10}", "1024"), (r"\binom{5}{2}", "10"), ("3+2i", "2i+3"),
        ("x(x-1)", "x^2-x"), (r"\frac{\pi}{4}", r"0.25\pi"), (r"\frac{x^2-1}{x-1}", "x+1"), ("2.5 × 10^{-3}", "0.0025"),
        (r"\frac{2}{4}", r"\frac{1}{2}"), (r"|-5|", "5"), (r"e^{\ln 3}", "3"), ("10^6", "1,000,000"), ("6x^2", "6x²"),
        (r"\frac{a+b}{2}", "(a+b)/2"), ("1 + 2i", "1+2i"), (r"\sqrt[3]{8}", "2"), ("-x-1", "-(x+1)"),
        ("π/2", r"\frac{\pi}{2}"),
    ],
    "equations and tuples": [
        ("y = 2x + 3", "y = 3 + 2x"), ("x = 5", "5 = x"), ("(3, 4)", "(3,4)"), ("x=3, y=4", "y=4, x=3"),
        (r"\left(\frac{1}{2}, 3\right)", "(0.5, 3)"), ("2x - y + 3 = 0", "y = 2x + 3"), ("(1, 2, 3)", r"(1,\ 2,\ 3)"),
    ],
}  # fmt: skip

WRONG = [
    ("1234", "12,34"), ("0", "-1"),
    ("5", "6"), ("-7", "7"), ("1,234", "1.234"), ("1234", "1 235"), ("x=5", "y=5"), ("5", "5 or 6"), ("5", "2+3"),
    ("6", r"2 \times 3"), ("5", "not obvious"), ("0.33", "1/3"), ("3.14", r"\pi"), ("[1,2)", "(1,2)"),
    ("(1,2)", "(2,1)"), (r"\{1,2\}", r"\{1,2,3\}"), ("5 cm", "5 m"), ("5 hours", "5 minutes"), ("god", "dog"),
    ("Monday", "Tuesday"), ("yes", "no"), (r"\infty", r"-\infty"), ("10", "10 million"), ("50", "0.5"), ("5", "5!"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\3\end{pmatrix}"), ("100!", "5"), ("5", "1/0"),
]  # fmt: skip

# Kind -> (reference, answer) pairs that look the same, and are not.
LOOKALIKES = {
    "sets": [
        (r"\{1,2\}", "(1,2)"), ("(1,2)", r"\{1,2\}"), (r"\{1,2,3\}", r"\{1,2\}"), (r"\{1,2\}", "1"),
        (r"\emptyset", r"\{0\}"),
        (r"\{1,2\}", r"\{1,-2\}"), ("5", "5, 5, 6"),
    ],
    "intervals": [
        ("(0, 1]", "[0, 1)"), (r"(2, \infty)", r"x \ge 2"), (r"(2, \infty)", "x < 2"), ("[0, 1]", r"\{0, 1\}"),
        (r"(-\infty,-1)\cup(1,\infty)", "(-1,1)"),
    ],
    "units": [
        ("5 m", "500 mm"), ("5 m", "500 m"), ("5 m^2", "5 m"), ("5 km/h", "5 km"), ("5 feet 6 inches", "56 inches"),
        ("$5", "5 cents"), ("$5", "€5"), ("3 years", "3 months"), ("3.5 million", "3.5"),
        ("1 hour", "1 minute"), ("2 hours 30 minutes", "2.3 hours"), ("36 units^2", "36 units"),
        (r"36\text{ units}", r"36\text{ units}^2"), ("36 units^2", "6"), ("6", "36 units^2"), ("36 units", "36 cm^2"),
        (r"36\pi", "36 units²"),
    ],
    "formulas in a text": [
        ("5 m", "$5$ cm"), ("$5$ m", "5 cm"), ("6", "$5$ cm"), ("18", "$19$ dollars"), ("$5", "€5"),
        ("$5$ euros", "$5"),
        ("€5 and €6", "$5 and $6"), ("800", "$1,000 - $200"), ("$800", "$1,000 - $200"), ("18", "$18$ or $19$"),
        ("1/3", r"$\frac{1}{2}$ cup"),
    ],
    "amounts of money": [
        ("5 dollars", "5 million dollars"), ("$5", "$5 million"), ("$5 million", "$5"),
        ("$5 million", "5 million euros"),
        ("5 million dollars", "5 billion dollars"), ("£5", "5 lb"), ("5 lb", "£5"), ("£5", "6 pounds"), ("£5", "$5"),
        ("£5.50", "5 pounds 8 ounces"), ("5 pounds", "5 dollars"), ("5 pounds", "5 kg"), ("£16", "1 ounce"),
    ],
    "times of day": [
        ("10 AM", "10 PM"), ("10 am", "10 pm"), ("3:30 PM", "3:30 AM"), ("3:30 pm", "4:30 pm"), ("10 am", "11"),
        ("3 m", "3 pm"),
    ],
    "counted things": [
        ("12", "13 dogs"), ("12 dogs", "13"), ("12 dogs", "12 cats"), ("12 red marbles", "12 blue marbles"),
        ("5 cm", "5 dogs"), ("5 dogs", "5 cm"), ("1/2 cup", "1/3"), ("1/2 cup", "2"), ("3.5 million people", "3.5"),
        ("5", "5 hundred"), ("5", "5 dozen"), ("60", "5 dozen eggs"), ("5", "5 squared"), ("5", "5 factorial"),
        ("5", "5 below zero"), ("0.3", "0.3 repeating"), ("2", "2 thirds"), ("2", "2 halves"), ("2", "2 theta"),
        ("5", "5 plus two"), ("101", "101 binary"), ("12", "10+2 dogs"), ("3", "3 sin"), ("5", "a + 5 dogs"),
        ("3", "3 cos"), ("12", "12 xyz"), ("5", "5 minus"), ("3", "3 over four"),
    ],
    "emphasis": [
        ("5", "6** apples"), ("5 m", "5** km"), ("6", "2**3"), ("8", "2**4"), ("5", "5** or 6"), ("5", "5** and **6"),
        ("2x", "x**2"),
    ],
    "reasons": [("5", "6, since 5+1=6"), ("6", "5 because 5+1=6"), ("yes", "no, since 5 is prime")],
    "powers of ten": [
        ("1500", "1.5 * 10^4"), ("1500", "1.5 × 10²"), ("1500", "1.5 * 1000"), ("1500", "150 * 10"), ("100", "10*10"),
        ("6", "2 * 3"), ("0.00015", "1.5 × 10⁻³"), ("1500x", "1.5 x 10^3"), ("1500 m", "1.5 × 10³ km"),
    ],
    "ranges and codes": [
        ("3-2", "2-1"), ("3-2", "1"), ("10-15", "20-25"), ("10-15", "15-10"), ("10-15", "10"), ("10-15 cm", "20-25 cm"),
        ("10-15%", "20-25%"), ("$10-$15", "$20-$25"), ("$10-$15", "€10-€15"), ("10-15 apples", "20-25 apples"),
        ("1914-1918", "1918-1922"), ("1914–1918", "4"), ("2024-01-05", "2023-01-04"), ("555-1234", "556-1235"),
        ("0x1F", "0xFF"), ("0x1F", "0"), ("0b101", "0"), ("0b101", "0b110"), ("1.5-2.5", "2.5-3.5"), ("-5-10", "-10-5"),
        ("2/4/2024", "4/8/2024"), ("192.168.0.1", "192.168.0.2"), ("3:30-4:30", "4:30-5:30"), ("1-2, 3-4", "0-1, 4-5"),
        ("1-2, 3-4", "1-2"), ("1", "3-2"), ("0x1F", "0x1G"),
    ],
    "lists": [
        ("2, 2, 3", "2, 3"), ("2, 3", "2, 2, 3"), ("2, 2, 3", "2, 3, 3"), ("1, 1, 2, 3", "3, 2, 1"), ("1,1,2", "1,2"),
        ("1/2, 1/2, 1", "0.5, 1, 1"), ("A, B", "A, B, C"), ("A, C, B", "A, C, D"), ("3", "3, 3"), ("A", "A, B"),
    ],
    "percent": [
        ("0.5", "0.5%"), ("50%", "5%"), ("50%", "0.05"), (r"\frac{1}{2}", r"\frac{1}{2}\%"), ("1", "1%"), ("5%", "500"),
    ],
    "mixed numbers": [
        ("2 1/2", "1"), (r"1\frac{3}{4}", r"\frac{3}{4}"), ("2 1/2", "21/2"), (r"-1\frac{1}{2}", "-0.5"),
        ("1 3/4", "13/4"),
    ],
    "text in LaTeX": [
        (r"\text{red, blue}", "der, blue"), (r"\text{Tuesday}", "Thursday"), ("no", "on"),
        ("Monday", "Monday or Tuesday"),
        ("no solution", "solution"), (r"\text{even}", r"\text{odd}"),
    ],
    "matrices": [
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", "(2,1)"),
    ],
    "numbers": [
        ("0.0000001", "0.0000002"), ("1", "1.0000001"), ("1/3000000", "0.0000003"), ("10^{-20}", r"2 \times 10^{-20}"),
        (r"\pi", "3.14159"), ("2/3", "0.67"), (r"\sqrt{2}", "1.414"), ("12345678901234567890", "12345678901234567891"),
        ("0.1", "0.1000001"), ("1,234", "1,23"), ("5", "6 = 5"), ("1e-7", "1e-8"),
    ],
    "expressions": [
        ("(x+1)^2", "x^2+1"), (r"\frac{1}{x+1}", r"\frac{1}{x} + 1"), ("2^{10}", "2 \\cdot 10"),
        (r"\sqrt{12}", r"2\sqrt{6}"),
        ("x^2", "2x"), ("sin x", "cos x"), ("3+2i", "3-2i"), ("ab", "a+b"), (r"\log_2 8", r"\log_{10} 8"),
        (r"|x|", "x"), ("-x^2", "(-x)^2"), ("x_1", "x_2"),
    ],
    "equations and tuples": [
        ("y = 2x + 3", "y = 3x + 2"), ("(3, 4)", "(4, 3)"), ("x=3, y=4", "x=4, y=3"), ("(1,2,3)", "(1,2)"),
        ("x > 2", "x < 2"),
        ("3:4", "4:3"),
    ],
}  # fmt: skip

UNDECIDED = [
    ("   ", "5", "gold_unparseable"),
    (r"\sqrt{", "5", "gold_unparseable"),
    (r"\frac{1}{2", "0.5", "gold_unparseable"),
    (r"x}", "x", "gold_unparseable"),
    ("0/0", "5", "gold_unparseable"),
    (r"\begin{pmatrix} 1 & 2", "5", "gold_unparseable"),
    ("???", "5", "gold_unparseable"),
    ("=", "5", "gold_unparseable"),
    (r"\frac{}{}", "5", "gold_unparseable"),
    (r"5 \text{ or", "5", "gold_unparseable"),
    ("5", r"6} and \boxed{5", "answer_unparseable"),
    ("Ann, Bob, Cid", "Cid, Bob, Ann", "answer_unparseable"),
    ("", "5", "gold_unparseable"),
    (r"\frac{1}{", "5", "gold_unparseable"),
    ("1/0", "5", "gold_unparseable"),
    ("5", "", "answer_unparseable"),
    ("5", r"\frac{1}{", "answer_unparseable"),
    ("5", "???", "answer_unparseable"),
    ("A, C, B", "A, B, C", "answer_unparseable"),
    ("10-15", "10 to 15", "gold_unparseable"),
    ("1914-1918", "from 1914 to 1918", "gold_unparseable"),
    ("2024-01-05", "January 5, 2024", "gold_unparseable"),
    ("2024-01-05", "2024-1-5", "answer_unparseable"),
    ("10-15 cm", "100-150 mm", "answer_unparseable"),
    ("0x1F", "31", "gold_unparseable"),
    ("0b101", "101", "gold_unparseable"),
]


def pairs(table: dict[str, list[tuple[str, str]]]) -> list[Any]:
    return [pytest.param(*pair, id=f"{kind} {n}") for kind, found in table.items() for n, pair in enumerate(found)]


@pytest.mark.parametrize(
    ("gold", "given", "outcome"),
    [
        ("3, -5", "-5, 3", "right"),
        ("3, -5", "x = 3 or x = -5", "right"),
        ("2, -2", "\\pm 2", "right"),
        ("1, -1, -2", "-2, -1, 1", "right"),
        ("3, -5", "3, 5", "wrong"),
        ("2, -3", "2, 3", "wrong"),
        ("10-15", "10, 15", "undecided"),
        ("x^2+y^2=4", "x^2+y^2-4=0", "right"),
        ("3x+4y=5", "6x+8y=10", "right"),
        ("x=2", "x-2=0", "right"),
        ("2x+3y=6", "4x+6y=13", "wrong"),
        ("x=3", "x=2", "wrong"),
        ("y=2x+1", "y=2x+2", "wrong"),
        ("7:00 PM", "7:00 pm", "right"),
        ("7:00 PM", "7 p.m.", "right"),
        ("7:00 PM", "07:00", "right"),
        ("7:00", "07:00", "right"),
        ("17:30", "5:30 PM", "right"),
        ("12:30 AM", "0:30", "right"),
        ("12:00 PM", "12:00 AM", "wrong"),
        ("7:00 PM", "8:00 PM", "wrong"),
        ("7:00 PM", "7:00 AM", "wrong"),
        ("7:00", "19:00", "wrong"),
        ("5:30 PM", "5:30 AM", "wrong"),
        ("9:30", "3:10", "right"),
        ("25", "25 €", "right"),
        ("25 €", "25 euros", "right"),
        ("€5", "5 €", "right"),
        ("25 £", "25 €", "wrong"),
        ("20", "20°C", "right"),
        ("20°C", "20^\\circ\\text{C}", "right"),
        ("20 degrees Celsius", "20 °C", "right"),
        ("20°C", "21°C", "wrong"),
        ("20°C", "68°F", "undecided"),
        ("90^\\circ", "90", "right"),
        ("90 degrees", "90°", "right"),
    ],
)
def test_what_seems_a_calculation_or_a_range_is_read_as_it_is_meant(gold: str, given: str, outcome: str) -> None:
    assert judge(given, gold, {}).outcome == outcome


@pytest.mark.parametrize(("gold", "given"), [*RIGHT, *pairs(SAME)])
def test_answers_that_mean_the_same_are_right(gold: str, given: str) -> None:
    assert judge(given, gold, {}).outcome == "right"


@pytest.mark.parametrize(("gold", "given"), [*WRONG, *pairs(LOOKALIKES)])
def test_answers_that_differ_are_wrong(gold: str, given: str) -> None:
    judgement = judge(given, gold, {})
    assert (judgement.outcome, judgement.reason, judgement.score) == ("wrong", "wrong_answer", 0.0)


@pytest.mark.parametrize(("gold", "given", "reason"), UNDECIDED)
def test_what_cannot_be_parsed_is_undecided(gold: str, given: str, reason: str) -> None:
    judgement = judge(given, gold, {})
    assert (judgement.outcome, judgement.reason, judgement.score) == ("undecided", reason, None)


def test_a_comparison_that_breaks_inside_the_library_is_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    from math_verify import grader

    def fail(*given: object, **named: object) -> object:
        raise RecursionError("too deep")

    monkeypatch.setattr(grader, "simplify", fail)
    prepare()
    judgement = judge("y+2", "x+1", {})
    assert (judgement.outcome, judgement.reason) == ("undecided", "answer_unparseable")
    assert judgement.detail["error"] == "RecursionError: too deep"
    assert judge("1+x", "x+1", {}).outcome == "right"


def test_a_failing_comparison_is_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object, **named: object) -> bool:
        raise RecursionError("too deep")

    monkeypatch.setattr("math_verify.verify", fail)
    assert judge("1/2", "5/2", {}).reason == "gold_unparseable"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("Monday", True), ("no solution", True), ("ab", False), ("sin x", False), ("x", False), ("5 apples", False)],
)
def test_words_are_told_from_formulas(answer: str, expected: bool) -> None:
    assert is_text(answer) == expected
