// What the client for browsers does with time and with what no server of ours sends: on a clock and on sockets that
// the test moves. What it does with a service is in tests/shapes/behaviour.

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

const { VeraniClient } = await import(process.env.VERANI_JS);

// --- time and sockets that are the test's -----------------------------------------------------------------

const real = { setTimeout, clearTimeout, setInterval, clearInterval, performance, random: Math.random };

class Clock {
  now = 0;
  timers = new Map(); // id -> {due, run, every}
  #last = 0;

  install() {
    globalThis.setTimeout = (run, delay = 0) => this.#add(run, delay);
    globalThis.setInterval = (run, delay) => this.#add(run, delay, delay);
    globalThis.clearTimeout = globalThis.clearInterval = (id) => this.timers.delete(id);
    Object.defineProperty(globalThis, "performance", { value: { now: () => this.now }, configurable: true });
  }

  #add(run, delay, every) {
    assert.ok(delay >= 0 && delay < 2 ** 31, `a timer of ${delay} ms`);
    this.timers.set(++this.#last, { due: this.now + delay, run, every });
    return this.#last;
  }

  // Let time pass, and everything that is due happen in its order.
  async pass(ms) {
    const end = this.now + ms;
    for (;;) {
      await settled();
      const [id, next] = [...this.timers].sort(([, a], [, b]) => a.due - b.due)[0] ?? [];
      if (!next || next.due > end) break;
      this.now = Math.max(this.now, next.due);
      if (next.every) next.due += next.every;
      else this.timers.delete(id);
      next.run();
    }
    this.now = end;
  }

  // Let time pass until the next timer has run.
  async next() {
    await settled();
    await this.pass(Math.max(0, Math.min(...[...this.timers.values()].map(({ due }) => due)) - this.now));
    await settled();
  }

  // Let time pass in which nothing runs, as in a page that is frozen.
  freeze(ms) {
    this.now += ms;
  }
}

const settled = async () => {
  for (let n = 0; n < 10; n++) await null;
};

class Socket {
  static all = [];
  readyState = 0;
  bufferedAmount = 0;
  sent = [];
  closed = null;

  constructor(url, protocols) {
    Object.assign(this, { url, protocols });
    Socket.all.push(this);
  }

  open() {
    this.readyState = 1;
    this.onopen?.({});
  }

  send(text) {
    this.sent.push(text);
  }

  says(frame) {
    this.onmessage?.({ data: typeof frame === "string" ? frame : JSON.stringify(frame) });
  }

  ends(code, reason = "") {
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }

  close(...how) {
    this.readyState = 2;
    this.closed = how;
  }
}

let clock, logged, clients;

beforeEach(() => {
  clock = new Clock();
  clock.install();
  Socket.all = [];
  clients = [];
  logged = [];
  console.error = (...what) => logged.push(what.join(" "));
  console.warn = (...what) => logged.push(what.join(" "));
});

afterEach(() => {
  for (const client of clients) client.close();
  assert.equal(clock.timers.size, 0, "nothing waits for a client that is closed");
  const { performance, random, ...timers } = real;
  Object.assign(globalThis, timers);
  Object.defineProperty(globalThis, "performance", { value: performance, configurable: true });
  Math.random = random;
});

function make(options = {}, url = "ws://localhost/ws") {
  clients.push(new VeraniClient(url, { WebSocket: Socket, ...options }));
  return clients.at(-1);
}

async function opened(options) {
  const client = make(options);
  await settled();
  Socket.all.at(-1).open();
  return [client, Socket.all.at(-1)];
}

const pings = (socket) => socket.sent.filter((text) => text === '{"type":"ping"}').length;

// --- what is on the wire ------------------------------------------------------------------------------------

