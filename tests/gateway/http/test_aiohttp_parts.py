"""What is used of aiohttp and not promised is in one module, and an aiohttp without it is refused in one sentence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web

from tests.gateway.started import Start
from verani_gateway.http import aiohttp_parts
from verani_gateway.http.aiohttp_parts import PARTS, AiohttpError, check

SOURCES: Final = Path(aiohttp_parts.__file__).parents[1]


def test_the_aiohttp_that_is_installed_has_everything() -> None:
    check()


@pytest.mark.parametrize(("owner", "name"), [(owner, name) for owner, names in PARTS for name in names])
def test_a_part_that_was_renamed_is_named(monkeypatch: pytest.MonkeyPatch, owner: type[Any], name: str) -> None:
    renamed = type(
        owner.__name__, (), {each: None for each in dir(owner) if each != name and not each.startswith("__")}
    )
    monkeypatch.setattr(
        aiohttp_parts, "PARTS", [(renamed, names) if kind is owner else (kind, names) for kind, names in PARTS]
    )
    with pytest.raises(AiohttpError, match=rf"has no {owner.__name__}\.{name}$"):
        check()


@pytest.mark.parametrize(
    ("module", "name"),
    [("reader", "WebSocketDataQueue"), ("reader", "WebSocketReader"), ("helpers", "websocket_mask")],
)
def test_a_parser_that_was_renamed_is_named(monkeypatch: pytest.MonkeyPatch, module: str, name: str) -> None:
    monkeypatch.delattr(f"aiohttp._websocket.{module}.{name}")
    with pytest.raises(AiohttpError, match=rf"has no {name}$"):
        check()


def test_a_parser_that_hands_on_in_another_way_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(aiohttp_parts.Messages, "feed_data")
    monkeypatch.setattr(aiohttp_parts.Messages, "set_exception", lambda *_: None)
    with pytest.raises(AiohttpError, match=r"has no WebSocketDataQueue\.feed_data$"):
        check()


async def test_a_service_says_it_at_the_start_in_one_sentence(start: Start, tmp_path: Path) -> None:
    (tmp_path / "renamed.py").write_text(
        "from aiohttp import web\ndel web.RequestHandler._messages\nfrom verani import define_room\n"
        "chat = define_room('chat')\n",
        encoding="utf-8",
    )
    server = await start("serve", "renamed:chat")
    assert await server.end() == 2
    assert re.fullmatch(
        r"verani: error: expected an aiohttp whose insides are known, such as 3\.14, got \S+, which has no"
        r" RequestHandler\._messages",
        server.lines[-1],
    )
    assert "Traceback" not in server.output


def test_no_other_module_names_private_parts_of_aiohttp() -> None:
    """Every attribute of a request, a response or a protocol of aiohttp that begins with an underscore."""
    private = {name for owner, names in PARTS for name in names if name.startswith("_")}
    private |= {
        name for kind in (web.RequestHandler, web.Request, web.WebSocketResponse) for name in _own_private(kind)
    }
    # Words that modules here use for attributes of their own.
    private -= {"_close", "_closing", "_loop", "_protocol", "_timer", "_waiter", "_waiting", "_writer"}
    for path in SOURCES.rglob("*.py"):
        if path.name != "aiohttp_parts.py":
            # `self._x` is the module's own, unless it extends a class of aiohttp, whose overrides PARTS has.
            used = set(re.findall(r"(?<!self)(?<!super\(\))\.(_[a-z]\w*)", path.read_text(encoding="utf-8")))
            assert not used & private, path.name


def _own_private(kind: type[Any]) -> set[str]:
    slots = {name for each in kind.__mro__ for name in getattr(each, "__slots__", ())}
    return {name for name in {*slots, *dir(kind)} if re.match(r"_[a-z]", name)}
