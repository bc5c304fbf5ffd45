// A class and a pair of epochs: evolutions by importance, and what reverting them does.

const SHOWN = 8;

function ranked(series, klass = STATE.klass) {
  const found = [];
  for (const unit of unitsOfSeries(series)) {
    const one = importanceOf(unit, STATE.span, STATE.method, klass);
    if (one) found.push({ unit, ...one });
  }
  // where scores tie, as shares do, the smaller standard error, the deeper layer and the run's own rank go first
  return found.sort((a, b) => b.score - a.score || a.error - b.error || layerOf(b.unit).depth - layerOf(a.unit).depth || a.rank - b.rank);
}

function classPanel() {
  if (!D.pairs.length) return [h("h2", {}, "No evolution was scored"), soft("Make scores with `conceptevo run`.")];
  const name = D.classes[STATE.klass], [from, to] = STATE.span.split("-").map(Number);
  const series = D.series.map((_, s) => s).filter((s) => pairOf(s, STATE.span) >= 0);
  const lists = series.map((s) => ({ series: s, found: ranked(s) }));
  return [
    h("h2", {}, `${name}, epochs ${from} → ${to}`),
    soft(`Which evolutions matter most to ${name}, by ${D.methods[STATE.method]} ± standard error. Class, epochs and method are chosen above the map.`),
    ...lists.map(({ series: s, found }) => h("p", {}, sentenceOf(s, found, lists))),
    ...lists.flatMap(({ series: s, found }) => [
      h("h3", {}, `${D.series[s]}: the most important evolutions`), evolutionList(found, from, to, name),
      h("h3", {}, `${D.series[s]}: effect of reverting them`), outcomeChart(s)]),
  ];
}

function sentenceOf(series, found, lists) {
  if (!found.length) return `${D.series[series]}: no evolution has a score.`;
  const best = found[0], to = Number(STATE.span.split("-")[1]);
  const tied = found.filter((f) => f.score >= best.score - best.error).length - 1;
  const equal = found.filter((f) => f.score === best.score).length;
  const row = rowAt(best.unit, to), people = peopleOf(best.unit, to);
  const others = lists.filter((l) => l.series !== series && l.found.length).map((other) => {
    const near = row < 0 ? -1 : nearestIn(row, other.series);
    if (near < 0) return "";
    const place = other.found.findIndex((f) => f.unit === N.unit[near]);
    const alike = conceptOf(near) && conceptOf(near) === conceptOf(row) ? "the same concept" : `concept ${conceptOf(near) || "none"}`;
    return ` In ${D.series[other.series]} its nearest neighbour at the end is ${unitName(N.unit[near])} (${alike}), number ${place + 1} of ${other.found.length} there.`;
  }).join("");
  const seen = !D.people ? "" : people
    ? ` People were right in ${percent(people.share)} of ${people.answers} answers to trials that showed it at epoch ${to} (chance ${percent(people.chance)})${D.people.source === "simulated" ? " (simulated)" : ""}.`
    : unseen(row, to);
  return `${D.series[series]}: ${unitName(best.unit)} ${equal > 1 ? `is one of ${equal} that matter most` : "matters most"} (${withError(best.score, best.error)}${
    conceptOf(row) ? `, ${conceptOf(row)} at epoch ${to}` : ""}); ${tied
    ? `${tied} more ${tied === 1 ? "is" : "are"} within one standard error of it, so its first place is not certain (another score, chosen above the map, may separate them)` : "no other is within one standard error"}.${others}${seen}`;
}
function unseen(row, epoch) {
  const concept = row < 0 ? "" : conceptOf(row), alike = concept ? peopleOfConcept(concept) : null;
  return ` No trial with a right answer showed it to people as it is at epoch ${epoch}.${alike ? ` Of ${alike.answers} answers to trials about neurons of ${concept}, ${percent(alike.share)} were right (chance ${percent(alike.chance)}${D.people.source === "simulated" ? "; simulated" : ""}).` : ""}`;
}
function nearestIn(row, series) {
  const block = D.neighbours.find((b) => b.series === series);
  return block ? block.row[row * (block.row.length / N.unit.length)] : -1;
}

function evolutionList(found, from, to, name) {
  const box = h("div", { class: "two" }, found.slice(0, SHOWN).map((one, place) => {
    const bin = binOf(one.unit, STATE.span, STATE.method, STATE.klass);
    const people = D.people ? peopleOf(one.unit, to) : null;
    const cells = [from, to].map((epoch) => {
      const row = rowAt(one.unit, epoch);
      return h("div", { class: "cell" }, row < 0 ? deadBox("dead") : patchGrid(row, 84),
        h("div", { "data-caption": "" }, `epoch ${epoch}: ${row < 0 ? "dead" : conceptOf(row) || "–"}`));
    });
    return h("div", { class: "evolution" },
      h("div", { class: "bar" }, `${place + 1}.`, unitButton(one.unit),
        h("b", {}, withError(one.score, one.error)),
        h("span", { class: "soft" }, `rank ${one.rank + 1} in its layer${bin ? `, q${bin}` : ""}${people ? `; people right ${percent(people.share)}` : ""}`)),
      h("div", { class: "strip small" }, cells));
  }));
  return h("div", {}, box, saveButtons(box, `${name}-${from}-${to}`));
}

