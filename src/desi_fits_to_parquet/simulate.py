"""A simulated DESI archive: files like those of DR1, for tests, benchmarks and the demo.

The files follow the DR1 data model where a reader can trip over it: names and order of the HDUs,
types, units, byte order, checksums, masked pixels, negative TARGETIDs, doubtful redshifts. What
they hold is drawn from a seed: the same arguments give the same bytes.

Run `python -m desi_fits_to_parquet.simulate --help` to write a tile or the demo's archive.
"""

import argparse
import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from desi_fits_to_parquet.files import sha256_of
from desi_fits_to_parquet.fits import (
    Value,
    encode_checksum,
    format_card,
    ones_complement_sum,
    open_fits,
    pad_header,
    padded,
    write_hdu,
)
from desi_fits_to_parquet.simulate_spectra import (
    ARMS,
    N_DIAGONALS,
    Instrument,
    Masks,
    band_flux,
    blur,
    draw_masks,
    expose,
    galaxy_spectrum,
    make_instrument,
    quasar_spectrum,
    star_spectrum,
)
from desi_fits_to_parquet.simulate_tables import (
    N_COEFF,
    TEMPLATES,
    ZWARN,
    Targets,
    Values,
    depth_values,
    draw_targets,
    emission_lines,
    encode_table,
    fibermaps,
    own_target_column,
    quasar_afterburners,
    random_stream,
    redshifts,
    table_columns,
)
from desi_fits_to_parquet.tile import FILE_KINDS, NSIDE, PROGRAMS, SURVEYS, Tile

Array = npt.NDArray[Any]

MaskForm = Literal["int32", "unsigned", "compressed", "compressed_unsigned"]
RedrockColumns = Literal["dr1", "newer"]

DEFAULT_KINDS = tuple(kind for kind in FILE_KINDS if kind != "spectra")
"""What `simulate_tile` writes: all but the huge `spectra` file, which nothing here reads."""

DEMO_PREFIX = "dr1/spectro/redux/iron"

_BLOCK_TARGETS = 32
"""Targets computed at once: bounds the memory at any size of tile."""

_BZERO = 1 << 31

_FLUX_UNIT = "10**-17 erg/(s cm2 Angstrom)"
_IVAR_UNIT = "10**+34 (s2 cm4 Angstrom2) / erg2"

_NANOMAGGY = 3.631e-29
"""One nanomaggy in erg/(s cm2 Hz)."""

_LIGHT = 2.997_924_58e18
"""Speed of light, Angstrom/s."""

_BANDS = {"G": 4770.0, "R": 6420.0, "Z": 9260.0}
"""Effective wavelengths of the Legacy Surveys' bands, Angstrom."""


class Simulated(NamedTuple):
    """What `simulate_tile` wrote: number of targets, and of quasars by the plain cut."""

    tile: Tile
    folder: Path
    n_targets: int
    n_quasars: int


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
        Identity of the tile. TARGETIDs depend on the pixel alone.
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
    observed = _write_coadd(coadd, tile, production, targets, seed, mask_form)
    if "coadd" not in kinds:  # the other files need its spectra
        coadd.unlink()
    fitted = redshifts(targets, observed.npixels, random_stream(seed, "redrock", *tile))
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
        _write_rrdetails(
            folder / tile.file_name("rrdetails"),
            reorder(fitted),
            scan_step,
            random_stream(seed, "rrdetails", *tile),
        )
    if "emline" in kinds:
        rng = random_stream(seed, "emline", *tile)
        lines = emission_lines(targets, fitted, observed.fibermap, observed.flux_r, rng)
        path = folder / tile.file_name("emline")
        _write_tables(path, "emline", _primary(tile, production), tile, {"EMLINEFIT": lines})
    rng = random_stream(seed, "afterburners", *tile)
    own_bits = own_target_column(tile.survey)
    mgii, network = quasar_afterburners(targets, fitted, observed.fibermap, own_bits, rng)
    for kind, extname, values in (("qso_mgii", "MGII", mgii), ("qso_qn", "QN_RR", network)):
        if kind in kinds:
            path = folder / tile.file_name(kind)
            _write_tables(path, kind, _primary(tile, production), tile, {extname: values})
    if "hpixexp" in kinds:
        (folder / tile.file_name("hpixexp")).write_text(_exposure_list(tile, targets))
    if "spectra" in kinds:
        stand_in = pad_header(_primary(tile, production))
        (folder / tile.file_name("spectra")).write_bytes(gzip.compress(stand_in, mtime=0))
    if "sha256sum" in kinds:
        _write_checksums(folder, tile, production)
    return Simulated(tile, folder, n_targets, int((targets.role == "quasar").sum()))


