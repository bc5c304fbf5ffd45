// Models side by side: when a concept appears in each, in which layer, and what its neurons look like.

// neurons of each concept by series, epoch and layer
const COUNTS = (() => {
  const counts = new Map();
  for (let row = 0; row < N.unit.length; row++) {
    if (N.concept[row] < 0) continue;
    const key = `${N.concept[row]}/${seriesOf(N.unit[row])}/${N.epoch[row]}`;
    if (!counts.has(key)) counts.set(key, { all: 0, layers: new Map() });
    const one = counts.get(key), layer = D.units.layer[N.unit[row]];
    one.all += 1;
    one.layers.set(layer, (one.layers.get(layer) || 0) + 1);
  }
  return counts;
})();
const countAt = (concept, series, epoch) => (COUNTS.get(`${concept}/${series}/${epoch}`) || { all: 0, layers: new Map() });
const untrainedCount = (concept, series) => (epochsOf(series).includes(0) ? countAt(concept, series, 0).all : null);

// the first trained checkpoint with enough neurons, and more than the untrained network has by chance
function appearance(concept, series) {
  const chance = untrainedCount(concept, series); // null, which counts as 0, without epoch 0
  for (const epoch of epochsOf(series)) {
    if (epoch === 0) continue;
    const { all, layers } = countAt(concept, series, epoch);
    if (all >= STATE.neurons && all > chance) {
      const [layer, count] = [...layers].sort((a, b) => b[1] - a[1] || a[0] - b[0])[0];
      return { epoch, all, layer, count, concept, series, chance };
    }
  }
  return null;
}

function modelsPanel() {
  if (!D.hasConcepts) return [h("h2", {}, "No true concepts are known"),
    soft("The images of this run have neither masks nor attributes, so concepts cannot be named without people. Compare networks by the neighbours of a neuron instead.")];
  const rows = D.concepts.map((name, concept) => ({ name, concept, first: D.series.map((_, s) => appearance(concept, s)) }));
  const earliest = (r) => Math.min(...r.first.map((f) => (f ? f.epoch : Infinity)));
  const size = (r) => Math.max(...r.first.map((f) => (f && f.epoch === earliest(r) ? f.all : 0)));
  rows.sort((a, b) => earliest(a) - earliest(b) || size(b) - size(a));
  const top = rows[0] && rows[0].first.some(Boolean) ? firstSentence(rows, earliest) : "No concept reaches this number of neurons.";
  const least = h("input", { type: "number", min: 1, value: STATE.neurons, size: 4, id: "leastNeurons",
    onchange: (event) => change({ neurons: Math.max(1, Number(event.target.value) || 3) }) });
  return [
    h("h2", {}, "When concepts appear, network by network"), h("p", {}, top),
    h("div", { class: "bar" }, h("label", {}, "A concept has appeared with at least ", least, " neurons")),
    soft(`A neuron counts for the concept with which it overlaps by at least ${D.overlap}. A concept appears at the first trained checkpoint that has enough such neurons, and more than the untrained network (epoch 0, if the run has it), which has some by chance. Between checkpoints nothing is known.`),
    STATE.region ? regionView(STATE.region) : null,
    table("first appearance of concepts", [["concept", 1], ...D.series.flatMap((s) => [[s, 1], [`at the end`]])],
      rows.map((r) => [h("td", { class: "text" }, button(() => change({ region: r.name }), r.name)),
        ...r.first.flatMap((f, s) => [f ? `epoch ${f.epoch}, ${D.layers[f.layer].name} (${f.count} of ${f.all})` : "never",
          String(countAt(r.concept, s, epochsOf(s)[epochsOf(s).length - 1]).all)])])),
  ];
}
function firstSentence(rows, earliest) {
  const epoch = earliest(rows[0]);
  const all = rows.filter((r) => earliest(r) === epoch);
  const best = all[0].first.filter((f) => f && f.epoch === epoch).sort((a, b) => b.all - a.all)[0];
  return `First: ${D.concepts[best.concept]}, at epoch ${epoch} in ${D.series[best.series]}, most of its ${best.all} neurons in ${D.layers[best.layer].name} (${best.count}${best.chance === null ? "" : `; the untrained network has ${best.chance}`}). ${
    all.length > 1 ? `${all.length - 1} other concept${all.length > 2 ? "s" : ""} appeared by the same checkpoint; it is named first because it has the most neurons.` : ""}`;
}

function regionView(name) {
  const concept = D.concepts.indexOf(name);
  const largest = Math.max(1, ...D.series.flatMap((_, s) => epochsOf(s).map((e) => Math.max(0, ...countAt(concept, s, e).layers.values()))));
  const parts = D.series.map((series, s) => {
    const layers = D.layers.map((l, i) => [l, i]).filter(([l]) => l.series === s);
    const lines = layers.map(([layer, place]) => [layer.name, ...epochsOf(s).map((epoch) => {
      const count = countAt(concept, s, epoch).layers.get(place) || 0;
      return heatCell(count, largest);
    })]);
    return h("div", {}, h("h3", {}, `${series}: neurons of “${name}” by layer and epoch`),
      table(`${name} in ${series}`, [["layer", 1], ...epochsOf(s).map((e) => [String(e)])], lines), bestOf(concept, s));
  });
  const box = h("div", { class: "two" }, parts);
  return h("div", {}, h("div", { class: "bar" }, h("b", {}, `Region: ${name}`),
    button(() => change({ colour: "concept", concept: name, layout: "side" }), "Show it on the map, side by side"),
    button(() => choose(shownRows().filter((r) => N.concept[r] === concept)), "Add its shown neurons to the selection"),
    button(() => change({ region: "" }), "Close")),
  box, saveButtons(box, `concept-${name}`));
}
function heatCell(count, largest) {
  const share = count / largest;
  const cell = h("td", { class: "heat" }, count ? String(count) : "·");
  if (count) {
    cell.style.background = `rgb(${Math.round(225 - 215 * share)}, ${Math.round(235 - 155 * share)}, ${Math.round(245 - 90 * share)})`;
    cell.style.color = share > 0.45 ? "#fff" : "#111";
  }
  return cell;
}
// the best-fitting neuron of the concept at each epoch
function bestOf(concept, series) {
  const best = new Map();
  for (let row = 0; row < N.unit.length; row++)
    if (N.concept[row] === concept && seriesOf(N.unit[row]) === series &&
      (!best.has(N.epoch[row]) || N.overlap[row] > N.overlap[best.get(N.epoch[row])])) best.set(N.epoch[row], row);
  return region("div", `best neuron at each epoch in ${D.series[series]}`, "strip small", epochsOf(series).map((epoch) => {
    const row = best.get(epoch);
    return row === undefined
      ? h("div", { class: "cell" }, deadBox("none"), h("b", {}, `epoch ${epoch}`))
      : h("button", { type: "button", class: "cell", onclick: () => change({ unit: N.unit[row], tab: "Neuron", epoch }) }, patchGrid(row, 84),
        h("b", { "data-caption": "" }, `epoch ${epoch}`), h("div", { "data-caption": "" }, `${layerOf(N.unit[row]).name}:${D.units.channel[N.unit[row]]}`),
        h("div", { "data-caption": "" }, `overlap ${number(N.overlap[row])}`));
  }));
}
