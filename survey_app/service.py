"""One study served: who arrives, which page they are on, what their actions do.

Every action carries a signed token of (participant, version). An action for an older version is a
repeat (double click, second tab, a retry whose acknowledgement was lost): it changes nothing and
gets the current page. So an action may be sent any number of times.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from survey_app import flow, tokens
from survey_app.flow import Progress, Stage
from survey_app.platforms import Arrival, arrival, new_link
from survey_app.store import Store, course_of, current_trials, plan_of, progress_of
from survey_app.views import Place, View
from tasks.base import CONFIDENCE, UnfitAnswer, all_tasks, check_values
from tasks.language import N_
from tasks.questionnaire import When, check_answers, count_right, screened
from tasks.responses import Source
from tasks.study import Study

#: Pages of questions, and which of the study's questions they ask.
ASKED: dict[Stage, When] = {
    Stage.BEFORE: "before",
    Stage.QUIZ: "quiz",
    Stage.QUESTIONS: "after",
}
BROWSERS = ("chrome", "firefox", "safari", "edge", "opera", "samsung", "other")
_DAY = 86_400_000  # longest credible time on a page, in milliseconds


class BadAction(ValueError):
    """The action does not fit the page; the text may be shown to the participant."""


class Service:
    """Store and study together, for one source of participants."""

    def __init__(
        self, store: Store, study: Study, keys: dict[str, Any], source: Source = "human"
    ) -> None:
        self.store, self.study, self.keys, self.source = store, study, keys, source
        self.salt, self.secret = store.register(study, source)
        self.view = View(study)

    def visitor(self, parameters: Mapping[str, str]) -> Arrival | None:
        """Who the address says is there; None for an open link without an id.

        Raises:
            BadAddress: see platforms.arrival.
        """
        return arrival(parameters, self.secret)

    def new_link(self) -> str:
        """An id for a visitor of the open link."""
        return new_link(self.secret)

    def arrive(self, visitor: Arrival) -> str:
        """The participant id of a visitor."""
        return self.store.arrive(self.study, visitor, self.source, self.salt)

    def page(self, participant: str) -> dict[str, Any]:
        """The page the participant is on, from the database alone."""
        with self.store.read() as connection:
            row = self.store.row(connection, self.study.hash, participant)
            identity = self.store.identity(connection, self.study.hash, participant)
        if row is None:
            raise tokens.BadToken("unknown participant")
        return self._page(row, identity)

    def act(self, token: object, action: object) -> tuple[dict[str, Any], bool]:
        """Do what a page's form sent; the next page, and whether anything was done.

        Raises:
            BadToken: the token is not ours. BadAction: the action does not fit the page.
        """
        participant, version = tokens.read(token, self.secret)
        if not isinstance(action, dict):
            raise BadAction("an action must be an object")
        with self.store.write() as connection:
            row = self.store.row(connection, self.study.hash, participant, lock=True)
            if row is None:
                raise tokens.BadToken("unknown participant")
            progress = progress_of(row)
            course = course_of(self.study, self.keys, row)
            stage = flow.stage(progress, course)
            done = version == row["version"] and stage not in flow.ENDS
            if done:
                row = self._do(connection, row, stage, progress, course, action)
            ends = flow.stage(progress_of(row), course_of(self.study, self.keys, row)) in flow.ENDS
            identity = self.store.identity(connection, self.study.hash, participant) if ends else {}
        return self._page(row, identity), done

    def _do(self, connection, row, stage: Stage, progress: Progress, course, action):
        """Carry out an action on the row it is meant for; the new row."""
        values = action.get("values", {})
        if not isinstance(values, dict):
            raise BadAction("values must be an object")

        def save(progress: Progress, **more):
            return self.store.save_progress(connection, self.study, row, progress, **more)

        if stage is Stage.CONSENT:
            return self._consent(connection, row, progress, action, values, save)
        if stage in (Stage.INSTRUCTIONS, Stage.INTRODUCTION):
            turn = flow.turn_page if stage is Stage.INSTRUCTIONS else flow.introduce
            seconds = _count(action, "milliseconds", _DAY) / 1000
            seconds += row["instruction_seconds"] or 0
            return save(turn(progress, course), instruction_seconds=seconds)
        if stage is Stage.FEEDBACK:
            return save(flow.acknowledge(progress, course))
        if stage in ASKED:
            return self._questions(connection, row, stage, progress, course, values, save)
        return self._answer(connection, row, stage, progress, course, action, values, save)

    def _consent(self, connection, row, progress, action, values, save):
        reasons = {"no": "declined", "screen": "screen"}
        if values.get("consent") in reasons:
            return save(flow.consent(progress, False), reason=reasons[values["consent"]])
        if values.get("consent") != "yes":
            raise BadAction("consent must be yes, no or screen")
        device = device_of(action.get("device"))
        if 0 < device.get("width", 0) < self.study.min_width:
            text = N_("The window is narrower than {width} pixels.")
            raise BadAction(self.view.words(text, width=self.study.min_width))
        place = self.store.take_place(connection, self.study, row)
        if place is None:
            return save(flow.consent(progress, False), reason="full")
        moment = self.store.clock()
        return save(
            flow.consent(progress, True),
            plan=plan_of(self.study, place),
            consented_at=moment,
            device=device,
        )

    def _questions(self, connection, row, stage, progress, course, values, save):
        """Store the answers of a page of questions; they may end the study, or lead back."""
        asked = self.study.asked(ASKED[stage])
        answers = self._fitting(check_answers, asked, values, row["questionnaire"])
        kept = row["questionnaire"] | answers
        failed = "answers" if screened(asked, answers) else ""
        for check in self.study.checks:
            if not any(q.check == check.name for q in asked):
                continue
            kept[f"{check.name}_right"] = right = count_right(asked, check.name, answers)
            if right >= check.needed or failed:
                continue
            if stage is Stage.QUIZ and progress.quiz_attempts + 1 < check.attempts:
                return save(flow.read_again(progress, course), questionnaire=kept)
            failed = check.name
        if failed:
            self.store.free_place(connection, self.study, row)
            return save(flow.screen_out(progress), reason=failed, questionnaire=kept)
        if stage is Stage.QUESTIONS:
            return save(flow.finish(progress), questionnaire=kept)
        return save(flow.turn_page(progress, course), questionnaire=kept)

    def _fitting(self, check, *given) -> dict[str, Any]:
        """What a check of answers returns; what does not fit is told in the study's language."""
        try:
            return check(*given)
        except UnfitAnswer as error:
            raise BadAction(error.message(self.view.words)) from error
        except ValueError as error:
            raise BadAction(str(error)) from error

    def _missing(self, action: dict[str, Any]) -> str | None:
        """Why a trial goes on without an answer, None where it has one."""
        reasons = ("picture", "time") if self.study.seconds_per_trial else ("picture",)
        return action.get("missing") if action.get("missing") in reasons else None

    def _answer(self, connection, row, stage, progress, course, action, values, save):
        placed = current_trials(self.study, row)
        position = progress.practice_done if stage is Stage.PRACTICE else progress.done
        trial = self.study.by_id[placed[position]["trial"]]
        task = all_tasks().get(trial.task)
        missing, answer, confidence, right = self._missing(action), None, None, None
        key = self.keys[trial.id]
        if not missing:
            checked = self._fitting(check_values, self.study.fields(trial), trial, values)
            confidence = checked.pop(CONFIDENCE.name, None)
            answer = task.answer(checked)
            right = task.score(key, answer) if key is not None else None
        suffix = f"@{progress.practice_attempts}" if stage is Stage.PRACTICE else ""
        new = self.store.save_response(
            connection,
            {
                "study": self.study.hash,
                "participant": row["participant"],
                "trial": trial.id + suffix,
                "source": row["source"],
                "task": trial.task,
                "condition": trial.condition,
                "role": trial.role,
                "position": position,
                "options": placed[position]["options"],
                "answer": answer,
                "correct": right,
                "missing": missing,
                "confidence": None if confidence is None else float(confidence),
                "shown_at": row["shown_at"],
                "answered_at": self.store.clock(),
                "milliseconds": round(_count(action, "milliseconds", _DAY)),
                "pastes": round(_count(action, "pastes", 1000)),
                "tab_leaves": round(_count(action, "tab_leaves", 1000)),
            },
        )
        if not new:
            raise AssertionError(
                f"{row['participant']} met {trial.id} twice at version {row['version']}"
            )
        if stage is Stage.PRACTICE:
            feedback = {"trial": trial.id, "answer": answer, "right": right, "missing": missing}
            return save(flow.practise(progress, right), feedback=feedback)
        passed = trial.role == "attention" and right is True
        return save(flow.answer(progress, course), attention_right=row["attention_right"] + passed)

    def _page(self, row: dict[str, Any], identity: dict[str, Any]) -> dict[str, Any]:
        course = course_of(self.study, self.keys, row)
        progress = progress_of(row)
        stage = flow.stage(progress, course)
        placed = current_trials(self.study, row)
        position = progress.practice_done if row["status"] == "practising" else progress.done
        if stage is Stage.FEEDBACK:
            position -= 1
        practising = row["status"] == "practising"
        begins = course.practice_begins if practising else course.begins
        place = Place(
            stage=stage,
            position=position,
            total=len(placed),
            placed=placed[position : position + 3],
            feedback=row.get("feedback"),
            key=self.keys.get(row["feedback"]["trial"]) if stage is Stage.FEEDBACK else None,
            attempt=progress.practice_attempts,
            reason=row.get("reason") or "",
            platform=row["platform"],
            identity=identity,
            attentive=stage is not Stage.FINISHED or self.attentive(row),
            practising=practising,
            part=sum(begin <= position for begin in begins),
            parts=len(begins),
            quiz_attempts=progress.quiz_attempts,
            answers=row["questionnaire"] or {},
        )
        token = tokens.sign(row["participant"], row["version"], self.secret)
        return {"version": row["version"], "token": token, **self.view.page(place)}

    def attentive(self, row: dict[str, Any]) -> bool:
        """Whether the attention trials were passed by the frozen rule."""
        rule = self.study.exclusion.attention_below
        shown = [p for p in row["plan"] or () if self.study.by_id[p["trial"]].role == "attention"]
        return rule is None or not shown or row["attention_right"] >= rule * len(shown)


def device_of(sent: object) -> dict[str, Any]:
    """What the browser says of its window and itself, within bounds; {} where it says nothing."""
    if not isinstance(sent, dict):
        return {}
    return {
        "width": round(_count(sent, "width", 100_000)),
        "height": round(_count(sent, "height", 100_000)),
        "pixel_ratio": round(float(_count(sent, "pixel_ratio", 100)), 3),
        "touch": sent.get("touch") is True,
        "browser": sent["browser"] if sent.get("browser") in BROWSERS else "other",
    }


def _count(action: dict[str, Any], name: str, most: float) -> float:
    """A count that the browser reports: a finite number from 0 to `most`, else 0 or `most`."""
    value = action.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return 0
    return min(max(value, 0), most)
