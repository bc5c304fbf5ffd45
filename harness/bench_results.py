"""The results of a benchmark as data: a few files with a version. No torch: analyses read them.

`RUN/bench/` holds `about.json` (schema version, what was run) and, one parquet file each,
`records` (a row an image and arm), `scores` (a neuron, class and method), `reliability` (of split
halves), `sets` (the saved controls) and `neighbours` (of base neurons, by draw of a space method).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from harness.artifacts import Artifact, ArtifactError, Run, whole_file, write_text

#: Of the schema; results of different versions are not laid side by side.
BENCH_VERSION = 1

FOLDER = "bench"

#: The method under which the arms stand that belong to none: nothing, everything, random sets.
CONTROLS = "controls"


@dataclass(frozen=True)
class BenchResults:
    """What one benchmark found.

    Attributes:
        run: whose.
        about: version, seed, methods (with what each linearises), classes, pairs, layers,
            parameters, versions.
    """

    run: Run
    about: dict[str, Any]

    def records(self, **wanted: str) -> pd.DataFrame:
        """A row an image and arm, of those whose columns equal `wanted`; others are not read."""
        return self._table("records", [(name, "==", value) for name, value in wanted.items()])

    @cached_property
    def reliability(self) -> pd.DataFrame:
        return self._table("reliability")

    @cached_property
    def neighbours(self) -> pd.DataFrame:
        return self._table("neighbours")

    @property
    def folder(self) -> Path:
        return self.run.root / FOLDER

    @property
    def methods(self) -> list[str]:
        return list(self.about["methods"])

    def _table(self, name: str, filters: Sequence[tuple] | None = None) -> pd.DataFrame:
        path = self.folder / f"{name}.parquet"
        try:
            return pd.read_parquet(path, filters=filters or None)
        except Exception as error:  # pyarrow raises several unrelated types
            raise ArtifactError(
                f"{path} is missing or damaged ({error}); run `conceptevo bench {self.run.root}` "
                f"again"
            ) from error


def write_results(
    run: Run, contents: Mapping[str, Sequence[Artifact]], about: Mapping[str, Any]
) -> None:
    """Join the pieces into the results' files, a piece at a time; `about.json` comes last."""
    folder = run.root / FOLDER
    (folder / "about.json").unlink(missing_ok=True)
    for name, artifacts in contents.items():
        with whole_file(folder / f"{name}.parquet") as temporary:
            _join(run, name, artifacts, temporary)
    write_text(folder / "about.json", json.dumps(about, indent=1) + "\n")


def _join(run: Run, name: str, artifacts: Sequence[Artifact], path: Path) -> None:
    writer: pq.ParquetWriter | None = None
    try:
        for artifact in artifacts:
            table = run.table(artifact)
            if name == "neighbours":
                table = table.assign(method=artifact.parts[0], seed=artifact.parts[1])
            for column in table.select_dtypes("category"):
                table[column] = table[column].astype(str)
            rows = pa.Table.from_pandas(table, preserve_index=False)
            if writer is None:
                writer = pq.ParquetWriter(path, rows.schema, compression="zstd")
            writer.write_table(rows.cast(writer.schema))
    finally:
        if writer is not None:
            writer.close()


def read_results(folder: Path) -> BenchResults:
    """The results of a run's benchmark.

    Args:
        folder: the run, or its `bench` folder.

    Raises:
        ArtifactError: there are none, or they are of another version.
    """
    root = folder.parent if (folder / "about.json").exists() else folder
    path = root / FOLDER / "about.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        raise ArtifactError(
            f"{root} holds no finished benchmark; run `conceptevo bench {root}`"
        ) from None
    if about.get("version") != BENCH_VERSION:
        raise ArtifactError(
            f"{path} has schema version {about.get('version')}, this program reads "
            f"{BENCH_VERSION}; make the benchmark again with one version of the program"
        )
    return BenchResults(Run(root), about)
