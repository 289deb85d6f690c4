"""Send 16 MB of what inflates a thousandfold to every path of a served application, and watch a quiet room meanwhile.

Run as `python -m benchmarks.bodies [--loop uvloop]`. The server is `verani serve` in a process of its own, of an
application with a route of its own; the prober and the sender are this process. Exits with 1 if
- one request costs the server more than `MAX_CPU` seconds of CPU time,
- the quiet room's worst answer meanwhile takes longer than `MAX_WORST`, and than twice its worst without.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import socket
import sys
import zlib
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final
from urllib.parse import urlsplit

from aiohttp import web

from verani import Context, define_room
from verani_gateway import setup

from .flood import Probe
from .processes import cpu_seconds

SENT: Final = 16 << 20
MAX_CPU: Final = 0.5
MAX_WORST: Final = 0.050
RPC: Final = "bench-rpc"
ADMIN: Final = "bench-admin"
CALL: Final = "/rpc/bench/quiet/get_session_count"

# Listener, method, path, token.
TARGETS: Final = [
    ("public", "POST", "/health", ""),
    ("public", "POST", "/nowhere", ""),
    ("public", "GET", "/ws", ""),
    ("public", "POST", "/own", ""),
    ("internal", "POST", "/ready", ""),
    ("internal", "POST", "/nowhere", ""),
    ("internal", "POST", "/metrics", ADMIN),
    ("internal", "POST", "/admin/drain", ""),
    ("internal", "GET", "/admin/rooms", ADMIN),
    ("internal", "POST", CALL, ""),
    ("internal", "POST", CALL, RPC),
]
HOW: Final = ("gzip", "gzip, chunked", "deflate", "br", "chunks of one byte")

bench = define_room("bench", hibernate_after=None)


@bench.on("probe")
def probe(ctx: Context[Any, Any], data: Any) -> None:
    ctx.emit("probe", data)


async def own(_: web.Request) -> web.Response:
    return web.Response(text="did not look")


app = web.Application()
app.router.add_post("/own", own)
setup(app, bench)


def bomb(encoding: str) -> bytes:
    """Compress zeros to a little more than `SENT` bytes; for br, which nobody here can write, anything will do."""
    if encoding == "br":
        return os.urandom(SENT)
    compressor = zlib.compressobj(1, wbits=31 if encoding == "gzip" else 15)
    block = bytes(64 << 20)
    first = compressor.compress(block) + compressor.flush(zlib.Z_FULL_FLUSH)
    second = compressor.compress(block) + compressor.flush(zlib.Z_FULL_FLUSH)
    return first + second * (SENT // len(second) + 1)


def request(target: tuple[str, str, str, str], port: int, how: str, bombs: dict[str, bytes]) -> bytes:
    _, method, path, token = target
    lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Content-Type: application/json"]
    lines += [f"Authorization: Bearer {token}"] if token else []
    encoding = how.partition(",")[0]
    if encoding in bombs:
        lines.append(f"Content-Encoding: {encoding}")
        body = bombs[encoding]
    else:
        body = b"1\r\nx\r\n" * (SENT // 6)
    if how == "gzip, chunked":
        pieces = (body[start : start + 16384] for start in range(0, len(body), 16384))
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    lines.append(f"Content-Length: {len(body)}" if how in bombs else "Transfer-Encoding: chunked")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def send(port: int, data: bytes) -> int:
    """Send as much as is taken, in a thread of its own, and return the status that came back."""
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.settimeout(0.5)
        with suppress(OSError):  # it takes no more, or has closed
            peer.sendall(data)
        peer.settimeout(10)
        status = int(peer.recv(1 << 16).split(b" ")[1])
        with suppress(ConnectionError):
            while peer.recv(1 << 16):
                pass
    return status


@asynccontextmanager
async def served(loop: str) -> AsyncIterator[tuple[Process, dict[str, int]]]:
    """Run `verani serve` with this module's application; give its ports."""
    environ = {**os.environ, "VERANI_RPC_TOKEN": RPC, "VERANI_ADMIN_TOKEN": ADMIN}
    # A module that cannot be imported is one that is not installed.
    start = "sys.modules['uvloop'] = None; " if loop == "asyncio" else ""
    code = f"import sys; {start}from verani_gateway.cli.main import main; sys.exit(main())"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, "serve", "benchmarks.bodies:app", "--port", "0", "--internal-port", "0"),
        env=environ,
        stderr=PIPE,
    )
    assert process.stderr is not None
    ports: dict[str, int] = {}
    try:
        while len(ports) < 2:
            line = (await process.stderr.readline()).decode()
            if match := re.search(r"(public|internal) listener: (http://\S+)", line):
                ports[match[1]] = urlsplit(match[2]).port or 0
            elif not line:
                raise SystemExit("the server ended")
        yield process, ports
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def run(loop: str) -> list[str]:
    """Measure every path with every body; return the promises that were broken."""
    bombs = {encoding: bomb(encoding) for encoding in ("gzip", "deflate", "br")}
    broken: list[str] = []
    async with served(loop) as (process, ports):
        probes = [Probe(f"p{n}") for n in range(10)]
        for each in probes:
            await each.open(ports["public"])
        asking = [asyncio.create_task(each.ask()) for each in probes]

        def worst() -> float:
            return max((seconds for each in probes for seconds in each.reset()), default=0.0)

        await asyncio.sleep(1)
        worst()
        await asyncio.sleep(3)
        baseline = worst()
        print(f"without: worst answer {baseline * 1e3:.1f} ms")
        for target in TARGETS:
            for how in HOW if target[3] != RPC else HOW[:-1]:  # who has the key may send what is read
                data = request(target, ports[target[0]], how, bombs)
                await asyncio.sleep(0.3)  # making it held up the probes
                worst()
                before = cpu_seconds(process.pid)
                status = await asyncio.to_thread(send, ports[target[0]], data)
                await asyncio.sleep(0.2)
                cpu, slowest = cpu_seconds(process.pid) - before, worst()
                name = f"{target[0]} {target[1]} {target[2]}{' with its token' if target[3] else ''}, {how}"
                print(f"{name:75} {status}: {cpu:5.2f} s of CPU, worst answer {slowest * 1e3:5.1f} ms")
                if cpu > MAX_CPU:
                    broken.append(f"{name}: {cpu:.2f} s of CPU")
                if slowest > max(MAX_WORST, 2 * baseline):
                    broken.append(f"{name}: an answer took {slowest * 1e3:.0f} ms")
        for task in asking:
            task.cancel()
    return broken


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what bodies cost that nobody asked for.")
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="uvloop")
    broken = asyncio.run(run(parser.parse_args().loop))
    for promise in broken:
        print("BROKEN:", promise)
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
