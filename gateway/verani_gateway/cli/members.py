"""Show an operator the processes of a running service, take them out of it, or start them anew.

`verani cluster`, `verani drain` and `verani restart`.

Both ask the internal listener over HTTP.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Sequence
from typing import Final

import aiohttp
import msgspec

from verani.errors import SettingsError
from verani_actors.operating.answers import ALL, GatewayStatus, HostStatus, gateway_target, host_target

from ..config import Secrets
from ..operating.service_answers import ServiceStatus
from .rooms import CLEAR, PERIOD, ask, columns, session
from .service_error import ServiceError

__all__ = ["check_restart", "check_target", "drain", "members_table", "restart", "show_cluster"]

# How often a drain is looked at, in seconds.
_LOOK: Final = 0.2

# How long a restart may take: a drain, and the start of a process on a machine that has much to do.
_PATIENCE: Final = 120.0
# How long the service may take to find out whether the code can be imported.
_CHECK_PATIENCE: Final = 60.0

_HEADER: Final = ("MEMBER", "MACHINE", "PID", "EPOCH", "STATE", "AWAKE", "CONNECTIONS", "LINKS")

_decode = msgspec.json.Decoder(ServiceStatus).decode


def members_table(service: ServiceStatus) -> str:
    """Lay the processes out in columns, and say what is missing."""
    rows = [_HEADER]
    for host in service.members:
        awake = sum(number for state, number in host.rooms.items() if state != "asleep")
        state = "draining" if host.draining else "restarting" if host.restarting else "serving"
        rows.append(
            (
                host_target(host.id),
                host.machine,
                str(host.pid),
                str(host.epoch),
                state,
                str(awake),
                "-",
                _links(host.links),
            )
        )
    for gateway in service.gateways:
        state = "draining" if gateway.draining else "restarting" if gateway.restarting else "serving"
        rows.append(
            (
                gateway_target(gateway.id),
                gateway.machine or "-",
                str(gateway.pid),
                str(gateway.epoch),
                state,
                "-",
                str(gateway.connections),
                _links(gateway.links),
            )
        )
    lines = [columns(rows)]
    if service.epoch:
        lines.append(f"epoch {service.epoch}, published by {service.registrar}")
    if service.missing:
        lines.append(f"no answer from {', '.join(service.missing)}")
    return "\n".join(lines)


def _links(links: dict[str, str]) -> str:
    """Say how many links there are, and which are not as they should be."""
    broken = [f"{name} {state}" for name, state in sorted(links.items()) if state != "linked"]
    return f"{len(links) - len(broken)}/{len(links)}" + (f" ({', '.join(broken)})" if broken else "")


def show_cluster(url: str, secrets: Secrets, *, as_json: bool, watch: bool) -> None:
    """Print the processes once, or every second until interrupted; raises `ServiceError`."""
    asyncio.run(_show(url, secrets, as_json=as_json, watch=watch))


async def _show(url: str, secrets: Secrets, *, as_json: bool, watch: bool) -> None:
    clear = CLEAR if watch and not as_json and sys.stdout.isatty() else ""
    async with session(secrets) as http:
        while True:
            body = await ask(http, f"{url.rstrip('/')}/admin/cluster")
            status = _read(url, body)
            text = body.decode() if as_json else members_table(status)
            sys.stdout.write(f"{clear}{text}\n")
            sys.stdout.flush()
            if not watch:
                return
            await asyncio.sleep(PERIOD)


def _read(url: str, body: bytes) -> ServiceStatus:
    try:
        return _decode(body)
    except msgspec.DecodeError as error:
        raise ServiceError(f"{url} answered no list of members; is that the internal listener?") from error


def check_target(target: str | None, *, everything: bool) -> str:
    """Say what is to be drained; raises `SettingsError`."""
    if everything and target is None:
        return ALL
    kind, _, id = (target or "").partition(":")
    if everything or kind not in ("host", "gateway") or not id:
        raise _no_target("--all", target)
    return f"{kind}:{id}"


def _no_target(all_of_them: str, got: str | None) -> SettingsError:
    given = "nothing" if got is None else repr(got)
    return SettingsError(f"expected one of host:ID, gateway:ID and {all_of_them}, got {given}")


def drain(url: str, secrets: Secrets, target: str) -> None:
    """Take a process, or all, out of service, and return when it is gone; raises `ServiceError`."""
    asyncio.run(_drain(url.rstrip("/"), secrets, target))


async def _drain(url: str, secrets: Secrets, target: str) -> None:
    async with session(secrets) as http:
        before = _read(url, await ask(http, f"{url}/admin/cluster"))
        await ask(http, f"{url}/admin/drain", {"target": target})
        _say(f"draining {target if target != ALL else 'the whole service'}")
        connections = -1
        while True:
            try:
                status = _read(url, await ask(http, f"{url}/admin/cluster"))
            except ServiceError as error:
                # Nobody listens any more: it was the last gateway, or all is over.
                if isinstance(error.__cause__, aiohttp.ClientConnectionError) and _may_end(before, target):
                    break
                raise
            if _is_gone(status, target):
                break
            left = sum(each.connections for each in status.gateways if target in (ALL, gateway_target(each.id)))
            if target.startswith("gateway:") and left != connections:
                connections = left
                _say(f"{left} connections are left")
            await asyncio.sleep(_LOOK)
    _say(f"{target if target != ALL else 'the whole service'} is drained")


def _may_end(before: ServiceStatus, target: str) -> bool:
    """Tell whether the listener goes away with what is drained."""
    gateways: Sequence[str] = [gateway_target(each.id) for each in before.gateways]
    return target == ALL or gateways == [target]


def _is_gone(status: ServiceStatus, target: str) -> bool:
    there = [host_target(each.id) for each in status.members] + [gateway_target(each.id) for each in status.gateways]
    kind, _, id = target.partition(":")
    return target != ALL and target not in there and id not in status.missing and kind != ""


def check_restart(target: str | None, *, rolling: bool) -> str:
    """Say what is to be started anew, `ALL` for one process after the other; raises `SettingsError`."""
    kind, _, id = (target or "").partition(":")
    if rolling and target is None:
        return ALL
    if rolling or kind not in ("host", "gateway") or not id:
        raise _no_target("--rolling", target)
    return f"{kind}:{id}"


def restart(url: str, secrets: Secrets, target: str) -> None:
    """Start a process anew, or all one after the other, and return when they serve; raises `ServiceError`."""
    asyncio.run(_restart(url.rstrip("/"), secrets, target))


async def _restart(url: str, secrets: Secrets, target: str) -> None:
    async with session(secrets) as http:
        if target != ALL:
            return await _renew(http, url, target)
        # First of all of it, so that a version that cannot be imported changes nothing.
        await ask(http, f"{url}/admin/check", {"target": ALL}, seconds=_CHECK_PATIENCE)
        status = _read(url, await ask(http, f"{url}/admin/cluster"))
        # What gateways ask of rooms, hosts have to know before.
        for each in (*map(host_target, _ids(status.members)), *map(gateway_target, _ids(status.gateways))):
            await _renew(http, url, each)
        return _say("every process was restarted")


def _ids(processes: Iterable[HostStatus | GatewayStatus]) -> list[str]:
    return [each.id for each in processes]


async def _renew(http: aiohttp.ClientSession, url: str, target: str) -> None:
    before = _read(url, await ask(http, f"{url}/admin/cluster"))
    await ask(http, f"{url}/admin/restart", {"target": target}, seconds=_CHECK_PATIENCE)
    _say(f"restarting {target}")
    try:
        async with asyncio.timeout(_PATIENCE):
            while not await _is_renewed(http, url, target, before):  # noqa: ASYNC110  # in other processes
                await asyncio.sleep(_LOOK)
    except TimeoutError:
        raise ServiceError(f"{target} was not restarted within {_PATIENCE:g} s: what does its log say?") from None
    _say(f"{target} was restarted")


async def _is_renewed(http: aiohttp.ClientSession, url: str, target: str, before: ServiceStatus) -> bool:
    """Tell whether there is another process in the place of one, and everybody is linked with everybody."""
    try:
        now = _read(url, await ask(http, f"{url}/admin/cluster"))
    except ServiceError as error:
        if isinstance(error.__cause__, aiohttp.ClientConnectionError):  # to a gateway that has left
            return False
        raise
    for gateway in now.gateways:
        if gateway_target(gateway.id) == target and gateway.problem:
            raise ServiceError(f"{target} goes on as it is: {gateway.problem}")
    former = {each.incarnation for each in before.members if host_target(each.id) == target}
    return (
        not now.missing
        and target not in map(gateway_target, _ids(now.gateways))
        and not former & {each.incarnation for each in now.members}
        and len(now.members) >= len(before.members)
        and len(now.gateways) >= len(before.gateways)
        and all(set(each.links.values()) == {"linked"} for each in now.gateways)
        and all(len(each.links) == len(now.members) for each in now.gateways)
    )


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
