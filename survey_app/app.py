"""The participants' page: a Streamlit script that identifies the visitor and shows their page."""

import os
import time
from pathlib import Path
from string import Template

import streamlit as st
from sqlalchemy.exc import SQLAlchemyError

from survey_app import preview
from survey_app.first_page import WAITING
from survey_app.platforms import BadAddress
from survey_app.server import PREVIEW, service

ATTEMPTS = 8  # one second apart
_HERE = Path(__file__).parent / "component"
_SHELL = f"""<style>
#{WAITING} {{ display: none; }}
[data-testid="stHeader"], [data-testid="stToolbar"], [data-testid="stStatusWidget"],
[data-testid="stDecoration"], [data-testid="stConnectionStatus"],
[data-testid="stSkipToContent"] {{ display: none; }}
[data-testid="stMainBlockContainer"] {{ padding: 0 1rem; max-width: 80rem; }}
</style>"""


def _page(survey) -> dict:
    if PREVIEW in os.environ and "page" in st.query_params:
        return preview.page(survey, st.query_params["page"])
    try:
        visitor = survey.identify(st.query_params)
        return survey.view.preview() if visitor.preview else survey.welcome(visitor)
    except BadAddress as error:
        return survey.view.message(error.message(survey.view.words))


def _page_with_retries(survey) -> dict:
    """Return the visitor's page, or a message if the database stays unavailable for 8 attempts."""
    for _ in range(ATTEMPTS):
        try:
            return _page(survey)
        except SQLAlchemyError:
            time.sleep(1)
    words = survey.view.words
    return survey.view.message(
        words("The survey cannot be reached at the moment. Nothing is lost: please reload in a "
              "minute.")
    )  # fmt: skip


def main() -> None:
    survey = service()
    st.set_page_config(page_title=survey.study.title, page_icon="🔎", layout="centered")
    component = st.components.v2.component(
        "conceptevo_page",
        html=Template((_HERE / "page.html").read_text(encoding="utf-8")).substitute(
            language=survey.view.words.tag, direction=survey.view.words.direction
        ),
        css=(_HERE / "page.css").read_text(encoding="utf-8"),
        js=(_HERE / "page.js").read_text(encoding="utf-8"),
    )
    st.html(_SHELL)
    component(data={**_page_with_retries(survey), "words": survey.view.browser()}, key="page")


main()
