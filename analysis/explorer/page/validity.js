// Validity of what is shown: measures of the space, dead neurons, accuracy.

function validityPanel() {
  const interval = (r, name) => `${number(r[name])} [${number(r.low)}, ${number(r.high)}]`;
  return [
    h("h2", {}, "Validity of this map"),
    soft(`Places, neighbours and displacements are those of the space “${D.space}”, computed in as many dimensions as the run says; the map is a UMAP layout of it, fitted on ${D.base.series}, epoch ${D.base.epoch}. In such a layout distances between far groups, and sizes of groups, mean nothing. Displacement is 1 − cosine (or overlap) between a neuron and the same channel at the checkpoint before.`),
    h("h3", {}, "Neighbours that share the true concept"),
    D.alignment.length ? table("alignment", [["neurons", 1], ["number"], ["share [95 %]"], ["chance"], ["coverage"]],
      D.alignment.map((r) => [r.group, String(r.neurons), interval(r, "share"), number(r.chance), number(r.coverage)]))
      : soft("No true concepts are known."),
    soft("Of a neuron's five nearest base neurons, the share that has its own true concept; “untrained” is what random weights give for free."),
    h("h3", {}, "Identity of channels over epochs"),
    table("identity", [["series", 1], ["epochs", 1], ["neurons"], ["mean reciprocal rank [95 %]"]],
      D.identity.map((r) => [r.series, r.epochs, String(r.neurons), interval(r, "mrr")])),
    soft("Where this is low, a trail on the map jumps for reasons other than a changed concept."),
    h("h3", {}, "Neurons of the checkpoints"),
    table("checkpoints", [["series", 1], ["epoch"], ["neurons"], ["alive"], ["dead"], ["coverage"], ["test accuracy"]],
      D.checkpoints.map((r) => {
        const log = D.training.find((t) => t.series === r.series && t.epoch === r.epoch);
        return [r.series, String(r.epoch), String(r.neurons), String(r.alive), String(r.dead), number(r.coverage), log ? number(log.test_accuracy) : "–"];
      })),
    soft("A dead neuron is active on no probe image and left out of everything. Coverage is the mean share of a neuron's stimuli that have a place of their own in the space."),
    h("h3", {}, "Importance and reversion"),
    soft("A score is shown with its standard error over images of the class; a first place whose neighbours lie within that error is not certain. Undoing puts a whole quarter of a layer back, never one neuron. Outcomes are of held-out images, one training run a series; their errors are over images, and say nothing about other seeds."),
    h("h3", {}, "People"),
    soft(D.people ? `${D.people.participants} participants (${D.people.source}), after the exclusions frozen with the study.${D.people.strangers ? ` ${D.people.strangers} trials show neurons that this run does not have and are left out.` : ""}` : "No study was given."),
  ];
}
