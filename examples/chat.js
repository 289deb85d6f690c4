// The chat page in two parts: Connection keeps one WebSocket to a room, the rest shows what comes.
// Whatever people write reaches the page as text, never as markup.

const PING_EVERY = 5_000; // ms
const PONG_WITHIN = 10_000; // ms without an answer to a ping or a handshake, and the connection counts as dead
const FIRST_BACKOFF = 1_000; // ms, times 1.5 with every wait
const LONGEST_BACKOFF = 30_000; // ms
const PROOF = 5_000; // ms that a connection lasts at least before the next backoff is the first again
const SPREAD = 2_000; // ms of a backoff left to chance after connections that were taken and ended at once
const STAY_AWAY = [1000, 1001]; // close codes after which a client does not come back
const INNOCENT = [1006, 1012]; // lost, or the service restarts: nobody's verdict on this connection
const REFUSALS = ["invalid", "unauthorized", "forbidden", "not_found", "conflict", "rate_limited", "busy"];
const TOO_LARGE = 1009;
const ENDS = new Map([
  [1008, "too many messages"],
  [TOO_LARGE, "a message was too large"],
  [1011, "the room has failed"],
  [1012, "the service restarts"],
  [1013, "the room or this page is too slow"],
  [4001, "you were signed in for too long"],
  [4009, "you are connected elsewhere"],
]);
const MAX_REQUESTS = 50; // unanswered ones, those that wait for a connection included
const MAX_LINES = 500; // in the log
const SHOW_WAITING_AFTER = 300; // ms without an answer, and a message is shown as waiting

// What the room and its server let pass; anything else in the page's URL would be refused for ever.
const NOT_IN_NAMES = /[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}]/gu;
const CHANNEL = /^[a-z0-9-]{1,30}$/;
const MAX_CHANNELS = 30;

// --- the connection -----------------------------------------------------------------------------------

class RequestError extends Error {
  constructor(code, { path = "", why = "" } = {}) {
    super(code);
    this.code = code;
    this.path = path; // where in its data the request erred
    this.why = why; // the connection ended
  }
}

class Connection {
  #url; // function, asked before every attempt
  #onState;
  #onEvent;
  #socket = null;
  #openedAt = null; // null while the handshake lasts
  #wasAnswered = false; // a request over this socket was
  #largest = 0; // of what was sent over it
  #retries = 0; // waits in a row
  #failures = 0; // in a row: connections that did not come about, or did not last
  #delay = 0; // before this connection, in ms
  #ended = null; // an error, once this connection does not come back
  #lastId = 0;
  #requests = new Map(); // id -> {frame, sent, resolve, reject}, oldest first
  #retryTimer;
  #pingTimer;
  #pongTimer;
  #listeners = new AbortController();

  constructor({ url, onState, onEvent }) {
    this.#url = url;
    this.#onState = onState;
    this.#onEvent = onEvent;
    // The network is back: do not wait for the backoff to pass.
    addEventListener("online", () => this.#retryNow(), { signal: this.#listeners.signal });
    this.#open();
  }

  // Send a frame now or when there is a connection; the promise has the room's answer.
  request(type, data) {
    return new Promise((resolve, reject) => {
      if (this.#ended) return reject(this.#ended);
      if (this.#requests.size >= MAX_REQUESTS) return reject(new RequestError("queue_full"));
      const id = ++this.#lastId;
      this.#requests.set(id, { frame: JSON.stringify({ type, data, id }), sent: false, resolve, reject });
      this.#flush();
    });
  }

  close() {
    this.#lost(1000);
  }

  #open() {
    this.#onState(this.#retries ? "reconnecting" : "connecting");
    this.#openedAt = null;
    this.#wasAnswered = false;
    this.#largest = 0;
    this.#socket = new WebSocket(this.#url());
    this.#socket.onopen = () => this.#opened();
    this.#socket.onmessage = (message) => this.#received(message.data);
    this.#socket.onclose = (event) => this.#lost(event.code, event.reason);
    this.#expectAnswer();
  }

  #opened() {
    this.#openedAt = performance.now();
    this.#answered();
    this.#onState("connected");
    this.#pingTimer = setInterval(() => this.#ping(), PING_EVERY);
    this.#flush();
  }

  #flush() {
    if (this.#socket?.readyState !== WebSocket.OPEN) return;
    for (const request of this.#requests.values()) {
      if (request.sent) continue;
      request.sent = true;
      this.#largest = Math.max(this.#largest, request.frame.length);
      this.#socket.send(request.frame);
    }
  }

  #ping() {
    this.#socket.send('{"type":"ping"}');
    this.#expectAnswer();
  }

