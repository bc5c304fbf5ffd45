"""The tables of the store. Migrations (migrations/versions) lead an older database here."""

from __future__ import annotations

from datetime import UTC, datetime

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
    MetaData,
    String,
    Table,
    UniqueConstraint,
)
from sqlalchemy.types import TypeDecorator


class Moment(TypeDecorator):
    """A UTC time, aware in Python on SQLite too."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect) -> datetime | None:
        if value is None or value.tzinfo is not None:
            return value
        return value.replace(tzinfo=UTC)


metadata = MetaData()


def _study(primary_key: bool = True) -> Column:
    """By the study's hash."""
    return Column("study", String(16), primary_key=primary_key, nullable=False)


def _source(primary_key: bool = False) -> Column:
    """human, pilot or simulated: they never mix."""
    return Column("source", String(10), primary_key=primary_key, nullable=False)


def _participant() -> Column:
    """A pseudonym."""
    return Column("participant", String(32), primary_key=True)


def _of_participant() -> ForeignKeyConstraint:
    """The row goes with the participant's."""
    own = ["study", "participant"]
    return ForeignKeyConstraint(own, [f"participants.{name}" for name in own], ondelete="CASCADE")


def of(table: Table, study: str, participant: str) -> ColumnElement[bool]:
    """Which rows of a table are one participant's."""
    return (table.c.study == study) & (table.c.participant == participant)


#: One row a study served from this database. `salt` makes pseudonyms, `secret` signs tokens.
studies = Table(
    "studies",
    metadata,
    Column("hash", String(16), primary_key=True),
    Column("title", String, nullable=False),
    Column("salt", String(64), nullable=False),
    Column("secret", String(64), nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("content", JSON),  # the frozen study without its keys, for the codebook
)

#: How a study recruits, each source by itself: changed by commands, never part of the study.
recruitment = Table(
    "recruitment",
    metadata,
    _study(),
    _source(primary_key=True),
    Column("state", String(10), nullable=False),  # open, paused or closed
    Column("settings", JSON, nullable=False),  # recruitment.toml as it was last served
    Column("opens", Moment),  # before then nobody may begin
)

#: What was changed in recruitment, and when; only ever added to.
recruitment_log = Table(
    "recruitment_log",
    metadata,
    Column("number", Integer, primary_key=True),
    _study(primary_key=False),
    _source(),
    Column("moment", Moment, nullable=False),
    Column("event", String(20), nullable=False),
    Column("detail", String, nullable=False),
)

#: One row a page of consent that led nowhere. The nonce is the page's; nothing is a person's.
turned_away = Table(
    "turned_away",
    metadata,
    _study(),
    Column("nonce", String(32), primary_key=True),
    _source(),
    Column("platform", String(20), nullable=False),
    Column("reason", String(20), nullable=False),  # declined, full, paused, closed or earlier
)

#: People who may not take part, by a salted hash of the platform's id.
blocked = Table(
    "blocked",
    metadata,
    _study(),
    Column("digest", String(64), primary_key=True),
)

#: One row a person and study; pages follow from this row and the answers, from nothing else.
participants = Table(
    "participants",
    metadata,
    _study(),
    _participant(),
    _source(),
    Column("platform", String(20), nullable=False),
    Column("status", String(14), nullable=False),
    # Counts every accepted step; an action is for one version, so a second one is a repeat.
    Column("version", Integer, nullable=False),
    Column("plan", JSON),  # [{trial, options}] of practice attempts and of the place
    Column("done", Integer, nullable=False),  # answered trials of the plan
    Column("practice_attempts", Integer, nullable=False),
    Column("practice_done", Integer, nullable=False),  # in this attempt
    Column("practice_right", Integer, nullable=False),
    Column("feedback", JSON),  # of the practice trial just answered, until acknowledged
    Column("attention_right", Integer, nullable=False),
    Column("first_page", Integer, nullable=False, server_default="0"),
    Column("quiz_attempts", Integer, nullable=False, server_default="0"),
    Column("introduced", Integer, nullable=False, server_default="0"),
    Column("reason", String(20)),  # why it ended before the end: practice, withdrew, released, …
    Column("code", String(64)),  # with which the person left
    Column("arrived_at", Moment, nullable=False),
    Column("consented_at", Moment),
    Column("finished_at", Moment),
    Column("shown_at", Moment),  # when the current trial was first served
    Column("lease_until", Moment),
    Column("instruction_seconds", Float),
    Column("questionnaire", JSON, nullable=False),
    Column("device", JSON),  # viewport, pixel ratio, touch, browser family; sent with consent
    Index("ix_participants_lease", "study", "source", "status", "lease_until"),
)

#: The platform's ids, apart from the answers, so that they can be deleted on their own.
identities = Table(
    "identities",
    metadata,
    _study(),
    _participant(),
    Column("platform_id", String(128), nullable=False),
    Column("details", JSON, nullable=False),
    _of_participant(),
)

#: Everybody, with the platform's ids where they are kept.
people = participants.outerjoin(identities)

#: The places of a study, each source with its own; a place has at most one participant.
places = Table(
    "places",
    metadata,
    _study(),
    _source(primary_key=True),
    Column("place", Integer, primary_key=True),
    Column("participant", String(32)),
    UniqueConstraint("study", "participant", name="one_place_each"),
)

#: One row per participant and trial, whatever happens.
responses = Table(
    "responses",
    metadata,
    _study(),
    _participant(),
    Column("trial", String(24), primary_key=True),
    _source(),
    Column("task", String(120), nullable=False),
    Column("condition", String(40), nullable=False),
    Column("role", String(10), nullable=False),
    Column("position", Integer, nullable=False),
    Column("options", JSON, nullable=False),
    Column("answer", JSON, nullable=False),
    Column("correct", Boolean),
    Column("missing", String(10)),  # why there is no answer: time or picture
    Column("confidence", Float),
    Column("shown_at", Moment, nullable=False),
    Column("answered_at", Moment, nullable=False),
    Column("milliseconds", Integer),
    Column("app_version", String(20), nullable=False),
    Column("pastes", Integer, nullable=False),
    Column("tab_leaves", Integer, nullable=False),
    _of_participant(),
)
