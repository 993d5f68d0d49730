"""Copy the collection to a bucket: changed files only, sums checked, resumable.

A file is unchanged where the bucket holds it in the same size with the same MD5 as its ETag, or,
where ETags are no MD5 (an encrypted bucket), with the same SHA-256 in the metadata that this wrote.
So nothing has to be remembered: whoever was interrupted begins again and sends what is missing.
"""

import base64
import hashlib
import mimetypes
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from tqdm import tqdm

from desi_fits_to_parquet.archive.credentials import NoAccess, open_session, trusted_file
from desi_fits_to_parquet.collection.tiles import list_files
from desi_fits_to_parquet.paths import (
    CATALOG,
    COLLECTION,
    EXPLORER,
    INDEX,
    MARGIN,
    PARQUET,
)
from desi_fits_to_parquet.publish.card import write_card
from desi_fits_to_parquet.text import neutral, shorten
from desi_fits_to_parquet.tiles_csv import list_tiles

CARD, MANIFEST = "README.md", "checksums.sha256"
"""What is published beside the collection: its card, and its sums as `sha256sum -c` takes them."""

_REPORT = ("report/tiles.parquet", "report/summary.json")
"""What the explorer and the card's readers want of the report."""

_SENDERS = 16

_LARGEST = 5 << 30
"""S3 takes no more in one request."""

_TYPES = {".parquet": "application/vnd.apache.parquet", ".fits": "application/fits"}


_Answer = TypeVar("_Answer")


class PublishError(Exception):
    """The collection was not published; the message says why and what to do."""


class Published(NamedTuple):
    """What was done: numbers of files, and bytes that were sent."""

    sent: int
    unchanged: int
    removed: int
    bytes_sent: int


class _File(NamedTuple):
    """A file to publish, or the text of one."""

    source: Path | bytes
    size: int
    sha256: str
    md5: bytes


def publish(
    results: Path,
    destination: str,
    *,
    profile: str | None,
    endpoint: str | None = None,
    region: str = "us-west-2",
) -> Published:
    """Copy the collection of a run to a bucket, with a card and a manifest of checksums.

    `collection.properties`, by which readers find a collection, is removed before a file is
    replaced and comes back last: where it is, all of it is whole. Files of an earlier publication
    that are not in the results any more are removed; nothing else in the bucket is touched.

    Parameters
    ----------
    results
        The folder of the results of a run that has ended.
    destination
        `s3://bucket/prefix`.
    profile
        AWS profile whose keys sign the requests.
    endpoint
        Of an S3 service that is not AWS.
    region
        Of the bucket.

    Returns
    -------
    Published

    Raises
    ------
    PublishError
        Where there are no keys, the run has not ended, a file is not as its marker says, or the
        service refuses.
    """
    bucket, prefix = _split(destination)
    if not (results / COLLECTION).is_file():
        raise PublishError(
            f"{results / COLLECTION} is not there: let the run end first, then publish"
        )
    client = _connect(profile, endpoint, region)
    there = _There(client, bucket, prefix, destination)
    held = there.listed()
    files = _read_files(results)
    wanted = [*files, CARD, MANIFEST]
    known = {*there.manifest(held)}
    stale = sorted(known & held.keys() - {*wanted})
    files[CARD] = _of_text(write_card(results, destination, endpoint, region))
    sums = "".join(f"{files[name].sha256}  {name}\n" for name in sorted(files))
    files[MANIFEST] = _of_text(sums)
    with ThreadPoolExecutor(_SENDERS) as threads:
        asked = [name for name in files if name in held or name in known]
        same = threads.map(lambda name: there.holds(name, files[name], held), asked)
        unchanged = {name for name, equal in zip(asked, same, strict=True) if equal}
    changed = [name for name in files if name not in unchanged]
    data = [name for name in changed if name not in (CARD, MANIFEST, COLLECTION)]
    if (data or stale) and COLLECTION in held:
        there.remove(COLLECTION)
        changed = list(dict.fromkeys([*changed, COLLECTION]))
    last = [name for name in (CARD, MANIFEST, COLLECTION) if name in changed]
    n_bytes = sum(files[name].size for name in changed)
    with tqdm(total=n_bytes, desc=f"to {destination}", unit="B", unit_scale=True, delay=2) as bar:

        def send(name: str) -> None:
            there.send(name, files[name])
            bar.update(files[name].size)

        _in_threads(send, data)
        _in_threads(there.remove, stale)
        _check(there, files, [*files.keys() - {*last}])
        for name in last:
            send(name)
    return Published(len(changed), len(files) - len(changed), len(stale), n_bytes)


