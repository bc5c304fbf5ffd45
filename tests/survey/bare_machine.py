"""Follow docs/hosting.md exactly on an empty Debian machine, which is then restarted.

    python tests/survey/bare_machine.py STUDY [--measure]

As root, with debootstrap and systemd-nspawn (Debian: debootstrap, systemd-container), which boots a
real systemd. The machine shares this one's network: ports 80, 443, 5432 and 8501 must be free. It
takes the committed state of this repository. Two lines are carried out otherwise than written: the
certificate is self-signed but trusted on the machine, and the editor is `sed`. About 6 minutes.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOST = "survey.example.org"
CERTIFICATE = f"/etc/letsencrypt/live/{HOST}"
DATABASE = "postgresql://survey@/survey?host=/var/run/postgresql"
#: Lines that cannot be followed without a domain, a person or an address: what is done instead.
INSTEAD = {
    r"git clone REPOSITORY": "git clone --quiet /repository",
    r"\bSTUDY\b": "/study",
    r"^certbot .*$": (
        f"mkdir -p {CERTIFICATE} && openssl req -x509 -newkey rsa:2048 -nodes -days 2 "
        f"-subj /CN={HOST} -addext subjectAltName=DNS:{HOST} -keyout {CERTIFICATE}/privkey.pem "
        f"-out {CERTIFICATE}/fullchain.pem 2>/dev/null && cp {CERTIFICATE}/fullchain.pem "
        f"/usr/local/share/ca-certificates/survey.crt && update-ca-certificates"
    ),
    r"^editor (\S+)$": r"""sed -i 's/^completed = .*/completed = "CHANGED-42"/' \1""",
}


class Machine:
    """An empty Debian machine with its own systemd."""

    def __init__(self, folder: Path, binds: list[str], certificates: Path | None) -> None:
        self.folder = folder
        packages = "systemd,systemd-sysv,dbus,ca-certificates,iproute2,curl,procps"
        subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", folder],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        if certificates:
            shutil.copytree(
                certificates, folder / "usr/local/share/ca-certificates", dirs_exist_ok=True
            )
        with (folder / "etc/hosts").open("a") as hosts:
            hosts.write(f"127.0.0.1 localhost {HOST}\n")
        self.bound = [f"--bind-ro={path}" for path in binds]
        self.process = self.boot()
        self.must("update-ca-certificates")

    def boot(self) -> subprocess.Popen:
        """Switch the machine on, and wait until it is up."""
        self.process = subprocess.Popen(
            ["systemd-nspawn", "-q", f"--directory={self.folder}", "--boot", "--console=pipe",
             "--register=no", "--keep-unit", "--machine=bare", *self.bound],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.wait("systemctl is-system-running | grep -E 'running|degraded'")
        return self.process

    def reboot(self) -> None:
        """Restart the machine from within."""
        self.run("systemctl reboot")
        self.process.wait(60)
        self.boot()

    def run(self, script: str) -> subprocess.CompletedProcess:
        """Run a script on the machine."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        leader = children.read_text().split()[0]
        own = {k: v for k, v in os.environ.items() if k.startswith("PIP_")}
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return subprocess.run(
            ["nsenter", "-t", leader, "-m", "-u", "-i", "-n", "-p", "--", "bash", "-ec", script],
            env={**own, "PATH": path, "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive"},
            capture_output=True, text=True,
        )  # fmt: skip

    def must(self, script: str) -> str:
        """Run a script that must succeed; return its output."""
        ended = self.run(script)
        if ended.returncode:
            sys.exit(f"FAILED:\n{script}\n{ended.stdout[-2000:]}\n{ended.stderr[-3000:]}")
        return ended.stdout

    def wait(self, script: str, seconds: float = 90) -> float:
        """Return the seconds until a script succeeds."""
        started = time.monotonic()
        while time.monotonic() - started < seconds:
            try:
                if self.run(script).returncode == 0:
                    return time.monotonic() - started
            except (OSError, IndexError):  # not booted yet
                pass
            time.sleep(0.5)
        sys.exit(f"FAILED: not within {seconds} s: {script}")

    def close(self) -> None:
        """Switch the machine off."""
        self.run("systemctl poweroff")
        self.process.wait(60)


def steps(text: str) -> list[tuple[str, str]]:
    """Return the page's instructions in order: ("bash", lines) or (path of a file, its content)."""
    begin = text.index("## A dedicated machine")
    section = text[begin : text.index("\n## ", begin + 5)]
    found = []
    for match in re.finditer(r"(?:As `(/[^`]+)`:\s+)?```(\w+)\n(.*?)```", section, re.DOTALL):
        path, language, content = match.groups()
        if (path is None) == (language != "bash"):
            sys.exit(f"FAILED: a {language} block without a place to save it, or the reverse")
        found.append((path or "bash", content))
    return found


