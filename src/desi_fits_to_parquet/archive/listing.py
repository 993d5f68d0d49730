"""Listing folders of the archive: with boto3, or of this machine's disk."""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from desi_fits_to_parquet.archive.bounded import Endless, bounded_sender
from desi_fits_to_parquet.archive.credentials import NoAccess, open_session, trusted_file
from desi_fits_to_parquet.archive.errors import ArchiveUnreachable, NothingFound
from desi_fits_to_parquet.archive.folder import list_folder
from desi_fits_to_parquet.archive.keys import archive_address
from desi_fits_to_parquet.settings import ArchiveSettings, archive_folder
from desi_fits_to_parquet.text import neutral, shorten
from desi_fits_to_parquet.tile import LAYOUTS, Layout
from desi_fits_to_parquet.tiles_csv import Source

LISTERS = 16
"""Listings in flight at most."""

PAGE_TRIES = 5

LISTING_BYTES = 64 << 20
"""No listing takes more memory: eleven pixel groups, the most that is asked for, take a tenth."""

_ENTRY_BYTES = 400  # of the objects of Python around a key

_EMPTY_PAGE_BYTES = 1 << 16  # so that a thousand pages end a listing that holds nothing

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
        the next slash. `tries` is how often a page is asked for, each with boto3's own retries
        in it. It may be called from several threads; it raises `ArchiveUnreachable`.

    Raises
    ------
    ArchiveUnreachable
        Where `archive.profile` gives no keys, or the file of trusted certificates is not there.
    """
    if folder := archive_folder(archive):
        return lambda prefix, level=False, tries=1: list_folder(folder, prefix, level)
    return _open_bucket(archive)


def _open_bucket(archive: ArchiveSettings) -> Listing:
    """Open an S3 bucket for listing."""
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

    address = archive_address(archive)
    try:
        session = open_session(archive["profile"])
        trusted = trusted_file(os.environ)
    except NoAccess as error:
        raise ArchiveUnreachable(str(error)) from error
    client: Any = session.client(
        "s3",
        region_name=archive["region"],
        endpoint_url=archive["endpoint"],
        config=Config(
            signature_version="s3v4" if archive["profile"] else UNSIGNED,
            ignore_configured_endpoint_urls=True,  # type: ignore[call-arg]  # newer than the stubs
            retries={"mode": "standard", "total_max_attempts": 3},
            s3={"addressing_style": "path" if archive["endpoint"] else "virtual"},
        ),
    )
    send = bounded_sender(client.meta.endpoint_url, trusted, LISTERS)
    client.meta.events.register("before-send.s3", send)
    failures = (BotoCoreError, ClientError, ResponseParserError, Endless, _NoListing)

    def fetch_page(request: dict[str, Any]) -> dict[str, Any]:
        try:
            page: dict[str, Any] = client.list_objects_v2(**request)
        except ValueError as error:  # a size that is no number
            raise _NoListing(f"the answer is not a listing of S3: {error}") from error
        if region := _other_region(page, archive):
            raise ArchiveUnreachable(region)
        if "IsTruncated" not in page:  # a proxy's page, read as XML, gives an empty answer
            raise _NoListing("the answer is not a listing of S3; a proxy may be in the way")
        for entry in page.get("Contents", ()):
            if not entry.get("Key") or not entry.get("ETag") or entry.get("Size", -1) < 0:
                raise _NoListing(f"an object is listed without key, ETag or size: {entry}")
        return page

    def may_pass(error: BaseException) -> bool:
        final = isinstance(error, ClientError) and _status(error) in (301, 400, 403, 404)
        return isinstance(error, failures) and not final

    def list_bucket(
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
        tokens: set[str] = set()
        amount = 0
        while True:
            try:
                page = retrying(fetch_page, request)
            except failures as error:
                _explain(error, archive)
            for entry in page.get("Contents", ()):
                etag = entry["ETag"].removeprefix("W/").strip('"')
                objects.append(Source(key=entry["Key"], size=entry["Size"], etag=etag))
                amount += len(entry["Key"]) + len(etag) + _ENTRY_BYTES
            for entry in page.get("CommonPrefixes", ()):
                folders.append(entry["Prefix"].removeprefix(prefix).rstrip("/"))
                amount += len(folders[-1]) + _ENTRY_BYTES
            if not page["IsTruncated"]:
                return objects, folders
            token = page.get("NextContinuationToken", "")
            amount += len(token) + _EMPTY_PAGE_BYTES
            if not token or token in tokens or amount > LISTING_BYTES:
                raise ArchiveUnreachable(f"the archive at {address} lists {prefix} without end")
            tokens.add(token)
            request["ContinuationToken"] = token

    return list_bucket


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
    raise NothingFound(f"{address} has no folder {' or '.join(roots)}: {see_archive(archive)}")


def see_archive(archive: ArchiveSettings) -> str:
    """Say which settings tell where the archive is."""
    folder = archive_folder(archive)
    if folder is None:
        return "see archive.bucket and archive.prefix"
    if any((folder / layout.root).is_dir() for layout in LAYOUTS.values()):
        return (
            "it is a production itself, so archive.endpoint is the folder that holds it, "
            f"{folder.parent}, and archive.prefix its name, {folder.name}"
        )
    return "see archive.endpoint and archive.prefix"


class _NoListing(Exception):
    """An answer that is no listing."""


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _other_region(response: Mapping[str, Any], archive: ArchiveSettings) -> str:
    """Return a sentence where an answer says that the bucket is in another region, else nothing.

    boto3 goes there by itself, the client that fetches does not.
    """
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    failure = response.get("Error", {})
    region = headers.get("x-amz-bucket-region") or failure.get("Region", "")
    moved = archive["endpoint"] is None or failure.get("Code") in ("PermanentRedirect", "301")
    if not moved or region in ("", archive["region"]):
        return ""
    return (
        f"the bucket at {archive_address(archive)} is in region {neutral(region)[:60]}, "
        f"archive.region says {archive['region']}"
    )


def _explain(error: Exception, archive: ArchiveSettings) -> NoReturn:
    """Raise what the user is to read: one line with address, reason and what to do."""
    from botocore.exceptions import ConnectionClosedError

    address = archive_address(archive)
    response = getattr(error, "response", None) or {}  # errors of HTTP have one that is None
    code = response.get("Error", {}).get("Code", "")
    if code == "NoSuchBucket":
        raise ArchiveUnreachable(
            f"the archive at {address} has no such bucket: see archive.bucket"
        ) from error
    if code in ("AccessDenied", "403"):
        raise ArchiveUnreachable(
            f"the archive at {address} does not let anyone list it: see archive.bucket"
        ) from error
    if region := _other_region(response, archive):
        raise ArchiveUnreachable(region) from error
    reason = re.sub(r"\?list-type=\S*", "", " ".join(str(error).split()))
    reason = shorten(neutral(reason), 300)
    see = "see the network connection and the section archive of the configuration"
    if "WRONG_VERSION_NUMBER" in reason:  # no TLS came back
        see = "it seems to speak http, not https: see archive.endpoint"
    elif address.startswith("http:") and (
        isinstance(error, ConnectionClosedError) or (response and _status(error) == 400)
    ):
        see += "; a service that speaks https needs an archive.endpoint that begins with https"
    raise ArchiveUnreachable(
        f"the archive could not be reached at {address}: {reason} ({see})"
    ) from error
