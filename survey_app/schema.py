"""The tables of the database. Migrations (migrations/versions) bring older databases to them."""

from datetime import UTC, datetime
from functools import partial

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    ColumnElement,
    DateTime,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    Label,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    case,
)
from sqlalchemy.types import TypeDecorator

from survey_app.flow import UNFINISHED
from tasks.responses import LONGEST_CONDITION, LONGEST_TASK


class Moment(TypeDecorator):
    """A time that Python reads in UTC: SQLite gives it without a zone, PostgreSQL in its own."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect) -> datetime | None:
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


metadata = MetaData()


#: Columns that several tables share: the study's hash; human, pilot or simulated, which are never
#: mixed; the participant's pseudonym.
_study = partial(Column, "study", String(16), nullable=False)
_source = partial(Column, "source", String(10), nullable=False)
_participant = partial(Column, "participant", String(32), primary_key=True)
#: Deletes a row when its participant's row is deleted.
_participant_key = partial(
    ForeignKeyConstraint,
    ["study", "participant"],
    ["participants.study", "participants.participant"],
    ondelete="CASCADE",
)


def of_participant(table: Table, study: str, participant: str) -> ColumnElement[bool]:
    """Return the condition that selects one participant's rows of a table."""
    return (table.c.study == study) & (table.c.participant == participant)


def has_expired(moment: datetime) -> ColumnElement[bool]:
    """Return the condition that participants have not finished although their lease is over.

    They keep their place until the next person needs it, and continue if they return before.
    """
    return participants.c.status.in_(UNFINISHED) & (participants.c.lease_until < moment)


def status_at(moment: datetime) -> Label[str]:
    """Return the statuses of participants, in which those who `has_expired` are `expired`."""
    return case((has_expired(moment), "expired"), else_=participants.c.status).label("status")


#: JSON that may be missing, which is SQL's NULL and not a JSON null.
OptionalJSON = JSON(none_as_null=True)

#: One row per study served from this database. `salt` is for pseudonyms, `secret` signs tokens.
studies = Table(
    "studies",
    metadata,
    Column("hash", String(16), primary_key=True),
    Column("title", String, nullable=False),
    Column("salt", String(64), nullable=False),
    Column("secret", String(64), nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("content", OptionalJSON),  # the frozen study without its keys, for the codebook
)

#: The recruitment of a study, per source. Commands change it; it is no part of the frozen study.
recruitment = Table(
    "recruitment",
    metadata,
    _study(primary_key=True),
    _source(primary_key=True),
    Column("state", String(10), nullable=False),  # open, paused or closed
    Column("settings", JSON, nullable=False),  # recruitment.toml as it was last served
    Column("opens", Moment),  # nobody may begin before
)

#: Every change of recruitment and its time; rows are added, never removed.
recruitment_log = Table(
    "recruitment_log",
    metadata,
    Column("number", Integer, primary_key=True),
    _study(),
    _source(),
    Column("moment", Moment, nullable=False),
    Column("event", String(20), nullable=False),
    Column("detail", String, nullable=False),
)

#: One row per page on which a person was turned away. `nonce` identifies the page, not the person.
turned_away = Table(
    "turned_away",
    metadata,
    _study(primary_key=True),
    Column("nonce", String(32), primary_key=True),
    _source(),
    Column("platform", String(20), nullable=False),
    Column("reason", String(20), nullable=False),  # a key of endings.REASONS
)

#: People who are blocked from taking part, by a salted hash of the platform's id.
blocked = Table(
    "blocked",
    metadata,
    _study(primary_key=True),
    Column("digest", String(64), primary_key=True),
)

#: One row per participant and study; it determines which page of the study the participant sees.
participants = Table(
    "participants",
    metadata,
    _study(primary_key=True),
    _participant(),
    _source(),
    Column("platform", String(20), nullable=False),
    Column("status", String(14), nullable=False),
    # The number of steps so far. An action is meant for one version; a second one is a repeat.
    Column("version", Integer, nullable=False),
    Column("plan", OptionalJSON),  # [{trial, options}]: the trials of the place
    Column("done", Integer, nullable=False),  # answered trials of the plan
    Column("practice_attempts", Integer, nullable=False),
    Column("practice_done", Integer, nullable=False),  # in the current attempt
    Column("practice_right", Integer, nullable=False),
    Column("feedback", OptionalJSON),  # on the practice trial just answered, until acknowledged
    Column("attention_right", Integer, nullable=False),
    Column("first_page", Integer, nullable=False, server_default="0"),
    Column("quiz_attempts", Integer, nullable=False, server_default="0"),
    Column("introduced", Integer, nullable=False, server_default="0"),
    Column("reason", String(20)),  # why participation ended early: practice, withdrew, released, …
    Column("code", String(64)),  # the completion code with which the participant left
    Column("arrived_at", Moment, nullable=False),
    Column("consented_at", Moment),
    Column("finished_at", Moment),
    Column("shown_at", Moment),  # when the current trial was first served
    Column("lease_until", Moment),
    Column("instruction_seconds", Float),
    Column("questionnaire", JSON, nullable=False),
    Column("device", OptionalJSON),  # viewport, pixel ratio, touch, browser; sent with consent
    Index("ix_participants_lease", "study", "source", "status", "lease_until"),
)

#: The platform's ids, apart from the responses, so that they can be deleted separately.
identities = Table(
    "identities",
    metadata,
    _study(primary_key=True),
    _participant(),
    Column("platform_id", String(128), nullable=False),
    Column("details", JSON, nullable=False),
    _participant_key(),
)

#: All participants, with the platform's ids unless these were deleted.
people = participants.outerjoin(identities)

#: The places of a study, per source; a place has at most one participant, and vice versa.
places = Table(
    "places",
    metadata,
    _study(primary_key=True),
    _source(primary_key=True),
    Column("place", Integer, primary_key=True),
    Column("participant", String(32)),
    UniqueConstraint("study", "participant", name="one_place_each"),
)

#: At most one row per participant and trial, which the primary key guarantees.
responses = Table(
    "responses",
    metadata,
    _study(primary_key=True),
    _participant(),
    Column("trial", String(24), primary_key=True),
    _source(),
    Column("task", String(LONGEST_TASK), nullable=False),
    Column("condition", String(LONGEST_CONDITION), nullable=False),
    Column("role", String(10), nullable=False),
    Column("position", Integer, nullable=False),
    Column("options", JSON, nullable=False),
    Column("answer", JSON, nullable=False),
    Column("correct", Boolean),
    Column("missing", String(10)),  # why there is no response: time or picture
    Column("confidence", Float),
    Column("shown_at", Moment, nullable=False),
    Column("answered_at", Moment, nullable=False),
    Column("milliseconds", Integer),
    Column("app_version", String(20), nullable=False),
    Column("pastes", Integer, nullable=False),
    Column("tab_leaves", Integer, nullable=False),
    _participant_key(),
)
