"""A collection on object storage or a web server: its catalogue kept here, spectra by ranges.

The files of the catalogue are fetched once and kept with their ETags; whoever opens it again asks
whether they are still the same. Of a tile's file two ranges are fetched: its tail, which holds the
footer, and the columns that are wanted of the row groups that hold the rows.
"""

import hashlib
import io
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.exceptions import BaseError, NotModifiedError
from obstore.store import HTTPStore
from tqdm import tqdm

from desi_fits_to_parquet.archive.credentials import store_arguments
from desi_fits_to_parquet.archive.errors import classify_error, describe_error
from desi_fits_to_parquet.archive.store import open_bucket
from desi_fits_to_parquet.files import atomic_path, write_atomically
from desi_fits_to_parquet.readers import gather_rows, group_rows

_REGION = "us-west-2"
"""Where DESI's own bucket is."""

_TAIL_BYTES, _TAIL_SHARE = 76 << 10, 0.0165
"""A footer takes 69 kB and 8.4 kB more for each row group of half a megabyte; the last is less."""

_GAP_BYTES = 64 << 10
"""Ranges closer than this are one request: 2 ms of a link that answers in 50."""

_CONNECTIONS = 32

_FOOTERS = 256
"""Footers of files that are kept in memory, some 200 kB each."""

_CLIENT: Any = {
    "connect_timeout": timedelta(seconds=10),
    "read_timeout": timedelta(seconds=30),
    "timeout": timedelta(minutes=10),
}

_RETRIES: Any = {"max_retries": 5, "retry_timeout": timedelta(minutes=1)}


