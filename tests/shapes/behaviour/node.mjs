// Play scenarios in Node, one after the other: each line that comes is `{scenario, verani, port, room}`, and is answered
// with `{failure}`. Meanwhile lines `{order}` go out, and the next line that comes is what came of it.
// `ws` is a package to take the WebSocket from, instead of the global one.

import { createInterface } from "node:readline";
import process from "node:process";
import { pages, play, scenarios } from "./scenarios.mjs";

// What a page has and Node has not: this one is offline and hidden when the scenario says so.
const page = new EventTarget();
globalThis.addEventListener = page.addEventListener.bind(page);
globalThis.document = new EventTarget();
const device = {};
Object.defineProperty(globalThis, "navigator", { value: device });

const shown = {
  hide: () => (globalThis.document.hidden = true),
  show: () => {
    globalThis.document.hidden = false;
    globalThis.document.dispatchEvent(new Event("visibilitychange"));
  },
  offline: () => (device.onLine = false),
  online: () => {
    device.onLine = true;
    page.dispatchEvent(new Event("online"));
  },
};

// Nobody else's: what no scenario has caught.
const uncaught = [];
for (const event of ["uncaughtException", "unhandledRejection"]) {
  process.on(event, (error) => uncaught.push(`${event}: ${error?.stack ?? error}`));
}

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

async function hear() {
  const { value, done } = await lines.next();
  return done ? undefined : JSON.parse(value);
}

function say(what) {
  process.stdout.write(`${JSON.stringify(what)}\n`);
}

async function order(name) {
  if (shown[name]) return void shown[name]();
  say({ order: name });
  return await hear();
}

say([Object.keys(scenarios), Object.keys(pages)]);
for (let setting; (setting = await hear()); ) {
  const { scenario, verani, port, room, ws } = setting;
  const { VeraniClient } = await import(verani);
  const WebSocket = ws ? (await import(ws)).WebSocket : undefined;
  globalThis.document.hidden = false;
  device.onLine = true;
  const failure = await play(scenario, { VeraniClient, WebSocket, order, port, room });
  await new Promise((resolve) => setImmediate(resolve)); // rejections are unhandled only by then
  say({ failure: failure ?? uncaught.shift() ?? null });
}
if (uncaught.length) {
  console.error(uncaught.join("\n"));
  process.exitCode = 1;
}
