"""Results of the published implementation of ConceptEvo, beside which a study's run is shown."""

from __future__ import annotations

from analysis.run.published import read_published

#: The name of the paper in figures and tables.
PUBLISHED = "Park et al. (2023)"

#: The networks of the published series, whose names end in the learning rate.
_NETWORKS = {"vgg16_0.01": "VGG16", "inception_v3_0.5": "InceptionV3", "convnext_0.004": "ConvNeXt"}

#: Change of top-1 accuracy on train images when a bin is reverted; columns as in `read_published`.
REVERSION = (
    read_published()
    .query("images == 'train' and outcome == 'top1'")
    .replace({"series": _NETWORKS})
    .reset_index(drop=True)
)
