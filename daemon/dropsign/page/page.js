
"use strict";

const POLL_MILLISECONDS = 2000;
const ANSWER_MILLISECONDS = 5000;
const FAILURES_SHOWN = 50;
const SOON_DAYS = 14;
const SVG = "http://www.w3.org/2000/svg";
const COLOURS = {open: "#167c45", closed: "#c0272d", starting: "#9a6400", unknown: "#5a6270"};

const byId = (id) => document.getElementById(id);

// Only what changed is written: a screen reader speaks of every change.
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function number(value, digits = 0) {
  return value.toLocaleString("en", {maximumFractionDigits: digits});
}

function duration(seconds) {
  if (seconds < 1) return `${number(seconds * 1000, seconds < 0.01 ? 1 : 0)} ms`;
  if (seconds < 60) return `${number(seconds, seconds < 10 ? 1 : 0)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor(seconds % 3600 / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor(seconds % 86400 / 3600)} h`;
}

// A rate's digits: enough to tell slow ones apart.
const rate = (value) => number(value, value < 10 ? 2 : value < 100 ? 1 : 0);

// What would break the line, turn its direction or cannot be shown is escaped; bytes that are not UTF-8 as \xNN.
function printable(text) {
  return text.replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu, (character) => {
    const code = character.codePointAt(0);
    const byte = code >= 0xdc80 && code <= 0xdcff ? code - 0xdc00 : code;
    return byte < 0x100 ? `\\x${byte.toString(16).padStart(2, "0")}` : `\\u{${byte.toString(16)}}`;
  });
}

// A cell of a table: text only, whatever a file's name looks like.
function cell(text, label) {
  const made = document.createElement("td");
  made.textContent = text;
  if (label) made.dataset.label = label;
  return made;
}

function showGate(state, headline, detail = "", times = "") {
  document.body.dataset.gate = state;
  say(byId("gate-state"), headline);
  say(byId("gate-detail"), detail);
  say(byId("gate-times"), times);
  document.title = state === "open" ? "dropsign" : `${headline} – dropsign`;
  const icon = `<svg xmlns="${SVG}" viewBox="0 0 16 16"><circle cx="8" cy="8" r="7" fill="${COLOURS[state]}"/></svg>`;
  const address = `data:image/svg+xml,${encodeURIComponent(icon)}`;
  if (byId("icon").href !== address) byId("icon").href = address;
}

function showStatus(status) {
  const gate = status.gate;
  if (gate.closed) {
    const probe = gate.next_probe_seconds === null ? "" : `, next try in ${duration(Math.ceil(gate.next_probe_seconds))}`;
    showGate("closed", `Gate closed: ${gate.reason.replaceAll("_", " ")}`, gate.detail,
      `for ${duration(gate.closed_seconds)}${probe}; files wait, none is charged`);
  } else if (!status.ready) {
    showGate("starting", "Gate open, not ready yet", status.not_ready_reasons.join("; "));
  } else {
    showGate("open", "Gate open: signing");
  }
  say(byId("outbox"), status.outbox);
  say(byId("backlog"), number(status.backlog));
  const kinds = ["settling", "deferred"].filter((kind) => status[kind] > 0);
  say(byId("backlog-note"), kinds.map((kind) => `${number(status[kind])} ${kind}`).join(", ") || "files");
  say(byId("in-flight"), number(status.in_flight));
  say(byId("in-flight-note"), `of ${number(status.concurrency)} at most`);
  say(byId("oldest"), status.oldest_waiting_seconds === null ? "–" : duration(status.oldest_waiting_seconds));
  say(byId("signed"), number(status.signed));
  say(byId("signed-note"), `${rate(status.signed_per_second)} a second`);
  say(byId("failed"), number(status.failed));
  byId("failed-figure").classList.toggle("some", status.failed > 0);
  say(byId("refused"), number(status.refused));
  showPercentiles("drop-to-sign", status.drop_to_sign_seconds);
  showPercentiles("signing", status.signing_seconds);
  showCertificates(status);
  const old = status.counts_are_old ? "; counts are the last known, as the journal does not answer" : "";
  say(byId("about"), `dropsign ${status.version}, up for ${duration(status.uptime_seconds)}${old}`);
}

function showPercentiles(id, percentiles) {
  const cells = byId(id).querySelectorAll("td");
  ["p50", "p95", "p99"].forEach((rank, at) => say(cells[at], percentiles ? duration(percentiles[rank]) : "–"));
}

