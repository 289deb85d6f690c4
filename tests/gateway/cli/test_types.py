"""What `verani types` writes: the compiler takes it, with data that fits, and refuses what does not."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any, Final, TypedDict

import msgspec
import pytest

from tests.gateway.browser.test_types import BROWSER, compile_types
from tests.gateway.typed_rooms import ROOMS, SENT, TAKEN
from tests.guide import Guide, run_python
from verani import define_room
from verani.room.contract import contracts_of
from verani.room.definition import RoomDefinition
from verani.testing import RoomHarness
from verani_gateway.cli.main import main
from verani_gateway.cli.typescript import typescript

IMPORT: Final = 'import { VeraniClient } from "./verani.js";\n'


def written(*rooms: RoomDefinition[Any, Any]) -> str:
    return typescript(*contracts_of(rooms))


def lines_with_errors(found: str) -> set[int]:
    return {int(line) for line in re.findall(r"^sample\.ts\((\d+),", found, re.M)}


async def sent_data(event: str, data: Any) -> str:
    """Send an event for real, and return its data as clients get it, but for the type."""
    async with RoomHarness(ROOMS[0]) as room:
        ann = await room.connect(user_id="ann")
        room.actor.emit(event, data)
        sent = json.loads(ann.raw[0])["data"]
        assert sent.pop("type") == event
        return json.dumps(sent)


class Message(msgspec.Struct):
    """One message."""

    text: str
    to: Annotated[list[str], msgspec.Meta(description="who is meant")] = []


class Typing(TypedDict):
    user: str


# --- what it looks like ----------------------------------------------------------------------------------

LOOKS: Final = """\
/** Rooms of the definition chat. */
export interface Chat {
  serverEvents: {
    "chat.message": Message;
    "typing": Typing;
    "left": {};
    "count": { value: number };
  };
  clientEvents: {
    /** Say something. */
    "chat.message": { data: MessageInput; result: null };
    "who": { data: unknown; result: string[] };
  };
}

/** One message. */
export interface Message {
  text: string;
  /** who is meant */
  to: string[];
}

export interface Typing {
  user: string;
}

