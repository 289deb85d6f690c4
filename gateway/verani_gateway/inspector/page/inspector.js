// The inspector: shows what its room tells (verani_gateway.inspector.room), and sends orders to /admin.
// Whatever people chose, such as names of rooms and users, reaches the page as text, never as markup.

import { VeraniClient } from "../verani.js";

const TOKEN = "verani.inspector.token"; // in the storage of this tab
const MAX_SAMPLES = 300; // as many as the room keeps
const OUTCOME_STAYS = 8_000; // ms
const FRESH = 3; // s; a look follows the other after two, but takes long where a process does not answer

const $ = (id) => document.getElementById(id);

let token = sessionStorage.getItem(TOKEN);
let client = null;
let view = { prefix: "", state: "", room: "", order: "" }; // what the room is asked to tell
let samples = [];
let lists = { rows: [], cut: false };
let totals = {};
let cluster = null;
let detail = null;
let errors = [];
let toldAt = null; // when the last look was told, on a clock that never jumps

// --- small things ---------------------------------------------------------------------------------------

function element(tag, properties = {}, ...children) {
  const { role, label, ...rest } = properties;
  const node = Object.assign(document.createElement(tag), rest);
  if (role) node.setAttribute("role", role);
  if (label) node.dataset.label = label;
  node.append(...children); // strings become text nodes
  return node;
}

// Change only what has changed: whoever reads or selects is not disturbed.
function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const NUMBER = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const SMALL = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

function number(value) {
  return (Math.abs(value) < 10 ? SMALL : NUMBER).format(value);
}

function rate(value) {
  return value === null ? "–" : `${number(value)}/s`;
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return `${NUMBER.format(seconds * 1000)}\u00a0ms`;
  if (seconds < 120) return `${NUMBER.format(seconds)}\u00a0s`;
  if (seconds < 7200) return `${NUMBER.format(seconds / 60)}\u00a0min`;
  return `${NUMBER.format(seconds / 3600)}\u00a0h`;
}

function many(count, one, several = `${one}s`) {
  return `${NUMBER.format(count)} ${count === 1 ? one : several}`;
}

function badge(state) {
  return element("span", { className: `badge ${state}` }, state);
}

// Have one child for each item, in their order; `draw` fills what `make` has made, and what is there is kept.
function keyed(container, items, key, make, draw) {
  const there = new Map([...container.children].map((node) => [node.dataset.key, node]));
  const focused = document.activeElement;
  let next = container.firstElementChild;
  for (const item of items) {
    const id = key(item);
    let node = there.get(id);
    there.delete(id);
    if (!node) {
      node = make(item);
      node.dataset.key = id;
    }
    draw(node, item);
    if (node === next) next = next.nextElementSibling;
    else container.insertBefore(node, next);
  }
  for (const node of there.values()) node.remove();
  if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
}

// A table of rows that are drawn by columns: [title, draw(cell, item), class of the cell].
// The roles are those that these elements have anyway, but lose on a phone, where a row is a card.
function table(id, columns) {
  const head = element("tr", { role: "row" });
  for (const [title, , className = ""] of columns) {
    head.append(element("th", { scope: "col", className, role: "columnheader" }, title));
  }
  const body = element("tbody", { role: "rowgroup" });
  $(id).append(element("thead", { role: "rowgroup" }, head), body);
  const make = () => {
    const row = element("tr", { role: "row" });
    columns.forEach(([title, , className = ""], index) => {
      row.append(element("td", { className, role: "cell", label: index ? title : "" }));
    });
    return row;
  };
  return (items, key, mark = () => false) => {
    $(id).hidden = !items.length;
    if ($(`${id}-none`)) $(`${id}-none`).hidden = items.length > 0;
    keyed(body, items, key, make, (row, item) => {
      row.classList.toggle("chosen", mark(item));
      columns.forEach(([, draw], index) => draw(row.children[index], item));
    });
  };
}

const text = (choose) => (cell, item) => put(cell, choose(item));

// One node in a cell, which is made again only when its text changes.
function node(make) {
  return (cell, item) => {
    const made = make(item);
    if (cell.textContent !== made.textContent || cell.firstElementChild?.className !== made.className) {
      cell.replaceChildren(made);
    }
  };
}

// A button in a cell, made once; it acts on what the row shows by then.
function button(className, label, act) {
  return (cell, item) => {
    let it = cell.firstElementChild;
    const said = label(item);
    if (!said) return cell.replaceChildren();
    if (!it) {
      it = element("button", { type: "button", className });
      it.addEventListener("click", () => act(it.item));
      cell.append(it);
    }
    it.item = item;
    put(it, said.text ?? said);
    if (said.label) it.setAttribute("aria-label", said.label);
  };
}

