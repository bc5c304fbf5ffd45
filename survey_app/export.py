"""The response table and the participant table, out of the store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from sqlalchemy import select

from harness.artifacts import whole_file, write_text
from survey_app.places import UNFINISHED
from survey_app.schema import participants, responses
from survey_app.store import Store
from tasks.responses import PARTICIPANTS, RESPONSES, as_table, codebook

DEVICE = {
    "viewport_width": "width", "viewport_height": "height", "pixel_ratio": "pixel_ratio",
    "touch": "touch", "browser": "browser",
}  # fmt: skip


def sources(store: Store) -> list[str]:
    """Which sources the database holds, sorted."""
    with store.read() as connection:
        return sorted(connection.scalars(select(participants.c.source).distinct()))


def tables(
    store: Store, source: str, study: str | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Responses and participants of one source, typed as the codebook says."""
    frames = []
    for table, order in (
        (responses, ("participant", "answered_at")),
        (participants, ("arrived_at",)),
    ):
        query = select(table).where(table.c.source == source)
        if study is not None:
            query = query.where(table.c.study == study)
        with store.read() as connection:
            found = connection.execute(query.order_by(*(table.c[name] for name in order)))
            frames.append([dict(row) for row in found.mappings()])
    answers, people = frames
    for row in answers:
        row["options"] = json.dumps(row["options"])
        row["answer"] = json.dumps(row["answer"], ensure_ascii=False)
    for row in people:
        row |= _summary(row, store)
    return as_table(answers, RESPONSES), as_table(people, PARTICIPANTS)


def _summary(row: dict[str, Any], store: Store) -> dict[str, Any]:
    device = row["device"] or {}
    start, end = row["consented_at"], row["finished_at"]
    # The server's clock may have been set back in between.
    seconds = max(0.0, (end - start).total_seconds()) if start and end else None
    over = row["status"] in UNFINISHED and row["lease_until"] < store.clock()
    return {
        "status": "expired" if over else row["status"],
        "total_seconds": seconds,
        **{name: device.get(of) for name, of in DEVICE.items()},
        "questionnaire": json.dumps(row["questionnaire"], ensure_ascii=False),
    }


def export(store: Store, out: Path, source: str | None, study: str | None = None) -> list[Path]:
    """Write responses, participants and codebook; their paths.

    Raises:
        ValueError: the database holds several sources and none was named, or no such source.
    """
    found = sources(store)
    if source is None and len(found) > 1:
        raise ValueError(
            f"the database holds answers of {', '.join(found)}, which must not be mixed; "
            f"name one with --source"
        )
    chosen = source or (found[0] if found else "human")
    answers, people = tables(store, chosen, study)
    written = []
    for path, frame in (
        (out, answers),
        (out.with_name(f"{out.stem}-participants{out.suffix}"), people),
    ):
        with whole_file(path) as temporary:
            frame.to_csv(temporary, index=False)
        written.append(path)
    book = out.with_name(f"{out.stem}-codebook.md")
    write_text(book, codebook())
    return [*written, book]
