"""What TypeScript lets pass of code that uses `verani.d.ts`, and what it does not."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path
from typing import Final

import pytest

from tests.node_packages import node, node_package

BROWSER: Final = Path(__file__).parents[3] / "gateway/verani_gateway/browser"

# What `verani types` writes is like this.
CHAT: Final = """
import { VeraniClient, VeraniError } from "./verani.js";
export interface Message { from: string; text: string }
export interface Chat {
  serverEvents: { "chat.message": Message; "typing": { user: string } };
  clientEvents: {
    "chat.message": { data: { text: string }; result: null };
    "chat.join": { data: string; result: string[] };
    "who": { data: undefined; result: string[] };
    "echo": { data: unknown; result: unknown };
  };
}
const client = new VeraniClient<Chat>("wss://example.com/ws/lobby?userId=ann");
"""

FINE: Final = """
const stop: () => void = client.on("chat.message", (message, channel) => {
  const line: string = `${message.from}: ${message.text} (${channel ?? ""})`;
  console.log(line);
});
client.once("typing", ({ user }) => user.toUpperCase());
client.on("close", ({ code, reason }) => code.toFixed() + reason);
client.on("reconnecting", ({ attempt, delay }) => attempt + delay);
client.on("*", ({ type, data, channel }) => console.log(type, data, channel));
client.off("typing");
client.off("chat.message", stop);
client.emit("chat.message", { text: "hello" });
client.emit("who");
client.emit("echo");
client.emit("echo", 1);
const joined: Promise<string[]> = client.request("chat.join", "general", { timeout: 100 });
const here: Promise<string[]> = client.request("who");
client.request("who", undefined, { signal: new AbortController().signal });
joined.catch((error: VeraniError) => error.code + error.message + (error.path ?? "") + (error.public ?? ""));
client.onStateChange((state) => state === "reconnecting");
client.onOpen(() => {});
client.onClose((closing) => closing.code);
const state: string = client.getConnectionState().state;
const untyped = new VeraniClient(new URL("/ws", location.href), {
  reconnection: { maxAttempts: 0 }, maxQueueSize: 10, connectionTimeout: 1, pingInterval: 1, pongTimeout: 1,
  token: async () => "secret", WebSocket,
});
untyped.on("anything", (data) => data.whatever);
untyped.emit("anything", { at: "all" });
untyped.request("anything").then((answer) => answer.whatever);
client.waitForConnection().then(() => client.reconnect());
client.disconnect();
client.close(4000, "enough");
"""

WRONG: Final = [
    ('client.on("chat.massage", () => {});', "chat.massage"),
    ('client.on("typing", (data) => data.nobody);', "nobody"),
    ('client.emit("typing", { user: "ann" });', "typing"),
    ('client.emit("chat.message", { txt: "hello" });', "txt"),
    ('client.emit("chat.message");', "2 arguments"),
    ('client.emit("chat.message", { text: "hello" }, () => {});', "2 arguments"),
    ('client.request("chat.join", 5);', "number"),
    ('const n: Promise<number> = client.request("chat.join", "general");', "string"),
    ('client.request("who", "me");', "undefined"),
    ('client.request("leave", "general");', "leave"),
    ("client.isConnecting = true;", "read-only"),
    ("new VeraniClient<{ serverEvents: {} }>('wss://example.com');", "clientEvents"),
    ("new VeraniClient('wss://example.com', { maxQueue: 1 });", "maxQueue"),
    ("new VeraniClient<Chat>();", "argument"),
]

# An error of the compiler: its line, and what it says in this line and those that are indented below.
_ERROR: Final = r"^sample\.ts\((\d+),\d+\): error (.*?)(?=^\S|\Z)"


async def compile_types(folder: Path, source: str, *more: str) -> str:
    """Return what the compiler has to say; nothing where all is well."""
    shutil.copy(BROWSER / "verani.d.ts", folder)
    (folder / "sample.ts").write_text(source)
    options = ["--strict", "--noEmit", "--target", "es2022", "--module", "nodenext", "--pretty", "false"]
    process = await asyncio.create_subprocess_exec(
        node(),
        str(node_package(".bin/tsc")),
        *options,
        *more,
        "sample.ts",
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return output.decode()


async def test_code_that_fits_the_room_compiles(tmp_path: Path) -> None:
    assert await compile_types(tmp_path, CHAT + FINE) == ""


async def test_what_does_not_fit_the_room_is_an_error_of_its_line(tmp_path: Path) -> None:
    found = await compile_types(tmp_path, CHAT + "\n".join(line for line, _ in WRONG))
    before = CHAT.count("\n")
    errors = {int(line) - before: text for line, text in re.findall(_ERROR, found, re.M | re.S)}
    assert sorted(errors) == list(range(1, len(WRONG) + 1)), found
    for number, (line, word) in enumerate(WRONG, 1):
        assert word in errors[number], (line, found)


@pytest.mark.parametrize("lib", ["es2022", "es2022,dom"])
async def test_the_types_need_no_others_than_those_of_the_language_and_the_web(tmp_path: Path, lib: str) -> None:
    shutil.copy(BROWSER / "verani.d.ts", tmp_path)
    process = await asyncio.create_subprocess_exec(
        node(),
        str(node_package(".bin/tsc")),
        *("--strict", "--noEmit", "--lib", lib, "--types", "", "verani.d.ts"),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    missing = set(re.findall(r"Cannot find name '(\w+)'", output.decode()))
    assert missing == (set() if "dom" in lib else {"URL", "AbortSignal"}), output.decode()
