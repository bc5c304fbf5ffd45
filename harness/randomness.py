"""Random generators, each seeded by what its draws are for, so that no two purposes share one."""

from __future__ import annotations

import hashlib
import json

import numpy as np


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """A generator for one purpose; what it draws says nothing about the draws for another.

    Args:
        seed: of the configuration.
        purpose: what is drawn and for what, e.g. "random sets", "vgg", 1, 4, class id.
    """
    digest = hashlib.sha256(json.dumps(purpose).encode()).digest()[:16]
    return np.random.default_rng([seed, *np.frombuffer(digest, dtype="<u4").tolist()])
