// One neuron: its strip over epochs, neighbours, importance, ablations, people.

let wholeImages = false;

function neuronPanel() {
  if (STATE.unit < 0) return welcome();
  const unit = STATE.unit, series = seriesOf(unit);
  const own = checkpointAt(series, STATE.epoch), row = own === undefined ? -1 : rowAt(unit, own);
  const strip = h("div", { class: wholeImages ? "strip large" : "strip", tabindex: 0, role: "region", "aria-label": "strip over epochs" },
    epochsOf(series).map((epoch) => epochCell(unit, epoch, epoch === own)));
  return [
    h("h2", {}, unitName(unit)),
    h("p", { class: "note" }, `Depth ${layerOf(unit).depth} of the network (0 is the input's side). ${
      row < 0 ? "It is dead at this epoch." : conceptOf(row)
        ? `At epoch ${own}: ${conceptOf(row)}, overlap ${number(N.overlap[row])}.`
        : `At epoch ${own}: no concept with an overlap of at least ${D.overlap}.`}`),
    h("div", { class: "bar" },
      row < 0 ? null : button(() => choose([row]), "Add to selection"),
      h("button", { type: "button", "aria-pressed": String(wholeImages),
        onclick: () => { wholeImages = !wholeImages; drawPanel(); } }, "Whole images, with the patch outlined")),
    strip, saveButtons(strip, unitName(unit).replace(/[ :]/g, "-")),
    h("h3", {}, "Nearest neighbours in each network"), neighbours(row),
    h("h3", {}, "Importance of its evolution"), importanceTable(unit),
    h("h3", {}, "Effect of reverting its evolution"), outcomeTable(unit),
    h("h3", {}, "Responses of participants"), peopleTable(unit),
  ];
}

function epochCell(unit, epoch, now) {
  const row = rowAt(unit, epoch);
  if (row < 0)
    return h("div", { class: "cell" }, deadBox("dead"), h("b", { "data-caption": "" }, `epoch ${epoch}`));
  const activations = [...Array(D.stimuli.each).keys()].map((k) => stimulus(row, k)).filter(Boolean)
    .map((s) => s.activation);
  return h("div", { class: now ? "cell now" : "cell" }, patchGrid(row, wholeImages ? 240 : 132, wholeImages),
    h("b", { "data-caption": "" }, `epoch ${epoch}`),
    h("div", { "data-caption": "" }, conceptOf(row) ? `${conceptOf(row)} (${number(N.overlap[row])})` : `no concept (${number(N.overlap[row])})`),
    h("div", { "data-caption": "" }, activations.length
      ? `activation ${number(activations[0])} to ${number(activations[activations.length - 1])}` : "no stimulus"),
    Number.isNaN(N.moved[row]) ? null : h("div", { "data-caption": "" }, `moved ${number(N.moved[row])}`));
}

function neighbours(row) {
  if (row < 0) return soft("A dead neuron has no position in the space.");
  return h("div", {}, D.neighbours.map((block) => {
    const each = block.row.length / N.unit.length;
    const cells = [];
    for (let k = 0; k < each; k++) {
      const near = block.row[row * each + k];
      if (near >= 0) cells.push(neighbourCell(near, block.similarity[row * each + k]));
    }
    return h("div", {}, h("p", { class: "note" }, `${D.series[block.series]}, epoch ${block.epoch} (by ${D.space}; similarity)`),
      region("div", `neighbours in ${D.series[block.series]}`, "strip small", cells));
  }));
}
function neighbourCell(row, similarity) {
  const unit = N.unit[row];
  return h("button", { type: "button", class: "cell", onclick: () => change({ unit, tab: "Neuron" }) },
    patchGrid(row, 84), h("b", {}, `${layerOf(unit).name}:${D.units.channel[unit]}`),
    h("div", {}, conceptOf(row) || "–"), h("div", {}, number(similarity)));
}

function importanceTable(unit) {
  const series = seriesOf(unit);
  const spans = SPANS.filter((span) => pairOf(series, span) >= 0);
  if (!spans.length) return soft("No pair of epochs of this series was scored.");
  const layer = layerOf(unit);
  const rows = D.classes.map((name, klass) => ({ klass, name, found: spans.map((s) => importanceOf(unit, s, STATE.method, klass)) }))
    .filter((r) => r.found.some(Boolean));
  const score = (r) => Math.max(...r.found.map((f) => (f ? f.score : -Infinity)));
  rows.sort((a, b) => score(b) - score(a));
  const images = rows.flatMap((r) => r.found).find(Boolean);
  return h("div", {},
    soft(`Score by ${D.methods[STATE.method]} ± its standard error${images ? `, from ${images.images} images a class` : ""}; in brackets its rank among the ${layer.channels} neurons of the layer. Most important class first.`),
    table("importance by class and pair", [["class", 1], ...spans.map((s) => [spanText(s)])],
      rows.map((r) => [h("td", { class: "text" }, button(() => change({ klass: r.klass, tab: "Class" }), r.name)),
        ...r.found.map((f) => (f ? `${withError(f.score, f.error)} (${f.rank + 1})` : "–"))])));
}