// --- orders ---------------------------------------------------------------------------------------------

async function api(path, body) {
  const headers = { ...(token && { Authorization: `Bearer ${token}` }), ...(body && { "Content-Type": "application/json" }) };
  const options = { headers, ...(body && { method: "POST", body: JSON.stringify(body) }) };
  return fetch(`../admin/${path}`, options);
}

let outcomeTimer;

function say(what, failed = false) {
  clearTimeout(outcomeTimer);
  $("outcome").className = failed ? "failed" : "";
  $("outcome").textContent = what;
  outcomeTimer = setTimeout(() => $("outcome").replaceChildren(), OUTCOME_STAYS);
}

async function order(name, body, done) {
  try {
    const response = await api(name, body);
    const told = await response.json();
    if (!response.ok) return say(`${name}: ${told.error.message}`, true);
    say(typeof done === "function" ? done(told) : done);
    watch(); // and see what has come of it
  } catch (error) {
    say(`${name}: no answer (${error.message})`, true);
  }
}

function confirmed(question, verb) {
  put($("question"), question);
  put($("yes"), verb);
  const dialog = $("ask");
  dialog.returnValue = "no";
  dialog.showModal();
  $("no").focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

async function closeConnection(session) {
  if (await confirmed(`Close the connection of ${session.user_id}? Its client stays away.`, "Close connection")) {
    await order("close", { connection: session.connection }, `The connection of ${session.user_id} is closed.`);
  }
}

async function drain(process) {
  if (await confirmed(`Take ${process.target} out of service? It hands over what it has, and ends.`, "Drain")) {
    await order("drain", { target: process.target }, `${process.target} is draining.`);
  }
}

// --- charts ---------------------------------------------------------------------------------------------

const CHARTS = [
  { title: "Frames in", index: 1, show: rate },
  { title: "Deliveries out", index: 2, show: rate },
  { title: "Connections", index: 3, show: number, whole: true },
  { title: "Rooms awake", index: 4, show: number, whole: true },
];

function drawCharts() {
  const last = samples.at(-1);
  for (const chart of CHARTS) {
    if (!chart.figure) {
      chart.value = element("output", { htmlFor: "" });
      chart.value.setAttribute("aria-live", "off"); // it changes every two seconds
      chart.place = element("div", { className: "chart" });
      chart.place.setAttribute("aria-hidden", "true");
      const caption = element("figcaption", {}, element("span", {}, chart.title), chart.value);
      chart.figure = element("figure", {}, caption, chart.place);
      $("charts").append(chart.figure);
      new ResizeObserver(() => chart.plot?.setSize(sizeOf(chart))).observe(chart.place);
    }
    put(chart.value, last ? chart.show(last[chart.index]) : "–");
    const data = [samples.map((sample) => sample[0]), samples.map((sample) => sample[chart.index])];
    if (chart.plot) chart.plot.setData(data);
    else chart.plot = plot(chart, data);
  }
}

function sizeOf(chart) {
  return { width: chart.place.clientWidth, height: chart.place.clientHeight };
}

function plot(chart, data) {
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(name).trim();
  const axis = { stroke: color("--soft"), font: "11px system-ui, sans-serif", ticks: { show: false } };
  const options = {
    ...sizeOf(chart),
    legend: { show: false },
    cursor: { show: false },
    padding: [8, 6, 0, 0],
    scales: { y: { range: (_, __, most) => [0, Math.max(1, most * 1.1)] } },
    axes: [
      { ...axis, size: 20, space: 70, grid: { show: false } },
      {
        ...axis,
        size: 38,
        space: 18,
        grid: { stroke: color("--line"), width: 1 },
        values: (_, ticks) => ticks.map(short),
        ...(chart.whole && { incrs: WHOLE }),
      },
    ],
    series: [{}, { stroke: color("--accent"), fill: color("--fill"), width: 1.75, points: { show: false } }],
  };
  return new uPlot(options, data, chart.place);
}

const WHOLE = [0, 1, 2, 3, 4, 5, 6].flatMap((power) => [1, 2, 5].map((step) => step * 10 ** power));
const SHORT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const short = (value) => SHORT.format(value);

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const chart of CHARTS) {
    chart.plot?.destroy();
    chart.plot = null;
  }
  if (client) drawCharts();
});

// --- rooms ----------------------------------------------------------------------------------------------

function why(status) {
  if (status.state === "asleep") return "";
  const doing = status.doing ? `: ${status.doing} for ${duration(status.doing_seconds)}` : "";
  return `${status.kept_awake_by ?? ""}${doing}`;
}

