"""Numbers in words: the one way for the view of a run, `make status`, the demo and the report."""

import math
from collections.abc import Iterable
from statistics import median

MB = 10**6
"""Bytes of a megabyte, the unit of columns that are sorted."""

_BYTE_UNITS = ((10**12, "TB"), (10**9, "GB"), (MB, "MB"), (10**3, "kB"))


def byte_unit(size: float) -> tuple[int, str]:
    """Give the largest decimal unit of which a number of bytes holds at least one, and its name."""
    return next((unit for unit in _BYTE_UNITS if abs(size) >= unit[0]), (1, "B"))


def size_text(size: float) -> str:
    """Write a number of bytes in the unit that `byte_unit` chooses: `12.34 GB`."""
    scale, unit = byte_unit(size)
    return f"{size / scale:,.2f} {unit}" if scale > 1 else f"{size:,.0f} B"


def percent_text(percent: float) -> str:
    """Write a percentage: `98.57 %`."""
    return f"{percent:.2f} %"


def decimals(values: Iterable[float]) -> int:
    """Tell how many digits behind the point the figures of one column get, so that they align.

    The median of those that are not 0 has three significant digits then; never more than two
    behind the point.
    """
    sizes = [abs(value) for value in values if value and math.isfinite(value)]
    if not sizes:
        return 0
    return min(max(2 - math.floor(math.log10(median(sizes))), 0), 2)
