"""The reasons why a person is turned away or stopped, and what the person reads."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.language import N_
from tasks.recruitment import Codes


@dataclass(frozen=True)
class Reason:
    """A reason why a person may not begin or continue.

    Attributes:
        text: what the person reads.
        code: which of the recruitment codes the person returns to the platform with.
        has_begun: whether it stops participants; otherwise it turns visitors away.
    """

    text: str
    code: str = "screened_out"
    has_begun: bool = False

    def code_for(self, platform: str, codes: Codes) -> str:
        """Return the completion code of a person; "" for a visitor of the open link, as there is
        no platform to which the visitor could return."""
        return getattr(codes, self.code) if platform != "open" or self.has_begun else ""


#: Reasons by the name that the database stores.
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
        ),
        has_begun=True,
    ),
    "understanding": Reason(
        N_("Some answers about the instructions were not right."), has_begun=True
    ),
    "colour": Reason(
        N_(
            "This study requires that you can tell all colours apart, on a screen that shows them "
            "well."
        ),
        has_begun=True,
    ),
    "practice": Reason(
        N_(
            "The practice trials show that our instructions were not clear enough, so the study "
            "ends here. This is not your fault."
        ),
        has_begun=True,
    ),
}
