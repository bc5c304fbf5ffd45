"""Runs that take seconds: one network, two epochs, 48 images, in this process."""

import json
from pathlib import Path

SMALL = {
    "workers": 0,
    "device": "cpu",
    "images": {"source": "drawn", "train": 96, "probe": 48, "test": 48},
    "series": [{"name": "vgg", "training": {"epochs": 2, "save": [1, 2]}}],
    "probe": {"k": 4},
    "space": {"methods": ["jaccard"]},
    "evolve": {"methods": ["sign_t"], "images_per_class": 2, "classes": ["clock", "fish"]},
    "revert": {"random_draws": 2, "importance_images": 2, "heldout_images": 2},
}


def small(**changes) -> dict:
    """Return the values of a configuration: SMALL, with changed keys in some sections."""
    values = dict(SMALL)
    for name, value in changes.items():
        values[name] = {**SMALL.get(name, {}), **value} if isinstance(value, dict) else value
    return values


def write_toml(path: Path, values: dict) -> Path:
    """Write a configuration to a file."""
    path.write_text("".join(f"{name} = {_toml(value)}\n" for name, value in values.items()))
    return path


def _toml(value) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(part)}" for name, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)
