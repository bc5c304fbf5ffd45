// Validity of what is shown: measures of the space, dead neurons, accuracy.

function validityPanel() {
  const interval = (r, name) => `${number(r[name])} [${number(r.low)}, ${number(r.high)}]`;
  return [
    h("h2", {}, "Validity of this map"),
    soft(`Neighbours and displacements are computed in the space “${D.space}”; the map is a UMAP layout of it, fitted to ${D.base.series}, epoch ${D.base.epoch}, in which distances between clusters and their sizes have no meaning. Displacement: 1 − cosine similarity (or overlap) between a neuron and the same channel at the preceding checkpoint.`),
    h("h3", {}, "Neighbours with the same true concept"),
    D.alignment.length ? table("alignment", [["neurons", 1], ["number"], ["share [95 %]"], ["chance"], ["ceiling"], ["coverage"]],
      D.alignment.map((r) => [r.group, String(r.neurons), interval(r, "share"), number(r.chance), number(r.ceiling), number(r.coverage)]))
      : soft("No true concepts are known."),
    soft("Share of a neuron's five nearest base neurons with the same true concept, with 95 % CIs clustered by layer. Ceiling: the largest possible share, below 1 where fewer than five base neurons have the concept; “untrained”: checkpoints at epoch 0, whose share does not depend on training."),
    h("h3", {}, "Retrieval of the same channel at the later epoch"),
    table("identity", [["series", 1], ["epochs", 1], ["neurons"], ["mean reciprocal rank [95 %]"]],
      D.identity.map((r) => [r.series, r.epochs, String(r.neurons), interval(r, "mrr")])),
    soft("Where the rank is low, a neuron can move on the map without a change of its concept."),
    h("h3", {}, "Neurons of the checkpoints"),
    table("checkpoints", [["series", 1], ["epoch"], ["neurons"], ["alive"], ["dead"], ["coverage"], ["test accuracy"]],
      D.checkpoints.map((r) => [r.series, String(r.epoch), String(r.neurons), String(r.alive), String(r.dead), number(r.coverage), number(r.test_accuracy ?? null)])),
    soft("A dead neuron's activation is positive on no probe image, or constant; it is excluded. Coverage: mean share of a neuron's stimuli that the space uses."),
    h("h3", {}, "Importance and reversion"),
    soft(`A score is shown with its standard error over images of the class; ranks of neurons whose scores differ by less are uncertain. A reversion concerns a whole ${D.part} of a layer, never one neuron. Outcomes are those of held-out images, with standard errors over images; they say nothing about other training runs.`),
    h("h3", {}, "People"),
    soft(D.people ? `${D.people.participants} participants (${D.people.source}), after the exclusions frozen with the study.${D.people.strangers ? ` ${D.people.strangers} trials show neurons that this run does not have and are left out.` : ""}` : "No study was given."),
  ];
}
