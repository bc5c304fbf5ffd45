"""The ways out of a survey, as pages: finished, stopped, turned away; and back to the platform."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from survey_app.parts import code as shown_code
from survey_app.parts import go_on, heading, hidden, paragraph
from survey_app.platforms import prolific_return
from survey_app.standing import Standing
from tasks.language import N_, Words


@dataclass(frozen=True)
class Reason:
    """Why somebody may not begin, or not go on.

    Attributes:
        text: what they read.
        code: which of the codes of recruitment they take back.
    """

    text: str
    code: str = "screened_out"


#: By the reason that is stored.
REASONS = {
    "declined": Reason(N_("You chose not to take part. Nothing about you was stored."), "declined"),
    "full": Reason(
        N_(
            "The study is full at the moment. A place becomes free if somebody leaves; please "
            "try again later."
        ),
        "full",
    ),
    "paused": Reason(N_("The study is paused at the moment. Please try again later."), "full"),
    "early": Reason(N_("The study has not started yet. Please try again later."), "full"),
    "closed": Reason(N_("The study is closed. Thank you for your interest."), "full"),
    "earlier": Reason(
        N_("You have taken part in an earlier study of this kind, so you cannot take part.")
    ),
    "screen": Reason(N_("This study needs a larger screen. No answers were stored.")),
    "answers": Reason(
        N_(
            "According to your answers, you do not belong to the group of people "
            "for whom this study is meant."
        )
    ),
    "understanding": Reason(N_("Some answers about the instructions were not right.")),
    "colour": Reason(
        N_(
            "This study requires that you can tell all colours apart, on a screen that shows them "
            "well."
        )
    ),
    "practice": Reason(
        N_(
            "The practice trials show that our instructions were not clear enough, so the study "
            "ends here. This is not your fault. You are paid for your time as stated on the "
            "platform."
        )
    ),
}


def finished(at: Standing, debrief: str, words: Words) -> str:
    """All is answered: thanks, debrief, the way back. It waits for the reader."""
    return (
        f"{heading(words('Thank you'))}{paragraph(words('All your answers are stored.'))}"
        f"{debrief}{leave(at, words)}"
    )


def screened_out(at: Standing, words: Words) -> str:
    """Turned away, or stopped by the study."""
    other = Reason(N_("You cannot take part in this study."))
    text = words(REASONS.get(at.reason, other).text)
    title = words("Thank you for your interest")
    return f"{heading(title)}{paragraph(text)}{leave(at, words)}"


def withdrawn(at: Standing, words: Words) -> str:
    """Stopped by the person."""
    text = words("You have withdrawn. Your answers were deleted.")
    return f"{heading(words('Thank you'))}{paragraph(text)}{leave(at, words)}"


def expired(at: Standing, words: Words) -> str:
    """The place was given on."""
    text = words(
        "You were away for a long time, and your place was given to another person. The answers "
        "you gave until then are stored. If you think this is a mistake, or want them to be "
        "deleted, write to the researchers."
    )
    title = words("Your place has expired")
    return f"{heading(title)}{paragraph(text)}{leave(at, words)}"


def withdraw(words: Words) -> str:
    """At the foot of every page: stop here, after a second look."""
    text = words(
        "If you withdraw, your answers are deleted and you cannot take part again. If you only "
        "want to pause, close this page and continue later with the same link."
    )
    label = escape(words("Withdraw and delete my answers"))
    return (
        f'<footer><details class="withdraw"><summary>{escape(words("Withdraw"))}</summary>'
        f"<p>{escape(text)}</p><form>"
        f'<input type="submit" class="quiet" name="withdraw" value="{label}"></form>'
        "</details></footer>"
    )


def leave(at: Standing, words: Words) -> str:
    """How a participant gets back to the platform: by a link, a form, or a code to copy."""
    if not at.code and at.platform != "mturk":
        return ""
    shown = shown_code(words("Your completion code:"), at.code)
    if at.platform == "prolific":
        link = escape(prolific_return(at.code))
        text = words("Please return to the platform, so that it records that you have finished:")
        return (
            f'{shown}<p>{escape(text)}</p><p><a class="primary" href="{link}">'
            f"{escape(words('Return to Prolific'))}</a></p>"
        )
    if at.platform == "mturk" and at.identity:
        values = {"assignmentId": at.identity["assignmentId"], "code": at.code}
        address = escape(at.identity["turkSubmitTo"])
        return (
            f'<form method="post" data-native action="{address}">'
            f"{hidden(values)}{go_on(words('Submit to MTurk'))}</form>"
        )
    return shown
