"""Prolific's signed links, which carry a JSON Web Token in the address instead of plain ids.

Prolific signs with RS256 and publishes its keys; the claim `prolific` holds the parameters of the
study's address (docs.prolific.com, "Retrieve JSON Web Key Set").
"""

from __future__ import annotations

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
    """Return the URL of Prolific's API."""
    return os.environ.get(API, "https://api.prolific.com").rstrip("/")


_key_cache: dict[str, tuple[float, KeySet]] = {}


def _keys(refresh: bool = False) -> KeySet:
    address = api() + KEYS
    moment, keys = _key_cache.get(address, (0.0, KeySet([])))
    if refresh or not moment or time.monotonic() - moment > FRESH:
        reply = httpx.get(address, timeout=10)
        reply.raise_for_status()
        keys = KeySet.import_key_set(reply.json())
        _key_cache[address] = (time.monotonic(), keys)
    return keys


def _claims(token: str) -> dict[str, Any]:
    try:
        return jwt.decode(token, _keys(), algorithms=["RS256"]).claims
    except JoseError:  # it may be signed with a key that is newer than the kept ones
        return jwt.decode(token, _keys(refresh=True), algorithms=["RS256"]).claims


def read_link(token: str, audience: str) -> tuple[Mapping[str, str], bool]:
    """Return the parameters in a signed link, and whether it has expired.

    Raises:
        BadAddress: the token is missing, not signed by Prolific, or for another domain, or
            Prolific's keys cannot be fetched.
    """
    try:
        claims = _claims(token)
    except httpx.HTTPError as error:
        raise BadAddress(
            N_("Your link cannot be checked at the moment. Please reload this page in a minute.")
        ) from error
    except (JoseError, ValueError, TypeError) as error:
        raise BadAddress(_NOT_SIGNED) from error
    domains = claims.get("aud")
    values = claims.get("prolific")
    domains = set(map(str, domains if isinstance(domains, list) else [domains]))
    if not {audience, f"https://{audience}"} & domains or not isinstance(values, dict):
        raise BadAddress(_NOT_SIGNED)
    expiry = claims.get("exp")
    if isinstance(expiry, bool) or not isinstance(expiry, int | float):
        raise BadAddress(_NOT_SIGNED)
    parameters = {str(k): v for k, v in values.items() if isinstance(v, str)}
    return parameters, time.time() > expiry + SKEW


_NOT_SIGNED = N_("This link is not signed by Prolific. Please start again from Prolific.")
