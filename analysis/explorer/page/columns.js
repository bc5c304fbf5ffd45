"use strict";
// The run's columns, and the few indexes by which everything else finds its rows.

function bytesOf(base64) {
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

const D = JSON.parse(document.getElementById("data").textContent, (_, value) =>
  typeof value?.bytes === "string" ? new globalThis[value.type](bytesOf(value.bytes).buffer) : value);
const N = D.neurons;
const UNITS = D.units.layer.length;
const EPOCHS = [...new Set(Object.values(D.epochs).flat())].sort((a, b) => a - b);

const layerOf = (unit) => D.layers[D.units.layer[unit]];
const seriesOf = (unit) => layerOf(unit).series;
const unitName = (unit) => `${D.series[seriesOf(unit)]} ${layerOf(unit).name}:${D.units.channel[unit]}`;
const conceptOf = (row) => (N.concept[row] < 0 ? "" : D.concepts[N.concept[row]]);

// row of a unit at an epoch, -1 where it is dead or there is no such checkpoint
const ROW = new Int32Array(UNITS * EPOCHS.length).fill(-1);
const EPOCH_PLACE = new Map(EPOCHS.map((epoch, place) => [epoch, place]));
for (let row = 0; row < N.unit.length; row++)
  ROW[N.unit[row] * EPOCHS.length + EPOCH_PLACE.get(N.epoch[row])] = row;
const rowAt = (unit, epoch) =>
  EPOCH_PLACE.has(epoch) ? ROW[unit * EPOCHS.length + EPOCH_PLACE.get(epoch)] : -1;

// first unit of every layer and series, so that "series layer:channel" is found at once
const FIRST_UNIT = new Map();
for (let unit = UNITS - 1; unit >= 0; unit--) FIRST_UNIT.set(D.units.layer[unit], unit);
function unitOf(series, layer, channel) {
  const place = D.layers.findIndex((l) => D.series[l.series] === series && l.name === layer);
  if (place < 0 || !(channel >= 0 && channel < D.layers[place].channels)) return -1;
  return FIRST_UNIT.get(place) + channel;
}
function unitsOfSeries(series) {
  const units = [];
  D.layers.forEach((layer, place) => {
    if (layer.series === series)
      for (let c = 0; c < layer.channels; c++) units.push(FIRST_UNIT.get(place) + c);
  });
  return units;
}

const epochsOf = (series) => D.epochs[D.series[series]] || [];
// the series' checkpoint at an epoch, or its latest before it; undefined where it has none yet
const checkpointAt = (series, epoch) => epochsOf(series).filter((e) => e <= epoch).pop();

const SPANS = [...new Set(D.pairs.map((p) => `${p.from}-${p.to}`))];
const pairOf = (series, span) =>
  D.pairs.findIndex((p) => p.series === series && `${p.from}-${p.to}` === span);
const SCORES = new Map(D.importance.map((block) => [`${block.pair}/${block.method}`, block]));
const BINS = new Map(D.bins.map((block) => [`${block.pair}/${block.method}`, block]));
const SCORED = new Map([...D.scored].map((klass, row) => [klass, row]));

// the block of a unit's series and the place of the unit's value for a class in it, or null
function placeOf(blocks, unit, span, method, klass) {
  const block = blocks.get(`${pairOf(seriesOf(unit), span)}/${method}`);
  if (!block || !SCORED.has(klass)) return null;
  return { block, place: SCORED.get(klass) * block.units + unit - block.first };
}

// {score, error, rank, images} of a unit's evolution for a class, or null
function importanceOf(unit, span, method, klass) {
  const found = placeOf(SCORES, unit, span, method, klass);
  if (!found || Number.isNaN(found.block.score[found.place])) return null;
  const { block, place } = found;
  return { score: block.score[place], error: block.error[place], rank: block.rank[place],
    images: block.images };
}
function binOf(unit, span, method, klass) {
  const found = placeOf(BINS, unit, span, method, klass);
  return found ? found.block.bin[found.place] : 0;
}

// outcomes of ablations by pair, method, class and layer (-1: all layers at once)
const OUTCOMES = new Map();
if (D.outcomes) {
  const O = D.outcomes;
  for (let i = 0; i < O.pair.length; i++) {
    if (O.names.ablation[O.ablation[i]] !== "revert") continue;
    const key = [O.pair[i], O.names.method[O.method[i]], O.class[i], O.layer[i]].join("/");
    if (!OUTCOMES.has(key)) OUTCOMES.set(key, []);
    OUTCOMES.get(key).push({ arm: O.names.arm[O.arm[i]], draw: O.draw[i], images: O.images[i],
      before: O.before[i], change: O.change[i], error: O.change_error[i],
      probability: O.probability[i] });
  }
}
// a method's arms and the controls of one pair, class and layer
function outcomesOf(pair, method, klass, layer) {
  const at = (name) => OUTCOMES.get([pair, name, klass, layer].join("/")) || [];
  return [...at(D.methods[method]), ...at("controls")];
}
const QUARTERS = D.outcomes ? D.outcomes.names.arm.filter((a) => /^q\d+$/.test(a)) : [];

// mean over draws; the standard error is that of images, of the draws' mean
function pooled(outcomes, arm) {
  const of = outcomes.filter((o) => o.arm === arm);
  if (!of.length) return null;
  const mean = (name) => of.reduce((sum, o) => sum + o[name], 0) / of.length;
  return { arm, draws: of.length, images: of[0].images, before: of[0].before,
    change: mean("change"), error: mean("error"), probability: mean("probability") };
}

// trials by neuron row
const TRIALS = new Map();
for (const trial of D.people ? D.people.trials : [])
  for (const row of trial.neurons) TRIALS.set(row, [...(TRIALS.get(row) || []), trial]);
const trialsOf = (unit) => {
  const all = EPOCHS.flatMap((epoch) => TRIALS.get(rowAt(unit, epoch)) || []);
  return [...new Set(all)];
};
// share of right answers over trials that have a right answer and are no controls, null where none has
function shareRight(trials) {
  const keyed = trials.filter((t) => t.right !== null && !t.control);
  const answers = keyed.reduce((sum, t) => sum + t.answers, 0);
  if (!answers) return null;
  const mean = (name) => keyed.reduce((sum, t) => sum + t[name] * t.answers, 0) / answers;
  return { share: mean("right"), chance: mean("chance"), answers, trials: keyed.length };
}
// as it was at an epoch: an untrained neuron's trials say nothing of what it became
const peopleOf = (unit, epoch) => shareRight(TRIALS.get(rowAt(unit, epoch)) || []);
