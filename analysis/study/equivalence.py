"""Equivalence of conditions: its table and sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.exhibits import shelf
from analysis.exhibits.phrases import p_text, percent, signed, spaced, span
from analysis.exhibits.tables import P_VALUE, Table
from analysis.study.results import Results
from analysis.study.tables import CORRECTED


@shelf.table("study", "contrasts", "equivalence")
def equivalence_table(results: Results) -> Table | None:
    if (table := results.tested("equivalence")).empty:
        return None
    shown = table[
        ["task", "measured", "what", "margin", "value", "low", "high", "n", "participants",
         "trials", "p_alone", "p"]
    ].rename(columns={
        "what": "pair", "margin": "smallest effect", "value": "difference", "n": "responses",
        "p_alone": "unadjusted p", "p": "adjusted p",
    })  # fmt: skip
    shown["equivalent"] = table["claimed"].map({True: "yes", False: "not shown"})
    shown["measured"] = shown["measured"].replace("correct", "accuracy")
    return Table(
        "equivalence",
        "Equivalence of conditions",
        "Two one-sided tests against the smallest effect of interest, frozen with the study. "
        "Difference (first minus second; accuracy as a share) with its unadjusted "
        f"{100 * table['level'].iloc[0]:g} % CI, clustered by participants and trials. Equivalence "
        "is claimed if the interval lies between minus and plus the smallest effect and the "
        f"{CORRECTED} is below .05. “Not shown” is no evidence of a difference.",
        shown,
        {**dict.fromkeys(["difference", "low", "high"], "{:+.3f}"), "smallest effect": "{:.3g}",
         "pair": spaced, "unadjusted p": P_VALUE, "adjusted p": P_VALUE},
    )  # fmt: skip


@shelf.sentences("study", "contrasts", "equivalence")
def equivalence_findings(results: Results, tables: Mapping[str, Table]) -> list[str]:
    return [_sentence(row) for row in results.tested("equivalence").itertuples()]


def _sentence(row: Any) -> str:
    pair = spaced(row.what).replace(" − ", " and ")
    if pd.isna(row.p):
        return f"Equivalence of {pair} in {row.task} could not be tested: {row.reason}."
    times, unit = (100, "percentage points") if row.measured == "correct" else (1, "points")
    what = "accuracy" if row.measured == "correct" else row.measured
    form = ".1f" if times > 1 else ".2f"
    difference = (
        f"difference {signed(times * row.value, form)} {unit}, {percent(row.level)} CI "
        f"{span(row, form, times)}; adjusted {p_text(row.p)}"
    )
    finding = (
        f"{pair} are equivalent in {what}: they differ"
        if row.claimed
        else f"it is not shown that {pair} differ in {what}"
    )
    return (
        f"In {row.task}, {finding} by less than the smallest effect of interest, "
        f"{times * row.margin:g} {unit} ({difference})."
    )