/** One message. */
export interface MessageInput {
  text: string;
  /**
   * who is meant
   * @default []
   */
  to?: string[];
}
"""


def test_a_definition_is_an_interface_and_so_are_the_classes_that_it_names() -> None:
    assert written(a_chat()) == LOOKS


def a_chat() -> RoomDefinition[Any, Any]:
    chat = define_room("chat")
    chat.event("chat.message", Message)
    chat.event("typing", Typing)
    chat.event("left", None)
    chat.event("count", int)

    @chat.on("chat.message")
    def message(ctx: Any, data: Message) -> None:
        """Say something."""

    @chat.on("who")
    def who(ctx: Any, _: Any) -> list[str]:
        return []

    return chat


# --- what the compiler says ------------------------------------------------------------------------------


async def test_every_type_of_every_kind_of_room_holds_what_is_sent_and_taken(tmp_path: Path) -> None:
    lines = [IMPORT, 'import type { Sends, Takes, Sends2, ABC, Room2048 } from "./rooms";']
    for name, _, data in SENT:
        lines.append(f"const s{len(lines)}: Sends['serverEvents'][{json.dumps(name)}] = {await sent_data(name, data)};")
    lines.append('const takes = new VeraniClient<Takes>("/takes");')
    lines.extend(f"takes.emit({json.dumps(name)}, {text});" for name, _, text in TAKEN)
    lines += [
        'const answer: Promise<unknown> = takes.request("answer", "one");',
        'const other: Room2048["clientEvents"]["some"] = { data: { number: 1 }, result: { name: "pen", price: 0 } };',
        'new VeraniClient<Room2048>("/other/0").emit("anything", 5);',
        'new VeraniClient<ABC>("/other/2").on("close", ({ code }) => code.toFixed());',
        "const none: Sends2['clientEvents'] = {};",
    ]
    (tmp_path / "rooms.d.ts").write_text(written(*ROOMS))
    assert await compile_types(tmp_path, "\n".join(lines)) == ""


WRONG: Final = [
    "const a: Sends['serverEvents']['tree'] = { name: 'root' };",  # children are always sent
    "const b: Sends['serverEvents']['tree'] = { name: 'root', children: [{ name: 'leaf' }] };",
    "const c: Sends['serverEvents']['mood'] = { value: 'bad' };",
    "const d: Sends['serverEvents']['level'] = { ann: 3 };",
    "const e: Sends['serverEvents']['pair'] = { value: [1] };",
    "const f: Sends['serverEvents']['shapes/all'] = { value: [{ shape: 'circle' }] };",
    "const g: Sends['serverEvents']['order'] = { items: [{ name: 'pen' }], by: 'ann', note: null };",
    "const h: Sends['serverEvents']['odd~1name'] = { 'odd-key': 1 };",
    "const i: Sends['serverEvents']['page'] = { page_items: [], nextPage: null };",
    "const j: Sends['serverEvents']['maybe'] = { value: 5 };",
    "const k: Sends['serverEvents']['number'] = 5;",
    "const l: Sends['serverEvents']['unknown'] = {};",
    "takes.emit('tree', {});",
    "takes.emit('shape', { shape: 'triangle' });",
    "takes.emit('pair', ['x']);",
    "takes.emit('level', 3);",
    "takes.emit('order', { items: [{ price: 1 }] });",
    "takes.emit('order', { items: [], by: 'eve' });",
    "takes.emit('nothing', 5);",
    "takes.emit('pair');",
    "takes.emit('unknown');",
    "takes.emit('answer', 'two');",
    "takes.on('anything', (data) => data); takes.request('tree', { name: 5 });",
    "takes.request('answer', 'one').then((answer) => answer.toFixed());",
    "new VeraniClient<Sends2>('/other').emit('anything');",
    "new VeraniClient<ABC>('/other/2').on('close', ({ kode }) => kode);",
]


async def test_what_is_not_declared_so_is_an_error_of_its_line(tmp_path: Path) -> None:
    head = f'{IMPORT}import type {{ Sends, Takes, Sends2, ABC }} from "./rooms";\n'
    head += 'const takes = new VeraniClient<Takes>("/takes");\n'
    (tmp_path / "rooms.d.ts").write_text(written(*ROOMS))
    found = await compile_types(tmp_path, head + "\n".join(WRONG))
    first = head.count("\n") + 1
    assert lines_with_errors(found) == set(range(first, first + len(WRONG))), found


USES: Final = """
import { VeraniClient } from "./verani.js";
import type { Board, Gallery } from "./board";
import type { Chat } from "./chat";
import type { Game } from "./game";
import type { Notifications } from "./notifications";
import type { Notify } from "./notify";
import type { Poll } from "./poll";
import type { Presence } from "./presence";
const chat = new VeraniClient<Chat>("/ws?room=lobby");
chat.emit("chat.message", { channel: "general", text: "hello" });
chat.request("chat.join", "general").then((nothing: null) => nothing);
chat.on("chat.message", ({ from, text }, channel) => `${channel}: ${from.trim()} says ${text.trim()}`);
chat.on("presence", ({ users }) => users.map((user) => user.trim()));
new VeraniClient<Gallery>("/gallery").on("busy", ({ board }) => board.trim());
new VeraniClient<Game>("/ws/table-1").on("game.tick", ({ left, scores }) => left + (scores["ann"] ?? 0));
new VeraniClient<Presence>("/ws").on("presence.update", ({ status }) => status === "offline");
new VeraniClient<Notifications>("/ws").on("notification", ({ id, text }) => id + text);
new VeraniClient<Board>("/board/plans").emit("stroke", [[0, 0], [1, 2.5]]);
new VeraniClient<Poll>("/ws/lunch").request("poll.vote", "soup").then((count) => count["soup"]?.toFixed());
"""
MISUSES: Final = """
chat.emit("chat.massage", { channel: "general", text: "hello" });
chat.emit("chat.message", { channel: "general" });
chat.request("chat.join", 5);
chat.on("chat.message", ({ form }) => form);
chat.on("chat.massage", () => {});
new VeraniClient<Presence>("/ws").on("presence.update", ({ status }) => status === "gone");
"""


async def test_the_types_of_all_examples_are_written_and_used(tmp_path: Path) -> None:
    for name in ("chat", "game", "notifications", "poll", "presence", "notify"):  # not together: most are at /ws
        assert main(["types", f"examples.{name}:{name}", "-o", str(tmp_path / f"{name}.d.ts")]) == 0
    assert main(["types", "examples.board:board", "examples.board:gallery", "-o", str(tmp_path / "board.d.ts")]) == 0
    assert await compile_types(tmp_path, USES) == ""
    found = await compile_types(tmp_path, USES + MISUSES)
    first = USES.count("\n") + 2
    assert lines_with_errors(found) == set(range(first, first + MISUSES.count("\n") - 1)), found


async def test_the_page_about_typed_events_shows_what_is_written_and_what_the_compiler_says(
    tmp_path: Path,
) -> None:
    guide = Guide("docs/typed-events.md")
    guide.save(tmp_path)
    assert await run_python(tmp_path, "-m", "verani_gateway", "types", "quiz:quiz", "-o", "quiz.d.ts") == (0, "")
    shown, used = guide.blocks("ts")
    assert (tmp_path / "quiz.d.ts").read_text() == shown
    shutil.copytree(BROWSER, tmp_path / "node_modules" / "verani-client")
    (tmp_path / "package.json").write_text('{"type": "module"}')
    [in_page] = guide.blocks("js")
    (tmp_path / "page.js").write_text(in_page)
    assert await compile_types(tmp_path, f'{used}import "./page.js";\n', "--allowJs", "--checkJs") == ""
    found = await compile_types(tmp_path, used.replace("// @ts-expect-error", "//"))
    assert re.findall(r"error TS\d+: .*(quiz\.anser|number)", found) == ["quiz.anser", "number"], found


# --- the command -------------------------------------------------------------------------------------------


NOISY: Final = """
from verani import define_room

room = define_room("noisy")
print("loaded")

@room.on("x")
def x(ctx, n: int): ...
"""


def test_types_are_printed_and_what_the_module_prints_is_not_among_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "noisy_room.py").write_text(NOISY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert main(["types", "noisy_room:room"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(
        "// Written by: verani types noisy_room:room\n\n/** Rooms of the definition noisy. */\n"
    )
    assert '"x": { data: number; result: unknown };' in printed.out
    assert printed.err == "loaded\n"


def test_the_same_rooms_give_the_same_text() -> None:
    assert written(*ROOMS) == written(*ROOMS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere:room"], "module 'nowhere' was not found"),
        (["examples.chat"], "expected MODULE:NAME"),
        (["examples.chat:chta"], "did you mean chat?"),
        (["examples.chat:chat", "-o", "/nowhere/at/all.d.ts"], "expected --output to be a file that can be written"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["types", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err
    assert printed.err.count("\n") == 1
