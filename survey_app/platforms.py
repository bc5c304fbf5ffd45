"""Identification of visitors by the address: from Prolific, MTurk (legacy) or an open link."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from survey_app.signed_links import BadAddress, read_link
from tasks.language import N_
from tasks.recruitment import PLATFORMS, Entry

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TURK = re.compile(r"https://((?:[a-z0-9-]+\.)*mturk\.com)(?:[/?#].*)?")
PREVIEW = "ASSIGNMENT_ID_NOT_AVAILABLE"
LINK_ID = 22  # characters of the id in an open link, which a signature follows
#: Platform -> regular expression of its ids of people.
FORMS = {
    "prolific": "[0-9a-f]{24}",
    "mturk": "[A-Z0-9]{6,30}",
    "open": f"[A-Za-z0-9_-]{{{LINK_ID}}}",
}


class Parameters(NamedTuple):
    """The names of a platform's parameters with the ids of person, study and session."""

    person: str
    study: str
    session: str


PARAMETERS = {
    "prolific": Parameters("PROLIFIC_PID", "STUDY_ID", "SESSION_ID"),
    "mturk": Parameters("workerId", "hitId", "assignmentId"),
}
LINK_OVER = N_("This link has expired. Please start again from the platform.")


@dataclass(frozen=True)
class Visitor:
    """A visitor, as identified by the address.

    Attributes:
        platform_id: the platform's id of the person. details: all parameters that it sent.
        preview: only a preview (MTurk). outdated: expired link; it admits only participants.
    """

    platform: str
    platform_id: str
    preview: bool = False
    outdated: bool = False
    details: dict[str, str] = field(default_factory=dict)


#: Admits visitors from every platform, for tests and tools.
EVERYWHERE = Entry(platforms=PLATFORMS)


#: The parameters of links -> the platform whose links have them. One of them is enough: without the
#: others, a link is not complete, which is no open link.
_IDENTIFYING = {
    "prolific_token": "prolific",
    **{name: platform for platform, names in PARAMETERS.items() for name in names},
    "p": "open",
}


def is_open_link(parameters: Mapping[str, str]) -> bool:
    """Return whether the address is the open link, without any id."""
    return not _IDENTIFYING.keys() & parameters.keys()


def identify(parameters: Mapping[str, str], secret: str, entry: Entry = EVERYWHERE) -> Visitor:
    """Identify a visitor by the address's parameters.

    Raises:
        BadAddress: a platform's parameter is missing, malformed, unsigned though signatures are
            required, or of another study; the id of an open link is not signed by this server; or
            the study does not recruit from this platform.
    """
    visitor = _parse_visitor(parameters, secret, entry)
    if visitor.platform not in entry.platforms:
        raise BadAddress(
            N_("This study cannot be opened by this link. Please start from where you found it.")
        )
    return visitor


def _parse_visitor(parameters: Mapping[str, str], secret: str, entry: Entry) -> Visitor:
    platform = next((_IDENTIFYING[name] for name in _IDENTIFYING if name in parameters), "open")
    if platform == "open":
        signed_id = _read_id(parameters, "p")
        if not hmac.compare_digest(signed_id, _sign_id(signed_id[:LINK_ID], secret)):
            raise BadAddress(_CUT_OFF)
        return Visitor("open", signed_id[:LINK_ID])
    if platform == "mturk" and parameters.get("assignmentId") == PREVIEW:
        return Visitor("mturk", "", preview=True)
    outdated = False
    if platform == "prolific" and entry.signed:
        parameters, outdated = read_link(parameters.get("prolific_token", ""), entry.audience)
    elif "prolific_token" in parameters and "PROLIFIC_PID" not in parameters:
        raise BadAddress(_SIGNED)
    details = {name: _read_id(parameters, name) for name in PARAMETERS[platform]}
    _check(platform, details, entry)
    if platform == "mturk":
        details["turkSubmitTo"] = _submission_url(parameters.get("turkSubmitTo", ""))
    person = details[PARAMETERS[platform].person]
    return Visitor(platform, person, outdated=outdated, details=details)


_CUT_OFF = N_("This link is not complete. Please open the link you were sent again.")
_SIGNED = N_(
    "This study does not accept Prolific's secured links. Please tell the researchers to use plain "
    "URL parameters."
)


def _check(platform: str, details: Mapping[str, str], entry: Entry) -> None:
    """Raise BadAddress if the person's id is malformed or the link belongs to another study."""
    names = PARAMETERS[platform]
    if not re.fullmatch(entry.ids or FORMS[platform], details[names.person]):
        raise _incomplete(names.person)
    if entry.studies and details[names.study] not in entry.studies:
        raise BadAddress(
            N_("This link belongs to another study. Please start again from the platform.")
        )


def is_admitted(
    platform: str, platform_id: str | None, details: Mapping[str, str], entry: Entry
) -> bool:
    """Return whether a stored participant's link is accepted, as far as the stored ids tell."""
    if platform not in entry.platforms:
        return False
    try:
        if platform in PARAMETERS and platform_id is not None:
            _check(platform, details, entry)
    except BadAddress:
        return False
    return True


def is_id(text: str, entry: Entry) -> bool:
    """Return whether a text has the form of the ids of people who are admitted."""
    forms = [entry.ids] if entry.ids else [FORMS[platform] for platform in entry.platforms]
    return any(re.fullmatch(form, text) for form in forms)


def make_open_link(secret: str) -> str:
    """Return a random id for an open link, signed so that nobody can invent ids."""
    return _sign_id(secrets.token_hex(LINK_ID // 2), secret)


def _sign_id(identifier: str, secret: str) -> str:
    text = b"link:" + identifier.encode()
    return identifier + hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()[:16]


def _read_id(parameters: Mapping[str, str], key: str) -> str:
    value = parameters.get(key, "")
    if not _ID.fullmatch(value):
        raise _incomplete(key)
    return value


def _incomplete(key: str) -> BadAddress:
    return BadAddress(
        N_(
            "The address is not complete ({key} is missing or malformed). "
            "Please start again from the platform."
        ),
        key=key,
    )


def _submission_url(address: str) -> str:
    """Return MTurk's address for submissions. Raises BadAddress unless it is https://…mturk.com."""
    if host := _TURK.fullmatch(address):
        return f"https://{host[1]}/mturk/externalSubmit"
    raise _incomplete("turkSubmitTo")


def pseudonym(visitor: Visitor, source: str, study: str, salt: str) -> str:
    """Return the participant's id, a salted hash that nobody can recompute without the salt."""
    text = "\x1f".join((study, source, visitor.platform, visitor.platform_id)).encode()
    return hmac.new(salt.encode(), text, hashlib.sha256).hexdigest()[:24]
