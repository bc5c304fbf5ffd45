"""The places of a study, which are leased to participants, and its settings of recruitment.

Each source has its own places and settings. They are stored in the database, so that a change by a
command holds for the next person who arrives, in every process. Every change is logged.
"""

import hashlib
import hmac
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from harness.text import pluralise
from survey_app.flow import UNFINISHED
from survey_app.platforms import is_admitted, is_id
from survey_app.schema import (
    blocked,
    has_expired,
    identities,
    participants,
    people,
    places,
    recruitment,
    recruitment_log,
    status_at,
    studies,
    turned_away,
)
from survey_app.store import Store
from tasks.recruitment import MOST_PLACES, Recruitment
from tasks.responses import Source

State = Literal["open", "paused", "closed"]
STATES: tuple[State, ...] = get_args(State)


class Places:
    """The places and the recruitment of one study, for one source of participants."""

    def __init__(self, store: Store, study: str, source: Source) -> None:
        self.store, self.study, self.source = store, study, source
        self._key = {"study": study, "source": source}

    def _is_own(self, table) -> Any:
        return (table.c.study == self.study) & (table.c.source == self.source)

    def begin(self, connection: Connection, settings: Recruitment | None) -> None:
        """Store the settings of recruitment; the first time, create the places."""
        initial = settings or Recruitment()
        row = {**self._key, "state": "open", "settings": initial.model_dump(mode="json")}
        if self.store.insert_new(connection, recruitment, row):
            self._create(connection, range(initial.places))
            self._log(connection, "opened", f"{initial.places} places")
        elif settings is not None:
            self._change(connection, settings)

    def _change(self, connection: Connection, settings: Recruitment) -> None:
        """Store settings that were edited since the study was last served, and log the changes."""
        old = self.settings(connection).model_dump(mode="json")
        new = settings.model_dump(mode="json")
        if changed_names := [name for name in new if new[name] != old[name]]:
            self._set(connection, settings=new)
            detail = ", ".join(
                name if name == "codes" else f"{name} = {new[name]!r}" for name in changed_names
            )
            self._log(connection, "settings", detail)

    def _set(self, connection: Connection, **values: Any) -> None:
        connection.execute(update(recruitment).where(self._is_own(recruitment)).values(values))

    def _create(self, connection: Connection, numbers: Iterable[int]) -> None:
        connection.execute(insert(places), [{**self._key, "place": n} for n in numbers])

    def _log(self, connection: Connection, event: str, detail: str) -> None:
        row = {**self._key, "moment": self.store.clock(), "event": event, "detail": detail}
        connection.execute(insert(recruitment_log).values(row))

    def _recruitment_row(self, connection: Connection, lock: bool = False) -> Row:
        query = select(recruitment).where(self._is_own(recruitment))
        row = connection.execute(query.with_for_update() if lock else query).first()
        if row is None:
            raise ValueError(
                f"study {self.study} was never served for source {self.source!r} from this "
                f"database; serve it first, or name another --source"
            )
        return row

    def settings(self, connection: Connection) -> Recruitment:
        """Return the settings last served. Raises ValueError if the study was never served."""
        return Recruitment(**self._recruitment_row(connection).settings)

    def opens(self, connection: Connection) -> datetime | None:
        """Return the time at which recruitment starts, or None if it is not in the future."""
        opens = self._recruitment_row(connection).opens
        return opens if opens is not None and opens > self.store.clock() else None

    def state(self, connection: Connection) -> State:
        return self._recruitment_row(connection).state

    # Participants

    def take(self, connection: Connection, participant: str) -> int | None:
        """Lease the participant a free place or one whose lease has ended; None if there is none.

        The previous holder loses the place in the same transaction, so that finished and active
        participants together never exceed the places.
        """
        free_place = (
            select(places.c.place)
            .where(self._is_own(places), places.c.participant.is_(None))
            .order_by(places.c.place)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        place = connection.scalar(free_place)
        if place is None:
            place = self._take_expired(connection)
        if place is not None:
            connection.execute(
                update(places)
                .where(self._is_own(places), places.c.place == place)
                .values(participant=participant)
            )
        return place

    def _take_expired(self, connection: Connection) -> int | None:
        """Take the place whose lease ended first from its holder; None if no lease has ended."""
        expired_leases = (
            select(places.c.place, places.c.participant)
            .join(participants, places.c.participant == participants.c.participant)
            .where(self._is_own(places), self._is_own(participants))
            .where(has_expired(self.store.clock()))
            .order_by(participants.c.lease_until)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        row = connection.execute(expired_leases).first()
        if row is None:
            return None
        self._expire_participant(connection, row.participant, "timed_out")
        return row.place

    def _expire_participant(self, connection: Connection, participant: str, reason: str) -> None:
        code = self.settings(connection).codes.expired
        self.store.update(
            connection,
            self.study,
            participant,
            status="expired",
            reason=reason,
            code=code,
            feedback=None,
            version=participants.c.version + 1,
        )

    def free_place(self, connection: Connection, participant: str) -> None:
        connection.execute(
            update(places)
            .where(self._is_own(places), places.c.participant == participant)
            .values(participant=None)
        )

    def turn_away(self, connection: Connection, nonce: str, platform: str, reason: str) -> bool:
        """Count a person who was turned away, once per page; return whether the page is new."""
        key = {"study": self.study, "nonce": nonce}
        values = {"source": self.source, "platform": platform, "reason": reason}
        return self.store.insert_new(connection, turned_away, key | values)

    def uncount_turned_away(self, connection: Connection, nonce: str) -> None:
        """Remove the count of a person who was turned away on this page but then began."""
        own_row = (turned_away.c.study == self.study) & (turned_away.c.nonce == nonce)
        connection.execute(delete(turned_away).where(own_row))

    def is_blocked(self, connection: Connection, platform_id: str) -> bool:
        query = select(blocked.c.digest).where(
            blocked.c.study == self.study,
            blocked.c.digest == self._digest(connection, platform_id),
        )
        return connection.scalar(query) is not None

    def _digest(self, connection: Connection, platform_id: str) -> str:
        salt = connection.scalar(select(studies.c.salt).where(studies.c.hash == self.study)) or ""
        text = b"blocked:" + platform_id.encode()
        return hmac.new(salt.encode(), text, hashlib.sha256).hexdigest()

    # Commands

    @contextmanager
    def _write_recruitment(self) -> Iterator[Connection]:
        """Open a transaction in which no other process changes recruitment."""
        with self.store.write() as connection:
            self._recruitment_row(connection, lock=True)
            yield connection

    def add(self, number: int) -> int:
        """Add places and return their total number; the study and its hash do not change.

        Raises:
            ValueError: there would be more than MOST_PLACES; none can be removed again.
        """
        with self._write_recruitment() as connection:
            own_places = select(func.count()).where(self._is_own(places))
            first = connection.scalar(own_places) or 0  # they are numbered from 0
            total = first + number
            if total > MOST_PLACES:
                raise ValueError(
                    f"+{number}: there would be {total:,} places, which cannot be removed again; "
                    f"at most {MOST_PLACES:,} are allowed"
                )
            self._create(connection, range(first, total))
            self._log(connection, "places", f"+{number}, {total} in all")
            return total

    def set_state(self, state: State) -> None:
        """Open, pause or close recruitment; participants who have begun can finish."""
        with self._write_recruitment() as connection:
            opens = state == "open" and self.opens(connection)
            if opens or self.state(connection) != state:
                self._set(connection, state=state, **({"opens": None} if opens else {}))
                self._log(connection, state, "")

    def open_at(self, moment: datetime) -> None:
        """Open recruitment at the given time; participants who have begun can finish.

        Raises:
            ValueError: the time is not in the future.
        """
        if moment <= self.store.clock():
            raise ValueError(f"open-at {moment}: this time has passed; `resume` opens at once")
        with self._write_recruitment() as connection:
            self._set(connection, state="open", opens=moment)
            self._log(connection, "open-at", f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC")

    def release(self, *identifiers: str, reason: str = "released") -> None:
        """Free the places of participants who will not finish, of all or of none.

        Args:
            identifiers: pseudonyms, or the platform's ids of persons or of sessions.

        Raises:
            ValueError: an identifier is unknown, or the participant has finished or has no place.
        """
        participants_named = dict[str, None]()  # each may be named more than once
        with self.store.write() as connection:
            for identifier in identifiers:
                row = self._find(connection, identifier)
                if row is None:
                    raise ValueError(
                        f"no participant has the id {identifier!r}, so nobody's place was "
                        f"released; give pseudonyms, or the platform's ids of persons or sessions"
                    )
                if row["status"] not in UNFINISHED:
                    raise ValueError(
                        f"{identifier} holds no place that could be released (status "
                        f"{row['status']}), so nobody's was. To collect more responses, add places "
                        f"(`places STUDY +1`)"
                    )
                participants_named[row["participant"]] = None
            for participant in participants_named:
                self._expire_participant(connection, participant, reason)
                self.free_place(connection, participant)
                self._log(connection, "released", f"{participant} ({reason})")

    def is_unfinished(self, identifier: str) -> bool:
        """Return whether the participant with this identifier has begun and not finished."""
        with self.store.write() as connection:
            row = self._find(connection, identifier)
        return row is not None and row["status"] in UNFINISHED

    def _find(self, connection: Connection, identifier: str) -> dict[str, Any] | None:
        for study, source, participant in self.store.find_participants(connection, identifier):
            if (study, source) == (self.study, self.source):
                return self.store.row(connection, study, participant, lock=True)
        return None

    def block(self, platform_ids: Iterable[str]) -> int:
        """Block people by their platform ids; return how many are new. Only hashes are stored.

        Raises:
            ValueError: a text is no id, so that nobody would be recognised by it.
        """
        with self._write_recruitment() as connection:
            ids = dict.fromkeys(platform_ids)
            settings = self.settings(connection)
            # Pseudonyms look like Prolific's ids.
            pseudonyms = set(connection.scalars(select(participants.c.participant)))
            if bad := [text for text in ids if text in pseudonyms or not is_id(text, settings)]:
                raise ValueError(
                    f"{bad[0]!r} is not an id of a person at the platform "
                    f"({pluralise(len(bad), 'such line')}), so nobody was blocked; give one id a "
                    f"line, exactly as the platform writes it, and no pseudonyms"
                )
            digests = [self._digest(connection, text) for text in ids]
            new_count = sum(
                self.store.insert_new(connection, blocked, {"study": self.study, "digest": digest})
                for digest in digests
            )
            self._log(connection, "blocked", f"{new_count} ids")
            return new_count

    def counts(self) -> dict[str, int]:
        """Count places, free places, participants by status, and people turned away by reason.

        Those who `has_expired` are counted as `expired`, as on the dashboard.
        """
        status = status_at(self.store.clock())
        with self.store.read() as connection:
            total, occupied = connection.execute(
                select(func.count(), func.count(places.c.participant)).where(self._is_own(places))
            ).one()
            counts = {"places": total, "free": total - occupied}
            groups = (
                (participants, status, ""),
                (turned_away, turned_away.c.reason, "turned away: "),
            )
            for table, kind, prefix in groups:
                query = select(kind, func.count()).where(self._is_own(table))
                numbers = connection.execute(query.group_by(kind).order_by(kind))
                counts |= {f"{prefix}{name}": n for name, n in numbers}
        return counts

    def find_begun(self) -> set[str]:
        """Return the pseudonyms of the participants who have begun, with or without finishing."""
        with self.store.read() as connection:
            query = select(participants.c.participant).where(self._is_own(participants))
            return set(connection.scalars(query))

    def count_elsewhere(self) -> int:
        """Count unfinished participants of other studies in the database, of the same source."""
        query = select(func.count()).where(
            participants.c.study != self.study,
            participants.c.source == self.source,
            participants.c.status.in_(UNFINISHED),
        )
        with self.store.read() as connection:
            return connection.scalar(query) or 0

    def count_locked_out(self, settings: Recruitment) -> int:
        """Count unfinished participants whose links new settings do not accept."""
        query = select(participants.c.platform, identities.c.platform_id, identities.c.details)
        begun = self._is_own(participants) & participants.c.status.in_(UNFINISHED)
        with self.store.read() as connection:
            people_begun = connection.execute(query.select_from(people).where(begun)).all()
            # A link of Prolific is either signed or not.
            signing_changed = people_begun and self.settings(connection).signed != settings.signed
        return sum(
            (signing_changed and row.platform == "prolific") or not is_admitted(*row, settings)
            for row in people_begun
        )

    def log(self) -> list[dict[str, Any]]:
        """Return the logged changes (moment, event, detail), oldest first."""
        with self.store.read() as connection:
            query = select(recruitment_log).where(self._is_own(recruitment_log))
            rows = connection.execute(query.order_by(recruitment_log.c.number)).mappings()
            return [dict(row) for row in rows]