test("frames are those of the protocol, to the byte", async () => {
  const [client, socket] = await opened();
  client.emit("a");
  client.emit("b", null);
  client.emit("c", { text: "\u20ac", nothing: undefined, number: NaN });
  client.request("d", [1]).catch(() => {});
  client.emit("open");
  assert.deepEqual(socket.sent, [
    '{"type":"a"}',
    '{"type":"b","data":null}',
    '{"type":"c","data":{"text":"\u20ac","number":null}}',
    '{"type":"d","data":[1],"id":1}',
    '{"type":"open"}',
  ]);
  assert.equal(logged.length, 1);
  client.emit("open");
  assert.equal(logged.length, 1, "a name that collides is warned of once");
  await clock.pass(5000);
  assert.equal(socket.sent.at(-1), '{"type":"ping"}');
});

test("without a token no subprotocol is offered, as the protocol has it", async () => {
  make();
  make({ token: "a.b" });
  make({ token: () => "c", protocols: ["chat"] });
  await settled();
  const offered = Socket.all.map(({ protocols }) => protocols);
  assert.deepEqual(offered, [[], ["verani", "bearer.a.b"], ["chat", "bearer.c"]]);
});

test("what is no frame is ignored, and what nobody waits for too", async () => {
  const [client, socket] = await opened();
  const events = [];
  client.on("*", (event) => events.push(event));
  for (const text of ["", "{", "null", "5", '"text"', "[]", "{}", '{"type":5}', '{"type":null}']) socket.says(text);
  for (const data of [new Blob(["{}"]), new ArrayBuffer(2), undefined]) socket.onmessage({ data });
  for (const id of [undefined, null, "1", 1, 2 ** 60, {}]) socket.says({ type: "ack", id, data: 1 });
  socket.says({ type: "pong" });
  assert.deepEqual(events, []);
  socket.says({ type: "event", data: 5, channel: 7 });
  socket.says({ type: "event", data: { type: 5 } });
  socket.says({ type: "later.version", data: { type: "x" }, more: 1 });
  assert.deepEqual(events.map(({ type, channel }) => [type, channel]), [
    ["event", undefined],
    ["event", undefined],
    ["later.version", undefined],
  ]);
});

test("whatever stands in an answer, its request ends", async () => {
  const [client, socket] = await opened();
  const ends = [];
  for (const error of [{}, "no", 5, true, { code: "new", message: "Not now", path: "$" }]) {
    const end = client.request("x").catch(({ code, message, path }) => [code, message, path]);
    socket.says({ type: "ack", id: ends.length + 1, error });
    ends.push(end);
  }
  const unnamed = ["failed", "the room answered x with failed", undefined];
  assert.deepEqual(await Promise.all(ends), [unnamed, unnamed, unnamed, unnamed, ["new", "Not now", "$"]]);
});

test("names of events that no server takes, and data that is no JSON, are refused at once", async () => {
  const [client, socket] = await opened();
  for (const name of [5, undefined, null, "x".repeat(256), "a\nb", "a\u202eb", "a\u2028b"]) {
    assert.throws(() => client.emit(name), TypeError);
    await assert.rejects(client.request(name), TypeError);
  }
  assert.throws(() => client.emit("x", 1n), TypeError);
  await assert.rejects(client.request("x", 1n), TypeError);
  for (const listener of [undefined, null, "x"]) assert.throws(() => client.on("x", listener), TypeError);
  assert.deepEqual(socket.sent, []);
  client.emit("x".repeat(255));
  assert.equal(socket.sent.length, 1);
});

test("a callback, and a second value, are refused: nobody would call it, or get it", async () => {
  const [client, socket] = await opened();
  const callback = () => {};
  const refused = { name: "TypeError", message: /request gets an answer/ };
  assert.throws(() => client.emit("x", callback), refused);
  assert.throws(() => client.emit("x", { y: 1 }, callback), refused);
  assert.throws(() => client.emit("x", 1, 2), refused);
  await assert.rejects(client.request("x", callback), refused);
  assert.deepEqual(socket.sent, []);
});

