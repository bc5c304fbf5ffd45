"""The requests that a server answers: those that a survey needs of Streamlit, and no others.

Streamlit also accepts uploads from anybody and has routes for agents, static files and metrics of
its own, which a survey does not use.
"""

from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

_PAGE = frozenset({"/", "/favicon.png", "/_stcore/health", "/_stcore/host-config"})
SOCKET = "/_stcore/stream"
LARGEST_MESSAGE = 256 * 1024  # bytes per WebSocket message, which holds an address and few fields


@dataclass(frozen=True)
class AllowedRequests:
    """The paths that GET may request, given in full or by prefix, and those that take POST."""

    paths: frozenset[str]
    prefixes: tuple[str, ...]
    post_paths: frozenset[str] = frozenset()

    def allow(self, scope: Scope) -> bool:
        """Return whether a request may reach the application."""
        path = scope["path"]
        if scope["type"] == "websocket":
            return path == SOCKET and _comes_from_own_page(scope)
        if scope["method"] == "POST":
            return path in self.post_paths
        is_listed = path in self.paths or path.startswith(self.prefixes)
        return is_listed and scope["method"] in ("GET", "HEAD")


def _comes_from_own_page(scope: Scope) -> bool:
    """Return whether a WebSocket is not opened by a page of another host.

    Streamlit refuses those as well, but first asks a server elsewhere for this machine's address,
    for up to two seconds in which the worker answers nobody.
    """
    headers = {name: value.decode("latin-1") for name, value in scope.get("headers", ())}
    if b"origin" not in headers:
        return True
    try:
        host = urlsplit(f"//{headers.get(b'host', '')}").hostname
        return urlsplit(headers[b"origin"]).hostname == host
    except ValueError:
        return False


SURVEY = AllowedRequests(
    _PAGE | {"/healthz", "/metrics"},
    ("/static/", "/_stcore/bidi-components/", "/img/"),
    frozenset({"/act"}),
)
#: The dashboard also offers downloads and signs researchers in through an OpenID provider.
DASHBOARD = AllowedRequests(
    _PAGE | {"/auth/login", "/auth/logout", "/oauth2callback"},
    ("/static/", "/_stcore/bidi-components/", "/media/", "/component/"),
)


def restrict(app: ASGIApp, allowed: AllowedRequests) -> ASGIApp:
    """Wrap an application so that any other request gets 404 before its body is read."""

    async def restricted_app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or allowed.allow(scope):
            await app(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocketClose()(scope, receive, send)
        else:
            refusal = PlainTextResponse("not found\n", 404, {"connection": "close"})
            await refusal(scope, receive, send)

    return restricted_app