class Remote:
    """A collection far away; see `reader.tree.Tree`.

    Parameters
    ----------
    place
        `s3://bucket/prefix` or an address on a web server.
    endpoint, region, profile, cache
        As `open_catalog` takes them.

    Attributes
    ----------
    requests, received
        Requests that were sent, and bytes of the bodies that came.

    Raises
    ------
    ValueError
        Where the place has no bucket, or an option does not go with it.
    NoAccess
        Where the profile gives no keys.
    """

    def __init__(
        self,
        place: str,
        endpoint: str | None = None,
        region: str | None = None,
        profile: str | None = None,
        cache: Path | None = None,
    ) -> None:
        self.place = place.rstrip("/")
        self.requests = self.received = 0
        self._arguments, self._process = (place, endpoint, region, profile, cache), os.getpid()
        parts = urlsplit(self.place)
        if not parts.netloc:
            raise ValueError(f"{place}: there is no {'bucket' if parts.scheme == 's3' else 'host'}")
        if parts.scheme == "s3":
            endpoint = endpoint or _variable("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
            region = region or _variable("AWS_REGION", "AWS_DEFAULT_REGION") or _REGION
            signing = store_arguments(profile)
            self._store: Any = open_bucket(
                parts.netloc, region, endpoint, signing, _CLIENT, _RETRIES
            )
            prefix = parts.path.strip("/")
            self._prefix = f"{prefix}/" if prefix else ""
        elif endpoint or region or profile:
            raise ValueError(f"{place}: endpoint, region and profile are for s3:// alone")
        else:
            options: Any = {**_CLIENT, "allow_http": True}
            self._store = HTTPStore.from_url(
                self.place, client_options=options, retry_config=_RETRIES
            )
            self._prefix = ""
        name = hashlib.sha256(f"{endpoint} {self.place}".encode()).hexdigest()[:16]
        self._cache = (cache or default_cache()) / name
        self._footers: OrderedDict[str, tuple[str | None, pq.FileMetaData]] = OrderedDict()
        self._lock = threading.Lock()
        self._tail_bytes = _TAIL_BYTES

    def __reduce__(self) -> tuple[Any, ...]:
        """Connect anew in another process."""
        return Remote, self._arguments

    # ----------------------------------------------------------------------------- catalogue

    def fetch(self, names: Sequence[str]) -> list[Path]:
        """Return files of the collection, kept on this disk; see `Tree`.

        Raises
        ------
        FileNotFoundError
            Where there is no such file; the message is its name.
        ConnectionError
            Where the server does not answer as it should.
        """
        bar = tqdm(total=len(names), desc=f"catalogue of {self.place}", unit="file", delay=2)
        with bar, ThreadPoolExecutor(_CONNECTIONS) as threads:
            paths = []
            for path in threads.map(self._keep, names):
                paths.append(path)
                bar.update()
        return paths

    def _keep(self, name: str) -> Path:
        """Fetch a file where it is another one than that kept here.

        Its ETag is part of its name here: what has a name never changes under a reader.
        """
        folder = (self._cache / name).parent
        note = folder / f"{Path(name).name}.etag"
        known = note.read_text() if note.is_file() else None
        kept = _version(folder, name, known) if known else None
        options: obstore.GetOptions = {}
        if kept and kept.is_file():
            options = {"if_none_match": known}
        try:
            with self._lock:
                self.requests += 1
            answer = obstore.get(self._store, self._prefix + name, options=options)
            etag, size = answer.meta["e_tag"], answer.meta["size"]
            path = _version(folder, name, etag)
            with atomic_path(path) as temporary, temporary.open("wb") as stream:
                for chunk in answer.stream():
                    self._count(len(chunk))
                    stream.write(chunk)
                if stream.tell() != size:
                    raise ConnectionError(
                        f"{self.place}/{name}: {stream.tell()} bytes came of {size}"
                    )
        except NotModifiedError:
            assert kept is not None  # noqa: S101  (for the type checker)
            return kept
        except FileNotFoundError as error:
            raise FileNotFoundError(name) from error
        except (BaseError, OSError) as error:
            raise self._failed(name, error) from error
        if etag:
            write_atomically(note, etag)
        if kept and kept != path:
            kept.unlink(missing_ok=True)
        return path

    # ------------------------------------------------------------------------------- spectra

    def read_rows(
        self,
        files: Sequence[str],
        rows: Iterable[int],
        sizes: Iterable[int],
        columns: Sequence[str],
    ) -> pa.Table:
        """Read rows of tiles; see `Tree`.

        Raises
        ------
        FileNotFoundError
            Where a file that the catalogue names is gone.
        ValueError
            Where it is another one by now.
        ConnectionError
            Where the server does not answer as it should.
        RuntimeError
            In a process forked from that which opened the collection.
        """
        if (
            os.getpid() != self._process
        ):  # obstore's threads are not there, so it would wait for ever
            raise RuntimeError(
                f"{self.place}: a forked process cannot read from far away; start it otherwise: "
                "DataLoader(..., multiprocessing_context='spawn')"
            )
        size_of = dict(zip(files, sizes, strict=True))

        def open_file(
            file: str, numbers: Sequence[int], names: Sequence[str] | None
        ) -> pq.ParquetFile:
            return self._open(file, size_of[file], numbers, names)

        return gather_rows(open_file, files, rows, columns, _CONNECTIONS)

    def _open(
        self, file: str, size: int, rows: Sequence[int], columns: Sequence[str] | None
    ) -> pq.ParquetFile:
        """Open a tile's file with the ranges in memory that some columns of some rows need."""
        with self._lock:
            known = self._footers.get(file)
        if known is None:
            known = self._read_footer(file, size)
            with self._lock:
                self._footers[file] = known
                if len(self._footers) > _FOOTERS:
                    self._footers.popitem(last=False)
        etag, metadata = known
        groups = [group for group, _ in group_rows(metadata, rows)]
        spans = merge(column_ranges(metadata, groups, columns))

        def read(span: tuple[int, int]) -> tuple[int, bytes]:
            return span[0], self._range(file, span[0], span[1], size, etag)[0]

        with ThreadPoolExecutor(8) as threads:
            pieces = list(threads.map(read, spans))
        return pq.ParquetFile(Pieces(size, pieces), metadata=metadata)

    def _read_footer(self, file: str, size: int) -> tuple[str | None, pq.FileMetaData]:
        """Fetch the footer of a Parquet file, in one request unless it is unusually long."""
        start = max(size - self._tail_bytes - int(_TAIL_SHARE * size), 0)
        tail, etag = self._range(file, start, size, size, None)
        if tail[-4:] != b"PAR1":
            raise ValueError(f"{self.place}/{file} is no Parquet file")
        missing = int.from_bytes(tail[-8:-4], "little") + 8 - len(tail)
        if missing > 0:
            with self._lock:  # other files have as many columns
                self._tail_bytes += missing
            tail = self._range(file, max(start - missing, 0), start, size, etag)[0] + tail
        try:
            return etag, pq.read_metadata(BytesIO(tail))
        except pa.ArrowInvalid as error:
            raise ValueError(f"{self.place}/{file}: its footer is broken: {error}") from error

    def _range(
        self, file: str, start: int, stop: int, size: int, etag: str | None
    ) -> tuple[bytes, str | None]:
        """Fetch bytes of a file of a known size and version; return them and its ETag."""
        options: obstore.GetOptions = {"range": (start, stop)}
        if etag and not etag.startswith("W/"):  # a weak one never matches
            options["if_match"] = etag
        with self._lock:
            self.requests += 1
        try:
            answer = obstore.get(self._store, self._prefix + file, options=options)
            data = bytes(answer.bytes())
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{self.place}/{file}: the catalogue names this file, but it is not there"
            ) from error
        except (BaseError, OSError) as error:
            if classify_error(error) in ("changed", "refused"):
                raise self._changed(file) from error
            raise self._failed(file, error) from error
        self._count(len(data))
        if answer.meta["size"] != size or (etag and answer.meta["e_tag"] != etag):
            raise self._changed(file)
        if len(data) != stop - start:
            raise ConnectionError(f"{self.place}/{file}: {len(data)} bytes came of {stop - start}")
        return data, answer.meta["e_tag"]

    # ------------------------------------------------------------------------------- details

    def _count(self, amount: int) -> None:
        with self._lock:
            self.received += amount

    def _changed(self, file: str) -> ValueError:
        return ValueError(
            f"{self.place}/{file} is not the file that the catalogue names: open it again"
        )

    def _failed(self, name: str, error: Exception) -> Exception:
        if classify_error(error) == "whole":
            return ConnectionError(
                f"{self.place}: the server does not answer requests for a range of bytes; copy "
                "the collection and open the copy"
            )
        if isinstance(error, ConnectionError):
            return error
        return ConnectionError(f"{self.place}/{name}: {describe_error(error)}")


