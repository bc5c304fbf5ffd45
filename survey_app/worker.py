"""A worker process: `python -m survey_app.worker FD SCRIPT` serves SCRIPT on the socket FD."""

import logging
import os
import socket
import sys
import threading
import time
from pathlib import Path

import streamlit as st
import uvicorn
from streamlit.web import bootstrap

from survey_app.allowed_requests import DASHBOARD, LARGEST_MESSAGE, SURVEY, restrict
from survey_app.server import ROUTES, cached_first_page, open_survey, pictures, service

#: Streamlit's settings, with the effects that were measured.
SETTINGS = {
    # The full garbage collection after each script run tripled the processor time of a click.
    "runner_postScriptGC": False,
    # A new session costs 22 instead of 159 ms of processor time.
    "server_fileWatcherType": "none",
    # Keeping the sessions of 100 reconnecting browsers blocked the event loop for 34 s; they hold
    # no data.
    "server_disconnectedSessionTTL": 0,
    "server_headless": True,
    "client_toolbarMode": "minimal",
    "client_showErrorDetails": "none",  # participants see no stack traces
    "browser_gatherUsageStats": False,
    "theme_base": "light",
}


def end_with_parent(parent: int) -> None:
    """End this process when its supervisor has ended, as it would keep the port otherwise."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def main() -> None:
    threading.Thread(target=end_with_parent, args=(os.getppid(),), daemon=True).start()
    fd, script = int(sys.argv[1]), sys.argv[2]
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    bootstrap.load_config_options(SETTINGS)
    is_survey = script == "app.py"
    try:
        (service if is_survey else open_survey)()
    except ValueError as error:
        sys.exit(f"worker not started: {error}")
    allowed, routes = (SURVEY, ROUTES) if is_survey else (DASHBOARD, [])
    if routes:  # fill the caches before the first request
        pictures()
        cached_first_page()
    config = uvicorn.Config(
        restrict(st.App(Path(__file__).parent / script, routes=routes), allowed),
        log_level="warning",
        ws_ping_interval=30,
        ws_max_size=LARGEST_MESSAGE,
        timeout_keep_alive=75,
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=fd)])


if __name__ == "__main__":
    main()
