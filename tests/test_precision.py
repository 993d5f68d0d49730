"""Rounding: within its bound for every float32, without bias, without new special values."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conftest import load_settings
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from desi_fits_to_parquet.record.precision import (
    MATRIX_STEP,
    Bound,
    bound,
    round_flux,
    round_ivar,
    round_lsf,
    round_matrix,
)

F32 = npt.NDArray[np.float32]
any_flux = st.floats(width=32, allow_nan=False, allow_infinity=False)
any_ivar = st.one_of(
    st.just(0.0),
    st.floats(0, width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from([1.401298464324817e-45, 1e-40, 1.1754943508222875e-38, 1e-30, 1e30, 3.4e38]),
)
tolerances = st.sampled_from([0.125, 0.1, 0.5, 1.0, 0.001])


def limits(**precision: Any) -> Bound:
    return bound(load_settings()["precision"] | precision)


def pairs() -> st.SearchStrategy[tuple[F32, F32]]:
    """Arrays of flux and ivar over all of float32: denormals, 1e30, negative, zero."""
    return st.integers(1, 40).flatmap(
        lambda n: st.tuples(
            arrays.arrays(np.float32, n, elements=any_flux),
            arrays.arrays(np.float32, n, elements=any_ivar.map(lambda v: float(np.float32(v)))),
        )
    )


@settings(max_examples=150, deadline=None)
@given(pairs(), tolerances)
def test_flux_error_stays_within_half_a_step(pair: tuple[F32, F32], tolerance: float) -> None:
    flux, ivar = pair
    rounded = round_flux(flux, ivar, tolerance)
    assert rounded.dtype == np.float32
    assert np.isfinite(rounded).all()
    assert np.array_equal(rounded[ivar == 0].view("u4"), flux[ivar == 0].view("u4"))
    good = ivar > 0
    sigma = 1 / np.sqrt(ivar[good].astype(np.float64))
    error = np.abs(rounded[good].astype(np.float64) - flux[good])
    assert (error <= limits(flux_tolerance=tolerance).flux_sigma * sigma).all()


@settings(max_examples=150, deadline=None)
@given(pairs(), tolerances)
def test_flux_becomes_the_nearest_multiple_of_a_power_of_two(
    pair: tuple[F32, F32], tolerance: float
) -> None:
    flux, ivar = pair
    good = ivar > 0
    exact = flux[good].astype(np.float64)
    # the same rule in float64, from its definition
    _, exponent = np.frexp(tolerance / np.sqrt(ivar[good].astype(np.float64)))
    step = np.ldexp(1.0, exponent - 1)
    rounded = round_flux(flux, ivar, tolerance)[good].astype(np.float64)
    assert np.array_equal(np.rint(rounded / step) * step, rounded) or (
        # next to a power of two the step may be the smaller of the two
        np.array_equal(np.rint(rounded / step * 2) * step / 2, rounded)
    )
    assert (np.abs(rounded - exact) <= step / 2).all()


@settings(max_examples=150, deadline=None)
@given(arrays.arrays(np.float32, 30, elements=any_ivar.map(lambda v: float(np.float32(v)))),
       st.integers(2, 24))  # fmt: skip
def test_ivar_error_stays_within_its_bits(ivar: F32, bits: int) -> None:
    rounded = round_ivar(ivar, bits)
    assert np.isfinite(rounded).all()
    assert np.array_equal(rounded > 0, ivar > 0)
    good = ivar > 0
    exact = ivar[good].astype(np.float64)
    assert (np.abs(rounded[good] - exact) <= limits(ivar_bits=bits).ivar_relative * exact).all()


@pytest.mark.parametrize("bits", [2, 8, 12])
def test_ivar_keeps_no_more_bits_than_asked(bits: int) -> None:
    ivar = np.random.default_rng(1).lognormal(0, 3, 10_000).astype(np.float32)
    mantissa, _ = np.frexp(round_ivar(ivar, bits).astype(np.float64))
    scaled = mantissa * 2**bits
    assert np.array_equal(scaled, np.rint(scaled))


def test_halves_are_rounded_to_even() -> None:
    ivar = np.full(5, 1 / 81, np.float32)  # sigma 9, step 1
    flux = np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32)
    assert round_flux(flux, ivar, 0.125).tolist() == [0, 2, 2, 0, -2]
    eight_bits = np.array([1 + 2**-8, 1 + 3 * 2**-8], np.float32)
    assert round_ivar(eight_bits, 8).tolist() == [1, 1 + 2**-6]


def test_rounding_keeps_the_mean_and_adds_little_variance() -> None:
    rng = np.random.default_rng(7)
    ivar = rng.lognormal(0, 1, 1_000_000).astype(np.float32)
    flux = (rng.normal(2, 1, len(ivar)) / np.sqrt(ivar)).astype(np.float32)
    error = (round_flux(flux, ivar, 0.125).astype(np.float64) - flux) * np.sqrt(ivar)
    assert abs(error.mean()) < 5 * error.std() / 1000
    assert error.var() < 0.001
    relative = round_ivar(ivar, 8).astype(np.float64) / ivar - 1
    assert abs(relative.mean()) < 5 * relative.std() / 1000


def test_input_is_left_as_it_was() -> None:
    flux, ivar = np.full(3, 1.3, np.float32), np.full(3, 1.7, np.float32)
    round_flux(flux, ivar, 0.125)
    round_ivar(ivar, 8)
    assert flux.tolist() == [np.float32(1.3)] * 3
    assert ivar.tolist() == [np.float32(1.7)] * 3


@settings(max_examples=100, deadline=None)
@given(arrays.arrays(np.float32, 20, elements=st.floats(width=32)))
def test_elements_of_a_matrix_are_off_by_half_a_step_and_what_is_no_number_stays(
    matrix: F32,
) -> None:
    rounded = round_matrix(matrix)
    odd = ~np.isfinite(matrix)
    assert np.array_equal(rounded[odd], matrix[odd], equal_nan=True)
    error = np.abs(rounded[~odd].astype(np.float64) - matrix[~odd])
    assert (error <= limits().matrix).all()
    assert rounded.dtype == np.float32
    small = rounded[np.abs(rounded) < 1000]
    assert (small.astype(np.float64) % MATRIX_STEP == 0).all()


@pytest.mark.parametrize("bits", [4, 7, 8, 24])
def test_widths_are_rounded_within_their_bits_and_unknown_ones_stay(bits: int) -> None:
    lsf = np.append(np.linspace(0.5, 1.1, 5000, dtype="f4"), np.float32(np.nan))
    rounded = round_lsf(lsf, bits)
    relative = np.abs(rounded[:-1] / lsf[:-1].astype(np.float64) - 1)
    assert relative.max() <= limits(lsf_bits=bits).lsf_relative
    assert np.isnan(rounded[-1])
