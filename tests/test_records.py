"""What is written down of a tile has the keys and types that `records` declares, and no others."""

from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from fault_server import serve
from fusion_tiles import changed
from simulated_archive import list_sources, simulate_objects

from desi_fits_to_parquet.download.tile import download_tile
from desi_fits_to_parquet.files import read_json, write_json
from desi_fits_to_parquet.fuse.tile import fuse_tile
from desi_fits_to_parquet.records import DownloadRecord, FuseRecord, Marker, TileKeys
from desi_fits_to_parquet.report.tables import COLUMNS
from desi_fits_to_parquet.run.markers import Brief
from desi_fits_to_parquet.tile import Tile
from desi_fits_to_parquet.validate import validate_tile

TILE = Tile("main", "dark", 10000)


def faults(value: Any, kind: Any, where: str) -> list[str]:
    """Where a value read from JSON is not of a type."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return [] if any(not faults(value, part, where) for part in parts) else [where]
    if origin is Literal:
        return [] if value in parts else [where]
    if origin is dict and isinstance(value, dict):
        return [f for key, v in value.items() for f in faults(v, parts[1], f"{where}.{key}")]
    if hasattr(kind, "__total__") and isinstance(value, dict):
        hints = get_type_hints(kind)
        odd = [f"{where}.{key}" for key in hints.keys() ^ value.keys()]
        return odd or [
            f for key, k in hints.items() for f in faults(value[key], k, f"{where}.{key}")
        ]
    if kind is float:  # JSON writes 0.0 as a float, but a sum may be whole
        return [] if type(value) in (int, float) else [where]
    return [] if type(value) is (NoneType if kind is None else kind) else [where]


@pytest.mark.parametrize("answer", [None, "forbidden"], ids=["converted", "unreachable"])
def test_records_have_the_declared_keys_and_types(
    answer: str | None, settings: Any, tmp_path: Path
) -> None:
    objects = simulate_objects(TILE, tmp_path / "archive", 4, quasar_share=0.5, scan_step=100)
    with serve(dict(objects)) as service:
        service.choose = lambda asked: answer
        chosen = changed(
            settings,
            archive={"endpoint": service.endpoint},
            transfer={"attempts": 1, "timeout_s": 5, "audit_fraction": 1},
        )
        sources = list_sources(TILE, service.objects)
        download = download_tile(TILE, sources, chosen, tmp_path / "fits")
    fused = fuse_tile(TILE, tmp_path / "fits", tmp_path / "parquet", chosen)
    marker = validate_tile(TILE, tmp_path / "fits", tmp_path / "parquet", fused, chosen)
    assert marker["outcome"] == ("unreachable" if answer else "converted")
    assert (download["audit"] is None) == bool(answer)
    for record, kind in ((download, DownloadRecord), (fused, FuseRecord), (marker, Marker)):
        write_json(tmp_path / "record.json", record)
        assert faults(read_json(tmp_path / "record.json"), kind, kind.__name__) == []


def test_the_report_and_the_view_of_a_run_read_keys_that_a_marker_has() -> None:
    keys = get_type_hints(Marker).keys()
    assert set(Brief._fields) <= keys
    columns = {name for name, *_ in COLUMNS if not name.startswith("audit")}
    assert columns <= keys
    compared = {"listed", "settings_fingerprint"}  # with what a run would make
    told = columns | compared | {"sources", "audit"}
    assert told == keys, "a key that the report does not tell"
    assert TileKeys.__annotations__.keys() < columns
