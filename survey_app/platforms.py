"""Who arrives from where: Prolific, MTurk (legacy) and open links, read from the address."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from tasks.language import N_

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
PREVIEW = "ASSIGNMENT_ID_NOT_AVAILABLE"
PROLIFIC_RETURN = "https://app.prolific.com/submissions/complete?cc="


class BadAddress(ValueError):
    """The address lacks what its platform sends, or holds something else; told to the visitor.

    Args:
        text: of the catalogue. values: what stands in its braces.
    """

    def __init__(self, text: str, **values: str) -> None:
        super().__init__(text.format(**values))
        self.text, self.values = text, values


@dataclass(frozen=True)
class Arrival:
    """One visitor. `platform_id` is what identifies the person on the platform."""

    platform: str
    platform_id: str
    preview: bool = False
    details: dict[str, str] = field(default_factory=dict)


def arrival(parameters: Mapping[str, str], secret: str) -> Arrival | None:
    """Read an address's parameters; None for an open link that has no id yet.

    Raises:
        BadAddress: a platform's parameter is malformed, or an open link's id was not made here.
    """
    if "PROLIFIC_PID" in parameters:
        keys = ("PROLIFIC_PID", "STUDY_ID", "SESSION_ID")
        found = {key: _id(parameters, key) for key in keys if key in parameters}
        return Arrival("prolific", found["PROLIFIC_PID"], details=found)
    if "prolific_token" in parameters:  # signed ids alone: never take that for an open link
        raise BadAddress(
            N_(
                "This study does not take Prolific's secured links. Please tell the researcher to "
                "use plain URL parameters."
            )
        )
    if "assignmentId" in parameters:
        if parameters["assignmentId"] == PREVIEW:
            return Arrival("mturk", "", preview=True)
        found = {key: _id(parameters, key) for key in ("assignmentId", "hitId", "workerId")}
        found["turkSubmitTo"] = _turk(parameters.get("turkSubmitTo", ""))
        return Arrival("mturk", found["workerId"], details=found)
    if "p" not in parameters:
        return None
    link = _id(parameters, "p")
    if not hmac.compare_digest(link, _signed(link[:22], secret)):
        raise BadAddress(N_("This link is not complete. Please open the link you were sent again."))
    return Arrival("open", link[:22])


def new_link(secret: str) -> str:
    """A random id for an open link, signed, so that nobody makes up ids of their own."""
    return _signed(secrets.token_urlsafe(16)[:22], secret)


def _signed(identifier: str, secret: str) -> str:
    return identifier + _mac(identifier, secret)


def _mac(text: str, secret: str) -> str:
    return hmac.new(secret.encode(), b"link:" + text.encode(), hashlib.sha256).hexdigest()[:16]


def _id(parameters: Mapping[str, str], key: str) -> str:
    value = parameters.get(key, "")
    if not _ID.fullmatch(value):
        raise BadAddress(
            N_(
                "The address is not complete ({key} is missing or malformed). "
                "Please start again from the platform."
            ),
            key=key,
        )
    return value


def _turk(address: str) -> str:
    """MTurk's address to submit to; only Amazon's own hosts over https are allowed."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    if (
        parts.scheme == "https"
        and port is None
        and "@" not in parts.netloc
        and (host == "mturk.com" or host.endswith(".mturk.com"))
    ):
        return f"https://{host}/mturk/externalSubmit"
    raise BadAddress(
        N_(
            "The address is not complete ({key} is missing or malformed). "
            "Please start again from the platform."
        ),
        key="turkSubmitTo",
    )


def prolific_return(code: str) -> str:
    """Where Prolific's participants go when they are done."""
    return PROLIFIC_RETURN + quote(code, safe="")


def pseudonym(arrival: Arrival, source: str, study: str, salt: str) -> str:
    """The participant id: a salted hash; without the salt nobody can recompute it."""
    text = "\x1f".join((study, source, arrival.platform, arrival.platform_id)).encode()
    return hmac.new(salt.encode(), text, hashlib.sha256).hexdigest()[:24]