class Pieces(io.RawIOBase):
    """A file of which some pieces are in memory, for pyarrow; others cannot be read.

    Parameters
    ----------
    size
        Bytes of the whole file.
    pieces
        Pairs of offset and bytes.
    """

    def __init__(self, size: int, pieces: Sequence[tuple[int, bytes]]) -> None:
        self._size, self._pieces, self._at = size, pieces, 0

    def readable(self) -> bool:
        """See io."""
        return True

    def seekable(self) -> bool:
        """See io."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """See io."""
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        """See io."""
        return self._at

    def read(self, amount: int = -1) -> bytes:
        """See io."""
        stop = self._size if amount < 0 else min(self._at + amount, self._size)
        for start, data in self._pieces:
            if start <= self._at and stop <= start + len(data):
                found = data[self._at - start : stop - start]
                self._at = stop
                return found
        if stop <= self._at:
            return b""
        raise OSError(f"bytes {self._at} to {stop} were not fetched")


def column_ranges(
    metadata: pq.FileMetaData, groups: Iterable[int], columns: Sequence[str] | None
) -> list[tuple[int, int]]:
    """Return where columns of row groups lie in a file: from a byte to before another one."""
    wanted = None if columns is None else {name.split(".")[0] for name in columns}
    ranges = []
    for group in groups:
        row_group = metadata.row_group(group)
        for i in range(row_group.num_columns):
            column = row_group.column(i)
            if wanted is None or column.path_in_schema.split(".")[0] in wanted:
                start = column.dictionary_page_offset or column.data_page_offset
                ranges.append((start, start + column.total_compressed_size))
    return ranges


def merge(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join ranges that lie close together."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if merged and start - merged[-1][1] <= _GAP_BYTES:
            merged[-1] = merged[-1][0], max(stop, merged[-1][1])
        else:
            merged.append((start, stop))
    return merged


def default_cache() -> Path:
    """Return the folder for catalogues from elsewhere: below XDG_CACHE_HOME or ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home, "desi-fits-to-parquet")


def _variable(*names: str) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


def _version(folder: Path, name: str, etag: str | None) -> Path:
    """Return the name here of a version of a file."""
    short = hashlib.sha256((etag or "").encode()).hexdigest()[:12]
    path = Path(name)
    return folder / f"{path.stem}-{short}{path.suffix}"
