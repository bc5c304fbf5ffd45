"""docs/hosting.md, run: nginx with just the configuration shown there, before two workers.

Skipped, loudly, where there is no nginx, browser or PostgreSQL.
"""

import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from urllib.request import urlopen

import pytest
from conftest import Survey
from test_dashboard import Dashboard
from visitors import PHONE, Visitor, needs_browser, on_the_way, stored

from survey_app.passwords import VARIABLE, hash_password
from survey_app.store import Store

pytestmark = needs_browser

DOCS = Path(__file__).parents[2] / "docs" / "hosting.md"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


class TwoWorkers(Survey):
    command = "survey(Path(sys.argv[1]), sys.argv[2], 0, '127.0.0.1', 2, False)"


def documented(language: str) -> str:
    """Return a configuration as it is in the docs."""
    text = DOCS.read_text(encoding="utf-8")
    return re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)[1]


def status(address: str) -> int:
    try:
        with urlopen(address, timeout=10) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def nginx(folder: Path, port: int, site: str):
    """Start nginx with a site on a port."""
    if NGINX is None:
        pytest.skip("NO PROXY TESTED: install nginx")
    (folder / "nginx.conf").write_text(
        f"pid {folder}/pid; error_log {folder}/error.log; daemon off; events {{}}\n"
        f"http {{ include /etc/nginx/mime.types;\n"
        f"client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;\n{site} }}\n"
    )
    process = subprocess.Popen([NGINX, "-c", str(folder / "nginx.conf"), "-p", str(folder)])
    try:
        for _ in range(50):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (folder / "error.log").read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def replaced(site: str, port: int, folder: Path, *pairs: tuple[str, str]) -> str:
    """Return a documented site for this machine: without TLS, on a port, with logs in a folder."""
    here = (
        ("listen 443 ssl http2;", f"listen 127.0.0.1:{port};"),
        ("listen 80;", f"listen 127.0.0.2:{port};"),
        ("/var/log/nginx/", f"{folder}/"),
    )
    for shown, instead in (*here, *pairs):
        assert shown in site, shown
        site = site.replace(shown, instead)
    return re.sub(r"ssl_certificate\w*\s[^;]*;|listen \[::\][^;]*;", "", site)


@pytest.fixture
def proxied(study_folder, postgres, tmp_path_factory):
    """A survey, and the address at which nginx offers it."""
    served, port, folder = (
        TwoWorkers(study_folder, postgres()),
        free_port(),
        tmp_path_factory.mktemp("nginx"),
    )
    # nginx's own user reads the pictures, and nothing else of the study.
    pictures = Path(f"/tmp/survey-nginx-{port}")
    shutil.copytree(study_folder / "images", pictures / "images")
    pictures.chmod(0o755)
    site = replaced(
        documented("nginx"),
        port,
        folder,
        ("server 127.0.0.1:8501;", f"server 127.0.0.1:{served.port};"),
        ("alias /srv/study/images/;", f"alias {pictures}/images/;"),
        ("proxy_set_header X-Forwarded-Proto https;", "proxy_set_header X-Forwarded-Proto http;"),
    )
    try:
        with nginx(folder, port, site) as address:
            yield address, served, folder
    finally:
        served.close()
        shutil.rmtree(pictures)


@pytest.mark.slow
def test_who_guesses_the_password_is_known_behind_a_proxy(
    browser, study_folder, tmp_path, monkeypatch
):
    """By the address that the proxy saw, not by one that the visitor wrote into the header."""
    monkeypatch.setenv(VARIABLE, hash_password("secret"))
    log = (tmp_path / "log").open("w")
    url = f"sqlite:///{tmp_path / 'a.sqlite'}"
    Store(url).migrate()
    served = Dashboard(study_folder, url, stderr=log)
    port = free_port()
    site = re.sub(r"location (= |~ )?/(?!\s)[^{]*{[^}]*}", "", documented("nginx"))
    site = replaced(
        site,
        port,
        tmp_path,
        ("server 127.0.0.1:8501;", f"server 127.0.0.1:{served.port};"),
        ("X-Forwarded-For $proxy_add_x_forwarded_for", 'X-Forwarded-For "9.9.9.9, 203.0.113.5"'),
    )
    try:
        with nginx(tmp_path, port, site) as address:
            page = browser.new_page()
            page.goto(address)
            for _ in range(6):
                page.locator("input[type=password]").fill("guess")
                page.get_by_role("button", name="Sign in").click()
                page.get_by_text(re.compile("not the password|Too many")).wait_for()
                page.wait_for_timeout(1500)
            page.get_by_text("Too many wrong passwords").wait_for()
            page.goto(served.address)  # from the machine itself
            page.locator("input[type=password]").fill("secret")
            page.get_by_role("button", name="Sign in").click()
            page.get_by_text("Nobody has taken part in this study yet").wait_for()
    finally:
        served.close()
        log.close()
    told = (tmp_path / "log").read_text()
    assert "wrong password from 203.0.113.5, the 5th in a row" in told
    assert "9.9.9.9" not in told


def test_a_session_through_the_documented_proxy(browser, proxied, frozen):
    address, served, folder = proxied
    direct = on_the_way(served, frozen, "proxied")
    visitor = Visitor(browser, direct.replace(served.address, address), PHONE)
    begun = visitor.version
    for _ in range(3):
        visitor.answer()
    assert len(stored(served.url, "proxied")) >= 2  # an introduction may lie between two trials
    assert visitor.trouble == []
    for hidden in ("metrics", "_stcore/metrics", "keys.json", "img/keys.json", "img/../keys.json"):
        assert status(f"{address}/{hidden}") == 404, hidden
    assert status(f"{address}/img/..%2Fkeys.json") in (400, 404)
    assert status(f"{address}/healthz") == 200
    # Whichever worker answers counts for both: one acknowledged action a page.
    with urlopen(f"{served.address}/metrics") as reply:
        text = reply.read().decode()
    done = re.search(r'conceptevo_actions_total{outcome="done"} (\d+)', text)[1]
    assert int(done) == visitor.version - begun
    plain = HTTPConnection("127.0.0.2", int(address.rpartition(":")[2]))
    plain.request("GET", "/?p=1", headers={"Host": "survey.example.org"})
    assert plain.getresponse().headers["Location"] == "https://survey.example.org/?p=1"
    served.close()
    assert status(direct.replace(served.address, address)) == 502
    assert "/act" in (folder / "survey.log").read_text()
    for log in folder.glob("*.log"):
        assert "proxied" not in log.read_text()  # the platform's id
        assert "127.0.0.1" not in log.read_text()  # the visitor's address


def test_systemd_takes_the_documented_unit(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("NO UNIT TESTED: install systemd")
    unit = documented("ini")
    shown = "/srv/venv/bin/conceptevo"
    assert f"ExecStart={shown} survey " in unit
    path = tmp_path / "survey.service"
    path.write_text(unit.replace(shown, sys.executable).replace("User=survey", "User=root"))
    ended = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True)
    assert (ended.returncode, "survey.service" in ended.stderr) == (0, False), ended.stderr
