"""Anonymise a study for analysis: keep responses without anything that identifies a person."""

import shutil
from pathlib import Path

import pandas as pd

from harness.files import csv_text, write_text
from tasks.responses import PARTICIPANTS, RESPONSES

EPOCH = pd.Timestamp("1970-01-01T00:00:00Z")

#: What together can single out a person, or is known to the platform; no analysis reads it.
TELLING = ("code", "viewport_width", "viewport_height", "pixel_ratio", "touch", "browser")


def anonymise(responses: pd.DataFrame, people: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return both tables without what could identify a person, in an order that reveals nothing.

    Participants are numbered in the order of their pseudonyms, so that an analysis that sorts by
    participant gives the same numbers. Times are relative to consent; questionnaire answers,
    platform, completion code and device are emptied.
    """
    order = sorted(people["participant"])
    width = max(4, len(str(len(order))))
    names = {name: f"p{number:0{width}d}" for number, name in enumerate(order, 1)}
    start = people.set_index("participant")["consented_at"]

    def replace_names(table: pd.DataFrame, times: list[str], columns: list[str]) -> pd.DataFrame:
        participants = table["participant"]
        shifted = {name: EPOCH + (table[name] - participants.map(start)) for name in times}
        table = table.assign(**shifted, participant=participants.map(names))
        return table.sort_values(columns, kind="stable", ignore_index=True)

    blank = {name: people[name].mask(people[name].notna()) for name in TELLING}
    people = people.assign(questionnaire="{}", platform="", **blank)
    return (
        replace_names(responses, ["shown_at", "answered_at"], ["participant", "trial"]),
        replace_names(people, ["finished_at", "consented_at"], ["participant"]),
    )


def write_data(folder: Path, responses: pd.DataFrame, people: pd.DataFrame) -> None:
    """Write two tables in the survey's format: responses.csv and responses-participants.csv."""
    for name, table, columns in (
        ("responses.csv", responses, RESPONSES),
        ("responses-participants.csv", people, PARTICIPANTS),
    ):
        ordered = table[[column.name for column in columns]]
        write_text(folder / name, csv_text(ordered, date_format="%Y-%m-%dT%H:%M:%S.%fZ"))


def copy_study(study: Path, out: Path) -> None:
    """Copy study.json, keys.json and the pictures, and nothing else of the folder."""
    for name in ("study.json", "keys.json"):
        write_text(out / name, (study / name).read_text(encoding="utf-8"))
    if (study / "images").is_dir() and study.resolve() != out.resolve():
        shutil.copytree(study / "images", out / "images", dirs_exist_ok=True)
