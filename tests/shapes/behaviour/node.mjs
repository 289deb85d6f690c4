// Play one scenario in Node: what `{scenario, verani, control, port, room}` of the argument says; without one, name all.
// `ws` is a package to take the WebSocket from, instead of the global one.

import { pages, play, scenarios } from "./scenarios.mjs";

// What a page has and Node has not: this one is offline and hidden when the scenario says so.
const page = new EventTarget();
globalThis.addEventListener = page.addEventListener.bind(page);
globalThis.document = Object.assign(new EventTarget(), { hidden: false });
const device = { onLine: true };
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

if (process.argv[2]) {
  const { scenario, verani, control, port, room, ws } = JSON.parse(process.argv[2]);
  const { VeraniClient } = await import(verani);
  const WebSocket = ws ? (await import(ws)).WebSocket : undefined;
  const order = async (name) => {
    if (shown[name]) return void shown[name]();
    return await (await fetch(`${control}/${name}`, { method: "POST" })).json();
  };
  const failure = await play(scenario, { VeraniClient, WebSocket, order, port, room });
  process.stdout.write(JSON.stringify(failure));
} else {
  process.stdout.write(JSON.stringify([Object.keys(scenarios), Object.keys(pages)]));
}
