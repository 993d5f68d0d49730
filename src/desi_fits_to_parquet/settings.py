"""The settings and their types, section by section, as `config.check_config` gives them.

What each of them means, what it allows and its default stand in `config/schema.yaml`; a test holds
these types to it.
"""

from typing import Literal, TypedDict


class ArchiveSettings(TypedDict):
    """Section `archive`: where the archive is, and who signs the requests."""

    bucket: str
    prefix: str
    layout: Literal["auto", "healpix", "uniqpix"]
    region: str
    endpoint: str | None
    profile: str | None


class TilesSettings(TypedDict):
    """Section `tiles`: which tiles are wanted."""

    surveys: list[str]
    programs: list[str]
    healpix: list[int] | str | None


class SelectionSettings(TypedDict):
    """Section `selection`: which targets of a tile are wanted."""

    preset: Literal["desi_qso"] | None
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
    max_not_finite: float


class PrecisionSettings(TypedDict):
    """Section `precision`: what rounding may do."""

    mode: Literal["bounded", "lossless"]
    flux_tolerance: float
    ivar_bits: int


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
    compare_with: str | None
    archive: ArchiveSettings
    tiles: TilesSettings
    sample: int | None
    selection: SelectionSettings
    columns: ColumnsSettings
    spectra: SpectraSettings
    precision: PrecisionSettings
    transfer: TransferSettings
    resources: ResourcesSettings
    notify: NotifySettings
