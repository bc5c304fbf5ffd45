"""The researcher's password: only its hash is kept, in the environment."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from ipaddress import IPv4Address, ip_address, ip_network

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
        computed = hashlib.scrypt(password.encode(), salt=bytes.fromhex(salt), **_COST)
    except ValueError as error:
        raise ValueError(
            f"{VARIABLE} is not a hash; make one with `conceptevo survey-password`"
        ) from error
    return hmac.compare_digest(computed, expected)


class LockedOut(Exception):
    """This address guessed too often; `seconds` until its next guess is looked at."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"locked for {seconds:.0f} s")
        self.seconds = seconds


class Guard:
    """Locks an address out after wrong passwords, longer after each; logs every one of them.

    Whoever guesses locks out only their own address (an IPv6 address counts as its /64 network,
    which is what one person has). Many addresses that guess slow the sign-in down for all who are
    not signed in, up to SLOWEST seconds a try, and never shut it.
    """

    FREE, FIRST, LONGEST = 5, 60.0, 3600.0  # guesses of an address; seconds
    SLOWEST, WINDOW = 10.0, 3600.0  # seconds; guesses of so many seconds count together
    MOST = 10_000  # addresses remembered; the one that guessed longest ago is forgotten first

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: Network -> wrong passwords in a row, and when the next is looked at.
        self._known: dict[str, tuple[int, float]] = {}
        self._recent: deque[float] = deque(maxlen=1000)
        self._turn = threading.Lock()  # guesses sent at the same moment are counted one by one

    def judge(self, address: str, right: Callable[[], bool]) -> bool:
        """Whether the password that came from an address is right.

        Raises:
            LockedOut: the address guessed too often; nothing was looked at.
        """
        with self._turn:
            if wait := self.wait(address):
                raise LockedOut(wait)
            if right():
                self._known.pop(network_of(address), None)
                return True
            self._failed(address)
            return False

    def wait(self, address: str) -> float:
        """Seconds until the next guess from an address is looked at."""
        _, until = self._known.get(network_of(address), (0, 0.0))
        return max(0.0, until - self._clock())

    def pause(self) -> float:
        """Seconds that every try takes, by how many wrong ones came of late from anywhere."""
        while self._recent and self._recent[0] < self._clock() - self.WINDOW:
            self._recent.popleft()
        return min(self.SLOWEST, 0.1 * max(0, len(self._recent) - self.FREE))

    def _failed(self, address: str) -> None:
        self._recent.append(self._clock())
        network = network_of(address)
        wrong = self._known.pop(network, (0, 0.0))[0] + 1
        locked = 0.0
        if wrong >= self.FREE:
            locked = min(self.FIRST * 2.0 ** (wrong - self.FREE), self.LONGEST)
        self._known[network] = wrong, self._clock() + locked
        if len(self._known) > self.MOST:
            del self._known[next(iter(self._known))]
        logging.getLogger("conceptevo.dashboard").warning(
            "wrong password from %s, the %dth in a row; next try in %.0f s", address, wrong, locked
        )


def network_of(address: str) -> str:
    """An IPv4 address itself, the /64 network of an IPv6 one; any other text as it stands."""
    try:
        ip = ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, IPv4Address):
        return str(ip)
    mapped = ip.ipv4_mapped
    return str(mapped or ip_network((ip, 64), strict=False))


#: Of this process: a Streamlit script is run anew for every visitor, a module is not.
GUARD = Guard()
