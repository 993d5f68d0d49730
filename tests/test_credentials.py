"""Requests are unsigned unless a profile is configured; its secrets are written nowhere."""

import copy
import json
import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY
from fault_server import Service, serve
from running import checkout
from simulated_archive import list_sources, simulate_objects

from desi_fits_to_parquet.archive.credentials import NoAccess
from desi_fits_to_parquet.archive.errors import ArchiveUnreachable, Unreachable
from desi_fits_to_parquet.archive.link import Link
from desi_fits_to_parquet.config import ConfigError, load_config
from desi_fits_to_parquet.discover import probe_archive
from desi_fits_to_parquet.download.tile import download_tile
from desi_fits_to_parquet.tile import Tile

TILE = Tile("main", "dark", 10000)

KEY_ID = "AKIAPROFILEKEYID0000"
SECRET = "profile-secret-of-the-test"  # noqa: S105  (made up)
TOKEN = "profile-token-of-the-test"  # noqa: S105  (made up)
POISON = "poison"

ENVIRONMENT = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_MAX_ATTEMPTS",
    "AWS_RETRY_MODE",
    "AWS_DEFAULTS_MODE",
    "AWS_BUCKET",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_SKIP_SIGNATURE",
    "AWS_USE_FIPS_ENDPOINT",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
]
MORE = ["AWS_REQUEST_PAYER", "AWS_S3_EXPRESS", "AWS_CHECKSUM_ALGORITHM", "AWS_PROXY_URL"]
"""Variables that obstore alone knows."""


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("archive")
    return simulate_objects(TILE, folder, 4, quasar_share=0.5, scan_step=100)


@pytest.fixture
def service(objects: dict[str, bytes]) -> Iterator[Service]:
    with serve(dict(objects)) as running:
        yield running


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of AWS with one profile that has keys and one that has none."""
    (tmp_path / "credentials").write_text(
        f"[desi]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET}\n"
        f"aws_session_token = {TOKEN}\n"
    )
    (tmp_path / "config").write_text(
        "[profile desi]\nendpoint_url = http://127.0.0.1:9\nregion = nowhere-1\n[profile empty]\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path


def reach(settings: dict[str, Any], service: Service, folder: Path, profile: str | None) -> Any:
    changed = copy.deepcopy(settings)
    changed["archive"] |= {"endpoint": service.endpoint, "profile": profile}
    changed["transfer"] |= {"attempts": 2, "timeout_s": 5}
    probe_archive(changed["archive"])
    return download_tile(TILE, list_sources(TILE, service.objects), changed, folder)


def sent(service: Service) -> str:
    return json.dumps(service.headers)


def test_without_a_profile_no_credentials_are_read_and_none_are_sent(
    settings: dict[str, Any], service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".aws").mkdir()
    for name in ("config", "credentials"):
        (tmp_path / ".aws" / name).write_text(f"[default\n{POISON} = [no file of AWS\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, POISON)
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    record = reach(settings, service, tmp_path / "fits", None)
    assert record["outcome"] is None, record["reason"]
    assert "authorization" not in sent(service).lower()
    assert "x-amz-security-token" not in sent(service).lower()
    assert POISON not in sent(service)
    assert {asked.kind for asked in service.asked} >= {"list", "coadd", "redrock"}


def test_an_endpoint_of_the_environment_does_not_lead_away_from_the_archive(
    settings: dict[str, Any], service: Service, objects: dict[str, bytes], monkeypatch: Any
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"):
        monkeypatch.setenv(name, service.endpoint)
    archive = settings["archive"] | {"region": "no-region"}  # no such host, so no network is used
    source = list_sources(TILE, objects)["redrock"]
    transfer = settings["transfer"] | {"attempts": 1, "timeout_s": 3}
    with Link(archive, transfer) as link, pytest.raises(Unreachable):
        link.fetch(source, 0, 10)
    with pytest.raises(ArchiveUnreachable):
        probe_archive(archive)
    assert service.asked == []


def test_with_a_profile_every_request_is_signed_with_its_keys_and_no_others(
    settings: dict[str, Any], service: Service, tmp_path: Path, profiles: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, POISON)
    record = reach(settings, service, tmp_path / "fits", "desi")
    assert record["outcome"] is None, record["reason"]
    headers = [{k.lower(): v for k, v in h.items()} for h in service.headers]
    assert len(headers) > 5
    for header in headers:
        assert f"Credential={KEY_ID}/" in header["authorization"]
        assert header["x-amz-security-token"] == TOKEN
    assert SECRET not in sent(service)
    assert POISON not in sent(service)


@pytest.mark.parametrize("profile", ["no-such-profile", "empty"])
def test_a_profile_without_keys_stops_with_its_name_before_any_request(
    settings: dict[str, Any], service: Service, tmp_path: Path, profiles: Path, profile: str
) -> None:
    with pytest.raises(ArchiveUnreachable, match=f"archive.profile.*{profile}"):
        reach(settings, service, tmp_path / "fits", profile)
    archive = settings["archive"] | {"endpoint": service.endpoint, "profile": profile}
    with pytest.raises(NoAccess, match=f"archive.profile.*{profile}"):
        Link(archive, settings["transfer"])
    assert service.asked == []


def test_an_answer_that_repeats_keys_and_tokens_is_not_repeated_in_the_record(
    settings: dict[str, Any], service: Service, tmp_path: Path, profiles: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO, "desi_fits_to_parquet")
    service.error_text = f"<Token-0>{TOKEN}</Token-0><AWSAccessKeyId>{KEY_ID}</AWSAccessKeyId>"
    service.choose = lambda asked: None if asked.kind == "list" else "forbidden"
    record = reach(settings, service, tmp_path / "fits", "desi")
    assert record["outcome"] == "unreachable"
    assert "403" in record["reason"]
    for secret in (TOKEN, KEY_ID, SECRET):
        assert secret not in json.dumps(record) + caplog.text


def test_a_user_in_the_endpoint_is_refused_because_it_would_be_logged(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("archive: {endpoint: 'http://me:password@localhost'}")
    with pytest.raises(ConfigError, match=r"archive\.endpoint"):
        load_config(REPOSITORY / "config/schema.yaml", path)


def test_a_run_with_a_profile_leaves_its_secrets_nowhere_and_its_name_changes_no_tile(
    service: Service, tmp_path: Path, profiles: Path
) -> None:
    work = checkout(tmp_path / "checkout")
    command = work.command(service.endpoint)
    archive = f"archive={{endpoint: '{service.endpoint}'}}"
    signed = [a.replace("'}", "', profile: desi}") if a == archive else a for a in command]
    done = subprocess.run(signed, cwd=work.folder, text=True, capture_output=True, timeout=120,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {marker["outcome"] for marker in work.markers().values()} == {"converted"}
    assert all("Authorization" in h or "authorization" in h for h in service.headers)
    secrets = [SECRET.encode(), TOKEN.encode(), KEY_ID.encode()]
    for path in work.folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [secret for secret in secrets if secret in content], path
    for secret in (SECRET, TOKEN, KEY_ID):
        assert secret not in done.stdout + done.stderr
    assert "Nothing to be done" in work.run(service.endpoint)


def test_a_run_over_a_poisoned_environment_is_unsigned_and_the_same(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = checkout(tmp_path / "checkout")
    for name in [*ENVIRONMENT, *MORE, "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"]:
        monkeypatch.setenv(name, POISON)
    work.run(service.endpoint, "tiles")
    assert {marker["outcome"] for marker in work.markers().values()} == {"converted"}
    assert "authorization" not in sent(service).lower()
    assert POISON not in sent(service)
