"""Which targets of a collection lie in cosmic voids: a cross-match with DESIVAST.

    python examples/voids/match_voids.py RESULTS CATALOGUE [--kind VoidFinder] [--output FOLDER]

RESULTS is the folder of a run that converted galaxies of the bright survey, CATALOGUE the folder of
DESIVAST's FITS files. README.md beside this file says what comes out, and `run.py` does all of it
for the demo's galaxies.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from astropy.cosmology import FlatLambdaCDM
from astropy.io import fits
from astropy.table import Table

from desi_fits_to_parquet import open_catalog
from desi_fits_to_parquet.files import atomic_path

Array = npt.NDArray[Any]

KINDS = ("VoidFinder", "V2_VIDE", "V2_REVOLVER", "V2_ZOBOV")

CAPS = ("NGC", "SGC")

OM0, Z_MAX = 0.315, 0.24
"""Of DESIVAST as published (arXiv:2411.00148), where a file's header does not say it."""

UNITS = {"Mpc/h": True, "Mpc h-1": True, "Mpc": False}
"""Units of length that are read, and whether they hide the Hubble constant."""


class Voids(NamedTuple):
    """A void catalogue.

    `spheres` has the columns cap, void, edge, x, y, z, radius; `zones` has targetid, cap, void of
    the galaxies that V2 itself puts into voids (none for VoidFinder). `footprint` is a mask of
    shape (360, 180) in steps of a degree for each cap, None where no file tells it, `limits` the
    range of distances. Lengths are in units of `cosmology`.
    """

    kind: str
    spheres: pa.Table
    zones: pa.Table
    footprint: dict[str, Array | None]
    limits: tuple[float, float]
    cosmology: FlatLambdaCDM


def read_voids(folder: Path, kind: str = "VoidFinder") -> Voids:
    """Read both caps of a void catalogue.

    Parameters
    ----------
    folder
        Where `DESIVAST_BGS_VOLLIM_{kind}_{cap}.fits` are; one cap may be missing.
    kind
        One of `KINDS`. A void is a union of spheres for VoidFinder. V2 makes it of Voronoi cells:
        here it is the sphere of the same volume.

    Raises
    ------
    FileNotFoundError
        Where neither cap is there.
    ValueError
        Where a file is not as DESIVAST writes it, or the caps differ in cosmology.
    """
    paths = {cap: folder / f"DESIVAST_BGS_VOLLIM_{kind}_{cap}.fits" for cap in CAPS}
    paths = {cap: path for cap, path in paths.items() if path.is_file()}
    if not paths:
        raise FileNotFoundError(f"{folder}: no DESIVAST_BGS_VOLLIM_{kind}_NGC.fits, nor _SGC.fits")
    spheres, zones, settings = [], [], set()
    footprint: dict[str, Array | None] = {}
    for cap, path in paths.items():
        with fits.open(path) as hdus:
            one, per_void = _spheres(path, hdus, kind)
            spheres.append(one.add_column(0, "cap", pa.array([cap] * len(one))))
            zones.append(_zones(path, hdus, cap))
            settings.add(_settings(hdus[0].header, per_void))
        footprint[cap] = _footprint(folder, cap)
    if len(settings) > 1:
        raise ValueError(f"{folder}: the caps of {kind} differ in cosmology or limits: {settings}")
    h0, om0, near, far = settings.pop()
    cosmology = FlatLambdaCDM(H0=h0, Om0=om0)
    far = far or cosmology.comoving_distance(Z_MAX).value
    return Voids(
        kind, pa.concat_tables(spheres), pa.concat_tables(zones), footprint, (near, far), cosmology
    )


def comoving(ra: Array, dec: Array, z: Array, cosmology: FlatLambdaCDM) -> Array:
    """Return Cartesian comoving positions, shape (n, 3), as VAST lays them.

    Redshifts below 0 stay at the origin; NaN gives NaN.
    """
    r = cosmology.comoving_distance(np.maximum(np.asarray(z, np.float64), 0)).value
    ra, dec = np.radians(ra), np.radians(dec)
    return np.stack(
        [r * np.cos(dec) * np.cos(ra), r * np.cos(dec) * np.sin(ra), r * np.sin(dec)], axis=-1
    )