def _split(destination: str) -> tuple[str, str]:
    """Return bucket and beginning of the keys."""
    parts = urlsplit(destination)
    if parts.scheme != "s3" or not parts.netloc:
        raise PublishError(f"publish.destination is {destination}: it is s3://bucket/prefix")
    prefix = parts.path.strip("/")
    return parts.netloc, f"{prefix}/" if prefix else ""


def _connect(profile: str | None, endpoint: str | None, region: str) -> Any:
    from botocore.config import Config

    if profile is None:
        raise PublishError(
            "publish.profile names no AWS profile: to write to a bucket takes keys. Put them into "
            "~/.aws/credentials (`aws configure --profile NAME`) and name the profile"
        )
    try:
        session = open_session(profile, "publish.profile")
        trusted = trusted_file(os.environ)
    except NoAccess as error:
        raise PublishError(str(error)) from error
    return session.client(
        "s3",
        region_name=region,
        endpoint_url=endpoint,
        verify=trusted,
        config=Config(
            signature_version="s3v4",
            retries={"mode": "standard", "total_max_attempts": 5},
            s3={"addressing_style": "path" if endpoint else "virtual"},
            max_pool_connections=_SENDERS,
            # Content-MD5 is what services of all kinds check; boto3's own sums not all of them take
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            ignore_configured_endpoint_urls=True,  # type: ignore[call-arg]  # newer than the stubs
        ),
    )


class _There:
    """The place that is published to; every failure of the service is a `PublishError`."""

    def __init__(self, client: Any, bucket: str, prefix: str, place: str) -> None:
        self._client, self._bucket, self._prefix, self._place = client, bucket, prefix, place

    def listed(self) -> dict[str, tuple[int, str]]:
        """Return size and ETag of what is there, by name below the prefix."""

        def pages() -> dict[str, tuple[int, str]]:
            paginator = self._client.get_paginator("list_objects_v2")
            return {
                entry["Key"].removeprefix(self._prefix): (entry["Size"], entry["ETag"].strip('"'))
                for page in paginator.paginate(Bucket=self._bucket, Prefix=self._prefix)
                for entry in page.get("Contents", ())
            }

        return self._ask(pages)

    def manifest(self, held: Mapping[str, Any]) -> list[str]:
        """Return the names that the manifest of the last publication holds."""
        if MANIFEST not in held:
            return []
        body: bytes = self._ask(
            lambda: self._client.get_object(**self._key(MANIFEST))["Body"].read()
        )
        lines = body.decode(errors="replace").splitlines()
        return [line.split("  ", 1)[1] for line in lines if "  " in line]

    def holds(self, name: str, file: _File, held: Mapping[str, tuple[int, str]]) -> bool:
        """Tell whether a file is there as it is here.

        Where the listing does not tell, the object itself is asked for its size and metadata: its
        ETag may be no MD5, and s3rver leaves out of a listing what sorts before a folder's slash.
        """
        size, etag = held.get(name, (file.size, ""))
        if size != file.size:
            return False
        if etag == file.md5.hex():
            return True
        answer = self._ask(lambda: self._head(name))
        return (
            answer is not None
            and answer["ContentLength"] == file.size
            and answer["Metadata"].get("sha256") == file.sha256
        )

    def _head(self, name: str) -> Any:
        """Return what the service says of an object, None where it is not there."""
        from botocore.exceptions import ClientError

        try:
            return self._client.head_object(**self._key(name))
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise

    def send(self, name: str, file: _File) -> None:
        """Send a file; the service compares what comes with its MD5."""
        guessed = _TYPES.get(Path(name).suffix) or mimetypes.guess_type(name)[0]

        def put() -> None:
            arguments = {
                **self._key(name),
                "ContentMD5": base64.b64encode(file.md5).decode(),
                "ContentType": guessed or "application/octet-stream",
                "Metadata": {"sha256": file.sha256},
            }
            if isinstance(file.source, bytes):
                self._client.put_object(Body=file.source, **arguments)
                return
            with file.source.open("rb") as stream:
                self._client.put_object(Body=stream, **arguments)

        self._ask(put)

    def remove(self, name: str) -> None:
        """Remove a file."""
        self._ask(lambda: self._client.delete_object(**self._key(name)))

    def _key(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + name}

    def _ask(self, call: Callable[[], _Answer]) -> _Answer:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return call()
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            known = {
                "NoSuchBucket": f"there is no bucket {self._bucket}; make it first",
                "AccessDenied": "the keys of publish.profile may not do this",
                "403": "the keys of publish.profile may not do this",
                "InvalidAccessKeyId": "the service does not know the keys of publish.profile",
                "SignatureDoesNotMatch": "the secret key of publish.profile is wrong",
                "BadDigest": "a file has changed while it was sent; publish again",
            }
            words = known.get(code) or shorten(neutral(str(error)), 200)
            raise PublishError(f"{self._place}: {words}") from error
        except (BotoCoreError, OSError) as error:
            raise PublishError(f"{self._place}: {shorten(neutral(str(error)), 200)}") from error


