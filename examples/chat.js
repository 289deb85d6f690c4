// The chat page: verani.js keeps the connection to a room, this shows what comes.
// Whatever people write reaches the page as text, never as markup.

import { VeraniClient } from "/verani.js";

const ENDS = new Map([
  [1008, "too many messages"],
  [1011, "the room has failed"],
  [1012, "the service restarts"],
  [1013, "the room or this page is too slow"],
  [4001, "you were signed in for too long"],
  [4009, "you are connected elsewhere"],
]);
const MAX_WAITING = 50; // messages that wait for a connection
const WHENEVER = { timeout: Infinity }; // a message waits until there is a connection
const MAX_LINES = 500; // in the log
const SHOW_WAITING_AFTER = 300; // ms without an answer, and a message is shown as waiting

// What the room and its server let pass; anything else in the page's URL would be refused for ever.
const NOT_IN_NAMES = /[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}]/gu;
const CHANNEL = /^[a-z0-9-]{1,30}$/;
const MAX_CHANNELS = 30;

// --- the page -----------------------------------------------------------------------------------------

const $ = (id) => document.getElementById(id);

let client = null;
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
  client?.close();
  client = null;
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
  $("lines").replaceChildren();
  showError("");
  showChannels();
  showPeople([]);
  connect();
  $("text").focus();
}

function connect() {
  client = new VeraniClient(socketURL, { reconnection: { maxAttempts: 0 }, maxQueueSize: MAX_WAITING });
  client.onOpen(() => {
    people = null;
    $("state").title = "";
  });
  client.onClose(({ code }) => ($("state").title = ENDS.get(code) ?? ""));
  client.onError((error) => isRefusal(error) && showError(explain(error)));
  client.onStateChange(showState);
  client.on("reconnecting", ({ delay }) => ($("state").textContent = `reconnecting in ${Math.ceil(delay / 1000)} s`));
  client.on("presence", ({ users }) => showPeople(users));
  client.on("chat.message", ({ from, text }, channel) => addLine(messageLine(from, channel, text)));
  showState(client.getState());
}

function showState(state) {
  const isOver = state === "disconnected" || state === "error";
  $("state").textContent = isOver ? "disconnected" : state;
  $("state").dataset.state = $("state").textContent;
  $("again").hidden = !isOver;
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
    await client.request(join ? "chat.join" : "chat.leave", name, WHENEVER);
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
    await client.request("chat.message", { channel, text }, WHENEVER);
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
  const lines = $("lines");
  following ||= line.classList.contains("mine");
  lines.append(line);
  while (lines.children.length > MAX_LINES) lines.firstElementChild.remove();
  keepFollowing();
}

function keepFollowing() {
  if (following) $("log").scrollTop = $("log").scrollHeight;
}

function showError(text) {
  $("error").textContent = text;
}

// What the room closes with a code of its own when it does not want somebody.
function isRefusal({ code, closing }) {
  return closing?.code === 1000 && closing.reason === code;
}

function explain(error) {
  const { code } = error;
  if (isRefusal(error)) return `The room refused you (${code}).`;
  const why = ENDS.get(error.closing?.code);
  switch (code) {
    case "invalid":
      return error.path === "$.text"
        ? "That message is too long: at most 500 characters."
        : "A channel name has 1 to 30 small letters, digits or dashes.";
    case "forbidden":
      return "Join the channel to write in it.";
    case "interrupted":
      return `The connection was lost before the answer came${why ? ` (${why})` : ""}: this may have arrived or not.`;
    case "too_large":
      return "That message is too long: at most 500 characters.";
    case "not_sent":
      return client.getState() === "disconnected"
        ? "You are disconnected."
        : `There is no connection, and ${MAX_WAITING} messages wait already.`;
    default:
      return `The room could not do that (${code ?? error}).`;
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

$("again").addEventListener("click", () => client.reconnect());

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
