// One client of one Verani room. What it does: verani.d.ts. When it comes back, and why: docs/clients.md.
//
// Invariants: a socket that was let go of is never heard of again. A request ends in exactly one way. Listeners may
// call anything: who has told them something goes on only if #generation, which changes with each connection and with
// its end, is the same.

const PROOF = 5_000; // ms that a connection has to last, at least
const SPREAD = 2_000; // ms of a delay left to chance where connections end at once
const LATE = 2_000; // ms by which timers are late where the page did not run
const MAX_UNSENT = 16 * 2 ** 20; // characters
const LONGEST = 2 ** 30; // ms; timers of more than twice as much end at once
const MAX_NAME = 255; // characters
const NOT_IN_NAMES = /[\p{Cc}\p{Bidi_Control}\u2028\u2029]/u;

const LOST = 1006;
const TOO_LARGE = 1009;
const STAY_AWAY = [1000, 1001];
const INNOCENT = [LOST, 1012]; // nobody's verdict on this connection
const REFUSALS = ["invalid", "unauthorized", "forbidden", "not_found", "conflict", "rate_limited", "busy"];
const MEANINGS = {
  1008: "too many frames",
  1009: "a frame was too large",
  1011: "the room has failed",
  1012: "the service restarts",
  1013: "the room or this client is too slow",
  4001: "the token has expired",
  4009: "another connection has the same client id",
};

const STATE = Symbol("state"); // no event has this name
const LIFECYCLE = new Set(["connecting", "open", "connected", "close", "disconnected", "reconnecting"]);
const OURS = new Set([...LIFECYCLE, "*", "verani.dropped"]); // frames of these names are told to "*" only

export class VeraniError extends Error {
  constructor(code, message, { path, text, closing, cause } = {}) {
    super(message, { cause });
    this.name = "VeraniError";
    this.code = code;
    this.path = path;
    this.public = text;
    this.closing = closing;
  }
}

class Listeners {
  #all = new Map(); // event -> Map(listener -> once?)