// arms in one order: quarters, controls; cumulative ones as curves where the benchmark ran them
function outcomeChart(series) {
  const pair = pairOf(series, STATE.span);
  const all = outcomesOf(pair, STATE.method, STATE.klass, -1);
  const bars = [...QUARTERS, "random", "matched", "matched_activation", "other_class", "all"]
    .map((arm) => pooled(all, arm)).filter(Boolean);
  if (!bars.length) return soft("Nothing was reverted for this class, pair and method.");
  const chart = h("div", { class: "chart", role: "img", "aria-label": "change of accuracy by set; the table below has the numbers" });
  requestAnimationFrame(() => drawBars(chart, bars));
  const most = all.filter((o) => o.arm === "most" || o.arm === "least");
  const parts = [soft(`Change in accuracy when a set is reverted in all layers at once; ± standard error over ${bars[0].images} held-out images of the class (before: ${number(bars[0].before)}).`), chart, saveChart(chart, "sets"),
    table("outcomes by set", [["set", 1], ["change"], ["± s.e."], ["class's probability"], ["draws"]],
      bars.map((b) => [b.arm.replace("_", " "), signed(b.change), number(b.error), signed(b.probability), String(b.draws)]))];
  if (most.length) {
    const curve = h("div", { class: "chart", role: "img", "aria-label": "change in accuracy as more neurons are reverted" });
    requestAnimationFrame(() => drawCurves(curve, most, pooled(all, "all"), pooled(all, "random")));
    parts.push(soft(`Accuracy while an increasing share of neurons is reverted, the most or the least important first; the cross is a random ${D.part}.`), curve, saveChart(curve, "curves"));
  } else parts.push(soft(`Curves for an increasing share of reverted neurons need the benchmark: conceptevo bench RUN --classes "${D.classes[STATE.klass]}"`));
  return h("div", {}, parts);
}
const saveChart = (chart, what) => saveBar("Save chart:", what, (format) =>
  exportPlot(chart, `${what}-undone-${D.classes[STATE.klass]}-${STATE.span}`, format, 700, 400));
const plain = (title) => ({ margin: { l: 52, r: 8, t: 8, b: 40 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
  font: { color: style("--ink"), family: "system-ui, sans-serif", size: 12 }, showlegend: true, legend: { orientation: "h", y: 1.12 },
  yaxis: { title: { text: title }, gridcolor: style("--line"), zerolinecolor: style("--soft") }, xaxis: { gridcolor: style("--line"), automargin: true } });
function drawBars(chart, bars) {
  Plotly.newPlot(chart, [{ type: "bar", x: bars.map((b) => b.arm.replace("_", " ")), y: bars.map((b) => b.change),
    error_y: { type: "data", array: bars.map((b) => b.error), color: style("--ink"), thickness: 1.2 },
    marker: { color: bars.map((b) => (/^q\d/.test(b.arm) ? "#0369a1" : "#9aa0a6")) } }],
  { ...plain("change of accuracy"), showlegend: false }, { displayModeBar: false, responsive: true });
}
function drawCurves(chart, outcomes, everything, random) {
  const line = (arm, symbol, dash) => {
    const own = outcomes.filter((o) => o.arm === arm).sort((a, b) => a.draw - b.draw);
    const end = everything ? [everything] : [];
    return { type: "scatter", mode: "lines+markers", name: `${arm} important first`, line: { dash }, marker: { symbol },
      x: [0, ...own.map((o) => o.draw / D.steps), ...end.map(() => 1)], y: [0, ...own.map((o) => o.change), ...end.map((o) => o.change)],
      error_y: { type: "data", array: [0, ...own.map((o) => o.error), ...end.map((o) => o.error)], thickness: 1 } };
  };
  const traces = [line("most", "circle", "solid"), line("least", "square", "dash")];
  if (random) traces.push({ type: "scatter", mode: "markers", name: "random", x: [1 / QUARTERS.length], y: [random.change],
    marker: { symbol: "x", size: 10, color: style("--ink") }, error_y: { type: "data", array: [random.error] } });
  const layout = plain("change of accuracy");
  layout.xaxis.title = { text: "share of every layer reverted" };
  Plotly.newPlot(chart, traces, layout, { displayModeBar: false, responsive: true });
}
