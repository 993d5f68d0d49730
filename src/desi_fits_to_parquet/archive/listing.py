"""Listing folders of the archive with botocore."""

import re
from collections.abc import Callable
from typing import Any, NoReturn

from desi_fits_to_parquet.archive.credentials import NoCredentials, open_session
from desi_fits_to_parquet.archive.errors import ArchiveUnreachable, NothingFound
from desi_fits_to_parquet.archive.keys import archive_address
from desi_fits_to_parquet.settings import ArchiveSettings
from desi_fits_to_parquet.tile import LAYOUTS, Layout
from desi_fits_to_parquet.tiles_csv import Source

LISTERS = 16
"""Listings in flight at most."""

PAGE_TRIES = 5

Listing = Callable[..., tuple[list[Source], list[str]]]
"""`(prefix, level=False, tries=PAGE_TRIES)` gives objects and names of folders."""


def open_listing(archive: ArchiveSettings) -> Listing:
    """Open the archive for listing; it does not connect yet.

    Parameters
    ----------
    archive
        Section `archive` of the configuration.

    Returns
    -------
    Listing
        A function of the beginning of the keys to list. With `level` true it goes no deeper than
        the next slash. `tries` is how often a page is asked for, each with botocore's own retries
        in it. It may be called from several threads; it raises `ArchiveUnreachable`.

    Raises
    ------
    ArchiveUnreachable
        Where `archive.profile` gives no keys.
    """
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

    address = archive_address(archive)
    try:
        session = open_session(archive["profile"])
    except NoCredentials as error:
        raise ArchiveUnreachable(str(error)) from error
    # nobody reads the times, and parsing them takes half the CPU of a listing
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
    client: Any = session.create_client(
        "s3",
        region_name=archive["region"],
        endpoint_url=archive["endpoint"],
        config=Config(
            signature_version="s3v4" if archive["profile"] else UNSIGNED,
            ignore_configured_endpoint_urls=True,  # type: ignore[call-arg]  # newer than the stubs
            connect_timeout=4,
            read_timeout=20,
            retries={"mode": "standard", "total_max_attempts": 3},
            max_pool_connections=LISTERS,
            s3={"addressing_style": "path" if archive["endpoint"] else "virtual"},
        ),
    )
    failures = (BotoCoreError, ClientError, ResponseParserError, _NoListing)

    def fetch_page(request: dict[str, Any]) -> dict[str, Any]:
        page: dict[str, Any] = client.list_objects_v2(**request)
        if "IsTruncated" not in page:  # a proxy's page, read as XML, gives an empty answer
            raise _NoListing("the answer is not a listing of S3; a proxy may be in the way")
        return page

    def may_pass(error: BaseException) -> bool:
        final = isinstance(error, ClientError) and _status(error) in (400, 403, 404)
        return isinstance(error, failures) and not final

    def list_folder(
        prefix: str, level: bool = False, tries: int = PAGE_TRIES
    ) -> tuple[list[Source], list[str]]:
        objects: list[Source] = []
        folders: list[str] = []
        request = {"Bucket": archive["bucket"], "Prefix": prefix}
        if level:
            request["Delimiter"] = "/"
        retrying = Retrying(
            retry=retry_if_exception(may_pass),
            stop=stop_after_attempt(tries),
            wait=wait_random_exponential(multiplier=0.5, max=10),
            reraise=True,
        )
        while True:
            try:
                page = retrying(fetch_page, request)
            except failures as error:
                _explain(error, address)
            for entry in page.get("Contents", ()):
                etag = entry["ETag"].removeprefix("W/").strip('"')
                objects.append(Source(key=entry["Key"], size=entry["Size"], etag=etag))
            for entry in page.get("CommonPrefixes", ()):
                folders.append(entry["Prefix"].removeprefix(prefix).rstrip("/"))
            if not page["IsTruncated"]:
                return objects, folders
            token = page.get("NextContinuationToken")
            if not token or token == request.get("ContinuationToken"):
                raise ArchiveUnreachable(f"the archive at {address} lists {prefix} without end")
            request["ContinuationToken"] = token

    return list_folder


def find_layout(archive: ArchiveSettings, list_folder: Listing) -> Layout:
    """Return the archive's layout: the configured one, or that whose folder the prefix holds.

    Raises
    ------
    ArchiveUnreachable
        Where the archive does not answer, or has no such bucket.
    NothingFound
        Where `archive.layout` is `auto` and the prefix holds no such folder, or several.
    """
    if archive["layout"] != "auto":
        return LAYOUTS[archive["layout"]]
    _, folders = list_folder(f"{archive['prefix']}/", level=True, tries=1)
    there = [layout for layout in LAYOUTS.values() if layout.root in folders]
    if len(there) == 1:
        return there[0]
    address = archive_address(archive)
    roots = [f"{archive['prefix']}/{layout.root}/" for layout in there or LAYOUTS.values()]
    if there:
        raise NothingFound(
            f"{address} has the folders {' and '.join(roots)}: say with archive.layout which of "
            f"{', '.join(layout.name for layout in there)} to read"
        )
    raise NothingFound(
        f"{address} has no folder {' or '.join(roots)}: see archive.bucket and archive.prefix"
    )


class _NoListing(Exception):
    """An answer with status 200 that is no listing."""


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _explain(error: Exception, address: str) -> NoReturn:
    """Raise what the user is to read: one line with address, reason and what to do."""
    code = getattr(error, "response", {}).get("Error", {}).get("Code", "")
    if code == "NoSuchBucket":
        raise ArchiveUnreachable(
            f"the archive at {address} has no such bucket: see archive.bucket"
        ) from error
    if code in ("AccessDenied", "403"):
        raise ArchiveUnreachable(
            f"the archive at {address} does not let anyone list it: see archive.bucket"
        ) from error
    reason = re.sub(r"\?list-type=\S*", "", " ".join(str(error).split()))[:300]
    raise ArchiveUnreachable(
        f"the archive could not be reached at {address}: {reason} "
        "(see the network connection and the section archive of the configuration)"
    ) from error
