// The map of all neurons at an epoch. The library draws; what it lacks, time and trails, is here.

// Okabe and Ito (2008); symbols repeat what colours say, for readers of grey
const COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#B8A800", "#8A5A44"];
const SYMBOLS = ["circle", "square", "triangle-up", "diamond", "cross", "x", "star", "pentagon"];
const FADED = "#9aa0a6";
const DIVERGING = [[0, "#c2410c"], [0.5, "#b9bec4"], [1, "#0369a1"]];
const MANY = 4000; // points beyond which WebGL draws instead of SVG

const TOP_CONCEPTS = (() => {
  const counts = new Array(D.concepts.length).fill(0);
  for (const concept of N.concept) if (concept >= 0) counts[concept]++;
  const order = counts.map((_, i) => i).sort((a, b) => counts[b] - counts[a]);
  return order.slice(0, COLOURS.length);
})();

// value of a row; `names` makes it a category
const COLOURINGS = {
  concept: { text: "concept", names: () => TOP_CONCEPTS.map((c) => D.concepts[c]),
    value: (row) => TOP_CONCEPTS.indexOf(N.concept[row]) },
  series: { text: "series", names: () => D.series, value: (row) => seriesOf(N.unit[row]) },
  layer: { text: "depth of the layer", value: (row) => layerOf(N.unit[row]).depth },
  moved: { text: "displacement since the previous checkpoint", value: (row) => N.moved[row] },
  importance: { text: "importance for the class",
    value: (row) => importanceOf(N.unit[row], STATE.span, STATE.method, STATE.klass)?.score ?? NaN },
  undone: { text: `change in accuracy when its ${D.part} of the layer is reverted`, diverging: true,
    value: (row) => outcomeOfBin(N.unit[row], STATE.span, STATE.method, STATE.klass)?.change ?? NaN },
  people: { text: "accuracy of participants",
    value: (row) => peopleOf(N.unit[row], N.epoch[row])?.share ?? NaN },
};
function outcomeOfBin(unit, span, method, klass) {
  const bin = binOf(unit, span, method, klass);
  if (!bin) return null;
  const pair = pairOf(seriesOf(unit), span);
  return pooled(outcomesOf(pair, method, klass, D.units.layer[unit]), `q${bin}`);
}

// rows shown now: of each visible series its checkpoint at the epoch, after the filters
function shownRows(epoch = STATE.epoch) {
  const rows = [];
  const colouring = COLOURINGS[STATE.colour];
  for (let series = 0; series < D.series.length; series++) {
    const own = checkpointAt(series, epoch);
    if (own === undefined || STATE.hidden.includes(series)) continue;
    D.layers.forEach((layer, place) => {
      if (layer.series !== series) return;
      if (STATE.layer && STATE.layer !== `${D.series[series]} ${layer.name}`) return;
      const first = FIRST_UNIT.get(place);
      for (let unit = first; unit < first + layer.channels; unit++) {
        const row = rowAt(unit, own);
        if (row < 0 || Number.isNaN(N.x[row])) continue;
        if (STATE.concept && conceptOf(row) !== STATE.concept) continue;
        if (STATE.least !== "" && !colouring.names && !(colouring.value(row) >= STATE.least)) continue;
        rows.push(row);
      }
    });
  }
  return rows;
}

let enclosed = [];
let dragmode = "pan";

function trace(series, rows, xs, ys) {
  const colouring = COLOURINGS[STATE.colour];
  const values = rows.map(colouring.value);
  const size = rows.length > 20000 ? 3 : rows.length > MANY ? 4 : rows.length > 1000 ? 6 : 9;
  const marker = { size, opacity: 0.85, line: { width: 0 } };
  if (colouring.names) {
    marker.color = values.map((v) => (v < 0 ? FADED : COLOURS[v % COLOURS.length]));
    marker.symbol = rows.length > MANY ? "circle"
      : values.map((v) => (v < 0 ? "circle-open" : SYMBOLS[v % SYMBOLS.length]));
  } else {
    const known = rows.length > 0 && !Number.isNaN(values[0]); // known and unknown are apart
    marker.symbol = SYMBOLS[series % SYMBOLS.length] + (known || rows.length > MANY ? "" : "-open");
    marker.color = known ? values : FADED;
    if (known) marker.coloraxis = "coloraxis";
  }
  const axis = axisOf(series);
  return { type: rows.length > MANY ? "scattergl" : "scatter", mode: "markers", name: D.series[series],
    x: xs || rows.map((r) => N.x[r]), y: ys || rows.map((r) => N.y[r]), customdata: rows,
    hoverinfo: "none", showlegend: false, marker, xaxis: "x" + axis, yaxis: "y" + axis };
}
const axisOf = (series) => {
  const visible = D.series.map((_, s) => s).filter((s) => !STATE.hidden.includes(s));
  const place = STATE.layout === "side" ? visible.indexOf(series) : 0;
  return place > 0 ? String(place + 1) : "";
};

