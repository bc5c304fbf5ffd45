"""The password of the dashboard. Only its hash is kept, in an environment variable."""

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
#: Variable with the e-mail addresses that may sign in by OIDC instead, separated by commas.
OIDC = "CONCEPTEVO_DASHBOARD_OIDC"
_COST = {"n": 2**14, "r": 8, "p": 1}


def hash_password(password: str) -> str:
    """Return the scrypt hash of a password, with its salt."""
    salt = secrets.token_bytes(16)
    return f"scrypt:{salt.hex()}:{hashlib.scrypt(password.encode(), salt=salt, **_COST).hex()}"


def is_password(password: str, password_hash: str) -> bool:
    """Return whether the password has this hash. Raises ValueError if the hash is malformed."""
    try:
        kind, salt, digest = password_hash.split(":")
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
    """Too many wrong passwords came from this address; it is locked out for `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"locked for {seconds:.0f} s")
        self.seconds = seconds


class Guard:
    """Locks out an address after wrong passwords, longer after each one, and logs all of them.

    Only the address that guesses is locked out (for IPv6, its /64 network, which usually belongs
    to one person). Guesses from many addresses slow down each attempt to sign in, by up to SLOWEST
    seconds, but never prevent it.
    """

    FREE, FIRST, LONGEST = 5, 60.0, 3600.0  # guesses until a lock; seconds of first, longest lock
    SLOWEST, WINDOW = 10.0, 3600.0  # seconds of delay; seconds for which a guess delays others
    MOST = 10_000  # addresses remembered; the one whose last guess is oldest is forgotten first

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: Network -> number of consecutive wrong passwords, and when its lock ends.
        self._failures: dict[str, tuple[int, float]] = {}
        self._guesses: deque[float] = deque(maxlen=1000)
        self._lock = threading.Lock()  # simultaneous guesses are counted one by one

    def admits(self, address: str, is_right: Callable[[], bool]) -> bool:
        """Return whether the password that came from an address is right.

        Raises:
            LockedOut: the address is locked out; the password was not checked.
        """
        with self._lock:
            if lock_seconds := self.lock_seconds(address):
                raise LockedOut(lock_seconds)
            if is_right():
                self._failures.pop(network_of(address), None)
                return True
            self._record_failure(address)
            return False

    def lock_seconds(self, address: str) -> float:
        """Return the seconds for which an address is still locked out."""
        _, lock_end = self._failures.get(network_of(address), (0, 0.0))
        return max(0.0, lock_end - self._clock())

    def delay(self) -> float:
        """Return the delay of every attempt in seconds, given recent guesses from all addresses."""
        while self._guesses and self._guesses[0] < self._clock() - self.WINDOW:
            self._guesses.popleft()
        return min(self.SLOWEST, 0.1 * max(0, len(self._guesses) - self.FREE))

    def _record_failure(self, address: str) -> None:
        self._guesses.append(self._clock())
        network = network_of(address)
        wrong = self._failures.pop(network, (0, 0.0))[0] + 1
        seconds = 0.0
        if wrong >= self.FREE:
            seconds = min(self.FIRST * 2.0 ** (wrong - self.FREE), self.LONGEST)
        self._failures[network] = wrong, self._clock() + seconds
        if len(self._failures) > self.MOST:
            del self._failures[next(iter(self._failures))]
        logging.getLogger("conceptevo.dashboard").warning(
            "wrong password from %s, the %dth in a row; next try in %.0f s", address, wrong, seconds
        )


def network_of(address: str) -> str:
    """Return an IPv4 address itself, the /64 network of an IPv6 one, and other text unchanged."""
    try:
        ip = ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, IPv4Address):
        return str(ip)
    ipv4 = ip.ipv4_mapped
    return str(ipv4 or ip_network((ip, 64), strict=False))


#: One per process: Streamlit runs a script again for every visitor, but imports a module once.
GUARD = Guard()
