"""Signed tokens: who acts, and on which version of their state.

A visitor who has not agreed yet is stored nowhere: what is known of them travels in the token of
their page of consent, and nowhere else.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from itsdangerous import BadData, URLSafeSerializer

from survey_app.platforms import Arrival

LONGEST = 2000  # characters


class BadToken(ValueError):
    """Not a token of ours."""


@dataclass(frozen=True)
class Step:
    """One action of one participant, on one version of their state."""

    participant: str
    version: int


@dataclass(frozen=True)
class Invitation:
    """A page of consent, by its nonce, and the visitor to whom it was shown."""

    arrival: Arrival
    nonce: str


def sign(participant: str, version: int, secret: str) -> str:
    """A token for one action of one participant."""
    return _signer(secret).dumps(["step", participant, version])


def invite(arrival: Arrival, nonce: str, secret: str) -> str:
    """A token for the page of consent of one visitor."""
    visitor = [arrival.platform, arrival.platform_id, arrival.details]
    return _signer(secret).dumps(["invitation", *visitor, nonce])


def read(token: object, secret: str) -> Step | Invitation:
    """What a token stands for.

    Raises:
        BadToken: malformed, or signed by someone else.
    """
    if not isinstance(token, str) or not token.isascii() or len(token) > LONGEST:
        raise BadToken("malformed token")
    try:
        content = _signer(secret).loads(token)
    except BadData as error:
        raise BadToken("the token's signature does not fit") from error
    match content:
        case ["step", participant, version]:
            return Step(participant, version)
        case ["invitation", platform, platform_id, details, nonce]:
            return Invitation(Arrival(platform, platform_id, details=details), nonce)
    raise BadToken("a token of another version; reload the page")


def _signer(secret: str) -> URLSafeSerializer:
    how = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
    return URLSafeSerializer(secret, salt="act", signer_kwargs=how)
