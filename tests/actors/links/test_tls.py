"""TLS of links: who has the secret, or a certificate of the files' authority, links; nobody else gets a word in."""

from __future__ import annotations

import asyncio
import datetime
import logging
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from tests.links import FakeHost
from tests.raw import PATIENCE, until
from verani.errors import SettingsError
from verani.link.messages import PROTOCOL_VERSIONS, Hello, decode_hello, encode_message
from verani.settings import Settings
from verani_actors.links.link_server import LinkServer
from verani_actors.links.tls import client_context, server_context

# asyncio's TLS and aiohttp's HTTP hold each other when a handshake has failed.
UNJUDGED = "a handshake of TLS that fails leaves cycles of the standard library"

SECRET = b"a secret of the whole cluster"

Listen = Callable[..., Awaitable[LinkServer]]


@pytest.fixture
async def listen(tmp_path: Path) -> AsyncIterator[Listen]:
    servers: list[LinkServer] = []

    async def listen(settings: Settings | None = None, secret: bytes = SECRET) -> LinkServer:
        server = LinkServer(
            FakeHost(),
            "m-0",
            "h1",
            grace=PATIENCE,
            serves=lambda: True,
            ask=lambda gateway, ask: None,
            told=lambda gateway, told: None,
        )
        context = server_context(settings or Settings(), secret, refusals=server.refusals)
        await server.start(str(tmp_path / f"{len(servers)}.sock"), ("127.0.0.1", 0), context)
        servers.append(server)
        return server

    yield listen
    for server in servers:
        await server.stop()


async def link(server: LinkServer, context: ssl.SSLContext | None) -> Hello:
    scheme = "ws" if context is None else "wss"
    connector = aiohttp.TCPConnector(ssl=context if context is not None else True)
    async with (
        asyncio.timeout(PATIENCE),
        aiohttp.ClientSession(connector=connector) as session,
        session.ws_connect(f"{scheme}://127.0.0.1:{server.port}/link") as ws,
    ):
        await ws.send_bytes(encode_message(Hello(PROTOCOL_VERSIONS, "test", "g", "g1")))
        return decode_hello(await ws.receive_bytes())


def bare(**options: Any) -> ssl.SSLContext:
    """Make the context of a client that looks at nothing."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for name, value in options.items():
        setattr(context, name, value)
    return context


def unlooking(context: ssl.SSLContext) -> ssl.SSLContext:
    """Have a client show what it has, and link with whoever it meets."""
    context.verify_mode = ssl.CERT_NONE
    return context


async def test_who_has_the_secret_links(listen: Listen) -> None:
    server = await listen()
    assert (await link(server, client_context(Settings(), SECRET))).sender == "m-0"
    assert not server.refusals.counts


@pytest.mark.parametrize(
    "context",
    [
        pytest.param(lambda: unlooking(client_context(Settings(), b"another secret")), id="wrong secret"),
        pytest.param(bare, id="no certificate"),
        pytest.param(lambda: bare(maximum_version=ssl.TLSVersion.TLSv1_2), id="TLS 1.2"),
        pytest.param(lambda: None, id="no TLS"),
    ],
)
async def test_nobody_else_gets_a_word_in_and_it_is_counted_and_logged_once(
    listen: Listen, caplog: pytest.LogCaptureFixture, context: Callable[[], ssl.SSLContext | None]
) -> None:
    server = await listen()
    with caplog.at_level(logging.WARNING):
        for attempt in range(1, 4):
            with pytest.raises((aiohttp.ClientError, OSError, TypeError)):
                await link(server, context())
            await until(partial(_has_refused, server, attempt))
    assert server.sessions.states() == []
    assert len(caplog.records) == 1
    assert (await link(server, client_context(Settings(), SECRET))).sender == "m-0"


def _has_refused(server: LinkServer, times: int) -> bool:
    return server.refusals.counts["the TLS handshake failed"] >= times  # aiohttp tries some again by itself


async def test_a_gateway_looks_at_the_certificate_of_the_host_as_well(listen: Listen) -> None:
    impostor = await listen(secret=b"another secret")
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        await link(impostor, client_context(Settings(), SECRET))


def test_the_secret_makes_the_same_authority_everywhere_and_every_process_its_own_certificate() -> None:
    one, two = client_context(Settings(), SECRET), server_context(Settings(), SECRET)
    assert one.get_ca_certs(binary_form=True) == two.get_ca_certs(binary_form=True)
    assert one.get_ca_certs(binary_form=True) != client_context(Settings(), b"other").get_ca_certs(binary_form=True)
    (authority,) = one.get_ca_certs()
    assert (authority["notBefore"], authority["notAfter"]) == ("Jan  1 00:00:00 1970 GMT", "Dec 31 23:59:59 9999 GMT")


def test_links_between_machines_need_something_to_trust() -> None:
    with pytest.raises(SettingsError, match="need the cluster secret"):
        client_context(Settings(), b"")


def test_without_cryptography_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(SettingsError, match="pip install cryptography"):
        client_context(Settings(), SECRET)


# --- files ---------------------------------------------------------------------------------------------------


class Authority:
    """An authority of its own, as a company's."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self.key = generate_private_key(SECP256R1())
        self.path = self._write(f"{name}.pem", self.sign("authority", self.key, is_authority=True))

    def sign(self, name: str, key: EllipticCurvePrivateKey, *, is_authority: bool = False) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)]))
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name if is_authority else name)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
            .sign(self.key, SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)

    def settings(self, name: str, *, password: bytes | None = None) -> Settings:
        """Give a process a certificate and its key."""
        key = generate_private_key(SECP256R1())
        hidden = serialization.NoEncryption() if password is None else serialization.BestAvailableEncryption(password)
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)
        return Settings(
            link_cert=self._write(f"{name}.crt", self.sign(name, key)),
            link_key=self._write(f"{name}.key", private),
            link_ca=self.path,
        )

    def _write(self, name: str, content: bytes) -> str:
        path = self.folder / name
        path.write_bytes(content)
        return str(path)


async def test_certificates_of_files_link_whatever_the_secret(listen: Listen, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "company")
    server = await listen(authority.settings("host"), b"")
    assert (await link(server, client_context(authority.settings("gateway"), b""))).sender == "m-0"


async def test_a_certificate_of_another_authority_does_not_link(listen: Listen, tmp_path: Path) -> None:
    server = await listen(Authority(tmp_path, "company").settings("host"))
    for settings in (Authority(tmp_path, "stranger").settings("gateway"), Settings()):
        with pytest.raises((aiohttp.ClientError, OSError, TypeError)):
            await link(server, unlooking(client_context(settings, SECRET)))
    await until(partial(_has_refused, server, 2))
    assert server.sessions.states() == []


@pytest.mark.parametrize("left_out", ["link_cert", "link_key", "link_ca"])
def test_files_are_set_all_three_or_not_at_all(tmp_path: Path, left_out: str) -> None:
    files: dict[str, Any] = {
        name: str(tmp_path / name) for name in ("link_cert", "link_key", "link_ca") if name != left_out
    }
    with pytest.raises(SettingsError, match="all three or not at all"):
        server_context(Settings(**files), SECRET)


def test_files_that_cannot_be_used_are_an_error_of_the_settings(tmp_path: Path) -> None:
    settings = Authority(tmp_path, "company").settings("host", password=b"hidden")
    with pytest.raises(SettingsError, match="cannot be used"):
        server_context(settings, SECRET)
    nowhere = str(tmp_path / "nowhere")
    with pytest.raises(SettingsError, match="cannot be used"):
        client_context(Settings(link_cert=nowhere, link_key=nowhere, link_ca=nowhere), SECRET)