function wokenBy(status) {
  if (!status.woken_by) return "";
  return status.wake_seconds === null ? status.woken_by : `${status.woken_by}, in\u00a0${duration(status.wake_seconds)}`;
}

const drawRooms = table("rooms", [
  ["Room", button("name", ({ status }) => status.name, ({ status }) => choose(status.name))],
  ["State", node(({ status }) => element("span", { className: status.state }, badge(status.state), ` ${duration(status.state_seconds)}`))],
  ["Connected", text(({ status }) => NUMBER.format(status.connections)), "number"],
  ["In", text((row) => rate(row.inputs_rate)), "number"],
  ["Out", text((row) => rate(row.deliveries_rate)), "number"],
  ["Kept awake by", text(({ status }) => why(status))],
  ["Woken by", text(({ status }) => wokenBy(status))],
]);

const ORDER = {
  "": null, // as they come: those that are awake first
  name: (a, b) => (a.status.name < b.status.name ? -1 : 1),
  connections: (a, b) => b.status.connections - a.status.connections,
  inputs: (a, b) => (b.inputs_rate ?? 0) - (a.inputs_rate ?? 0),
  deliveries: (a, b) => (b.deliveries_rate ?? 0) - (a.deliveries_rate ?? 0),
  wake: (a, b) => (b.status.wake_seconds ?? 0) - (a.status.wake_seconds ?? 0),
};

function drawList() {
  const { asleep = 0, ...rest } = totals;
  const awake = Object.values(rest).reduce((sum, count) => sum + count, 0);
  const counted = `${NUMBER.format(awake)} awake, ${NUMBER.format(asleep)} asleep`;
  put($("rooms-count"), lists.cut ? `${counted}; the first ${lists.rows.length} are shown: name more of it` : counted);
  const rows = [...lists.rows];
  const compare = ORDER[view.order];
  if (compare) rows.sort(compare);
  drawRooms(rows, (row) => row.status.name, (row) => row.status.name === view.room);
}

// --- one room -------------------------------------------------------------------------------------------

const drawSessions = table("sessions", [
  ["User", (cell, session) => {
    if (!cell.firstElementChild) cell.append(element("strong"), element("div", { className: "soft id" }));
    put(cell.children[0], session.user_id);
    put(cell.children[1], session.client_id);
  }],
  ["Channels", text((session) => session.channels.join(", "))],
  ["Since", text((session) => {
    const since = session.connected_seconds === null ? "has left" : duration(session.connected_seconds);
    return session.expires_seconds === null ? since : `${since}, expires in ${duration(Math.max(0, session.expires_seconds))}`;
  })],
  ["Meta", text((session) => Object.entries(session.meta).map(([name, value]) => `${name}: ${value}`).join(", "))],
  ["", button(
    "small danger",
    (session) => session.connected_seconds !== null && { text: "Close", label: `Close the connection of ${session.user_id}` },
    closeConnection,
  )],
]);

function facts(status) {
  if (!status) return [["State", "not awake, and nobody is connected"]];
  const told = [
    ["State", `${status.state} for ${duration(status.state_seconds)}`],
    ["Kept awake by", why(status)],
    ["Woken by", wokenBy(status)],
    ["Connections", NUMBER.format(status.connections)],
    ["Slept", status.cycles ? `${many(status.cycles, "time")}; awake for ${duration(status.awake_seconds)} in all` : "not yet"],
    ["Inputs", NUMBER.format(status.inputs)],
    ["Deliveries", NUMBER.format(status.deliveries)],
    ["Host", status.host ?? ""],
  ];
  return told.filter(([, value]) => value);
}

function drawDetail() {
  const chosen = view.room !== "";
  document.body.classList.toggle("one-room", chosen);
  $("detail-none").hidden = chosen;
  $("leave").hidden = !chosen;
  put($("detail-title"), chosen ? view.room : "One room");
  const known = chosen && detail?.name === view.room;
  $("detail-some").hidden = !known;
  if (!known) return;
  const { status, told } = detail;
  keyed(
    $("facts"),
    facts(status).flatMap(([name, value]) => [["dt", name, name], ["dd", name, value]]),
    ([tag, name]) => `${tag} ${name}`,
    ([tag]) => element(tag),
    (item, [, , value]) => put(item, value),
  );
  const isAsleep = !status || status.state === "asleep";
  $("hibernate").disabled = isAsleep;
  $("wake").disabled = !isAsleep;
  drawSessions(told.sessions, (session) => session.connection);
  $("sessions-more").hidden = !told.more;
}

