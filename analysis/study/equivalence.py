"""Equivalence of conditions: its table and sentences."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.exhibits import shelf
from analysis.exhibits.phrases import as_words, ci_text, number_text, p_text
from analysis.exhibits.tables import P_VALUE, Table
from analysis.study.results import Results
from analysis.study.tables import CORRECTED


@shelf.table("study", "contrasts", "equivalence")
def equivalence_table(results: Results) -> Table | None:
    if (table := results.tests_of("equivalence")).empty:
        return None
    columns = table[
        ["task", "measured", "what", "margin", "value", "low", "high", "n", "participants",
         "trials", "p_alone", "p"]
    ].rename(columns={
        "what": "pair", "margin": "smallest effect", "value": "difference", "n": "responses",
        "p_alone": "unadjusted p", "p": "adjusted p",
    })  # fmt: skip
    columns["equivalent"] = table["claimed"].map({True: "yes", False: "not shown"})
    columns["measured"] = columns["measured"].replace("correct", "accuracy")
    return Table(
        "equivalence",
        "Equivalence of conditions",
        "Two one-sided tests against the smallest effect of interest, frozen with the study. "
        "Difference (first minus second; accuracy as a share) with its unadjusted "
        f"{100 * table['level'].iloc[0]:g} % CI, clustered by participants and trials. Equivalence "
        "is claimed if the interval lies between minus and plus the smallest effect and the "
        f"{CORRECTED} is below .05. “Not shown” is no evidence of a difference.",
        columns,
        {**dict.fromkeys(["difference", "low", "high"], "{:+.3f}"), "smallest effect": "{:.3g}",
         "pair": as_words, "unadjusted p": P_VALUE, "adjusted p": P_VALUE},
    )  # fmt: skip


@shelf.sentences("study", "contrasts", "equivalence")
def equivalence_findings(results: Results, tables: Mapping[str, Table]) -> list[str]:
    return [_describe_test(row) for row in results.tests_of("equivalence").itertuples()]


def _describe_test(row: Any) -> str:
    pair = as_words(row.what).replace(" − ", " and ")
    if pd.isna(row.p):
        return f"Equivalence of {pair} in {row.task} could not be tested: {row.reason}."
    factor, unit = (100, "percentage points") if row.measured == "correct" else (1, "points")
    measure = "accuracy" if row.measured == "correct" else row.measured
    form = "+.1f" if factor > 1 else "+.2f"
    difference = (
        f"difference {number_text(row.value, form, factor)} {unit}, {100 * row.level:g} % "
        f"CI {ci_text(row, form, factor)}; adjusted {p_text(row.p)}"
    )
    finding = (
        f"{pair} are equivalent in {measure}: they differ"
        if row.claimed
        else f"it is not shown that {pair} differ in {measure}"
    )
    return (
        f"In {row.task}, {finding} by less than the smallest effect of interest, "
        f"{factor * row.margin:g} {unit} ({difference})."
    )
