"""Record all images in one pass: the tables with which other ways of probing are compared."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from harness.concepts.probing import probe_range
from harness.concepts.stimuli import neurons_table, responsive_table, stimuli_table


class Probe(NamedTuple):
    stimuli: pd.DataFrame
    responsive: pd.DataFrame
    activations: np.ndarray  # [images, neurons]
    neurons: pd.DataFrame


def probe(network, images, parameters) -> Probe:
    record = probe_range(network, images, range(len(images)), parameters)
    return Probe(
        stimuli_table(record.part, network.layers, network.checkpoint, len(images)),
        responsive_table(record.responses, network.layers, network.checkpoint),
        record.activations.T if parameters.activations else np.empty((0, 0)),
        neurons_table(record.part, network.layers),
    )
