"""Signed tokens: who acts, and on which version of their state."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json


class BadToken(ValueError):
    """Not a token of ours."""


def sign(participant: str, version: int, secret: str) -> str:
    """A token for one action of one participant."""
    body = base64.urlsafe_b64encode(json.dumps([participant, version]).encode()).decode()
    return f"{body}.{_mac(body, secret)}"


def read(token: object, secret: str) -> tuple[str, int]:
    """Participant and version of a token.

    Raises:
        BadToken: malformed, or signed by someone else.
    """
    if not isinstance(token, str) or not token.isascii() or len(token) > 400:
        raise BadToken("malformed token")
    body, _, mac = token.partition(".")
    if not hmac.compare_digest(mac, _mac(body, secret)):
        raise BadToken("the token's signature does not fit")
    participant, version = json.loads(base64.urlsafe_b64decode(body))
    return participant, version


def _mac(body: str, secret: str) -> str:
    return hmac.new(secret.encode(), b"act:" + body.encode(), hashlib.sha256).hexdigest()
