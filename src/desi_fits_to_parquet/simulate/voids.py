"""A void catalogue in the form of DESIVAST's files: for the example and the tests.

DESIVAST (Rincon et al. 2024, arXiv:2411.00148) has, for each half of the sky, a file of
VoidFinder's spheres and three of V2 (ZOBOV), pruned in different ways. HDUs, columns and types
here follow its release v1.0 of DR1, the keywords and the mask what VAST, its program, writes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from desi_fits_to_parquet.simulate.targets import random_stream

if TYPE_CHECKING:
    from astropy.table import Table

Array = npt.NDArray[Any]

KINDS = ("VoidFinder", "V2_VIDE", "V2_REVOLVER", "V2_ZOBOV")
"""The four ways of finding voids, as the files' names have them."""

CAPS = {"NGC": (254.0, 47.0), "SGC": (10.0, 5.0)}
"""Halves of the sky, and the middle of what the simulation covers of each: right ascension and
declination in degrees. The first lies over the demo's tiles of main/bright."""

OMEGA_M = 0.315

NEAR, FAR = 90.0, 687.0
"""Limits of the catalogue's distance, Mpc/h; the far one is z = 0.24."""

_DENSITY = 1.5e-5
"""Voids per (Mpc/h)^3: 3,765 of VoidFinder in the catalogue's volume."""

_HOLES = 24
"""Spheres of a void, in the mean."""


def void_file(kind: str, cap: str) -> str:
    """Return the name of a file of DESIVAST."""
    return f"DESIVAST_BGS_VOLLIM_{kind}_{cap}.fits"


def simulate_voids(
    folder: Path,
    seed: int = 1,
    *,
    width: float = 5.0,
    galaxies: Mapping[str, Array] | None = None,
    capitals: bool = True,
    mask: bool = True,
) -> list[Path]:
    """Write the eight files of a void catalogue like DESIVAST's.

    Parameters
    ----------
    folder
        Where to; made where it is missing.
    seed
        Seed; the same arguments give the same voids.
    width
        Half the side, in degrees of declination, of what is covered around each place of `CAPS`.
    galaxies
        `targetid`, `ra`, `dec` (degrees) and `r` (comoving distance, Mpc/h) of the galaxies that
        V2 puts into zones; some drawn ones by default.
    capitals
        Names of columns in capitals, as v1.0 has them, or in lower case.
    mask
        With a MASK of what lies within the survey.

    Returns
    -------
    list of Path
        VoidFinder first, NGC before SGC.
    """
    from astropy.io import fits

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for cap, (ra, dec) in CAPS.items():
        rng = random_stream(seed, "voids", cap)
        image, inside = _footprint(ra, dec, width)
        maximals, holes = _draw_voids(rng, ra, dec, width, inside)
        known = galaxies or _draw_galaxies(rng, ra, dec, width)
        for kind in KINDS:
            tables = (
                {"MAXIMALS": maximals, "HOLES": holes}
                if kind == "VoidFinder"
                else _zoned(maximals, known, inside, merged=kind == "V2_VIDE")
            )
            hdus: list[Any] = [fits.PrimaryHDU(header=_header(kind, len(maximals["X"])))]
            if mask:
                hdus.append(fits.ImageHDU(image, name="MASK"))
                hdus[-1].header["MSKRES"] = (1, "pixels a degree")
            for name, columns in tables.items():
                table = _to_table(columns, capitals)
                hdus.append(fits.BinTableHDU(table, name=name))
            written.append(folder / void_file(kind, cap))
            fits.HDUList(hdus).writeto(written[-1], overwrite=True)
    return sorted(written, key=lambda path: "VoidFinder" not in path.name)


def to_xyz(ra: Array, dec: Array, r: Array) -> Array:
    """Return Cartesian positions, shape (n, 3), of angles in degrees and distances."""
    ra, dec = np.radians(ra), np.radians(dec)
    return np.stack(
        [r * np.cos(dec) * np.cos(ra), r * np.cos(dec) * np.sin(ra), r * np.sin(dec)], axis=-1
    )


