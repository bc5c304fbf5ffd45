"""Activations of one checkpoint on all probe images, on disk: read as far as they are needed."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from harness.artifacts import ArtifactError


def mapped(path: Path, name: str) -> np.ndarray:
    """An array of an uncompressed .npz file as a read-only memory map.

    Raises:
        ArtifactError: no such file, or a damaged one.
        ValueError: the file holds no such array, or holds it compressed.
    """
    try:
        return _mapped(path, name)
    except (OSError, zipfile.BadZipFile, struct.error) as error:
        raise ArtifactError(
            f"{path} is absent or damaged ({error}); delete it and run again"
        ) from error


def _mapped(path: Path, name: str) -> np.ndarray:
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        try:
            entry = archive.getinfo(f"{name}.npy")
        except KeyError:
            there = ", ".join(part.removesuffix(".npy") for part in archive.namelist())
            raise ValueError(f"{path} holds no array {name!r}; there are {there}") from None
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"array {name!r} of {path} is compressed and cannot be mapped")
        # the local header's own lengths: they can differ from those of the archive's directory
        file.seek(entry.header_offset + 26)
        file.seek(sum(struct.unpack("<HH", file.read(4))), 1)
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, is_fortran, kind = read(file)
        start = file.tell()
    return np.memmap(path, kind, "r", start, shape, order="F" if is_fortran else "C")


@dataclass(frozen=True)
class Activations:
    """A matrix [neurons, images] in parts of the images.

    Attributes:
        parts: each [neurons, images of the part], in the images' order; may be memory maps.
    """

    parts: Sequence[np.ndarray]

    @cached_property
    def shape(self) -> tuple[int, int]:
        return self.parts[0].shape[0], sum(part.shape[1] for part in self.parts)

    def rows(self, neurons: np.ndarray) -> np.ndarray:
        """Some neurons' activations on all images: float32 [rows, images]."""
        found = np.empty((len(neurons), self.shape[1]), dtype=np.float32)
        start = 0
        for part in self.parts:
            found[:, start : start + part.shape[1]] = part[neurons]
            start += part.shape[1]
        return found
