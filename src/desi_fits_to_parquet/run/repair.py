"""Finding what was damaged or failed in a results folder, and clearing it for the next run."""

import json
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from desi_fits_to_parquet.columns import kinds_used
from desi_fits_to_parquet.files import read_json, sha256_of
from desi_fits_to_parquet.outcomes import FAILED_OUTCOMES, OUTCOMES
from desi_fits_to_parquet.paths import SKIM, fits_folder, marker_path, parquet_folder, parquet_path
from desi_fits_to_parquet.records import PROVENANCE_KEY, Marker, TileKeys, tile_keys
from desi_fits_to_parquet.run.markers import layout_of, tile_markers
from desi_fits_to_parquet.settings import Settings, content_settings, settings_fingerprint
from desi_fits_to_parquet.text import neutral
from desi_fits_to_parquet.tile import Tile
from desi_fits_to_parquet.tiles_csv import Sources, list_tiles, read_sources, sources_version

N_NAMED = 5
"""So many tiles are named in a line; the rest is counted."""


class Finding(NamedTuple):
    """A tile that must be done again, and why."""

    tile: Tile
    problem: str


class NoRun(Exception):
    """A folder holds no run."""


class OldResults(Exception):
    """A results folder was made by a version that laid tiles out otherwise."""


def refuse_old_results(results: Path) -> None:
    """Assert that a results folder is none of version 0.1, which wrote Hive folders.

    Raises
    ------
    OldResults
        With a sentence that says what to do.
    """
    old = next((results / "parquet").glob("survey=*"), None)
    if old:
        raise OldResults(
            f"{old} was made by version 0.1 of this project, which this one does not go on with: "
            "give the run a folder of its own with --config results=..., or remove "
            f"{results}/parquet, {results}/validated and {results}/tiles.csv to make them anew"
        )


def find_failed(results: Path) -> list[Finding]:
    """Return the tiles whose outcome is a failure, with outcome and reason.

    A marker that cannot be read, or is another tile's, is left to the next run (`find_stale`).
    """
    failed = []
    for path, tile in tile_markers(results):
        marker, _ = _read(path, tile)
        if tile and marker and marker["outcome"] in FAILED_OUTCOMES:
            failed.append(Finding(tile, f"{marker['outcome']}: {marker['reason']}"))
    return failed


def find_stale(results: Path, settings: Settings) -> list[Finding]:
    """Return the discovered tiles whose marker does not tell what a run would make now.

    Settings, the tile's files in the archive as listed, and the Parquet's size are compared with
    what the marker says; its bytes are compared by `find_damaged`. 30,000 tiles take 3 s. A tile
    without a marker is none of these.

    Parameters
    ----------
    results
        The results folder, with the list of tiles.
    settings
        The checked configuration.

    Returns
    -------
    list of Finding
        In the order of the list.

    Raises
    ------
    ValueError
        Where the list of tiles is broken.
    """
    listed = results / "tiles.csv"
    kinds = {*kinds_used(settings), "sha256sum"}
    wanted = settings_fingerprint(settings)
    stale = []
    for tile in list_tiles(listed):
        path = marker_path(results, tile)
        if path.exists():
            marker, problem = _read(path, tile)
            if marker:
                problem = _difference(marker, wanted, read_sources(listed, tile, kinds))
                problem = problem or _wrong_size(results, tile, marker)
            if problem:
                stale.append(Finding(tile, problem))
    return stale


UNREADABLE = "its marker cannot be read"

OTHER_SETTINGS = "it was made with other settings, or by another version of this project"


def _difference(marker: Marker, wanted: str, sources: Sources) -> str:
    """Say in what a marker differs from a run that is asked for now."""
    if marker.get("settings_fingerprint") != wanted:
        return OTHER_SETTINGS
    try:
        if marker["listed"] == sources_version(sources):
            return ""
        read = {kind: source["etag"] for kind, source in marker["sources"].items()}
    except (KeyError, TypeError, AttributeError):
        return UNREADABLE
    if read != {kind: source["etag"] for kind, source in sources.items()}:
        return "its files in the archive are others"
    return ""


