"""The supervisor of the worker processes; they share a listening socket and are replaced on exit.

All knowledge of a participant is in the database, so any worker can serve any request and no
session is bound to a process.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from tempfile import TemporaryDirectory


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises ValueError if the address cannot be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        raise ValueError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another --port"
        ) from error
    listening.listen(2048)
    return listening


def serve(
    listening: socket.socket, workers: int, environment: Mapping[str, str], script: str = "app.py"
) -> None:
    """Keep `workers` processes running until SIGTERM or SIGINT, then terminate them."""
    stopping = False

    def stop(_signal, _frame) -> None:
        nonlocal stopping
        stopping = True

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, stop)
    fd = listening.fileno()
    # In memory if the system has such a folder, so that counting does not wait for a disk.
    parent_folder = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with TemporaryDirectory(prefix="conceptevo-metrics-", dir=parent_folder) as metrics_folder:

        def start() -> subprocess.Popen:
            return subprocess.Popen(
                [sys.executable, "-m", "survey_app.worker", str(fd), script],
                pass_fds=[fd],
                env={**os.environ, **environment, "PROMETHEUS_MULTIPROC_DIR": metrics_folder},
                start_new_session=True,
            )

        processes = [start() for _ in range(workers)]
        while not stopping:
            time.sleep(0.2)
            for number, process in enumerate(processes):
                if process.poll() is not None and not stopping:
                    pid, code = process.pid, process.returncode
                    print(f"worker {pid} ended ({code}); starting another", flush=True)
                    processes[number] = start()
                    time.sleep(1)  # a worker that cannot start is restarted slowly
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
