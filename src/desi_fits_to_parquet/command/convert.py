"""One tile's FITS on this disk to one Parquet, without Snakemake and without an archive."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from desi_fits_to_parquet.columns import kinds_used
from desi_fits_to_parquet.command.stopped import Stopped
from desi_fits_to_parquet.config import ConfigError, load_config
from desi_fits_to_parquet.download.whole import find_wrong_sum, parse_checksums
from desi_fits_to_parquet.files import sha256_of, write_json
from desi_fits_to_parquet.formats.fits import open_fits
from desi_fits_to_parquet.fuse.tile import fuse_tile
from desi_fits_to_parquet.outcomes import OUTCOMES, BadTile
from desi_fits_to_parquet.paths import DOWNLOAD_RECORD, parquet_path
from desi_fits_to_parquet.records import FetchedSource, Marker, empty_download
from desi_fits_to_parquet.settings import Settings
from desi_fits_to_parquet.tile import LAYOUTS, PROGRAMS, SURVEYS, Tile, is_checksum_list
from desi_fits_to_parquet.validate import validate_tile
from desi_fits_to_parquet.workflow import workflow_folder


def read_settings(files: Sequence[Path], given: Sequence[str]) -> Settings:
    """Return the settings of some files and of words `section.name=value`, later ones first.

    Raises
    ------
    Stopped
        Where a file is missing, or something does not fit.
    """
    import yaml

    folder = workflow_folder()
    paths = [path if path.exists() else folder / path for path in files]
    try:
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as words:
            yaml.safe_dump(_nest(given), words)
            words.flush()
            return load_config(folder / "config/schema.yaml", *paths, Path(words.name))
    except (ConfigError, OSError, yaml.YAMLError) as error:
        raise Stopped(str(error)) from error


def _nest(given: Sequence[str]) -> dict[str, Any]:
    import yaml

    settings: dict[str, Any] = {}
    for word in given:
        name, equals, value = word.partition("=")
        if not equals:
            raise Stopped(f"--set {word}: a setting is section.name=value: precision.mode=lossless")
        *sections, last = name.split(".")
        place = settings
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = yaml.safe_load(value)
    return settings


def find_tile(folder: Path) -> Tile:
    """Return the tile whose FITS a folder holds, by the name of its redrock file and its header.

    Raises
    ------
    Stopped
        Where there is none, more than one, or a name that is none of DESI's.
    """
    if not folder.is_dir():
        raise Stopped(f"{folder}: no such folder; name the one that holds a tile's FITS")
    paths = sorted([*folder.glob("redrock-*-*-*.fits"), *folder.glob("coadd-*-*-*.fits")])
    names = {path.stem.partition("-")[2] for path in paths}
    if len(names) != 1:
        found = f"files of {len(names)} tiles: {', '.join(sorted(names))}" if names else "none"
        raise Stopped(
            f"{folder}: one tile's redrock-SURVEY-PROGRAM-NUMBER.fits and coadd are looked for; "
            f"found {found}"
        )
    survey, program, digits = names.pop().split("-", 2)
    if survey not in SURVEYS or program not in PROGRAMS or not digits.isdecimal():
        raise Stopped(f"{paths[0]} is not named as DESI names a tile's: redrock-main-dark-10000")
    return Tile(survey, program, int(digits), _find_layout(paths[-1], int(digits)))


def _find_layout(path: Path, number: int) -> str:
    """Return the layout that a number is of: files of DR3 and later say UNIQPIX."""
    try:
        with open_fits(path) as fits:
            header: Mapping[str, Any] = fits.hdus["PRIMARY"].header
    except (BadTile, KeyError):
        header = {}  # the fusion will say what is wrong with it
    layout = "uniqpix" if "UNIQPIX" in header else "healpix"
    try:
        LAYOUTS[layout].place(number)
    except ValueError as error:
        raise Stopped(f"{path}: {error}") from error
    return layout


def convert_tile(folder: Path, output: Path, settings: Settings) -> tuple[Marker, Path]:
    """Convert a tile's FITS and compare the Parquet with them, as a run does.

    Parameters
    ----------
    folder
        Holds the FITS under their DESI names; not written to. Where it holds the archive's list of
        checksums, the files must agree with it; else with the sums in their own headers.
    output
        Folder for the Parquet, or its name, which ends with `.parquet`.
    settings
        The checked configuration.

    Returns
    -------
    marker : Marker
        The tile's outcome and figures.
    path : Path
        The Parquet, which is not there where the outcome is a failed one.

    Raises
    ------
    Stopped
        Where there is no tile, or the output cannot be written.
    """
    tile = find_tile(folder)
    path = output if output.suffix == ".parquet" else parquet_path(tile, output)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".desi-tile-", dir=path.parent) as scratch:
            fits, parquet = Path(scratch, "fits"), Path(scratch, "parquet")
            fits.mkdir()
            _stage(tile, folder, fits, settings)
            fused = fuse_tile(tile, fits, parquet, settings)
            marker = validate_tile(tile, fits, parquet, fused, settings)
            if marker["sha256"]:
                parquet_path(tile, parquet).replace(path)
    except OSError as error:
        raise Stopped(f"{path}: {error.strerror or error}; nothing was written") from error
    return marker, path


def _stage(tile: Tile, folder: Path, fits: Path, settings: Settings) -> None:
    """Link a tile's files into a folder, with the record that a download would leave there."""
    record = empty_download(tile)
    lists = [path for path in folder.iterdir() if is_checksum_list(tile, path.name)]
    listed = parse_checksums("".join(path.read_text("latin-1") for path in lists))
    for kind in kinds_used(settings):
        path = folder / tile.file_name(kind)
        if not path.is_file():
            continue
        (fits / path.name).symlink_to(path.resolve())
        found, size = sha256_of(path), path.stat().st_size
        record["sources"][kind] = FetchedSource(
            key=path.name, size=size, etag="", sha256=found, bytes_fetched=0,
            verified="sha256" if path.name in listed else "datasum",
        )  # fmt: skip
        record["bytes_archive"] += size
        problem = ""
        if path.name in listed:
            if found != listed[path.name]:
                problem = f"{path.name}: its sha256 is not that of {lists[0].name}"
        elif path.suffix == ".fits" and (wrong := find_wrong_sum(path)):
            problem = wrong if path.name in wrong else f"{path.name}: {wrong}"
        if problem and record["outcome"] is None:
            record["outcome"], record["reason"] = "corrupt_source", problem
    write_json(fits / DOWNLOAD_RECORD, record)


def marker_text(marker: Marker, path: Path) -> str:
    """Say in a few lines what became of a tile."""
    outcome = marker["outcome"]
    name = f"{marker['survey']}-{marker['program']}-{marker['healpix']}"
    if marker["sha256"] is None:
        return f"{name}: {outcome}: {marker['reason']}"
    return (
        f"{name}: {outcome} ({OUTCOMES[outcome]})\n"
        f"  {marker['n_rows']} of {marker['n_targets']} targets, "
        f"{marker['bytes_archive'] / 1e6:.1f} MB of FITS, "
        f"{marker['bytes_parquet'] / 1e6:.1f} MB of Parquet\n"
        f"  {path}\n  sha256 {marker['sha256']}"
    )
