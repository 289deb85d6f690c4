"""The samples for nginx and Caddy carry WebSockets to a real `verani serve`, and hide what they should."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
import tempfile
from asyncio.subprocess import DEVNULL, STDOUT, Process, create_subprocess_exec
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.deploy.files import DEPLOY, Tool, changed, check
from tests.ports import free_port

if TYPE_CHECKING:
    from tests.integration.conftest import Serve, Server

PATIENCE = 30

# What a client's address is in these tests: the proxy itself has 127.0.0.1, which Verani trusts.
CLIENT = "127.0.0.2"


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """Write a certificate for 127.0.0.1, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate, private = directory / "certificate.pem", directory / "key.pem"
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, private


def nginx_files(directory: Path, port: int, upstream: str) -> list[str | Path]:
    """Write the sample with this machine's ports and paths into a configuration; return the arguments for it."""
    certificate, key = make_certificate(directory)
    sample = changed(
        DEPLOY / "nginx" / "verani.conf",
        {
            "server 127.0.0.1:8000;": f"server {upstream};",
            "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
            "    listen [::]:443 ssl;\n": "",
            "/etc/ssl/chat.example.com/fullchain.pem": str(certificate),
            "/etc/ssl/chat.example.com/privkey.pem": str(key),
            "/var/log/nginx": str(directory),
        },
    )
    if upstream.startswith("unix:"):  # as the guide says
        sample = sample.replace("verani-error.log crit;", "verani-error.log alert;")
    (directory / "verani.conf").write_text(sample)
    buffers = "".join(
        f"  {kind}_temp_path {directory}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (directory / "nginx.conf").write_text(
        f"daemon off;\npid {directory}/nginx.pid;\nevents {{}}\n"
        f"http {{\n{buffers}  include {directory}/verani.conf;\n}}\n"
    )
    return ["-e", directory / "nginx-error.log", "-c", directory / "nginx.conf"]


def caddy_file(directory: Path, port: int, upstream: str) -> list[str | Path]:
    """Write the sample with this machine's ports and paths; return the arguments for it."""
    certificate, key = make_certificate(directory)
    sample = changed(
        DEPLOY / "caddy" / "Caddyfile",
        {
            # HTTP/3 would need the UDP port of the same number, which nobody has looked for.
            "{\n\t# What Caddy logs": "{\n\tadmin off\n\tauto_https disable_redirects\n"
            "\tservers {\n\t\tprotocols h1 h2\n\t}\n\t# What Caddy logs",
            "chat.example.com {": f"https://127.0.0.1:{port} {{\n\tbind 127.0.0.1\n\ttls {certificate} {key}",
            "reverse_proxy 127.0.0.1:8000 ": f"reverse_proxy {upstream} ",
        },
    )
    (directory / "Caddyfile").write_text(sample)
    return ["--adapter", "caddyfile", "--config", directory / "Caddyfile"]


def test_nginx_takes_the_sample(tool: Tool, tmp_path: Path) -> None:
    nginx = tool("nginx", package="Debian's nginx-light")
    output = check(nginx, "-t", *nginx_files(tmp_path, free_port(), "127.0.0.1:8000"))
    assert "warn" not in output


def test_caddy_takes_the_sample_as_it_is(tool: Tool) -> None:
    caddy = tool("caddy", package="Debian's caddy")
    file = DEPLOY / "caddy" / "Caddyfile"
    assert "Valid configuration" in check(caddy, "validate", "--adapter", "caddyfile", "--config", file)
    assert check(caddy, "fmt", file) == file.read_text()


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy in front of a service."""

    server: Server
    port: int
    directory: Path
    tls: ssl.SSLContext

    @property
    def origin(self) -> str:
        """What a browser calls this place."""
        return f"https://127.0.0.1:{self.port}"

    def session(self) -> aiohttp.ClientSession:
        """Make a session of a client whose address is not the proxy's."""
        connector = aiohttp.TCPConnector(ssl=self.tls, local_addr=(CLIENT, 0))
        return aiohttp.ClientSession(self.origin, connector=connector)


