"""The reasons why a person is turned away or stopped, and what the person reads."""

from dataclasses import dataclass

from tasks.language import N_
from tasks.recruitment import Codes


@dataclass(frozen=True)
class Reason:
    """A reason why a person may not begin or continue.

    Attributes:
        text: what the person reads.
        code: which of the recruitment codes a visitor who is turned away returns to the platform
            with; "": it stops participants, who are screened out.
    """

    text: str
    code: str = ""

    def code_for(self, platform: str, codes: Codes) -> str:
        """Return the completion code; "" for a visitor of the open link, who has no platform to
        return to."""
        if not self.code:
            return codes.screened_out
        return "" if platform == "open" else getattr(codes, self.code)


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
        N_("You have taken part in an earlier study of this kind, so you cannot take part."),
        "screened_out",
    ),
    "screen": Reason(
        N_("This study needs a larger screen. No answers were stored."), "screened_out"
    ),
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
            "ends here. This is not your fault."
        )
    ),
}