function outcomeTable(unit) {
  const series = seriesOf(unit);
  const lines = SPANS.filter((span) => pairOf(series, span) >= 0).map((span) => {
    const bin = binOf(unit, span, STATE.method, STATE.klass);
    if (!bin) return null;
    const pair = pairOf(series, span), at = (layer, arm) => pooled(outcomesOf(pair, STATE.method, STATE.klass, layer), arm);
    const cell = (o) => (o ? `${signed(o.change)} ± ${number(o.error)}` : "–");
    const layer = D.units.layer[unit];
    return [spanText(span), `q${bin} of ${QUARTERS.length}`, cell(at(layer, `q${bin}`)), cell(at(layer, "random")),
      cell(at(-1, `q${bin}`)), cell(at(-1, "random"))];
  }).filter(Boolean);
  if (!lines.length) return soft("No set with this neuron was reverted for the chosen class and method.");
  return h("div", {},
    soft(`For ${D.classes[STATE.klass]}, by ${D.methods[STATE.method]}: the neuron was reverted together with its whole ${D.part} by importance (q1 the most important). Change in accuracy ± standard error over held-out images; beside it random sets of the same size.`),
    table("outcomes of its sets", [["epochs", 1], ["its set", 1], ["its layer"], ["random"], ["all layers"], ["random"]], lines));
}

function peopleTable(unit) {
  if (!D.people) return soft("No study was given. With one: conceptevo explore RUN --study RESULTS");
  const simulated = D.people.source === "simulated" ? " These are simulated responses, not people's." : "";
  const trials = trialsOf(unit);
  if (!trials.length) {
    const row = rowAt(unit, checkpointAt(seriesOf(unit), STATE.epoch) ?? -1);
    const concept = row < 0 ? "" : conceptOf(row);
    const alike = concept ? peopleOfConcept(concept) : null;
    return soft(`No trial showed this neuron.${alike ? ` Of the answers to trials about other neurons of ${concept}, ${percent(alike.share)} were right (chance ${percent(alike.chance)}; ${alike.trials} trials, ${alike.answers} answers).` : ""}${simulated}`);
  }
  const all = shareRight(trials);
  return h("div", {},
    soft(`${all ? `${percent(all.share)} of ${all.answers} answers were right (chance ${percent(all.chance)}) in ${all.trials} trial${all.trials > 1 ? "s" : ""} with a correct response, without controls; the table says at which epochs they showed it.` : "None of its trials has a correct response, controls excluded."}${simulated}`),
    table("trials with this neuron", [["trial", 1], ["task", 1], ["condition", 1], ["epochs", 1], ["answers"], ["result"], ["chance"], ["most frequent answers", 1]],
      trials.map((t) => [t.id, D.people.tasks[t.task] || t.task, t.condition.replace(/_/g, " ") + (t.control ? " (control)" : ""),
        t.neurons.filter((r) => N.unit[r] === unit).map((r) => N.epoch[r]).join(", "),
        String(t.answers), t.right !== null ? `${percent(t.right)} right` : t.changed !== null ? `${percent(t.changed)} saw a change` : "–", t.chance ? percent(t.chance) : "–",
        h("td", { class: "text wrap" }, t.given.map(([text, n]) => `${text}${text === t.key ? " (right)" : ""} × ${n}`).join("; "))])));
}
// trials whose neurons are mostly of a concept
const peopleOfConcept = (concept) => shareRight(D.people.trials.filter((t) =>
  t.neurons.filter((r) => conceptOf(r) === concept).length * 2 > t.neurons.length));

// what one can ask first, each a button
function welcome() {
  const klass = Math.max(0, D.classes.indexOf("zebra"));
  const ask = (text, values) => h("li", {}, button(() => change(values), text));
  const moved = mostMoved()[0];
  return [h("h2", {}, "Start with a question"), h("ul", {},
    D.hasConcepts ? ask("Which concept appeared first, in which layer of which network?", { tab: "Models" }) : null,
    D.pairs.length ? ask(`Which evolution matters most to ${D.classes[klass]}? Is it the same in the other networks?`, { tab: "Class", klass, colour: "importance" }) : null,
    ask(`Which neuron moved furthest? (${unitName(moved)})`, { tab: "Neuron", unit: moved, trails: 10 }),
    D.people ? ask("Which neurons did people recognise?", { colour: "people" }) : null,
    ask("How valid are the map and the scores?", { tab: "Validity" })),
  soft("Or click a dot of the map, choose a neuron from the list below the map, or type into Find: a neuron "
    + `(${unitName(0)}), ${D.concepts.length ? `a concept (${D.concepts[0]}), ` : ""}a class (${D.classes[0]}).`)];
}
