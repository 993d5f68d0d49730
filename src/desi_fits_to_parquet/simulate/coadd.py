"""Simulated coadd files."""

import gzip
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from desi_fits_to_parquet.formats.fits_header import Value, format_card, padded
from desi_fits_to_parquet.formats.fits_sums import ones_complement_sum
from desi_fits_to_parquet.formats.fits_write import close_header
from desi_fits_to_parquet.simulate.fibermap import depth_values, fibermaps
from desi_fits_to_parquet.simulate.spectra import (
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
from desi_fits_to_parquet.simulate.tables import encode_table, table_columns
from desi_fits_to_parquet.simulate.targets import Array, Targets, Values, random_stream
from desi_fits_to_parquet.tile import Tile

MaskForm = Literal["int32", "unsigned", "compressed", "compressed_unsigned"]

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


def write_coadd(
    path: Path, tile: Tile, production: str, targets: Targets, seed: int, mask_form: MaskForm
) -> _Observed:
    """Simulate the spectra and write them as they come.

    All sizes are known beforehand, so blocks of targets go straight to their places in the image
    HDUs; tables and headers, whose checksums need the data, come last.
    """
    instrument = make_instrument()
    count = len(targets.role)
    masks = draw_masks(instrument, targets.broken, random_stream(seed, "masks", *tile[:3]))
    zero = _BZERO if mask_form.endswith("unsigned") else 0
    heaps = _compress_masks(masks, zero) if mask_form.startswith("compressed") else {}
    rng = random_stream(seed, "spectra", *tile[:3])
    blurring = random_stream(seed, "resolution", *tile[:3]).random(count)
    brightness = {band: np.zeros(count) for band in _BANDS}
    npixels = np.zeros(count, np.int64)
    depth = depth_values(targets, random_stream(seed, "depth", *tile[:3]))
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
        rng = random_stream(seed, "fibermap", *tile[:3])
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
            stream.write(close_header(part.cards, sums[name]))
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
        "PRIMARY": _Part(
            primary_cards(tile, production, ("INFIL000", tile.file_name("spectra"))), 0
        )
    }
    for name in ("FIBERMAP", "EXP_FIBERMAP"):
        cards, rows = tables[name]
        parts[name] = _Part(cards + table_end(tile, name), len(rows))
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
    parts["SCORES"] = _Part(cards + table_end(tile, "SCORES"), len(rows))
    return parts


def _lay_out(parts: dict[str, _Part]) -> tuple[dict[str, int], dict[str, int], int]:
    """Where each HDU and where its data start, and the size of the file."""
    starts, data_starts, position = {}, {}, 0
    for name, part in parts.items():
        starts[name] = position
        data_starts[name] = position + len(close_header(part.cards, 0))
        position = data_starts[name] + padded(part.size)
    return starts, data_starts, position


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


def primary_cards(tile: Tile, production: str, *more: tuple[str, Value]) -> bytes:
    """Cards of the PRIMARY HDU of coadd, emline and the quasar files."""
    cards: list[tuple[str, Value, str]] = [
        ("SIMPLE", True, "conforms to FITS standard"),
        ("BITPIX", 8, "array data type"),
        ("NAXIS", 0, "number of array dimensions"),
        ("EXTEND", True, ""),
        *((key, value, "") for key, value in (*_tile_keys(tile), *more, *_versions(production))),
    ]
    return b"".join(format_card(*card) for card in cards)


def _tile_keys(tile: Tile) -> list[tuple[str, Value]]:
    return [
        ("LONGSTRN", "OGIP 1.0"),
        ("SPGRP", tile.layout),
        ("SPGRPVAL", tile.number),
        *((("UNIQPIX", tile.number),) if tile.layout == "uniqpix" else ()),
        ("HPXPIXEL", tile.pixel),
        ("HPXNSIDE", 1 << tile.order),
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


def table_end(tile: Tile, name: str) -> bytes:
    """Cards that follow the columns of a table."""
    cards = [("ENCODING", "ascii"), *_tile_keys(tile), ("EXTNAME", name)]
    return b"".join(format_card(key, value) for key, value in cards)