// how far each unit moved in all steps between trained checkpoints, most first
let movedMost = null;
function mostMoved() {
  if (movedMost) return movedMost;
  const path = new Float64Array(UNITS);
  for (let row = 0; row < N.unit.length; row++) {
    const first = epochsOf(seriesOf(N.unit[row])).find((e) => e > 0);
    if (N.epoch[row] > first && !Number.isNaN(N.moved[row])) path[N.unit[row]] += N.moved[row];
  }
  movedMost = [...path.keys()].sort((a, b) => path[b] - path[a]);
  return movedMost;
}
function trails(rows) {
  const visible = new Set(rows.map((row) => N.unit[row]));
  const wanted = new Set(STATE.chosen.map((c) => N.unit[c.row]).filter((u) => visible.has(u)));
  if (STATE.unit >= 0 && !STATE.hidden.includes(seriesOf(STATE.unit))) wanted.add(STATE.unit);
  if (STATE.trails)
    mostMoved().filter((u) => visible.has(u)).slice(0, STATE.trails).forEach((u) => wanted.add(u));
  return [...wanted].flatMap((unit) => {
    const own = epochsOf(seriesOf(unit)).filter((e) => e <= STATE.epoch)
      .map((epoch) => [epoch, rowAt(unit, epoch)]).filter(([, r]) => r >= 0 && !Number.isNaN(N.x[r]));
    if (!own.length) return [];
    const selected = unit === STATE.unit, axis = axisOf(seriesOf(unit));
    return [{ type: "scatter", mode: selected ? "lines+markers+text" : "lines",
      x: own.map(([, r]) => N.x[r]), y: own.map(([, r]) => N.y[r]), customdata: own.map(([, r]) => r),
      opacity: selected ? 1 : wanted.size > 12 ? 0.3 : 0.8, text: own.map(([epoch]) => String(epoch)), textposition: "top center", hoverinfo: "none",
      textfont: { size: 12, color: style("--ink") }, showlegend: false,
      line: { width: selected ? 2 : 1, color: selected ? style("--ink") : style("--soft") },
      marker: { size: own.map((_, i) => (i === own.length - 1 ? 16 : 6)), symbol: "circle-open",
        color: style("--ink"), line: { width: 2 } },
      xaxis: "x" + axis, yaxis: "y" + axis }];
  });
}

const BOUNDS = (() => {
  const box = [Infinity, -Infinity, Infinity, -Infinity];
  for (let row = 0; row < N.unit.length; row++) {
    if (Number.isNaN(N.x[row])) continue;
    box[0] = Math.min(box[0], N.x[row]); box[1] = Math.max(box[1], N.x[row]);
    box[2] = Math.min(box[2], N.y[row]); box[3] = Math.max(box[3], N.y[row]);
  }
  const pad = 0.04 * Math.max(box[1] - box[0], box[3] - box[2], 1e-6);
  return { x: [box[0] - pad, box[1] + pad], y: [box[2] - pad, box[3] + pad] };
})();
function layoutOf(rows) {
  const visible = D.series.filter((_, s) => !STATE.hidden.includes(s));
  const panels = STATE.layout === "side" ? Math.max(1, visible.length) : 1;
  const colouring = COLOURINGS[STATE.colour];
  const layout = {
    uirevision: STATE.layout + visible.join(), dragmode, hovermode: "closest", showlegend: false,
    margin: { l: 8, r: 8, t: panels > 1 ? 26 : 8, b: 8 }, paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)", font: { color: style("--ink"), family: "system-ui, sans-serif" },
    annotations: panels < 2 ? [] : visible.map((name, i) => ({ text: `${name}, epoch ${
      checkpointAt(D.series.indexOf(name), STATE.epoch) ?? "–"}`, showarrow: false, xref: "paper",
      yref: "paper", x: (i + 0.5) / panels, y: 1.0, yanchor: "bottom" })),
  };
  for (let i = 0; i < panels; i++) {
    const axis = i ? String(i + 1) : "";
    const bare = { showgrid: false, zeroline: false, showticklabels: false, ticks: "" };
    layout["xaxis" + axis] = { ...bare, range: BOUNDS.x.slice(), domain: [i / panels, (i + 0.98) / panels],
      ...(i ? { matches: "x", anchor: "y" + axis } : {}) };
    layout["yaxis" + axis] = { ...bare, range: BOUNDS.y.slice(),
      ...(i ? { matches: "y", anchor: "x" + axis } : {}) };
  }
  if (!colouring.names)
    layout.coloraxis = { colorscale: colouring.diverging ? DIVERGING : "Cividis",
      ...(colouring.diverging ? { cmid: 0 } : {}),
      colorbar: { thickness: 10, len: 0.6, outlinewidth: 0, tickfont: { size: 11 } } };
  return layout;
}

