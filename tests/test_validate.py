"""Validation: each thing that can be wrong with a Parquet file is found, named, and removed."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from conftest import load_settings
from fusion_tiles import TILE, changed, convert, write_tile

from desi_fits_to_parquet.fuse.tile import fuse_tile
from desi_fits_to_parquet.outcomes import OUTCOMES, BadTile
from desi_fits_to_parquet.record.arms import Spectra
from desi_fits_to_parquet.record.precision import bound, round_flux, round_ivar
from desi_fits_to_parquet.validate import Errors, bias_limit, compare_spectra, validate_tile

Settings = dict[str, Any]
Change = Callable[[pa.Table], pa.Table]

MARKER = {
    "survey", "program", "healpix", "outcome", "reason", "n_targets", "n_rows", "n_outside",
    "bytes_archive",
    "bytes_fetched", "requests", "retries", "throttled", "bytes_parquet", "seconds_download",
    "seconds_fuse", "seconds_validate", "max_flux_error_sigma", "mean_flux_error_sigma",
    "max_ivar_error_relative", "max_lsf_error_relative", "sha256", "schema_fingerprint", "sources",
    "audit", "second_reader", "finished", "settings_fingerprint", "listed",
}  # fmt: skip


@pytest.fixture(scope="module")
def tile_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tile(tmp_path_factory.mktemp("tile"))


def test_a_good_tile_passes_and_its_marker_is_complete(
    tile_folder: Path, tmp_path: Path, settings: Settings
) -> None:
    record, marker, path = convert(TILE, tile_folder, tmp_path, settings)
    assert set(marker) >= MARKER
    assert marker["outcome"] == "converted"
    assert marker["outcome"] in OUTCOMES
    assert marker["reason"] == ""
    assert marker["n_rows"] == record["n_rows"] > 5
    assert marker["bytes_parquet"] == path.stat().st_size
    assert marker["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert 0.05 < marker["max_flux_error_sigma"] <= 0.0625
    assert 0.003 < marker["max_ivar_error_relative"] <= 2**-8
    assert abs(marker["mean_flux_error_sigma"]) < 0.001


@pytest.mark.parametrize("cameras", ["combined", "separate"])
def test_lossless_is_exact(
    tile_folder: Path, tmp_path: Path, settings: Settings, cameras: str
) -> None:
    exact = changed(settings, precision={"mode": "lossless"}, spectra={"cameras": cameras})
    _, marker, _ = convert(TILE, tile_folder, tmp_path, exact)
    assert marker["outcome"] == "converted"
    assert marker["max_flux_error_sigma"] == marker["max_ivar_error_relative"] == 0


def test_an_empty_tile_is_a_valid_result(
    tile_folder: Path, tmp_path: Path, settings: Settings
) -> None:
    nobody = changed(settings, selection={"z": [90, 91]})
    _, marker, path = convert(TILE, tile_folder, tmp_path, nobody)
    assert (marker["outcome"], marker["n_rows"]) == ("no_targets", 0)
    assert marker["sha256"]
    assert pq.ParquetFile(path).metadata.num_rows == 0


def column(name: str, change: Callable[[pa.ChunkedArray], Any]) -> Change:
    def apply(table: pa.Table) -> pa.Table:
        index = table.column_names.index(name)
        return table.set_column(index, table.schema.field(index), change(table[name]))

    return apply


def pixels(name: str, change: Callable[[Any], Any]) -> Change:
    """Change the pixels of a spectrum, given as one array over all targets."""

    def apply(values: pa.ChunkedArray) -> pa.Array:
        lists = values.combine_chunks()
        flat = lists.flatten().to_numpy().copy()
        changed_flat = pa.array(change(flat), lists.type.value_type)
        return pa.ListArray.from_arrays(lists.offsets, changed_flat, type=lists.type)

    return column(name, apply)


def put(index: int, value: float) -> Callable[[Any], Any]:
    def change(flat: Any) -> Any:
        flat[index] = value
        return flat

    return change


CHANGES = {
    "a row is missing": (lambda t: t.slice(1), "targets are not the"),
    "a row comes twice": (lambda t: pa.concat_tables([t, t.slice(0, 1)]), "more than once"),
    "rows in another order": (lambda t: t.take(list(range(len(t)))[::-1]), "targets are not the"),
    "a column is missing": (lambda t: t.drop_columns(["ebv"]), "schema is not the declared"),
    "a type is another": (
        lambda t: t.set_column(0, "survey", t["survey"].cast(pa.large_string())),
        "schema is not the declared",
    ),
    "units are lost": (
        lambda t: t.cast(pa.schema([f.remove_metadata() for f in t.schema], t.schema.metadata)),
        "unit or description of survey",
    ),
    "the fingerprint is lost": (lambda t: t.replace_schema_metadata({}), "fingerprint"),
    "a redshift is another": (column("z", lambda z: pc.add(z, 1e-9)), "column z is not what"),
    "a name is another": (
        column("spectype", lambda s: pc.utf8_lower(s)), "column spectype is not what",
    ),
    "a line flux is null": (
        column("oii_flux", lambda f: pa.nulls(len(f), f.type)), "column oii_flux is not what",
    ),
    "best fits are lost": (
        column("rrdetails", lambda f: pa.nulls(len(f), f.type)), "column rrdetails is not what",
    ),
    "a spectrum is shorter": (
        column("flux", lambda f: pc.list_slice(f, 0, 7000).cast(f.type)), "does not have 7751",
    ),
    "wavelengths are rounded": (
        pixels("wavelength", lambda w: w.astype(np.float32).astype(float)), "wavelength is not",
    ),
    "a mask bit is set": (pixels("mask", put(5, 1)), "mask is not that of the FITS"),
    "flux is off by a sigma": (pixels("flux", put(3000, 1e4)), "flux is off by"),
    "flux is no number": (pixels("flux", put(3000, np.nan)), "flux is off by nan"),
    "ivar has six bits": (pixels("ivar", lambda v: round_ivar(v, 6)), "ivar is off by a fraction"),
    "ivar is gone": (pixels("ivar", put(3000, 0)), "ivar is 0 where it was not"),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGES)
def test_a_wrong_parquet_is_refused_named_and_removed(
    tile_folder: Path, tmp_path: Path, settings: Settings, case: str
) -> None:
    change, sentence = CHANGES[case]
    record = fuse_tile(TILE, tile_folder, tmp_path, settings)
    path = tmp_path / f"{TILE.name}.parquet"
    with pq.ParquetFile(path) as parquet:
        table = parquet.read()
    pq.write_table(change(table), path)
    marker = validate_tile(TILE, tile_folder, tmp_path, record, settings)
    assert marker["outcome"] == "invalid_output"
    assert sentence in marker["reason"]
    assert path.name in marker["reason"]
    assert (marker["sha256"], marker["bytes_parquet"], marker["n_rows"]) == (None, 0, None)
    assert not path.exists()


@pytest.mark.parametrize("damage", ["gone", "cut", "changed"])
def test_a_damaged_parquet_is_refused_and_removed(
    tile_folder: Path, tmp_path: Path, settings: Settings, damage: str
) -> None:
    record = fuse_tile(TILE, tile_folder, tmp_path, settings)
    path = tmp_path / f"{TILE.name}.parquet"
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        start = 40_000  # within the spectra
        data[start : start + 200] = bytes(200)
        path.write_bytes(data)
    marker = validate_tile(TILE, tile_folder, tmp_path, record, settings)
    assert marker["outcome"] == "invalid_output"
    assert not path.exists()


# ------------------------------------------------------------------------- rounding errors


def noise(n: int, seed: int = 1) -> Spectra:
    rng = np.random.default_rng(seed)
    ivar = rng.lognormal(0, 0.5, (1, n)).astype(np.float32)
    flux = (rng.normal(1, 1, (1, n)) / np.sqrt(ivar)).astype(np.float32)
    return Spectra(np.arange(float(n)), flux, ivar, np.zeros((1, n), np.int32))


PRECISION = load_settings()["precision"]

LIMITS = bound(PRECISION)


def mean_is_consistent(exact: Spectra, flux: Any) -> bool:
    # the largest error is let pass here: it is the mean that is tested
    limits = LIMITS._replace(flux_sigma=1.0)
    errors = compare_spectra(exact, exact._replace(flux=flux), limits, Errors(), "")
    return abs(errors.mean_flux_sigma) <= bias_limit(0.125, errors.independent)


def test_truncation_is_told_apart_from_rounding() -> None:
    exact = noise(7751)
    rounded = round_flux(exact.flux, exact.ivar, 0.125)
    assert mean_is_consistent(exact, rounded)
    step = np.exp2(np.floor(np.log2(0.125 / np.sqrt(exact.ivar))))
    assert not mean_is_consistent(exact, (np.floor(exact.flux / step) * step).astype("f4"))
    with pytest.raises(BadTile, match="flux is off by"):
        truncated = (np.floor(exact.flux / step) * step).astype("f4")
        compare_spectra(exact, exact._replace(flux=truncated), LIMITS, Errors(), "f")


@pytest.mark.parametrize("seed", range(30))
def test_good_rounding_passes_whatever_the_noise(seed: int) -> None:
    exact = noise(1000, seed)
    assert mean_is_consistent(exact, round_flux(exact.flux, exact.ivar, 0.125))


def test_a_constant_spectrum_is_no_bias() -> None:
    n = 7751
    flat = np.full((1, n), 1.3, np.float32)
    exact = Spectra(np.arange(float(n)), flat, np.ones_like(flat), np.zeros((1, n), np.int32))
    assert mean_is_consistent(exact, round_flux(flat, exact.ivar, 0.125))


def test_lossless_limits_refuse_a_changed_bit() -> None:
    exact = noise(100)
    flux = np.nextafter(exact.flux, np.float32(np.inf))
    with pytest.raises(BadTile, match="flux is not bit for bit"):
        lossless = bound(PRECISION | {"mode": "lossless"})
        compare_spectra(exact, exact._replace(flux=flux), lossless, Errors(), "f")


def test_a_pixel_without_weight_must_stay_as_it_was() -> None:
    exact = noise(100)
    exact.ivar[0, 7] = 0
    flux = exact.flux.copy()
    flux[0, 7] += 1
    with pytest.raises(BadTile, match="flux changed where ivar is 0"):
        compare_spectra(exact, exact._replace(flux=flux), LIMITS, Errors(), "f")