function choose(room) {
  if (room !== view.room) detail = null;
  remember({ ...view, room }, "pushState");
  drawDetail();
  drawList();
  watch();
  if (room) $("detail-title").focus();
}

function leave() {
  const row = [...$("rooms").querySelectorAll("button.name")].find((each) => each.textContent === view.room);
  choose("");
  (row ?? $("prefix")).focus();
}

async function send(event) {
  event.preventDefault();
  const body = { room: view.room, event: $("event").value, channel: $("channel").value };
  const data = $("data").value.trim();
  put($("data-error"), "");
  try {
    if (data) body.data = JSON.parse(data);
  } catch (error) {
    put($("data-error"), `This is not JSON: ${error.message}`);
    return $("data").focus();
  }
  await order("send", body, ({ connections }) => `${body.event} was sent to ${many(connections, "connection")}.`);
}

// --- processes, errors, quarantine ------------------------------------------------------------------------

function links(process) {
  const states = Object.entries(process.links);
  const broken = states.filter(([, state]) => state !== "linked");
  if (!states.length) return "none needed";
  return broken.length ? broken.map(([id, state]) => `${id} ${state}`).join(", ") : `${states.length} linked`;
}

function stateOf(process) {
  if (process.draining) return "draining";
  return process.restarting ? "restarting" : "serves";
}

const drawProcesses = table("processes", [
  ["Process", text((process) => process.target)],
  ["State", node((process) => badge(stateOf(process)))],
  ["Has", text((process) => process.has)],
  ["Links", text(links)],
  ["Machine", text((process) => process.machine)],
  ["PID", text((process) => String(process.pid)), "number"],
  ["", button(
    "small danger",
    (process) => cluster.members.length > 0 && !process.draining && { text: "Drain", label: `Drain ${process.target}` },
    drain,
  )],
]);

function drawCluster() {
  const hosts = cluster.members.map((host) => {
    const { asleep = 0, ...rest } = host.rooms;
    const awake = Object.values(rest).reduce((sum, count) => sum + count, 0);
    return { ...host, target: `host:${host.id}`, has: `${many(awake, "room")} awake, ${NUMBER.format(asleep)} asleep` };
  });
  const gateways = cluster.gateways.map((gateway) => {
    return { ...gateway, target: `gateway:${gateway.id}`, has: many(gateway.connections, "connection") };
  });
  drawProcesses([...hosts, ...gateways], (process) => process.target);
  const alone = "one process, with its rooms in it";
  put($("processes-count"), hosts.length ? `epoch ${cluster.epoch}, ${many(hosts.length, "host")}, ${many(gateways.length, "gateway")}` : alone);
  put($("missing"), cluster.missing.length ? `No answer from ${cluster.missing.join(", ")}: figures are without them.` : "");
}

function ago(seconds) {
  const passed = Math.max(0, Date.now() / 1000 - seconds);
  return passed < 1 ? "now" : `${duration(passed)} ago`;
}

function drawErrors(told) {
  if (told) errors = told.errors;
  if (told) put($("errors-count"), told.count ? `${NUMBER.format(told.count)} in all` : "");
  $("errors-none").hidden = errors.length > 0;
  keyed(
    $("errors"),
    errors,
    (error) => JSON.stringify([error.host, error.room, error.hook, error.type, error.text]),
    (error) => {
      const summary = element("summary", {}, element("span", { className: "what" }), element("span"), element("time"));
      return element("li", {}, element("details", {}, summary, element("pre", { tabIndex: 0 }, error.traceback)));
    },
    (item, error) => {
      const [what, where, when] = item.querySelector("summary").children;
      put(what, `${error.type}: ${error.text}`);
      put(where, `${error.hook} of ${error.room}${error.count > 1 ? `, ${NUMBER.format(error.count)} times` : ""}`);
      put(when, ago(error.last));
    },
  );
}

const drawQuarantine = table("quarantine", [
  ["Room", text((input) => input.room)],
  ["Event", text((input) => input.event)],
  ["Connection", text((input) => input.connection)],
  ["Bytes", text((input) => NUMBER.format(input.size)), "number"],
  ["Since", text((input) => ago(input.since))],
  ["Why", text((input) => input.reason)],
]);

// --- the connection ---------------------------------------------------------------------------------------

const STATES = {
  connecting: "connecting",
  connected: "live",
  disconnected: "not connected",
  reconnecting: "not connected: coming back",
  error: "not connected",
};

function showState(state) {
  put($("state"), STATES[state]);
  $("state").className = state;
}

