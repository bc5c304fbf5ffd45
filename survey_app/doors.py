"""Which of a server's doors are open: what a survey needs of Streamlit, and nothing else.

Streamlit takes uploads from anybody who speaks to it, and has routes for agents, static files and
figures of its own; a survey uses none of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

_PAGE = frozenset({"/", "/favicon.png", "/_stcore/health", "/_stcore/host-config"})
SOCKET = "/_stcore/stream"
LARGEST_MESSAGE = 256 * 1024  # bytes over the WebSocket: an address and a few fields


@dataclass(frozen=True)
class Doors:
    """What may be asked for: paths, paths that begin so, and paths to which something is sent."""

    paths: frozenset[str]
    prefixes: tuple[str, ...]
    sent_to: frozenset[str] = frozenset()

    def lets(self, scope: Scope) -> bool:
        """Whether a request may go on."""
        path = scope["path"]
        if scope["type"] == "websocket":
            return path == SOCKET
        if scope["method"] == "POST":
            return path in self.sent_to
        known = path in self.paths or path.startswith(self.prefixes)
        return known and scope["method"] in ("GET", "HEAD")


SURVEY = Doors(
    _PAGE | {"/healthz", "/metrics"},
    ("/static/", "/_stcore/bidi-components/", "/img/"),
    frozenset({"/act"}),
)
#: The researcher's page also offers downloads, and leads to the provider that signs people in.
DASHBOARD = Doors(
    _PAGE | {"/auth/login", "/auth/logout", "/oauth2callback"},
    ("/static/", "/_stcore/bidi-components/", "/media/", "/component/"),
)


def guarded(app: ASGIApp, doors: Doors) -> ASGIApp:
    """The application behind its doors: 404 for everything else, before any of it is read."""

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or doors.lets(scope):
            await app(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocketClose()(scope, receive, send)
        else:
            refusal = PlainTextResponse("not found\n", 404, {"connection": "close"})
            await refusal(scope, receive, send)

    return guard
