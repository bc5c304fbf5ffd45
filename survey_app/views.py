"""Pages as HTML (templates/), rendered from a participant's state, without code for single tasks.

All text is escaped, except that the researcher's Markdown becomes markup; raw HTML in it does not.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from survey_app.endings import REASONS
from survey_app.flow import ENDS, QUESTION_TIMES, Stage
from survey_app.participant_state import ParticipantState
from tasks.base import TEXT_LIMIT
from tasks.files import render_markdown
from tasks.language import Words
from tasks.questionnaire import is_shown
from tasks.study import Study

IMAGES = "img"  # relative to the page, so that any path prefix works
#: The templates of those stages whose template has another name than the stage.
TEMPLATES: Mapping[Stage, str] = {
    Stage.PRACTICE: "trial",
    **dict.fromkeys(QUESTION_TIMES, "questions"),
    **dict.fromkeys(ENDS, "end"),
}


class Keys:
    """Assigns the number keys of one page, each to one answer, which displays it."""

    def __init__(self) -> None:
        self._free = "1234567890"

    def assign(self, answers: Iterable) -> list[tuple[Any, str]]:
        """Return pairs (answer, key); all keys are "" if fewer keys are free than answers."""
        answers = list(answers)
        keys, remaining = self._free[: len(answers)], self._free[len(answers) :]
        if len(keys) < len(answers):
            return [(answer, "") for answer in answers]
        self._free = remaining
        return list(zip(answers, keys, strict=True))


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {
    "markdown": lambda text, files=None: render_markdown(text, IMAGES, files),
    "inline": partial(render_markdown, inline=True),
}
_TEMPLATES.globals |= {
    "images": IMAGES,
    "text_limit": TEXT_LIMIT,
    "question_times": QUESTION_TIMES,
    "ends": ENDS,
    "reasons": REASONS,
    "appears": is_shown,
}


class View:
    """The pages of one study, whose participants can pause for `lease_minutes`."""

    def __init__(self, study: Study, lease_minutes: float) -> None:
        self.study, self.lease_minutes = study, lease_minutes
        self.words = Words(study.language)

    def page(self, state: ParticipantState) -> dict[str, Any]:
        """Return a page: its stage, its HTML, and the pictures of the next trials to preload."""
        stage = state.stage
        first = 0 if stage is Stage.INTRODUCTION else 1
        ahead = [self.study.by_id[planned["trial"]] for planned in state.upcoming[first:]]
        return {
            "stage": stage.value,
            "html": self._render(TEMPLATES.get(stage, stage.value), stage, state=state),
            "preload": [f"{IMAGES}/{name}" for trial in ahead for name in trial.images],
        }

    def preview(self) -> dict[str, Any]:
        """Return the page that a platform's preview shows; nothing can be sent from it."""
        text = self.words("This is a preview. Accept the task to take part.")
        return self._message_page(title=self.words("Preview"), text=text, preview=True)

    def message(self, text: str) -> dict[str, Any]:
        """Return a page with a message only."""
        return self._message_page(title=self.words("We cannot start yet"), text=text, preview=False)

    def contents(self, pages: list[str]) -> dict[str, Any]:
        """Return a page that lists pages by name, for the researcher."""
        return self._message_page("contents", pages=pages)

    def browser(self) -> dict[str, str]:
        """Return the messages of the browser component (page.js) by their keys there."""
        return {
            "loading": self.words("A picture is still loading …"),
            "missing": self.words(
                "A picture could not be loaded. Please check your internet connection."
            ),
            "again": self.words("Try again"),
            "skip": self.words("Go on without this picture"),
            "outdated": self.words("This page is out of date. Please reload it."),
            "sending": self.words("Your answer is being stored …"),
            "storing": self.words("Your answer is not stored yet. Trying again …"),
            "left": self.words("Seconds left: {seconds}"),
            "close": self.words("Close"),
        }

    def _message_page(self, template: str = "still", **values: Any) -> dict[str, Any]:
        html = self._render(template, **values)
        return {"version": -1, "token": "", "stage": "still", "html": html, "preload": []}

    def _render(self, template: str, stage: str = "still", **values: Any) -> str:
        """Render a template within the frame of every page."""
        return _TEMPLATES.get_template("page.html").render(
            values,
            template=f"{template}.html",
            stage=stage,
            study=self.study,
            lease_minutes=self.lease_minutes,
            words=self.words,
            group=lambda number: self.words("Group {number}", number=number),
            keys=Keys(),
        )
