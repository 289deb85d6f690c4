"""One trace leads through the processes of a service: from the gateway to the host and back, and on to another room."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.integration.conftest import Serve
from tests.integration.traced_app import SPANS
from tests.raw import until
from verani.client import VeraniClient


class Written:
    """The spans that the processes have written so far."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def of(self, name: str, **attributes: str) -> list[dict[str, Any]]:
        found = []
        for line in self._path.read_text().splitlines():
            written = json.loads(line)
            span = written["span"]
            if span["name"] == name and all(span["attributes"].get(f"verani.{k}") == v for k, v in attributes.items()):
                found.append({**span, "pid": written["pid"]})
        return found

    async def one(self, name: str, **attributes: str) -> dict[str, Any]:
        await until(lambda: bool(self.of(name, **attributes)))
        (span,) = self.of(name, **attributes)
        return span


async def test_a_trace_leads_from_the_gateway_to_the_host_to_another_room_and_to_who_hears_it(
    serve: Serve, tmp_path: Path
) -> None:
    file = tmp_path / "spans"
    file.touch()
    options = ("--hosts", "2", "--admin-port", "0", "--tracing")
    server = await serve("tests.integration.traced_app:chat", *options, environ={SPANS: str(file)})
    written = Written(file)
    async with VeraniClient(f"{server.url}/ws?room=lobby") as client:
        assert await client.request("ask", "other", timeout=30) == 42
        sent = await written.one("send chat", input="frame")
        hook = await written.one("process chat", hook="ask")
        call = await written.one("send chat", input="call")
        method = await written.one("process chat", hook="answer")
        await until(lambda: len(written.of("deliver chat")) >= 2)
        delivered = written.of("deliver chat")
    path = [sent, hook, call, method]
    assert {span["context"]["trace_id"] for span in (*path, *delivered)} == {sent["context"]["trace_id"]}
    assert sent["parent_id"] is None
    assert [span["parent_id"] for span in path[1:]] == [span["context"]["span_id"] for span in path[:-1]]
    assert delivered[0]["parent_id"] == hook["context"]["span_id"]
    # Sockets, and what carries calls, are at the gateway; hooks at hosts.
    assert {span["pid"] for span in (call, *delivered)} == {sent["pid"]}
    assert sent["pid"] not in {hook["pid"], method["pid"]}