def deepest_sphere(xyz: Array, spheres: pa.Table, threads: int | None = None) -> pa.Table:
    """Find for each place the sphere in which it lies deepest.

    A grid join: each place has one cell, each sphere all that it touches; DuckDB joins them by
    the cell's number and keeps the pairs that are near enough.

    Parameters
    ----------
    xyz
        Places, shape (n, 3).
    spheres
        With `x`, `y`, `z`, `radius`, in the same unit.
    threads
        Of DuckDB; as many as there are cores by default.

    Returns
    -------
    pyarrow.Table
        `place`, `sphere` (numbers of rows) and `depth` (its radius less the distance from its
        centre), sorted by `place`; places in no sphere are left out.
    """
    here = np.isfinite(xyz).all(axis=1)
    radius = spheres["radius"].to_numpy()
    if not here.any() or not len(radius):
        empty: dict[str, Any] = {"place": np.zeros(0, np.int64), "sphere": np.zeros(0, np.int64)}
        return pa.table({**empty, "depth": np.zeros(0)})
    # at 1.5 radii the spheres touch few cells, and few places share a cell with one in vain
    size = 1.5 * float(np.mean(radius))
    centres = np.stack([spheres[name].to_numpy() for name in "xyz"], axis=1)
    first = np.minimum(xyz[here].min(axis=0), (centres - radius[:, None]).min(axis=0))
    last = np.maximum(xyz[here].max(axis=0), (centres + radius[:, None]).max(axis=0))
    rows = (np.floor((last - first) / size) + 1).astype(np.int64)
    database = duckdb.connect(config={"memory_limit": "1500MB"})
    if threads:
        database.execute(f"SET threads = {threads}")
    database.execute("SET preserve_insertion_order = false")
    database.execute("SET enable_progress_bar = false")  # it would stand among what is printed
    shifted = {name: xyz[here, i] - first[i] for i, name in enumerate("xyz")}
    database.register(
        "place", pa.table({"place": np.flatnonzero(here).astype(np.int32), **shifted})
    )
    moved = {name: centres[:, i] - first[i] for i, name in enumerate("xyz")}
    numbered = {"sphere": np.arange(len(radius), dtype=np.int32), **moved, "r": radius}
    database.register("sphere", pa.table(numbered))
    edge = f"{size}::DOUBLE"  # a bare number would be a decimal, which is five times slower
    number = f"(i * {rows[1]} + j) * {rows[2]} + k"
    database.execute(f"""
        CREATE TEMP TABLE places AS
        SELECT place, x, y, z, {number} AS cell FROM (
            SELECT *, floor(x / {edge})::BIGINT AS i, floor(y / {edge})::BIGINT AS j,
                floor(z / {edge})::BIGINT AS k FROM place)""")
    # twins count once, so that the answer does not depend on which thread is quicker
    database.execute(f"""
        CREATE TEMP TABLE cells AS
        WITH spheres AS (
            SELECT min(sphere) AS sphere, x, y, z, r FROM sphere GROUP BY x, y, z, r),
        corners AS (
            SELECT *, floor((x - r) / {edge})::BIGINT AS i0, floor((y - r) / {edge})::BIGINT AS j0,
                floor((z - r) / {edge})::BIGINT AS k0, ceil(2 * r / {edge})::BIGINT AS n
            FROM spheres),
        steps AS (SELECT DISTINCT n FROM corners),
        cubes AS (
            SELECT n, a.i AS di, b.i AS dj, c.i AS dk FROM steps,
                range((SELECT max(n) + 1 FROM steps)) AS a(i),
                range((SELECT max(n) + 1 FROM steps)) AS b(i),
                range((SELECT max(n) + 1 FROM steps)) AS c(i)
            WHERE a.i <= n AND b.i <= n AND c.i <= n),
        touched AS (
            SELECT sphere, x, y, z, r, i0 + di AS i, j0 + dj AS j, k0 + dk AS k
            FROM corners JOIN cubes USING (n)),
        away AS (
            SELECT *, greatest(i * {edge} - x, x - (i + 1) * {edge}, 0) AS dx,
                greatest(j * {edge} - y, y - (j + 1) * {edge}, 0) AS dy,
                greatest(k * {edge} - z, z - (k + 1) * {edge}, 0) AS dz FROM touched)
        SELECT sphere, x, y, z, r, {number} AS cell FROM away
        WHERE dx * dx + dy * dy + dz * dz <= r * r * 1.000001""")
    found = database.execute("""
        SELECT place, arg_max(sphere, depth) AS sphere, max(depth) AS depth FROM (
            SELECT place, sphere, r - sqrt(d2) AS depth FROM (
                SELECT place, sphere, r, (c.x - p.x) * (c.x - p.x) + (c.y - p.y) * (c.y - p.y)
                    + (c.z - p.z) * (c.z - p.z) AS d2 FROM cells c JOIN places p USING (cell))
            WHERE d2 <= r * r)
        GROUP BY place ORDER BY place""")
    return found.to_arrow_table()


