"""Grafana can take the dashboard, Prometheus every query in it, and each alert fires at what it is for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from tests.deploy.files import DEPLOY, Tool, check

DASHBOARD: dict[str, Any] = msgspec.json.decode((DEPLOY / "grafana" / "verani.json").read_bytes())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
QUERIES: list[str] = [target["expr"] for panel in PANELS for target in panel.get("targets", ())]
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
ALERTS_TEST = Path(__file__).with_name("alerts_test.yml")


def test_the_dashboard_is_of_the_form_that_grafana_imports() -> None:
    assert DASHBOARD["schemaVersion"] >= 36
    assert DASHBOARD["uid"]
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", msgspec.json.encode(PANELS).decode()))
    assert variables == used
    for panel in PANELS:
        assert panel["title"]
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert panel["description"]
            assert [target["refId"] for target in panel["targets"]] == list("ABCD")[: len(panel["targets"])]
            assert all(target["expr"] and target["legendFormat"] for target in panel["targets"])


def test_no_panel_covers_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not taken & cells, panel["title"]
        taken |= cells


def test_prometheus_takes_every_query(tool: Tool, tmp_path: Path) -> None:
    promtool = tool("promtool", package="Debian's prometheus")
    rules = [
        {"record": f"query:{number}", "expr": query.replace("$__rate_interval", "5m").replace("$instance", ".*")}
        for number, query in enumerate(QUERIES)
    ]
    assert len(rules) > 30
    file = tmp_path / "queries.yml"
    file.write_bytes(msgspec.yaml.encode({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in check(promtool, "check", "rules", file)


def test_a_counter_is_never_summed_before_its_rate() -> None:
    texts = [*QUERIES, *re.findall(r"expr: (?:>-\n)?(.+(?:\n {10}.+)*)", ALERTS.read_text())]
    for text in texts:
        for counter in re.finditer(r"\b\w+_(?:total|bucket|count|sum)\b(?=[{\[])", text):
            assert re.search(r"\b(?:rate|increase)\($", text[: counter.start()]), text


def test_every_alert_fires_where_it_should_and_nowhere_else(tool: Tool) -> None:
    promtool = tool("promtool", package="Debian's prometheus")
    assert "SUCCESS" in check(promtool, "test", "rules", ALERTS_TEST)
    there = re.findall(r"- alert: (\w+)", ALERTS.read_text())
    fired = re.findall(r'alertname="(\w+)"', ALERTS_TEST.read_text())
    assert sorted(there) == sorted(fired)
