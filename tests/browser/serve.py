"""A real studio on a free port, and how Chromium is started in front of it."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def start(workspace: Path, port: int, log: Path) -> subprocess.Popen:
    """Start a studio and wait until it answers; what it prints goes to the end of `log`."""
    command = [sys.executable, "-m", "studio.cli", "--workspace", str(workspace), "--no-browser", "--port", str(port)]
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    for _ in range(300):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=1)
            return process
        except OSError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
    raise TimeoutError(log.read_text())


@contextmanager
def studio_at(workspace: Path, log: Path) -> Iterator[str]:
    """The address of a studio of its own, for as long as the block lasts."""
    port = free_port()
    process = start(workspace, port, log)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)