function drawAge() {
  const age = toldAt === null ? 0 : (performance.now() - toldAt) / 1000;
  $("age").hidden = age < FRESH;
  put($("age"), `as of ${duration(age)} ago`);
}

function watch() {
  if (client?.isConnected()) client.emit("watch", view);
}

// What a subprotocol may not have is in many a token.
function encoded(text) {
  const bytes = String.fromCharCode(...new TextEncoder().encode(text));
  return btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

function connect() {
  $("door").hidden = true;
  $("inspector").hidden = false;
  $("forget").hidden = !token;
  const options = { reconnection: { maxAttempts: 0, maxDelay: 10_000 }, ...(token && { token: encoded(token) }) };
  client = new VeraniClient(new URL("ws", location.href), options);
  client.onStateChange(showState);
  client.onOpen(watch);
  client.on("reconnecting", ({ attempt }) => attempt > 1 && enter()); // a token may be good no more
  client.on("history", (told) => {
    samples = told.samples;
    drawCharts();
  });
  client.on("sample", (told) => {
    if (told.sample) samples = [...samples, told.sample].slice(-MAX_SAMPLES);
    totals = told.rooms;
    drawCharts();
    drawErrors(); // whose times go on
  });
  client.on("cluster", (told) => {
    cluster = told;
    drawCluster();
  });
  client.on("rooms", (told) => {
    if (["prefix", "state", "order"].some((name) => told[name] !== view[name])) return; // it is late
    lists = told;
    drawList();
    toldAt = performance.now(); // what else a look tells comes before
    drawAge();
  });
  client.on("room", (told) => {
    if (told.name !== view.room) return;
    detail = told;
    drawDetail();
  });
  client.on("errors", drawErrors);
  client.on("quarantine", (told) => drawQuarantine(told.inputs, (input) => `${input.room} ${input.connection} ${input.number}`));
  showState(client.getState());
}

function disconnect() {
  client?.close();
  client = null;
  toldAt = null;
}

// Find out whether the token is good, which a refused WebSocket does not tell.
async function enter() {
  let response;
  try {
    response = await api("quarantine");
  } catch {
    response = null; // there is no service at the moment: the client comes back when there is
  }
  if (response?.status === 401) {
    disconnect();
    put($("door-error"), token ? "This is not the token of this service." : "");
    showDoor();
  } else if (!client) {
    if (token) sessionStorage.setItem(TOKEN, token);
    connect();
  }
}

function showDoor() {
  $("inspector").hidden = true;
  $("door").hidden = false;
  $("token").value = "";
  $("token").focus();
}

function forget() {
  token = null;
  sessionStorage.removeItem(TOKEN);
  disconnect();
  put($("door-error"), "");
  showDoor();
}

// --- what is in the URL: reload, bookmarks and Back work ----------------------------------------------------

function recall() {
  const kept = new URLSearchParams(location.hash.slice(1));
  const asked = (name) => kept.get(name) ?? "";
  view = { prefix: asked("prefix"), state: asked("state"), room: asked("room"), order: asked("order") };
  if (!["", "awake", "asleep"].includes(view.state)) view.state = "";
  if (!Object.hasOwn(ORDER, view.order)) view.order = "";
  for (const name of ["prefix", "room"]) view[name] = view[name].slice(0, 200);
  $("prefix").value = view.prefix;
  $("kind").value = view.state;
  $("sort").value = view.order;
}

function remember(chosen, how) {
  view = chosen;
  const kept = new URLSearchParams(Object.entries(view).filter(([, value]) => value));
  history[how](null, "", kept.size ? `#${kept}` : location.pathname);
}

function filter() {
  const chosen = { prefix: $("prefix").value, state: $("kind").value, order: $("sort").value };
  remember({ ...view, ...chosen }, "replaceState");
  drawList();
  watch();
}

function goBack() {
  recall();
  drawDetail();
  drawList();
  watch();
}

$("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value;
  enter();
});
$("forget").addEventListener("click", forget);
$("filter").addEventListener("submit", (event) => event.preventDefault());
$("prefix").addEventListener("input", filter);
$("kind").addEventListener("change", filter);
$("sort").addEventListener("change", filter);
addEventListener("popstate", goBack);
$("leave").addEventListener("click", leave);
$("send").addEventListener("submit", send);
$("hibernate").addEventListener("click", () => {
  const room = view.room;
  order("hibernate", { room }, `${room} sleeps as soon as nothing is going on in it.`);
});
$("wake").addEventListener("click", () => {
  const room = view.room;
  order("wake", { room }, `${room} wakes.`);
});

recall();
drawDetail();
drawQuarantine([], String);
setInterval(drawAge, 1000);
enter();
