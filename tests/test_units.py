"""A number of bytes reads the same wherever it is told."""

import pytest

from desi_fits_to_parquet.units import byte_unit, size_text


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
