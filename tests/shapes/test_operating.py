"""What operators see: the same of one process and of many."""

from __future__ import annotations

import asyncio
import re
import shutil
from asyncio.subprocess import PIPE, STDOUT
from typing import TYPE_CHECKING

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from verani import CallFailed, RoomStub
from verani import Service as Caller

if TYPE_CHECKING:
    from tests.shapes.conftest import Gates, Visit
    from tests.shapes.service import Service

pytestmark = pytest.mark.shapes


async def test_every_host_starts_the_definitions_once_and_has_rooms(
    service: Service, caller: Caller, room: str
) -> None:
    starts = {tuple(await caller.room("chat", f"{room}-{n}").started()) for n in range(60)}
    assert {times for _, times in starts} == {1}
    assert len(starts) == service.hosts


async def test_a_room_stays_on_its_host(service: Service, visit: Visit, stub: RoomStub, room: str) -> None:
    await visit()
    host = await stub.where()
    for _ in range(2):
        await service.asleep(f"chat/{room}")
        assert await stub.where() == host


async def test_rooms_are_listed_whatever_host_they_are_on_awake_or_asleep(
    service: Service, visit: Visit, caller: Caller, room: str
) -> None:
    names = {f"chat/{room}-{n}" for n in range(12)}
    for name in names:
        await visit(f"/{name}")
    awake = {f"tireless/{room}-{n}" for n in range(12)}
    for name in awake:
        await visit(f"/{name}")
    for name in names:
        await service.asleep(name)

    async def listed(query: str) -> set[str]:
        status, rooms = await service.ask(f"/admin/rooms{query}")
        assert status == 200
        found = [each["name"] for each in rooms if room in each["name"]]
        assert len(found) == len({*found}), "each once"
        return {*found}

    assert await listed("") == names | awake
    assert await listed("?state=asleep") == names
    assert await listed("?state=awake") == awake
    assert len((await service.ask("/admin/rooms?limit=5"))[1]) == 5


async def test_a_room_s_status_says_what_it_does_and_why(
    service: Service, visit: Visit, gates: Gates, room: str
) -> None:
    gate, guest = gates(), await visit()
    await visit()
    number = await guest.request("wait", {"gate": gate.name})
    await gate.reached("0")
    status = await service.until(f"chat/{room}", kept_awake_by="running hook")
    assert (status["state"], status["connections"]) == ("awake", 2)
    assert (status["doing"], status["doing_seconds"] >= 0) == ("wait", True)
    hosts = {member["id"] for member in (await service.ask("/admin/cluster"))[1]["members"]}
    assert status["host"] in (hosts or {None})
    assert status["woken_by"] in ("connect", "frame"), "on a slow machine it has slept before"
    await gate.open()
    await guest.answer(number)
    await service.asleep(f"chat/{room}")
    asleep = await service.status(f"chat/{room}")
    assert (asleep["connections"], asleep["kept_awake_by"]) == (2, None)
    assert asleep["cycles"] == status["cycles"] + 1
    assert asleep["awake_seconds"] > 0


async def test_nobody_knows_a_room_that_never_was(service: Service, room: str) -> None:
    assert (await service.ask(f"/admin/rooms/chat/{room}"))[0] == 404


async def totals(service: Service) -> dict[str, float]:
    """Sum up all samples of each metric of the whole service."""
    status, text = await service.ask("/metrics")
    assert status == 200
    sums: dict[str, float] = {}
    for name, value in re.findall(r"^(verani_\w+)(?:\{[^}]*\})? (\S+)$", text, flags=re.MULTILINE):
        sums[name] = sums.get(name, 0.0) + float(value)
    return sums


async def test_metrics_count_what_happens_on_all_gateways_and_hosts(
    service: Service, visit: Visit, caller: Caller, room: str
) -> None:
    before = await totals(service)
    for n in range(10):
        guest = await visit(f"/chat/{room}-{n}")
        await guest.text("nonsense")
        await guest.ask("echo")
        await caller.room("chat", f"{room}-{n}").where()
    await service.asleep(f"chat/{room}-0")
    after = await totals(service)
    grown = {name: after[name] - before[name] for name in before}
    assert grown["verani_connections_total"] == 10
    assert grown["verani_frames_total"] == 20
    assert grown["verani_invalid_frames_total"] == 10
    assert grown["verani_calls_total"] >= 10
    assert grown["verani_wakes_total"] >= 10
    assert grown["verani_sleeps_total"] >= 1
    assert grown["verani_deliveries_total"] >= 10
    assert grown["verani_wake_duration_seconds_count"] >= 10
    assert grown["verani_hook_duration_seconds_count"] >= 40
    assert grown["verani_received_bytes_total"] > 0 < grown["verani_sent_bytes_total"]


async def test_promtool_and_prometheus_library_take_the_metrics_of_every_process(
    service: Service, visit: Visit, caller: Caller
) -> None:
    promtool = shutil.which("promtool") or pytest.skip("promtool is not installed (Debian's prometheus)")
    with pytest.raises(CallFailed):
        await caller.room("chat", "default").fail()
    guest = await visit()
    await guest.ask("echo")
    _, text = await service.ask("/metrics")
    checking = await asyncio.create_subprocess_exec(
        promtool, "check", "metrics", stdin=PIPE, stdout=PIPE, stderr=STDOUT
    )
    complaints, _ = await checking.communicate(text.encode())
    assert (checking.returncode, complaints.decode()) == (0, "")
    families = list(text_string_to_metric_families(text))
    names = [(family.name, family.type) for family in families]
    assert len(names) == len({*names})
    said = {(sample.name, *sorted(sample.labels.items())) for family in families for sample in family.samples}
    assert len(said) == sum(len(family.samples) for family in families)
    errors = next(family for family in families if family.name == "verani_hook_errors")
    assert sum(sample.value for sample in errors.samples if sample.labels["hook"] == "fail") >= 1
    infos = next(family for family in families if family.name == "verani_build_info")
    assert len(infos.samples) == (1 if service.shape == "embedded" else service.hosts + service.gateways)


async def test_operators_show_a_token_and_probes_need_none(service: Service) -> None:
    for path in ("/admin/rooms", "/metrics", "/admin/rooms/chat/default"):
        assert (await service.ask(path, token=None))[0] == 401
    assert await service.ask("/ready", token=None) == (200, {"status": "ready"})


async def test_the_public_listener_is_healthy_and_shows_operators_nothing(service: Service) -> None:
    async with aiohttp.ClientSession() as session:
        for url in service.urls:
            async with session.get(f"{url}/health") as response:
                assert await response.json() == {"status": "ok"}
            for path in ("/metrics", "/admin/rooms", "/rpc/chat/default/where"):
                async with session.get(f"{url}{path}") as response:
                    assert response.status == 404
