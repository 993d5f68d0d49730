"""`open_catalog` on S3 and on a web server: what it fetches, what it keeps, what it says."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import load_settings
from fault_server import Service, serve
from fusion_tiles import changed
from reader_trees import collect, simulate

from desi_fits_to_parquet import open_catalog
from desi_fits_to_parquet.reader.catalog import Catalog
from desi_fits_to_parquet.reader.remote import Remote, column_ranges, default_cache, merge
from desi_fits_to_parquet.tile import Tile

TILES = (Tile("main", "dark", 10000), Tile("main", "bright", 10000))

FAR = "copies/dr1"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings: Any = changed(
        load_settings(),
        selection={"spectypes": ["QSO", "GALAXY", "STAR"], "zwarn": None},
    )
    fits = simulate(tmp_path_factory.mktemp("fits"), TILES)
    return collect(fits, tmp_path_factory.mktemp("results"), settings, TILES)


@pytest.fixture
def service(results: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    files = (path for path in results.rglob("*") if path.is_file())
    objects = {f"{FAR}/{path.relative_to(results)}": path.read_bytes() for path in files}
    with serve(objects, "spectra") as there:
        yield there


@pytest.fixture
def far(service: Service, tmp_path: Path) -> Catalog:
    return open_catalog(f"s3://spectra/{FAR}", endpoint=service.endpoint, cache=tmp_path / "kept")


def asked_for(service: Service) -> list[str]:
    """Return the requests for tiles' files."""
    return [
        asked.key
        for asked in service.asked
        if asked.key.endswith(".parquet") and "/parquet/" in asked.key
    ]


