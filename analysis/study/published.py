"""Results of the published implementation of ConceptEvo, with which a run is compared."""

from __future__ import annotations

import pandas as pd

#: The name of the paper in figures and tables.
PUBLISHED = "Park et al. (2023)"

#: Change of top-1 accuracy when a bin is reverted: train images, 100 classes, 5 runs, averaged over
#: layers, as found in the result files of the published repository's history. They may differ
#: from the printed paper.
REVERSION = pd.DataFrame(
    [
        ("VGG16", 5, 21, -0.129, -0.037, -0.017, 0.007, -0.036, 0.524),
        ("VGG16", 21, 207, -0.178, -0.070, -0.037, 0.003, -0.051, 0.661),
        ("InceptionV3", 1, 11, -0.324, -0.094, -0.054, -0.042, -0.106, 0.590),
        ("InceptionV3", 11, 121, -0.480, -0.119, -0.092, 0.014, -0.116, 0.838),
        ("ConvNeXt", 1, 3, -0.178, -0.073, -0.016, 0.102, -0.022, 0.625),
        ("ConvNeXt", 3, 96, -0.139, -0.054, -0.027, -0.003, -0.051, 0.735),
    ],
    columns=["series", "epoch_from", "epoch_to", "q1", "q2", "q3", "q4", "random", "before"],
)
