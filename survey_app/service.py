"""The service of one study: it admits visitors, returns their pages and carries out their actions.

Every action carries a signed token of (participant, version). An action for an older version is a
repeat (double click, second tab, or a retry after a lost acknowledgement): it changes nothing,
unless it withdraws, and is answered with the current page. An action can therefore be sent any
number of times.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, select

from survey_app import flow, tokens
from survey_app.browser_report import DAY, clip_number, read_device
from survey_app.endings import REASONS
from survey_app.flow import QUESTION_TIMES, Progress, Stage
from survey_app.participant_state import ParticipantState, derive_state
from survey_app.places import Places
from survey_app.platforms import LINK_OVER, BadAddress, Visitor, identify, pseudonym
from survey_app.schema import of_participant, participants, responses
from survey_app.store import Store, progress_of
from survey_app.views import View
from tasks.assignment import plan
from tasks.base import CONFIDENCE, InvalidAnswer, check_values
from tasks.kinds import all_tasks
from tasks.language import N_
from tasks.questionnaire import check_answers, count_right, is_screened_out
from tasks.recruitment import Recruitment
from tasks.responses import RESPONSES, Source, as_table, find_inattentive
from tasks.study import Study

#: What a step changes in a participant's row, besides the progress.
Columns = dict[str, Any]
#: The columns that hold what a participant answered or did, as they are after a withdrawal.
NO_ANSWERS: Columns = {
    "questionnaire": {}, "device": None, "attention_right": 0, "practice_right": 0,
    "instruction_seconds": None,
}  # fmt: skip
Step = tuple[Progress, Columns]


_AGREED_ELSEWHERE = N_(
    "You have agreed to take part in another window. If you do not want to, reload this page and "
    "choose “Withdraw” there."
)


class BadAction(ValueError):
    """The action does not fit the page; the text may be shown to the participant."""


def _next_step(row: dict[str, Any]) -> tokens.Step:
    """Return the step that the page which a participant sees can take."""
    return tokens.Step(row["participant"], row["version"], str(row["shown_at"]))


@dataclass(frozen=True)
class Turn:
    """One action on the page for which it is meant, within its transaction.

    Attributes:
        row: the participant's row, locked. state: what follows from it.
        message: all that the browser sent. values: the fields of the form.
    """

    connection: Connection
    row: dict[str, Any]
    state: ParticipantState
    message: dict[str, Any]

    @property
    def values(self) -> dict[str, Any]:
        return self.message.get("values", {})


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

    def identify(self, parameters: Mapping[str, str]) -> Visitor:
        return identify(parameters, self.secret, self.recruitment)

    def pseudonym(self, visitor: Visitor) -> str:
        return pseudonym(visitor, self.source, self.study.hash, self.salt)

    def welcome(self, visitor: Visitor) -> dict[str, Any]:
        """Return the page of a visitor; nothing is stored about one who has not consented.

        Raises:
            BadAddress: the signed link has expired, and the visitor has not consented.
        """
        participant = self.pseudonym(visitor)
        with self.store.read() as connection:
            has_begun = self.store.row(connection, self.study.hash, participant) is not None
            refusal = None if has_begun else self._refusal(connection, visitor)
        if has_begun:
            self.store.renew_session(self.study.hash, participant, visitor.details)
            return self.page(participant)
        if visitor.outdated:
            raise BadAddress(LINK_OVER)
        nonce = secrets.token_hex(16)
        if refusal is not None:
            with self.store.write() as connection:
                self.places.turn_away(connection, nonce, visitor.platform, refusal)
            return self._refusal_page(visitor, refusal)
        token = tokens.sign_invitation(visitor, nonce, self.secret)
        return {"version": 0, "token": token, **self.view.page(ParticipantState(Stage.CONSENT))}

    def _refusal(self, connection: Connection, visitor: Visitor) -> str | None:
        """Return why a new visitor may not begin now (a key of REASONS), or None."""
        state = self.places.state(connection)
        if state != "open":
            return state
        if self.places.opens(connection):
            return "early"
        earlier = self.places.is_blocked(connection, visitor.platform_id)
        return "earlier" if earlier else None

    def _refusal_page(self, visitor: Visitor, reason: str) -> dict[str, Any]:
        state = ParticipantState(
            Stage.SCREENED_OUT,
            reason=reason,
            platform=visitor.platform,
            identity=visitor.details,
            code=REASONS[reason].code_for(visitor.platform, self.recruitment.codes),
        )
        return {"version": 1, "token": "", **self.view.page(state)}

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

    def act(self, token: object, action: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        """Carry out an action; return the next page and whether anything was changed.

        Raises:
            BadToken: the token was not issued here. BadAction: the action does not fit the page.
        """
        token_claims = tokens.read(token, self.secret)
        values = action.get("values", {})
        if not isinstance(values, dict):
            raise BadAction("values must be an object")
        if isinstance(token_claims, tokens.Invitation):
            return self._consent(token_claims, values, action)
        with self.store.write() as connection:
            row = self.store.row(connection, self.study.hash, token_claims.participant, lock=True)
            if row is None:
                raise tokens.BadToken("unknown participant")
            state = derive_state(self.study, self.keys, row)
            # A withdrawal holds from any page, such as one in a tab that has been open for long.
            is_current = token_claims == _next_step(row) or "withdraw" in values
            done = is_current and state.stage not in flow.ENDS
            if done:
                progress, columns = self._carry_out(Turn(connection, row, state, action))
                row = self._save(connection, row, progress, columns)
            identity = self.store.identity(connection, self.study.hash, row["participant"])
        return self._page(row, identity), done

    def _consent(
        self, invitation: tokens.Invitation, values: dict[str, Any], action: dict[str, Any]
    ) -> tuple[dict[str, Any], bool]:
        """Admit a visitor who consents, if a place is free; otherwise count the refusal."""
        reasons = {"no": "declined", "screen": "screen", "yes": None}
        choice = str(values.get("consent"))
        if choice not in reasons:
            raise BadAction("consent must be yes, no or screen")
        own_refusal = reasons[choice]
        device = read_device(action.get("device"))
        if not own_refusal and 0 < device.get("width", 0) < self.study.min_width:
            text = N_("The window is narrower than {width} pixels.")
            raise BadAction(self.view.words(text, width=self.study.min_width))
        visitor, nonce = invitation.visitor, invitation.nonce
        key = {"study": self.study.hash, "participant": self.pseudonym(visitor)}
        with self.store.write() as connection:
            row = self.store.row(connection, **key, lock=True)
            refusal = None if row else own_refusal or self._refusal(connection, visitor)
            if refusal is None:
                # False also if another request of the same person was first.
                is_new = not row and self.store.admit(connection, key, visitor, self.source)
                row = row or self.store.row(connection, **key, lock=True)
                assert row is not None, "a participant vanished"
                if own_refusal and row["status"] in flow.UNFINISHED:
                    raise BadAction(self.view.words(_AGREED_ELSEWHERE))
                if not is_new:
                    return self._page(row, self.store.identity(connection, **key)), False
                place = self.places.take(connection, row["participant"])
                if place is not None:
                    self.places.uncount_turned_away(connection, nonce)
                    self.store.store_identity(connection, key, visitor)
                    start = {"consented_at": self.store.clock(), "device": device}
                    start["plan"] = plan(self.study, place)
                    row = self._save(connection, row, flow.consent(progress_of(row)), start)
                    return self._page(row, {}), True
                self.store.erase(connection, participants, **key)
                refusal = "full"
            done = self.places.turn_away(connection, nonce, visitor.platform, refusal)
        return self._refusal_page(visitor, refusal), done

    def _save(
        self, connection: Connection, row: dict[str, Any], progress: Progress, columns: Columns
    ) -> dict[str, Any]:
        """Store a step; at an end, with the completion code; at an early end, free the place."""
        codes, lease = self.recruitment.codes, self.recruitment.lease_minutes
        if progress.status in flow.EARLY_ENDS:
            self.places.free_place(connection, row["participant"])
            columns = columns | {"code": getattr(codes, progress.status)}
        elif progress.status == "finished":
            is_attentive = self._is_attentive(connection, row["participant"])
            columns = columns | {"code": codes.completed if is_attentive else codes.attention}
        return self.store.save_progress(connection, row, progress, lease, columns)

    def _carry_out(self, turn: Turn) -> Step:
        """Carry out an action; return the next state of progress and the columns that change.

        Responses are stored, or erased, here.
        """
        row, state = turn.row, turn.state
        progress, course, stage = state.progress, state.course, state.stage
        if "withdraw" in turn.values:
            self.store.erase(turn.connection, responses, row["study"], row["participant"])
            erasure: Columns = {"reason": "withdrew", **NO_ANSWERS}
            return flow.end(progress, "withdrawn"), erasure
        if stage in (Stage.INSTRUCTIONS, Stage.INTRODUCTION):
            step = flow.turn_page if stage is Stage.INSTRUCTIONS else flow.introduce
            seconds = clip_number(turn.message, "milliseconds", DAY) / 1000
            seconds += row["instruction_seconds"] or 0
            return step(progress, course), {"instruction_seconds": seconds}
        if stage is Stage.FEEDBACK:
            next_progress = flow.acknowledge(progress, course)
            failed = next_progress.status == "screened_out"
            return next_progress, {"reason": "practice"} if failed else {}
        if stage in QUESTION_TIMES:
            return self._check_questionnaire(turn)
        return self._store_answer(turn)

    def _check_questionnaire(self, turn: Turn) -> Step:
        """Check the answers to a page of questions, which may end participation or lead back."""
        progress, course, stage = turn.state.progress, turn.state.course, turn.state.stage
        questions = self.study.questions_at(QUESTION_TIMES[stage])
        answers = self._check(check_answers, questions, turn.values, turn.row["questionnaire"],
                              self.view.words.decimal_mark)  # fmt: skip
        columns = {"questionnaire": turn.row["questionnaire"] | answers}
        failed_check = "answers" if is_screened_out(questions, answers) else ""
        for check in self.study.checks:
            if not any(q.check == check.name for q in questions):
                continue
            correct = count_right(questions, check.name, answers)
            columns["questionnaire"][f"{check.name}_right"] = correct
            if correct >= check.needed or failed_check:
                continue
            if stage is Stage.QUIZ and progress.quiz_attempts + 1 < check.attempts:
                return flow.read_again(progress, course), columns
            failed_check = check.name
        if failed_check:
            return flow.end(progress, "screened_out"), columns | {"reason": failed_check}
        if stage is Stage.QUESTIONS:
            return flow.end(progress, "finished"), columns
        return flow.turn_page(progress, course), columns

    def _check(self, check, *arguments) -> dict[str, Any]:
        """Return what a check of answers returns; raise its errors as BadAction, translated."""
        try:
            return check(*arguments)
        except InvalidAnswer as error:
            raise BadAction(error.message(self.view.words)) from error
        except ValueError as error:
            raise BadAction(str(error)) from error

    def _store_answer(self, turn: Turn) -> Step:
        row, state = turn.row, turn.state
        planned = state.upcoming[0]
        trial = self.study.by_id[planned["trial"]]
        task = all_tasks().get(trial.task)
        reasons = ("picture", "time") if self.study.seconds_per_trial else ("picture",)
        missing = turn.message.get("missing")
        answer = confidence = correct = None
        key = self.keys[trial.id]
        if missing not in reasons:
            missing = None
            values = self._check(check_values, self.study.fields(trial), trial, turn.values)
            confidence = values.pop(CONFIDENCE.name, None)
            answer = task.answer(values)
            correct = task.score(key, answer) if key is not None else None
        suffix = f"@{state.progress.practice_attempts}" if state.practising else ""
        is_new = self.store.save_response(
            turn.connection,
            {
                "study": self.study.hash,
                "participant": row["participant"],
                "trial": trial.id + suffix,
                "source": row["source"],
                "task": trial.task,
                "condition": trial.condition,
                "role": trial.role,
                "position": state.position,
                "options": planned["options"],
                "answer": answer,
                "correct": correct,
                "missing": missing,
                "confidence": None if confidence is None else float(confidence),
                "shown_at": row["shown_at"],
                "answered_at": self.store.time_after(row),
                "milliseconds": round(clip_number(turn.message, "milliseconds", DAY)),
                "pastes": round(clip_number(turn.message, "pastes", 1000)),
                "tab_leaves": round(clip_number(turn.message, "tab_leaves", 1000)),
            },
        )
        if not is_new:
            raise AssertionError(
                f"{row['participant']} answered {trial.id} twice at version {row['version']}"
            )
        if state.practising:
            feedback = {"trial": trial.id, "answer": answer, "right": correct, "missing": missing}
            return flow.practise(state.progress, correct), {"feedback": feedback}
        passed = trial.role == "attention" and correct is True
        columns = {"attention_right": row["attention_right"] + passed}
        return flow.answer(state.progress, state.course), columns

    def _page(
        self, row: dict[str, Any], identity: dict[str, Any], elapsed: float = 0
    ) -> dict[str, Any]:
        state = derive_state(self.study, self.keys, row)
        state = replace(state, identity=identity, elapsed=max(0.0, elapsed))
        token = tokens.sign(_next_step(row), self.secret)
        return {"version": row["version"], "token": token, **self.view.page(state)}

    def _is_attentive(self, connection: Connection, participant: str) -> bool:
        """Return whether the attention trials were passed by the rule of the frozen study."""
        names = ("participant", "role", "correct", "missing")
        whose = of_participant(responses, self.study.hash, participant)
        answers = connection.execute(select(*(responses.c[name] for name in names)).where(whose))
        columns = [column for column in RESPONSES if column.name in names]
        table = as_table([dict(row) for row in answers.mappings()], columns)
        return not find_inattentive(table, self.study.exclusion.attention_below)