let frame = 0;
function drawMap(from = null) {
  const rows = shownRows();
  const bySeries = D.series.flatMap((_, s) => {
    const own = rows.filter((row) => seriesOf(N.unit[row]) === s), colouring = COLOURINGS[STATE.colour];
    if (colouring.names) return [[own, s]];
    const known = own.map((row) => !Number.isNaN(colouring.value(row)));
    return [[own.filter((_, i) => !known[i]), s], [own.filter((_, i) => known[i]), s]];
  });
  const extra = trails(rows), layout = layoutOf(rows);
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches || rows.length > MANY;
  const turn = ++frame;
  const steps = from === null || still ? 1 : 10;
  const at = (row, axis, share) => {
    if (share >= 1) return N[axis][row];
    const before = rowAt(N.unit[row], checkpointAt(seriesOf(N.unit[row]), from) ?? -1);
    return before < 0 || Number.isNaN(N.x[before]) ? N[axis][row]
      : N[axis][before] + share * (N[axis][row] - N[axis][before]);
  };
  const step = async (k) => {
    if (turn !== frame) return; // a newer drawing has begun
    const share = k / steps;
    const traces = bySeries.map(([own, s]) => trace(s, own, own.map((r) => at(r, "x", share)),
      own.map((r) => at(r, "y", share)))).filter((t) => t.x.length);
    await Plotly.react("map", share < 1 ? traces : [...traces, ...extra], layout,
      { displayModeBar: false, scrollZoom: true, responsive: true, doubleClick: "reset" });
    if (k < steps) requestAnimationFrame(() => step(k + 1));
    else $("map").dataset.epoch = STATE.epoch;
  };
  const drawn = step(1);
  drawLegend(rows);
  drawHonest(rows);
  drawList(rows);
  return drawn;
}

function drawLegend(rows) {
  const colouring = COLOURINGS[STATE.colour];
  if (!colouring.names) {
    const known = rows.filter((row) => !Number.isNaN(colouring.value(row))).length;
    const symbols = D.series.length > 1
      ? "; " + D.series.map((s, i) => `${s}: ${SYMBOLS[i % SYMBOLS.length].replace("-up", "")}`).join(", ") : "";
    return $("legend").replaceChildren(soft(`Colour: ${colouring.text}${
      STATE.colour === "people" ? " (without controls; tasks differ in their chance level, see a neuron's trials)" : ["importance", "undone"].includes(STATE.colour) ? `: ${D.classes[STATE.klass]}, epochs ${spanText(STATE.span)}, by ${D.methods[STATE.method]}` : ""
    }; known of ${known} of ${rows.length} neurons${symbols}.`));
  }
  const values = rows.map(colouring.value);
  const chips = colouring.names().map((name, i) => h("button", { type: "button",
    "aria-pressed": STATE.colour === "concept" ? String(STATE.concept === name) : undefined,
    onclick: () => STATE.colour === "concept"
      ? change({ concept: STATE.concept === name ? "" : name })
      : change({ hidden: STATE.hidden.includes(i) ? STATE.hidden.filter((s) => s !== i) : [...STATE.hidden, i] }),
  }, chip(i), `${name} ${values.filter((v) => v === i).length}`));
  const rest = values.filter((v) => v < 0).length;
  $("legend").replaceChildren(...chips, ...(rest ? [soft(`other or none ${rest}`)] : []));
}
const SHAPES = ["M1 6a5 5 0 1 0 10 0a5 5 0 1 0-10 0", "M1 1h10v10H1z", "M6 0l6 11H0z", "M6 0l6 6-6 6-6-6z",
  "M4 0h4v4h4v4H8v4H4V8H0V4h4z", "M2 0l4 4 4-4 2 2-4 4 4 4-2 2-4-4-4 4-2-2 4-4-4-4z",
  "M6 0l2 4 4 .3-3 3 1 4.700-4-2.500-4 2.500 1-4.700-3-3 4-.3z", "M6 0l6 4.500-2 7.500H2L0 4.500z"];