def _read_files(results: Path) -> dict[str, _File]:
    """Return what is to be published, read and summed; tiles' Parquet must be as validated."""
    folders = (CATALOG, MARGIN, INDEX, PARQUET, EXPLORER)
    found = [path for name in folders for path in sorted((results / name).rglob("*"))]
    paths = [path for path in found if path.is_file() and not path.name.startswith(".")]
    paths += [results / name for name in (*_REPORT, COLLECTION) if (results / name).is_file()]
    try:
        tiles = list_files(results, list_tiles(results / "tiles.csv"))
    except (OSError, ValueError) as error:
        raise PublishError(f"{results}: no results of a run that has ended: {error}") from error
    validated = {file.path: file.sha256 for file in tiles}
    with ThreadPoolExecutor() as threads:
        files = dict(zip(paths, threads.map(_of_path, paths), strict=True))
    wrong = [path for path, sha256 in validated.items() if _sum(files, path) != sha256]
    if wrong:
        raise PublishError(
            f"{wrong[0]} is not what was validated ({len(wrong)} files are not): `snakemake "
            "verify` clears them, the next run makes them anew; nothing was sent"
        )
    for path, file in files.items():
        if file.size > _LARGEST:
            raise PublishError(f"{path} has {file.size / 1e9:.1f} GB; S3 takes 5 GB in one request")
    return {path.relative_to(results).as_posix(): file for path, file in files.items()}


def _sum(files: Mapping[Path, _File], path: Path) -> str | None:
    return files[path].sha256 if path in files else None


def _of_path(path: Path) -> _File:
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            sha256.update(block)
            md5.update(block)
            size += len(block)
    return _File(path, size, sha256.hexdigest(), md5.digest())


def _of_text(text: str) -> _File:
    data = text.encode()
    md5 = hashlib.md5(data, usedforsecurity=False).digest()
    return _File(data, len(data), hashlib.sha256(data).hexdigest(), md5)


def _in_threads(call: Callable[[str], None], names: Iterable[str]) -> None:
    """Call for each name; the first failure ends it all."""
    with ThreadPoolExecutor(_SENDERS) as threads:
        waiting = [threads.submit(call, name) for name in names]
        try:
            for one in waiting:
                one.result()
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise


def _check(there: _There, files: Mapping[str, _File], names: Iterable[str]) -> None:
    """Assert that all of these are there as they are here."""
    held = there.listed()
    with ThreadPoolExecutor(_SENDERS) as threads:
        names = list(names)
        same = threads.map(lambda name: there.holds(name, files[name], held), names)
        wrong = [name for name, equal in zip(names, same, strict=True) if not equal]
    if wrong:
        raise PublishError(
            f"{wrong[0]} is not in the bucket as it was sent ({len(wrong)} files are not): does "
            "somebody else write there? Publish again"
        )