def is_outside(xyz: Array, voids: Voids) -> Array:
    """Tell which places lie where the catalogue did not look for voids, shape (n,)."""
    r = np.linalg.norm(xyz, axis=1)
    inside = (r >= voids.limits[0]) & (r <= voids.limits[1])
    masks = [mask for mask in voids.footprint.values() if mask is not None]
    if len(masks) == len(voids.footprint):  # a cap without a mask may reach anywhere
        ra, dec = _sky(xyz)
        covered = np.any(masks, axis=0)
        inside &= covered[ra.astype(int) % 360, (dec + 90).astype(int).clip(0, 179)]
    return ~inside


def match(targets: pa.Table, voids: Voids) -> pa.Table:
    """Return void, depth and edge of targets.

    Parameters
    ----------
    targets
        With `targetid`, `target_ra`, `target_dec` (degrees) and `z`.
    voids
        From `read_voids`.

    Returns
    -------
    pyarrow.Table
        A row a target, in the same order, with the columns that README.md lists. Units and
        descriptions stand in the fields' metadata, the cosmology in the table's.
    """
    columns = (targets[name].to_numpy() for name in ("target_ra", "target_dec", "z"))
    xyz = comoving(*columns, voids.cosmology)
    found = deepest_sphere(xyz, voids.spheres)
    of, depth = np.full(len(xyz), -1), np.full(len(xyz), np.nan)
    of[found["place"]], depth[found["place"]] = found["sphere"], found["depth"]
    taken = voids.spheres.take(pa.array(of, mask=of < 0))
    zone = voids.zones.take(_where_is(targets["targetid"], voids.zones["targetid"]))
    unit = "Mpc/h" if voids.cosmology.H0.value == 100 else "Mpc"
    described: dict[str, tuple[Any, str, str]] = {
        "targetid": (targets["targetid"], "", "DESI's number of the target"),
        "void": (taken["void"], "", "void in which the target lies deepest, numbered within cap"),
        "cap": (taken["cap"], "", "half of the sky of that void: NGC or SGC"),
        "depth": (pa.array(depth, mask=of < 0), unit, "how deep the target lies in its sphere"),
        "edge": (taken["edge"], "", "the void reaches, or nearly, the edge of the survey"),
        "outside": (pa.array(is_outside(xyz, voids)), "", "no voids were looked for there"),
        "zone_void": (zone["void"], "", "void into which V2 itself puts the target"),
        "x": (pa.array(xyz[:, 0]), unit, "comoving position towards ra 0, dec 0"),
        "y": (pa.array(xyz[:, 1]), unit, "comoving position towards ra 90, dec 0"),
        "z": (pa.array(xyz[:, 2]), unit, "comoving position towards dec 90"),
    }
    fields = [
        pa.field(name, column.type, metadata={"unit": unit, "description": text})
        for name, (column, unit, text) in described.items()
    ]
    metadata = {
        "voids": f"DESIVAST {voids.kind}",
        "H0": str(voids.cosmology.H0.value),
        "Om0": str(voids.cosmology.Om0),
    }
    return pa.table([column for column, _, _ in described.values()], pa.schema(fields, metadata))


