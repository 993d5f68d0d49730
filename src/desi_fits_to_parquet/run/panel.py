"""Lines at the foot of a terminal that stay while the lines above scroll."""

import os
from collections.abc import Sequence
from typing import TextIO

from desi_fits_to_parquet.run.wording import fit_lines

PANEL_ROWS = 15
"""Lines of the view on a terminal: 24 of them leave nine to scroll."""


class Panel:
    """Some lines at the foot of a terminal that stay while the lines above scroll.

    Parameters
    ----------
    stream
        A terminal.
    height
        Number of lines.
    """

    def __init__(self, stream: TextIO, height: int) -> None:
        self._stream = stream
        self._height = height
        self._size = (0, 0)

    def draw(self, lines: Sequence[str]) -> bool:
        """Draw the lines of a summary; returns False where the terminal is too small for it."""
        size = os.get_terminal_size(self._stream.fileno())
        columns, rows = size
        if rows < self._height + 5 or columns < 40:
            self.clear()
            return False
        text = ""
        if size != self._size:
            # room first: the scrolling region must not begin below what is written already
            text = "\x1b[r" if self._size[0] else ""
            text += "\n" * self._height + f"\x1b[{self._height}A"
            text += f"\x1b7\x1b[1;{rows - self._height}r\x1b8"
            self._size = (columns, rows)
        text += "\x1b7"
        # the empty one parts it from what scrolls above
        fitted = ["", *fit_lines(lines, columns - 1, self._height - 1)]
        for i in range(self._height):
            line = fitted[i] if i < len(fitted) else ""
            text += f"\x1b[{rows - self._height + 1 + i};1H\x1b[2K{line}"
        self._write(text + "\x1b8")
        return True

    def clear(self) -> None:
        """Give the lines back to the terminal."""
        if self._size[0]:
            first = self._size[1] - self._height + 1
            self._write(f"\x1b[r\x1b[{first};1H\x1b[J")
            self._size = (0, 0)

    def _write(self, text: str) -> None:
        self._stream.write(text)  # in one piece: other processes write here too
        self._stream.flush()
