"""A listing that is none, has no end or is not to be trusted is refused, within a bound."""

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fault_server import etag, serve

from desi_fits_to_parquet.archive import bounded, listing
from desi_fits_to_parquet.archive.credentials import TRUST, NoAccess
from desi_fits_to_parquet.archive.errors import ArchiveUnreachable, Unreachable
from desi_fits_to_parquet.archive.link import Link
from desi_fits_to_parquet.archive.listing import open_listing
from desi_fits_to_parquet.tiles_csv import Source

KEY = "dr1/spectro/redux/iron/healpix/main/dark/100/10000/coadd-main-dark-10000.fits"

OBJECT = "<Key>a</Key><Size>5</Size><ETag>&quot;e&quot;</ETag>"


def page(content: str, token: str = "") -> bytes:
    more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    return (
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<IsTruncated>{str(bool(token)).lower()}</IsTruncated>{more}{content}</ListBucketResult>"
    ).encode()


class Server:
    """A server that answers every request as a function says: status, and pieces of the body."""

    def __init__(self, answer: Callable[[str, int], tuple[int, Iterator[bytes]]]) -> None:
        self.answer = answer
        self.asked = 0
        self.sent = 0
        self.endpoint = ""


@contextmanager
def answering(answer: Callable[[str, int], tuple[int, Iterator[bytes]]]) -> Iterator[Server]:
    """Run a server; the function is given the continuation token and the number of the request."""
    server = Server(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            server.asked += 1
            token = query.get("continuation-token", [""])[0]
            status, pieces = server.answer(token, server.asked)
            if not status:  # the connection ends without an answer
                return
            self.send_response(status)
            self.end_headers()
            try:
                for piece in pieces:
                    self.wfile.write(piece)
                    server.sent += len(piece)
            except OSError:
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        server.endpoint = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()


def list_all(settings: dict[str, Any], server: Server) -> Any:
    return open_listing(settings["archive"] | {"endpoint": server.endpoint})("x/", tries=1)


def refusal(settings: dict[str, Any], server: Server) -> str:
    with pytest.raises(ArchiveUnreachable) as caught:
        list_all(settings, server)
    message = str(caught.value)
    assert server.endpoint in message
    assert "\n" not in message
    return message


def test_a_listing_is_read_page_by_page(settings: dict[str, Any]) -> None:
    bodies = {
        "": page(f"<Contents>{OBJECT}</Contents>", "next"),
        "next": page("<CommonPrefixes><Prefix>x/f/</Prefix></CommonPrefixes>"),
    }
    with answering(lambda token, _: (200, iter([bodies[token]]))) as server:
        assert list_all(settings, server) == ([Source(key="a", size=5, etag="e")], ["f"])
        assert server.asked == 2


def test_an_error_without_an_answer_is_explained(settings: dict[str, Any]) -> None:
    with answering(lambda *_: (0, iter([]))) as server:
        assert "closed" in refusal(settings, server)


@pytest.mark.parametrize(
    "entry",
    [
        "<Key>a</Key><Size>5</Size>",
        "<Key>a</Key><Size>5</Size><ETag/>",
        "<Key>a</Key><ETag>&quot;e&quot;</ETag>",
        "<Key>a</Key><Size>-5</Size><ETag>&quot;e&quot;</ETag>",
        "<Size>5</Size><ETag>&quot;e&quot;</ETag>",
    ],
    ids=["no ETag", "empty ETag", "no size", "negative size", "no key"],
)
def test_an_object_without_key_etag_or_size_is_named(settings: dict[str, Any], entry: str) -> None:
    with answering(lambda *_: (200, iter([page(f"<Contents>{entry}</Contents>")]))) as server:
        message = refusal(settings, server)
    assert "without key, ETag or size" in message
    assert ("'a'" in message) == ("<Key>" in entry)


def test_a_size_that_is_no_number_is_no_listing(settings: dict[str, Any]) -> None:
    odd = page(f"<Contents>{OBJECT.replace('5', 'five')}</Contents>")
    with answering(lambda *_: (200, iter([odd]))) as server:
        assert "not a listing of S3" in refusal(settings, server)


def test_continuation_tokens_in_a_circle_end_the_listing(settings: dict[str, Any]) -> None:
    circle = {"": "a", "a": "b", "b": "c", "c": "a"}
    with answering(lambda token, _: (200, iter([page("", circle[token])]))) as server:
        assert "without end" in refusal(settings, server)
        assert server.asked == len(circle)


@pytest.mark.parametrize("content", ["", f"<Contents>{OBJECT}</Contents>" * 100])
def test_ever_new_pages_end_the_listing_within_its_memory(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setattr(listing, "LISTING_BYTES", 1 << 20)
    with answering(lambda _, number: (200, iter([page(content, f"t{number}")]))) as server:
        assert "without end" in refusal(settings, server)
        assert 5 < server.asked <= 17


@pytest.mark.parametrize("status", [200, 403, 404, 500])
def test_an_answer_without_end_is_given_up_within_its_memory(
    settings: dict[str, Any], status: int
) -> None:
    def endless() -> Iterator[bytes]:
        yield page(f"<Contents>{OBJECT}</Contents>").removesuffix(b"</ListBucketResult>")
        while True:
            yield b" " * 65536

    with answering(lambda *_: (status, endless())) as server:
        assert "the answer does not end" in refusal(settings, server)
        assert server.asked == 1
        assert server.sent < bounded.ANSWER_BYTES + (16 << 20), "more than what sockets buffer"


def test_an_answer_that_drips_is_given_up_in_time(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "ANSWER_S", 0.2)
    over = threading.Event()

    def drip() -> Iterator[bytes]:
        while not over.wait(0.02):
            yield b" "

    begun = time.monotonic()
    with answering(lambda *_: (200, drip())) as server:
        assert "the answer does not end" in refusal(settings, server)
        over.set()
    assert time.monotonic() - begun < 5


# ------------------------------------------------------------------------- trusted certificates


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`trusted.pem`, of an authority that no machine knows, and `server.pem` for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("certificates")
    now = datetime.now(UTC)
    authority, key = (
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP256R1()),
    )
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority of a test")])
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server of a test")])
    for name, owner, public, extension in (
        ("trusted.pem", issuer, authority.public_key(), x509.BasicConstraints(True, None)),
        ("server.pem", subject, key.public_key(),
         x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])),
    ):  # fmt: skip
        certificate = (
            x509.CertificateBuilder(issuer, owner, public, x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(extension, critical=False)
            .sign(authority, hashes.SHA256())
        )
        (folder / name).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    with (folder / "server.pem").open("ab") as stream:
        stream.write(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
    return folder


@pytest.fixture
def secure(certificates: Path, settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Section `archive` of a service over TLS whose certificate the machine does not trust."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem")
    with serve({KEY: b"data"}, context=context) as service:
        yield settings["archive"] | {"endpoint": service.endpoint}


def read_both_ways(archive: dict[str, Any], settings: dict[str, Any]) -> tuple[str, str]:
    """List a folder and read an object: `read`, or why not."""
    transfer = settings["transfer"] | {"attempts": 1, "timeout_s": 5}
    source = Source(key=KEY, size=4, etag=etag(b"data"))
    told = ["read", "read"]
    try:
        assert open_listing(archive)(KEY, tries=1)[0] == [source]
    except ArchiveUnreachable as error:
        told[0] = str(error)
    try:
        with Link(archive, transfer) as link:
            assert bytes(link.fetch(source, 0, 4)) == b"data"
    except (Unreachable, NoAccess) as error:
        told[1] = str(error)
    return told[0], told[1]


def test_http_and_https_mixed_up_are_told_by_both_clients(
    secure: dict[str, Any], settings: dict[str, Any]
) -> None:
    plain = secure | {"endpoint": secure["endpoint"].replace("https:", "http:")}
    listed, read = read_both_ways(plain, settings)
    assert "needs an archive.endpoint that begins with https" in listed
    assert "tries failed" in read
    with serve({KEY: b"data"}) as service:
        endpoint = service.endpoint.replace("http:", "https:")
        listed, read = read_both_ways(settings["archive"] | {"endpoint": endpoint}, settings)
    assert "it seems to speak http, not https: see archive.endpoint" in listed
    assert "tries failed" in read


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file of trusted certificates is named, and what is named in a test is forgotten after."""
    for name in TRUST:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_a_certificate_that_the_machine_does_not_trust_is_refused_by_both_clients(
    secure: dict[str, Any], settings: dict[str, Any]
) -> None:
    listed, fetched = read_both_ways(secure, settings)
    assert "certificate verify failed" in listed
    assert "the certificate of the server is not trusted" in fetched


@pytest.mark.parametrize("name", TRUST)
def test_both_clients_trust_the_file_that_the_environment_names(
    secure: dict[str, Any], settings: dict[str, Any], certificates: Path, name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv(name, str(certificates / "trusted.pem"))
    assert read_both_ways(secure, settings) == ("read", "read")


def test_of_two_files_both_clients_trust_that_of_aws(
    secure: dict[str, Any], settings: dict[str, Any], certificates: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificates / "trusted.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "server.pem"))
    assert read_both_ways(secure, settings) == ("read", "read")


@pytest.mark.parametrize("name", TRUST)
def test_a_file_of_certificates_that_is_not_there_is_named_by_both_clients(
    settings: dict[str, Any], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, str(tmp_path / "nowhere.pem"))
    for told in read_both_ways(settings["archive"], settings):
        assert told == f"{name} names the file {tmp_path}/nowhere.pem, which is not there"