def draw_slice(path: Path, matched: pa.Table, voids: Voids, half: float | None = None) -> None:
    """Draw targets and voids of a slice through the sky, as seen from above.

    Parameters
    ----------
    path
        Where to write the figure.
    matched
        From `match`.
    voids
        From `read_voids`.
    half
        Half the thickness of the slice, in the unit of the positions; 10 by default. It lies in
        the plane through us and the targets' middle that is level at the targets.
    """
    import matplotlib as mpl
    from matplotlib.collections import PatchCollection
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

    half = 10.0 if half is None else half
    xyz = np.stack([matched[name].to_numpy() for name in "xyz"], axis=1)
    shown = ~matched["outside"].to_numpy(zero_copy_only=False) & np.isfinite(xyz).all(axis=1)
    middle = (xyz[shown] if shown.any() else xyz).mean(axis=0)
    ahead = middle / np.linalg.norm(middle)
    side = np.cross([0, 0, 1], ahead)
    side /= np.linalg.norm(side)
    axes = np.stack([ahead, side, np.cross(ahead, side)], axis=1)
    at = xyz @ axes
    centre = np.stack([voids.spheres[name].to_numpy() for name in "xyz"], axis=1) @ axes
    within = voids.spheres["radius"].to_numpy() ** 2 - centre[:, 2] ** 2
    cut = (within > 0) & (centre[:, 0] > 0)
    near = np.abs(at[:, 2]) < half
    reach = np.abs(at[near & shown, 1]).max(initial=20) * 1.3
    height = 9 * 2 * reach / (voids.limits[1] - voids.limits[0]) + 1.3
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(10, float(np.clip(height, 2.2, 10))), layout="constrained")
        panel = figure.subplots()
        discs = [
            Circle(place, size)
            for place, size in zip(centre[cut, :2], np.sqrt(within[cut]), strict=True)
        ]
        panel.add_collection(PatchCollection(discs, color="#c9d8ee", zorder=1))
        edge = matched["edge"].fill_null(False).to_numpy(zero_copy_only=False)
        inside = matched["void"].is_valid().to_numpy(zero_copy_only=False)
        for name, some, style in (
            ("in no void", near & shown & ~inside, {"color": "#b5532a"}),
            ("in a void", near & shown & inside & ~edge, {"color": "#1f4e99"}),
            ("in a void at the edge", near & shown & inside & edge,
             {"facecolors": "none", "edgecolors": "#1f4e99"}),
        ):  # fmt: skip
            panel.scatter(*at[some, :2].T, s=12, zorder=2, label=f"{some.sum()} {name}", **style)
        panel.set(
            xlim=voids.limits, ylim=(-reach, reach), aspect="equal",
            xlabel="comoving distance (Mpc/h)", ylabel="across (Mpc/h)",
            title=f"{voids.kind}: a slice of {2 * half:g} Mpc/h",
        )  # fmt: skip
        figure.legend(loc="outside lower center", fontsize=8, ncols=3)
        with atomic_path(path) as part:
            figure.savefig(part, dpi=150, format=path.suffix[1:])


# -------------------------------------------------------------------------------- the files


