"""Pages as HTML, drawn from what the flow says. Nothing here knows a task by name.

All text is escaped; only the researcher's Markdown becomes markup, and raw HTML in it does not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import Any

from markdown_it import MarkdownIt

from survey_app.flow import Stage
from survey_app.platforms import prolific_return
from tasks.base import Field, Trial
from tasks.language import Words
from tasks.study import Study

_MARKDOWN = MarkdownIt("commonmark", {"html": False})
IMAGES = "img"  # relative to the page, so that any path prefix works


def markdown(text: str) -> str:
    return _MARKDOWN.render(text)


def inline(text: str) -> str:
    return _MARKDOWN.renderInline(text)


@dataclass(frozen=True)
class Place:
    """Where a participant stands, as far as a page needs it."""

    stage: Stage
    position: int = 0
    total: int = 0
    placed: list[dict[str, Any]] = field(default_factory=list)
    feedback: dict[str, Any] | None = None
    key: Any = None
    attempt: int = 1
    reason: str = ""
    platform: str = "open"
    identity: dict[str, Any] = field(default_factory=dict)
    attentive: bool = True


class View:
    """The pages of one study."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.words = Words(study.language)

    def page(self, place: Place) -> dict[str, Any]:
        """A page: its HTML, and the pictures of the next trials to fetch beforehand."""
        body = getattr(self, f"_{place.stage.value}")(place)
        ahead = [name for placed in place.placed[1:] for name in self._images(placed["trial"])]
        html = self._around(body, self._progress(place))
        return {
            "stage": place.stage.value,
            "html": html,
            "preload": [f"{IMAGES}/{name}" for name in ahead],
        }

    def preview(self) -> dict[str, Any]:
        """What a platform's preview shows; nothing can be sent from it."""
        text = self.words("This is a preview. Accept the task to take part.")
        note = f"<p class='note'>{escape(text)}</p>"
        return self._still(self.words("Preview"), note + markdown(self.study.consent))

    def message(self, text: str, **values: object) -> dict[str, Any]:
        """A page that only says something: a text of the catalogue, marked where it is written."""
        return self._still(
            self.words("We cannot start yet"), f"<p>{escape(self.words(text, **values))}</p>"
        )

    def browser(self) -> dict[str, str]:
        """What the component says by itself, by the name it uses for it."""
        return {
            "loading": self.words("A picture is still loading …"),
            "outdated": self.words("This page is out of date. Please reload it."),
            "storing": self.words("Your answer is not stored yet. Trying again …"),
        }

    def _still(self, title: str, body: str) -> dict[str, Any]:
        html = self._around(_heading(title) + body)
        return {"version": -1, "token": "", "stage": "still", "html": html, "preload": []}

    def _around(self, body: str, progress: str = "") -> str:
        title = f'<p class="study">{escape(self.study.title)}</p>'
        return f'<header>{title}{progress}</header><div class="page">{body}</div>'

    def _images(self, trial: str) -> list[str]:
        shown = self.study.by_id[trial]
        panels = [image for panel in shown.panels for image in panel.images]
        return panels + [option.image for option in shown.options]

    def _progress(self, place: Place) -> str:
        if place.stage not in (Stage.PRACTICE, Stage.FEEDBACK, Stage.TRIAL):
            return ""
        number = {"number": place.position + 1, "total": place.total}
        text = (
            self.words("Trial {number} of {total}", **number)
            if place.stage is Stage.TRIAL
            else self.words("Practice {number} of {total}", **number)
        )
        return (
            f'<p class="count">{escape(text)}</p><div class="bar" role="progressbar" '
            f'aria-label="{escape(self.words("Progress"))}" '
            f'aria-valuemin="0" aria-valuemax="{place.total}" aria-valuenow="{place.position}">'
            f'<span style="width:{100 * place.position / max(place.total, 1):.1f}%"></span></div>'
        )

    def _consent(self, place: Place) -> str:
        agree = escape(self.words("I agree and want to take part"))
        decline = escape(self.words("I do not agree"))
        choice = (
            '<div class="actions"><button class="primary" name="consent" value="yes">'
            f'{agree}</button><button class="quiet" name="consent" value="no" '
            f"formnovalidate>{decline}</button></div>"
        )
        payment = f'<p class="note">{escape(self.study.payment.text)}</p>'
        return (
            f"{_heading(self.words('Taking part'))}"
            f"<div class='prose'>{markdown(self.study.consent)}</div>"
            f"{payment}<form>{choice}</form>"
        )

    def _instructions(self, place: Place) -> str:
        tasks = "".join(
            f"<section><h2>{escape(t.title)}</h2>{markdown(t.instructions)}</section>"
            for t in self.study.tasks
        )
        practice = escape(self.words("First come a few practice trials that tell you how you did."))
        return (
            f"{_heading(self.words('What to do'))}<div class='prose'>"
            f"{markdown(self.study.instructions)}{tasks}<p>{practice}</p></div>"
            f"<form>{_go_on(self.words('Start practice'))}</form>"
        )

    def _practice(self, place: Place) -> str:
        again = ""
        if place.attempt > 1 and place.position == 0:
            text = self.words("Some answers did not fit yet. Let us practise once more.")
            again = f'<p class="note">{escape(text)}</p>'
        return again + self._trial(place)

    def _trial(self, place: Place) -> str:
        placed = place.placed[0]
        trial = self.study.by_id[placed["trial"]]
        text = self.study.task_texts[trial.task]
        fields = self.study.fields(trial)
        inside = {f.panel: f for f in fields if f.panel is not None}
        headings = [
            panel.heading or self.words("Group {number}", number=i)
            for i, panel in enumerate(trial.panels, 1)
        ]
        shown = "".join(
            f'<section class="panel"><h2>{escape(headings[i])}</h2>'
            + "".join(
                _image(name, self.words("Pictures of {name}", name=headings[i]))
                for name in panel.images
            )
            + (_text(inside[i]) if i in inside else "")
            + "</section>"
            for i, panel in enumerate(trial.panels)
        )
        panels = f'<div class="panels n{len(trial.panels)}">{shown}</div>' if shown else ""
        asked = "".join(self._field(f, trial, placed["options"]) for f in fields if f.panel is None)
        return (
            f'<h1 tabindex="-1" class="prompt">{inline(text.prompt)}</h1>'
            f"<form data-timed>{panels}{asked}{_go_on(self.words('Continue'))}</form>"
        )

    def _feedback(self, place: Place) -> str:
        assert place.feedback is not None, "feedback page without feedback"
        trial = self.study.by_id[place.feedback["trial"]]
        right = place.feedback["right"]
        shown = list(place.placed[0]["options"])
        told = ""
        if place.key in shown:
            image = next(o.image for o in trial.options if o.id == place.key)
            number = shown.index(place.key) + 1
            text = self.words("The answer is number {number}:", number=number)
            alternative = self.words("Group {number}", number=number)
            told = f"<p>{escape(text)}</p>{_image(image, alternative)}"
        title = {
            True: self.words("That is right"),
            False: self.words("Not quite"),
            None: self.words("Thank you"),
        }[right]
        mood = {True: "right", False: "other", None: "open"}[right]
        if right is None:
            text = self.words("There is no right or wrong here: tell us what you see.")
            told = f"<p>{escape(text)}</p>"
        return (
            f'<div class="feedback {mood}">{_heading(title)}{told}</div>'
            f"<form>{_go_on(self.words('Continue'))}</form>"
        )

    def _questions(self, place: Place) -> str:
        asked = "".join(
            _text(f) if f.kind == "text" else _scale(f, required=False)
            for f in self.study.questions
        )
        return (
            f"{_heading(self.words('A few last questions'))}"
            f"<p>{escape(self.words('All of them are optional.'))}</p>"
            f"<form class='questions'>{asked}{_go_on(self.words('Finish'))}</form>"
        )

    def _finished(self, place: Place) -> str:
        payment = self.study.payment
        code = payment.completed_code if place.attentive else payment.attention_code
        return (
            f"{_heading(self.words('Thank you'))}"
            f"<p>{escape(self.words('All your answers are stored.'))}</p>"
            f"<div class='prose'>{markdown(self.study.debrief)}</div>{self._leave(place, code)}"
        )

    def _screened_out(self, place: Place) -> str:
        text = (
            self.words("All places of this study are taken at the moment.")
            if place.reason == "full"
            else self.words("You chose not to take part. No answers were stored.")
        )
        leave = self._leave(place, self.study.payment.screened_out_code)
        title = self.words("Thank you for your interest")
        return f"{_heading(title)}<p>{escape(text)}</p>{leave}"

    def _expired(self, place: Place) -> str:
        text = self.words(
            "You were away for long, and your place was given to someone else. The answers you "
            "gave until then are stored. If you think this is a mistake, write to the researcher."
        )
        return f"{_heading(self.words('Your place has expired'))}<p>{escape(text)}</p>"

    def _field(self, f: Field, trial: Trial, order: list[str]) -> str:
        if f.kind == "pick":
            return self._pick(f, trial, order)
        return _scale(f) if f.kind == "scale" else _text(f)

    def _pick(self, f: Field, trial: Trial, order: list[str]) -> str:
        images = {option.id: option.image for option in trial.options}
        tiles = "".join(
            f'<label class="tile">{_radio(f, o, " required")}'
            f"{_image(images[o], self.words('Group {number}', number=number))}"
            f'<span class="key" aria-hidden="true">{number}</span></label>'
            for number, o in enumerate(order, 1)
        )
        return (
            f'<fieldset class="tiles n{len(order)}" data-keys>'
            f'<legend class="hidden">{escape(f.label)}</legend>{tiles}</fieldset>'
        )

    def _leave(self, place: Place, code: str) -> str:
        """How a participant gets back to the platform: redirect, form post, or a code to copy."""
        label = escape(self.words("Your completion code:"))
        shown = f'<p>{label} <code class="code">{escape(code)}</code></p>'
        if place.platform == "prolific":
            link = escape(prolific_return(code))
            return (
                f'{shown}<p><a class="primary" data-redirect href="{link}">'
                f"{escape(self.words('Return to Prolific'))}</a></p>"
            )
        if place.platform == "mturk" and place.identity:
            hidden = "".join(
                f'<input type="hidden" name="{name}" value="{escape(value)}">'
                for name, value in (
                    ("assignmentId", place.identity["assignmentId"]),
                    ("code", code),
                )
            )
            address = escape(place.identity["turkSubmitTo"])
            return (
                f'<form method="post" data-native action="{address}">'
                f"{hidden}{_go_on(self.words('Submit to MTurk'))}</form>"
            )
        return shown


