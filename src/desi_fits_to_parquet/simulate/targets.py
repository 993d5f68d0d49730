"""Drawing the targets of a simulated tile."""

import zlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from desi_fits_to_parquet.tile import Tile

Array = npt.NDArray[Any]

Values = dict[str, Array]

_TARGET_BIT = {"LRG": 1 << 0, "ELG": 1 << 1, "QSO": 1 << 2, "SKY": 1 << 32, "BGS": 1 << 60,
               "MWS": 1 << 61}  # fmt: skip

_BROKEN_FIBRE = 1 << 9
"""FIBERSTATUS of a fibre that gives no light."""


class Targets(NamedTuple):
    """The targets of a tile, arrays of shape (ntarget,) in the order of the coadd.

    `role` is quasar, quasar_warned (redrock doubts), galaxy, star, sky, sky_quasar (blank sky that
    redrock takes for a quasar), broken (a fibre without light) or unassigned. The pair
    (`exposure_row`, `exposure`) lists which target was seen in which of the tile's exposures.
    """

    role: Array
    targetid: Array
    ra: Array
    dec: Array
    z: Array
    magnitude: Array
    strength: Array
    temperature: Array
    exposure_row: Array
    exposure: Array
    exposures: Values

    @property
    def broken(self) -> npt.NDArray[np.bool_]:
        """Targets whose fibre gave no data at all."""
        flags: npt.NDArray[np.bool_] = np.isin(self.role, ("broken", "unassigned"))
        return flags

    @property
    def exptime(self) -> npt.NDArray[np.float64]:
        """Summed exposure time, s."""
        seconds = self.exposures["EXPTIME"][self.exposure]
        return np.bincount(self.exposure_row, seconds, len(self.role)).astype(np.float64)


def random_stream(seed: int, *names: str | int) -> np.random.Generator:
    """Return a generator that depends on the seed and the names, and on nothing else."""
    words = [name if isinstance(name, int) else zlib.crc32(name.encode()) for name in names]
    return np.random.default_rng([seed, *words])


def draw_targets(
    tile: Tile, n_targets: int, seed: int, quasar_share: float, exposures_per_target: int
) -> Targets:
    """Draw the targets of a tile.

    Parameters
    ----------
    tile
        Identity of the tile. TARGETIDs and positions depend on the pixel alone, so that tiles of
        the same pixel share targets across surveys and programs, as in the archive.
    n_targets
        Number of targets.
    seed
        Seed of the simulation.
    quasar_share
        Share of targets that are quasars by the plain cut (SPECTYPE QSO, ZWARN 0, OBJTYPE TGT):
        at least one where it is above 0, none where it is 0.
    exposures_per_target
        Mean number of exposures.

    Returns
    -------
    Targets
        With the roles of `_roles` in random order.

    Raises
    ------
    ValueError
        Where the numbers make no tile.
    """
    if n_targets < 1 or exposures_per_target < 1 or not 0 <= quasar_share <= 1:
        raise ValueError(
            "a tile needs n_targets >= 1, exposures_per_target >= 1 and quasar_share in 0 to 1, "
            f"not {n_targets}, {exposures_per_target} and {quasar_share}"
        )
    rng = random_stream(seed, "targets", *tile[:3])
    role = rng.permutation(_roles(tile.program, n_targets, quasar_share))
    targetid, ra, dec = _positions(tile, n_targets, seed)
    sky = np.isin(role, ("sky", "sky_quasar"))
    targetid = np.where(sky, targetid | 1 << 59, targetid)
    # positioners that are stuck have no target of their own: their numbers are negative
    negative = (role == "unassigned") | (sky & (np.cumsum(sky) % 2 == 1))
    targetid = np.where(negative, -(targetid % (1 << 40)) - 1, targetid)
    bright = tile.program in ("bright", "backup")
    z = np.select(
        [np.char.startswith(role, "quasar") | (role == "sky_quasar"), role == "star"],
        [np.clip(rng.lognormal(0.5, 0.42, n_targets), 0.15, 4.6), rng.normal(0, 3e-4, n_targets)],
        rng.uniform(0.05, 0.45, n_targets) if bright else rng.uniform(0.4, 1.55, n_targets),
    )
    magnitude = rng.normal(18.8 if bright else 21.4, 0.7, n_targets)
    magnitude[role == "quasar"] = rng.normal(20.9, 0.8, (role == "quasar").sum())
    magnitude[role == "quasar_warned"] = 23.3
    exposure_row, exposure, exposures = _draw_exposures(tile, n_targets, exposures_per_target, rng)
    return Targets(
        role=role,
        targetid=targetid,
        ra=ra,
        dec=dec,
        z=z,
        magnitude=magnitude,
        strength=np.where(rng.random(n_targets) < 0.6, rng.lognormal(0, 0.5, n_targets), 0.05),
        temperature=rng.choice([3400.0, 4600.0, 5600.0, 6600.0, 9500.0], n_targets),
        exposure_row=exposure_row,
        exposure=exposure,
        exposures=exposures,
    )


def _roles(program: str, count: int, quasar_share: float) -> list[str]:
    """Roles of the targets; the rare ones come in as the tile has room for them."""
    quasars = max(round(quasar_share * count), 1) if quasar_share > 0 else 0
    roles = ["quasar"] * min(quasars, count)
    room = count - len(roles)
    rare = {"quasar_warned": 0.02, "sky": 0.02, "broken": 0.01, "sky_quasar": 0.002,
            "unassigned": 0.01}  # fmt: skip
    for i, (role, share) in enumerate(rare.items()):
        if room > i + 1:  # at least one plain target is left
            roles += [role] * max(round(share * count), 1)
    roles = roles[:count]
    rest = count - len(roles)
    stars = round(rest * (0.4 if program == "backup" else 0.25))
    return roles + ["galaxy"] * (rest - stars) + ["star"] * stars