test("a socket that takes nothing any more is given no more than it can hold", async () => {
  const [client, socket] = await opened();
  const dropped = [];
  client.on("verani.dropped", (count) => dropped.push(count));
  socket.bufferedAmount = 16 * 2 ** 20;
  client.emit("x");
  client.emit("x");
  await assert.rejects(client.request("x"), { code: "not_sent" });
  assert.deepEqual([socket.sent, dropped], [[], []]);
  await clock.pass(0);
  assert.deepEqual(dropped, [2]);
  socket.bufferedAmount = 0;
  client.emit("x", "y".repeat(17 * 2 ** 20)); // one frame may be as large as it is
  assert.equal(socket.sent.length, 1);
});

test("frames that wait have a limit in characters, too", async () => {
  const client = make({ maxQueueSize: Infinity });
  const dropped = [];
  client.on("verani.dropped", (count) => dropped.push(count));
  for (let n = 0; n < 5; n++) client.emit("x", `${n}`.repeat(4 * 2 ** 20));
  await clock.pass(0);
  assert.deepEqual(dropped, [2]);
  Socket.all[0].open();
  assert.deepEqual(Socket.all[0].sent.map((text) => text[22]), ["2", "3", "4"]);
});

test("a queue of nothing takes nothing", async () => {
  const client = make({ maxQueueSize: 0 });
  client.emit("x");
  await assert.rejects(client.request("x"), { code: "not_sent" });
  await clock.pass(0);
  Socket.all[0].open();
  assert.deepEqual(Socket.all[0].sent, []);
});

test("what is sent to a connection that is closing waits for the next one", async () => {
  const [client, socket] = await opened();
  socket.readyState = 2;
  client.emit("x");
  assert.deepEqual(socket.sent, []);
  socket.ends(1012);
  await clock.pass(1000);
  Socket.all.at(-1).open();
  assert.deepEqual(Socket.all.at(-1).sent, ['{"type":"x"}']);
});

// --- keepalive ----------------------------------------------------------------------------------------------

test("a connection without a sign of life is given up ten seconds after its ping", async () => {
  const [client, socket] = await opened();
  const closes = [];
  client.onClose(({ code }) => closes.push(code));
  await clock.pass(14_999);
  assert.deepEqual([pings(socket), closes, client.isConnected()], [2, [], true]);
  await clock.pass(1);
  assert.deepEqual([closes, client.getState()], [[1006], "reconnecting"]);
  assert.deepEqual(socket.closed, [undefined, undefined], "1006 is never sent");
});

test("whatever comes is a sign of life", async () => {
  const [client, socket] = await opened();
  for (let n = 0; n < 10; n++) {
    await clock.pass(9_000);
    socket.says(n % 2 ? { type: "pong" } : { type: "event", data: {} });
  }
  assert.ok(client.isConnected());
});

test("a page that did not run asks once more before it gives up", async () => {
  const [client, socket] = await opened();
  await clock.pass(5_000);
  clock.freeze(3_600_000);
  await clock.pass(4_999);
  assert.ok(client.isConnected());
  socket.says({ type: "pong" });
  await clock.pass(5_000);
  assert.ok(client.isConnected());
  clock.freeze(3_600_000);
  await clock.pass(5_000);
  assert.equal(client.getState(), "reconnecting");
});

test("a page that runs now and then gives up, too", async () => {
  const [client] = await opened();
  await clock.pass(5_000);
  for (let n = 0; n < 2; n++) {
    assert.ok(client.isConnected());
    clock.freeze(60_000);
    await clock.pass(0);
  }
  assert.equal(client.getState(), "reconnecting");
});

test("a connection that still takes what was sent is no dead one", async () => {
  const [client, socket] = await opened();
  socket.bufferedAmount = 1_000_000;
  for (let n = 0; n < 10; n++) {
    await clock.pass(9_000);
    socket.bufferedAmount -= 1;
  }
  assert.ok(client.isConnected());
  await clock.pass(20_000);
  assert.ok(!client.isConnected());
});

test("without an interval there are no pings", async () => {
  const [client, socket] = await opened({ pingInterval: 0 });
  await clock.pass(3_600_000);
  assert.deepEqual([socket.sent, client.isConnected()], [[], true]);
});

