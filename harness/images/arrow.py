"""Parquet and Arrow files of Hugging Face datasets: one column of images and one of labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.images.shards import SHARDS, Shard


@SHARDS.add(".parquet")
def parquet(path: Path) -> Shard:
    """Open a file of `Dataset.to_parquet` or of a downloaded dataset; row groups are read when
    needed."""
    file = pq.ParquetFile(path)
    image, label, names = _columns(file.schema_arrow)
    groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    starts = np.cumsum([0, *groups])

    def read(member: str) -> bytes:
        group = int(np.searchsorted(starts, int(member), side="right")) - 1
        return _bytes(_group(path, group, image)[int(member) - int(starts[group])])

    return _shard(file.read([label])[label], names, read)


@lru_cache(maxsize=4)
def _group(path: Path, group: int, column: str) -> pa.ChunkedArray:
    return pq.ParquetFile(path).read_row_group(group, [column])[column]


@SHARDS.add(".arrow")
def arrow(path: Path) -> Shard:
    """Open a file of `Dataset.save_to_disk` or of a cached dataset; it is mapped into memory."""
    mapped = pa.memory_map(str(path))
    try:
        table = pa.ipc.open_stream(mapped).read_all()
    except pa.ArrowInvalid:  # Arrow's file format instead of its stream format
        table = pa.ipc.open_file(mapped).read_all()
    image, label, names = _columns(table.schema)
    return _shard(table[label], names, lambda member: _bytes(table[image][int(member)]))


def _columns(schema: pa.Schema) -> tuple[str, str, tuple[str, ...]]:
    """Return the columns of images and of labels, and the names of the classes (() if unknown).

    The columns are those that the metadata of `datasets` marks, otherwise `image` and `label`.
    """
    about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = about.get("info", {}).get("features", {})
    kinds = {name: f.get("_type") for name, f in features.items() if isinstance(f, dict)}
    chosen = []
    for kind, usual in (("Image", "image"), ("ClassLabel", "label")):
        fitting = [name for name, has in kinds.items() if has == kind] or [usual]
        if len(fitting) > 1 or fitting[0] not in schema.names:
            raise ValueError(
                f"it needs one column of type {kind} or named {usual!r}; it has "
                f"{', '.join(schema.names)}"
            )
        chosen.append(fitting[0])
    return chosen[0], chosen[1], tuple(features.get(chosen[1], {}).get("names", ()))


def _shard(labels: pa.ChunkedArray, names: tuple[str, ...], read: Callable[[str], bytes]) -> Shard:
    values = labels.to_pylist()
    if odd := [value for value in values if not isinstance(value, int | str | None)]:
        raise ValueError(f"labels must be integers or names; one is {odd[0]!r}")
    most = len(names) or np.inf
    # -1 means "without a label" in Hugging Face's data sets
    known = [v if isinstance(v, str) else v is not None and 0 <= v < most for v in values]
    if bad := [row for row, has_label in enumerate(known) if not has_label]:
        raise ValueError(f"{len(bad)} of {len(values)} images have no label, e.g. row {bad[0]}")
    classes = [names[value] if names else str(value) for value in values]
    return Shard([str(row) for row in range(len(values))], classes, names, read)


def _bytes(value: pa.Scalar) -> bytes:
    held = value.as_py()
    held = held.get("bytes") if isinstance(held, dict) else held
    if not isinstance(held, bytes):
        raise ValueError(
            "the file refers to an image elsewhere instead of containing it; save the data set "
            "with its images (`Dataset.to_parquet` does)"
        )
    return held
