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
        note = "<p class='note'>This is a preview. Accept the task to take part.</p>"
        return self._still("Preview", note + markdown(self.study.consent))

    def message(self, text: str) -> dict[str, Any]:
        """A page that only says something."""
        return self._still("We cannot start yet", f"<p>{escape(text)}</p>")

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
        name = "Trial" if place.stage is Stage.TRIAL else "Practice"
        text = f"{name} {place.position + 1} of {place.total}"
        return (
            f'<p class="count">{text}</p><div class="bar" role="progressbar" aria-label="Progress" '
            f'aria-valuemin="0" aria-valuemax="{place.total}" aria-valuenow="{place.position}">'
            f'<span style="width:{100 * place.position / max(place.total, 1):.1f}%"></span></div>'
        )

    def _consent(self, place: Place) -> str:
        choice = (
            '<div class="actions"><button class="primary" name="consent" value="yes">'
            'I agree and want to take part</button><button class="quiet" name="consent" value="no" '
            "formnovalidate>I do not agree</button></div>"
        )
        payment = f'<p class="note">{escape(self.study.payment.text)}</p>'
        return (
            f"{_heading('Taking part')}<div class='prose'>{markdown(self.study.consent)}</div>"
            f"{payment}<form>{choice}</form>"
        )

    def _instructions(self, place: Place) -> str:
        tasks = "".join(
            f"<section><h2>{escape(t.title)}</h2>{markdown(t.instructions)}</section>"
            for t in self.study.tasks
        )
        return (
            f"{_heading('What to do')}<div class='prose'>{markdown(self.study.instructions)}{tasks}"
            f"<p>First come a few practice trials that tell you how you did.</p></div>"
            f"<form>{_go_on('Start practice')}</form>"
        )

    def _practice(self, place: Place) -> str:
        again = ""
        if place.attempt > 1 and place.position == 0:
            again = '<p class="note">Some answers did not fit yet. Let us practise once more.</p>'
        return again + self._trial(place)

    def _trial(self, place: Place) -> str:
        placed = place.placed[0]
        trial = self.study.by_id[placed["trial"]]
        text = self.study.task_texts[trial.task]
        fields = self.study.fields(trial)
        inside = {f.panel: f for f in fields if f.panel is not None}
        shown = "".join(
            f'<section class="panel"><h2>{escape(panel.heading)}</h2>'
            + "".join(_image(name, f"Pictures of {panel.heading}") for name in panel.images)
            + (_text(inside[i]) if i in inside else "")
            + "</section>"
            for i, panel in enumerate(trial.panels)
        )
        panels = f'<div class="panels n{len(trial.panels)}">{shown}</div>' if shown else ""
        asked = "".join(_field(f, trial, placed["options"]) for f in fields if f.panel is None)
        return (
            f'<h1 tabindex="-1" class="prompt">{inline(text.prompt)}</h1>'
            f"<form data-timed>{panels}{asked}{_go_on('Continue')}</form>"
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
            told = f"<p>The answer is number {number}:</p>{_image(image, f'Option {number}')}"
        title = {True: "That is right", False: "Not quite", None: "Thank you"}[right]
        mood = {True: "right", False: "other", None: "open"}[right]
        if right is None:
            told = "<p>There is no right or wrong here: tell us what you see.</p>"
        return (
            f'<div class="feedback {mood}">{_heading(title)}{told}</div>'
            f"<form>{_go_on('Continue')}</form>"
        )

    def _questions(self, place: Place) -> str:
        asked = "".join(
            _text(f) if f.kind == "text" else _scale(f, required=False)
            for f in self.study.questions
        )
        return (
            f"{_heading('A few last questions')}<p>All of them are optional.</p>"
            f"<form class='questions'>{asked}{_go_on('Finish')}</form>"
        )

    def _finished(self, place: Place) -> str:
        payment = self.study.payment
        code = payment.completed_code if place.attentive else payment.attention_code
        return (
            f"{_heading('Thank you')}<p>All your answers are stored.</p>"
            f"<div class='prose'>{markdown(self.study.debrief)}</div>{_leave(place, code)}"
        )

    def _screened_out(self, place: Place) -> str:
        text = (
            "All places of this study are taken at the moment."
            if place.reason == "full"
            else "You chose not to take part. No answers were stored."
        )
        leave = _leave(place, self.study.payment.screened_out_code)
        return f"{_heading('Thank you for your interest')}<p>{text}</p>{leave}"

    def _expired(self, place: Place) -> str:
        text = (
            "You were away for long, and your place was given to someone else. The answers you "
            "gave until then are stored. If you think this is a mistake, write to the researcher."
        )
        return f"{_heading('Your place has expired')}<p>{text}</p>"


def _heading(text: str) -> str:
    return f'<h1 tabindex="-1">{escape(text)}</h1>'


def _go_on(text: str) -> str:
    return (
        f'<div class="actions"><button class="primary" type="submit">{escape(text)}</button></div>'
    )


def _image(name: str, alt: str) -> str:
    return f'<img src="{IMAGES}/{escape(name)}" alt="{escape(alt)}" draggable="false">'


def _field(f: Field, trial: Trial, order: list[str]) -> str:
    if f.kind == "pick":
        return _pick(f, trial, order)
    return _scale(f) if f.kind == "scale" else _text(f)


def _pick(f: Field, trial: Trial, order: list[str]) -> str:
    images = {option.id: option.image for option in trial.options}
    tiles = "".join(
        f'<label class="tile">{_radio(f, o, " required")}{_image(images[o], f"Group {number}")}'
        f'<span class="key" aria-hidden="true">{number}</span></label>'
        for number, o in enumerate(order, 1)
    )
    return (
        f'<fieldset class="tiles n{len(order)}" data-keys><legend class="hidden">{escape(f.label)}'
        f"</legend>{tiles}</fieldset>"
    )


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


def _leave(place: Place, code: str) -> str:
    """How a participant gets back to the platform: redirect, form post, or a code to copy."""
    shown = f'<p>Your completion code: <code class="code">{escape(code)}</code></p>'
    if place.platform == "prolific":
        link = escape(prolific_return(code))
        return (
            f'{shown}<p><a class="primary" data-redirect href="{link}">Return to Prolific</a></p>'
        )
    if place.platform == "mturk" and place.identity:
        hidden = "".join(
            f'<input type="hidden" name="{name}" value="{escape(value)}">'
            for name, value in (("assignmentId", place.identity["assignmentId"]), ("code", code))
        )
        return (
            f'<form method="post" data-native action="{escape(place.identity["turkSubmitTo"])}">'
            f"{hidden}{_go_on('Submit to MTurk')}</form>"
        )
    return shown