test("a handshake has its time, and so has a token", async () => {
  const client = make({ connectionTimeout: 3_000, token: () => new Promise(() => {}) });
  const errors = [];
  client.onError(({ message }) => errors.push(message));
  await clock.pass(3_000);
  assert.deepEqual(errors, ["there is no connection: no connection within 3000 ms"]);
});

// --- coming back --------------------------------------------------------------------------------------------

// Count how often a client connects to a server that takes connections and ends them.
async function visits(ms, code, between = async () => {}) {
  const client = make({ reconnection: { maxAttempts: 0 } });
  const end = clock.now + ms;
  await settled();
  let served = 0;
  for (; clock.now < end; served++) {
    const socket = Socket.all.at(-1);
    socket.open();
    await between(client, socket);
    socket.ends(code);
    await clock.next();
  }
  return served;
}

for (const chance of [0, 0.5, 0.999]) {
  test(`a server that takes and ends connections sees less than thirty in ten minutes (${chance})`, async () => {
    Math.random = () => chance;
    const served = await visits(600_000, 1011);
    assert.ok(served > 15 && served < 30, `${served}`);
  });
}

test("an answer excuses a restart and no verdict", async () => {
  Math.random = () => 0;
  const answer = async (client, socket) => {
    const answer = client.request("hello");
    socket.says({ type: "ack", id: JSON.parse(socket.sent.at(-1)).id, data: null });
    await answer;
  };
  assert.ok((await visits(20_000, 1012, answer)) >= 18);
  Socket.all = [];
  clients.pop().close();
  assert.ok((await visits(20_000, 4009, answer)) < 8);
});

test("the first end may be a restart, and its delay is all chance; from the second on it is nearly none", async () => {
  Math.random = () => 0.999;
  const client = make();
  const delays = [];
  client.on("reconnecting", ({ delay }) => delays.push(Math.round(delay)));
  await settled();
  for (const code of [1011, 1011, 0]) {
    Socket.all.at(-1).open();
    Socket.all.at(-1).ends(code);
    await clock.next();
  }
  Socket.all.at(-1).ends(1006);
  assert.deepEqual(delays, [1, 751, 1_126, 3]);
});

test("a connection that ends without a code was lost", async () => {
  const [client, socket] = await opened();
  const closes = [];
  client.onClose(({ code }) => closes.push(code));
  socket.ends(0);
  assert.deepEqual(closes, [1006]);
});

test("who was refused stays refused, whatever else happens", async () => {
  const [client, socket] = await opened();
  client.onError(() => {});
  socket.ends(1000, "forbidden");
  client.disconnect();
  await assert.rejects(client.waitForConnection(), { code: "forbidden", closing: { code: 1000, reason: "forbidden" } });
  await assert.rejects(client.request("x"), { code: "forbidden" });
  client.close();
  await assert.rejects(client.request("x"), { code: "not_sent" });
});

test("a connection that lasts proves itself; five seconds at least, and as long as the delay before it", async () => {
  Math.random = () => 0;
  const client = make();
  const attempts = [];
  client.on("reconnecting", ({ attempt, delay }) => attempts.push([attempt, delay]));
  await settled();
  for (const lasting of [0, 4_999, 5_000, 0, 0, 0, 0, 0, 7_593, 11_391]) {
    const socket = Socket.all.at(-1);
    socket.open();
    for (let left = lasting; left > 0; left -= 1_000) {
      await clock.pass(Math.min(left, 1_000));
      socket.says({ type: "pong" });
    }
    socket.ends(1012);
    await clock.next();
  }
  assert.deepEqual(
    attempts.map(([attempt]) => attempt),
    [1, 2, 1, 2, 3, 4, 5, 6, 7, 1],
  );
  assert.deepEqual(
    attempts.slice(0, 8).map(([, delay]) => delay),
    [1_000, 1_500, 1_000, 1_500, 2_250, 3_375, 5_062.5, 7_593.75],
  );
});

