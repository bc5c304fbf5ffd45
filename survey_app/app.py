"""The participants' page: Streamlit finds out who is there and hands over their page."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from survey_app.platforms import BadAddress
from survey_app.server import service

_HERE = Path(__file__).parent / "component"
_SHELL = """<style>
[data-testid="stHeader"], [data-testid="stToolbar"], [data-testid="stStatusWidget"],
[data-testid="stDecoration"], [data-testid="stConnectionStatus"] { display: none; }
[data-testid="stMainBlockContainer"] { padding: 0 1rem; max-width: 50rem; }
</style>"""


def _page(known) -> dict:
    """The visitor's page; an open link gets its id, which stays in the address."""
    try:
        visitor = known.visitor(st.query_params)
        if visitor is None:
            st.query_params["p"] = known.new_link()
            visitor = known.visitor(st.query_params)
    except BadAddress as error:
        return known.view.message(str(error))
    if visitor.preview:
        return known.view.preview()
    return known.page(known.arrive(visitor))


def main() -> None:
    known = service()
    st.set_page_config(page_title=known.study.title, page_icon="🔎", layout="centered")
    component = st.components.v2.component(
        "conceptevo_page",
        html=(_HERE / "page.html").read_text(encoding="utf-8"),
        css=(_HERE / "page.css").read_text(encoding="utf-8"),
        js=(_HERE / "page.js").read_text(encoding="utf-8"),
    )
    st.html(_SHELL)
    component(data=_page(known), key="page")


main()
