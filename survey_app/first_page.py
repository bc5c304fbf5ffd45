"""The first page that a browser loads: Streamlit's page with messages of the survey.

Without JavaScript, or if a network blocks WebSockets, Streamlit shows grey bars for ever. This page
then says what to do, in the study's language.
"""

import re
from html import escape
from pathlib import Path

from streamlit.file_util import get_static_dir

from tasks.language import Words

#: Id of the element with the message; the survey's own page hides it as soon as it has loaded.
WAITING = "conceptevo-waiting"
SECONDS = 12  # until the message is shown

#: Browsers that darken pages by themselves would show the pictures in other surroundings.
_STYLE = f"""<style>
:root, .stApp {{ color-scheme: only light !important; }}
#{WAITING}, noscript p {{ position: fixed; inset: 0 0 auto; margin: 0; padding: 1.2rem 1.5rem;
  font: 17px/1.5 system-ui, sans-serif; color: #1b2733; background: #fff3d6; z-index: 9; }}
#{WAITING} {{ visibility: hidden; animation: appear 0s {SECONDS}s forwards; }}
@keyframes appear {{ to {{ visibility: visible; }} }}
</style>"""

#: Streamlit would cover the page with a message of its own when its socket is cut; responses do not
#: use the socket.
_NO_DIALOGS = "<script>window.__streamlit = {HOST_CONFIG: {blockErrorDialogs: true}}</script>"


def first_page(words: Words, title: str) -> str:
    """Return Streamlit's page with the study's language and title and with both messages."""
    page = Path(get_static_dir(), "index.html").read_text(encoding="utf-8")
    scripts = words("This survey needs JavaScript. Please switch it on, or use another browser.")
    slow = words(
        "The survey has not loaded yet. If your connection is slow, please wait a minute. "
        "Otherwise, your network may block it: please reload the page, or try another network or "
        "browser. The answers that you have sent are stored."
    )
    attributes = f'lang="{words.tag}" dir="{words.direction}"'
    messages = (
        f"{_STYLE}{_NO_DIALOGS}<noscript><p {attributes}>{escape(scripts)}</p></noscript>"
        f'<p id="{WAITING}" role="alert" {attributes}>{escape(slow)}</p>'
    )
    page = re.sub(r"<noscript>.*?</noscript>", "", page, flags=re.DOTALL)
    page = re.sub(r'<html lang="\w*"', f'<html lang="{words.tag}"', page, count=1)
    page = re.sub(r"<title>.*?</title>", lambda _: f"<title>{escape(title)}</title>", page, count=1)
    return re.sub(r"(<body[^>]*>)", lambda body: body[1] + messages, page, count=1)
