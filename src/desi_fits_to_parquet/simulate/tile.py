"""A simulated DESI archive: files like those of DR1, for tests, benchmarks and the demo.

The files follow the DR1 data model where a reader can trip over it: names and order of the HDUs,
types, units, byte order, checksums, masked pixels, negative TARGETIDs, doubtful redshifts. What
they hold is drawn from a seed: the same arguments give the same bytes.

Run `python -m desi_fits_to_parquet.simulate --help` to write a tile or the demo's archive.
"""

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from desi_fits_to_parquet.files import sha256_of
from desi_fits_to_parquet.formats.fits_header import Value, pad_header, padded
from desi_fits_to_parquet.formats.fits_write import write_hdu
from desi_fits_to_parquet.simulate.afterburners import emission_lines, quasar_afterburners
from desi_fits_to_parquet.simulate.coadd import MaskForm, primary_cards, table_end, write_coadd
from desi_fits_to_parquet.simulate.details import write_rrdetails
from desi_fits_to_parquet.simulate.redrock import TEMPLATES, redshifts
from desi_fits_to_parquet.simulate.tables import encode_table, table_columns
from desi_fits_to_parquet.simulate.targets import (
    Targets,
    Values,
    draw_targets,
    own_target_column,
    random_stream,
)
from desi_fits_to_parquet.tile import FILE_KINDS, Tile

Array = npt.NDArray[Any]

RedrockColumns = Literal["dr1", "newer"]

DEFAULT_KINDS = tuple(kind for kind in FILE_KINDS if kind != "spectra")
"""What `simulate_tile` writes: all but the huge `spectra` file, which nothing here reads."""


class Simulated(NamedTuple):
    """What `simulate_tile` wrote: how many targets, quasars by the plain cut, single exposures."""

    tile: Tile
    folder: Path
    n_targets: int
    n_quasars: int
    n_spectra: int


def simulate_tile(
    tile: Tile,
    folder: Path,
    n_targets: int,
    seed: int = 1,
    *,
    production: str = "iron",
    quasar_share: float = 0.12,
    exposures_per_target: int = 3,
    mask_form: MaskForm = "int32",
    redrock_columns: RedrockColumns = "dr1",
    shuffle_redrock: bool = False,
    scan_step: int = 1,
    kinds: Sequence[str] = DEFAULT_KINDS,
) -> Simulated:
    """Write the folder of a tile as DR1 has it.

    Parameters
    ----------
    tile
        Identity of the tile. TARGETIDs depend on the pixel (and `seed`) alone.
    folder
        The tile's own folder; made where it is missing. Files of the same names are overwritten.
    n_targets
        Number of targets; about 446 kB each in the coadd, 350 kB in rrdetails.
    seed
        Seed; together with the other arguments it determines every byte.
    production
        Name of the production: SPECPROD in the headers, part of the checksum list's name.
    quasar_share
        Share of targets with SPECTYPE QSO, ZWARN 0 and OBJTYPE TGT: at least one target where it
        is above 0, none where it is 0. Tiles of six targets or more also hold a quasar with
        ZWARN set, blank sky that redrock takes for a quasar with ZWARN 0, and dead fibres.
    exposures_per_target
        Mean number of rows in EXP_FIBERMAP a target.
    mask_form
        How the MASK HDUs are stored: `int32` (DR1), `unsigned` through BZERO (EDR),
        `compressed` (GZIP_1, one tile a row), `compressed_unsigned` (both).
    redrock_columns
        `dr1`, or `newer`: additional columns, narrower types, no checksums, as after DR1.
    shuffle_redrock
        Write the rows of redrock and rrdetails in another order than the coadd's: the last first.
    scan_step
        Keep every so-manieth redshift of the scans in rrdetails: 50 makes them small.
    kinds
        Which files to write, of `FILE_KINDS`. `spectra` is a small stand-in, off by default.

    Returns
    -------
    Simulated
        Number of targets and of quasars.

    Raises
    ------
    ValueError
        Where an argument makes no tile.
    """
    if mask_form not in get_args(MaskForm) or redrock_columns not in get_args(RedrockColumns):
        raise ValueError(
            f"mask_form is one of {get_args(MaskForm)} and redrock_columns one of "
            f"{get_args(RedrockColumns)}, not {mask_form!r} and {redrock_columns!r}"
        )
    unknown = sorted(set(kinds) - set(FILE_KINDS))
    if unknown or scan_step < 1:
        raise ValueError(f"kinds are of {FILE_KINDS} and scan_step >= 1; unknown: {unknown}")
    folder.mkdir(parents=True, exist_ok=True)
    targets = draw_targets(tile, n_targets, seed, quasar_share, exposures_per_target)
    coadd = folder / tile.file_name("coadd")
    observed = write_coadd(coadd, tile, production, targets, seed, mask_form)
    if "coadd" not in kinds:  # the other files need its spectra
        coadd.unlink()
    fitted = redshifts(targets, observed.npixels, random_stream(seed, "redrock", *tile[:3]))
    order = np.roll(np.arange(n_targets), 1 if shuffle_redrock else 0)

    def reorder(values: Values) -> Values:
        return {name: column[order] for name, column in values.items()}

    if "redrock" in kinds:
        _write_tables(
            folder / tile.file_name("redrock"),
            "redrock",
            _redrock_primary(tile, production),
            tile,
            {
                "REDSHIFTS": reorder(fitted),
                "FIBERMAP": reorder(observed.fibermap),
                "EXP_FIBERMAP": observed.exp_fibermap,
                "TSNR2": reorder(observed.depth),
            },
            newer=redrock_columns == "newer",
        )
    if "rrdetails" in kinds:
        write_rrdetails(
            folder / tile.file_name("rrdetails"),
            reorder(fitted),
            scan_step,
            redrock_columns == "newer",
            random_stream(seed, "rrdetails", *tile[:3]),
        )
    if "emline" in kinds:
        rng = random_stream(seed, "emline", *tile[:3])
        lines = emission_lines(targets, fitted, observed.fibermap, observed.flux_r, rng)
        path = folder / tile.file_name("emline")
        _write_tables(path, "emline", primary_cards(tile, production), tile, {"EMLINEFIT": lines})
    rng = random_stream(seed, "afterburners", *tile[:3])
    own_bits = own_target_column(tile.survey)
    mgii, network = quasar_afterburners(targets, fitted, observed.fibermap, own_bits, rng)
    for kind, extname, values in (("qso_mgii", "MGII", mgii), ("qso_qn", "QN_RR", network)):
        if kind in kinds:
            path = folder / tile.file_name(kind)
            _write_tables(path, kind, primary_cards(tile, production), tile, {extname: values})
    if "hpixexp" in kinds:
        (folder / tile.file_name("hpixexp")).write_text(_exposure_list(tile, targets))
    if "spectra" in kinds:
        stand_in = pad_header(primary_cards(tile, production))
        (folder / tile.file_name("spectra")).write_bytes(gzip.compress(stand_in, mtime=0))
    if "sha256sum" in kinds:
        _write_checksums(folder, tile, production)
    n_quasars = int((targets.role == "quasar").sum())
    return Simulated(tile, folder, n_targets, n_quasars, len(targets.exposure_row))


