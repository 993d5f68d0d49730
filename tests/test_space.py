"""A run must notice that a tile does not fit before it is fetched, and say how much is missing."""

import shutil
from pathlib import Path

import pytest

from desi_fits_to_parquet.download.space import DiskLow, check_space, needed_bytes
from desi_fits_to_parquet.tiles_csv import Source


def source(size: int) -> Source:
    return Source(key="key", size=size, etag="etag")


def test_whole_files_need_more_room_than_rows(settings):
    sources = {"coadd": source(1000), "redrock": source(10), "rrdetails": source(400)}
    settings["transfer"]["mode"] = "files"
    whole = needed_bytes(sources, settings)
    assert whole >= 2 * 1410
    settings["transfer"]["mode"] = "rows"
    assert 2 * 10 < needed_bytes(sources, settings) < whole


def test_missing_room_is_named_and_a_folder_not_made_yet_is_no_obstacle(tmp_path: Path):
    free = shutil.disk_usage(tmp_path).free
    check_space(tmp_path / "a" / "b", 0, 0)
    with pytest.raises(DiskLow, match=r"a tile of [1-9].* need \S+ TB more") as caught:
        check_space(tmp_path / "a" / "b", free + 10**12, 2)
    missing = float(str(caught.value).split(" need ")[1].split(" TB more")[0])
    assert 1 <= missing < 1.03  # others write to the disk while the test runs