def follow(machine: Machine, text: str) -> None:
    """Follow the instructions of the page."""
    used = set()
    for kind, content in steps(text):
        if kind != "bash":
            target = machine.folder / kind.lstrip("/")
            target.write_text(content)
            print(f"wrote {kind}", flush=True)
            continue
        for pattern, replacement in INSTEAD.items():
            content, count = re.subn(pattern, replacement, content, flags=re.MULTILINE)
            used |= {pattern} if count else set()
        if "curl" in content:
            print(f"healthy after {machine.wait(content):.1f} s", flush=True)
        for line in content.strip().splitlines():
            started = time.monotonic()
            machine.must(line)
            print(f"{time.monotonic() - started:6.1f} s  {line[:100]}", flush=True)
    if missing := set(INSTEAD) - used:
        sys.exit(f"FAILED: the page no longer has {missing}")


def check(machine: Machine) -> None:
    """Check what must hold afterwards, also after a restart."""
    address = f"https://{HOST}"

    def status(path: str) -> str:
        return machine.must(f"curl -sL -o /dev/null -w '%{{http_code}}' '{address}/{path}'")

    picture = next((machine.folder / "srv/study/images").iterdir()).name
    expected = dict.fromkeys(("", "healthz", f"img/{picture}"), "200")
    hidden = ("metrics", "keys.json", "img/..%2Fkeys.json", "_stcore/metrics")
    expected |= dict.fromkeys(hidden, "404")
    for path, code in expected.items():
        assert status(path) == code, (path, status(path), code)
    assert "gzip" in machine.must(f"curl -sIL -H 'Accept-Encoding: gzip' {address}/")
    assert machine.run("runuser -u www-data -- cat /srv/study/keys.json").returncode
    places = f"runuser -u survey -- conceptevo study places /srv/study --database '{DATABASE}'"
    assert "codes" in machine.must(places), "the change of the codes is not in the log"
    # Without a password over the network, as Debian has it: one sentence that says so.
    wrong = machine.run(places.replace(DATABASE, "postgresql://survey@localhost/survey"))
    said = wrong.stderr.strip().splitlines()
    assert wrong.returncode and "no password supplied" in wrong.stderr, wrong
    assert len(said) <= 4, wrong.stderr
    print("without a password:", " ".join(said), flush=True)
    machine.must("kill -9 $(pgrep -f survey_app.worker | head -1)")
    print(f"a killed worker: healthy after {machine.wait(f'curl -sf {address}/healthz'):.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--bind", action="append", default=[], help="a path that pip needs")
    parser.add_argument("--certificates", type=Path, help="folder of those to trust besides")
    parser.add_argument("--measure", action="store_true", help="the first page over a slow line")
    chosen = parser.parse_args()
    text = (ROOT / "docs" / "hosting.md").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="bare-machine-") as folder:
        root = Path(folder) / "root"
        root.mkdir()
        machine = Machine(root, chosen.bind, chosen.certificates)
        try:
            subprocess.run(["git", "clone", "-q", "--bare", ROOT, root / "repository"], check=True)
            shutil.copytree(chosen.study, root / "study")
            follow(machine, text)
            check(machine)
            machine.reboot()
            up = machine.wait(f"curl --silent --fail https://{HOST}/healthz", 120)
            print(f"restarted: healthy after {up:.1f} s", flush=True)
            check(machine)
            if chosen.measure:
                measure(machine)
        finally:
            machine.close()
    print("docs/hosting.md holds on a bare machine")


def measure(machine: Machine) -> None:
    """Return the seconds to the first page at 1.6 Mbit/s, with and without gzip in nginx."""
    from playwright.sync_api import sync_playwright

    site = "/etc/nginx/sites-available/survey"
    for gzip in ("on", "off"):
        machine.must(f"sed -i 's/gzip o[nf]*;/gzip {gzip};/' {site} && systemctl reload nginx")
        with sync_playwright() as driver:
            browser = driver.chromium.launch(
                executable_path=shutil.which("chromium"),
                args=["--no-sandbox", f"--host-resolver-rules=MAP {HOST} 127.0.0.1"],
            )
            page = browser.new_context(ignore_https_errors=True).new_page()
            line = page.context.new_cdp_session(page)
            line.send("Network.enable")
            line.send("Network.emulateNetworkConditions", {
                "offline": False, "latency": 150, "downloadThroughput": 1.6e6 / 8,
                "uploadThroughput": 0.75e6 / 8,
            })  # fmt: skip
            received: list[float] = []
            record = received.append
            line.on("Network.loadingFinished", lambda e, add=record: add(e["encodedDataLength"]))
            started = time.monotonic()
            page.goto(f"https://{HOST}/?PROLIFIC_PID={'a' * 24}&STUDY_ID=s&SESSION_ID=t")
            page.wait_for_selector(".survey", timeout=120_000)
            seconds = time.monotonic() - started
            print(f"gzip {gzip}: first page after {seconds:.1f} s, {sum(received) / 1e6:.2f} MB")
            browser.close()


if __name__ == "__main__":
    main()
