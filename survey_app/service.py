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
from tasks.base import CONFIDENCE, UnfitAnswer, all_tasks, check_values, clean_text
from tasks.responses import Source
from tasks.study import Study

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
            return self._consent(connection, row, progress, values, save)
        if stage is Stage.INSTRUCTIONS:
            seconds = _count(action, "milliseconds", _DAY) / 1000
            return save(flow.read_instructions(progress, course), instruction_seconds=seconds)
        if stage is Stage.FEEDBACK:
            return save(flow.acknowledge(progress, course))
        if stage is Stage.QUESTIONS:
            return save(flow.finish(progress), questionnaire=self._questionnaire(values))
        return self._answer(connection, row, stage, progress, course, action, values, save)

    def _consent(self, connection, row, progress, values, save):
        if values.get("consent") not in ("yes", "no"):
            raise BadAction("consent must be yes or no")
        if values["consent"] == "no":
            return save(flow.consent(progress, False), reason="declined")
        place = self.store.take_place(connection, self.study, row)
        if place is None:
            return save(flow.consent(progress, False), reason="full")
        moment = self.store.clock()
        return save(
            flow.consent(progress, True), plan=plan_of(self.study, place), consented_at=moment
        )

    def _questionnaire(self, values: dict[str, Any]) -> dict[str, str]:
        """Answers to the optional questions; empty ones are left out, unfit ones refused."""
        answers = {}
        for field in self.study.questions:
            value = values.get(field.name)
            if value in (None, ""):
                continue
            if field.kind == "text":
                answers[field.name] = clean_text(value)
            elif value in [choice for choice, _ in field.choices]:
                answers[field.name] = value
            else:
                raise BadAction(f"{field.name} must be one of the choices shown")
        return answers

    def _answer(self, connection, row, stage, progress, course, action, values, save):
        placed = current_trials(self.study, row)
        position = progress.practice_done if stage is Stage.PRACTICE else progress.done
        trial = self.study.by_id[placed[position]["trial"]]
        task = all_tasks().get(trial.task)
        try:
            checked = check_values(self.study.fields(trial), trial, values)
        except UnfitAnswer as error:
            raise BadAction(error.message(self.view.words)) from error
        except ValueError as error:
            raise BadAction(str(error)) from error
        confidence = checked.pop(CONFIDENCE.name, None)
        answer = task.answer(checked)
        key = self.keys[trial.id]
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
            feedback = {"trial": trial.id, "answer": answer, "right": right}
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
        )
        token = tokens.sign(row["participant"], row["version"], self.secret)
        return {"version": row["version"], "token": token, **self.view.page(place)}

    def attentive(self, row: dict[str, Any]) -> bool:
        """Whether the attention trials were passed by the frozen rule."""
        rule = self.study.exclusion.attention_below
        shown = [p for p in row["plan"] or () if self.study.by_id[p["trial"]].role == "attention"]
        return rule is None or not shown or row["attention_right"] >= rule * len(shown)


def _count(action: dict[str, Any], name: str, most: float) -> float:
    """A count that the browser reports: a finite number from 0 to `most`, else 0 or `most`."""
    value = action.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return 0
    return min(max(value, 0), most)
