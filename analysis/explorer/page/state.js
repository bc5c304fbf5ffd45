// What the page shows now. The address holds it, so that a neuron at an epoch can be cited.

// the first class for which anything was scored
const FIRST_CLASS = D.scored[0] ?? 0;
const STATE = {
  tab: "Neuron", epoch: EPOCHS[EPOCHS.length - 1], colour: D.hasConcepts ? "concept" : "series",
  layout: "overlaid", trails: 0, hidden: [], layer: "", concept: "", least: "", unit: -1,
  klass: FIRST_CLASS, span: SPANS[SPANS.length - 1] || "", method: 0, region: "", neurons: 3, chosen: [],
};
const DEFAULTS = { ...STATE };

const neuronText = (row) => {
  const unit = N.unit[row], layer = layerOf(unit);
  return [D.series[layer.series], N.epoch[row], layer.name, D.units.channel[unit]].join("/");
};
function neuronRow(text) {
  const [series, epoch, layer, channel] = text.split("/");
  const unit = unitOf(series, layer, Number(channel));
  return unit < 0 ? -1 : rowAt(unit, Number(epoch));
}

// state -> text of one field of the address, and back
const FIELDS = {
  tab: [(v) => v, (t) => (TABS.includes(t) ? t : undefined)],
  epoch: [(v) => v, (t) => (EPOCHS.includes(Number(t)) ? Number(t) : undefined)],
  colour: [(v) => v, (t) => (t in COLOURINGS ? t : undefined)],
  layout: [(v) => v, (t) => (t === "side" ? t : undefined)],
  trails: [(v) => v, (t) => Number(t) || 0],
  hidden: [(v) => v.map((s) => D.series[s]).join(","),
    (t) => t.split(",").map((name) => D.series.indexOf(name)).filter((s) => s >= 0)],
  layer: [(v) => v, (t) => t],
  concept: [(v) => v, (t) => (D.concepts.includes(t) ? t : undefined)],
  least: [(v) => v, (t) => (t !== "" && Number.isFinite(Number(t)) ? Number(t) : undefined)],
  unit: [(v) => [D.series[seriesOf(v)], layerOf(v).name, D.units.channel[v]].join("/"),
    (t) => { const [s, l, c] = t.split("/"); return unitOf(s, l, Number(c)); }],
  klass: [(v) => D.classes[v], (t) => (D.classes.includes(t) ? D.classes.indexOf(t) : undefined)],
  span: [(v) => v, (t) => (SPANS.includes(t) ? t : undefined)],
  method: [(v) => D.methods[v], (t) => (D.methods.includes(t) ? D.methods.indexOf(t) : undefined)],
  region: [(v) => v, (t) => (D.concepts.includes(t) ? t : undefined)],
  neurons: [(v) => v, (t) => Math.max(1, Number(t) || 3)],
  chosen: [(v) => v.map((c) => neuronText(c.row) + (c.group ? `=${c.group}` : "")).join(";"),
    (t) => t.split(";").map((part) => {
      const [neuron, group = ""] = part.split("=");
      return { row: neuronRow(neuron), group };
    }).filter((c) => c.row >= 0)],
};
const NAMES = { klass: "class", span: "epochs", unit: "neuron" }; // in the address

function address() {
  const values = new URLSearchParams();
  for (const [name, [write]] of Object.entries(FIELDS)) {
    if (name === "unit" && STATE.unit < 0) continue;
    if (name !== "epoch" && JSON.stringify(STATE[name]) === JSON.stringify(DEFAULTS[name])) continue;
    values.set(NAMES[name] || name, write(STATE[name]));
  }
  return "#" + values.toString();
}
function readAddress() {
  const values = new URLSearchParams(location.hash.slice(1));
  for (const [name, [, read]] of Object.entries(FIELDS)) {
    const text = values.get(NAMES[name] || name);
    const value = text === null ? undefined : read(text);
    if (text !== null && value === undefined)
      say(`The address names ${NAMES[name] || name} "${text}", which this run does not have.`);
    STATE[name] = value === undefined ? DEFAULTS[name] : value;
  }
}
let ownAddress = "";
function change(values) {
  Object.assign(STATE, values);
  ownAddress = address();
  history.replaceState(null, "", ownAddress);
  redraw(new Set(Object.keys(values)));
}

function say(text) { document.getElementById("said").textContent = text; }

// ---- small tools of the page

const $ = (id) => document.getElementById(id);
function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name in element && typeof value === "boolean") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}
const button = (onclick, ...children) => h("button", { type: "button", onclick }, ...children);
// what scrolls by itself takes focus, so that the arrow keys reach all of it
const region = (tag, label, className, ...children) =>
  h(tag, { class: className, tabindex: 0, role: "region", "aria-label": label }, ...children);
const unitButton = (unit) => button(() => change({ unit, tab: "Neuron" }), unitName(unit));
const option = (value, text, selected) => h("option", { value, selected: Boolean(selected) }, text);
const fill = (id, options) => $(id).replaceChildren(...options);
const soft = (text) => h("p", { class: "note" }, text);

function table(label, head, rows) {
  const body = rows.map((row) => h("tr", {}, row.map((cell, i) =>
    cell instanceof Element && cell.tagName === "TD" ? cell
      : h("td", { class: head[i][1] ? "text" : undefined }, cell))));
  return region("div", label, "scroll",
    h("table", {}, h("thead", {}, h("tr", {}, head.map(([name, text]) =>
      h("th", { scope: "col", class: text ? "text" : undefined }, name)))), h("tbody", {}, body)));
}
const number = (value, digits = 2) =>
  value === null || Number.isNaN(value) ? "–"
    : value.toFixed(Math.abs(value) >= 100 ? 0 : digits).replace(/^-(?=0\.?0*$)/, "").replace("-", "−");
const signed = (value, digits = 2) =>
  (Number(value.toFixed(digits)) > 0 ? "+" : "") + number(value, digits);
const percent = (value) => (value === null ? "–" : `${Math.round(100 * value)} %`);
const withError = (value, error, digits = 2) =>
  `${number(value, digits)} ± ${number(error, digits)}`;
const spanText = (span) => span.replace("-", " → ");

function download(name, content, type) {
  const url = URL.createObjectURL(new Blob([content], { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    say(`Copied ${what}.`);
  } catch {
    window.prompt(`Copy ${what}:`, text); // where the browser keeps the clipboard to itself
  }
}
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
