// Controls, search, and the order in which everything begins.

const PANELS = { Neuron: neuronPanel, Class: classPanel, Models: modelsPanel, Selection: selectionPanel, Validity: validityPanel };
const TABS = Object.keys(PANELS);

function drawTabs() {
  const focused = document.activeElement && document.activeElement.getAttribute("role") === "tab";
  $("tabs").replaceChildren(...TABS.map((name) => h("button", { type: "button", role: "tab", id: `tab-${name}`,
    "aria-selected": String(STATE.tab === name), "aria-controls": "panel", tabindex: STATE.tab === name ? 0 : -1,
    onclick: () => change({ tab: name }),
    onkeydown: (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) { event.preventDefault(); change({ tab: TABS[(TABS.indexOf(name) + step + TABS.length) % TABS.length] }); $(`tab-${STATE.tab}`).focus(); }
    } }, name === "Selection" && STATE.chosen.length ? `Selection (${STATE.chosen.length})` : name)));
  if (focused) $(`tab-${STATE.tab}`).focus();
}
function drawPanel() {
  $("panel").setAttribute("aria-labelledby", `tab-${STATE.tab}`);
  $("panel").replaceChildren(...PANELS[STATE.tab]().flat().filter(Boolean));
}

function drawControls() {
  $("epoch").max = EPOCHS.length - 1;
  $("epoch").value = EPOCH_PLACE.get(STATE.epoch);
  $("epoch").setAttribute("aria-valuetext", `epoch ${STATE.epoch}`);
  $("epochShown").textContent = STATE.epoch;
  const usable = Object.entries(COLOURINGS).filter(([name]) =>
    (name !== "concept" || D.hasConcepts) && (name !== "people" || D.people) &&
    (!["importance", "undone"].includes(name) || D.pairs.length));
  fill("colour", usable.map(([name, c]) => option(name, c.text, name === STATE.colour)));
  $("layout").value = STATE.layout;
  fill("trails", [0, 5, 10, 25, 50].map((n) => option(n, n ? `the ${n} with the largest displacement` : "of selected neurons", n === STATE.trails)));
  fill("layer", [option("", "all layers"), ...D.layers.map((l) => `${D.series[l.series]} ${l.name}`).map((n) => option(n, n, n === STATE.layer))]);
  fill("concept", [option("", "all"), ...D.concepts.map((c) => option(c, c, c === STATE.concept))]);
  $("least").value = STATE.least;
  $("least").disabled = Boolean(COLOURINGS[STATE.colour].names);
  fill("class", D.classes.map((c, i) => option(i, c, i === STATE.klass)));
  fill("span", SPANS.map((s) => option(s, spanText(s), s === STATE.span)));
  fill("method", D.methods.map((m, i) => option(i, m, i === STATE.method)));
  $("question").hidden = !D.pairs.length;
  $("seriesShown").replaceChildren(h("legend", {}, "Series"), ...D.series.map((name, s) => h("label", {},
    h("input", { type: "checkbox", checked: !STATE.hidden.includes(s), onchange: (event) =>
      change({ hidden: event.target.checked ? STATE.hidden.filter((o) => o !== s) : [...STATE.hidden, s] }) }), name)));
  const used = [STATE.layer, STATE.concept, STATE.least !== "" && !COLOURINGS[STATE.colour].names ? `at least ${STATE.least}` : "",
    ...STATE.hidden.map((s) => `without ${D.series[s]}`)].filter(Boolean);
  $("filtered").textContent = used.length ? `(${used.join(", ")})` : "(none)";
}

let timer = null;
function play() {
  const playing = timer !== null;
  if (playing) { clearInterval(timer); timer = null; }
  else {
    const next = () => {
      const place = EPOCH_PLACE.get(STATE.epoch);
      if (place === EPOCHS.length - 1) return play();
      return change({ epoch: EPOCHS[place + 1] });
    };
    if (EPOCH_PLACE.get(STATE.epoch) === EPOCHS.length - 1) change({ epoch: EPOCHS[0] });
    timer = setInterval(next, 1200);
  }
  $("play").setAttribute("aria-pressed", String(timer !== null));
  $("play").textContent = timer === null ? "▶ Play" : "❚❚ Stop";
}

