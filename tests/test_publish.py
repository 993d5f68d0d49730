"""The collection in a bucket: what is sent, what is checked, who can read it."""

import hashlib
import runpy
import subprocess
import sys
from ast import literal_eval
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace
from typing import Any

import boto3
import duckdb
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from conftest import REPOSITORY
from fusion_tiles import changed
from reader_trees import collect, simulate

from desi_fits_to_parquet import open_catalog
from desi_fits_to_parquet.config import load_config
from desi_fits_to_parquet.publish import copy
from desi_fits_to_parquet.publish.copy import Published, PublishError, publish
from desi_fits_to_parquet.simulate.serve import serve_archive
from desi_fits_to_parquet.tile import Tile
from desi_fits_to_parquet.tiles_csv import write_tiles

TILES = (Tile("main", "dark", 10000), Tile("main", "bright", 10000))

BUCKET, PREFIX = "spectra", "desi/dr1"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings: Any = changed(
        load_config(REPOSITORY / "config/schema.yaml"),
        selection={"spectypes": ["QSO", "GALAXY", "STAR"], "zwarn": None},
    )
    fits = simulate(tmp_path_factory.mktemp("fits"), TILES)
    results = collect(fits, tmp_path_factory.mktemp("results"), settings, TILES)
    write_tiles(results / "tiles.csv", {tile: {} for tile in TILES})
    return results


@pytest.fixture
def results(original: Path, tmp_path: Path) -> Path:
    return copytree(original, tmp_path / "results")


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve_archive(tmp_path_factory.mktemp("empty"), BUCKET) as address:
        yield address