  #expectAnswer() {
    this.#pongTimer ??= setTimeout(() => this.#lost(1006), PONG_WITHIN);
  }

  #answered() {
    clearTimeout(this.#pongTimer);
    this.#pongTimer = undefined;
  }

  #received(text) {
    const frame = JSON.parse(text);
    if (frame.type === "pong") {
      this.#answered();
    } else if (frame.type === "ack") {
      this.#wasAnswered = true;
      const request = this.#requests.get(frame.id);
      this.#requests.delete(frame.id);
      if (frame.error) request?.reject(new RequestError(frame.error.code, { path: frame.error.path }));
      else request?.resolve(frame.data);
    } else if (frame.type === "event") {
      this.#onEvent(frame.data, frame.channel);
    }
  }

  #lost(code, reason = "") {
    if (this.#ended) return;
    const why = ENDS.get(code) ?? "";
    if (STAY_AWAY.includes(code)) {
      this.#ended = new RequestError(REFUSALS.includes(reason) ? "refused" : "closed", { why: reason });
    }
    clearTimeout(this.#retryTimer);
    clearInterval(this.#pingTimer);
    this.#answered();
    // A dead connection may report its end much later, when another one is already open.
    this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
    for (const [id, request] of this.#requests) {
      if (!request.sent && !this.#ended) continue; // waits for the next connection
      this.#requests.delete(id);
      request.reject(this.#failureOf(request, code, why));
    }
    if (this.#ended) {
      this.#listeners.abort();
      this.#onState("disconnected", { why: this.#ended.code === "refused" ? reason : "" });
      return;
    }
    this.#judge(code);
    this.#delay = this.#nextDelay();
    this.#retries++;
    this.#onState("reconnecting", { delay: this.#delay, why });
    this.#retryTimer = setTimeout(() => this.#open(), this.#delay);
  }

  #failureOf(request, code, why) {
    if (!request.sent || this.#ended?.code === "refused") return this.#ended;
    // Which message was too large is not on the wire: the largest one.
    if (code === TOO_LARGE && request.frame.length === this.#largest) return new RequestError("too_large");
    return new RequestError("interrupted", { why });
  }

  // The backoff starts anew when a connection has proved itself: by lasting for as long as the one before it, or by the
  // room's answer, which comes after `on_connect`, where it was not the server that ended it for a reason of its own.
  #judge(code) {
    const lasted = this.#openedAt === null ? -1 : performance.now() - this.#openedAt;
    const isProved = lasted >= Math.max(PROOF, this.#delay) || (this.#wasAnswered && INNOCENT.includes(code));
    if (isProved) this.#retries = 0;
    this.#failures = isProved ? 0 : this.#failures + 1;
  }

  // Full jitter: the clients of a restarted server do not all come back in the same moment. A server that takes
  // connections and ends them again is there, and is left alone for nearly the whole backoff.
  #nextDelay() {
    const ceiling = Math.min(LONGEST_BACKOFF, FIRST_BACKOFF * 1.5 ** this.#retries);
    const wasOpen = this.#openedAt !== null;
    const spread = wasOpen && this.#failures > 1 ? Math.min(SPREAD, ceiling / 2) : ceiling;
    return ceiling - Math.random() * spread;
  }

  #retryNow() {
    if (this.#socket.readyState !== WebSocket.CLOSED && this.#socket.readyState !== WebSocket.CLOSING) return;
    clearTimeout(this.#retryTimer);
    this.#open();
  }
}

// --- the page -----------------------------------------------------------------------------------------

const $ = (id) => document.getElementById(id);

let connection = null;
let me = "";
let room = "";
let people = null; // names, or null until this connection has heard who is here
const channels = new Map(); // name -> joined?
let following = true; // whether the end of the log is in view, and stays there

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children); // strings become text nodes
  return node;
}

// Everything worth keeping is in the URL: reload, bookmark and the back button work.
function fromURL() {
  const query = new URLSearchParams(location.search);
  me = asName(query.get("name") ?? "");
  room = (query.get("room") || "lobby").normalize();
  channels.clear();
  for (const name of ["general", "random"]) channels.set(name, false);
  const wanted = (query.get("channels") ?? "general").split(",").filter((name) => CHANNEL.test(name));
  for (const name of wanted.slice(0, MAX_CHANNELS)) channels.set(name, true);
  connection?.close();
  connection = null;
  $("name").value = me || $("name").value;
  $("room").value = room;
  if (me && $("room").checkValidity()) enterRoom();
  else showDoor();
}

function asName(text) {
  return [...text.replace(NOT_IN_NAMES, "").trim()].slice(0, $("name").maxLength).join("");
}

function pageURL() {
  return `/?${new URLSearchParams({ room, name: me, channels: joined().join() })}`;
}

function socketURL() {
  const query = new URLSearchParams({ room, userId: me, channels: ["default", ...joined()].join() });
  return `${location.protocol.replace("http", "ws")}//${location.host}/ws?${query}`;
}

function joined() {
  return [...channels].filter(([, isJoined]) => isJoined).map(([name]) => name);
}

function showDoor() {
  document.title = "Verani chat";
  $("chat").hidden = true;
  $("door").hidden = false;
  $("name").focus();
}

function enterRoom() {
  document.title = `${room} - Verani chat`;
  $("title").textContent = room;
  $("door").hidden = true;
  $("chat").hidden = false;
  $("log").replaceChildren();
  showError("");
  showChannels();
  showPeople([]);
  connect();
  $("text").focus();
}

function connect() {
  connection = new Connection({ url: socketURL, onState: showState, onEvent: receive });
}

function showState(state, { delay, why = "" } = {}) {
  const seconds = Math.ceil((delay ?? 0) / 1000);
  $("state").textContent = delay === undefined ? state : `${state} in ${seconds} s`;
  $("state").title = why;
  $("state").dataset.state = state;
  if (state === "disconnected" && why) showError(explain(new RequestError("refused", { why })));
  $("again").hidden = state !== "disconnected";
  if (state === "connected") people = null;
}

function receive(event, channel) {
  switch (event.type) {
    case "presence":
      showPeople(event.users);
      break;
    case "chat.message":
      addLine(messageLine(event.from, channel, event.text));
      break;
  }
}

function showPeople(names) {
  const sorted = [...names].sort((a, b) => a.localeCompare(b));
  for (const name of people ? sorted.filter((name) => !people.includes(name)) : []) addNote(`${name} came in`);
  for (const name of people ? people.filter((name) => !sorted.includes(name)) : []) addNote(`${name} left`);
  people = sorted;
  $("people-title").textContent = sorted.length ? `Who is here (${sorted.length})` : "Who is here";
  $("people").replaceChildren(
    ...sorted.map((name) => element("li", {}, badge(name), element("span", {}, name === me ? `${name} (you)` : name))),
  );
}

function badge(name) {
  const node = element("span", { className: "badge", ariaHidden: "true" }, [...name][0]?.toUpperCase() ?? "?");
  node.dataset.hue = [...name].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) % 8, 0);
  return node;
}

function showChannels() {
  $("channels").replaceChildren(
    ...[...channels].map(([name, isJoined]) => {
      const button = element("button", { type: "button" }, isJoined ? "Leave" : "Join");
      button.ariaLabel = `${isJoined ? "Leave" : "Join"} ${name}`;
      button.onclick = () => setJoined(name, !isJoined);
      const item = element("li", {}, element("span", {}, `# ${name}`), button);
      item.dataset.joined = isJoined;
      return item;
    }),
  );
  const chosen = $("target").value;
  $("target").replaceChildren(...joined().map((name) => element("option", { value: name }, `# ${name}`)));
  if (joined().includes(chosen)) $("target").value = chosen;
  $("target").disabled = $("text").disabled = joined().length === 0;
  $("text").placeholder = joined().length ? "Write a message" : "Join a channel to write";
}

async function setJoined(name, join) {
  try {
    await connection.request(join ? "chat.join" : "chat.leave", name);
    channels.set(name, join);
    history.replaceState(null, "", pageURL());
    const hadFocus = document.activeElement?.closest("#channels") !== null;
    showChannels();
    if (join) $("target").value = name;
    if (hadFocus) [...$("channels").children][[...channels.keys()].indexOf(name)].querySelector("button").focus();
    showError("");
  } catch (error) {
    showError(explain(error));
  }
}

async function send(channel, text) {
  const waiting = messageLine(me, channel, text);
  waiting.classList.add("waiting");
  waiting.querySelector("time").textContent = "waiting to be sent";
  const patience = setTimeout(() => addLine(waiting), SHOW_WAITING_AFTER);
  showError("");
  try {
    await connection.request("chat.message", { channel, text });
  } catch (error) {
    showError(explain(error));
    if (!$("text").value) $("text").value = text;
  } finally {
    clearTimeout(patience);
    waiting.remove(); // the room has sent the message to everybody before its answer
  }
}

function messageLine(from, channel, text) {
  const now = new Date();
  const time = now.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  const head = element(
    "p",
    { className: "head" },
    element("strong", {}, from),
    element("span", { className: "channel" }, `# ${channel}`),
    element("time", { dateTime: now.toISOString() }, time),
  );
  const body = element("div", {}, head, element("p", { className: "text" }, text));
  const line = element("li", {}, badge(from), body);
  line.classList.toggle("mine", from === me);
  return line;
}

function addNote(text) {
  addLine(element("li", { className: "note" }, text));
}

function addLine(line) {
  const log = $("log");
  following ||= line.classList.contains("mine");
  log.append(line);
  while (log.children.length > MAX_LINES) log.firstElementChild.remove();
  keepFollowing();
}

function keepFollowing() {
  if (following) $("log").scrollTop = $("log").scrollHeight;
}

function showError(text) {
  $("error").textContent = text;
}

function explain(error) {
  switch (error.code) {
    case "invalid":
      return error.path === "$.text"
        ? "That message is too long: at most 500 characters."
        : "A channel name has 1 to 30 small letters, digits or dashes.";
    case "forbidden":
      return "Join the channel to write in it.";
    case "interrupted":
      return `The connection was lost before the answer came${error.why && ` (${error.why})`}: this may have arrived or not.`;
    case "too_large":
      return "That message is too long: at most 500 characters.";
    case "refused":
      return `The room refused you (${error.why}).`;
    case "queue_full":
      return `There is no connection, and ${MAX_REQUESTS} messages wait already.`;
    case "closed":
      return "You are disconnected.";
    default:
      return `The room could not do that (${error.code ?? error}).`;
  }
}

// --- what people do -----------------------------------------------------------------------------------

$("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  me = asName($("name").value);
  room = $("room").value.normalize(); // names of rooms have one spelling
  if (!me) return;
  history.pushState(null, "", pageURL());
  enterRoom();
});

$("quit").addEventListener("click", () => {
  history.pushState(null, "", `/?${new URLSearchParams({ room })}`);
  fromURL();
});

$("again").addEventListener("click", () => connect());

$("add-channel").addEventListener("submit", (event) => {
  event.preventDefault();
  setJoined($("new-channel").value, true);
  $("new-channel").value = "";
});

$("compose").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  $("text").value = "";
  if (text) send($("target").value, text);
});

$("text").addEventListener("keydown", (event) => {
  // Enter sends, Shift and Enter begin a line; while an input method composes, Enter is its own.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("compose").requestSubmit();
});

$("log").addEventListener("scroll", () => {
  const { scrollHeight, scrollTop, clientHeight } = $("log");
  following = scrollHeight - scrollTop - clientHeight < 40;
});

// A keyboard that opens, or an error that appears, takes its place from the log.
new ResizeObserver(keepFollowing).observe($("log"));

addEventListener("popstate", fromURL);
fromURL();
