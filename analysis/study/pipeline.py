"""Analyse a study: from responses to a results folder, and from a results folder to its tables."""

import json
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.benchmark import tables as bench_tables  # noqa: F401 - registers them
from analysis.benchmark.results import Bench
from analysis.exhibits import shelf
from analysis.exhibits.figures import styled
from analysis.exhibits.numbers import numbers_tex
from analysis.exhibits.tables import Table
from analysis.run import tables as run_tables  # noqa: F401 - registers them
from analysis.run.published import SCORE
from analysis.statistics.classes import class_changes, mean_over_layers
from analysis.study import agreement as study_agreement  # noqa: F401 - registers its tables
from analysis.study import association
from analysis.study import bayesian as study_bayesian  # noqa: F401 - registers it
from analysis.study import data_quality as study_quality
from analysis.study import equivalence as study_equivalence  # noqa: F401 - registers it
from analysis.study import examples as study_examples  # noqa: F401 - registers its figures
from analysis.study import networks as study_networks  # noqa: F401 - registers its exhibits
from analysis.study import specification as study_specification  # noqa: F401 - registers it
from analysis.study.anonymise import anonymise, copy_study, write_data
from analysis.study.figures import study_figures
from analysis.study.frozen_study import FrozenStudy, read_study
from analysis.study.participants import demographics_of
from analysis.study.report import write_study_report
from analysis.study.responses import prepare, read_tables
from analysis.study.results import Results, Settings
from analysis.study.tables import mark_source, study_tables
from harness.artifacts import Run
from harness.files import csv_text, lock, write_text
from harness.records import JOINT
from harness.results import BENCH, has_results
from harness.results import REVERSION as REVERSION_STUDY
from harness.results import read_results as read_ablations
from tasks.recruitment import FILE as RECRUITMENT

log = logging.getLogger(__name__)

#: Data of the run that are kept with the responses, so that the pack needs no run: evidence on the
#: neurons shown, changes of accuracy by pair, and tables of the run as they are.
NETWORK, REVERSION, FROM_RUN = "network.csv", "reversion.csv", "run"
#: Counts of questionnaire answers of the analysed participants; single answers are not kept.
DEMOGRAPHICS = "demographics.csv"
DATA = (NETWORK, REVERSION, DEMOGRAPHICS)
#: Files without which a results folder or a pack is none.
NEEDED = (
    "analysis.json", "numbers.tex", "study/study.json", "study/keys.json",
    "data/responses.csv", "data/responses-participants.csv",
)  # fmt: skip
#: Columns of these files that hold text, whatever it looks like.
NAMES = dict.fromkeys(["trial", "series", "layer", "split", "arm", "question", "answer"], str)
RUN_TABLES_SHOWN = ("reversion", "alignment", "times")
BENCH_TABLES_SHOWN = ("leaderboard", "spaces")


def analyse_study(
    study: Path,
    responses: Path,
    out: Path,
    settings: Settings,
    run: Path | None = None,
    source: str | None = None,
) -> Results:
    """Validate, anonymise, compute and write everything into `out`.

    Args:
        study: folder of the frozen study. responses: CSV file, see `read_tables`.
        run: folder of the run whose neurons the study shows; None: without network measures.
        source: human, pilot or simulated; None: the only source in the table.

    Raises:
        ResponseError: rows contradict the study or one another; all are listed.
        ValueError: files are missing, or there are several sources and none was chosen.
        ArtifactError: another command is working in `out`.
    """
    answers, people = read_tables(responses)
    frozen = read_study(study)
    if run is not None:
        association.check_run(frozen, Run(run))
    chosen = prepare(frozen, answers, people, source)  # names the user's own rows
    if chosen.answers.empty:
        steps = "; ".join(f"{s}: {n}" for s, n in chosen.flow[["step", "participants"]].to_numpy())
        raise ValueError(f"no responses are left to analyse ({steps})")
    for table in (answers, people):
        if ignored := table.attrs["ignored"]:
            log.warning(
                "%s: ignored columns: %s", table.attrs["file"], ", ".join(map(repr, ignored))
            )
    for note in study_quality.notes(chosen):  # names participants as the user's tables do
        log.warning(note)
    people = people[people["source"] == chosen.source]
    is_kept = people["consented_at"].notna() & (people["status"] != "withdrawn")
    consented = people.loc[is_kept, "participant"]
    data = anonymise(answers[answers["participant"].isin(consented)], people)
    with lock(out):  # another analysis would exchange the data between writing and reading
        write_data(out / "data", *data)
        copy_study(study, out / "study")
        for name in DATA:
            (out / "data" / name).unlink(missing_ok=True)
        shutil.rmtree(out / "data" / FROM_RUN, ignore_errors=True)
        if (demographics := demographics_of(chosen, people)) is not None:
            _write_csv(out / "data" / DEMOGRAPHICS, demographics)
        if run is not None:
            _write_network(out, study, frozen, Run(run), settings.level)
        description: dict[str, Any] = {
            "title": frozen.study.title,
            "hash": frozen.study.hash,
            "participants": int(chosen.answers["participant"].nunique()),
            "answers": len(chosen.answers),
        }
        if (study / RECRUITMENT).exists():  # stays here, for it holds the codes
            description["planned"] = frozen.recruitment.places
        config = {"source": chosen.source, "settings": asdict(settings), "about": description}
        write_text(out / "analysis.json", json.dumps(config, indent=1, ensure_ascii=False) + "\n")
        results = read_results(out)
        tables = write_tables(results, out)
        write_pictures(results, tables, out)
        return results