function showCertificates(status) {
  const rows = Object.entries(status.certificates).map(([which, until]) => {
    const row = document.createElement("tr");
    const name = document.createElement("th");
    name.scope = "row";
    name.textContent = which;
    const days = status.certificates_days_left[which];
    const left = cell(days < 0 ? "expired" : number(Math.floor(days)));
    left.classList.toggle("soon", days < SOON_DAYS);
    row.append(name, left, cell(until.slice(0, 10)));
    return row;
  });
  replaceRows(byId("certificates"), rows);
}

function showFailures(files, total) {
  const rows = files.map((file) => {
    const row = document.createElement("tr");
    const why = cell(file.reason || "");
    if (file.error) {
      const error = document.createElement("div");
      error.className = "error";
      error.textContent = file.error;
      why.append(error);
    }
    const since = new Date(file.since * 1000).toLocaleString("sv");
    row.append(cell(printable(file.path)), why, cell(number(file.attempts), "attempts"), cell(since, "since"));
    row.setAttribute("role", "row");
    for (const each of row.cells) each.setAttribute("role", "cell");
    return row;
  });
  byId("failures").classList.toggle("none", rows.length === 0);
  replaceRows(byId("failures"), rows);
  const more = total > files.length ? `${number(files.length)} of ${number(total)} are shown. ` : "";
  say(byId("failures-note"), rows.length === 0
    ? "None. A file that fails is listed here with its reason."
    : `${more}A failed file is tried again when it changes, or with: dropsign retry`);
}

function replaceRows(table, rows) {
  const body = table.tBodies[0];
  const same = rows.length === body.rows.length && rows.every((row, at) => row.isEqualNode(body.rows[at]));
  if (!same) body.replaceChildren(...rows);
}

function draw(parent, name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
}

// The next round number above a value, so that the scale does not move with each point.
function scaleAbove(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 6, 8, 10].map((step) => step * power).find((top) => top >= value);
}

function showThroughput(throughput) {
  const step = throughput.step_seconds;
  const rates = throughput.signed.map((count) => count / step);
  const total = throughput.signed.reduce((sum, count) => sum + count, 0);
  const peak = Math.max(...rates);
  say(byId("chart-text"), total === 0
    ? "Nothing was signed in the last 15 minutes."
    : `${number(total)} signed in the last 15 minutes; now ${rate(rates.at(-1))} a second, at most ${rate(peak)}.`);

  const chart = byId("chart");
  const width = chart.clientWidth, height = chart.clientHeight;
  const left = 40, bottom = height - 20, top = 8;
  const scale = scaleAbove(Math.max(peak, 1));
  const x = (at) => left + (width - left) * at / (rates.length - 1);
  const y = (value) => bottom - (bottom - top) * value / scale;
  chart.setAttribute("viewBox", `0 0 ${width} ${height}`);
  byId("grid").replaceChildren();
  byId("labels").replaceChildren();
  for (const value of [0, scale / 2, scale]) {
    draw(byId("grid"), "line", {x1: left, x2: width, y1: y(value), y2: y(value)});
    draw(byId("labels"), "text", {x: left - 8, y: y(value) + 4, "text-anchor": "end"}, number(value, 1));
  }
  const span = rates.length * step / 60;
  for (const minutes of [span, span * 2 / 3, span / 3, 0]) {
    const anchor = minutes === span ? "start" : minutes === 0 ? "end" : "middle";
    const text = minutes === 0 ? "now" : `−${number(minutes)} min`;
    draw(byId("labels"), "text", {x: left + (width - left) * (1 - minutes / span), y: height - 3, "text-anchor": anchor}, text);
  }
  const points = rates.map((value, at) => `${x(at).toFixed(1)} ${y(value).toFixed(1)}`).join("L");
  byId("line").setAttribute("d", `M${points}`);
  byId("area").setAttribute("d", `M${left} ${bottom}L${points}L${width} ${bottom}Z`);
}

async function ask(path) {
  const answer = await fetch(path, {cache: "no-store", signal: AbortSignal.timeout(ANSWER_MILLISECONDS)});
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

async function refresh() {
  try {
    const [status, throughput, failures] = await Promise.all([
      ask("/api/status"), ask("/api/throughput"), ask(`/api/files?state=failed&limit=${FAILURES_SHOWN}`),
    ]);
    showStatus(status);
    showThroughput(throughput);
    showFailures(failures.files, status.failed);
  } catch {
    showGate("unknown", "The daemon does not answer", "What is below is the last that was known.");
  }
  setTimeout(refresh, POLL_MILLISECONDS);
}

refresh();