async def listening(port: int, process: Process) -> None:
    """Wait until something accepts connections on a port."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                assert process.returncode is None, "the proxy ended"
                await asyncio.sleep(0.01)
            else:
                writer.close()
                await writer.wait_closed()
                return


@pytest.fixture(params=["nginx", "caddy", "nginx and a Unix socket", "caddy and a Unix socket"])
async def proxy(request: pytest.FixtureRequest, tool: Tool, serve: Serve, tmp_path: Path) -> AsyncIterator[Proxy]:
    port = free_port()
    name, _, has_socket = request.param.partition(" and ")
    program = tool(name, package={"nginx": "Debian's nginx-light", "caddy": "Debian's caddy"}[name])
    words = ["--trusted-proxies", "unix" if has_socket else "127.0.0.1", "--max-connections-per-address", "1"]
    with tempfile.TemporaryDirectory() as short:  # the path of a socket has 107 bytes
        path = f"{short}/web.sock"
        server = await serve("examples.chat:app", *words, *(["--unix-socket", path] if has_socket else []))
        if has_socket:
            _let_everybody_connect(Path(path))
        where = {"nginx": f"unix:{path}", "caddy": f"unix/{path}"}[name] if has_socket else f"127.0.0.1:{server.port}"
        arguments: list[Any] = (
            nginx_files(tmp_path, port, where) if name == "nginx" else ["run", *caddy_file(tmp_path, port, where)]
        )
        async for each in _running(program, arguments, server, port, tmp_path):
            yield each


def _let_everybody_connect(path: Path) -> None:
    """Let in who is another user than the service, as nginx is."""
    path.parent.chmod(0o711)
    path.chmod(0o777)


async def _running(
    program: str | Path, arguments: list[Any], server: Server, port: int, tmp_path: Path
) -> AsyncIterator[Proxy]:
    output = tmp_path / "output.log"
    with output.open("wb") as file:
        # Caddy keeps things below its user's folders.
        environment = dict.fromkeys(("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"), str(tmp_path))
        process = await create_subprocess_exec(
            program, *arguments, stdin=DEVNULL, stdout=file, stderr=STDOUT, env=environment
        )
    try:
        await listening(port, process)
        yield Proxy(server, port, tmp_path, ssl.create_default_context(cafile=str(tmp_path / "certificate.pem")))
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(PATIENCE):
            await process.wait()


async def test_the_page_and_its_websocket_come_through(proxy: Proxy) -> None:
    async with proxy.session() as session:
        async with session.get("/") as page:
            assert page.status == 200
        # Verani sees https and this port only if the proxy tells it so, and it does only trust the proxy.
        async with session.ws_connect("/ws?room=lobby&userId=ann", headers={"Origin": proxy.origin}) as ws:
            await ws.send_json({"type": "chat.join", "data": "general", "id": 1})
            await ws.send_json({"type": "chat.message", "data": {"channel": "general", "text": "hello"}})
            async with asyncio.timeout(PATIENCE):
                while (await ws.receive_json()).get("data") != {"type": "chat.message", "from": "ann", "text": "hello"}:
                    pass


async def test_pages_of_others_are_refused(proxy: Proxy) -> None:
    async with proxy.session() as session:
        for origin in ("https://elsewhere.example", proxy.origin.replace("https", "http")):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect("/ws?room=lobby", headers={"Origin": origin, "X-Forwarded-Host": origin[8:]})
            assert refused.value.status == 403


async def test_a_client_cannot_claim_another_address(proxy: Proxy) -> None:
    async with proxy.session() as session, session.ws_connect("/ws", headers={"X-Forwarded-For": "192.0.2.1"}):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect("/ws", headers={"X-Forwarded-For": "192.0.2.2"})
        assert refused.value.status == 429


async def test_the_internal_listener_is_not_behind_it(proxy: Proxy) -> None:
    async with proxy.session() as session:
        for path in ("/ready", "/metrics", "/admin/rooms", "/openapi.json", "/asyncapi.json"):
            async with session.get(path) as response:
                assert response.status == 404


async def test_close_codes_come_through(proxy: Proxy) -> None:
    async with proxy.session() as session, session.ws_connect("/ws") as ws:
        stopping = asyncio.create_task(proxy.server.stop())
        async with asyncio.timeout(PATIENCE):
            while not ws.closed:
                await ws.receive()
        assert ws.close_code == 1012
        assert await stopping == 0


async def test_no_token_of_a_url_is_in_a_log(proxy: Proxy) -> None:
    async with proxy.session() as session:
        async with session.ws_connect("/ws?token=not-for-logs") as ws:
            await ws.close()
        async with session.get("/?token=not-for-logs") as page:
            assert page.status == 200
        assert await proxy.server.stop() == 0
        async with session.get("/?token=not-for-logs") as failed:  # which nginx would log at length
            assert failed.status in (502, 503)
    logs = [path.read_text() for path in proxy.directory.glob("*.log")]
    assert logs
    assert not any("not-for-logs" in log for log in logs)