# ------------------------------------------------------------------------------------- coadd


class _Observed(NamedTuple):
    """What the coadd tells the other files: tables, good pixels and brightness a target."""

    fibermap: Values
    exp_fibermap: Values
    depth: Values
    npixels: Array
    flux_r: Array


class _Part(NamedTuple):
    """An HDU whose size is known before its data are."""

    cards: bytes
    size: int


def _write_coadd(
    path: Path, tile: Tile, production: str, targets: Targets, seed: int, mask_form: MaskForm
) -> _Observed:
    """Simulate the spectra and write them as they come.

    All sizes are known beforehand, so blocks of targets go straight to their places in the image
    HDUs; tables and headers, whose checksums need the data, come last.
    """
    instrument = make_instrument()
    count = len(targets.role)
    masks = draw_masks(instrument, targets.broken, random_stream(seed, "masks", *tile))
    zero = _BZERO if mask_form.endswith("unsigned") else 0
    heaps = _compress_masks(masks, zero) if mask_form.startswith("compressed") else {}
    rng = random_stream(seed, "spectra", *tile)
    blurring = random_stream(seed, "resolution", *tile).random(count)
    brightness = {band: np.zeros(count) for band in _BANDS}
    npixels = np.zeros(count, np.int64)
    depth = depth_values(targets, random_stream(seed, "depth", *tile))
    scores = dict(depth)
    for arm in ARMS:
        for name in ("INTEG_COADD_FLUX", "MEDIAN_COADD_FLUX", "MEDIAN_COADD_SNR"):
            scores[f"{name}_{arm}"] = np.zeros(count)

    def encode_tables() -> tuple[Values, Values, dict[str, tuple[bytes, bytes]]]:
        """Tables as they are by now: before the spectra for their size, after for their values."""
        nanomaggy = {
            band: flux * 1e-17 * _BANDS[band] ** 2 / _LIGHT / _NANOMAGGY
            for band, flux in brightness.items()
        }
        rng = random_stream(seed, "fibermap", *tile)
        fibermap, exp_fibermap = fibermaps(tile, targets, nanomaggy, rng)
        tables = {"FIBERMAP": fibermap, "EXP_FIBERMAP": exp_fibermap, "SCORES": scores}
        encoded = {
            name: encode_table(table_columns("coadd", name, values), values)
            for name, values in tables.items()
        }
        return fibermap, exp_fibermap, encoded

    parts = _coadd_parts(tile, production, encode_tables()[2], instrument, count, zero, heaps)
    starts, data_starts, size = _lay_out(parts)
    sums = dict.fromkeys(parts, 0)
    with path.open("wb") as stream:
        stream.truncate(size)

        def put(name: str, offset: int, data: bytes) -> None:
            stream.seek(data_starts[name] + offset)
            stream.write(data)
            sums[name] = ones_complement_sum(data, sums[name])

        for first in range(0, count, _BLOCK_TARGETS):
            block = slice(first, min(first + _BLOCK_TARGETS, count))
            truth = _templates(instrument, targets, block, rng)
            for band, values in brightness.items():
                values[block] = [band_flux(instrument.joint, row, band) for row in truth]
            block_masks = {arm: mask[block] for arm, mask in masks.items()}
            exposed = expose(
                instrument, truth, block_masks, targets.exptime[block], targets.broken[block], rng
            )
            for arm in ARMS:
                flux, ivar = exposed[arm]
                npixels[block] += ((ivar > 0) & (block_masks[arm] == 0)).sum(axis=1)
                scores[f"INTEG_COADD_FLUX_{arm}"][block] = 0.8 * flux.sum(axis=1)
                scores[f"MEDIAN_COADD_FLUX_{arm}"][block] = np.median(flux, axis=1)
                scores[f"MEDIAN_COADD_SNR_{arm}"][block] = np.median(flux * np.sqrt(ivar), axis=1)
                offset = 4 * flux.shape[1] * first
                put(f"{arm}_FLUX", offset, flux.astype(">f4").tobytes())
                put(f"{arm}_IVAR", offset, ivar.astype(">f4").tobytes())
                if not heaps:
                    stored = (block_masks[arm] + np.int32(-zero)).astype(">i4")
                    put(f"{arm}_MASK", offset, stored.tobytes())
                matrix = blur(instrument, arm, blurring[block])
                put(f"{arm}_RESOLUTION", N_DIAGONALS * offset, matrix.astype(">f4").tobytes())
        for arm in ARMS:
            put(f"{arm}_WAVELENGTH", 0, instrument.wavelength[arm].astype(">f8").tobytes())
            if heaps:
                put(f"{arm}_MASK", 0, heaps[arm].data)
        fibermap, exp_fibermap, encoded = encode_tables()
        for name, (_, rows) in encoded.items():
            put(name, 0, rows)
        for name, part in parts.items():
            stream.seek(starts[name])
            stream.write(_header(part.cards, sums[name]))
    return _Observed(fibermap, exp_fibermap, depth, npixels, brightness["R"])


