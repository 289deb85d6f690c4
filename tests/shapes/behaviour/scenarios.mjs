// The scenarios of `names.py`, played by the client for browsers, in whatever runs it.

const PATIENCE = 30_000; // ms
const QUICK = { initialDelay: 1, maxDelay: 20 };

// What a scenario has: orders to the test (its wire, its gate, its page), a room of its own, and clients that are
// closed after it.
export class Stage {
  #clients = [];

  constructor({ VeraniClient, WebSocket, order, port, room }) {
    Object.assign(this, { VeraniClient, WebSocket, order, port, room });
  }

  url(path = "chat", query = {}) {
    return `ws://127.0.0.1:${this.port}/${path}/${this.room}?${new URLSearchParams(query)}`;
  }

  client(url = this.url(), { reconnection, ...options } = {}) {
    const client = new this.VeraniClient(url, {
      reconnection: { ...QUICK, ...reconnection },
      connectionTimeout: PATIENCE,
      pongTimeout: PATIENCE,
      WebSocket: this.WebSocket,
      ...options,
    });
    this.#clients.push(client);
    return client;
  }

  async connected(url, options) {
    const client = this.client(url, options);
    await client.waitForConnection();
    return client;
  }

  close() {
    for (const client of this.#clients) client.close();
  }
}

// --- what a scenario says -------------------------------------------------------------------------------

function equal(found, expected) {
  const [a, b] = [JSON.stringify(found), JSON.stringify(expected)];
  if (a !== b) throw new Error(`expected ${b}, found ${a}`);
}

function ok(condition, what) {
  if (!condition) throw new Error(`expected ${what}`);
}

async function fails(promise, code) {
  const error = await promise.then(
    (value) => Promise.reject(new Error(`expected ${code}, got ${JSON.stringify(value)}`)),
    (error) => error,
  );
  if (error.code !== code) throw error;
  return error;
}

function throws(action, kind) {
  try {
    action();
  } catch (error) {
    if (error.name === kind || error.code === kind) return error;
    throw error;
  }
  throw new Error(`expected ${kind}`);
}

// Keep what these events tell, each behind the name of its event; `list.until(n)` waits until there are so many.
function heard(client, ...events) {
  const list = [];
  const waiting = [];
  for (const event of events) {
    client.on(event, (told) => {
      list.push([event, told]);
      for (const look of waiting) look();
    });
  }
  list.until = (count) =>
    new Promise((resolve) => {
      const look = () => list.length >= count && resolve();
      waiting.push(look);
      look();
    });
  return list;
}

const names = (list) => list.map(([event]) => event);
const ns = (list) => list.map(([, data]) => data.n);
const ask = (client, event, data, options) => client.request(event, data, { timeout: PATIENCE, ...options });
const inState = (client, state) =>
  new Promise((resolve) => {
    const look = () => client.getState() === state && resolve();
    client.onStateChange(look);
    look();
  });

export const scenarios = {
  // --- what comes ---------------------------------------------------------------------------------------

  async "a client connects and says what happens"(stage) {
    const client = stage.client();
    const states = [];
    client.onStateChange((state) => states.push(state));
    const told = heard(client, "connecting", "open", "connected", "close", "disconnected");
    equal([client.getState(), client.isConnecting, client.isConnected()], ["connecting", true, false]);
    await client.waitForConnection();
    equal([client.getState(), client.isConnecting, client.isConnected()], ["connected", false, true]);
    const { connectionId, ...info } = client.getConnectionState();
    equal(info, { state: "connected", isConnected: true, isConnecting: false, reconnectAttempts: 0 });
    ok(connectionId > 0, "a connection with a number");
    client.close();
    const closing = { code: 1000, reason: "" };
    equal(told, [["open", undefined], ["connected", undefined], ["close", closing], ["disconnected", closing]]);
    equal([states, client.getState()], [["connected", "disconnected"], "disconnected"]);
  },

  async "a listener gets the data of its events in order"(stage) {
    const client = await stage.connected();
    const told = heard(client, "replied");
    for (const n of [0, 1, 2]) client.emit("reply", { n });
    await told.until(3);
    equal(told, [0, 1, 2].map((n) => ["replied", { type: "replied", n }]));
  },

  async "a listener of all events gets name, data and channel"(stage) {
    const client = await stage.connected();
    const found = [];
    client.on("replied", (data, channel) => found.push(channel));
    const all = heard(client, "*");
    client.on("*", (event) => found.push(event));
    client.emit("reply", { n: 1 });
    await all.until(1);
    equal(found, ["default", { type: "replied", data: { type: "replied", n: 1 }, channel: "default" }]);
  },

  async "once is one event, and off is none"(stage) {
    const client = await stage.connected();
    const calls = [];
    const twice = () => calls.push("twice");
    const never = () => calls.push("never");
    client.once("replied", () => calls.push("once"));
    client.on("replied", twice);
    client.on("replied", twice);
    client.on("replied", never);
    const stop = client.on("replied", () => calls.push("never"));
    client.off("replied", never);
    stop();
    const told = heard(client, "replied");
    client.emit("reply", {});
    client.emit("reply", {});
    await told.until(2);
    equal(calls, ["once", "twice", "twice"]);
    client.off("replied");
    client.emit("reply", {});
    await ask(client, "echo");
    equal(calls.length, 3);
  },

  async "a listener that throws is told to error and stops nobody"(stage) {
    const client = await stage.connected();
    const [error, late] = [new Error("on purpose"), new Error("on purpose, later")];
    const errors = heard(client, "error");
    client.on("replied", () => {
      throw error;
    });
    client.on("replied", async () => {
      await null;
      throw late;
    });
    const told = heard(client, "replied");
    for (const n of [0, 1]) client.emit("reply", { n });
    await told.until(2);
    await errors.until(4);
    equal(ns(told), [0, 1]);
    for (const each of [error, late]) equal(errors.filter(([, told]) => told === each).length, 2);
    equal(await ask(client, "echo", 1), 1);
  },

  async "events with names of the client's own reach only those who listen to all"(stage) {
    const own = ["open", "close", "connected", "disconnected", "connecting", "reconnecting", "*", "verani.dropped"];
    const client = await stage.connected(stage.url("chat", { userId: "ann" }));
    const told = heard(client, ...own.filter((name) => name !== "*"), "error");
    const all = heard(client, "*");
    for (const name of [...own, "error"]) client.emit("utter", name);
    await all.until(own.length + 1);
    equal(all.map(([, { type }]) => type), [...own, "error"]);
    equal(told, [["error", { type: "error", by: "ann" }]]);
  },

  // --- what is sent -------------------------------------------------------------------------------------

  async "what is emitted before there is a connection is sent in order"(stage) {
    const client = stage.client();
    const told = heard(client, "replied");
    for (let n = 0; n < 20; n++) client.emit("reply", { n });
    await told.until(20);
    equal(ns(told), [...Array(20).keys()]);
  },

  async "the oldest of too many frames that wait are dropped, and that is told"(stage) {
    const client = stage.client(stage.url(), { maxQueueSize: 3 });
    const [told, dropped] = [heard(client, "replied"), heard(client, "verani.dropped")];
    for (let n = 0; n < 5; n++) client.emit("reply", { n });
    await told.until(3);
    await dropped.until(1);
    equal(ns(told), [2, 3, 4]);
    equal(dropped, [["verani.dropped", 2]]);
  },

  async "a name of the client's own is sent all the same"(stage) {
    await fails(ask(await stage.connected(), "open"), "not_found");
  },

  // --- requests -----------------------------------------------------------------------------------------

  async "a request brings the answer of the room"(stage) {
    const client = await stage.connected();
    equal(await ask(client, "echo", { a: [1, null] }), { a: [1, null] });
    equal(await ask(client, "nick", "Annie"), null);
    equal(await Promise.all([0, 1, 2, 3, 4].map((n) => ask(client, "echo", n))), [0, 1, 2, 3, 4]);
  },

  async "a request fails with the code of the room, its path and its text"(stage) {
    const client = await stage.connected();
    const invalid = await fails(ask(client, "say", { channel: 5 }), "invalid");
    equal([invalid.path, invalid.public], ["$.channel", undefined]);
    const forbidden = await fails(ask(client, "mute", "You are muted"), "forbidden");
    equal([forbidden.public, forbidden.message], ["You are muted", "You are muted"]);
    await fails(ask(client, "nobody handles this"), "not_found");
  },

  async "a request waits for the connection"(stage) {
    equal(await ask(stage.client(), "echo", 1), 1);
  },

  async "a request fails at its deadline"(stage) {
    const client = await stage.connected();
    await fails(ask(client, "wait", { gate: await stage.order("gate") }, { timeout: 20 }), "deadline");
    await stage.order("open");
    equal(await ask(client, "echo", 1), 1);
  },

  async "a request that is taken back before it was sent is never sent"(stage) {
    await stage.order("block");
    const client = stage.client(stage.url(), { reconnection: { maxAttempts: 0 } });
    const control = new AbortController();
    const request = ask(client, "note", "taken back", { signal: control.signal });
    control.abort();
    ok((await fails(request, 20)).name === "AbortError", "the reason of the signal");
    await stage.order("unblock");
    equal(await ask(client, "note", "kept"), ["kept"]);
  },

  async "a request whose connection ends may have run, and says how it ended"(stage) {
    const client = await stage.connected();
    const request = ask(client, "quit_then_wait", await stage.order("gate"));
    equal((await fails(request, "interrupted")).closing.code, 4000);
    await stage.order("open");
    equal(await ask(client, "echo", 1), 1);
  },

  async "a request that is too large says so"(stage) {
    const client = await stage.connected();
    await fails(ask(client, "echo", "x".repeat(100_000)), "too_large");
    equal(await ask(client, "echo", 1), 1);
  },

  async "a request of a client that has ended is not sent"(stage) {
    const client = await stage.connected();
    client.emit("quit", 1000);
    await inState(client, "disconnected");
    await fails(ask(client, "echo"), "not_sent");
  },

  async "the keepalive is no request"(stage) {
    const error = await ask(await stage.connected(), "ping").catch((error) => error);
    equal(error.name, "TypeError");
  },

  // --- coming back --------------------------------------------------------------------------------------

  async "a client comes back after every code but 1000"(stage) {
    const client = await stage.connected();
    const closes = heard(client, "close");
    const codes = [1008, 1011, 1012, 1013, 4001, 4009];
    for (const [n, code] of codes.entries()) {
      client.emit("quit", code);
      await closes.until(n + 1);
      equal(await ask(client, "echo", code), code);
    }
    equal(closes, codes.map((code) => ["close", { code, reason: "as asked" }]));
  },

  async "a client comes back after its connection was lost"(stage) {
    const client = await stage.connected();
    const closes = heard(client, "close");
    await stage.order("cut");
    await closes.until(1);
    equal(closes, [["close", { code: 1006, reason: "" }]]);
    equal(await ask(client, "echo", 1), 1);
  },

  async "what is emitted while there is no connection is sent after it"(stage) {
    const client = await stage.connected(stage.url(), { reconnection: { maxAttempts: 0 } });
    const [told, closes] = [heard(client, "replied"), heard(client, "close")];
    await stage.order("block");
    await stage.order("cut");
    await closes.until(1);
    for (const n of [0, 1, 2]) client.emit("reply", { n });
    await stage.order("unblock");
    await told.until(3);
    equal(ns(told), [0, 1, 2]);
  },

  async "a connection that answers no ping is given up, and the client comes back"(stage) {
    const client = await stage.connected(stage.url(), { pingInterval: 10, pongTimeout: 2000 });
    const closes = heard(client, "close");
    await stage.order("freeze");
    await closes.until(1);
    equal(closes[0][1].code, 1006);
    await stage.order("thaw");
    equal(await ask(client, "echo", 1), 1);
  },

  async "a handshake that takes too long is given up, and tried again"(stage) {
    await stage.order("freeze");
    const client = stage.client(stage.url(), { connectionTimeout: 1000, reconnection: { maxAttempts: 0 } });
    const errors = heard(client, "error");
    await errors.until(1);
    equal(errors[0][1].code, "unreachable");
    await stage.order("thaw");
    equal(await ask(client, "echo", 1), 1);
  },

  async "delays grow, are random, and start anew when a connection has proved itself"(stage) {
    await stage.order("block");
    const reconnection = { initialDelay: 1, maxDelay: 8, backoffMultiplier: 2, maxAttempts: 0 };
    const client = stage.client(stage.url(), { reconnection });
    const retries = heard(client, "reconnecting");
    await retries.until(6);
    await stage.order("unblock");
    const told = retries.slice(0, 6).map(([, retry]) => retry);
    const ceilings = [1, 2, 4, 8, 8, 8];
    equal(told.map(({ attempt }) => attempt), [1, 2, 3, 4, 5, 6]);
    ok(told.every(({ delay }, n) => delay >= 0 && delay <= ceilings[n]), "delays below their ceilings");
    ok(told.some(({ delay }, n) => delay !== ceilings[n]), "delays that are random");
    equal(await ask(client, "echo", 1), 1);
    const before = retries.length;
    await stage.order("cut");
    await retries.until(before + 1);
    equal(retries[before][1].attempt, 1);
  },

  async "a connection that the server ends does not start the delays anew"(stage) {
    const client = await stage.connected();
    const retries = heard(client, "reconnecting");
    for (const n of [1, 2, 3]) {
      equal(await ask(client, "echo", n), n);
      client.emit("quit", 4009);
      await retries.until(n);
    }
    equal(retries.map(([, { attempt }]) => attempt), [1, 2, 3]);
  },

  async "a URL may be another one for each attempt"(stage) {
    const users = ["ann", "bob"];
    const client = await stage.connected(() => stage.url("chat", { userId: users.shift() }));
    equal((await ask(client, "who")).user, "ann");
    const closes = heard(client, "close");
    await stage.order("cut");
    await closes.until(1);
    equal((await ask(client, "who")).user, "bob");
  },

  // --- giving up ----------------------------------------------------------------------------------------

  async "a client gives up after as many failures as it may have"(stage) {
    await stage.order("block");
    const client = stage.client(stage.url(), { reconnection: { maxAttempts: 3 } });
    const told = heard(client, "error", "reconnecting");
    await fails(client.waitForConnection(), "unreachable");
    equal(client.getState(), "error");
    equal(names(told), ["error", "reconnecting", "error", "reconnecting", "error"]);
    await fails(ask(client, "echo"), "not_sent");
  },

  async "a client that may try for ever does"(stage) {
    await stage.order("block");
    const client = stage.client(stage.url(), { reconnection: { initialDelay: 1, maxDelay: 1, maxAttempts: 0 } });
    await heard(client, "reconnecting").until(12);
    await stage.order("unblock");
    await client.waitForConnection();
  },

  async "a client that may not reconnect does not"(stage) {
    const client = await stage.connected(stage.url(), { reconnection: { enabled: false } });
    const closes = heard(client, "close");
    client.emit("quit", 1012);
    await closes.until(1);
    equal(client.getState(), "disconnected");
    await fails(ask(client, "echo"), "not_sent");
    equal((await fails(client.waitForConnection(), "unreachable")).closing.code, 1012);
  },

  async "a client that the room refuses gives up with the room's reason"(stage) {
    const client = stage.client(stage.url("chat", { userId: "unwelcome" }));
    const told = heard(client, "error", "close", "reconnecting");
    await fails(ask(client, "echo"), "forbidden");
    equal(client.getState(), "error");
    await fails(client.waitForConnection(), "forbidden");
    await fails(ask(client, "echo"), "forbidden");
    equal(told[0], ["close", { code: 1000, reason: "forbidden" }]);
    equal([told.length, told[1][1].code], [2, "forbidden"]);
  },

  async "a client whose room fails has not proved itself"(stage) {
    const client = stage.client(stage.url("chat", { userId: "unwanted" }), { reconnection: { maxAttempts: 2 } });
    const [errors, closes] = [heard(client, "error"), heard(client, "close")];
    await errors.until(1);
    equal(closes.map(([, { code }]) => code), [1011, 1011]);
    equal([errors[0][1].closing.code, client.getState()], [1011, "error"]);
  },

  async "a client stays away after 1000 until it is told to connect"(stage) {
    const client = await stage.connected();
    const told = heard(client, "close", "reconnecting");
    client.emit("quit", 1000);
    await told.until(1);
    await fails(client.waitForConnection(), "unreachable");
    equal(told, [["close", { code: 1000, reason: "as asked" }]]);
    client.reconnect();
    equal(await ask(client, "echo", 1), 1);
  },

  // --- tokens -------------------------------------------------------------------------------------------

  async "a token is asked for before each handshake"(stage) {
    const users = ["ann", "bob"];
    const client = await stage.connected(stage.url("vault"), { token: async () => `${users.shift()}.3600` });
    equal(await ask(client, "who"), "ann");
    const closes = heard(client, "close");
    await stage.order("cut");
    await closes.until(1);
    equal(await ask(client, "who"), "bob");
  },

  async "a token that is about to expire is renewed"(stage) {
    const came = [];
    let refreshed;
    const isRefreshed = new Promise((resolve) => (refreshed = resolve));
    // What the client keeps to itself is seen on its socket.
    class Watched extends (stage.WebSocket ?? globalThis.WebSocket) {
      constructor(...all) {
        super(...all);
        this.addEventListener("message", ({ data }) => {
          came.push(JSON.parse(data).type);
          if (came.includes("verani.refreshed")) refreshed();
        });
      }
    }
    const tokens = ["ann.20", "ann.3600"];
    const client = await stage.connected(stage.url("vault"), { token: () => tokens.shift(), WebSocket: Watched });
    const all = heard(client, "*");
    await isRefreshed;
    equal(await ask(client, "who"), "ann");
    equal([tokens, all, came.slice(0, 2)], [[], [], ["verani.expiring", "verani.refreshed"]]);
  },

  async "a function that fails to give a token is asked again"(stage) {
    const tokens = ["", "ann.3600"];
    const client = stage.client(stage.url("vault"), { token: () => tokens.shift() });
    const errors = heard(client, "error");
    equal(await ask(client, "who"), "ann");
    equal([errors.length, errors[0][1].code, errors[0][1].cause.name], [1, "unreachable", "TypeError"]);
  },

  async "a token that nobody takes is no connection"(stage) {
    const client = stage.client(stage.url("vault"), { token: "bad", reconnection: { maxAttempts: 2 } });
    await fails(client.waitForConnection(), "unreachable");
    equal(client.getState(), "error");
  },

  async "a token that no header can carry is refused at once"(stage) {
    for (const token of ["two words", "", "n\u00e9e", 5]) throws(() => stage.client(stage.url(), { token }), "TypeError");
  },

  // --- the end ------------------------------------------------------------------------------------------

  async "waiting for a connection ends with it, in time, or with the client"(stage) {
    await stage.order("freeze");
    const client = stage.client();
    await fails(client.waitForConnection(20), "deadline");
    const waiter = client.waitForConnection();
    await stage.order("thaw");
    await waiter;
    await client.waitForConnection();
    client.close();
    await fails(client.waitForConnection(), "unreachable");
  },

  async "close is final and may be repeated"(stage) {
    const watcher = await stage.connected(stage.url("chat", { channels: "presence" }));
    equal(await ask(watcher, "echo", 1), 1);
    const left = heard(watcher, "left");
    const client = await stage.connected();
    equal(await ask(client, "echo", 1), 1);
    client.close(4000, "bye");
    client.close();
    await left.until(1);
    equal([left[0][1].code, left[0][1].reason], [4000, "bye"]);
    equal(client.getState(), "disconnected");
    throws(() => client.emit("echo"), "not_sent");
    await fails(ask(client, "echo"), "not_sent");
    throws(() => client.reconnect(), "unreachable");
    client.disconnect();
  },

  async "a close code that cannot be sent is refused, and nothing else happens"(stage) {
    const client = await stage.connected();
    for (const code of [1006, 1001, 2999, 5000]) {
      throws(() => client.close(code), "RangeError");
      throws(() => client.disconnect(code), "RangeError");
    }
    equal(await ask(client, "echo", 1), 1);
  },

  async "numbers that make no sense are refused"(stage) {
    for (const name of ["maxQueueSize", "connectionTimeout", "pingInterval", "pongTimeout"]) {
      const error = throws(() => stage.client(stage.url(), { [name]: -1 }), "RangeError");
      ok(error.message.includes(name), "the name of the option");
    }
    for (const name of ["maxAttempts", "initialDelay", "maxDelay", "backoffMultiplier"]) {
      throws(() => stage.client(stage.url(), { reconnection: { [name]: NaN } }), "RangeError");
    }
  },
};

// What only pages do: `stage.order` shows and hides the page, and takes its network away.
export const pages = {
  async "a page that is looked at again comes back at once"(stage) {
    const client = await stage.connected(stage.url(), { reconnection: { initialDelay: 2 ** 30, maxDelay: 2 ** 30 } });
    equal(await ask(client, "echo", 1), 1);
    await stage.order("hide");
    await stage.order("cut");
    await inState(client, "reconnecting");
    await stage.order("show");
    equal(await ask(client, "echo", 1), 1);
  },

  async "a page whose network returns comes back at once"(stage) {
    const client = await stage.connected(stage.url(), { reconnection: { initialDelay: 2 ** 30, maxDelay: 2 ** 30 } });
    equal(await ask(client, "echo", 1), 1);
    await stage.order("offline");
    await stage.order("cut");
    await inState(client, "reconnecting");
    await stage.order("online");
    equal(await ask(client, "echo", 1), 1);
  },

  async "a page that is looked at again finds out that its connection is dead"(stage) {
    const client = await stage.connected(stage.url(), { pingInterval: 2 ** 30, pongTimeout: 100 });
    const closes = heard(client, "close");
    await stage.order("freeze");
    await stage.order("show");
    await closes.until(1);
    equal(closes[0][1].code, 1006);
    await stage.order("thaw");
    await client.waitForConnection();
  },

  async "a page that had given up comes back when it is looked at again"(stage) {
    await stage.order("block");
    const client = stage.client(stage.url(), { reconnection: { maxAttempts: 2 } });
    await fails(client.waitForConnection(), "unreachable");
    await stage.order("unblock");
    await stage.order("show");
    equal(await ask(client, "echo", 1), 1);
    client.emit("quit", 1000);
    await inState(client, "disconnected");
    await stage.order("show");
    equal(client.getState(), "disconnected");
  },

  async "attempts of a device that is offline are not counted"(stage) {
    await stage.order("offline");
    await stage.order("block");
    const client = stage.client(stage.url(), { reconnection: { maxAttempts: 2 } });
    await heard(client, "reconnecting").until(5);
    await stage.order("unblock");
    await stage.order("online");
    equal(await ask(client, "echo", 1), 1);
  },

  async "reconnect connects anew"(stage) {
    const client = await stage.connected();
    const told = heard(client, "close", "disconnected", "connecting", "open");
    const first = client.getConnectionState().connectionId;
    client.reconnect();
    equal(await ask(client, "echo", 1), 1);
    equal(names(told), ["close", "disconnected", "connecting", "open"]);
    ok(client.getConnectionState().connectionId > first, "another connection");
    client.onClose(() => client.reconnect()); // also by a listener
    client.emit("quit", 1000);
    equal(await ask(client, "echo", 2).catch((error) => error.code), "interrupted");
    equal(await ask(client, "echo", 3), 3);
    client.off("close");
  },

  async "disconnect stays away, also from what the page tells"(stage) {
    const client = await stage.connected();
    const told = heard(client, "replied");
    client.disconnect();
    equal(client.getState(), "disconnected");
    await fails(ask(client, "echo"), "not_sent");
    client.emit("reply", { n: 1 });
    await stage.order("show");
    equal(client.getState(), "disconnected");
    client.reconnect();
    await told.until(1);
    client.disconnect(4000, "for now");
    const waiting = stage.client(stage.url());
    waiting.disconnect(); // while it connects
    await fails(waiting.waitForConnection(), "unreachable");
  },

  async "a request is aborted by its signal"(stage) {
    const client = await stage.connected();
    const reason = new Error("enough");
    const control = new AbortController();
    const request = ask(client, "wait", { gate: await stage.order("gate") }, { signal: control.signal });
    control.abort(reason);
    equal((await request.catch((error) => error)) === reason, true);
    equal((await ask(client, "echo", 1, { signal: control.signal }).catch((error) => error)) === reason, true);
    await stage.order("open");
    equal(await ask(client, "echo", 1), 1);
  },

  async "a URL may be that of a page"(stage) {
    const client = await stage.connected(`${stage.url().replace("ws:", "http:")}#fragment`);
    equal(await ask(client, "echo", 1), 1);
    for (const url of ["ftp://127.0.0.1/", "ws://"]) throws(() => stage.client(url), "TypeError");
    throws(() => stage.client(stage.url(), { WebSocket: null }), "TypeError");
  },
};

// Play one scenario on a stage of its own; say what went wrong, or nothing.
export async function play(name, setting) {
  const stage = new Stage(setting);
  try {
    await { ...scenarios, ...pages }[name](stage);
    return null;
  } catch (error) {
    return `${error?.stack ?? error}`;
  } finally {
    stage.close();
  }
}