def _redrock_primary(tile: Tile, production: str) -> bytes:
    templates: list[tuple[str, Value]] = [("RRVER", "0.17.9")]
    for i, name in enumerate(TEMPLATES):
        kind, _, subtype = name.partition(":::")
        version = "2.6" if kind == "GALAXY" else "1.1" if kind == "QSO" else "0.1"
        file = f"rrtemplate-{kind}-{subtype or 'None'}-v{version}.fits"
        templates += [(f"TEMNAM{i:02d}", name), (f"TEMVER{i:02d}", version)]
        templates.append((f"TEMFIL{i:02d}", file))
    return primary_cards(tile, production, *templates)


def _write_tables(
    path: Path,
    kind: str,
    primary: bytes,
    tile: Tile,
    tables: dict[str, Values],
    newer: bool = False,
) -> None:
    """Write a file of tables; newer releases of redrock write neither units nor checksums."""
    hdus = [(primary, b"")]
    for name, values in tables.items():
        columns = table_columns(kind, name, values, newer)
        cards, rows = encode_table(columns, values, units=not newer)
        hdus.append((cards + table_end(tile, name), rows))
    with path.open("wb") as stream:
        for cards, rows in hdus:
            if newer:
                stream.write(pad_header(cards) + rows.ljust(padded(len(rows)), b"\0"))
            else:
                write_hdu(stream, cards, [rows])


def _exposure_list(tile: Tile, targets: Targets) -> str:
    """Text of hpixexp: a line for each exposure and spectrograph that saw the pixel."""
    exposures = targets.exposures
    lines = ["NIGHT,EXPID,TILEID,SURVEY,PROGRAM,SPECTRO,HEALPIX"]
    for i in range(len(exposures["EXPID"])):
        night, expid, tileid, petal = (
            exposures[name][i] for name in ("NIGHT", "EXPID", "TILEID", "PETAL_LOC")
        )
        lines.append(f"{night},{expid},{tileid},{tile.survey},{tile.program},{petal},{tile.number}")
    return "\n".join(lines) + "\n"


def _write_checksums(folder: Path, tile: Tile, production: str) -> None:
    """Write the list of checksums as `sha256sum *` prints it, itself not listed."""
    lines = []
    for path in sorted(folder / tile.file_name(kind) for kind in FILE_KINDS[:-1]):
        if path.exists():
            lines.append(f"{sha256_of(path)}  {path.name}\n")
    (folder / tile.checksum_name(production)).write_text("".join(lines))
