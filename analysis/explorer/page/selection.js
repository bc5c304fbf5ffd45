// From looking to evidence: chosen neurons as a groups file of the study, as layers and classes of the benchmark.

function choose(rows, group = "") {
  const known = new Set(STATE.chosen.map((c) => c.row));
  const added = rows.filter((row) => !known.has(row));
  change({ chosen: [...STATE.chosen, ...added.map((row) => ({ row, group }))] });
  say(`${added.length} neuron${added.length === 1 ? "" : "s"} added to the selection (${STATE.chosen.length} in all).`);
}
const groupOf = (one) => one.group || conceptOf(one.row) || "group";
function grouped() {
  const groups = new Map();
  for (const one of STATE.chosen) groups.set(groupOf(one), [...(groups.get(groupOf(one)) || []), one.row]);
  return groups;
}
// TOML's basic strings have JSON's escapes, but no DEL
const quoted = (text) => JSON.stringify(text).replace(/\u007f/g, "\\u007F");
function groupsFile() {
  const parts = [...grouped()].map(([concept, rows]) => `[[group]]\nconcept = ${quoted(concept)}\nneurons = [\n` +
    rows.map((row) => `  {series = ${quoted(D.series[seriesOf(N.unit[row])])}, epoch = ${N.epoch[row]}, layer = ${quoted(layerOf(N.unit[row]).name)}, channel = ${D.units.channel[N.unit[row]]}},`).join("\n") + "\n]\n");
  return `# Neurons chosen in the explorer of ${D.run.replace(/[\u0000-\u001f\u007f]/g, " ")}.\n${parts.join("\n")}`;
}
function benchCommand() {
  const layers = [...new Set(STATE.chosen.map((c) => layerOf(N.unit[c.row]).name))];
  const chosen = D.series.filter((_, s) => STATE.chosen.some((c) => seriesOf(N.unit[c.row]) === s));
  const pairs = D.pairs.filter((p) => chosen.includes(D.series[p.series])).map((p) => `${D.series[p.series]}:${p.from}-${p.to}`);
  const shell = (text) => `'${text.replace(/'/g, "'\\''")}'`;
  return `conceptevo bench RUN --classes ${shell(D.classes[STATE.klass])}${pairs.length ? ` --pairs ${shell(pairs.join(","))}` : ""}${layers.length ? ` --layers ${shell(layers.join(","))}` : ""}`;
}

const LEAST_OF_A_GROUP = 5;
function selectionPanel() {
  const rows = shownRows();
  const name = h("input", { type: "text", id: "groupName", placeholder: "its concept" });
  const heading = [h("h2", {}, `Selection: ${STATE.chosen.length} neurons`),
    soft("Enclose neurons on the map, press “Add to selection” beside a neuron, or add all that the filters show. Each is chosen at the epoch that was shown."),
    h("div", { class: "bar" }, button(() => choose(rows), `Add the ${rows.length} shown neurons`),
      h("label", {}, "Group ", name),
      button(() => change({ chosen: STATE.chosen.map((c) => ({ ...c, group: name.value.trim() })) }), "Name all so"),
      button(() => change({ chosen: [] }), "Empty the selection"))];
  if (!STATE.chosen.length) return heading;
  const groups = grouped();
  const small = [...groups].filter(([, own]) => own.length < LEAST_OF_A_GROUP).map(([concept]) => concept);
  return [...heading,
    h("h3", {}, "As hand-picked groups of a study"),
    soft(`${groups.size} group${groups.size === 1 ? "" : "s"}: ${[...groups].map(([concept, own]) => `${concept} (${own.length})`).join(", ")}.${
      small.length ? ` Fewer than ${LEAST_OF_A_GROUP} neurons are too few for a trial: ${small.join(", ")}.` : ""}${
      groups.size < 2 ? " A trial needs an intruder from elsewhere; two groups or more are better." : ""}`),
    h("div", { class: "bar" }, h("button", { type: "button", id: "saveGroups", onclick: () => download("groups.toml", groupsFile(), "application/toml") }, "Save groups.toml"),
      button(() => copy(groupsFile(), "the groups file"), "Copy it")),
    region("pre", "how to build the study", "", `# study.toml\n[evidence]\ngroups = "groups.toml"\n\nconceptevo study build RUN --out STUDY --settings study.toml`),
    h("h3", {}, "As classes and layers of the benchmark"),
    region("pre", "benchmark command", "", benchCommand()),
    h("div", { class: "bar" }, button(() => copy(benchCommand(), "the command"), "Copy the command")),
    ...[...groups].map(([concept, own]) => {
      const strip = region("div", `group ${concept}`, "strip small", own.map((row) =>
        h("button", { type: "button", class: "cell", title: "Remove from the selection", onclick: () => change({ chosen: STATE.chosen.filter((c) => c.row !== row) }) },
          patchGrid(row, 84), h("b", { "data-caption": "" }, `${layerOf(N.unit[row]).name}:${D.units.channel[N.unit[row]]}`),
          h("div", { "data-caption": "" }, `${D.series[seriesOf(N.unit[row])]} epoch ${N.epoch[row]}`), h("div", {}, "✕ remove"))));
      return h("div", {}, h("h3", {}, concept), strip, saveButtons(strip, `group-${concept}`));
    })];
}