def _wrong_size(results: Path, tile: Tile, marker: Marker) -> str:
    if not marker["sha256"]:
        return ""
    try:
        size = parquet_path(tile, parquet_folder(results, tile)).stat().st_size
    except OSError:
        return "its Parquet is missing"
    return "" if size == marker["bytes_parquet"] else "its Parquet has another size"


def stale_text(stale: Sequence[Finding]) -> list[str]:
    """Say in a line a problem which tiles are done again."""
    tiles: dict[str, list[str]] = {}
    for tile, problem in stale:
        tiles.setdefault(problem, []).append(tile.name)
    return [
        f"{len(names):,} tiles that were done are done again ({', '.join(names[:N_NAMED])}"
        f"{', ...' if len(names) > N_NAMED else ''}): of each, {problem}"
        for problem, names in tiles.items()
    ]


def refusal_to_replace(results: Path, stale: Sequence[Finding], settings: Settings) -> str:
    """Say why a run does not begin that would replace tiles of other settings; empty where it may.

    Parameters
    ----------
    results
        The results folder.
    stale
        As `find_stale` returned it.
    settings
        The checked configuration.
    """
    tiles = [tile for tile, problem in stale if problem == OTHER_SETTINGS]
    if not tiles or settings["replace"]:
        return ""
    return (
        f"{len(tiles):,} tiles in {results} would be replaced: they were made "
        f"{_what_changed(results, tiles, content_settings(settings))}. Go on with --config "
        "replace=true, or leave them and give the run another folder with --config results=..."
    )


def _what_changed(results: Path, tiles: Sequence[Tile], wanted: Mapping[str, Any]) -> str:
    """Name the settings in which the first tile that has a Parquet differs from what is wanted."""
    for tile in tiles:
        made = _provenance(parquet_path(tile, parquet_folder(results, tile))).get("settings")
        if isinstance(made, dict):
            before, now = _flat(made), _flat(wanted)
            changes = [
                f"{key}: {json.dumps(before.get(key))}, now {json.dumps(now.get(key))}"
                for key in sorted(before.keys() | now.keys())
                if before.get(key) != now.get(key)
            ]
            if changes:
                return neutral(f"with other settings ({'; '.join(changes)})")
            return "by another version of this project"
    return "with other settings, or by another version of this project"


