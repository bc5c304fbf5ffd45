"""Random generators, each seeded by the purpose of its draws, so that no two purposes share one."""

import hashlib
import json

import numpy as np


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """Return a generator for one purpose; its draws are independent of those for other purposes.
    The purpose says what is drawn, and for what, e.g. "random sets", "vgg", 1, 4, 7."""
    digest = hashlib.sha256(json.dumps(purpose).encode()).digest()[:16]
    return np.random.default_rng([seed, *np.frombuffer(digest, dtype="<u4").tolist()])
