"""The table for payment: the platform's ids with status, code and reason, without responses."""

from __future__ import annotations

import pandas as pd
from sqlalchemy import delete, func, select

from survey_app.export import status_of
from survey_app.places import UNFINISHED
from survey_app.platforms import PARAMETERS
from survey_app.schema import identities, participants, people
from survey_app.store import Store

COLUMNS = (
    "study", "participant", "platform", "platform_id", "platform_study", "session",
    "earlier_sessions", "status", "reason", "code", "attention_right", "consented_at",
    "finished_at", "minutes",
)  # fmt: skip


def submissions(store: Store, source: str, study: str | None = None) -> pd.DataFrame:
    """Return one row per participant, for approvals, bonuses and complaints.

    Returns:
        COLUMNS: platform_study is STUDY_ID or hitId; session is the latest SESSION_ID or
        assignmentId ("" for an open link); minutes is the time from consent to the end (None: not
        finished).
    """
    query = (
        select(participants, identities.c.platform_id, identities.c.details)
        .select_from(people)
        .where(participants.c.source == source)
        .order_by(participants.c.consented_at)
    )
    if study is not None:
        query = query.where(participants.c.study == study)
    with store.read() as connection:
        people_rows = [dict(row) for row in connection.execute(query).mappings()]
    rows = []
    for row in people_rows:
        details, start, end = row["details"] or {}, row["consented_at"], row["finished_at"]
        names = PARAMETERS.get(row["platform"])
        rows.append(
            row
            | {
                "platform_study": details.get(names.study, "") if names else "",
                "session": details.get(names.session, "") if names else "",
                "earlier_sessions": len(details.get("earlier", ())),
                "status": status_of(row, store),
                "minutes": round((end - start).total_seconds() / 60, 1) if end and start else None,
            }
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def forget_ids(store: Store, study: str) -> int:
    """Delete the platform's ids of a study's participants; pseudonyms and responses are kept.

    Returns:
        The number of participants whose ids were deleted.

    Raises:
        ValueError: participants who are taking part could then not be paid.
    """
    with store.write() as connection:
        is_own = participants.c.study == study
        active = participants.c.status.in_(UNFINISHED), participants.c.lease_until >= store.clock()
        if count := connection.scalar(select(func.count()).where(is_own, *active)):
            raise ValueError(
                f"study {study}: ids are needed to pay the participants who are still taking part "
                f"({count}); close the study (`conceptevo study places STUDY close`) and wait"
            )
        deletion = delete(identities).where(identities.c.study == study)
        return len(connection.scalars(deletion.returning(identities.c.participant)).all())