function chip(i) {
  const ns = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(ns, "svg"), path = document.createElementNS(ns, "path");
  svg.setAttribute("viewBox", "0 0 12 12");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", SHAPES[i % SHAPES.length]);
  path.setAttribute("fill", COLOURS[i % COLOURS.length]);
  svg.append(path);
  return svg;
}

function drawHonest(rows) {
  const dead = D.series.map((name, s) => {
    const own = D.checkpoints.find((c) => c.series === name && c.epoch === checkpointAt(s, STATE.epoch));
    return own ? `${name} epoch ${own.epoch}: ${own.dead} dead of ${own.neurons}` : null;
  }).filter(Boolean).join("; ");
  const near = D.alignment.filter((a) => a.group === "other series" || a.group === "base").map((a) =>
    `${number(a.share)} [${number(a.low)}, ${number(a.high)}] for ${a.group === "base" ? "the base network" : "other networks"} (chance ${number(a.chance)})`).join(", ");
  $("honest").textContent = `${rows.length} neurons shown. ${dead}. Space: ${D.space}; the map is its UMAP layout, in which distances between clusters have no meaning: read similarities from the lists. ` +
    (near ? `Of a neuron's five nearest base neurons these shares have its true concept: ${near}.` : "No true concepts are known, so the space could not be checked.") +
    (D.leftOut ? ` ${D.leftOut}` : "");
}
function drawList(rows) {
  if (!$("listed").open) return;
  const colouring = COLOURINGS[STATE.colour];
  const value = (row) => (colouring.names ? N.overlap[row] : colouring.value(row));
  const best = rows.filter((row) => !Number.isNaN(value(row)))
    .sort((a, b) => (colouring.diverging ? value(a) - value(b) : value(b) - value(a))).slice(0, 40);
  $("list").replaceChildren(
    soft(`The ${best.length} ${colouring.diverging ? "lowest" : "highest"} by ${colouring.names ? "overlap with their concept" : colouring.text}.`),
    table("shown neurons", [["neuron", 1], ["concept", 1], ["overlap"], ["value"]], best.map((row) => [
      unitButton(N.unit[row]), conceptOf(row) || "–", number(N.overlap[row]), number(value(row), 3)])));
}

function mapEvents() {
  const map = $("map");
  map.on("plotly_click", (event) => {
    const row = event.points[0].customdata;
    if (row !== undefined) change({ unit: N.unit[row], tab: "Neuron" });
  });
  map.on("plotly_hover", (event) => {
    const row = event.points[0].customdata;
    if (row === undefined) return;
    const card = $("card"), from = event.event;
    card.replaceChildren(patchGrid(row, 150), h("b", {}, unitName(N.unit[row])),
      h("div", {}, `epoch ${N.epoch[row]}; ${conceptOf(row) || "no concept"} (overlap ${number(N.overlap[row])})`));
    card.hidden = false;
    card.style.left = Math.min(from.clientX + 16, innerWidth - 250) + "px";
    card.style.top = Math.max(8, Math.min(from.clientY + 12, innerHeight - 240)) + "px";
  });
  map.on("plotly_unhover", () => { $("card").hidden = true; });
  map.on("plotly_selected", (event) => {
    enclosed = event ? event.points.map((p) => p.customdata).filter((r) => r !== undefined) : [];
    drawEnclosed();
  });
}
function drawEnclosed() {
  $("enclosed").replaceChildren(...(enclosed.length ? [`${enclosed.length} enclosed `,
    button(() => { choose(enclosed); enclosed = []; drawEnclosed(); }, "Add to selection")] : []));
}
function exportMap(format) {
  const { width, height } = $("map").getBoundingClientRect();
  return exportPlot("map", `map-epoch-${STATE.epoch}`, format, Math.round(width), Math.round(height));
}
async function exportPlot(plot, name, format, width, height) {
  const url = await Plotly.toImage(plot, { format, width, height, scale: format === "png" ? 2 : 1 });
  const content = url.slice(url.indexOf(",") + 1);
  if (format === "svg") download(`${name}.svg`, decodeURIComponent(content), "image/svg+xml");
  else download(`${name}.png`, bytesOf(content), "image/png");
}