def _templates(
    instrument: Instrument, targets: Targets, block: slice, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Noiseless flux of a block of targets at the joint wavelengths."""
    joint = instrument.joint
    truth = np.zeros((block.stop - block.start, len(joint)))
    for i in range(block.start, block.stop):
        role, z = targets.role[i], targets.z[i]
        if role.startswith("quasar"):
            flux = quasar_spectrum(joint, z, rng)
        elif role == "galaxy":
            flux = galaxy_spectrum(joint, z, targets.strength[i])
        elif role == "star":
            flux = star_spectrum(joint, z, targets.temperature[i])
        else:
            continue
        # AB magnitude to mean flux density in r
        in_r = 10 ** (-0.4 * (targets.magnitude[i] - 22.5)) * _NANOMAGGY
        in_r *= _LIGHT / _BANDS["R"] ** 2 * 1e17
        truth[i - block.start] = flux * (in_r / band_flux(joint, flux, "R"))
    return truth


def _coadd_parts(
    tile: Tile,
    production: str,
    tables: dict[str, tuple[bytes, bytes]],
    instrument: Instrument,
    count: int,
    zero: int,
    heaps: dict[str, "_Heap"],
) -> dict[str, _Part]:
    """Plan the 19 HDUs of a coadd in their order, by name."""
    parts = {
        "PRIMARY": _Part(_primary(tile, production, ("INFIL000", tile.file_name("spectra"))), 0)
    }
    for name in ("FIBERMAP", "EXP_FIBERMAP"):
        cards, rows = tables[name]
        parts[name] = _Part(cards + _table_end(tile, name), len(rows))
    for arm in ARMS:
        nwave = len(instrument.wavelength[arm])
        image = (count, nwave)
        matrix = (count, N_DIAGONALS, nwave)
        unsigned = (("BSCALE", 1), ("BZERO", zero)) if zero else ()
        wavelength = _image(f"{arm}_WAVELENGTH", -64, (nwave,), ("BUNIT", "Angstrom"))
        parts[f"{arm}_WAVELENGTH"] = wavelength
        parts[f"{arm}_FLUX"] = _image(f"{arm}_FLUX", -32, image, ("BUNIT", _FLUX_UNIT))
        parts[f"{arm}_IVAR"] = _image(f"{arm}_IVAR", -32, image, ("BUNIT", _IVAR_UNIT))
        if heaps:
            parts[f"{arm}_MASK"] = _compressed_image(f"{arm}_MASK", image, heaps[arm], *unsigned)
        else:
            parts[f"{arm}_MASK"] = _image(f"{arm}_MASK", 32, image, *unsigned)
        parts[f"{arm}_RESOLUTION"] = _image(f"{arm}_RESOLUTION", -32, matrix)
    cards, rows = tables["SCORES"]
    parts["SCORES"] = _Part(cards + _table_end(tile, "SCORES"), len(rows))
    return parts


def _lay_out(parts: dict[str, _Part]) -> tuple[dict[str, int], dict[str, int], int]:
    """Where each HDU and where its data start, and the size of the file."""
    starts, data_starts, position = {}, {}, 0
    for name, part in parts.items():
        starts[name] = position
        data_starts[name] = position + len(_header(part.cards, 0))
        position = data_starts[name] + padded(part.size)
    return starts, data_starts, position


def _header(cards: bytes, datasum: int) -> bytes:
    """Return a whole header with right CHECKSUM and DATASUM; its length depends on neither."""

    def header(checksum: str) -> bytes:
        sums = (("CHECKSUM", checksum, "HDU checksum"), ("DATASUM", str(datasum), "data checksum"))
        return pad_header(cards + b"".join(format_card(*card) for card in sums))

    return header(encode_checksum(ones_complement_sum(header("0" * 16), datasum)))


def _image(name: str, bitpix: int, shape: tuple[int, ...], *more: tuple[str, Value]) -> _Part:
    axes = [(f"NAXIS{i}", length, "") for i, length in enumerate(reversed(shape), 1)]
    cards: list[tuple[str, Value, str]] = [
        ("XTENSION", "IMAGE", "Image extension"),
        ("BITPIX", bitpix, "array data type"),
        ("NAXIS", len(shape), "number of array dimensions"),
        *axes,
        ("PCOUNT", 0, "number of parameters"),
        ("GCOUNT", 1, "number of groups"),
        ("EXTNAME", name, "extension name"),
        *((key, value, "") for key, value in more),
    ]
    size = abs(bitpix) // 8 * int(np.prod(shape))
    return _Part(b"".join(format_card(*card) for card in cards), size)


class _Heap(NamedTuple):
    """Data of a tile-compressed image: its table of descriptors, then the tiles."""

    data: bytes
    longest: int


def _compress_masks(masks: dict[str, Masks], zero: int) -> dict[str, _Heap]:
    """Compress each row of the masks, GZIP_1 of the FITS standard (10.4.2), less their BZERO."""
    heaps = {}
    for arm, mask in masks.items():
        tiles = [
            gzip.compress((row + np.int32(-zero)).astype(">i4").tobytes(), 6, mtime=0)
            for row in mask
        ]
        lengths = np.array([len(tile) for tile in tiles])
        descriptors = np.stack([lengths, np.cumsum(lengths) - lengths], axis=1).astype(">i4")
        heaps[arm] = _Heap(descriptors.tobytes() + b"".join(tiles), int(lengths.max()))
    return heaps


def _compressed_image(
    name: str, shape: tuple[int, int], heap: _Heap, *more: tuple[str, Value]
) -> _Part:
    cards: list[tuple[str, Value]] = [
        ("XTENSION", "BINTABLE"),
        ("BITPIX", 8),
        ("NAXIS", 2),
        ("NAXIS1", 8),
        ("NAXIS2", shape[0]),
        ("PCOUNT", len(heap.data) - 8 * shape[0]),
        ("GCOUNT", 1),
        ("TFIELDS", 1),
        ("TTYPE1", "COMPRESSED_DATA"),
        ("TFORM1", f"1PB({heap.longest})"),
        ("ZIMAGE", True),
        ("ZBITPIX", 32),
        ("ZNAXIS", 2),
        ("ZNAXIS1", shape[1]),
        ("ZNAXIS2", shape[0]),
        ("ZTILE1", shape[1]),
        ("ZTILE2", 1),
        ("ZCMPTYPE", "GZIP_1"),
        *more,
        ("EXTNAME", name),
    ]
    return _Part(b"".join(format_card(*card) for card in cards), len(heap.data))


# ------------------------------------------------------------------------------- other files


def _primary(tile: Tile, production: str, *more: tuple[str, Value]) -> bytes:
    """Cards of the PRIMARY HDU of coadd, emline and the quasar files."""
    cards: list[tuple[str, Value, str]] = [
        ("SIMPLE", True, "conforms to FITS standard"),
        ("BITPIX", 8, "array data type"),
        ("NAXIS", 0, "number of array dimensions"),
        ("EXTEND", True, ""),
        *((key, value, "") for key, value in (*_tile_keys(tile), *more, *_versions(production))),
    ]
    return b"".join(format_card(*card) for card in cards)


def _redrock_primary(tile: Tile, production: str) -> bytes:
    templates: list[tuple[str, Value]] = [("RRVER", "0.17.9")]
    for i, name in enumerate(TEMPLATES):
        kind, _, subtype = name.partition(":::")
        version = "2.6" if kind == "GALAXY" else "1.1" if kind == "QSO" else "0.1"
        file = f"rrtemplate-{kind}-{subtype or 'None'}-v{version}.fits"
        templates += [(f"TEMNAM{i:02d}", name), (f"TEMVER{i:02d}", version)]
        templates.append((f"TEMFIL{i:02d}", file))
    return _primary(tile, production, *templates)


def _tile_keys(tile: Tile) -> list[tuple[str, Value]]:
    return [
        ("LONGSTRN", "OGIP 1.0"),
        ("SPGRP", "healpix"),
        ("SPGRPVAL", tile.healpix),
        ("HPXPIXEL", tile.healpix),
        ("HPXNSIDE", NSIDE),
        ("HPXNEST", True),
        ("SURVEY", tile.survey),
        ("PROGRAM", tile.program),
    ]


def _versions(production: str) -> list[tuple[str, Value]]:
    """DEPNAMnn and DEPVERnn: pipeline versions as DR1 lists them, one long enough to continue."""
    names = {
        "python": "3.10.8",
        "numpy": "1.22.4",
        "astropy": "5.2.1",
        "desispec": "0.57.0",
        "desitarget": "2.5.0",
        "redrock": "0.17.9",
        "SPECPROD": production,
        "DESI_SPECTRO_CALIB": "/simulated/desi_spectro_calib/0.4.0/with/a/path/so/long/that/its/"
        "card/goes/on",
    }
    return [
        card
        for i, (name, version) in enumerate(names.items())
        for card in ((f"DEPNAM{i:02d}", name), (f"DEPVER{i:02d}", version))
    ]


def _table_end(tile: Tile, name: str) -> bytes:
    """Cards that follow the columns of a table."""
    cards = [("ENCODING", "ascii"), *_tile_keys(tile), ("EXTNAME", name)]
    return b"".join(format_card(key, value) for key, value in cards)


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
        hdus.append((cards + _table_end(tile, name), rows))
    with path.open("wb") as stream:
        for cards, rows in hdus:
            if newer:
                stream.write(pad_header(cards) + rows.ljust(padded(len(rows)), b"\0"))
            else:
                write_hdu(stream, cards, [rows])


# Redshifts that redrock's templates are scanned at: first, last, number.
_SCANS = {
    "GALAXY": (-0.005, 1.7, 1446),
    "QSO:::LOZ": (0.05, 1.6, 438),
    "QSO:::HIZ": (1.4, 7.0, 1046),
    "STAR": (-0.002, 0.002, 101),
}


def _write_rrdetails(path: Path, fitted: Values, scan_step: int, rng: np.random.Generator) -> None:
    """Write redrock's details, targets in the order of `fitted` (the values of REDSHIFTS)."""
    import h5py

    count = len(fitted["TARGETID"])
    full_type = np.array(
        [f"{kind}:::{sub}" if sub else kind
         for kind, sub in zip(fitted["SPECTYPE"], fitted["SUBTYPE"], strict=True)]
    )  # fmt: skip
    with h5py.File(path, "w", libver=("earliest", "v110")) as file:
        file["targetids"] = fitted["TARGETID"].astype("<i8")
        for template in TEMPLATES:
            kind = template.partition(":::")[0]
            first, last, number = _SCANS.get(template) or _SCANS[kind]
            z = np.linspace(np.log1p(first), np.log1p(last), number)[::scan_step]
            z = np.expm1(z)
            group = file.create_group(f"zscan/{template}")
            zchi2 = group.create_dataset("zchi2", (count, len(z)), "<f8")
            penalty = group.create_dataset("penalty", (count, len(z)), "<f8")
            zcoeff = group.create_dataset("zcoeff", (count, len(z), N_COEFF[kind]), "<f8")
            for start in range(0, count, _BLOCK_TARGETS):
                block = slice(start, min(start + _BLOCK_TARGETS, count))
                distance = (z - fitted["Z"][block, None]) / (0.02 * (1 + z))
                dip = np.where(full_type[block] == template, 1.0, 0.2)[:, None]
                worst = fitted["CHI2"][block, None] * 1.3
                curve = worst - (worst - fitted["CHI2"][block, None]) * dip / (1 + distance**2)
                zchi2[block] = curve + rng.random(curve.shape)
                penalty[block] = np.zeros(curve.shape)
                zcoeff[block] = rng.standard_normal((*curve.shape, N_COEFF[kind]), np.float32)
            group["redshifts"] = z
        for i in range(count):
            row = {name: values[i] for name, values in fitted.items()}
            file[f"zfit/{row['TARGETID']}/zfit"] = _best_fits(row, rng)


_ZFIT = np.dtype(
    [("targetid", "<i8"), ("z", "<f8"), ("zerr", "<f8"), ("zwarn", "<i8"), ("chi2", "<f8"),
     ("zz", "<f8", (15,)), ("zzchi2", "<f8", (15,)), ("coeff", "<f8", (10,)), ("npixels", "<i8"),
     ("spectype", "S6"), ("subtype", "S3"), ("ncoeff", "<i8"), ("znum", "<i8"),
     ("deltachi2", "<f8")]
)  # fmt: skip
"""Fields of `/zfit/{targetid}/zfit` in the order of redrock's files."""


def _best_fits(row: dict[str, Any], rng: np.random.Generator) -> Array:
    """Return the three best fits of each type by chi2; the first is the row of REDSHIFTS."""
    others = ["GALAXY"] * 3 + ["QSO"] * 3 + ["STAR"] * 3
    others.remove(row["SPECTYPE"])
    fits = np.zeros(9, _ZFIT)
    fits["targetid"] = row["TARGETID"]
    fits["npixels"] = row["NPIXELS"]
    fits["znum"] = np.arange(9)
    fits["spectype"] = [row["SPECTYPE"], *rng.permutation(others)]
    for i, kind in enumerate(np.char.decode(fits["spectype"])):
        low, high = {"GALAXY": (0, 1.7), "QSO": (0.05, 4), "STAR": (-0.002, 0.002)}[str(kind)]
        fits[i]["z"] = rng.uniform(low, high)
        fits[i]["subtype"] = {"GALAXY": "", "QSO": "HIZ", "STAR": "G"}[str(kind)]
        fits[i]["ncoeff"] = N_COEFF[str(kind)]
        fits[i]["coeff"][: N_COEFF[str(kind)]] = rng.normal(0, 100, N_COEFF[str(kind)])
    fits["zerr"] = rng.lognormal(-8, 1, 9)
    fits["zwarn"] = ZWARN["SMALL_DELTA_CHI2"]
    steps = np.array([0, row["DELTACHI2"], *rng.lognormal(4, 1, 7)])
    fits["chi2"] = row["CHI2"] + np.cumsum(steps)
    fits["deltachi2"] = np.append(steps[1:], 0)
    best = fits[0]
    for field in ("z", "zerr", "zwarn", "coeff", "subtype", "ncoeff"):
        best[field] = row[field.upper()]
    fits["zz"] = fits["z"][:, None] + fits["zerr"][:, None] * np.linspace(-7, 7, 15)
    fits["zzchi2"] = fits["chi2"][:, None] + np.linspace(-7, 7, 15) ** 2
    return fits


def _exposure_list(tile: Tile, targets: Targets) -> str:
    """Text of hpixexp: a line for each exposure and spectrograph that saw the pixel."""
    exposures = targets.exposures
    lines = ["NIGHT,EXPID,TILEID,SURVEY,PROGRAM,SPECTRO,HEALPIX"]
    for i in range(len(exposures["EXPID"])):
        night, expid, tileid, petal = (
            exposures[name][i] for name in ("NIGHT", "EXPID", "TILEID", "PETAL_LOC")
        )
        lines.append(
            f"{night},{expid},{tileid},{tile.survey},{tile.program},{petal},{tile.healpix}"
        )
    return "\n".join(lines) + "\n"


def _write_checksums(folder: Path, tile: Tile, production: str) -> None:
    """Write the list of checksums as `sha256sum *` prints it, itself not listed."""
    lines = []
    for path in sorted(folder / tile.file_name(kind) for kind in FILE_KINDS[:-1]):
        if path.exists():
            lines.append(f"{sha256_of(path)}  {path.name}\n")
    (folder / tile.checksum_name(production)).write_text("".join(lines))


# --------------------------------------------------------------------------- the demo's archive


_OPTIONAL_KINDS = ("emline", "rrdetails")

_DEMO_FAULTS = {
    10005: "redrock is missing",
    10006: "coadd is missing",
    10008: "coadd does not match its checksum",
    10009: "coadd is truncated",
}
"""Pixels of main/dark in the demo's archive that cannot be converted."""


def simulate_demo_archive(
    folder: Path, seed: int = 1, prefix: str = DEMO_PREFIX
) -> dict[Tile, str]:
    """Write an archive of 26 small tiles with the faults that a run must survive.

    Pixel 10000 is in all three of main/dark, main/bright and sv3/dark. In main/dark, pixels
    10001 to 10003 vary the files' form (MASK unsigned, MASK compressed, newer redrock); 10004
    holds no quasar; 10005 lacks redrock, 10006 coadd, 10007 emline and rrdetails; in 10008 a
    bit of the coadd's FIBERMAP is flipped after its checksum was listed; 10009's coadd is cut off
    in the middle; in 10010 the rows of redrock and coadd are in different order. `mend_demo_tile`
    repairs a tile.

    Parameters
    ----------
    folder
        Root of the archive; files go to `<folder>/<prefix>/healpix/<tile.folder>/`.
    seed
        Seed; the same arguments give the same bytes.
    prefix
        Prefix in the bucket; its last part is the name of the production.

    Returns
    -------
    dict of Tile to str
        The outcome that a run with the default selection (quasars) must give each tile.
    """
    expected = {}
    for tile in _demo_plan():
        done = mend_demo_tile(folder, tile, seed, prefix)
        expected[tile] = "converted" if done.n_quasars else "no_targets"
        fault = _DEMO_FAULTS.get(tile.healpix) if tile[:2] == ("main", "dark") else None
        if fault == "redrock is missing":
            (done.folder / tile.file_name("redrock")).unlink()
        elif fault == "coadd is missing":
            (done.folder / tile.file_name("coadd")).unlink()
        elif fault == "coadd is truncated":
            truncate(done.folder / tile.file_name("coadd"))
        elif fault:
            flip_bit(done.folder / tile.file_name("coadd"))
        if fault:
            expected[tile] = "missing_source" if "missing" in fault else "corrupt_source"
    return expected


def mend_demo_tile(folder: Path, tile: Tile, seed: int = 1, prefix: str = DEMO_PREFIX) -> Simulated:
    """Write a tile of the demo's archive without its fault; see `simulate_demo_archive`."""
    return simulate_tile(
        tile,
        folder / prefix / "healpix" / tile.folder,
        seed=seed,
        production=prefix.rsplit("/", 1)[-1],
        exposures_per_target=2,
        scan_step=50,
        **_demo_plan()[tile],
    )


def _demo_plan() -> dict[Tile, dict[str, Any]]:
    """Arguments of `simulate_tile` for each tile of the demo's archive."""
    without = tuple(kind for kind in DEFAULT_KINDS if kind not in _OPTIONAL_KINDS)
    dark: dict[int, dict[str, Any]] = {
        10001: {"mask_form": "unsigned"},
        10002: {"mask_form": "compressed"},
        10003: {"redrock_columns": "newer"},
        10004: {"quasar_share": 0.0},
        10007: {"kinds": without},
        10010: {"shuffle_redrock": True},
    }
    plan: dict[Tile, dict[str, Any]] = {}
    for pixel in (5, *range(10000, 10013), 27247):
        plan[Tile("main", "dark", pixel)] = dark.get(pixel, {})
    for pixel in range(10000, 10006):  # quasars are rare among the bright targets
        plan[Tile("main", "bright", pixel)] = {"quasar_share": 0.0 if pixel % 2 else 0.02}
    for pixel in (10000, 10256, 10257, 10258, 10259):
        plan[Tile("sv3", "dark", pixel)] = {"quasar_share": 0.0} if pixel == 10258 else {}
    return {
        tile: {"n_targets": 12 + i * 5 % 9, "quasar_share": 0.2} | options
        for i, (tile, options) in enumerate(plan.items())
    }


def flip_bit(coadd: Path) -> None:
    """Flip a bit of a flux in a coadd's FIBERMAP: only DATASUM and the file's sha256 tell."""
    with open_fits(coadd) as fits:
        hdu = fits.hdus["FIBERMAP"]
    with coadd.open("r+b") as stream:
        stream.seek(hdu.data_start + 100)  # FLUX_IVAR_Z of the first row
        byte = stream.read(1)[0]
        stream.seek(-1, 1)
        stream.write(bytes([byte ^ 0x10]))


def truncate(coadd: Path) -> None:
    """Cut a coadd off in the middle: HDUs are missing, the size is not that of the original."""
    with coadd.open("r+b") as stream:
        stream.truncate(coadd.stat().st_size // 2)


# ------------------------------------------------------------------------------- command line


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a tile or the demo's archive, as the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m desi_fits_to_parquet.simulate",
        description="Write simulated DESI files: one tile, or the demo's archive.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("tile", help="the folder of one tile")
    one.add_argument("folder", type=Path, help="where to write its files")
    one.add_argument("--survey", choices=SURVEYS, default="main")
    one.add_argument("--program", choices=PROGRAMS, default="dark")
    one.add_argument("--healpix", type=int, default=10000, help="pixel, nside 64 nested")
    one.add_argument("--targets", type=int, default=100, help="number of targets")
    one.add_argument("--quasar-share", type=float, default=0.12)
    one.add_argument("--mask-form", choices=get_args(MaskForm), default="int32")
    one.add_argument("--redrock-columns", choices=get_args(RedrockColumns), default="dr1")
    demo = commands.add_parser("demo", help="the archive of the demo: 26 small tiles")
    demo.add_argument("folder", type=Path, help="root of the archive")
    for command in (one, demo):
        command.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    if given.command == "demo":
        for tile, outcome in simulate_demo_archive(given.folder, given.seed).items():
            print(f"{tile.name:<22}{outcome}")  # noqa: T201  (what a command line is for)
    else:
        done = simulate_tile(
            Tile(given.survey, given.program, given.healpix),
            given.folder,
            given.targets,
            given.seed,
            quasar_share=given.quasar_share,
            mask_form=given.mask_form,
            redrock_columns=given.redrock_columns,
        )
        print(f"{done.n_targets} targets, {done.n_quasars} quasars in {done.folder}")  # noqa: T201  (too)


if __name__ == "__main__":
    main()