def _heading(text: str) -> str:
    return f'<h1 tabindex="-1">{escape(text)}</h1>'


def _go_on(text: str) -> str:
    return (
        f'<div class="actions"><button class="primary" type="submit">{escape(text)}</button></div>'
    )


def _image(name: str, alt: str) -> str:
    return f'<img src="{IMAGES}/{escape(name)}" alt="{escape(alt)}" draggable="false">'


def _radio(f: Field, value: str, need: str) -> str:
    return f'<input type="radio" name="{escape(f.name)}" value="{escape(value)}"{need}>'


def _scale(f: Field, required: bool = True) -> str:
    need = " required" if required else ""
    choices = "".join(
        f'<label class="choice">{_radio(f, value, need)}<span>{escape(label)}</span></label>'
        for value, label in f.choices
    )
    return (
        f'<fieldset class="scale" data-keys><legend>{escape(f.label)}</legend>'
        f'<div class="row">{choices}</div></fieldset>'
    )


def _text(f: Field) -> str:
    name = escape(f.name)
    none = (
        f'<label class="none"><input type="checkbox" data-none="{name}">'
        f"<span>{escape(f.none_label)}</span></label>"
        if f.none_label
        else ""
    )
    need = " required" if f.none_label else ""
    return (
        f'<div class="text"><label><span>{escape(f.label)}</span><input type="text" name="{name}" '
        f'maxlength="120" autocomplete="off"{need}></label>{none}</div>'
    )
