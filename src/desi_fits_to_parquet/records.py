"""What is written down of a tile: download record, fuse record and marker, key by key.

The download and the fusion leave theirs beside the FITS (`paths.DOWNLOAD_RECORD`, `FUSE_RECORD`);
the marker, made of both, stays and holds the tile's outcome.
"""

from pathlib import Path
from typing import Literal, TypedDict

from desi_fits_to_parquet.files import read_json
from desi_fits_to_parquet.paths import OUTAGE
from desi_fits_to_parquet.tile import Tile
from desi_fits_to_parquet.tiles_csv import Source

PROVENANCE_KEY = "desi_fits_to_parquet"
"""Key of the provenance in a Parquet's metadata: a JSON object, with the tile's `TileKeys`."""


class TileKeys(TypedDict):
    """Which tile it is; `healpix` is the number that DESI's names carry."""

    survey: str
    program: str
    healpix: int
    order: int
    pixel: int


class FetchedSource(Source):
    """A file of the archive and what was fetched of it.

    `sha256` is that of the archive's list, None where it has none. `verified` says what the fetched
    bytes agreed with (see `download.tile.Fetched`), None where they were not fetched.
    """

    sha256: str | None
    verified: str | None
    bytes_fetched: int


class AuditRecord(TypedDict):
    """What an audit found.

    `checked_bytes` were read for it. `sha256_ok` says whether the whole files have the sha256 of
    the archive's list, None where it has none; `rows_ok` whether all that was fetched in parts is
    the same in them. `problem` is a sentence, empty where nothing is wrong.
    """

    checked_bytes: int
    sha256_ok: bool | None
    rows_ok: bool
    problem: str


class TransferRecord(TypedDict):
    """What the download tells of itself in its record and in the marker.

    `bytes_archive` is the size of the files that are used, `bytes_fetched` what came over the
    network; `retries` are requests sent again, `throttled` answers 429 or 503. `sources` are the
    files as they were read, `listed` is the version of the tile in the list of tiles then
    (`tiles_csv.sources_version`): one that was replaced meanwhile has other sources.
    """

    bytes_archive: int
    bytes_fetched: int
    requests: int
    retries: int
    throttled: int
    sources: dict[str, FetchedSource]
    listed: str
    audit: AuditRecord | None


class DownloadRecord(TileKeys, TransferRecord):
    """The download record.

    `outcome` is None where the data are there, else the tile's failed outcome, and `reason` the
    sentence for it. `n_targets` counts the rows of REDSHIFTS and `n_selected` those selected of
    them; None where unknown, as `n_selected` always is in mode `files`.
    """

    outcome: str | None
    reason: str
    mode: Literal["rows", "files"]
    n_targets: int | None
    n_selected: int | None
    seconds: float


class FusedRecord(TypedDict):
    """What the fuse record and the marker tell of the Parquet.

    `n_rows` is None where there is none. `bytes_causes` are the bytes left after each step from the
    archive to the Parquet.
    """

    n_targets: int | None
    n_rows: int | None
    bytes_causes: dict[str, int]


class FuseRecord(FusedRecord):
    """The fuse record; `outcome` is None where there is a Parquet, else the failed outcome."""

    outcome: str | None
    reason: str
    bytes_parquet: int
    sha256: str | None
    seconds: float


class PixelRecord(TypedDict):
    """What was found in the pixels of the selected targets, in the arms as the FITS hold them.

    `n_no_data` counts targets that were never seen: COADD_NUMEXP 0 and no ivar above 0; they are
    left out unless `selection.no_data` says otherwise. `n_left_out` counts those that were left
    out because more of their pixels are NaN or infinite than `spectra.max_not_finite` allows. Of
    the targets that remain, `n_not_finite` counts such pixels, which get ivar 0, and
    `n_masked_with_ivar` those that are masked and have ivar above 0.
    """

    n_no_data: int
    n_left_out: int
    n_not_finite: int
    n_masked_with_ivar: int