def _flat(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Give nested settings by their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{above}{key}.")
        else:
            flat[f"{above}{key}"] = value
    return flat


def check_results(results: Path) -> None:
    """Assert that a folder holds a run.

    Raises
    ------
    NoRun
        With a sentence, where it does not.
    """
    if not (results / "tiles.csv").is_file():
        raise NoRun(f"{results} holds no run: it has no tiles.csv (see the setting results)")


def find_damaged(
    results: Path, threads: int = 4, progress: bool = True
) -> tuple[list[Finding], list[Path]]:
    """Compare every marker with its place, and every Parquet with its marker.

    Parameters
    ----------
    results
        The results folder.
    threads
        Files to read at once; hashing is far faster than most disks.
    progress
        Show a bar on standard error.

    Returns
    -------
    damaged : list of Finding
        Tiles whose marker is broken or another tile's, or whose Parquet is missing, altered,
        another tile's or not alone in its folder, sorted.
    strange : list of Path
        Files in places of markers that are no tile's.
    """
    from tqdm import tqdm

    markers = list(tile_markers(results))
    with ThreadPoolExecutor(threads) as pool:
        checks = pool.map(lambda item: _damage(results, *item), markers)
        bar = tqdm(checks, "verify", len(markers), unit="tile", disable=not progress, mininterval=1)
        found = [
            Finding(tile, problem)
            for (_, tile), problem in zip(markers, bar, strict=True)
            if tile and problem
        ]
    return sorted(found), [path for path, tile in markers if tile is None]


def _damage(results: Path, path: Path, tile: Tile | None) -> str:
    """Say what is wrong with a tile, empty where nothing is."""
    marker, problem = _read(path, tile)
    if tile is None or marker is None:
        return problem
    folder = parquet_folder(results, tile)
    expected = {f"{tile.name}.parquet"} if marker["sha256"] else set()
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    there.discard(".snakemake_timestamp")  # Snakemake's own, in every folder that it made
    if missing := expected - there:
        return f"{missing.pop()} is missing"
    if extra := there - expected:
        return f"{neutral(min(extra))} does not belong in {folder.relative_to(results)}"
    if not marker["sha256"]:
        return ""
    file = parquet_path(tile, folder)
    owner = _owner(file)
    if owner not in ("", tile.name):
        return f"{file.name} is the Parquet of {owner}"
    found = sha256_of(file)
    if found != marker["sha256"]:
        return (
            f"{file.name} was altered: {file.stat().st_size} bytes with sha256 {found[:12]}..., "
            f"its marker says {marker['bytes_parquet']} bytes and {marker['sha256'][:12]}..."
        )
    return ""


def _read(path: Path, tile: Tile | None) -> tuple[Marker | None, str]:
    """Read a marker; where it is broken or not of this tile, None and what is wrong."""
    try:
        marker = read_json(path)
        stated = {key: marker[key] for key in TileKeys.__annotations__}
        size = marker["bytes_parquet"], marker["sha256"]
        known = marker["outcome"] in OUTCOMES and isinstance(marker["reason"], str)
        whole = isinstance(size[0], int) and isinstance(size[1], str | None)
    except (OSError, ValueError, KeyError, TypeError):
        return None, UNREADABLE
    if tile is None or stated != tile_keys(tile):
        said = "-".join(str(stated[key]) for key in ("survey", "program", "healpix"))
        return None, f"its marker says that it is of {neutral(said)[:100]}"
    if not (known and whole):
        return None, UNREADABLE
    return marker, ""


def _owner(path: Path) -> str:
    """Return the name of the tile whose Parquet a file is, as its metadata say; empty where none.

    A file that is not even Parquet says nothing; its checksum tells that.
    """
    try:
        keys = _provenance(path)
        return neutral(f"{keys['survey']}-{keys['program']}-{keys['healpix']}")[:100]
    except KeyError:
        return ""


def _provenance(path: Path) -> dict[str, Any]:
    """Read what a Parquet tells of its making; empty where it tells nothing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        told = json.loads((pq.read_metadata(path).metadata or {})[PROVENANCE_KEY.encode()])
    except (pa.ArrowException, OSError, ValueError, KeyError):
        return {}
    return told if isinstance(told, dict) else {}


def clear_tile(results: Path, tile: Tile) -> None:
    """Remove what was made of a tile, the marker first, so that the next run does it again."""
    marker_path(results, tile).unlink(missing_ok=True)
    _remove_folder(parquet_folder(results, tile))
    _remove_folder(fits_folder(results, tile))


def find_leftovers(results: Path) -> Iterator[Tile]:
    """Return the tiles that are done and have FITS still: a run that was killed leaves them."""
    layout = layout_of(results / "tiles.csv")
    for path in (results / "fits").glob("*/*/*"):
        survey, program, name = path.relative_to(results / "fits").parts
        tile = Tile(survey, program, int(name), layout) if name.isdecimal() else None
        if tile and marker_path(results, tile).exists():
            yield tile


def remove_leftovers(results: Path, busy: Collection[Tile]) -> None:
    """Remove the FITS of tiles that are done, and folders that a killed job left unfinished.

    To be called before the first job of a run, under its lock: nobody works on these folders.

    Parameters
    ----------
    results
        The results folder.
    busy
        Tiles that are going to be validated and still need their FITS.
    """
    for tile in find_leftovers(results):
        if tile not in busy:
            _remove_folder(fits_folder(results, tile))
    for unfinished in ("fits/*/*/.*.part", "parquet/*/dataset/*/*/.*.part"):
        for path in results.glob(unfinished):
            _remove_folder(path)


def remove_unfinished(results: Path) -> None:
    """Remove the FITS of all tiles, and what killed jobs of this machine left under other names."""
    for folder in results.glob("fits/*/*/*"):
        _remove_folder(folder)
    for place in ("", "report/", "*/*/*/", "parquet/*/dataset/*/*/", f"{SKIM}/**/"):
        for path in results.glob(f"{place}.*.part"):
            if path.is_file():
                path.unlink()
            else:
                _remove_folder(path)


def _remove_folder(folder: Path) -> None:
    """Remove a folder of a tile; where a link stands in its place, only the link."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)