def to_sky(xyz: Array) -> tuple[Array, Array, Array]:
    """Return right ascension, declination (degrees) and distance of positions, shape (n, 3)."""
    r = np.linalg.norm(xyz, axis=-1)
    ra = np.degrees(np.arctan2(xyz[..., 1], xyz[..., 0])) % 360
    return ra, np.degrees(np.arcsin(xyz[..., 2] / r)), r


def _footprint(ra: float, dec: float, width: float) -> tuple[Array, Any]:
    """Return the mask, shape (360, 180) in steps of a degree, and the test that it makes."""
    image = np.zeros((360, 180), np.int64)
    across = width / np.cos(np.radians(dec))
    columns = np.arange(np.floor(ra - across), np.ceil(ra + across)).astype(int) % 360
    rows = np.arange(np.floor(dec - width), np.ceil(dec + width)).astype(int) + 90
    image[np.ix_(columns, rows)] = 1

    def inside(xyz: Array) -> Array:
        ra, dec, r = to_sky(xyz)
        pixels = image[ra.astype(int) % 360, np.floor(dec + 90).astype(int).clip(0, 179)]
        there: Array = (pixels == 1) & (r >= NEAR) & (r <= FAR)
        return there

    return image, inside


def _draw_places(rng: np.random.Generator, ra: float, dec: float, width: float, n: int) -> Array:
    """Draw places that fill the volume evenly, shape (n, 3)."""
    low, high = np.sin(np.radians([dec - width, dec + width])).tolist()
    across = width / np.cos(np.radians(dec))
    return to_xyz(
        rng.uniform(ra - across, ra + across, n) % 360,
        np.degrees(np.arcsin(rng.uniform(low, high, n))),
        np.cbrt(rng.uniform(NEAR**3, FAR**3, n)),
    )