class Marker(TileKeys, TransferRecord, FusedRecord, PixelRecord):
    """The marker.

    `sha256` is None and `bytes_parquet` is 0 where there is no Parquet. `n_outside` counts the rows
    whose position is not in the tile's pixel, 0 as a rule. Errors of flux are in units
    of the pixel's sigma; `finished` is in Unix seconds. `second_reader` says whether the second
    reader compared the Parquet with the FITS too (see `second_reader.py`). `settings_fingerprint`
    is that of the settings that it was made with (`settings.settings_fingerprint`).
    """

    outcome: str
    reason: str
    n_outside: int
    bytes_parquet: int
    seconds_download: float
    seconds_fuse: float
    seconds_validate: float
    max_flux_error_sigma: float
    mean_flux_error_sigma: float
    max_ivar_error_relative: float
    max_lsf_error_relative: float
    sha256: str | None
    schema_fingerprint: str
    settings_fingerprint: str
    second_reader: bool
    finished: float


class SkimFile(TypedDict):
    """A file of a skim: its size in bytes and its checksum."""

    size: int
    sha256: str


class SkimMarker(TileKeys, TransferRecord):
    """The marker of a skimmed tile, with the outcomes that a tile can have.

    `n_rows` are the targets that were kept, None where there is no skim; `files` are those of the
    tile, by name, and `bytes_skim` is the sum of their sizes. `whole` says why all targets were
    kept, where their rows cannot be told apart, and is empty as a rule. `bytes_parquet` is the same
    as `bytes_skim`, under the name by which the summary of a run looks for what was written.
    """

    outcome: str
    reason: str
    n_targets: int | None
    n_rows: int | None
    files: dict[str, SkimFile]
    whole: str
    bytes_skim: int
    bytes_parquet: int
    seconds: float
    settings_fingerprint: str
    finished: float


class OutageRecord(TypedDict):
    """What the downloads of a run tell each other of an outage of the archive.

    `run` is the id of the run, `since` in Unix seconds, `lasted_s` how long it lasted when the
    archive was last asked, `error` the sentence of the tile that found it. `over_limit` says that
    no tile waits any longer.
    """

    run: str
    since: float
    lasted_s: float
    error: str
    over_limit: bool


def read_outage(results: Path, run: str | None = None) -> OutageRecord | None:
    """Return the outage that goes on; None where there is none, or it is another run's."""
    try:
        outage: OutageRecord = read_json(results / OUTAGE)
    except FileNotFoundError:
        return None
    return outage if run in (None, outage["run"]) else None


def tile_keys(tile: Tile) -> TileKeys:
    """Return the keys that say which tile a record is of."""
    return {
        "survey": tile.survey,
        "program": tile.program,
        "healpix": tile.number,
        "order": tile.order,
        "pixel": tile.pixel,
    }


def record_tile(record: TileKeys) -> Tile:
    """Return the tile that a record is of."""
    number, pixel = record["healpix"], record["pixel"]
    layout = "healpix" if number == pixel else "uniqpix"
    return Tile(record["survey"], record["program"], number, layout)


def no_pixels() -> PixelRecord:
    """Return what is found where no target is selected."""
    return {"n_no_data": 0, "n_left_out": 0, "n_not_finite": 0, "n_masked_with_ivar": 0}


def empty_download(tile: Tile) -> DownloadRecord:
    """Return the record before anything is fetched, and where whole files came another way."""
    return {
        **tile_keys(tile),
        "outcome": None,
        "reason": "",
        "mode": "files",
        "n_targets": None,
        "n_selected": None,
        "bytes_archive": 0,
        "bytes_fetched": 0,
        "requests": 0,
        "retries": 0,
        "throttled": 0,
        "sources": {},
        "listed": "",
        "audit": None,
        "seconds": 0.0,
    }
