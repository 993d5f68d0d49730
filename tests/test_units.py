"""A number reads the same wherever it is told."""

import pytest

from desi_fits_to_parquet.units import byte_unit, decimals, percent_text, size_text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (-2_500_000, "-2.50 MB"),
        (110.88e9, "110.88 GB"), (4394.05 * 2**30, "4.72 TB"), (4.7e15, "4,700.00 TB"),
    ],
)  # fmt: skip
def test_bytes_are_written_in_the_decimal_unit_that_fits(size: float, text: str):
    assert size_text(size) == text
    assert byte_unit(size)[1] == text.split()[1]


@pytest.mark.parametrize(
    ("values", "digits"),
    [([], 0), ([0.0, 0.0], 0), ([448.2, 512.0], 0), ([7.16, 9.45], 2), ([44.3, 99.0], 1),
     ([0.02, float("nan"), 0.3], 2), ([-4.3e-5], 2)],
)  # fmt: skip
def test_figures_of_a_column_share_their_digits(values: list[float], digits: int) -> None:
    assert decimals(values) == digits


def test_a_percentage_has_two_digits() -> None:
    assert percent_text(98.8155) == "98.82 %"
