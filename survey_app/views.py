"""Pages as HTML, drawn from what the flow says. Nothing here knows a task by name.

All text is escaped; only the researcher's Markdown becomes markup, and raw HTML in it does not.
"""

from __future__ import annotations

from html import escape
from typing import Any

from survey_app import endings, parts
from survey_app.flow import ENDS, Stage
from survey_app.parts import IMAGES, Keys
from survey_app.standing import Standing
from tasks.base import Field, Trial
from tasks.language import Words
from tasks.questionnaire import shown
from tasks.study import Study, TaskText


class View:
    """The pages of one study."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.words = Words(study.language)

    def page(self, at: Standing) -> dict[str, Any]:
        """A page: its HTML, and the pictures of the next trials to fetch beforehand."""
        body = getattr(self, f"_{at.stage.value}")(at)
        first = 0 if at.stage is Stage.INTRODUCTION else 1
        ahead = [name for placed in at.placed[first:] for name in self._images(placed["trial"])]
        html = self._around(body, self._progress(at))
        if at.stage is not Stage.CONSENT and at.stage not in ENDS:
            html += endings.withdraw(self.words)
        return {
            "stage": at.stage.value,
            "html": html,
            "preload": [f"{IMAGES}/{name}" for name in ahead],
        }

    def preview(self) -> dict[str, Any]:
        """What a platform's preview shows; nothing can be sent from it."""
        note = parts.paragraph(
            self.words("This is a preview. Accept the task to take part."), "note"
        )
        return self._still(self.words("Preview"), note + self._own("consent"))

    def message(self, text: str, **values: object) -> dict[str, Any]:
        """A page that only says something: a text of the catalogue, marked where it is written."""
        shown = parts.paragraph(self.words(text, **values))
        return self._still(self.words("We cannot start yet"), shown)

    def browser(self) -> dict[str, str]:
        """What the component says by itself, by the name it uses for it."""
        return {
            "loading": self.words("A picture is still loading …"),
            "missing": self.words(
                "A picture could not be loaded. Please check your internet connection."
            ),
            "again": self.words("Try again"),
            "skip": self.words("Go on without this picture"),
            "outdated": self.words("This page is out of date. Please reload it."),
            "storing": self.words("Your answer is not stored yet. Trying again …"),
            "left": self.words("Seconds left: {seconds}"),
            "close": self.words("Close"),
        }

    def _still(self, title: str, body: str) -> dict[str, Any]:
        html = self._around(parts.heading(title) + body)
        return {"version": -1, "token": "", "stage": "still", "html": html, "preload": []}

    def _around(self, body: str, progress: str = "") -> str:
        title = parts.paragraph(self.study.title, "study")
        return f'<header>{title}{progress}</header><div class="page">{body}</div>'

    def _own(self, name: str) -> str:
        """A text of the researcher's, with the pictures that it names."""
        text = parts.markdown(getattr(self.study, name), self.study.files.get(name))
        return f'<div class="prose">{text}</div>'

    def _images(self, trial: str) -> list[str]:
        shown = self.study.by_id[trial]
        panels = [image for panel in shown.panels for image in panel.images]
        return panels + [option.image for option in shown.options]

    def _progress(self, at: Standing) -> str:
        if at.stage not in (Stage.PRACTICE, Stage.FEEDBACK, Stage.TRIAL):
            return ""
        number = {"number": at.position + 1, "total": at.total}
        text = (
            self.words("Trial {number} of {total}", **number)
            if at.stage is Stage.TRIAL
            else self.words("Practice {number} of {total}", **number)
        )
        return (
            f'{parts.paragraph(text, "count")}<div class="bar" role="progressbar" '
            f'aria-label="{escape(self.words("Progress"))}" '
            f'aria-valuemin="0" aria-valuemax="{at.total}" aria-valuenow="{at.position}">'
            f'<span style="width:{100 * at.position / max(at.total, 1):.1f}%"></span></div>'
        )

    def _consent(self, at: Standing) -> str:
        agree = escape(self.words("I agree and want to take part"))
        decline = escape(self.words("I do not agree"))
        choice = (
            '<div class="actions"><button class="primary" name="consent" value="yes">'
            f'{agree}</button><button class="quiet" name="consent" value="no" '
            f"formnovalidate>{decline}</button></div>"
        )
        payment = parts.paragraph(self.study.payment.text, "note")
        return (
            f"{parts.heading(self.words('Taking part'))}{self._own('consent')}{payment}"
            f"<form data-device>{self._narrow()}{choice}</form>"
        )

    def _narrow(self) -> str:
        """What stands in place of "I agree" while the window is too narrow for the pictures."""
        if not self.study.min_width:
            return ""
        text = self.words(
            "The pictures of this study need a window that is at least {width} pixels wide. Please "
            "make the window wider, or open the same link on a larger screen.",
            width=self.study.min_width,
        )
        leave = escape(self.words("I have no larger screen"))
        return (
            f'<div class="note" data-narrow="{self.study.min_width}" hidden>'
            f'{parts.paragraph(text)}<button class="quiet" name="consent" value="screen" '
            f"formnovalidate>{leave}</button></div>"
        )

    def _before(self, at: Standing) -> str:
        text = self.words("Please answer these questions before we begin.")
        return self._questionnaire(at, self.words("A few first questions"), text)

    def _instructions(self, at: Standing) -> str:
        again = ""
        if at.quiz_attempts:
            again = parts.paragraph(
                self.words("Some answers were not right. Please read the instructions once more."),
                "note",
            )
        titles = "".join(f"<li>{escape(t.title)}</li>" for t in self.study.tasks)
        tasks = parts.paragraph(
            self.words("The study consists of these tasks. Each is explained before it begins:")
        )
        explained = self._explained() if self.study.asked("quiz") else f"<ol>{titles}</ol>"
        practice = (
            parts.paragraph(
                self.words(
                    "You begin with a few practice trials, in which you see whether your "
                    "answers are correct."
                )
            )
            if self.study.practice
            else ""
        )
        return (
            f"{parts.heading(self.words('What to do'))}{again}{self._own('instructions')}"
            f"<div class='prose'>{tasks}{explained}{practice}</div>"
            f"<form>{parts.go_on(self.words('Continue'))}</form>"
        )

    def _explained(self) -> str:
        return "".join(
            f"<section><h2>{escape(t.title)}</h2>{parts.markdown(t.instructions)}</section>"
            for t in self.study.tasks
        )

    def _quiz(self, at: Standing) -> str:
        text = self.words("These questions show whether the instructions are clear.")
        return self._questionnaire(at, self.words("Questions about the instructions"), text)

    def _introduction(self, at: Standing) -> str:
        task = self.study.task_texts[self.study.by_id[at.placed[0]["trial"]].task]
        number = {"number": at.part, "total": at.parts, "task": task.title}
        title = (
            self.words("Practice, part {number} of {total}: {task}", **number)
            if at.practising
            else self.words("Part {number} of {total}: {task}", **number)
        )
        note = ""
        if not at.practising and at.part > 1:
            note = self.words(
                "You can take a break here. The time does not count until you continue."
            )
        elif not at.practising and self.study.practice:
            note = self.words(
                "The practice is over. From now on, your answers count for the study."
            )
        shown = parts.paragraph(note, "note") if note else ""
        button = self.words("Start practice") if at.practising else self.words("Start")
        return (
            f"{parts.heading(title)}{shown}<div class='prose'>"
            f"{parts.markdown(task.instructions)}{self._limit()}</div>{self._example(task)}"
            f"<form>{parts.go_on(button)}</form>"
        )

    def _limit(self) -> str:
        seconds = self.study.seconds_per_trial
        if not seconds:
            return ""
        text = self.words(
            "You have {seconds} seconds for each trial; then the next one is shown.",
            seconds=f"{seconds:g}",
        )
        return parts.paragraph(text)

    def _example(self, task: TaskText) -> str:
        example = task.example
        if example is None:
            return ""
        panels = "".join(
            f"<figure><figcaption>{escape(p.heading or self._group(i))}</figcaption>"
            + "".join(parts.image(name, p.heading or self._group(i)) for name in p.images)
            + "</figure>"
            for i, p in enumerate(example.panels, 1)
        )
        options = "".join(
            f'<figure class="{"right" if o.id == example.right else ""}">'
            f"<figcaption>{i}</figcaption>{parts.image(o.image, self._group(i))}</figure>"
            for i, o in enumerate(example.options, 1)
        )
        rows = "".join(f'<div class="pictures">{row}</div>' for row in (panels, options) if row)
        return (
            f'<section class="example"><h2>{escape(self.words("Example"))}</h2>{rows}'
            f"{parts.paragraph(example.text)}</section>"
        )

    def _group(self, number: int) -> str:
        return self.words("Group {number}", number=number)

    def _practice(self, at: Standing) -> str:
        again = ""
        if at.attempt > 1 and at.position == 0:
            text = self.words("Some answers were not correct. Please practise once more.")
            again = parts.paragraph(text, "note")
        return again + self._trial(at)

    def _trial(self, at: Standing) -> str:
        placed = at.placed[0]
        trial = self.study.by_id[placed["trial"]]
        text = self.study.task_texts[trial.task]
        fields = self.study.fields(trial)
        keys = Keys()
        picks = "".join(self._pick(f, trial, placed["options"], keys) for f in fields
                        if f.kind == "pick")  # fmt: skip
        rest = "".join(
            parts.scale(f, keys) if f.kind == "scale" else parts.text_field(f)
            for f in fields
            if f.kind != "pick" and f.panel is None
        )
        timed, clock = "", ""
        if self.study.seconds_per_trial:
            left = max(0.0, self.study.seconds_per_trial - at.elapsed)
            timed = f' data-timed="{left:g}"'
            clock = '<p class="clock" role="timer"></p>'
        again = (
            f'<details class="again"><summary>{escape(self.words("Read the instructions again"))}'
            f"</summary>{parts.markdown(text.instructions)}</details>"
        )
        return (
            f'<h1 tabindex="-1" class="prompt">{parts.inline(text.prompt)}</h1>'
            f'<form{timed} class="trial">'
            f'<div class="look">{self._panels(trial, fields)}{picks}</div>'
            f'<div class="reply">{clock}{rest}{parts.go_on(self.words("Continue"))}{again}</div>'
            f"</form>"
        )

    def _panels(self, trial: Trial, fields: tuple[Field, ...]) -> str:
        if not trial.panels:
            return ""
        inside = {f.panel: f for f in fields if f.panel is not None}
        sections = []
        for i, panel in enumerate(trial.panels):
            name = panel.heading or self._group(i + 1)
            pictures = "".join(
                f'<div class="picture">'
                f"{parts.stimulus(image, self.words('Pictures of {name}', name=name))}"
                f"{parts.enlarge(self.words('Enlarge: {name}', name=name))}</div>"
                for image in panel.images
            )
            asked = parts.text_field(inside[i]) if i in inside else ""
            sections.append(
                f'<section class="panel"><h2>{escape(name)}</h2>{pictures}{asked}</section>'
            )
        return f'<div class="panels n{len(trial.panels)}">{"".join(sections)}</div>'

    def _pick(self, f: Field, trial: Trial, order: list[str], keys: Keys) -> str:
        images = {option.id: option.image for option in trial.options}
        cards = "".join(
            f'<div class="card"><label class="tile">{parts.radio(f.name, o, key)}'
            f"{parts.stimulus(images[o], self._group(number))}"
            f'<span class="key" aria-hidden="true">{number}</span></label>'
            f"{parts.enlarge(self.words('Enlarge: {name}', name=self._group(number)))}</div>"
            for number, (o, key) in enumerate(zip(order, keys.take(len(order)), strict=True), 1)
        )
        return (
            f'<fieldset class="tiles n{len(order)}">'
            f'<legend class="hidden">{escape(f.label)}</legend>{cards}</fieldset>'
        )

    def _feedback(self, at: Standing) -> str:
        assert at.feedback is not None, "feedback page without feedback"
        trial = self.study.by_id[at.feedback["trial"]]
        right, missing = at.feedback["right"], at.feedback.get("missing")
        title = {
            True: self.words("Correct"),
            False: self.words("Incorrect"),
            None: self.words("Thank you"),
        }[right]
        told = ""
        if at.key in at.placed[0]["options"]:
            told = self._compared(at, trial)
        elif right is None and not missing:
            text = self.words("There is no right or wrong here: tell us what you see.")
            told = parts.paragraph(text)
        if missing == "time":
            title = self.words("The time is over")
        mood = {True: "right", False: "other", None: "open"}[right]
        return (
            f'<div class="feedback {mood}">{parts.heading(title)}{told}</div>'
            f"<form>{parts.go_on(self.words('Continue'))}</form>"
        )

    def _compared(self, at: Standing, trial: Trial) -> str:
        """One's own choice, and beside it the right one where that is another."""
        assert at.feedback is not None, "feedback page without feedback"
        order = list(at.placed[0]["options"])
        images = {option.id: option.image for option in trial.options}
        chosen = at.feedback["answer"]
        rows = []
        if chosen in images:
            number = order.index(chosen) + 1
            rows.append(("own", chosen, self.words("Your choice: number {number}", number=number)))
        if chosen != at.key:
            number = order.index(at.key) + 1
            text = self.words("The answer: number {number}", number=number)
            rows.append(("answer", at.key, text))
        figures = "".join(
            f'<figure class="{kind}"><figcaption>{escape(text)}</figcaption>'
            f"{parts.image(images[option], text)}</figure>"
            for kind, option, text in rows
        )
        return f'<div class="pictures">{figures}</div>'

    def _questions(self, at: Standing) -> str:
        needed = any(q.required for q in self.study.asked("after"))
        text = "" if needed else self.words("All of them are optional.")
        return self._questionnaire(
            at, self.words("A few last questions"), text, self.words("Finish")
        )

    def _questionnaire(self, at: Standing, title: str, text: str, button: str = "") -> str:
        when = {Stage.BEFORE: "before", Stage.QUIZ: "quiz"}.get(at.stage, "after")
        page = [q for q in self.study.questions if q.when == when]
        names = {q.name for q in page}
        keys = Keys()
        asked = "".join(
            parts.question(q, keys, q.shown_if is not None and q.shown_if.question in names)
            for q in page
            if q.shown_if is None or q.shown_if.question in names or shown(q, at.answers)
        )
        intro = parts.paragraph(text) if text else ""
        return (
            f"{parts.heading(title)}{intro}"
            f"<form class='questions'>{asked}{parts.go_on(button or self.words('Continue'))}</form>"
        )

    def _finished(self, at: Standing) -> str:
        return endings.finished(at, self._own("debrief"), self.words)

    def _screened_out(self, at: Standing) -> str:
        return endings.screened_out(at, self.words)

    def _withdrawn(self, at: Standing) -> str:
        return endings.withdrawn(at, self.words)

    def _expired(self, at: Standing) -> str:
        return endings.expired(at, self.words)
