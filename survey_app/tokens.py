"""Signed tokens, which say who acts and on which version of the participant's state.

A visitor who has not consented yet is not stored. The token of the consent page holds all that is
known of the visitor.
"""

import hashlib
from dataclasses import astuple, dataclass

from itsdangerous import BadData, URLSafeSerializer

from survey_app.platforms import Visitor

LONGEST = 2000  # characters


class BadToken(ValueError):
    """The token was not issued by this server, or is malformed."""


@dataclass(frozen=True)
class Step:
    """The right to one action of one participant on one version of the participant's state.

    `shown`: when the page was first served. Versions come again if a backup is restored, or if a
    participant is deleted and begins anew, perhaps with other trials.
    """

    participant: str
    version: int
    shown: str


@dataclass(frozen=True)
class Invitation:
    """A consent page, identified by its nonce, and the visitor to whom it was shown."""

    visitor: Visitor
    nonce: str


def sign(step: Step, secret: str) -> str:
    """Return a token for one action of one participant."""
    return _signer(secret).dumps(["step", *astuple(step)])


def sign_invitation(visitor: Visitor, nonce: str, secret: str) -> str:
    """Return a token for the consent page of one visitor."""
    claims = [visitor.platform, visitor.platform_id, visitor.details]
    return _signer(secret).dumps(["invitation", *claims, nonce])


def read(token: object, secret: str) -> Step | Invitation:
    """Verify a token and return what it stands for.

    Raises:
        BadToken: the token is malformed, or not signed with this secret.
    """
    if not isinstance(token, str) or not token.isascii() or len(token) > LONGEST:
        raise BadToken("malformed token")
    try:
        content = _signer(secret).loads(token)
    except BadData as error:
        raise BadToken("the token's signature is wrong") from error
    match content:
        case ["step", participant, version, shown]:
            return Step(participant, version, shown)
        case ["invitation", platform, platform_id, details, nonce]:
            return Invitation(Visitor(platform, platform_id, details=details), nonce)
    raise BadToken("a token of another version; reload the page")


def _signer(secret: str) -> URLSafeSerializer:
    options = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
    return URLSafeSerializer(secret, salt="act", signer_kwargs=options)