def _table(path: Path, hdus: Any, name: str, columns: Sequence[str]) -> Table:
    """Read a table with its names in lower case."""
    if name not in hdus:
        raise ValueError(f"{path}: no HDU {name}; it has {', '.join(hdu.name for hdu in hdus)}")
    table = Table.read(hdus[name], format="fits")
    table.rename_columns(table.colnames, [column.lower() for column in table.colnames])
    if missing := set(columns) - set(table.colnames):
        raise ValueError(f"{path}: {name} has no column {', '.join(sorted(missing)).upper()}")
    return table


def _spheres(path: Path, hdus: Any, kind: str) -> tuple[pa.Table, bool]:
    """Return a file's spheres, and whether its lengths are in Mpc/h."""
    place = ("void", "x", "y", "z", "radius")
    if kind == "VoidFinder":
        table = _table(path, hdus, "HOLES", place)
        largest = _table(path, hdus, "MAXIMALS", ("void", "edge"))
        edges = dict(zip(largest["void"].tolist(), (largest["edge"] != 0).tolist(), strict=True))
        if lost := set(table["void"].tolist()) - set(edges):
            raise ValueError(f"{path}: HOLES of {len(lost)} voids that are not in MAXIMALS")
        edge = [edges[void] for void in table["void"].tolist()]
    else:
        table = _table(path, hdus, "VOIDS", place)
        if "edge" in table.colnames:
            edge = (table["edge"] != 0).tolist()
        elif "edge_area" in table.colnames:
            edge = (table["edge_area"] > 0).tolist()
        else:
            raise ValueError(f"{path}: VOIDS has neither EDGE nor EDGE_AREA")
    unit = str(table["x"].unit or "Mpc/h")
    if unit not in UNITS and unit.replace(" ", "") not in UNITS:
        raise ValueError(f"{path}: X is in {unit}; known are {', '.join(UNITS)}")
    columns: dict[str, Any] = {"void": np.asarray(table["void"], np.int64), "edge": edge}
    columns |= {name: np.asarray(table[name], np.float64) for name in ("x", "y", "z", "radius")}
    return pa.table(columns), UNITS.get(unit, True)


def _zones(path: Path, hdus: Any, cap: str) -> pa.Table:
    """Return the galaxies that V2 puts into voids: of nested ones, into the smallest."""
    names = ("targetid", "cap", "void")
    if "GALZONE" not in hdus:
        return pa.table([pa.array([], t) for t in (pa.int64(), pa.string(), pa.int64())], names)
    galaxies = _table(path, hdus, "GALZONE", ("target", "zone"))
    zones = _table(path, hdus, "ZONEVOID", ("zone", "void0"))
    voids = dict(zip(zones["zone"].tolist(), zones["void0"].tolist(), strict=True))
    void = np.array([voids.get(zone, -1) for zone in galaxies["zone"].tolist()], np.int64)
    known = void >= 0
    targetid = np.asarray(galaxies["target"], np.int64)[known]
    return pa.table([targetid, pa.array([cap] * known.sum(), pa.string()), void[known]], names)


def _settings(header: Any, per_h: bool) -> tuple[float, float, float, float | None]:
    """Return H0, Om0 and the limits of distance that a header tells."""
    h0 = 100.0 if per_h else 100 * float(header.get("HP", 1.0))
    om0 = float(header.get("OMEGAM", OM0))
    far = header.get("DLIMU")
    return h0, om0, float(header.get("DLIML", 0)), None if far is None else float(far)