@pytest.fixture
def bucket(endpoint: str) -> Any:
    """The bucket, empty."""
    there = boto3.resource(
        "s3", endpoint_url=endpoint, region_name="us-west-2", aws_access_key_id="K",
        aws_secret_access_key="S",  # noqa: S106  (made up)
    ).Bucket(BUCKET)  # fmt: skip
    there.objects.delete()
    return there


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "credentials"
    path.write_text("[keeper]\naws_access_key_id = K\naws_secret_access_key = S\n[empty]\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))


def send(results: Path, endpoint: str, place: str = f"s3://{BUCKET}/{PREFIX}", **more: Any) -> Any:
    return publish(results, place, endpoint=endpoint, **{"profile": "keeper", **more})


def held(bucket: Any) -> dict[str, bytes]:
    return {
        entry.key.removeprefix(f"{PREFIX}/"): entry.get()["Body"].read()
        for entry in bucket.objects.all()
    }


def test_the_published_copy_is_whole_and_opens_unsigned(
    results: Path, bucket: Any, endpoint: str, tmp_path: Path
) -> None:
    done = send(results, endpoint)
    there = held(bucket)
    assert (done.sent, done.unchanged, done.removed) == (len(there), 0, 0)
    sums = dict(
        reversed(line.split("  ")) for line in there["checksums.sha256"].decode().split("\n")[:-1]
    )
    assert sums.keys() == there.keys() - {"checksums.sha256"}
    assert all(hashlib.sha256(there[name]).hexdigest() == sum for name, sum in sums.items())
    copied = [name for name in sums if name != "README.md"]
    assert all(there[name] == (results / name).read_bytes() for name in copied)
    assert not [name for name in there if Path(name).name.startswith(".")]
    for entry in bucket.objects.all():  # as a bucket is made public; otherwise the service refuses
        entry.Acl().put(ACL="public-read")
    far = open_catalog(f"s3://{BUCKET}/{PREFIX}", endpoint=endpoint, cache=tmp_path / "kept")
    near = open_catalog(results)
    assert far.to_arrow() == near.to_arrow()
    np.testing.assert_array_equal(far.head(3).spectra().flux, near.head(3).spectra().flux)


@pytest.mark.lsdb
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_lsdb_opens_the_published_copy_unsigned(results: Path, bucket: Any, endpoint: str) -> None:
    import dask
    import lsdb
    from obstore.fsspec import register
    from upath import UPath

    dask.config.set(scheduler="synchronous")
    send(results, endpoint)
    for entry in bucket.objects.all():
        entry.Acl().put(ACL="public-read")
    register("s3")
    options: Any = {"allow_http": True}
    place = UPath(
        f"s3://{BUCKET}/{PREFIX}", skip_signature=True, region="us-west-2", endpoint=endpoint,
        client_options=options,
    )  # fmt: skip
    expected = sorted(open_catalog(results).to_arrow()["targetid"].to_pylist())
    frame = lsdb.open_catalog(place).compute()
    assert sorted(frame["targetid"]) == expected
    spectra = lsdb.open_catalog(place / "parquet/main-dark", columns=["targetid", "flux"]).compute()
    assert len(spectra) == (frame["program"] == "dark").sum()
    assert len(spectra["flux"].iloc[0]) == 7751
    # over HTTP the catalogue alone: of the spectra LSDB wants a listing, which HTTP has not
    catalog = lsdb.open_catalog(f"{endpoint}/{BUCKET}/{PREFIX}")
    row = frame.iloc[0]
    near = catalog.cone_search(row["target_ra"], row["target_dec"], radius_arcsec=10).compute()
    assert row["targetid"] in set(near["targetid"])


HTTPFS_PYTHON = Path(sys.prefix, "httpfs/bin/python")

BY_HTTPFS = """
import sys
from pathlib import Path
import duckdb
import duckdb_extension_httpfs
place, endpoint, query = sys.argv[1:]
database = duckdb.connect(config={"autoinstall_known_extensions": "false"})
wheel = Path(duckdb_extension_httpfs.__file__).parent
database.execute(f"LOAD '{next(wheel.rglob('httpfs.duckdb_extension'))}'")
database.execute(
    f"CREATE SECRET (TYPE s3, PROVIDER config, REGION 'us-west-2', URL_STYLE path, USE_SSL false,"
    f" ENDPOINT '{endpoint.partition('//')[2]}')"
)
print(database.sql(query.format(place=place)).fetchall())
"""


@pytest.mark.skipif(not HTTPFS_PYTHON.exists(), reason="`make test-httpfs` makes its environment")
def test_duckdb_alone_reads_the_published_copy_with_httpfs_from_pypi(
    results: Path, bucket: Any, endpoint: str, tmp_path: Path
) -> None:
    send(results, endpoint)
    for entry in bucket.objects.all():
        entry.Acl().put(ACL="public-read")

    def ask(place: str, query: str) -> Any:
        command = [HTTPFS_PYTHON, "-I", "-c", BY_HTTPFS, place, endpoint, query]
        # a home without extensions, and no variable that could name a place for them
        printed = subprocess.check_output(command, text=True, env={"HOME": str(tmp_path)})
        return literal_eval(printed)

    table = open_catalog(results).to_arrow(["targetid", "file", "z"])
    glob = "SELECT targetid, file, z FROM '{place}/catalog/dataset/**/*.parquet'"
    assert sorted(ask(f"s3://{BUCKET}/{PREFIX}", glob)) == sorted(
        (row["targetid"], row["file"], row["z"]) for row in table.to_pylist()
    )
    target, file = table["targetid"][0].as_py(), table["file"][0].as_py()
    one = f"SELECT len(flux) FROM '{{place}}/{file}' WHERE targetid = {target}"  # noqa: S608  (our own words)
    assert ask(f"s3://{BUCKET}/{PREFIX}", one) == [(7751,)]
    assert ask(f"{endpoint}/{BUCKET}/{PREFIX}", one) == [(7751,)]


def test_duckdb_reads_named_files_of_the_published_copy_through_obstore(
    results: Path, bucket: Any, endpoint: str
) -> None:
    pytest.importorskip("fsspec", reason="`make test-lsdb` and `make test-torch` install fsspec")
    from obstore.fsspec import FsspecStore

    send(results, endpoint)
    for entry in bucket.objects.all():
        entry.Acl().put(ACL="public-read")
    options: Any = {"allow_http": True}
    store = FsspecStore(
        "s3", skip_signature=True, region="us-west-2", endpoint=endpoint, client_options=options
    )
    database = duckdb.connect()
    database.register_filesystem(store)
    near = open_catalog(results).to_arrow(["targetid", "file"])
    for file in set(near["file"].to_pylist()):
        query = f"SELECT targetid, len(flux) FROM 's3://{BUCKET}/{PREFIX}/{file}'"  # noqa: S608  (ours)
        found = database.sql(query).fetchall()
        expected = near.filter(pc.field("file") == file)["targetid"].to_pylist()
        assert sorted(found) == sorted((target, 7751) for target in expected)


def test_only_what_has_changed_is_sent_and_what_is_gone_is_removed(
    results: Path, bucket: Any, endpoint: str
) -> None:
    first = send(results, endpoint)
    bucket.put_object(Key=f"{PREFIX}/catalog/theirs", Body=b"of somebody else")
    assert send(results, endpoint) == Published(0, first.sent, 0, 0)
    (results / "catalog_targetid/dataset/added").write_bytes(b"1")
    again = send(results, endpoint)
    # the file, the manifest that names it, and the collection's own file, which comes last
    assert (again.sent, again.removed) == (3, 0)
    assert "catalog_targetid/dataset/added" in held(bucket)
    (results / "catalog_targetid/dataset/added").unlink()
    assert send(results, endpoint)[:3] == (2, first.sent - 2, 1)
    there = held(bucket)
    assert "catalog_targetid/dataset/added" not in there
    assert there["catalog/theirs"] == b"of somebody else"


def test_who_was_interrupted_goes_on_and_no_reader_finds_half_of_it(
    results: Path, bucket: Any, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = send(results, endpoint)
    bucket.objects.filter(Prefix=f"{PREFIX}/parquet").delete()
    put = copy._There.send

    def fail(self: Any, name: str, file: Any) -> None:
        if "bright" in name:
            raise PublishError("the network is gone")
        put(self, name, file)

    with monkeypatch.context() as patch:
        patch.setattr(copy._There, "send", fail)
        with pytest.raises(PublishError, match="the network is gone"):
            send(results, endpoint)
    there = held(bucket)
    assert "collection.properties" not in there
    done = send(results, endpoint)
    assert 0 < done.sent < whole.sent
    assert done.sent == whole.sent - len(there)
    assert len(held(bucket)) == whole.sent


def test_etags_that_are_no_md5_are_known_by_the_sums_that_were_sent_along(
    results: Path, bucket: Any, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = send(results, endpoint)
    listed = copy._There.listed
    monkeypatch.setattr(
        copy._There,
        "listed",
        lambda self: {name: (size, "0" * 32) for name, (size, _) in listed(self).items()},
    )
    assert send(results, endpoint).unchanged == first.sent


def test_a_file_that_is_not_as_it_was_validated_is_not_published(
    results: Path, bucket: Any, endpoint: str
) -> None:
    path = next((results / "parquet").rglob("Npix=*/*.parquet"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(PublishError, match=r"is not what was validated.*snakemake verify"):
        send(results, endpoint)
    path.unlink()
    with pytest.raises(PublishError, match="is not what was validated"):
        send(results, endpoint)
    assert held(bucket) == {}


def test_what_somebody_else_writes_meanwhile_is_noticed(
    results: Path, bucket: Any, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = copy._in_threads

    def meddle(call: Any, names: Any) -> None:
        remove(call, names)
        bucket.put_object(Key=f"{PREFIX}/catalog/hats.properties", Body=b"x")

    monkeypatch.setattr(copy, "_in_threads", meddle)
    with pytest.raises(PublishError, match=r"catalog/hats.properties is not in the bucket as it"):
        send(results, endpoint)
    assert "collection.properties" not in held(bucket)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"profile": None},
            "publish.profile names no AWS profile: to write to a bucket takes keys",
        ),
        ({"profile": "nobody"}, "publish.profile: ProfileNotFound, nobody"),
        ({"profile": "empty"}, "publish.profile: the AWS profile empty holds no keys"),
        ({"place": "s3://no-such-bucket/x"}, "there is no bucket no-such-bucket; make it first"),
        ({"place": "https://example.org/x"}, "it is s3://bucket/prefix"),
        ({"endpoint": "http://127.0.0.1:9"}, "Could not connect"),
    ],
)
def test_what_keeps_it_from_being_published_is_said_in_a_sentence(
    original: Path, bucket: Any, endpoint: str, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(PublishError) as caught:
        send(original, **{"endpoint": endpoint, **arguments})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert held(bucket) == {}


def test_results_of_a_run_that_has_not_ended_are_not_published(tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="let the run end first"):
        send(tmp_path, "http://127.0.0.1:9")


def test_the_card_tells_of_fields_sources_licence_and_paper(
    results: Path, bucket: Any, endpoint: str
) -> None:
    send(results, endpoint)
    card = held(bucket)["README.md"].decode()
    path = next((results / "parquet").rglob("Npix=*/*.parquet"))
    for field in pq.read_schema(path):
        row = next(line for line in card.split("\n") if line.startswith(f"| `{field.name}` |"))
        assert (field.metadata or {}).get(b"description", b"").decode() in row
        assert (field.metadata or {}).get(b"unit", b"").decode() in row
    for words in (
        "license: cc-by-4.0",
        "CC BY 4.0",
        "2503.14745",
        "`is_primary`",
        f'open_catalog("s3://{BUCKET}/{PREFIX}", region="us-west-2", endpoint="{endpoint}")',
        "config_name: main-bright",
        "SPECPROD iron",
        '"flux_tolerance": 0.125',
        f"{len(open_catalog(results)):,} spectra of main-bright, main-dark",
    ):
        assert words in card, words


def test_the_target_publishes_or_says_why_not(
    results: Path, bucket: Any, endpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(**settings: str) -> str:
        given = {"destination": None, "endpoint": endpoint, "region": "us-west-2", "profile": None}
        config = {"results": str(results), "publish": given | settings}
        told = SimpleNamespace(config=config, log=[str(tmp_path / "publish.log")])
        runpy.run_path(str(REPOSITORY / "scripts/publish.py"), {"snakemake": told})
        return capsys.readouterr().err

    place = f"s3://{BUCKET}/{PREFIX}"
    assert f"sent to {place}, 0 were there already" in run(destination=place, profile="keeper")
    assert f"publish: 0 files (0.0 MB) sent to {place}" in run(destination=place, profile="keeper")
    for settings, words in (
        ({}, "say where to"),
        ({"destination": place}, "publish.profile names no AWS profile"),
    ):
        with pytest.raises(SystemExit):
            run(**settings)
        assert words in capsys.readouterr().err
