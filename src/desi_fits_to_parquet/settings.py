"""The settings and their types, section by section, as `config.check_config` gives them.

What each of them means, what it allows and its default stand in `config/schema.yaml`; a test holds
these types to it.
"""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, TypedDict
from urllib.parse import unquote, urlsplit

OUTPUT_VERSION = 3
"""To be raised when the same settings and files give another Parquet: all tiles are then redone."""


class ArchiveSettings(TypedDict):
    """Section `archive`: where the archive is, and who signs the requests."""

    bucket: str
    prefix: str
    layout: Literal["auto", "healpix", "uniqpix"]
    region: str
    endpoint: str | None
    profile: str | None


class PublishSettings(TypedDict):
    """Section `publish`: where the target of that name copies the collection to."""

    destination: str | None
    endpoint: str | None
    region: str
    profile: str | None


class TilesSettings(TypedDict):
    """Section `tiles`: which tiles are wanted."""

    surveys: list[str]
    programs: list[str]
    healpix: list[int] | str | None


class SelectionSettings(TypedDict):
    """Section `selection`: which targets of a tile are wanted."""

    preset: Literal["desi_qso"] | None
    qso_threshold: float
    qso_fiberstatus: list[int]
    spectypes: list[str]
    zwarn: int | list[str] | None
    objtypes: list[str]
    coadd_fiberstatus: list[int] | None
    z: list[float] | None
    deltachi2: list[float] | None
    targets: list[str] | None
    no_data: bool


class ColumnsSettings(TypedDict):
    """Section `columns`: which tables, and which columns of them."""

    fibermap: Literal["default", "all"] | list[str]
    scores: bool
    tsnr2: list[str]
    exposures: bool
    emline: bool
    rrdetails: bool
    rrdetails_scans: bool
    qso_mgii: bool
    qso_qn: bool


class SpectraSettings(TypedDict):
    """Section `spectra`: how the arms are combined and cut."""

    cameras: Literal["combined", "separate"]
    wavelength_range: list[float]
    masked_pixels: Literal["no_weight", "desispec"]
    mask_arms: bool
    resolution: Literal["none", "lsf", "matrix"]
    max_not_finite: float


class PrecisionSettings(TypedDict):
    """Section `precision`: what rounding may do."""

    mode: Literal["bounded", "lossless"]
    flux_tolerance: float
    ivar_bits: int
    lsf_bits: int


class TransferSettings(TypedDict):
    """Section `transfer`: how tiles are fetched."""

    mode: Literal["rows", "files"]
    downloads: int
    connections: int
    attempts: int
    timeout_s: float
    outage_hours: float
    outage_pause_s: float
    limit_mb_s: float | None
    audit_fraction: float


class SkimSettings(TypedDict):
    """Section `skim`: what the target `skim` keeps beside what the configuration reads."""

    hdus: list[str]


class ResourcesSettings(TypedDict):
    """Section `resources`: what is left of this machine."""

    min_free_gb: float


class NotifySettings(TypedDict):
    """Section `notify`: who is told what of a run."""

    urls_file: str | None
    every_percent: float | None
    failed_percent: float | None
    abort: bool
    min_mb_s: float | None
    speed_minutes: float


class Settings(TypedDict):
    """A checked configuration: every setting has a value."""

    results: str
    replace: bool
    compare_with: str | None
    publish: PublishSettings
    archive: ArchiveSettings
    tiles: TilesSettings
    sample: int | None
    selection: SelectionSettings
    columns: ColumnsSettings
    spectra: SpectraSettings
    precision: PrecisionSettings
    transfer: TransferSettings
    skim: SkimSettings
    resources: ResourcesSettings
    notify: NotifySettings


def archive_folder(archive: ArchiveSettings) -> Path | None:
    """Return the folder that is the archive, None where the archive is an S3 service.

    Parameters
    ----------
    archive
        Section `archive` of the configuration: `endpoint` is a folder's path, a URL `file://...`,
        the URL of a service, or None for AWS.

    Returns
    -------
    Path or None
        Absolute; a relative path is one below the working folder of the run.
    """
    endpoint = archive["endpoint"]
    if endpoint is None or endpoint.startswith(("http://", "https://")):
        return None
    if endpoint.startswith("file://"):
        return Path(unquote(urlsplit(endpoint).path))
    return Path(endpoint).expanduser().absolute()


def content_settings(settings: Settings) -> dict[str, Any]:
    """Return the sections on which a tile's Parquet depends beside its files in the archive."""
    return {
        "selection": settings["selection"],
        "columns": settings["columns"],
        "spectra": settings["spectra"],
        "precision": settings["precision"],
    }


def settings_fingerprint(settings: Settings) -> str:
    """Return a short text that changes with what a Parquet depends on, `OUTPUT_VERSION` included.

    A number counts as the same however it is written: 1 and 1.0.
    """
    facts = [OUTPUT_VERSION, _as_floats(content_settings(settings))]
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _as_floats(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_floats(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