// "vgg features.12:61", a concept or a class
function search(text) {
  const wanted = text.trim();
  if (!wanted) return;
  const neuron = wanted.match(/^(.*)[:/]\s*(\d+)$/);
  if (neuron) {
    const channel = Number(neuron[2]), left = neuron[1].trim().toLowerCase();
    const layer = D.layers.find((l) => `${D.series[l.series]} ${l.name}`.toLowerCase() === left) ||
      D.layers.find((l) => l.name.toLowerCase() === left);
    const unit = layer ? unitOf(D.series[layer.series], layer.name, channel) : -1;
    if (unit >= 0) { say(""); return change({ unit, tab: "Neuron" }); }
    return say(layer ? `${D.series[layer.series]} ${layer.name} has channels 0 to ${layer.channels - 1}, not ${channel}.`
      : `No layer is called "${neuron[1]}". Layers: ${D.layers.map((l) => `${D.series[l.series]} ${l.name}`).join(", ")}.`);
  }
  const find = (names) => {
    const low = names.map((n) => n.toLowerCase()), place = low.indexOf(wanted.toLowerCase());
    return place >= 0 ? place : low.findIndex((n) => n.startsWith(wanted.toLowerCase()));
  };
  const klass = find(D.classes), concept = find(D.concepts);
  const exact = (names, place) => place >= 0 && names[place].toLowerCase() === wanted.toLowerCase();
  if (concept >= 0 && (klass < 0 || !exact(D.classes, klass))) {
    say(klass >= 0 ? `There is also the class ${D.classes[klass]}.` : "");
    return change({ region: D.concepts[concept], tab: "Models" });
  }
  if (klass >= 0) { say(""); return change({ klass, tab: "Class", colour: D.pairs.length ? "importance" : STATE.colour }); }
  return say(`Nothing is called "${wanted}". Give a neuron (${unitName(0)}), a concept${D.concepts.length ? ` (${D.concepts.slice(0, 5).join(", ")}, …)` : ""} or a class (${D.classes.slice(0, 5).join(", ")}, …).`);
}

function connect() {
  const on = (id, event, act) => $(id).addEventListener(event, act);
  on("epoch", "input", (e) => change({ epoch: EPOCHS[Number(e.target.value)] }));
  on("play", "click", play);
  for (const id of ["colour", "layout", "layer", "concept", "span"])
    on(id, "change", (e) => change({ [id]: e.target.value, ...(id === "colour" ? { least: "" } : {}) }));
  on("trails", "change", (e) => change({ trails: Number(e.target.value) }));
  on("class", "change", (e) => change({ klass: Number(e.target.value) }));
  on("method", "change", (e) => change({ method: Number(e.target.value) }));
  on("least", "change", (e) => change({ least: e.target.value === "" ? "" : Number(e.target.value) }));
  on("listed", "toggle", () => drawList(shownRows()));
  on("search", "submit", (e) => { e.preventDefault(); search($("query").value); });
  const drag = (mode) => { dragmode = mode; $("pan").setAttribute("aria-pressed", String(mode === "pan")); $("lasso").setAttribute("aria-pressed", String(mode === "lasso")); Plotly.relayout("map", { dragmode: mode }); };
  on("pan", "click", () => drag("pan"));
  on("lasso", "click", () => drag("lasso"));
  on("reset", "click", () => Plotly.relayout("map", { "xaxis.range": BOUNDS.x.slice(), "yaxis.range": BOUNDS.y.slice() }));
  on("mapSvg", "click", () => exportMap("svg"));
  on("mapPng", "click", () => exportMap("png"));
  on("link", "click", () => { change({}); copy(location.href, "the link"); });
  on("theme", "click", () => setDark(!document.documentElement.classList.contains("dark")));
  addEventListener("hashchange", () => { if (location.hash !== ownAddress) { readAddress(); drawAll(); } });
}
function setDark(dark) {
  document.documentElement.classList.toggle("dark", dark);
  $("theme").textContent = dark ? "Light" : "Dark";
  if ($("map").data) drawAll();
}
function drawAll() {
  drawControls();
  drawTabs();
  drawPanel();
  return drawMap();
}

const MAP_KEYS = ["epoch", "colour", "layout", "trails", "hidden", "layer", "concept", "least", "unit", "chosen"];
const PANEL_KEYS = { Neuron: ["unit", "epoch", "klass", "method"], Class: ["klass", "span", "method"],
  Models: ["region", "neurons"], Selection: ["chosen", "klass", ...MAP_KEYS], Validity: [] };
let shownEpoch = null;
function redraw(keys) {
  drawControls();
  const depends = ["importance", "undone"].includes(STATE.colour) && ["klass", "span", "method"].some((k) => keys.has(k));
  if (depends || MAP_KEYS.some((key) => keys.has(key))) drawMap(keys.has("epoch") ? shownEpoch : null);
  shownEpoch = STATE.epoch;
  if (keys.has("tab") || keys.has("chosen")) drawTabs();
  if (keys.has("tab") || PANEL_KEYS[STATE.tab].some((key) => keys.has(key))) drawPanel();
  if (keys.has("unit") && innerWidth <= 900) $("right").scrollIntoView({ block: "start" });
}

async function start() {
  readAddress();
  fill("suggestions", [...D.concepts, ...D.classes, ...D.layers.map((l) => `${D.series[l.series]} ${l.name}:0`)].map((t) => option(t)));
  connect();
  setDark(matchMedia("(prefers-color-scheme: dark)").matches);
  await drawAll();
  shownEpoch = STATE.epoch;
  mapEvents();
  document.body.dataset.ready = "yes";
}
start();
