"""A cone on the sky as a condition in SQL."""

from typing import Any

import numpy as np

from desi_fits_to_parquet.record.schema import HATS_INDEX

_MOST_ORDER = 12

_WIDEST_DEG = 45.0
"""Beyond this radius ranges of pixels would spare little."""


def cone_condition(ra: Any, dec: Any, radius: Any) -> tuple[str, str]:
    """Return the condition that a target lies within a radius of a position.

    The catalogue is sorted by `_healpix_29`: ranges of pixels that cover the cone spare reading
    the rest; the distance decides.

    Parameters
    ----------
    ra, dec, radius
        As `Catalog.cone` takes them.

    Returns
    -------
    condition, word : str
        In SQL, and for people.

    Raises
    ------
    ValueError
        See `Catalog.cone`.

    Notes
    -----
    The distance is the haversine formula's, exact to rounding for small angles too.
    """
    if hasattr(ra, "icrs"):
        if dec is not None:
            raise ValueError("cone: a SkyCoord has its own dec; give cone(position, radius=...)")
        if not ra.isscalar:
            raise ValueError("cone: one position at a time, not an array of them")
        ra, dec = ra.icrs.ra, ra.icrs.dec
    lon, lat, width = (
        _degrees(name, value) for name, value in (("ra", ra), ("dec", dec), ("radius", radius))
    )
    if not -90 <= lat <= 90:
        raise ValueError(f"cone: dec {lat} is not between -90 and 90 degrees")
    if not 0 < width <= 180:
        raise ValueError(f"cone: radius {width} is not above 0 and at most 180 degrees")
    distance = (
        f"pow(sin(radians(target_dec - {lat!r}) / 2), 2) + cos(radians(target_dec))"
        f" * {np.cos(np.radians(lat)).item()!r} * pow(sin(radians(target_ra - {lon!r}) / 2), 2)"
        f" <= {np.sin(np.radians(width) / 2).item() ** 2!r}"
    )
    ranges = " OR ".join(
        f"{HATS_INDEX} BETWEEN {first} AND {last}" for first, last in pixel_ranges(lon, lat, width)
    )
    condition = f"(({ranges}) AND {distance})" if ranges else f"({distance})"
    return condition, f"within {width:g} deg of ({lon:g}, {lat:g})"


def pixel_ranges(lon: float, lat: float, radius: float) -> list[tuple[int, int]]:
    """Return first and last pixels of order 29 of ranges that cover a cone (degrees).

    None where the cone is so wide that they would spare little.
    """
    if radius > _WIDEST_DEG:
        return []
    import astropy.units as u
    from astropy_healpix import HEALPix

    # a pixel of order 0 is below 60 degrees across, so that some tens of pixels make a cone
    order = int(np.clip(np.ceil(np.log2(60 / radius)) + 1, 2, _MOST_ORDER))
    reach = radius + 60 / 2**order
    grid = HEALPix(nside=1 << order, order="nested")
    pixels = np.sort(grid.cone_search_lonlat(lon * u.deg, lat * u.deg, reach * u.deg))
    runs = np.split(pixels, np.flatnonzero(np.diff(pixels) > 1) + 1)
    shift = 2 * (29 - order)
    return [(int(run[0]) << shift, ((int(run[-1]) + 1) << shift) - 1) for run in runs]


def _degrees(name: str, value: Any) -> float:
    if value is None:
        raise ValueError(
            f"cone: {name} is missing: cone(ra=150.1, dec=2.2, radius=0.5), in degrees"
        )
    try:
        number = float(value.to_value("deg") if hasattr(value, "to_value") else value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"cone: {name} {value!r} is no angle: {error}") from error
    if not np.isfinite(number):
        raise ValueError(f"cone: {name} {value!r} is no angle")
    return number
