"""The HTTP routes of a worker beside Streamlit's own: actions, pictures, health and metrics.

They are configured by environment variables (CONCEPTEVO_STUDY, CONCEPTEVO_DATABASE,
CONCEPTEVO_SOURCE), as the script of a Streamlit app takes no arguments.
"""

import json
import logging
import mimetypes
import os
import time
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)
from starlette.routing import Route

from survey_app import metrics
from survey_app.first_page import first_page
from survey_app.platforms import is_open_link, make_open_link
from survey_app.service import BadAction, Service
from survey_app.store import Store
from survey_app.tokens import BadToken
from tasks.study import Study, load

PREVIEW = "CONCEPTEVO_PREVIEW"  # if set, pages can be requested by name
SERVED = "CONCEPTEVO_HASH"  # hash of the study when the survey was started
LARGEST = 64 * 1024  # bytes of an action, enough for a page of a hundred long texts in any script
log = logging.getLogger("conceptevo.survey")


def environment(study: Path, digest: str, database: str, source: str = "human") -> dict[str, str]:
    """Return the environment variables that `service` reads in a worker.

    Args:
        study: its folder. digest: its hash. database: its URL. source: "human" or "pilot".
    """
    return {
        "CONCEPTEVO_STUDY": str(study.resolve()),
        "CONCEPTEVO_DATABASE": database,
        "CONCEPTEVO_SOURCE": source,
        SERVED: digest,
    }


@cache
def open_survey() -> tuple[Store, Study, dict[str, Any]]:
    """Return this process's database, study and keys, and change none of them.

    Raises:
        ValueError: the folder's study has changed.
    """
    folder = os.environ["CONCEPTEVO_STUDY"]
    study, keys = load(Path(folder))
    if study.hash != os.environ.get(SERVED, study.hash):
        raise ValueError(
            f"{folder} held study {os.environ[SERVED]} when the survey was started, but now holds "
            f"{study.hash}: two studies must not share participants; start the survey again"
        )
    return Store(os.environ["CONCEPTEVO_DATABASE"]), study, keys


@cache
def service() -> Service:
    """Return this process's service. Raises ValueError if the folder's study has changed."""
    source = os.environ.get("CONCEPTEVO_SOURCE", "human")
    return Service(*open_survey(), "pilot" if source == "pilot" else "human")


@cache
def pictures() -> dict[str, bytes]:
    """Return the study's pictures and those of the researcher's texts, file name -> bytes."""
    folder = Path(os.environ["CONCEPTEVO_STUDY"]) / "images"
    study = service().study
    return {n: (folder / n).read_bytes() for n in (*study.images(), *study.own_files())}


@cache
def cached_first_page() -> str:
    return first_page(service().view.words, service().study.title)


async def index(request: Request) -> Response:
    """Return the first page; the open link first leads to an address with a new id.

    A redirect leaves no entry in the browser's history, from which "Back" would lead to another id.
    """
    if is_open_link(request.query_params):
        url = request.url.include_query_params(p=make_open_link(service().secret))
        return RedirectResponse(f"?{url.query}", headers={"Cache-Control": "no-store"})
    return HTMLResponse(cached_first_page(), headers={"Cache-Control": "no-cache"})


async def act(request: Request) -> Response:
    """Answer an action with 200 and the next page if it is stored, 503 if it must be repeated."""
    start = time.perf_counter()
    outcome, response = await _act(request)
    metrics.ACTIONS.labels(outcome).inc()
    metrics.SECONDS.observe(time.perf_counter() - start)
    return response


async def _act(request: Request) -> tuple[str, Response]:
    try:
        size = int(request.headers.get("content-length", LARGEST + 1))
        if not 0 <= size <= LARGEST:
            return "refused", JSONResponse({"error": "too large"}, 413)
        action = json.loads(await request.body())
    except (ValueError, RecursionError, ClientDisconnect):
        action = None
    if not (isinstance(action, dict) and "token" in action):
        return "refused", JSONResponse({"error": "not an action"}, 400)
    try:
        page, done = await run_in_threadpool(service().act, action["token"], action)
    except BadToken:
        return "refused", JSONResponse({"error": "reload the page"}, 403)
    except BadAction as error:
        return "refused", JSONResponse({"error": str(error)}, 422)
    except SQLAlchemyError as error:
        # Only the database's message: the parameters of the statement hold responses and ids.
        reason = str(getattr(error, "orig", None) or error).partition("\n")[0]
        log.warning("not stored, the browser will try again: %s", reason)
        return "failed", JSONResponse({"error": "not stored"}, 503, {"Retry-After": "1"})
    return "done" if done else "repeat", JSONResponse(page, headers={"Cache-Control": "no-store"})


async def picture(request: Request) -> Response:
    data = pictures().get(request.path_params["name"])
    if data is None:
        return PlainTextResponse("no such picture", 404)
    headers = {"Cache-Control": "public, max-age=31536000, immutable"}
    media_type = mimetypes.guess_type(request.path_params["name"])[0]
    return Response(data, media_type=media_type, headers=headers)


async def healthz(request: Request) -> Response:
    """Answer 200 if the database can be reached, else 503."""

    def query_database() -> None:
        with service().store.read() as connection:
            connection.execute(text("SELECT 1"))

    try:
        await run_in_threadpool(query_database)
    except SQLAlchemyError:
        return PlainTextResponse("database unreachable\n", 503)
    return PlainTextResponse("ok\n")


async def metrics_text(request: Request) -> Response:
    """Return the metrics of all workers, to requests from this machine that pass no proxy."""
    client = request.client.host if request.client else ""
    if client not in ("127.0.0.1", "::1") or "x-forwarded-for" in request.headers:
        return PlainTextResponse("not found", 404)
    return PlainTextResponse(await run_in_threadpool(metrics.text))


ROUTES = [
    Route("/", index),
    Route("/act", act, methods=["POST"]),
    Route("/img/{name:path}", picture),
    Route("/healthz", healthz),
    Route("/metrics", metrics_text),
]