@pytest.mark.parametrize("form", ["s3", "http"])
def test_a_collection_far_away_answers_as_the_one_here(
    form: str, service: Service, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", service.endpoint)
    place = f"s3://spectra/{FAR}" if form == "s3" else f"{service.endpoint}/spectra/{FAR}/"
    there, here = open_catalog(place, cache=tmp_path), open_catalog(results)
    assert there.to_arrow() == here.to_arrow()
    some = "z > 0.3 OR spectype = 'STAR'"
    ours, theirs = here.where(some).spectra(), there.where(some).spectra()
    for name in ("wavelength", "flux", "ivar", "mask"):
        np.testing.assert_array_equal(getattr(theirs, name), getattr(ours, name))
    assert all("Authorization" not in headers for headers in service.headers)


def test_one_spectrum_costs_the_tail_and_one_range(far: Catalog, service: Service) -> None:
    tree = far._collection.tree
    assert isinstance(tree, Remote)
    targetid = int(far.to_arrow(["targetid"])["targetid"][7].as_py())
    one = far.targets(targetid)
    requests, received = tree.requests, tree.received
    service.forget()
    spectrum = one.spectra(columns=["flux", "ivar", "mask"])[0]
    files = one.to_arrow(["file", "file_size"]).to_pylist()
    assert spectrum.targetid == targetid
    assert tree.requests - requests == len(service.asked) == 2 == 2 * len(files[:1])
    size = files[0]["file_size"]
    body = service.objects[f"{FAR}/{files[0]['file']}"]
    footer = int.from_bytes(body[-8:-4], "little") + 8
    columns = ["wavelength", "flux", "ivar", "mask"]
    metadata = pq.read_metadata(pa_buffer(body))
    (span,) = merge(column_ranges(metadata, [0], columns))
    assert tree.received - received <= span[1] - span[0] + 1.3 * footer
    assert span[1] - span[0] < size - footer
    # the footer and the grid are known now: the next one of that file is one request
    service.forget()
    assert one.spectra()[0].flux.tolist() == spectrum.flux.tolist()
    assert len(service.asked) == 1


def pa_buffer(data: bytes) -> Any:
    import pyarrow as pa

    return pa.BufferReader(data)


def asked_program(far: Catalog) -> str:
    return str(far.head(1).to_arrow(["program"])["program"][0].as_py())


def test_a_footer_that_is_longer_than_the_tail_is_fetched_whole(
    far: Catalog, service: Service, monkeypatch: pytest.MonkeyPatch, results: Path
) -> None:
    monkeypatch.setattr(far._collection.tree, "_tail_bytes", 1000)
    monkeypatch.setattr("desi_fits_to_parquet.reader.remote._TAIL_SHARE", 0)
    spectra = far.head(1).spectra()
    np.testing.assert_array_equal(spectra.flux, open_catalog(results).head(1).spectra().flux)
    assert len(asked_for(service)) == 3
    service.forget()
    other = far.where("program = 'bright'" if "dark" in asked_program(far) else "program = 'dark'")
    assert other.spectra()[0].flux.any()
    assert len(asked_for(service)) == 2, "what one footer taught was forgotten"


def test_the_catalogue_is_fetched_once_and_again_where_it_has_changed(
    service: Service, tmp_path: Path
) -> None:
    def received() -> tuple[int, int]:
        catalog = open_catalog(f"{service.endpoint}/spectra/{FAR}", cache=tmp_path)
        tree = catalog._collection.tree
        assert isinstance(tree, Remote)
        return tree.received, len(catalog)

    first, n = received()
    assert first > 10_000
    assert received() == (0, n)
    key = next(key for key in service.objects if "/catalog/dataset/Norder" in key)
    table = pq.ParquetFile(pa_buffer(service.objects[key])).read()
    path = tmp_path / "other.parquet"
    pq.write_table(table.slice(0, 5), path)
    service.objects[key] = path.read_bytes()
    assert received() == (len(service.objects[key]), n - len(table) + 5)
    kept = [path.name for path in tmp_path.rglob("Npix=*.parquet")]
    assert len(kept) == 1


def test_the_cache_is_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "desi-fits-to-parquet"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache/desi-fits-to-parquet"


def test_another_process_connects_anew_and_a_forked_one_says_that_it_cannot_read(
    far: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    spectra = far.head(3).spectra()
    there = pickle.loads(pickle.dumps(spectra))  # noqa: S301  (our own)
    assert there.targetid.tolist() == spectra.targetid.tolist()
    np.testing.assert_array_equal(there.flux, spectra.flux)
    monkeypatch.setattr("os.getpid", lambda: 0)
    with pytest.raises(RuntimeError, match="multiprocessing_context='spawn'"):
        spectra.pieces(["flux"])


def test_a_file_that_was_replaced_is_not_mixed_with_the_old_one(
    far: Catalog, service: Service
) -> None:
    spectra = far.spectra()
    key = f"{FAR}/{far.to_arrow(['file'])['file'][0].as_py()}"
    body = service.objects[key]
    # another size than the catalogue says
    service.objects[key] = body + b"more"
    with pytest.raises(ValueError, match="not the file that the catalogue names: open it again"):
        spectra[0]
    # replaced by one of the same size between the footer and the spectrum
    service.objects[key] = body

    def replace(asked: Any) -> None:
        if asked.key == key and asked.stop == len(body):
            service.objects[key] = body[:-200] + bytes(100) + body[-100:]

    service.choose = replace
    with pytest.raises(ValueError, match="not the file that the catalogue names"):
        far.spectra()[0]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("gone", "the catalogue names this file, but it is not there"),
        ("whole", "does not answer requests for a range"),
        ("forbidden", "403"),
    ],
)
def test_what_the_server_does_wrong_is_said_in_a_sentence(
    fault: str, words: str, far: Catalog, service: Service
) -> None:
    service.choose = lambda asked: fault
    with pytest.raises((ConnectionError, FileNotFoundError), match=words) as caught:
        far.spectra()[0]
    assert "\n" not in str(caught.value)
    assert f"s3://spectra/{FAR}" in str(caught.value)


def test_a_failure_that_passes_is_not_noticed(far: Catalog, service: Service) -> None:
    service.choose = lambda asked: "slow_down" if asked.number == 0 else None
    assert far.spectra()[0].flux.any()


def test_a_place_that_is_no_collection_is_said_in_a_sentence(
    service: Service, tmp_path: Path
) -> None:
    def message(place: str, kind: type[Exception] = ValueError, **options: Any) -> str:
        with pytest.raises(kind) as caught:
            open_catalog(place, cache=tmp_path, **options)
        return str(caught.value)

    assert "collection.properties is missing" in message(f"{service.endpoint}/spectra/other")
    assert "no ftp://" in message("ftp://host/x")
    assert "there is no bucket" in message("s3:///x")
    assert "for s3:// alone" in message(service.endpoint, region="x")
    del service.objects[f"{FAR}/catalog/partition_info.csv"]
    assert "not whole" in message(f"{service.endpoint}/spectra/{FAR}", FileNotFoundError)
    assert "connection refused" in message(
        "s3://bucket/x", ConnectionError, endpoint="http://127.0.0.1:9"
    )
