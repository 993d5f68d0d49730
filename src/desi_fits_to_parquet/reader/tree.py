"""Where a collection lies: what the reader asks of a folder, and of one far away."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from desi_fits_to_parquet.readers import read_rows


class Tree(Protocol):
    """A collection's files.

    Attributes
    ----------
    place
        How the user named it, for messages.
    """

    place: str

    def fetch(self, names: Sequence[str]) -> list[Path]:
        """Return small files of the collection on this disk, in the present version.

        Raises
        ------
        FileNotFoundError
            Where there is no such file; the message is its name.
        """

    def read_rows(
        self,
        files: Sequence[str],
        rows: Iterable[int],
        sizes: Iterable[int],
        columns: Sequence[str],
    ) -> pa.Table:
        """Read rows of tiles as `readers.read_rows` does; `sizes` are those of the files."""


class Folder:
    """A collection on this disk.

    Raises
    ------
    FileNotFoundError
        Where there is no such folder.
    """

    def __init__(self, place: Path) -> None:
        if not place.is_dir():
            raise FileNotFoundError(f"{place}: there is no such folder")
        self.place = str(place)
        self._folder = place

    def fetch(self, names: Sequence[str]) -> list[Path]:
        """See `Tree`."""
        paths = [self._folder / name for name in names]
        for path in paths:
            if not path.is_file():
                raise FileNotFoundError(str(path))
        return paths

    def read_rows(
        self,
        files: Sequence[str],
        rows: Iterable[int],
        sizes: Iterable[int],
        columns: Sequence[str],
    ) -> pa.Table:
        """See `Tree`."""
        try:
            return read_rows(self._folder, files, rows, columns)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{error.filename or error}: the catalogue names this file, but it is not there"
            ) from error
