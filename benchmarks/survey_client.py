"""A simulated participant, who communicates with the survey as a browser does.

Streamlit's WebSocket sends the first page (also after a refresh). Every action is a POST request,
whose acknowledgement contains the next page. Pictures are fetched once and cached.
"""

import asyncio
import json
import random
import re
import time
from dataclasses import dataclass, field

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

RETRY = (0.3, 0.7, 1.5, 3.0, 5.0)
ENDS = ("finished", "screened_out", "expired", "still")
_IMAGE = re.compile(r'src="(img/[0-9a-f]+\.jpg)"')
_FIELD = re.compile(r'<input type="(radio|text)" name="(\w+)"(?: value="([^"]*)")?')


class Lost(ConnectionError):
    """The connection was lost."""


class Http:
    """One persistent HTTP/1.1 connection, kept minimal so that the client needs little time."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Return status and body. Raises Lost if the connection breaks."""
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection(self.host, self.port)
            reader, writer = self._streams
            head = f"{method} /{path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n"
            if body:
                head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            writer.write(head.encode() + b"\r\n" + body)
            await writer.drain()
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
            length = int(re.search(rb"content-length: (\d+)", answer.lower())[1])  # type: ignore[index]
            return int(answer.split(b" ", 2)[1]), await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            self.close()
            raise Lost(str(error)) from error

    def send_and_drop(self, path: str, body: bytes) -> None:
        """Send a request and close the connection without waiting for the response."""
        if self._streams is not None:
            head = (
                f"POST /{path} HTTP/1.1\r\nHost: {self.host}\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            self._streams[1].write(head.encode() + body)
        self.close()

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@dataclass
class Faults:
    """The shares of actions that are sent twice, preceded by a refresh, or cut off."""

    doubled: float = 0.0
    refreshed: float = 0.0
    dropped: float = 0.0


@dataclass
class Tally:
    """Times (in seconds) and counts of events of all participants together."""

    waits: list[float] = field(default_factory=list)  # click to next page, pictures included
    arrivals: list[float] = field(default_factory=list)  # address entered to first page
    # participant -> receipts of the acknowledged responses to trials, see Participant._act
    acknowledged: dict[str, list[int]] = field(default_factory=dict)
    ends: list[str] = field(default_factory=list)
    people: int = 0
    retries: int = 0
    refused: int = 0  # responses that the survey could not store
    doubled: int = 0
    refreshed: int = 0
    dropped: int = 0


class Participant:
    """One participant from arrival to the end, who responds at random."""

    def __init__(
        self,
        host: str,
        port: int,
        query: str,
        tally: Tally,
        faults: Faults,
        seed: int,
        known: dict[frozenset[str], str],
    ) -> None:
        self.http, self.address, self.query = Http(host, port), f"{host}:{port}", query
        self.tally, self.faults, self.random = tally, faults, random.Random(seed)
        self.known = known  # pictures of a practice trial -> its correct response
        self.images: set[str] = set()
        self.socket = None

    async def take_part(self, think: tuple[float, float], patience: float) -> None:
        """Walk through the study until its end or until `patience` seconds are over."""
        deadline = time.monotonic() + patience
        started = time.perf_counter()
        page = await self._open()
        self.tally.arrivals.append(time.perf_counter() - started)
        await self._pictures(page)
        while page["stage"] not in ENDS and time.monotonic() < deadline:
            await asyncio.sleep(self.random.uniform(*think))
            if self.random.random() < self.faults.refreshed:
                self.tally.refreshed += 1
                page = await self._open()
            clicked = time.perf_counter()
            new, receipt = await self._act(page)
            await self._pictures(new)
            self.tally.waits.append(time.perf_counter() - clicked)
            if page["stage"] == "trial" and new["version"] > page["version"]:
                self.tally.acknowledged.setdefault(self.query, []).append(receipt)
            page = new
        self.tally.ends.append(page["stage"] if page["stage"] in ENDS else "out of time")
        self.http.close()
        if self.socket is not None:
            await self.socket.close()

    async def _open(self) -> dict:
        """Return the page that a new browser tab receives; retry until it arrives."""
        for attempt in range(200):
            try:
                if self.socket is not None:
                    await self.socket.close()
                await self.http.request("GET", "?" + self.query)
                self.socket = await connect(
                    f"ws://{self.address}/_stcore/stream",
                    subprotocols=["streamlit"],  # type: ignore[list-item]
                    max_size=None,
                    compression=None,
                    ping_interval=None,
                    close_timeout=1,
                )
                message = BackMsg()
                message.rerun_script.query_string = self.query
                await self.socket.send(message.SerializeToString())
                return await asyncio.wait_for(self._first_page(), 20)
            except (Lost, OSError, WebSocketException, TimeoutError):
                self.tally.retries += 1
                await asyncio.sleep(RETRY[min(attempt, 4)])
        raise TimeoutError("the survey cannot be reached")

    async def _first_page(self) -> dict:
        assert self.socket is not None
        async for raw in self.socket:
            message = ForwardMsg()
            message.ParseFromString(raw)
            found = message.delta.new_element.bidi_component
            if found.json or found.mixed.json:
                return json.loads(found.json or found.mixed.json)
        raise Lost("closed before the page came")

    async def _act(self, page: dict) -> tuple[dict, int]:
        """Send an action until it is acknowledged; return the next page and a receipt.

        The receipt is a random number that is sent as the action's duration, and stored with it.
        """
        values = {} if page["stage"] == "consent" else self._values(page["html"])
        if page["stage"] == "consent":
            values = {"consent": "yes"}
        receipt = self.random.randrange(10**6)
        action = {"token": page["token"], "values": values, "milliseconds": receipt}
        body = json.dumps(action).encode()
        if self.random.random() < self.faults.dropped:
            self.tally.dropped += 1
            self.http.send_and_drop("act", body)
        if self.random.random() < self.faults.doubled:
            self.tally.doubled += 1
            other = Http(self.http.host, self.http.port)
            await asyncio.gather(other.request("POST", "act", body), return_exceptions=True)
            other.close()
        for attempt in range(200):
            try:
                status, answer = await self.http.request("POST", "act", body)
                if status == 200:
                    return json.loads(answer), receipt
                if status not in (502, 503):
                    raise RuntimeError(f"refused with {status}: {answer[:200]!r}")
                self.tally.refused += 1
            except Lost:
                pass
            self.tally.retries += 1
            await asyncio.sleep(RETRY[min(attempt, 4)])
        raise TimeoutError("an answer was never acknowledged")

    def _values(self, html: str) -> dict[str, str]:
        """Return a valid response to all fields of a page."""
        choices: dict[str, list[str]] = {}
        for kind, name, value in _FIELD.findall(html):
            choices.setdefault(name, []).append(value if kind == "radio" else "red wheel")
        values = {name: self.random.choice(found) for name, found in choices.items()}
        right = self.known.get(frozenset(_IMAGE.findall(html)))
        return values | ({"choice": right} if right else {})

    async def _pictures(self, page: dict) -> None:
        """Fetch this page's pictures, and in the background those of the next, as browsers do."""
        for name in _IMAGE.findall(page["html"]):
            await self._picture(name)
        self._ahead = asyncio.ensure_future(self._preload(page["preload"]))

    async def _preload(self, names: list[str]) -> None:
        own = Http(self.http.host, self.http.port)
        for name in names:
            if name not in self.images:
                try:
                    await own.request("GET", name)
                    self.images.add(name)
                except Lost:
                    break
        own.close()

    async def _picture(self, name: str) -> None:
        while name not in self.images:
            try:
                status, _ = await self.http.request("GET", name)
                if status != 200:
                    raise RuntimeError(f"{name}: {status}")
                self.images.add(name)
            except Lost:
                await asyncio.sleep(0.3)
