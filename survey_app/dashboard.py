"""The researcher's dashboard, a Streamlit script on a server apart from the participants'."""

import os
import time
from functools import partial
from html import escape
from math import ceil
from typing import cast

import streamlit as st

from survey_app.export import as_csv, sources, submissions, tables
from survey_app.figures import (
    people_flow,
    per_condition,
    per_form,
    per_trial,
    rates,
    written_answers,
)
from survey_app.passwords import GUARD, OIDC, VARIABLE, LockedOut, is_password
from survey_app.places import Places
from survey_app.server import open_survey
from tasks.responses import Source, find_inattentive, score_lapses


def _sign_in() -> bool:
    """Return whether the visitor has signed in, by OIDC if configured, else by password."""
    if os.environ.get(OIDC):
        if not st.user.is_logged_in:
            st.title("Researcher's page")
            st.button("Sign in", on_click=st.login)
            return False
        addresses = [address.strip() for address in os.environ[OIDC].split(",")]
        # Anybody can enter an address at the provider; only a verified one identifies a person.
        if st.user.get("email") not in addresses or st.user.get("email_verified") is not True:
            st.error("This account may not see the study.")
            st.button("Sign out", on_click=st.logout)
            return False
        return True
    if st.session_state.get("allowed"):
        return True
    st.title("Researcher's page")
    with st.form("sign in"):
        password = st.text_input("Password", type="password")
        if st.form_submit_button("Sign in") and password:
            time.sleep(GUARD.delay())
            address = st.context.ip_address or "this machine"
            try:
                if GUARD.admits(address, lambda: is_password(password, os.environ[VARIABLE])):
                    st.session_state["allowed"] = True
                    st.rerun()
            except LockedOut as locked:
                minutes = ceil(locked.seconds / 60)
                st.error(f"Too many wrong passwords. Try again in {minutes} minutes.")
                return False
            time.sleep(1)  # slows guessing down
            st.error("That is not the password.")
    return False


def _show_study() -> None:
    store, study, _ = open_survey()
    st.html(f"<h1>{escape(study.title)}</h1>")  # st.title would read Markdown, :red[x] and $x$
    st.text(f"Study {study.hash}")
    choices = sources(store, study.hash)
    if not choices:
        others = " Other studies in this database have participants." * bool(sources(store))
        st.info(f"Nobody has taken part in this study yet.{others}")
        return
    source = st.segmented_control("Source", choices, default=choices[0]) or choices[0]
    answers, people = tables(store, source, study.hash)
    scored = score_lapses(answers)
    places = Places(store, study.hash, cast(Source, source)).counts()["places"]
    inattentive = find_inattentive(answers, study.exclusion.attention_below)
    overview = {
        "Participants": people_flow(people, inattentive, places),
        "Attention, time and agreement": rates(scored, people),
        "Responses per condition": per_condition(scored),
        "Participants per form": per_form(answers, people, study, places),
        "Responses per trial, with quota": per_trial(answers, study, places),
    }
    for heading, frame in overview.items():
        st.subheader(heading)
        st.dataframe(frame, hide_index=True)
    if comments := written_answers(people, study):
        st.subheader("Comments")
        for comment in comments:
            st.text(comment)
    st.subheader("Submissions")
    st.caption("With the platform's ids, for payment and complaints; keep apart from responses.")
    payments = submissions(store, source, study.hash)
    st.dataframe(payments.drop(columns=["study", "participant"]), hide_index=True)
    downloads = {"responses": answers, "participants": people}
    for column, (name, frame) in zip(st.columns(2), downloads.items(), strict=True):
        file = f"{source}-{name}.csv"
        # Written when it is asked for: of thousands of participants, that takes seconds.
        column.download_button(
            f"Download {name}", partial(as_csv, frame), file, "text/csv", on_click="ignore"
        )


st.set_page_config(page_title="Researcher's page", page_icon="📋")
if _sign_in():
    _show_study()