def _footprint(folder: Path, cap: str) -> Array | None:
    """Return where a cap's galaxies are, in steps of a degree: by a MASK, or by V2's galaxies.

    The files of one cap have the same galaxies: each may tell it for all.
    """
    paths = [folder / f"DESIVAST_BGS_VOLLIM_{kind}_{cap}.fits" for kind in KINDS]
    for path in filter(Path.is_file, paths):
        with fits.open(path) as hdus:
            if "MASK" in hdus:
                mask, steps = hdus["MASK"].data != 0, int(hdus["MASK"].header.get("MSKRES", 1))
                if mask.shape != (360 * steps, 180 * steps):
                    raise ValueError(f"{path}: MASK is {mask.shape}, not 360 by 180 times {steps}")
                covered: Array = mask.reshape(360, steps, 180, steps).any(axis=(1, 3))
                return covered
    for path in filter(Path.is_file, paths):
        with fits.open(path) as hdus:
            if "GALZONE" in hdus:
                galaxies = _table(path, hdus, "GALZONE", ("x", "y", "z", "out"))
                there = np.asarray(galaxies["out"]) == 0
                xyz = np.stack([np.asarray(galaxies[name])[there] for name in "xyz"], axis=1)
                covered = np.zeros((360, 180), bool)
                ra, dec = _sky(xyz)
                covered[ra.astype(int) % 360, (dec + 90).astype(int).clip(0, 179)] = True
                return covered
    return None


def _where_is(wanted: Any, known: Any) -> pa.Array:
    """Return in which row of `known` each of `wanted` is, null for those that are not there."""
    values, rows = np.unique(known.to_numpy(), return_index=True)
    if not len(values):
        return pa.nulls(len(wanted), pa.int64())
    asked = wanted.to_numpy()
    at = np.searchsorted(values, asked).clip(0, len(values) - 1)
    return pa.array(rows[at], mask=values[at] != asked)


def _sky(xyz: Array) -> tuple[Array, Array]:
    """Return right ascension and declination in degrees; (0, 0) for the origin and NaN."""
    r = np.linalg.norm(xyz, axis=1)
    somewhere = np.where((r > 0)[:, None], xyz, [1.0, 0.0, 0.0])
    ra = np.degrees(np.arctan2(somewhere[:, 1], somewhere[:, 0])) % 360
    return ra, np.degrees(np.arcsin(somewhere[:, 2] / np.where(r > 0, r, 1)))


# ------------------------------------------------------------------------------ the command


def main(arguments: Sequence[str] | None = None) -> int:
    """Match a collection with a void catalogue; return the exit code."""
    parser = argparse.ArgumentParser(description="Which targets lie in voids (DESIVAST).")
    parser.add_argument("results", help="folder of the results, or their address")
    parser.add_argument("catalogue", type=Path, help="folder of DESIVAST's files")
    parser.add_argument("--kind", choices=KINDS, default="VoidFinder")
    parser.add_argument("--output", type=Path, default=Path("results/voids"))
    given = parser.parse_args(arguments)
    try:
        voids = read_voids(given.catalogue, given.kind)
        galaxies = open_catalog(given.results).where("is_primary and spectype = 'GALAXY'")
        table = galaxies.to_arrow(["targetid", "target_ra", "target_dec", "z"])
    except (FileNotFoundError, ValueError, ConnectionError) as error:
        print(f"voids: {error}", file=sys.stderr)
        return 1
    if not len(table):
        print(
            f"voids: {given.results} holds no galaxies. Convert the bright survey's: "
            "--config selection='{spectypes: [GALAXY]}' tiles='{programs: [bright]}'",
            file=sys.stderr,
        )
        return 1
    matched = match(table, voids)
    given.output.mkdir(parents=True, exist_ok=True)
    parquet = given.output / f"{given.kind}.parquet"
    with atomic_path(parquet) as part:
        pq.write_table(matched, part, compression="zstd")
    figure = given.output / f"{given.kind}.png"
    draw_slice(figure, matched, voids)
    within = matched.filter(pc.invert(matched["outside"]))
    count = len(within) - within["void"].null_count
    h0, om0 = voids.cosmology.H0.value, voids.cosmology.Om0
    print(
        f"{given.kind}: {len(voids.spheres):,} spheres; flat LCDM, H0 = {h0:g}, Om0 = {om0:g}\n"
        f"{len(table):,} galaxies, {len(within):,} of them where voids were looked for, "
        f"{count:,} of these in a void"
    )
    for cap, mask in voids.footprint.items():
        if mask is None:
            print(f"{cap}: no file tells its footprint; outside is by distance alone")
    print(f"{parquet}\n{figure}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
