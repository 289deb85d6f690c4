"""Run the machines of the compose file in one network, and use them: `python -m tests.deploy.machines SECRETS`.

Started inside `unshare --net`, where the addresses of the file are free. Commands and environment are those of the
file; only the secrets are elsewhere. Ends with 0 if all machines are healthy, rooms answer, a drain moves what it
should, and everything stops by itself.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from asyncio.subprocess import Process, create_subprocess_exec
from pathlib import Path

from tests.deploy.files import DEPLOY, ROOT, compose
from verani.client import VeraniClient

MACHINES = ("leader", "host", "gateway")
PATIENCE = 60


def variables(name: str, folder: Path) -> dict[str, str]:
    """Give a machine the environment that its container has."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("VERANI_")}
    # The image listens on every interface, and a container has a host name of its own.
    own |= {"VERANI_HOST": "0.0.0.0", "VERANI_MACHINE": name}
    given: dict[str, str] = compose()["services"][name]["environment"]
    return own | {key: value.replace("/run/secrets", str(folder)) for key, value in given.items()}


async def run(*arguments: str | Path, environment: dict[str, str]) -> int:
    """Run Python to its end; return its exit code."""
    process = await create_subprocess_exec(sys.executable, *arguments, cwd=ROOT, env=environment)
    return await process.wait()


async def healthy(environment: dict[str, str], machine: Process) -> None:
    """Wait until the health check of the image says so."""
    async with asyncio.timeout(PATIENCE):
        while await run(DEPLOY / "healthcheck.py", environment=environment):
            assert machine.returncode is None, "the machine has ended"
            await asyncio.sleep(0.2)


async def talk(address: str, room: str) -> None:
    """Send a message in a room and hear it."""
    async with (
        asyncio.timeout(PATIENCE),
        VeraniClient(f"ws://{address}:8000/ws?room={room}&userId=ann") as client,
    ):
        await client.request("chat.join", "general")
        client.emit("chat.message", {"channel": "general", "text": "hello"})
        async for event in client:
            if event.type == "chat.message":
                return


def take_addresses(addresses: list[str]) -> None:
    """Give this network namespace the addresses of all machines."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for address in addresses:
        subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)


async def main(folder: Path) -> None:
    """Start, use and stop the service."""
    services = compose()["services"]
    addresses = {name: services[name]["environment"]["VERANI_ADVERTISE"] for name in MACHINES}
    machines: dict[str, Process] = {}
    for name in MACHINES:  # as depends_on says
        environment = variables(name, folder)
        command = services[name]["command"]
        machines[name] = await create_subprocess_exec(
            sys.executable, "-m", "verani_gateway", *command, cwd=ROOT, env=environment
        )
        await healthy(environment, machines[name])
    gateway = addresses["gateway"]
    rooms = [f"room{number}" for number in range(8)]
    for room in rooms:
        await talk(gateway, room)
    internal = ("--url", f"http://{gateway}:8001")
    operator = variables("gateway", folder)
    for number in range(2):
        command = ["-m", "verani_gateway", "drain", f"host:host-{number}", *internal]
        assert await run(*command, environment=operator) == 0
    for room in rooms:
        await talk(gateway, room)
    for name in reversed(MACHINES):
        machines[name].terminate()
        async with asyncio.timeout(PATIENCE):
            assert await machines[name].wait() == 0


if __name__ == "__main__":
    take_addresses([compose()["services"][name]["environment"]["VERANI_ADVERTISE"] for name in MACHINES])
    asyncio.run(main(Path(sys.argv[1])))
