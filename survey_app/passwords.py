"""The researcher's password: only its hash is kept, in the environment."""

from __future__ import annotations

import hashlib
import hmac
import secrets

VARIABLE = "CONCEPTEVO_DASHBOARD_PASSWORD"
#: Who may sign in by OIDC instead: e-mail addresses, separated by commas.
OIDC = "CONCEPTEVO_DASHBOARD_OIDC"
_COST = {"n": 2**14, "r": 8, "p": 1}


def hashed(password: str) -> str:
    """scrypt hash with its salt."""
    salt = secrets.token_bytes(16)
    return f"scrypt:{salt.hex()}:{hashlib.scrypt(password.encode(), salt=salt, **_COST).hex()}"


def fits(password: str, stored: str) -> bool:
    """Whether the password is the one hashed. Raises ValueError on a malformed hash."""
    try:
        kind, salt, digest = stored.split(":")
        expected = bytes.fromhex(digest)
        if kind != "scrypt":
            raise ValueError(kind)
        found = hashlib.scrypt(password.encode(), salt=bytes.fromhex(salt), **_COST)
    except ValueError as error:
        raise ValueError(
            f"{VARIABLE} is not a hash; make one with `conceptevo survey-password`"
        ) from error
    return hmac.compare_digest(found, expected)
