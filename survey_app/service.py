"""The service of one study: it admits visitors, returns their pages and carries out their actions.

Every action carries a signed token of (participant, version). An action for an older version is a
repeat (double click, second tab, or a retry after a lost acknowledgement): it changes nothing,
unless it withdraws, and is answered with the current page. An action can therefore be sent any
number of times.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection

from survey_app import flow, tokens
from survey_app.endings import REASONS
from survey_app.flow import ASKED, Progress, Stage
from survey_app.places import Places
from survey_app.platforms import LINK_OVER, Arrival, BadAddress, arrival, new_link, pseudonym
from survey_app.reported import DAY, count, device_of
from survey_app.schema import participants, responses
from survey_app.standing import Standing, standing
from survey_app.store import Store, progress_of
from survey_app.views import View
from tasks.assignment import plan
from tasks.base import CONFIDENCE, UnfitAnswer, check_values
from tasks.kinds import all_tasks
from tasks.language import N_
from tasks.questionnaire import check_answers, count_right, screened
from tasks.recruitment import Recruitment
from tasks.responses import Source
from tasks.study import Study


class BadAction(ValueError):
    """The action does not fit the page; the text may be shown to the participant."""


@dataclass(frozen=True)
class Turn:
    """One action on the page for which it is meant, within its transaction.

    Attributes:
        row: the participant's row, locked. at: the state that follows from it.
        sent: all that the browser sent. values: the fields of the form.
    """

    connection: Connection
    row: dict[str, Any]
    at: Standing
    sent: dict[str, Any]

    @property
    def values(self) -> dict[str, Any]:
        return self.sent.get("values", {})


class Service:
    """One study and its database, for one source of participants.

    Args:
        keys: trial -> its correct response, or None if it has none.
        recruitment: new settings of recruitment; None keeps those in the database.
    """

    def __init__(
        self,
        store: Store,
        study: Study,
        keys: dict[str, Any],
        source: Source = "human",
        recruitment: Recruitment | None = None,
    ) -> None:
        self.store, self.study, self.keys, self.source = store, study, keys, source
        self.places = Places(store, study.hash, source)
        with store.write() as connection:
            self.salt, self.secret = store.register(connection, study)
            self.places.begin(connection, recruitment)
            self.recruitment = self.places.settings(connection)
        self.view = View(study, self.recruitment.lease_minutes)

    def visitor(self, parameters: Mapping[str, str]) -> Arrival:
        """Identify a visitor by the address; see `platforms.arrival`."""
        return arrival(parameters, self.secret, self.recruitment)

    def new_link(self) -> str:
        """Return a new id for a visitor of the open link."""
        return new_link(self.secret)

    def participant(self, visitor: Arrival) -> str:
        """Return the pseudonym of a visitor."""
        return pseudonym(visitor, self.source, self.study.hash, self.salt)

    def welcome(self, visitor: Arrival) -> dict[str, Any]:
        """Return the page of a visitor; nothing is stored about one who has not consented.

        Raises:
            BadAddress: the signed link has expired, and the visitor has not consented.
        """
        participant = self.participant(visitor)
        with self.store.read() as connection:
            known = self.store.row(connection, self.study.hash, participant) is not None
            refusal = None if known else self._refusal(connection, visitor)
        if known:
            self.store.renew_session(self.study.hash, participant, visitor.details)
            return self.page(participant)
        if visitor.outdated:
            raise BadAddress(LINK_OVER)
        nonce = secrets.token_hex(16)
        if refusal is not None:
            with self.store.write() as connection:
                self.places.turn_away(connection, nonce, visitor.platform, refusal)
            return self._turned_away_page(visitor, refusal)
        token = tokens.invite(visitor, nonce, self.secret)
        return {"version": 0, "token": token, **self.view.page(Standing(Stage.CONSENT))}

    def _refusal(self, connection: Connection, visitor: Arrival) -> str | None:
        """Return why a new visitor may not begin now (a key of REASONS), or None."""
        state = self.places.state(connection)
        if state != "open":
            return state
        if self.places.opens(connection):
            return "early"
        earlier = self.places.is_blocked(connection, visitor.platform_id)
        return "earlier" if earlier else None

    def _turned_away_page(self, visitor: Arrival, reason: str) -> dict[str, Any]:
        code = getattr(self.recruitment.codes, REASONS[reason].code)
        at = Standing(
            Stage.SCREENED_OUT,
            reason=reason,
            platform=visitor.platform,
            identity=visitor.details,
            code=code,
        )
        return {"version": 1, "token": "", **self.view.page(at)}

    def page(self, participant: str) -> dict[str, Any]:
        """Return the participant's current page. Raises BadToken if the participant is unknown."""
        with self.store.read() as connection:
            row = self.store.row(connection, self.study.hash, participant)
            identity = self.store.identity(connection, self.study.hash, participant)
        if row is None:
            raise tokens.BadToken("unknown participant")
        # The time limit of a page goes on when it is opened again. After an action it starts anew
        # (elapsed is 0 in `act`), however long the reply takes.
        return self._page(row, identity, (self.store.clock() - row["shown_at"]).total_seconds())

    def act(self, token: object, action: object) -> tuple[dict[str, Any], bool]:
        """Carry out an action; return the next page and whether anything was changed.

        Raises:
            BadToken: the token was not issued here. BadAction: the action does not fit the page.
        """
        signed = tokens.read(token, self.secret)
        if not isinstance(action, dict):
            raise BadAction("an action must be an object")
        values = action.get("values", {})
        if not isinstance(values, dict):
            raise BadAction("values must be an object")
        if isinstance(signed, tokens.Invitation):
            return self._consent(signed, values, action)
        with self.store.write() as connection:
            row = self.store.row(connection, self.study.hash, signed.participant, lock=True)
            if row is None:
                raise tokens.BadToken("unknown participant")
            at = standing(self.study, self.keys, row)
            # A withdrawal holds from any page, such as one in a tab that has been open for long.
            meant = signed.version == row["version"] or "withdraw" in values
            done = meant and at.stage not in flow.ENDS
            if done:
                row = self._do(Turn(connection, row, at, action))
            identity = self._identity_at_end(connection, row)
        return self._page(row, identity), done

    def _identity_at_end(self, connection: Connection, row: dict[str, Any]) -> dict[str, Any]:
        """Return the platform's ids if the page leads back to the platform, else {}."""
        if row["status"] not in flow.ENDS:
            return {}
        return self.store.identity(connection, self.study.hash, row["participant"])

    def _consent(
        self, invitation: tokens.Invitation, values: dict[str, Any], action: dict[str, Any]
    ) -> tuple[dict[str, Any], bool]:
        """Admit a visitor who consents, if a place is free; otherwise count the refusal."""
        reasons = {"no": "declined", "screen": "screen", "yes": None}
        choice = str(values.get("consent"))
        if choice not in reasons:
            raise BadAction("consent must be yes, no or screen")
        declined = reasons[choice]
        device = device_of(action.get("device"))
        if not declined and 0 < device.get("width", 0) < self.study.min_width:
            text = N_("The window is narrower than {width} pixels.")
            raise BadAction(self.view.words(text, width=self.study.min_width))
        visitor, nonce = invitation.arrival, invitation.nonce
        key = {"study": self.study.hash, "participant": self.participant(visitor)}
        with self.store.write() as connection:
            row = self.store.row(connection, **key, lock=True)
            refusal = None if row else declined or self._refusal(connection, visitor)
            new = row is None and refusal is None
            if new and not self.store.admit(connection, key, visitor, self.source):
                row = self.store.row(connection, **key, lock=True)  # another request was first
                assert row is not None, "a participant vanished"
            if row:
                return self._page(row, self._identity_at_end(connection, row)), False
            if refusal is None:
                place = self.places.take(connection, key["participant"])
                if place is not None:
                    self.places.let_in(connection, nonce)
                    self.store.identify(connection, key, visitor)
                    return self._begin(connection, key, place, device), True
                self.store.erase(connection, participants, **key)
                refusal = "full"
            done = self.places.turn_away(connection, nonce, visitor.platform, refusal)
        return self._turned_away_page(visitor, refusal), done

    def _begin(
        self, connection: Connection, key: dict[str, str], place: int, device: dict[str, Any]
    ) -> dict[str, Any]:
        row = self.store.row(connection, **key, lock=True)
        assert row is not None, "a participant vanished"
        row = self._save(
            connection,
            row,
            flow.consent(progress_of(row)),
            plan=plan(self.study, place),
            consented_at=self.store.clock(),
            device=device,
        )
        return self._page(row, {})

    def _save(
        self, connection: Connection, row: dict[str, Any], progress: Progress, **more
    ) -> dict[str, Any]:
        """Store a step; at an end, with the completion code; at an early end, free the place."""
        if progress.status in flow.LEFT:
            self.places.give_back(connection, row["participant"])
        if progress.status in {*flow.LEFT, "finished"}:
            more["code"] = self._code(progress.status, row | more)
        lease = self.recruitment.lease_minutes
        return self.store.save_progress(connection, row, progress, lease, **more)

    def _code(self, status: str, row: dict[str, Any]) -> str:
        codes = self.recruitment.codes
        if status == "finished":
            return codes.completed if self.attentive(row) else codes.attention
        return {"screened_out": codes.screened_out, "withdrawn": codes.withdrawn}[status]

    def _do(self, turn: Turn) -> dict[str, Any]:
        """Carry out an action and return the participant's new row."""
        row, progress, course, stage = turn.row, turn.at.progress, turn.at.course, turn.at.stage
        if "withdraw" in turn.values:
            self.store.erase(turn.connection, responses, row["study"], row["participant"])
            gone: dict[str, Any] = {"reason": "withdrew", "questionnaire": {}, "device": None}
            return self._go_on(turn, flow.withdraw(progress), **gone)
        if stage in (Stage.INSTRUCTIONS, Stage.INTRODUCTION):
            step = flow.turn_page if stage is Stage.INSTRUCTIONS else flow.introduce
            seconds = count(turn.sent, "milliseconds", DAY) / 1000
            seconds += row["instruction_seconds"] or 0
            return self._go_on(turn, step(progress, course), instruction_seconds=seconds)
        if stage is Stage.FEEDBACK:
            after = flow.acknowledge(progress, course)
            reason = "practice" if after.status == "screened_out" else None
            return self._go_on(turn, after, reason=reason)
        return self._questions(turn) if stage in ASKED else self._answer(turn)

    def _go_on(self, turn: Turn, progress: Progress, **more) -> dict[str, Any]:
        return self._save(turn.connection, turn.row, progress, **more)

    def _questions(self, turn: Turn) -> dict[str, Any]:
        """Store the answers to a page of questions, which may end participation or lead back."""
        progress, course, stage = turn.at.progress, turn.at.course, turn.at.stage
        asked = self.study.asked(ASKED[stage])
        answers = self._checked(check_answers, asked, turn.values, turn.row["questionnaire"])
        kept = turn.row["questionnaire"] | answers
        failed = "answers" if screened(asked, answers) else ""
        for check in self.study.checks:
            if not any(q.check == check.name for q in asked):
                continue
            kept[f"{check.name}_right"] = right = count_right(asked, check.name, answers)
            if right >= check.needed or failed:
                continue
            if stage is Stage.QUIZ and progress.quiz_attempts + 1 < check.attempts:
                return self._go_on(turn, flow.read_again(progress, course), questionnaire=kept)
            failed = check.name
        if failed:
            after = flow.screen_out(progress)
            return self._go_on(turn, after, reason=failed, questionnaire=kept)
        if stage is Stage.QUESTIONS:
            return self._go_on(turn, flow.finish(progress), questionnaire=kept)
        return self._go_on(turn, flow.turn_page(progress, course), questionnaire=kept)

    def _checked(self, check, *arguments) -> dict[str, Any]:
        """Return what a check of answers returns; raise its errors as BadAction, translated."""
        try:
            return check(*arguments)
        except UnfitAnswer as error:
            raise BadAction(error.message(self.view.words)) from error
        except ValueError as error:
            raise BadAction(str(error)) from error

    def _missing(self, action: dict[str, Any]) -> str | None:
        """Return why a trial has no response ("picture" or "time"), or None if it has one."""
        reasons = ("picture", "time") if self.study.seconds_per_trial else ("picture",)
        return action.get("missing") if action.get("missing") in reasons else None

    def _answer(self, turn: Turn) -> dict[str, Any]:
        """Store the response to a trial and return the participant's new row."""
        row, at = turn.row, turn.at
        placed = at.placed[0]
        trial = self.study.by_id[placed["trial"]]
        task = all_tasks().get(trial.task)
        missing, answer, confidence, right = self._missing(turn.sent), None, None, None
        key = self.keys[trial.id]
        if not missing:
            checked = self._checked(check_values, self.study.fields(trial), trial, turn.values)
            confidence = checked.pop(CONFIDENCE.name, None)
            answer = task.answer(checked)
            right = task.score(key, answer) if key is not None else None
        suffix = f"@{at.progress.practice_attempts}" if at.practising else ""
        new = self.store.save_response(
            turn.connection,
            {
                "study": self.study.hash,
                "participant": row["participant"],
                "trial": trial.id + suffix,
                "source": row["source"],
                "task": trial.task,
                "condition": trial.condition,
                "role": trial.role,
                "position": at.position,
                "options": placed["options"],
                "answer": answer,
                "correct": right,
                "missing": missing,
                "confidence": None if confidence is None else float(confidence),
                "shown_at": row["shown_at"],
                "answered_at": self.store.clock(),
                "milliseconds": round(count(turn.sent, "milliseconds", DAY)),
                "pastes": round(count(turn.sent, "pastes", 1000)),
                "tab_leaves": round(count(turn.sent, "tab_leaves", 1000)),
            },
        )
        if not new:
            raise AssertionError(
                f"{row['participant']} answered {trial.id} twice at version {row['version']}"
            )
        if at.practising:
            feedback = {"trial": trial.id, "answer": answer, "right": right, "missing": missing}
            return self._go_on(turn, flow.practise(at.progress, right), feedback=feedback)
        passed = trial.role == "attention" and right is True
        after = flow.answer(at.progress, at.course)
        return self._go_on(turn, after, attention_right=row["attention_right"] + passed)

    def _page(
        self, row: dict[str, Any], identity: dict[str, Any], elapsed: float = 0
    ) -> dict[str, Any]:
        at = standing(self.study, self.keys, row)
        at = replace(at, identity=identity, elapsed=max(0.0, elapsed))
        token = tokens.sign(row["participant"], row["version"], self.secret)
        return {"version": row["version"], "token": token, **self.view.page(at)}

    def attentive(self, row: dict[str, Any]) -> bool:
        """Return whether the attention trials were passed by the rule of the frozen study."""
        rule = self.study.exclusion.attention_below
        shown = [p for p in row["plan"] or () if self.study.by_id[p["trial"]].role == "attention"]
        return rule is None or not shown or row["attention_right"] >= rule * len(shown)
