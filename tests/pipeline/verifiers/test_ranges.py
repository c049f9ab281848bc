import pytest

from pipeline.verifiers.ranges import may_mean, read


@pytest.mark.parametrize(
    ("answer", "texts"),
    [
        ("3-2", ["3-2"]),
        ("10 – 15", ["10-15"]),
        ("10--15", ["10-15"]),
        ("$10-$15", ["10-15"]),
        (r"\$1,000-\$2,000", ["1,000-2,000"]),
        ("3:30-4:30", ["3:30-4:30"]),
        ("-5-10", ["-5-10"]),
        ("2024-01-05", ["2024-01-05"]),
        ("1/2/2024", ["1/2/2024"]),
        ("192.168.0.1", ["192.168.0.1"]),
        ("0X1F", ["0x1f"]),
        ("0b12", ["0b12"]),
        ("3-4, 1-2", ["1-2", "3-4"]),
    ],
)
def test_ranges_dates_and_prefixed_numbers_are_told_from_calculations(answer: str, texts: list[str]) -> None:
    found = read(answer)
    assert found is not None
    assert [item.text for item in found] == texts


@pytest.mark.parametrize(
    "answer",
    ["5", "-5", "1,000", "1.5", "1/2", "3:2", "x-1", "3-2i", "3-2, 5", "(3-2, 4)", "1e-5", "10^-4", "0", "", "-"],
)
def test_numbers_and_formulas_are_none(answer: str) -> None:
    assert read(answer) is None


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("10 to 15", "10-15", True),
        ("between 10 and 15", "10-15", True),
        ("10", "10-15", False),
        ("5", "10-15", False),
        ("January 5, 2024", "2024-01-05", True),
        ("in 2024", "2024-01-05", False),
        ("31", "0x1F", True),
        ("1f", "0x1F", True),
        ("0", "0x1F", False),
        ("9" * 20_000, "10-15", False),
    ],
)
def test_another_form_may_mean_the_same(answer: str, gold: str, expected: bool) -> None:
    found = read(gold)
    assert found is not None
    assert may_mean(answer, found) == expected
