"""Prolific's signed links, which carry a JSON Web Token in the address instead of plain ids.

Prolific signs with RS256 and publishes its keys; the claim `prolific` holds the parameters of the
study's address (docs.prolific.com, "Retrieve JSON Web Key Set").
"""

import os
import time
from collections.abc import Mapping
from typing import Any

import httpx
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from tasks.language import N_, Refusal

API = "CONCEPTEVO_PROLIFIC_API"  # variable with another address of Prolific's API, for tests
KEYS = "/.well-known/study/jwks.json"
FRESH = 24 * 3600  # seconds for which the keys are kept
SKEW = 60  # seconds by which two clocks may differ


class BadAddress(Refusal):
    """The address lacks a parameter of its platform, or a parameter is invalid."""


def api() -> str:
    return os.environ.get(API, "https://api.prolific.com").rstrip("/")


_key_cache: dict[str, tuple[float, KeySet]] = {}


def _keys(refresh: bool = False) -> KeySet:
    """Return Prolific's keys. Raises BadAddress if they cannot be fetched."""
    address = api() + KEYS
    moment, keys = _key_cache.get(address, (0.0, KeySet([])))
    if refresh or not moment or time.monotonic() - moment > FRESH:
        try:
            reply = httpx.get(address, timeout=10).raise_for_status().json()
            keys = KeySet.import_key_set(reply)
        # All but the first: the reply is no set of keys, such as that of a network's sign-in page.
        except (httpx.HTTPError, JoseError, LookupError, TypeError, ValueError) as error:
            raise BadAddress(_NOT_CHECKED) from error
        _key_cache[address] = (time.monotonic(), keys)
    return keys


def _claims(token: str) -> dict[str, Any]:
    """Return what a token says. Raises BadAddress unless Prolific has signed it."""
    for refresh in (False, True):  # it may be signed with a key that is newer than the kept ones
        keys = _keys(refresh)
        try:
            return jwt.decode(token, keys, algorithms=["RS256"]).claims
        # joserfc also raises a TypeError (header `crit` is no list) and a UnicodeEncodeError.
        except (JoseError, TypeError, UnicodeEncodeError) as error:
            reason = error
    raise BadAddress(_NOT_SIGNED) from reason


def read_link(token: str, audience: str) -> tuple[Mapping[str, str], bool]:
    """Return the parameters in a signed link, and whether it has expired.

    Raises:
        BadAddress: the token is missing, not signed by Prolific, or for another domain, or
            Prolific's keys cannot be fetched.
    """
    claims = _claims(token)
    parameters, expiry, domains = (claims.get(name) for name in ("prolific", "exp", "aud"))
    domains = domains if isinstance(domains, list) else [domains]
    is_for_this_survey = audience in domains or f"https://{audience}" in domains
    if not (
        is_for_this_survey and isinstance(parameters, dict) and isinstance(expiry, int | float)
    ):
        raise BadAddress(_NOT_SIGNED)
    texts = {name: value for name, value in parameters.items() if isinstance(value, str)}
    return texts, time.time() > expiry + SKEW


_NOT_CHECKED = N_("Your link cannot be checked at the moment. Please reload this page in a minute.")
_NOT_SIGNED = N_("This link is not signed by Prolific. Please start again from Prolific.")