test("delays end somewhere, whatever the options", async () => {
  Math.random = () => 0;
  const client = make({ reconnection: { initialDelay: 0, backoffMultiplier: Infinity, maxAttempts: 0 } });
  const delays = [];
  client.on("reconnecting", ({ delay }) => delays.push(delay));
  for (let n = 0; n < 3; n++) {
    await clock.pass(1);
    Socket.all.at(-1).ends(1006);
  }
  assert.deepEqual(delays, [0, 0, 0]);
  for (const name of ["connectionTimeout", "pingInterval", "pongTimeout"]) {
    assert.throws(() => make({ [name]: Infinity }), RangeError);
  }
  assert.throws(() => make({ reconnection: { maxDelay: 2 ** 31 } }), RangeError);
});

test("a client that gives up is heard", async () => {
  make({ reconnection: { enabled: false } });
  await settled();
  Socket.all.at(-1).ends(1006);
  assert.deepEqual(logged, ["[Verani] does not come back: there is no connection"]);
  const heard = make({ reconnection: { enabled: false } });
  heard.onError(() => {});
  await settled();
  Socket.all.at(-1).ends(1006);
  assert.equal(logged.length, 1);
});

test("what is thrown instead of a token may be anything, and a token is nowhere", async () => {
  for (const thrown of [null, undefined, "no", new Error("no")]) {
    const client = make({ reconnection: { maxAttempts: 1 }, token: () => Promise.reject(thrown) });
    await assert.rejects(client.waitForConnection(), { code: "unreachable" });
  }
  const secret = "the.secret token";
  const client = make({ reconnection: { maxAttempts: 1 }, token: () => secret });
  const error = await client.waitForConnection().catch((error) => error);
  for (const text of [error.message, error.stack, `${error.cause}`, ...logged]) assert.ok(!text.includes("secret"), text);
});

test("a new token that does not come is told, and one that comes late is sent to nobody else", async () => {
  let late;
  const tokens = [Promise.resolve("first"), Promise.reject(new Error("no")), new Promise((r) => (late = r))];
  const client = make({ token: () => tokens.shift() });
  const errors = [];
  client.onError(({ message }) => errors.push(message));
  await settled();
  const [socket] = Socket.all;
  socket.open();
  socket.says({ type: "verani.expiring", data: { seconds: 30 } });
  await settled();
  assert.deepEqual([errors, socket.sent], [["there is no new token"], []]);
  socket.says({ type: "verani.expiring", data: { seconds: 30 } });
  client.disconnect();
  late("late");
  await settled();
  assert.deepEqual(socket.sent, []);
});

test("with a token that cannot be renewed, its end is an event", async () => {
  const [client, socket] = await opened({ token: "fixed" });
  const told = [];
  client.on("verani.expiring", (data) => told.push(data));
  socket.says({ type: "verani.expiring", data: { seconds: 30 } });
  client.emit("verani.refresh", { token: "another" });
  assert.deepEqual(told, [{ seconds: 30 }]);
  assert.deepEqual(socket.sent, ['{"type":"verani.refresh","data":{"token":"another"}}']);
});

// --- listeners that call the client ---------------------------------------------------------------------------

for (const event of ["connecting", "open", "connected", "close", "disconnected", "reconnecting", "error"]) {
  for (const call of ["close", "disconnect", "reconnect"]) {
    test(`a listener of ${event} may call ${call}`, async () => {
      const client = make({ reconnection: { maxAttempts: 3 } });
      const states = [];
      client.onStateChange((state) => states.push(state));
      client.once(event, () => client[call]());
      for (let n = 0; n < 3; n++) {
        await clock.pass(1_000);
        const socket = Socket.all.at(-1);
        if (socket.readyState !== 0) continue;
        if (n === 0) {
          socket.ends(1006);
        } else {
          socket.open();
          if (socket.readyState === 1) socket.ends(1012);
        }
      }
      await clock.pass(5_000);
      const live = Socket.all.filter(({ readyState }) => readyState < 2);
      if (call === "reconnect") {
        assert.equal(live.length, 1);
        live[0].open();
        assert.equal(client.getState(), "connected");
      } else {
        assert.equal(live.length, 0);
        assert.equal(client.getState(), "disconnected");
        assert.equal(states.at(-1), "disconnected");
        await assert.rejects(client.waitForConnection(), { code: "unreachable" });
      }
      assert.deepEqual(logged, []);
    });
  }
}

