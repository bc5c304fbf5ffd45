"""The results of an ablation study as data, without torch: the analysis and the survey use it.

A run has two such studies: the reversion study and the benchmark. `RUN/<study>/about.json` says
what was run and which artifacts hold the results: `records` (one row per image and arm),
`importance` (one row per neuron, class and method), `sizes` (of the neurons' changes),
`reliability` (of split halves), `sets` (the saved sets of neurons) and, for a benchmark,
`neighbours` (of base neurons, per draw of a space method).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from itertools import groupby
from operator import and_, itemgetter
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from harness.artifacts import Artifact, Run, fingerprint
from harness.files import ArtifactError, write_text
from harness.records import ARM, CONTROLS, PAIR

#: Version of the records' schema; results of other versions are refused. Version 2: reversion study
#: and benchmark write the same records, and each set is seeded by all that it is drawn for.
SCHEMA_VERSION = 2

REVERSION, BENCH = "reversion", "bench"

#: What rows to read: the text in a column, or its numbers.
Criterion: TypeAlias = str | list[int]

#: Number of records that are averaged at once.
ROWS_AT_ONCE = 250_000

#: Number of classes whose sets of neurons and scores are read at once.
CLASSES_AT_ONCE = 20

#: The columns that identify the outcomes of one arm on the images of one class.
ARM_ON_CLASS = [*PAIR, "ablation", *ARM, "class_id", "split"]


@dataclass(frozen=True)
class Results:
    """The results of one ablation study.

    Attributes:
        run: the run that holds them.
        study: REVERSION or BENCH.
        about: version, seed, methods (what each computes and linearises), objectives (series ->
            what importance is measured on), ablations, splits, classes, pairs, layers, arms (sizes
            and numbers of sets), contents.
    """

    run: Run
    study: str
    about: dict[str, Any]

    def records(
        self,
        with_controls: bool = False,
        columns: Sequence[str] | None = None,
        **criteria: Criterion,
    ) -> pd.DataFrame:
        """Read rows per image and arm whose columns equal `criteria`; other rows are not read.

        Of many classes, there are more rows than fit into the memory: see `class_means`.

        Args:
            with_controls: repeat the controls (`none`, `all`, `random`) under every method, so that
                a method's rows are complete by themselves.
            columns: the columns to read; all by default.
            criteria: column -> its value in the rows, e.g. split="heldout", or a list of numbers.
        """
        rows = self._table("records", criteria, columns=columns)
        return self._repeat_controls(rows) if with_controls else rows

    def class_means(
        self, outcome: str, with_controls: bool = False, **criteria: Criterion
    ) -> pd.DataFrame:
        """Return `mean_by_class` of the records that `records` would read, at most some
        ROWS_AT_ONCE of them at once.

        Args:
            outcome: correct, top5, probability or objective.
            with_controls, criteria: as for `records`.

        Returns:
            see `mean_by_class`; no rows if the records lack the outcome.
        """
        if f"{outcome}_after" not in self._columns("records"):
            return pd.DataFrame(columns=ARM_ON_CLASS)  # runs of older versions have no objectives
        columns = [*ARM_ON_CLASS, *(f"{outcome}_{end}" for end in ("before", "after"))]
        tables = [
            _with_texts(mean_by_class(self._read("records", paths, criteria, columns), outcome))
            for paths in self._blocks("records")
        ]
        rows = pd.concat([t for t in tables if len(t)] or tables, ignore_index=True)
        return self._repeat_controls(rows) if with_controls else rows

    def _repeat_controls(self, rows: pd.DataFrame) -> pd.DataFrame:
        control_rows = rows[rows["method"] == CONTROLS]
        parts = [
            part
            for method in self.methods
            for part in (rows[rows["method"] == method], control_rows.assign(method=method))
        ]
        return pd.concat(parts, ignore_index=True) if parts else control_rows

    def importance(
        self, columns: Sequence[str] | None = None, **criteria: Criterion
    ) -> pd.DataFrame:
        """Read one row per neuron, class and method; all columns by default."""
        return self._table("importance", criteria, columns=columns)

    def sets(self, **criteria: Criterion) -> pd.DataFrame:
        """Read one row per neuron of a set: pair, class_id, method, arm, draw, layer, channel."""
        return self._table("sets", criteria)

    def sizes(self, **criteria: Criterion) -> pd.DataFrame:
        """Read one row per neuron and class: the size of its change, on which sets are matched."""
        return self._table("importance", criteria, "sizes")

    @cached_property
    def reliability(self) -> pd.DataFrame:
        return self._table("reliability", {})

    @cached_property
    def neighbours(self) -> pd.DataFrame:
        return self._table("neighbours", {})

    @property
    def folder(self) -> Path:
        return self.run.root / self.study

    @property
    def methods(self) -> list[str]:
        return list(self.about["methods"])

    @property
    def class_blocks(self) -> list[list[int]]:
        """The classes in blocks, the rows of whose neurons fit into the memory."""
        ids = self.about["classes"]
        return [
            ids[start : start + CLASSES_AT_ONCE] for start in range(0, len(ids), CLASSES_AT_ONCE)
        ]

    @property
    def objective_sentences(self) -> list[str]:
        """Return sentences on what importance is measured and how a prediction is made."""
        series_of: dict[str, list[str]] = {}
        for series, objective in self.about.get("objectives", {}).items():
            series_of.setdefault(objective, []).append(series)
        return [
            f"Importance is measured on {objective}"
            + (f" (series {', '.join(names)})." if len(series_of) > 1 else ".")
            for objective, names in series_of.items()
        ]

    def _table(
        self,
        kind: str,
        criteria: Mapping[str, Criterion],
        entry: str = "",
        columns: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        paths = self._paths(kind, entry)
        return _with_texts(self._read(kind, paths, criteria, columns)) if paths else pd.DataFrame()

    def _paths(self, kind: str, entry: str = "") -> list[str]:
        contents = self.about["contents"].get(entry or kind, [])
        return [str(self.run.path(Artifact(kind, tuple(parts)))) for parts in contents]

    def _columns(self, kind: str) -> list[str]:
        """Return the columns of the files of a kind; none if there is no file."""
        with self._explain_errors(kind):
            return [name for path in self._paths(kind)[:1] for name in pq.read_schema(path).names]

    def _blocks(self, kind: str) -> Iterator[list[str]]:
        """Yield the files of a kind in blocks of about ROWS_AT_ONCE rows."""
        paths = self._paths(kind)
        with self._explain_errors(kind):
            ends = np.cumsum([pq.read_metadata(path).num_rows for path in paths])
        for _, block in groupby(zip(ends // ROWS_AT_ONCE, paths, strict=True), itemgetter(0)):
            yield [path for _, path in block]

    def _read(
        self,
        kind: str,
        paths: Sequence[str],
        criteria: Mapping[str, Criterion],
        columns: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Read rows of several files, with labels as categories."""
        # labels in records are dictionary-encoded and must be compared as text
        tests = [
            ds.field(name).isin(value)
            if isinstance(value, list)
            else ds.field(name).cast("string") == value
            for name, value in criteria.items()
        ]
        condition = reduce(and_, tests) if tests else None
        with self._explain_errors(kind):
            dataset = ds.dataset(paths, format="parquet")
            return dataset.to_table(columns=columns, filter=condition).to_pandas()

    @contextmanager
    def _explain_errors(self, kind: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # pyarrow raises both
            raise ArtifactError(
                f"{kind} of {self.folder} are missing or damaged ({error}); make them again: "
                f"`{_remedy(self.study, self.run.root)}`"
            ) from error


def _with_texts(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with its categories as texts, so that tables of other categories combine."""
    return table.astype({name: str for name in table.select_dtypes("category")})


def mean_by_class(records: pd.DataFrame, outcome: str) -> pd.DataFrame:
    """Average an outcome over the images of each class, for every arm.

    Args:
        records: one row per image and arm.
        outcome: correct, top5, probability or objective.

    Returns:
        ARM_ON_CLASS, images (their number), before and after (the outcome's means), change (mean of
        after minus before) and change_error (its standard error over images; NaN for one image).
    """
    before, after = (records[f"{outcome}_{end}"].astype(float) for end in ("before", "after"))
    rows = records[ARM_ON_CLASS].assign(before=before, after=after, change=after - before)
    groups = rows.groupby(ARM_ON_CLASS, observed=True, sort=False)
    means = groups.agg(
        images=("before", "size"), before=("before", "mean"), after=("after", "mean"),
        change=("change", "mean"), change_error=("change", "sem"),
    )  # fmt: skip
    return means.reset_index()


def _remedy(study: str, root: Path) -> str:
    return f"conceptevo bench {root}" if study == BENCH else "conceptevo run CONFIG"


class MixedResults(ArtifactError):
    """Some results of a study are missing, or were made from other inputs than the rest."""


def write_about(
    run: Run, study: str, about: Mapping[str, Any], contents: Mapping[str, Sequence[Artifact]]
) -> None:
    """Declare the results complete: record what was run and which artifacts they consist of."""
    parts = {kind: [list(a.parts) for a in artifacts] for kind, artifacts in contents.items()}
    text = {"version": SCHEMA_VERSION, **about, "contents": parts}
    text["fingerprint"] = _state(run, text)
    write_text(run.root / study / "about.json", json.dumps(text, indent=1) + "\n")


def _state(run: Run, about: Mapping[str, Any]) -> str:
    """Return a hash of what the artifacts of a study were made from, and of its networks and
    images, which the audit reads again for every configuration: a study of other classes than the
    run's keeps its artifacts."""
    networks = {(p["series"], p[end]) for p in about["pairs"] for end in PAIR[1:]}
    artifacts = [Artifact("audit_layers", network) for network in sorted(networks)]
    for entry, all_parts in sorted(about["contents"].items()):
        kind = "importance" if entry == "sizes" else entry
        artifacts += [Artifact(kind, tuple(parts)) for parts in all_parts]
    sidecars = map(run.sidecar, artifacts)
    return fingerprint([sidecar and sidecar["fingerprint"] for sidecar in sidecars])


def discard_mixed(run: Run) -> list[str]:
    """Declare a study of a run incomplete if a command has since made some of its results, or its
    networks, from another configuration or other inputs; return a message for each such study."""
    messages = []
    for study in filter(partial(has_results, run), (REVERSION, BENCH)):
        try:
            read_results(run.root, study)
        except MixedResults as error:
            (run.root / study / "about.json").unlink()
            messages.append(str(error))
        except ArtifactError:  # damaged or of another version: whoever reads it is told
            continue
    return messages


def has_results(run: Run, study: str) -> bool:
    """Return whether a run's reversion study or benchmark is complete."""
    return (run.root / study / "about.json").exists()


def read_results(folder: Path, study: str = BENCH) -> Results:
    """Return the results of a run's benchmark or reversion study.

    Args:
        folder: the run, or the study's folder in it.
        study: REVERSION or BENCH.

    Raises:
        ArtifactError: there are none, or they are of another schema version.
        MixedResults: some of them were made again since from another configuration or other inputs.
    """
    root = folder.parent if (folder / "about.json").exists() else folder
    path = root / study / "about.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        name = "benchmark" if study == BENCH else "reversion study"
        raise ArtifactError(
            f"{root} holds no finished {name}; run `{_remedy(study, root)}`"
        ) from None
    if about.get("version") != SCHEMA_VERSION:
        raise ArtifactError(
            f"{path} has schema version {about.get('version')}, this program reads "
            f"{SCHEMA_VERSION}; make it again with this version: `{_remedy(study, root)}`"
        )
    # results of earlier versions have no fingerprint
    if about.get("fingerprint", state := _state(Run(root), about)) != state:
        raise MixedResults(
            f"{root / study}: some of its results are missing, or they or its networks were made "
            f"again from another configuration or other inputs, so that they cannot be used with "
            f"the rest: run `{_remedy(study, root)}`"
        )
    return Results(Run(root), study, about)
