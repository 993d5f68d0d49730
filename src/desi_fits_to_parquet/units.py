"""Numbers of bytes in words: the one way for the view of a run, `make status` and the report."""

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
