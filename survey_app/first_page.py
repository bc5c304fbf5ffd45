"""What a browser gets before anything of the survey runs: Streamlit's page with words of ours.

Without JavaScript, or where a network lets no WebSocket through, Streamlit shows grey bars for
ever. Here the page says what to do, in the study's language.
"""

from __future__ import annotations

import re
from html import escape

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tasks.language import Words

#: The element that says it; the survey's own page hides it as soon as it is there.
WAITING = "conceptevo-waiting"
SECONDS = 12  # until it is shown

_STYLE = f"""<style>
#{WAITING}, noscript p {{ position: fixed; inset: 0 0 auto; margin: 0; padding: 1.2rem 1.5rem;
  font: 17px/1.5 system-ui, sans-serif; color: #1b2733; background: #fff3d6; z-index: 9; }}
#{WAITING} {{ visibility: hidden; animation: told 0s {SECONDS}s forwards; }}
@keyframes told {{ to {{ visibility: visible; }} }}
</style>"""


def with_words(page: str, words: Words, title: str) -> str:
    """Streamlit's page, in the study's language, with its title and with what to do if it waits."""
    script = words("This survey needs JavaScript. Please switch it on, or use another browser.")
    socket = words(
        "The survey cannot be reached. Your network may block it. Please reload the page, or try "
        "another network or browser. The answers that you have sent are stored."
    )
    language = f'lang="{words.language}" dir="{words.direction}"'
    said = (
        f"{_STYLE}<noscript><p {language}>{escape(script)}</p></noscript>"
        f'<p id="{WAITING}" role="alert" {language}>{escape(socket)}</p>'
    )
    page = re.sub(r"<noscript>.*?</noscript>", "", page, flags=re.DOTALL)
    page = re.sub(r'<html lang="\w*"', f'<html lang="{words.language}"', page, count=1)
    page = re.sub(r"<title>.*?</title>", lambda _: f"<title>{escape(title)}</title>", page, count=1)
    return re.sub(r"(<body[^>]*>)", lambda body: body[1] + said, page, count=1)


class FirstPage:
    """ASGI middleware that puts the words into every HTML page that Streamlit sends."""

    def __init__(self, app: ASGIApp, words: Words, title: str) -> None:
        self.app, self.words, self.title = app, words, title

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET":
            await self.app(scope, receive, send)
            return
        headers = [h for h in scope["headers"] if h[0] not in _CONDITIONAL]
        plain = "." not in scope["path"].rpartition("/")[2]
        answer = _Answer(send, self)
        await self.app({**scope, "headers": headers} if plain else scope, receive, answer)


#: Of a request for a page: what would bring it compressed, or say that it has not changed.
_CONDITIONAL = {b"accept-encoding", b"if-none-match", b"if-modified-since"}


class _Answer:
    """One answer on its way: held back and changed where it is an HTML page."""

    def __init__(self, send: Send, page: FirstPage) -> None:
        self._send, self._page = send, page
        self._start: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kind = MutableHeaders(raw=message["headers"]).get("content-type", "")
            if kind.startswith("text/html"):
                self._start = message
                return
        if self._start is None:
            await self._send(message)
            return
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return
        text = with_words(self._body.decode("utf-8"), self._page.words, self._page.title)
        body = text.encode("utf-8")
        headers = MutableHeaders(raw=self._start["headers"])
        headers["content-length"] = str(len(body))
        del headers["etag"], headers["last-modified"]
        await self._send({**self._start, "headers": headers.raw})
        await self._send({"type": "http.response.body", "body": body})
