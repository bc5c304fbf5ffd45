"""The researcher's password: only its hash is kept, in the environment."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Callable

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


class Guard:
    """Locks the sign-in after wrong passwords, longer after each; logs every one of them.

    All guesses count together: there is one password, and behind a proxy all come from one address.
    """

    FREE, FIRST, LONGEST = 5, 60.0, 3600.0  # guesses; seconds

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._wrong, self._until = clock, 0, 0.0

    def wait(self) -> float:
        """Seconds until the next guess is looked at."""
        return max(0.0, self._until - self._clock())

    def failed(self, address: str) -> None:
        """A wrong password came from an address."""
        self._wrong += 1
        if self._wrong >= self.FREE:
            pause = min(self.FIRST * 2.0 ** (self._wrong - self.FREE), self.LONGEST)
            self._until = self._clock() + pause
        logging.getLogger("conceptevo.dashboard").warning(
            "wrong password from %s, the %dth in a row; next try in %.0f s",
            address,
            self._wrong,
            self.wait(),
        )

    def succeeded(self) -> None:
        """The right password: the count begins anew."""
        self._wrong = 0


#: Of this process: a Streamlit script is run anew for every visitor, a module is not.
GUARD = Guard()