def brick_of(ra: Array, dec: Array) -> Array:
    """Return the brick of 0.25 deg that a position (ICRS, deg) lies in, rows from south to north.

    Real BRICKIDs are numbered so (`desiutil.brick`), but for a few columns a row: TARGETIDs, which
    begin with them, are in no order of HEALPix.
    """
    rows = np.arange(720)
    columns = np.ceil(1440 * np.cos(np.radians((rows + 0.5) / 4 - 90))).astype(np.int64)
    first = np.cumsum(columns) - columns
    row = np.clip(np.floor((dec + 90) * 4).astype(np.int64), 0, 719)
    bricks: Array = 1 + first[row] + np.floor(ra % 360 / 360 * columns[row]).astype(np.int64)
    return bricks


def _positions(tile: Tile, count: int, seed: int) -> tuple[Array, Array, Array]:
    """TARGETID and position (ICRS, deg) of the targets that a pixel can have."""
    from astropy import units
    from astropy_healpix import HEALPix

    rng = random_stream(seed, "pixel", tile.pixel)
    grid = HEALPix(nside=1 << tile.order, order="nested")
    # the fractions stay off the pixel's edge, where rounding could move a target out
    dx, dy = rng.uniform(0.01, 0.99, (2, count))
    ra, dec = grid.healpix_to_lonlat(np.full(count, tile.pixel), dx, dy)
    ra, dec = ra.to_value(units.deg), dec.to_value(units.deg)
    # tiles share bricks, so the number within a brick is made of that of the tile
    number = (tile.pixel % 1024 << 12) + np.arange(count) % (1 << 12)
    return (9010 << 42) | (brick_of(ra, dec) << 22) | number, ra, dec


def _draw_exposures(
    tile: Tile, count: int, mean: int, rng: np.random.Generator
) -> tuple[Array, Array, Values]:
    """Exposures of the tile, and which target was in which, sorted by target, then by time."""
    total = 3 * mean
    night = np.sort(rng.integers(0, 300, total))
    dates = np.datetime64("2021-05-14") + night
    exposures: Values = {
        "NIGHT": np.array([int(str(date).replace("-", "")) for date in dates]),
        "EXPID": 89_000 + np.cumsum(rng.integers(1, 90, total)),
        "MJD": 59_348.1 + night + np.sort(rng.uniform(0, 0.4, total)),
        "TILEID": 1000 + rng.integers(0, 20_000) + np.arange(total) // 2,
        "EXPTIME": rng.normal(1000 if tile.program == "dark" else 300, 60, total),
        "PETAL_LOC": rng.integers(0, 10, total),
    }
    numbers = rng.integers(1, 2 * mean, count)
    chosen = [np.sort(rng.permutation(total)[:number]) for number in numbers]
    return np.repeat(np.arange(count), numbers), np.concatenate(chosen), exposures


def own_target_column(survey: str) -> str:
    """Name the column in which a survey's own targeting bits stand."""
    if survey == "cmx":
        return "CMX_TARGET"
    return f"{survey.upper()}_DESI_TARGET" if survey.startswith("sv") else "DESI_TARGET"


def target_bits(tile: Tile, targets: Targets, rng: np.random.Generator) -> Values:
    """Targeting bits by column.

    In survey validation the bits stand in SVn_DESI_TARGET and DESI_TARGET is 0 but for sky.
    """
    role, count = targets.role, len(targets.role)
    bright = tile.program in ("bright", "backup")
    lrg_or_elg = np.where(targets.strength < 0.1, _TARGET_BIT["LRG"], _TARGET_BIT["ELG"])
    quasar = np.char.startswith(role, "quasar") & (rng.random(count) < 0.85)
    # quasar candidates too: the broken fibre's target, some stars, in the dark some galaxies
    star, galaxy = role == "star", (role == "galaxy") & (not bright)
    quasar |= (role == "broken") | (star & (np.cumsum(star) % 3 == 1))
    quasar |= galaxy & (np.cumsum(galaxy) % 6 == 1)
    desi = np.select(
        [np.isin(role, ("sky", "sky_quasar")), role == "unassigned", role == "star"],
        [_TARGET_BIT["SKY"], 0, _TARGET_BIT["MWS"] if bright else 0],
        _TARGET_BIT["BGS"] if bright else lrg_or_elg,
    )
    desi = np.where(quasar, _TARGET_BIT["QSO"], desi)
    none = np.zeros(count, np.int64)
    bits = {
        "DESI_TARGET": desi,
        "BGS_TARGET": np.where(desi & _TARGET_BIT["BGS"] != 0, 1 << 1, 0),
        "MWS_TARGET": np.where(desi & _TARGET_BIT["MWS"] != 0, 1 << 6, 0),
        "SCND_TARGET": none,
    }
    if tile.survey.startswith("sv"):
        own = {f"{tile.survey.upper()}_{name}": values for name, values in bits.items()}
        return {
            **own,
            **dict.fromkeys(bits, none),
            "DESI_TARGET": np.where(desi == _TARGET_BIT["SKY"], desi, 0),
        }
    if tile.survey == "cmx":
        return {"CMX_TARGET": desi, **dict.fromkeys(bits, none)}
    return bits
