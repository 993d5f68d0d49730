"""Where a run shows itself: lines at the foot of a terminal that stay, or a line now and then."""

import os
import time
from collections.abc import Sequence
from typing import TextIO

from desi_fits_to_parquet.run.summary import Summary
from desi_fits_to_parquet.run.wording import clock_text, fit_lines, summary_line, summary_lines

PANEL_ROWS = 15
"""Lines of the view on a terminal: 24 of them leave nine to scroll."""

DRAW_S = 3.0
"""Seconds between two drawings on a terminal: 1 % of a core with 30,000 tiles."""

LINE_S = 60.0
"""Seconds between two lines elsewhere."""

FIRST_LINE_S = 10.0
"""Seconds to the first line."""


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

    def draw(self, lines: Sequence[str], share: float | None = None) -> bool:
        """Draw the lines of a summary; returns False where the terminal is too small for it.

        `share` is what is done of the run, drawn as a bar where it is known.
        """
        size = os.get_terminal_size(self._stream.fileno())
        columns, rows = size
        if rows < self._height + 5 or columns < 40:
            self.clear()
            return False
        text = ""
        if size != self._size:
            # room first: the scrolling region must not begin below what is written already
            text = ""
            if self._size[0]:  # what was drawn for another size goes, wherever it stands now
                first = min(self._size[1], rows) - self._height + 1
                text = f"\x1b7\x1b[r\x1b[{first};1H\x1b[J\x1b8"
            text += "\n" * self._height + f"\x1b[{self._height}A"
            text += f"\x1b7\x1b[1;{rows - self._height}r\x1b8"
            self._size = (columns, rows)
        text += "\x1b7"
        # the empty one parts it from what scrolls above
        bar = [] if share is None else [_bar(share, columns - 1)]
        fitted = ["", *bar, *fit_lines(lines, columns - 1, self._height - 1 - len(bar))]
        for i in range(self._height):
            line = fitted[i] if i < len(fitted) else ""
            text += f"\x1b[{rows - self._height + 1 + i};1H\x1b[2K{_coloured(line)}"
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


def _bar(share: float, columns: int) -> str:
    """Draw a share between 0 and 1 as a line of that width."""
    width = columns - 18
    full = round(share * width)
    return f"progress   {'█' * full}{'░' * (width - full)} {100 * share:3.0f} %"


COLOURS = {"progress": "32", "problem": "31", "run": "1"}
"""What lines of the view are drawn in, by their first word; numbers of ECMA-48's SGR."""


def _coloured(line: str) -> str:
    """Colour a line of the view, unless the user wants none (https://no-color.org)."""
    colour = COLOURS.get(line.partition(" ")[0])
    return line if colour is None or os.environ.get("NO_COLOR") else f"\x1b[{colour}m{line}\x1b[m"


def _share(summary: Summary) -> float | None:
    """Return what is done of this run; None where it is not known yet."""
    to_do = summary.run.to_do if summary.run else None
    if not to_do or summary.left is None:
        return None
    return min(max(1 - summary.left / to_do, 0.0), 1.0)


class Screen:
    """A panel on a terminal, a line a minute elsewhere; a screen that goes away is let go.

    Parameters
    ----------
    stream
        What Snakemake writes to, None where it is silent.

    Attributes
    ----------
    known
        Problems that are not told anew, at first those of earlier runs.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._panel = None
        if stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb":
            self._panel = Panel(stream, PANEL_ROWS)
        self.known: tuple[str, ...] = ()
        self._next_line = time.monotonic() + FIRST_LINE_S

    @property
    def pause_s(self) -> float:
        """Seconds after which there is something new to show."""
        return DRAW_S if self._panel else FIRST_LINE_S

    def show(self, summary: Summary) -> None:
        """Draw the summary, or say it in a line where one is due, with the problems new since."""
        if self._draw(summary) or time.monotonic() < self._next_line:
            return
        self._next_line = time.monotonic() + LINE_S
        new = [problem for problem in summary.problems if problem not in self.known]
        self.known = summary.problems
        self.say("\n".join([summary_line(summary), *(f"  {problem}" for problem in new)]))

    def begin(self, summary: Summary) -> None:
        """Say at once what the run does from now on."""
        if not self._draw(summary) and summary.run:
            self.say(f"{clock_text(summary.now)}  {summary.run.doing}")

    def say(self, text: str) -> None:
        """Write lines that scroll."""
        if self._stream is None:
            return
        try:
            self._stream.write(f"{text}\n")
            self._stream.flush()
        except (OSError, ValueError):  # gone or closed; the run goes on
            self._panel = self._stream = None

    def end(self, summary: Summary) -> None:
        """Give the terminal back and leave the summary on it."""
        if self._panel is not None:
            try:
                self._panel.clear()
            except (OSError, ValueError):
                self._stream = None
            self._panel = None
        self.say("\n".join(summary_lines(summary)))

    def _draw(self, summary: Summary) -> bool:
        if self._panel is None:
            return False
        try:
            return self._panel.draw(summary_lines(summary), _share(summary))
        except (OSError, ValueError):
            self._panel = self._stream = None
            return False