// --- what is left ---------------------------------------------------------------------------------------------

test("requests leave nothing behind, however they end", async () => {
  const [client, socket] = await opened({ pingInterval: 0 });
  const control = new AbortController();
  const ends = [
    client.request("answered"),
    client.request("late", null, { timeout: 10 }),
    client.request("aborted", null, { signal: control.signal }),
    client.request("lost", null, { timeout: Infinity }),
  ].map((promise) => promise.then((data) => data, ({ code, name }) => (code === 20 ? name : code)));
  socket.says({ type: "ack", id: 1, data: "here" });
  control.abort();
  await clock.pass(10);
  assert.equal(clock.timers.size, 0);
  socket.ends(1006);
  assert.deepEqual(await Promise.all(ends), ["here", "deadline", "AbortError", "interrupted"]);
});

// Have a page for a while: what it listens to, by name.
async function withPage(scene) {
  const listening = new Map();
  const page = {
    hidden: false,
    addEventListener: (name, listener, { signal }) => {
      listening.set(name, listener);
      signal.addEventListener("abort", () => listening.delete(name));
    },
  };
  Object.assign(globalThis, { document: page, addEventListener: page.addEventListener });
  try {
    await scene(listening);
  } finally {
    delete globalThis.document;
    delete globalThis.addEventListener;
  }
}

test("a client that is closed listens to its page no more", () =>
  withPage(async (listening) => {
    const client = make();
    assert.deepEqual([...listening.keys()], ["online", "visibilitychange"]);
    client.close();
    assert.equal(listening.size, 0);
  }));

test("a client that may not reconnect does not, whatever the page tells", () =>
  withPage(async (listening) => {
    const client = make({ reconnection: { enabled: false } });
    client.onError(() => {});
    await settled();
    Socket.all[0].ends(1006);
    for (const told of listening.values()) told();
    assert.deepEqual([client.getState(), Socket.all.length], ["error", 1]);
  }));

test("a handshake begins anew over a network that is new, and not because the page is looked at", () =>
  withPage(async (listening) => {
    const client = make();
    await settled();
    listening.get("visibilitychange")();
    await settled();
    assert.equal(Socket.all.length, 1);
    listening.get("online")();
    await settled();
    assert.deepEqual(Socket.all.map(({ readyState }) => readyState), [2, 0]);
    Socket.all[1].open();
    assert.ok(client.isConnected());
    listening.get("online")();
    assert.deepEqual(Socket.all[1].sent, ['{"type":"ping"}']);
    await clock.pass(5_000);
    assert.equal(client.getState(), "reconnecting");
  }));

test("a client that is closed is free, whoever still has its sockets, promises and signals", async () => {
  const control = new AbortController();
  const kept = [control];
  const refs = [];
  await (async () => {
    const client = new VeraniClient(() => "ws://localhost/ws", { WebSocket: Socket, token: async () => "a" });
    client.onStateChange(() => client.getState());
    client.on("x", () => client.emit("y"));
    kept.push(client.waitForConnection());
    await settled();
    Socket.all.at(-1).open();
    for (const options of [{}, { timeout: Infinity }, { signal: control.signal }]) {
      kept.push(client.request("x", 1, options).catch(() => {}));
    }
    Socket.all.at(-1).ends(1012);
    kept.push(client.waitForConnection().catch(() => {}), client.request("x").catch(() => {}));
    await clock.next();
    Socket.all.at(-1).ends(1006);
    client.emit("x");
    client.close();
    refs.push(new WeakRef(client));
  })();
  await Promise.all(kept);
  await new Promise((resolve) => real.setTimeout(resolve)); // a WeakRef holds until the end of its task
  gc();
  assert.deepEqual(refs.map((ref) => ref.deref()), [undefined]);
  assert.equal(Socket.all.length, 2);
});
