"""How obstore opens the archive's bucket or folder, and what its answers are held to."""

import threading
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from obstore.store import LocalStore, S3Store

from desi_fits_to_parquet.archive.credentials import store_arguments
from desi_fits_to_parquet.archive.errors import SourceChanged, SourceContradicted
from desi_fits_to_parquet.settings import ArchiveSettings, archive_folder
from desi_fits_to_parquet.tiles_csv import Source

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult, ObjectMeta
    from obstore.store import ClientConfig, RetryConfig

SMALLEST_LIMIT_BYTES = 1 << 16

SLOWEST_BYTES_PER_S = 10_000
"""A request that is slower than this is given up; a stalled one much earlier, by the timeout."""


class Broken(Exception):
    """A try failed in a way that may pass."""


class OtherObject(Broken):
    """The answer is not the object that was listed: it was replaced, or a proxy's page came."""


class Stores:
    """The bucket, once for each limit of time, or the folder that is the archive.

    It does not connect before a request is sent.

    Parameters
    ----------
    archive
        Section `archive` of the configuration.
    timeout_s
        Patience with an answer that does not go on, in seconds.
    connections
        How many connections are kept open at most.
    """

    def __init__(self, archive: ArchiveSettings, timeout_s: float, connections: int) -> None:
        self._archive = archive
        self.folder = archive_folder(archive)
        self._signing = {} if self.folder else store_arguments(archive["profile"])
        self._patience = timedelta(seconds=timeout_s)
        self._connections = connections
        self._stores: dict[int, S3Store | LocalStore] = {}
        self._lock = threading.Lock()

    def for_amount(self, amount: int) -> S3Store | LocalStore:
        """Give the bucket with a limit of time for a request of that many bytes.

        obstore knows limits of all requests of a store only. Each store connects anew, so there is
        one for all amounts up to the next power of four, and none for less than 64 KiB.
        """
        most = SMALLEST_LIMIT_BYTES
        while most < amount and not self.folder:
            most *= 4
        with self._lock:
            if most not in self._stores:
                self._stores[most] = self._open(most)
            return self._stores[most]

    def _open(self, largest: int) -> S3Store | LocalStore:
        if self.folder:
            return LocalStore(self.folder)
        return open_bucket(
            self._archive["bucket"],
            self._archive["region"],
            self._archive["endpoint"],
            self._signing,
            {
                "connect_timeout": min(self._patience, timedelta(seconds=10)),
                "read_timeout": self._patience,
                "timeout": self._patience + timedelta(seconds=largest / SLOWEST_BYTES_PER_S),
                "pool_max_idle_per_host": str(self._connections),
            },
            {"max_retries": 0},
        )

    def options(self, source: Source) -> "GetOptions":
        """Ask for the listed version of an object, where the archive knows versions."""
        return {} if self.folder else {"if_match": f'"{source["etag"]}"'}

    def check_version(self, meta: "ObjectMeta", source: Source) -> None:
        """Raise where an answer is not of the object that was listed: of this very version."""
        if meta["e_tag"] is None:
            raise Broken("the answer has no ETag")
        if self._etag(meta) != source["etag"]:
            raise SourceChanged(source["key"])
        if meta["size"] != source["size"]:
            raise SourceContradicted(
                f"{source['key']}: {meta['size']} bytes in all with the ETag of the listed "
                f"{source['size']}"
            )

    def check_whole(self, meta: "ObjectMeta", source: Source) -> None:
        """Raise where the answer to a request without a range is not of the listed object."""
        if self.folder:  # no proxy's page can have come in its place
            self.check_version(meta, source)
        elif (meta["size"], self._etag(meta)) != (source["size"], source["etag"]):
            raise OtherObject(
                f"the answer is not the listed object: {meta['size']} bytes with ETag "
                f"{meta['e_tag']}, listed {source['size']} with {source['etag']}"
            )

    def is_gone(self) -> bool:
        """Tell whether the folder that is the archive is not there: a disk is not mounted."""
        return self.folder is not None and not self.folder.is_dir()

    def _etag(self, meta: "ObjectMeta") -> str:
        """Return an ETag as the list of tiles holds it.

        Without quotes and weakness mark; of a file without its inode (`folder.file_etag`).
        """
        etag = (meta["e_tag"] or "").removeprefix("W/").strip('"')
        return etag.partition("-")[2] if self.folder else etag


def open_bucket(
    bucket: str,
    region: str,
    endpoint: str | None,
    signing: Mapping[str, Any],
    client: "ClientConfig",
    retries: "RetryConfig",
) -> S3Store:
    """Open a bucket; it does not connect before a request is sent.

    Parameters
    ----------
    bucket, region, endpoint
        Where it is; by default the endpoint is that of AWS in the region.
    signing
        From `credentials.store_arguments`.
    client, retries
        Limits of time and the like, as obstore takes them.
    """
    endpoint = endpoint or f"https://s3.{region}.amazonaws.com"
    # the endpoint is named under both names: obstore would take another one from the environment
    named: dict[str, Any] = {"endpoint": endpoint, "aws_endpoint_url_s3": endpoint, **signing}
    return S3Store(
        bucket,
        region=region,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True, **client},
        retry_config=retries,
        **named,
    )


def read_bounded(answer: "GetResult", amount: int) -> memoryview:
    """Read the body of an answer, but no more than shows that it is too long.

    obstore's own `bytes()` reads whatever a server sends. (So it does with the body of an answer
    that is an error, which nothing here can end before the limit of time.)
    """
    pieces = []
    length = 0
    for piece in answer.stream(min_chunk_size=amount + 1):
        pieces.append(piece)
        length += len(piece)
        if length > amount:
            break
    return memoryview(pieces[0] if len(pieces) == 1 else b"".join(pieces))


def check_length(length: int, amount: int) -> None:
    """Raise where a body has another length than that of what was asked for."""
    if length > amount:
        raise Broken(f"more bytes came than the {amount} that were asked for")
    if length < amount:
        raise Broken(f"{length} bytes came in place of {amount}")
