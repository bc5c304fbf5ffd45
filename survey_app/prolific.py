"""Use of Prolific's API: create a draft with the study's codes, free places, approve submissions.

The calls are documented at docs.prolific.com (studies, submissions). The token of a researcher's
account can spend money. It is therefore read from the environment only, and a submission is
approved only if the database has its participant as finished.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
from sqlalchemy import select

from survey_app.export import submissions
from survey_app.flow import UNFINISHED
from survey_app.places import Places
from survey_app.platforms import PARAMETERS
from survey_app.schema import identities
from survey_app.signed_links import api
from survey_app.store import Store
from tasks.recruitment import Recruitment
from tasks.study import Study

TOKEN = "CONCEPTEVO_PROLIFIC_TOKEN"
TRIES, LONGEST_WAIT = 4, 60.0  # attempts at a call; seconds between two of them
#: Prolific's statuses of people who left without finishing -> the reasons that we store.
GONE = {"RETURNED": "returned", "TIMED-OUT": "timed_out", "SCREENED OUT": "screened_out"}
#: Code -> its type at Prolific, and the reason for which Prolific asks participants who bring it to
#: return their submission; "": it is reviewed instead.
CODES = {
    "completed": ("COMPLETED", ""),
    "attention": ("FAILED_ATTENTION_CHECK", ""),
    "screened_out": ("OTHER", ""),
    "declined": ("NO_CONSENT", "You chose not to take part."),
    "withdrawn": ("OTHER", "You withdrew from the study."),
    "full": ("OTHER", "No place was free."),
    "expired": ("OTHER", "Your place was given to someone else."),
}


class Prolific:
    """A client of the API for one researcher's account."""

    def __init__(self) -> None:
        token = os.environ.get(TOKEN)
        if not token:
            raise ValueError(
                f"Prolific's API needs a token: make one at Prolific (Settings, API tokens) and "
                f"set {TOKEN}"
            )
        headers = {"Authorization": f"Token {token}"}
        self._http = httpx.Client(base_url=f"{api()}/api/v1", headers=headers, timeout=30)

    def call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Make one call, which is repeated while Prolific is busy, and return its JSON reply.

        Raises:
            ValueError: Prolific refuses (its reply is quoted), or cannot be reached.
        """
        for attempt in range(TRIES):
            try:
                reply = self._http.request(method, path, **options)
            except httpx.HTTPError as error:
                raise ValueError(f"Prolific cannot be reached: {error}") from error
            # A call may have taken effect although the reply is a server error. Only calls that
            # certainly had no effect (429) or only read are therefore repeated.
            can_repeat = reply.status_code == 429 or (method == "GET" and reply.is_server_error)
            if not can_repeat or attempt == TRIES - 1:
                break
            delay = reply.headers.get("retry-after", "")
            time.sleep(min(float(delay) if delay.isdecimal() else 2.0**attempt, LONGEST_WAIT))
        if reply.is_error:
            raise ValueError(
                f"Prolific refused {method} {path} ({reply.status_code}): {reply.text[:500]}"
            )
        try:
            return reply.json()
        except ValueError as error:
            raise ValueError(
                f"Prolific's reply to {method} {path} is not JSON: "
                f"{reply.text[:100]!r}; is {api()} its address?"
            ) from error

    def submissions(self, study: str) -> Iterator[dict[str, Any]]:
        """Yield all submissions of a study, fetched page by page."""
        address: str | None = f"/studies/{study}/submissions/"
        while address:
            page = self.call("GET", address)
            yield from page["results"]
            address = ((page.get("_links") or {}).get("next") or {}).get("href")

    def approve(self, submission: str) -> None:
        """Approve one submission, which pays the participant."""
        self.call("POST", f"/submissions/{submission}/transition/", json={"action": "APPROVE"})


def draft(
    study: Study, recruitment: Recruitment, address: str, reward: int, description: str
) -> dict[str, Any]:
    """Return the request body of a new study, which Prolific creates as an unpublished draft.

    Args:
        address: URL of the survey. reward: in the account's smallest unit (pence, cents).
    """
    if study.minutes is None:
        raise ValueError(f"study {study.hash} does not state its duration; build it again")
    query = "&".join(f"{name}={{{{%{name}%}}}}" for name in PARAMETERS["prolific"])
    return {
        "name": study.title,
        "internal_name": f"{study.title} ({study.hash})",
        "description": description,
        "external_study_url": f"{address.rstrip('/')}/?{query}",
        "is_external_study_url_secure": recruitment.signed,
        "prolific_id_option": "url_parameters",
        "completion_codes": [_code(name, code) for name, code in recruitment.codes],
        "estimated_completion_time": study.minutes,
        "total_available_places": recruitment.places,
        "reward": reward,
    }


def _code(name: str, code: str) -> dict[str, Any]:
    kind, reason = CODES[name]
    returns = {"action": "REQUEST_RETURN", "return_reason": reason}
    actions = [returns if reason else {"action": "MANUALLY_REVIEW"}]
    return {"code": code, "code_type": kind, "actions": actions}


@dataclass
class Comparison:
    """The result of a comparison between Prolific's submissions and the database.

    Attributes:
        counts: (Prolific's status, ours) -> number. problems: one sentence per discrepancy.
        payable: submissions that await review, whose participants finished with their own code.
        departures: (submission, reason) of those who left at Prolific and have not finished here.
    """

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    payable: list[str] = field(default_factory=list)
    departures: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def compare(prolific: Prolific, store: Store, study: str, prolific_studies) -> Comparison:
    """Compare Prolific's submissions with the database, without changing either."""
    table = submissions(store, "human", study)
    own_rows = {row.session: row for row in table[table["platform"] == "prolific"].itertuples()}
    theirs = [one for name in prolific_studies for one in prolific.submissions(name)]
    approved = {submission["id"] for submission in theirs if submission["status"] == "APPROVED"}
    paid = {last for last, *earlier in _read_sessions(store, study) if approved & set(earlier)}
    result = Comparison()
    for submission in theirs:
        session = submission["id"]
        _compare_one(submission, own_rows.get(session), session in paid, result)
    return result


def _read_sessions(store: Store, study: str) -> list[list[str]]:
    """Return the sessions of each participant from Prolific, the latest one first."""
    name = PARAMETERS["prolific"].session
    with store.read() as connection:
        query = select(identities.c.details).where(identities.c.study == study)
        rows = [details for details in connection.scalars(query) if name in details]
    return [[row[name], *(session[name] for session in row.get("earlier", ()))] for row in rows]


def _compare_one(
    submission: dict[str, Any], own_row: Any, is_paid: bool, result: Comparison
) -> None:
    session, status, code = submission["id"], submission["status"], submission.get("study_code")
    own_status = "unknown" if own_row is None else own_row.status
    result.counts[status, own_status] += 1
    problem = ""
    if status == "AWAITING REVIEW" and own_status != "finished":
        problem = f"awaits review with code {code}, but is {own_status} here"
    elif status == "AWAITING REVIEW" and code != own_row.code:
        problem = f"came with code {code}; its own is {own_row.code}"
    elif status == "AWAITING REVIEW" and is_paid:
        problem = "awaits review, but an earlier submission of this participant was approved"
    elif status == "AWAITING REVIEW":
        result.payable.append(session)
    elif status in GONE and own_status == "finished":
        problem = f"finished here, but is {status} there: perhaps it should be paid"
    elif status in GONE and own_status in (*UNFINISHED, "expired"):
        result.departures.append((session, GONE[status]))
    if problem:
        result.problems.append(f"{session} {problem}")


def release_gone(comparison: Comparison, places: Places) -> int:
    """Free the places of participants who left at Prolific; return how many."""
    count = 0
    for session, reason in comparison.departures:
        if places.is_unfinished(session):
            places.release(session, reason=reason)
            count += 1
    return count
