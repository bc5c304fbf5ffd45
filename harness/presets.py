"""Configurations of named studies, made for a user's folders."""

import json
from importlib.resources import files
from pathlib import Path

from harness.images.folders import folder_images

CONFIGS = files("harness") / "configs"
#: Classes of ImageNet-1k.
CLASSES = 1000


def published_classes() -> list[int]:
    """Return the 100 classes of the published study, as ids of ImageNet-1k."""
    return json.loads((CONFIGS / "published_classes.json").read_text(encoding="utf-8"))["ids"]


def paper(images: Path, checkpoints: Path) -> str:
    """Return the configuration of the published study.

    Args:
        images: folder of ImageNet with `train` and `val`, each with one sub-folder per class.
        checkpoints: folder with one sub-folder per series, which holds `model-{epoch}.pth`.

    Raises:
        ValueError: the folders do not hold ImageNet's 1,000 classes.
    """
    for split in ("train", "val"):
        if not (images / split).is_dir():
            raise ValueError(f"--images {images}: it holds no folder {split}/")
    names = folder_images(images / "val").classes
    if len(names) != CLASSES:
        raise ValueError(
            f"--images {images}: {len(names)} class folders in val/; the published study "
            f"identifies classes by their position among the {CLASSES} of ImageNet-1k"
        )
    class_names = [names[class_id] for class_id in published_classes()]
    text = (CONFIGS / "paper.toml").read_text(encoding="utf-8")
    for mark, value in {
        "@IMAGES@": images.as_posix(),
        "@CHECKPOINTS@": checkpoints.as_posix(),
        "@CLASSES@": json.dumps(class_names, ensure_ascii=False),
    }.items():
        text = text.replace(mark, value)
    return text