def _draw_voids(
    rng: np.random.Generator, ra: float, dec: float, width: float, inside: Any
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Draw the largest sphere of each void, then all of its spheres, that one among them."""
    volume = (2 * np.radians(width)) ** 2 * (FAR**3 - NEAR**3) / 3
    radius = np.sort(rng.uniform(10, 22, max(round(volume * _DENSITY), 3)))[::-1]
    centre = _draw_places(rng, ra, dec, width, 40 * len(radius))
    kept: list[int] = []
    for i in range(len(centre)):  # the largest spheres of two voids do not overlap
        here = centre[kept]
        reach = radius[: len(kept)] + radius[len(kept)]
        if (np.linalg.norm(here - centre[i], axis=1) > reach).all():
            kept.append(i)
            if len(kept) == len(radius):
                break
    centre, radius = centre[kept], radius[: len(kept)]
    void = np.arange(len(kept))
    counts = rng.poisson(_HOLES, len(kept))
    of = np.repeat(void, counts)
    way = rng.standard_normal((len(of), 3))
    way /= np.linalg.norm(way, axis=1)[:, None]
    size = radius[of] * rng.uniform(0.5, 0.95, len(of))
    places = np.concatenate([centre, centre[of] + way * radius[of, None] * 0.6])
    owner, sizes = np.concatenate([void, of]), np.concatenate([radius, size])
    order = np.argsort(owner, kind="stable")
    places, owner, sizes = places[order], owner[order], sizes[order]
    # a void whose spheres reach over the edge is of the edge (1), a near one is flagged too (2)
    steps = np.concatenate([np.eye(3), -np.eye(3)])
    out = ~inside(places[:, None] + steps * sizes[:, None, None]).all(axis=1)
    near = ~inside(places[:, None] + steps * (sizes[:, None, None] + 10)).all(axis=1)
    edge = np.zeros(len(kept), np.int64)
    edge[np.unique(owner[near])] = 2
    edge[np.unique(owner[out])] = 1
    sky = to_sky(centre)
    effective = radius * rng.uniform(1.15, 1.35, len(radius))
    maximals = {
        **_places(centre, "XYZ"),
        "RADIUS": radius, "VOID": void, "EDGE": edge,
        "R": sky[2], "RA": sky[0], "DEC": sky[1],
        "R_EFF": effective, "R_EFF_UNCERT": 0.02 * effective,
    }  # fmt: skip
    return maximals, {**_places(places, "XYZ"), "RADIUS": sizes, "VOID": owner}


def _draw_galaxies(
    rng: np.random.Generator, ra: float, dec: float, width: float, n: int = 300
) -> dict[str, Array]:
    sky = to_sky(_draw_places(rng, ra, dec, width, n))
    targetid = (9011 << 42) + rng.permutation(1 << 20)[:n]
    return dict(zip(("targetid", "ra", "dec", "r"), (targetid, *sky), strict=True))


def _zoned(
    maximals: Mapping[str, Array], galaxies: Mapping[str, Array], inside: Any, merged: bool
) -> dict[str, dict[str, Array]]:
    """Return V2's tables: a zone around each void, two zones in a void where they are merged."""
    centre = np.stack([maximals[name] for name in "XYZ"], axis=1)
    radius = maximals["R_EFF"]
    zone = np.arange(len(radius))
    void = zone // 2 if merged else zone
    first = np.unique(void, return_index=True)[1]
    sky = to_sky(centre[first])
    axes = np.einsum("n,ij->nij", radius[first], np.eye(3))
    area = 4 * np.pi * radius[first] ** 2
    voids = {
        "VOID": void[first], **_places(centre[first], "XYZ"),
        "REDSHIFT": sky[2] / 2997.92458, "RA": sky[0], "DEC": sky[1], "RADIUS": radius[first],
        **{f"{name}{i + 1}": axes[:, i, j] for i in range(3) for j, name in enumerate("XYZ")},
        "TOT_AREA": area, "EDGE_AREA": np.where(maximals["EDGE"][first] > 0, 0.2, 0.0) * area,
    }  # fmt: skip
    xyz = to_xyz(galaxies["ra"], galaxies["dec"], galaxies["r"])
    away = np.linalg.norm(xyz[:, None] - centre, axis=2) / radius
    nearest = away.argmin(axis=1)
    of = np.where(away.min(axis=1) < 1.1, nearest, -1)
    outside = ~inside(xyz)
    zones = {
        "GAL": np.arange(len(xyz)), "TARGET": np.asarray(galaxies["targetid"], np.int64),
        **_places(xyz, "XYZ"), "ZONE": np.where(outside, -1, of),
        "DEPTH": np.where(outside | (of < 0), -1, (3 * (1.1 - away.min(axis=1))).astype(int)),
        "EDGE": np.zeros(len(xyz), np.int64), "OUT": outside.astype(np.int64),
    }  # fmt: skip
    return {
        "VOIDS": voids,
        "ZONEVOID": {"ZONE": zone, "VOID0": void, "VOID1": void},
        "GALZONE": zones,
    }


def _places(xyz: Array, names: str) -> dict[str, Array]:
    return {name: np.ascontiguousarray(xyz[:, i]) for i, name in enumerate(names)}


def _to_table(columns: Mapping[str, Array], capitals: bool) -> "Table":
    from astropy.table import Table

    table = Table(dict(columns))
    lengths = ("X", "Y", "Z", "R", "RADIUS", "R_EFF", "R_EFF_UNCERT")
    for name in columns:
        if name in lengths or (name[0] in "XYZ" and name[1:] in ("1", "2", "3")):
            table[name].unit = "Mpc/h"
        elif name in ("RA", "DEC"):
            table[name].unit = "deg"
        if not capitals:
            table.rename_column(name, name.lower())
    return table


def _header(kind: str, count: int) -> Any:
    from astropy.io import fits

    header = fits.Header()
    header["METRIC"] = ("comoving", "Distance Metric")
    header["HP"] = (1.0, "Reduced Hubble Parameter h (((km/s)/Mpc)/100)")
    header["OMEGAM"] = (OMEGA_M, "Matter Density")
    header["DLIML"] = (NEAR, "Lower Distance Limit (Mpc/h)")
    header["DLIMU"] = (FAR, "Upper Distance Limit (Mpc/h)")
    header["VOID"] = (count, "Void Count")
    if kind != "VoidFinder":
        header["PRUNING"] = (kind.removeprefix("V2_"), "Pruning of V2's zones")
    return header