  add(event, listener, once) {
    if (typeof listener !== "function") throw new TypeError(`expected a function that listens to ${String(event)}`);
    if (!this.#all.has(event)) this.#all.set(event, new Map());
    const those = this.#all.get(event);
    those.set(listener, once && (those.get(listener) ?? true));
    return () => this.remove(event, listener);
  }

  remove(event, listener) {
    if (listener) this.#all.get(event)?.delete(listener);
    if (!listener || !this.#all.get(event)?.size) this.#all.delete(event);
  }

  has(event) {
    return this.#all.has(event);
  }

  clear() {
    this.#all.clear();
  }

  call(event, ...told) {
    for (const [listener, once] of [...(this.#all.get(event) ?? [])]) {
      if (!this.#all.get(event)?.has(listener)) continue; // removed by one before it
      if (once) this.remove(event, listener);
      try {
        listener(...told)?.then?.(undefined, (error) => this.#threw(event, error));
      } catch (error) {
        this.#threw(event, error);
      }
    }
  }

  #threw(event, error) {
    console.error(`[Verani] a listener of ${String(event)} threw:`, error);
    if (event !== "error") this.call("error", error);
  }
}

// When to come back; the rules are those of the Python client.
class Attempts {
  failures = 0; // in a row: attempts and connections that came to nothing
  retries = 0; // in a row: waits
  #delay = 0;
  #wasOpen = false;

  constructor({ enabled = true, maxAttempts = 10, initialDelay = 1_000, maxDelay = 30_000, backoffMultiplier = 1.5 }) {
    const delays = checked({ initialDelay, maxDelay }, LONGEST);
    Object.assign(this, { enabled, ...delays, ...checked({ maxAttempts, backoffMultiplier }) });
  }

  get mayGoOn() {
    return this.enabled && !(this.maxAttempts && this.failures >= this.maxAttempts);
  }

  startAnew() {
    this.failures = this.retries = 0;
  }

  failed() {
    this.#wasOpen = false; // what fails offline was no attempt
    if (globalThis.navigator?.onLine !== false) this.failures++;
  }

  // That a server takes a connection proves nothing: it has to last, or to bring an answer and no verdict.
  ended(code, lasted, wasAnswered) {
    this.#wasOpen = true;
    if (lasted >= Math.max(PROOF, this.#delay) || (wasAnswered && INNOCENT.includes(code))) this.startAnew();
    else this.failures++;
  }

  // Full jitter, but for a server that takes connections and ends them: it wants to be left alone.
  nextDelay() {
    const ceiling = Math.min(this.maxDelay, this.initialDelay * this.backoffMultiplier ** this.retries++) || 0;
    const spread = this.#wasOpen && this.failures > 1 ? Math.min(SPREAD, ceiling / 2) : ceiling;
    return (this.#delay = ceiling - Math.random() * spread);
  }
}

// A promise with a deadline.
class Pending {
  constructor(timeout, late, settled) {
    this.promise = new Promise((resolve, reject) => {
      const settle = (how) => (value) => {
        clearTimeout(timer);
        settled(this);
        how(value);
      };
      this.resolve = settle(resolve);
      this.reject = settle(reject);
    });
    const timer = timeout <= LONGEST && setTimeout(() => this.reject(late()), timeout);
  }
}

export class VeraniClient {
  #options;
  #attempts;
  #listeners = new Listeners();
  #page = new AbortController(); // ends what listens to the page

  #state = "disconnected";
  #over = null; // why it does not come back by itself
  #isClosed = false;

  #generation = 0;
  #socket = null;
  #openedAt = null;
  #wasAnswered = false;
  #largest = 0; // frame over this connection
  #retryTimer;
  #pingTimer;
  #deadline; // of a handshake or a pong

  #queue = [];
  #queued = 0; // characters
  #dropped = 0; // since that was last told
  #lastId = 0;
  #requests = new Map(); // id -> Pending with event, sent and size
  #waiters = new Set();
  #warned = new Set();

  constructor(
    url,
    {
      reconnection = {},
      maxQueueSize = 100,
      connectionTimeout = 10_000,
      pingInterval = 5_000,
      pongTimeout = 5_000,
      token = null,
      protocols = token === null ? [] : ["verani"],
      WebSocket = globalThis.WebSocket,
    } = {},
  ) {
    const durations = checked({ connectionTimeout, pingInterval, pongTimeout }, LONGEST);
    if (!WebSocket) throw new TypeError("expected a global WebSocket, or one in the options");
    if (typeof url !== "function") socketURL(url);
    if (typeof token !== "function" && token !== null) bearer(token);
    this.#options = { url, token, protocols, WebSocket, ...durations, ...checked({ maxQueueSize }) };
    this.#attempts = new Attempts(reconnection);
    const { signal } = this.#page;
    const { document } = globalThis;
    // A handshake that began over another network may hang.
    const online = () => (this.isConnecting ? this.#connect() : this.#wake());
    globalThis.addEventListener?.("online", online, { signal });
    document?.addEventListener("visibilitychange", () => document.hidden || this.#wake(), { signal });
    this.#connect();
  }

  // --- listeners ------------------------------------------------------------------------------------------

  on(event, listener) {
    return this.#listeners.add(event, listener, false);
  }

  once(event, listener) {
    return this.#listeners.add(event, listener, true);
  }

  off(event, listener) {
    this.#listeners.remove(event, listener);
  }

  onOpen(listener) {
    return this.on("open", listener);
  }

  onClose(listener) {
    return this.on("close", listener);
  }

  onError(listener) {
    return this.on("error", listener);
  }

  onStateChange(listener) {
    return this.on(STATE, listener);
  }

  // --- what it is -----------------------------------------------------------------------------------------

  getState() {
    return this.#state;
  }

  isConnected() {
    return this.#state === "connected";
  }

  get isConnecting() {
    return this.#state === "connecting";
  }

  getConnectionState() {
    return {
      state: this.#state,
      isConnected: this.isConnected(),
      isConnecting: this.isConnecting,
      reconnectAttempts: this.#attempts.retries,
      connectionId: this.#generation,
    };
  }

  waitForConnection(timeout = 2 * this.#options.connectionTimeout) {
    if (this.isConnected()) return Promise.resolve();
    if (this.#over) return Promise.reject(this.#over);
    const late = () => new VeraniError("deadline", `no connection within ${timeout} ms`);
    const waiter = new Pending(timeout, late, () => this.#waiters.delete(waiter));
    this.#waiters.add(waiter);
    return waiter.promise;
  }

  // --- sending --------------------------------------------------------------------------------------------

  emit(event, data, ...more) {
    if (more.length) throw new TypeError(`expected one value as the data of ${event}; request gets an answer`);
    this.#post(event, data);
  }

  async request(event, data, { timeout = 5_000, signal } = {}) {
    signal?.throwIfAborted();
    if (event === "ping") throw new TypeError("expected another event: ping is the keepalive, no room answers it");
    if (this.#over) throw this.#over.code === "unreachable" ? notSent(event, this.#over.message) : this.#over;
    const id = ++this.#lastId;
    const abort = () => request.reject(signal.reason);
    const late = () => {
      const waits = request.sent ? "" : ": it was not sent";
      return new VeraniError("deadline", `no answer to ${event} within ${timeout} ms${waits}`);
    };
    const request = new Pending(timeout, late, () => {
      signal?.removeEventListener("abort", abort);
      this.#requests.delete(id);
      if (!request.sent) this.#withdraw(id);
    });
    Object.assign(request, { event, sent: false });
    this.#requests.set(id, request);
    signal?.addEventListener("abort", abort);
    try {
      this.#post(event, data, id);
    } catch (error) {
      request.reject(error);
    }
    return request.promise;
  }

  #post(event, data, id) {
    if (this.#isClosed) throw notSent(event, "the client is closed");
    if (typeof event !== "string" || event.length > MAX_NAME || NOT_IN_NAMES.test(event)) {
      throw new TypeError(`expected the name of an event: at most ${MAX_NAME} characters, none of control`);
    }
    if (typeof data === "function") throw new TypeError(`expected data of ${event}, got a function; request gets an answer`);
    if (LIFECYCLE.has(event) && !this.#warned.has(event)) {
      this.#warned.add(event);
      console.warn(`[Verani] the event name ${event} collides with a life-cycle listener of clients`);
    }
    const frame = { text: JSON.stringify({ type: event, data, id }), id };
    // What a closing one is given would be lost.
    if (this.#openedAt !== null && this.#socket.readyState === 1) this.#send(frame);
    else this.#enqueue(frame);
  }

  #send(frame) {
    const { text } = frame;
    const waits = this.#socket.bufferedAmount;
    if (waits && waits + text.length > MAX_UNSENT) {
      this.#drop(frame, "the connection takes no more");
      return;
    }
    const request = this.#requests.get(frame.id);
    if (request) Object.assign(request, { sent: true, size: text.length });
    this.#largest = Math.max(this.#largest, text.length);
    this.#socket.send(text);
  }

  #enqueue(frame) {
    const queue = this.#queue;
    queue.push(frame);
    this.#queued += frame.text.length;
    while (queue.length > this.#options.maxQueueSize || (queue.length > 1 && this.#queued > MAX_UNSENT)) {
      this.#queued -= queue[0].text.length;
      this.#drop(queue.shift(), "the queue is full");
    }
  }

  #withdraw(id) {
    const index = this.#queue.findIndex((frame) => frame.id === id);
    if (index >= 0) this.#queued -= this.#queue.splice(index, 1)[0].text.length;
  }

  #drop(frame, why) {
    const request = this.#requests.get(frame.id);
    if (request) {
      request.reject(notSent(request.event, why));
    } else if (++this.#dropped === 1) {
      // Later: a listener that emits may cause the next one.
      setTimeout(() => this.#tellOfDropped());
    }
  }

  #tellOfDropped() {
    const dropped = this.#dropped;
    this.#dropped = 0;
    this.#tell("verani.dropped", dropped);
  }

  // --- life -----------------------------------------------------------------------------------------------

  reconnect() {
    if (this.#isClosed) throw new VeraniError("unreachable", "the client is closed, make a new one");
    this.#over = null;
    this.#attempts.startAnew();
    const generation = this.#leave(1000, "");
    if (generation === this.#generation) this.#connect();
  }

  disconnect(code = 1000, reason = "") {
    this.#end(code, reason, "the client was disconnected");
  }

  close(code = 1000, reason = "") {
    if (this.#isClosed) return;
    checkCode(code);
    this.#isClosed = true;
    this.#page.abort();
    this.#queue = [];
    this.#end(code, reason, "the client is closed");
    this.#listeners.clear();
  }

  #end(code, reason, message) {
    checkCode(code);
    if (!this.#over || this.#isClosed) this.#over = new VeraniError("unreachable", message, { closing: { code, reason } });
    this.#leave(code, reason);
    if (this.#over) this.#settle(this.#over);
  }

  #leave(code, reason) {
    const closing = { code, reason };
    const wasOpen = this.#openedAt !== null;
    const isNews = wasOpen || this.#state === "connecting" || this.#state === "reconnecting";
    const generation = this.#letGo(code, reason);
    if (wasOpen) this.#interrupt(closing, "this client closed the connection");
    if (isNews) this.#disconnected(closing, wasOpen);
    return generation;
  }

  async #connect() {
    const generation = this.#letGo();
    this.#enter("connecting");
    if (generation !== this.#generation) return;
    const { url, token, protocols, WebSocket, connectionTimeout } = this.#options;
    this.#expect(connectionTimeout, () => this.#lost(LOST, "", `no connection within ${connectionTimeout} ms`));
    try {
      const address = socketURL(await ask(url));
      const shown = token === null ? [] : [bearer(await ask(token))];
      if (generation === this.#generation) this.#use(new WebSocket(address, [...protocols, ...shown]));
    } catch (error) {
      if (generation === this.#generation) this.#lost(LOST, "", error?.message ?? error, error);
    }
  }

  #use(socket) {
    this.#socket = socket;
    socket.onopen = () => this.#opened();
    socket.onmessage = (message) => this.#received(message.data);
    socket.onclose = ({ code, reason }) => this.#lost(code || LOST, reason); // Deno says 0
    // Node 20 tells of no close after a handshake that failed.
    socket.onerror = () => this.#openedAt === null && this.#lost(LOST, "");
  }

  #opened() {
    this.#heard();
    this.#openedAt = performance.now();
    this.#wasAnswered = false;
    this.#largest = 0;
    this.#state = "connected";
    const { pingInterval, pongTimeout } = this.#options;
    if (pingInterval) this.#pingTimer = setInterval(() => this.#ping(pingInterval + pongTimeout), pingInterval);
    const queue = this.#queue;
    this.#queue = [];
    this.#queued = 0;
    for (const frame of queue) this.#send(frame);
    for (const waiter of [...this.#waiters]) waiter.resolve();
    const generation = this.#generation;
    this.#tell("open");
    if (generation === this.#generation) this.#enter("connected");
  }

  // A connection or an attempt is over, and nobody here wanted it.
  #lost(code, reason, why = MEANINGS[code], cause) {
    const closing = { code, reason };
    const wasOpen = this.#openedAt !== null;
    const lasted = performance.now() - this.#openedAt;
    const generation = this.#letGo();
    if (wasOpen) {
      this.#interrupt(closing, why);
      this.#attempts.ended(code, lasted, this.#wasAnswered);
      this.#disconnected(closing, true);
      if (generation !== this.#generation) return;
    } else {
      this.#attempts.failed();
    }
    const what = wasOpen ? ending(closing, why) : `there is no connection${why ? `: ${why}` : ""}`;
    const error = new VeraniError("unreachable", what, { closing, cause });
    const refusal = wasOpen ? refusalIn(closing) : null;
    if (refusal) return this.#giveUp(refusal);
    if (wasOpen && (STAY_AWAY.includes(code) || !this.#attempts.enabled)) return this.#settle((this.#over = error));
    if (!this.#attempts.mayGoOn) return this.#giveUp(error);
    if (!wasOpen) this.#tell("error", error);
    if (generation !== this.#generation) return;
    const delay = this.#attempts.nextDelay();
    this.#retryTimer = setTimeout(() => this.#connect(), delay);
    this.#enter("reconnecting", { attempt: this.#attempts.retries, delay });
  }

  #giveUp(error) {
    const isHeard = this.#waiters.size || this.#listeners.has("error") || this.#listeners.has(STATE);
    if (!isHeard) console.error(`[Verani] does not come back: ${error.message}`);
    this.#over = error;
    this.#settle(error);
    this.#enter("error", error);
  }

  // Nobody waits for what does not come; frames that are no requests may, for `reconnect`.
  #settle(error) {
    for (const waiter of [...this.#waiters]) waiter.reject(error);
    for (const request of [...this.#requests.values()]) {
      request.reject(error.code === "unreachable" ? notSent(request.event, error.message) : error);
    }
  }

  #letGo(code, reason) {
    clearTimeout(this.#retryTimer);
    clearInterval(this.#pingTimer);
    this.#retryTimer = undefined;
    this.#heard();
    const socket = this.#socket;
    this.#socket = this.#openedAt = null;
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.onerror = ignore; // without one some throw
      socket.close(code, reason);
    }
    return ++this.#generation;
  }

  #interrupt(closing, why) {
    const refusal = refusalIn(closing);
    for (const request of [...this.#requests.values()].filter(({ sent }) => sent)) {
      // Which frame was too large is not on the wire: the largest one.
      const isTooLarge = closing.code === TOO_LARGE && request.size === this.#largest;
      const [code, what] = isTooLarge ? ["too_large", "not taken"] : ["interrupted", "not answered and may have run"];
      const message = `${request.event} was ${what}: ${ending(closing, why)}`;
      request.reject(refusal ?? new VeraniError(code, message, { closing }));
    }
  }

  #disconnected(closing, wasOpen) {
    this.#state = "disconnected";
    for (const event of [STATE, wasOpen && "close", "disconnected"]) {
      if (this.#state === "disconnected") this.#tell(event, event === STATE ? this.#state : closing);
    }
  }

  #enter(state, told) {
    this.#state = state;
    this.#tell(STATE, state);
    if (this.#state === state) this.#tell(state, told);
  }

  #tell(event, ...told) {
    this.#listeners.call(event, ...told);
  }

  // The page is looked at again, or the network is back.
  #wake() {
    const isGivenUp = this.#state === "error" && this.#over.code === "unreachable";
    if (this.#openedAt !== null) this.#ping(this.#options.pongTimeout);
    else if (this.#retryTimer !== undefined) this.#connect();
    else if (isGivenUp && this.#attempts.enabled) this.reconnect();
  }

  #ping(patience, isLast = false) {
    if (!this.#options.pingInterval) return;
    const unsent = this.#socket.bufferedAmount;
    this.#socket.send('{"type":"ping"}');
    this.#expect(patience, (isLate) => {
      // The answer may wait behind this very timer, or the ping behind much that was sent before.
      if (this.#socket.bufferedAmount < unsent) this.#ping(patience);
      else if (isLate && !isLast) this.#ping(this.#options.pongTimeout, true);
      else this.#lost(LOST, "", `no pong within ${patience} ms`);
    });
  }

  #expect(patience, missed) {
    const due = performance.now() + patience;
    this.#deadline ??= setTimeout(() => {
      this.#deadline = undefined;
      missed(performance.now() - due > LATE);
    }, patience);
  }

  #heard() {
    clearTimeout(this.#deadline);
    this.#deadline = undefined;
  }

  // --- what comes -----------------------------------------------------------------------------------------

  #received(text) {
    this.#heard(); // it lives
    let frame;
    try {
      frame = JSON.parse(text);
    } catch {
      return; // no frame
    }
    const isRenewable = typeof this.#options.token === "function";
    switch (frame?.type) {
      case "pong":
        return;
      case "ack":
        return this.#answered(frame);
      case "verani.expiring":
        return isRenewable ? this.#renew() : this.#happened(frame);
      case "verani.refreshed":
        return isRenewable || this.#happened(frame);
      default:
        if (typeof frame?.type === "string") this.#happened(frame);
    }
  }

  #answered({ id, data, error }) {
    this.#wasAnswered = true;
    const request = this.#requests.get(id);
    if (!request) return;
    if (!error) return request.resolve(data);
    const { code = "failed", path, message } = error;
    const said = `the room answered ${request.event} with ${code}${path ? ` at ${path}` : ""}`;
    request.reject(new VeraniError(code, message ?? said, { path, text: message }));
  }

  async #renew() {
    const generation = this.#generation;
    try {
      const token = await this.#options.token();
      bearer(token);
      if (generation === this.#generation) this.#post("verani.refresh", { token });
    } catch (cause) {
      // The server will close, and the next handshake asks again.
      this.#tell("error", new VeraniError("unreachable", "there is no new token", { cause }));
    }
  }

  #happened({ type, data, channel }) {
    if (type === "event" && typeof data?.type === "string") type = data.type;
    if (typeof channel !== "string") channel = undefined;
    if (!OURS.has(type)) this.#tell(type, data, channel);
    this.#tell("*", { type, data, channel });
  }
}

function ignore() {}

function ask(source) {
  return typeof source === "function" ? source() : source;
}

function checked(numbers, most = Infinity) {
  for (const [name, value] of Object.entries(numbers)) {
    if (!(value >= 0 && value <= most)) throw new RangeError(`${name}: expected 0 to ${most}, got ${value}`);
  }
  return numbers;
}

function checkCode(code) {
  if (code === 1000 || (code >= 3000 && code <= 4999)) return;
  throw new RangeError(`expected close code 1000 or 3000 to 4999, got ${code}`);
}

function socketURL(url) {
  const parsed = new URL(url, globalThis.location?.href);
  parsed.protocol = parsed.protocol.replace("http", "ws");
  parsed.hash = "";
  if (!/^wss?:$/.test(parsed.protocol)) throw new TypeError(`expected a URL with ws or wss, got ${parsed.protocol}`);
  return parsed.href;
}

// A token goes as a subprotocol: it has the characters of one.
function bearer(token) {
  if (typeof token === "string" && /^[\w!#$%&'*+.^`|~-]+$/.test(token)) return `bearer.${token}`;
  throw new TypeError("token: expected a string of letters, digits and !#$%&'*+-.^_`|~");
}

function refusalIn(closing) {
  const { code, reason } = closing;
  if (code !== 1000 || !REFUSALS.includes(reason)) return null;
  return new VeraniError(reason, `the room refused this client with ${reason}`, { closing });
}

function ending({ code, reason }, why) {
  return `the connection ended with code ${code} ${why ?? reason}`;
}

function notSent(event, why) {
  return new VeraniError("not_sent", `${event} was not sent: ${why}`);
}