def _write_network(out: Path, folder: Path, study: FrozenStudy, run: Run, level: float) -> None:
    """Write measures of the neurons shown, effects of reversion, and some tables of the run."""
    table = association.network_measures(study, run, association.observe_trials(study, folder))
    _write_csv(out / "data" / NETWORK, table)
    if has_results(run, REVERSION_STUDY):
        results = read_ablations(run.root, REVERSION_STUDY)
        means = results.class_means("correct", with_controls=True)
        means = means[(means["layer"] != JOINT) & (means["method"] == SCORE)]
        if len(means):  # a run need not have this score
            _write_csv(out / "data" / REVERSION, mean_over_layers(class_changes(means), level))
    tables = [shelf.get("run", "table", name)(run) for name in RUN_TABLES_SHOWN]
    if has_results(run, BENCH):
        bench = Bench(read_ablations(run.root))
        tables += [shelf.get("bench", "table", name)(bench) for name in BENCH_TABLES_SHOWN]
    for exhibit in tables:
        if exhibit is not None:
            write_text(out / "data" / FROM_RUN / f"{exhibit.name}.json", exhibit.to_json())


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    write_text(path, csv_text(table))


def _read_csv(path: Path) -> pd.DataFrame:
    """Read what `_write_csv` wrote; NA, None and 007 are names where names stand."""
    return pd.read_csv(path, dtype=NAMES, keep_default_na=False, na_values=[""])


def check_results(folder: Path) -> None:
    """Raise ValueError if a folder holds no results of a study."""
    if missing := [name for name in NEEDED if not (folder / name).is_file()]:
        raise ValueError(f"{folder} holds no {missing[0]}; give the --out of `conceptevo analyse`")


def read_results(folder: Path) -> Results:
    """Read the data of a results folder or of an unpacked release pack; nothing is computed yet."""
    frozen = read_study(folder / "study")
    config = json.loads((folder / "analysis.json").read_text(encoding="utf-8"))
    tables = read_tables(folder / "data" / "responses.csv")
    responses = prepare(frozen, *tables, config["source"])
    network, reversion, demographics = (
        _read_csv(path) if (path := folder / "data" / name).is_file() else None for name in DATA
    )
    trials = None if network is None else association.join_measures(responses, network)
    names = (*RUN_TABLES_SHOWN, *BENCH_TABLES_SHOWN)
    paths = (folder / "data" / FROM_RUN / f"{name}.json" for name in names)
    from_run = [Table.from_json(path.read_text("utf-8")) for path in paths if path.is_file()]
    settings = Settings(**config["settings"])
    sample = config["about"].get("planned")
    return Results(responses, settings, trials, reversion, from_run, demographics, sample)


def write_tables(results: Results, out: Path) -> dict[str, Table]:
    """Write tables/ and numbers.tex; tables of an earlier analysis are removed."""
    shelf.use("study", results.settings.exhibits)
    tables = study_tables(results)
    names = {table.name for table in tables.values()}
    names |= {*shelf.names("study", "table"), *RUN_TABLES_SHOWN, *BENCH_TABLES_SHOWN}
    _remove_earlier(out / "tables", names, (".csv", ".md", ".tex"))
    for table in tables.values():
        mark_source(table, results).write(out / "tables")
    write_text(out / "numbers.tex", numbers_tex(tables))
    return tables


def write_pictures(results: Results, tables: Mapping[str, Table], out: Path) -> None:
    """Write figures/ and report.html."""
    figures = study_figures(results)
    names = {figure.name for figure in figures.values()}
    names |= {f"study_{name}" for name in shelf.names("study", "figure")}
    _remove_earlier(out / "figures", names, (".png", ".pdf"))
    with styled():
        for figure in figures.values():
            figure.write(out / "figures")
        write_study_report(out / "report.html", results, tables, figures)


def _remove_earlier(folder: Path, names: Iterable[str], suffixes: Sequence[str]) -> None:
    """Remove the exhibits of an earlier analysis, also those of the user, whose names a hidden file
    beside the folder holds, and note the names of those that follow. Other files are the user's."""
    record = folder.with_name(f".{folder.name}")
    earlier = record.read_text(encoding="utf-8").split() if record.is_file() else ()
    for name in {*earlier, *names}:
        for suffix in suffixes:
            (folder / f"{name}{suffix}").unlink(missing_ok=True)
    write_text(record, "\n".join(sorted(names)))
