"""The page of metrics, the dashboard and the alerts name what a service measures, and the page leaves nothing out."""

from __future__ import annotations

import re
from pathlib import Path

import aiohttp

from tests.integration.conftest import Serve

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "metrics.md").read_text()
DEPLOY = ROOT / "deploy"


async def scraped(serve: Serve, *options: str) -> dict[str, set[str]]:
    """Start a service, talk to it, and give its metrics with the names of their labels."""
    server = await serve("examples.chat:app", *options)
    url = f"{server.url}/ws?room=lobby".replace("http", "ws", 1)
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as ws:
        await ws.send_str('{"type":"chat.join","data":"general","id":1}')
        while '"ack"' not in str((await ws.receive()).data):
            pass
        async with session.get(f"{server.internal}/metrics") as response:
            text = await response.text()
        async with session.get(f"{server.url}/ws") as response:
            assert response.status == 426
    found = {name: set[str]() for name in re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)}
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? ", text, re.MULTILINE):
        family = name if name in found else re.sub("_(bucket|sum|count)$", "", name)
        found[family] |= set(re.findall(r'(\w+)="', labels)) - {"le", "gateway", "host"}
    return found


def documented() -> dict[str, set[str]]:
    rows = re.findall(r"^\| `((?:verani|process)_\w+)` \|(.*?)\|", PAGE, re.MULTILINE)
    assert len({name for name, _ in rows}) == len(rows)
    return {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}


async def test_the_page_has_every_metric_of_every_shape_with_its_labels(serve: Serve) -> None:
    alone = await scraped(serve)
    several = await scraped(serve, "--hosts", "1", "--admin-port", "0")
    assert alone.keys() | several.keys() == documented().keys()
    assert alone.keys() < several.keys()
    for found in (alone, several):
        # Where nothing was refused or called yet, there is no sample to see the label of.
        assert {name: labels for name, labels in found.items() if labels - documented()[name]} == {}
    unseen = {name for name, labels in documented().items() if labels != several[name]}
    assert unseen <= {"verani_closes_total", "verani_refusals_total", "verani_calls_total", "verani_gateway_rooms"}


def test_dashboard_and_alerts_ask_for_what_is_measured() -> None:
    known = documented()
    for file in (DEPLOY / "grafana" / "verani.json", DEPLOY / "prometheus" / "alerts.yml"):
        asked = set(re.findall(r"\b(?:verani|process)_\w+(?=[{\[ )])", file.read_text()))
        assert len(asked) > 10
        assert {name for name in asked if re.sub("_(bucket|sum|count)$", "", name) not in known} == set()


def test_labels_that_are_grouped_by_are_labels_of_the_metric() -> None:
    known = {name for labels in documented().values() for name in labels} | {"le", "gateway", "host", "instance"}
    for file in (DEPLOY / "grafana" / "verani.json", DEPLOY / "prometheus" / "alerts.yml"):
        for group in re.findall(r"\b(?:by|without) \(([^)]*)\)", file.read_text()):
            assert {*group.split(", ")} <= known
