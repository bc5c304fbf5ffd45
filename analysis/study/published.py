"""Results of the published implementation of ConceptEvo, beside which a study's run is shown."""

from __future__ import annotations

from analysis.run.published import published

#: The name of the paper in figures and tables.
PUBLISHED = "Park et al. (2023)"

#: Change of top-1 accuracy on train images when a bin is reverted; columns as in `published`.
REVERSION = published().query("images == 'train' and outcome == 'top1'").reset_index(drop=True)
