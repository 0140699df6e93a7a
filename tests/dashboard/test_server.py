"""The server as a user starts it: what it answers, to whom, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from dashboard.library import Library

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "data_samples" / "ct" / "low_dose"
TOKEN = "a-shared-token"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from medidiff.cli import main; main()", "review", *arguments]


def started(port: int, *arguments: str, cwd: Path = ROOT) -> subprocess.Popen[str]:
    words = command(str(SAMPLE), "--no-browser", "--port", str(port), *arguments)
    return subprocess.Popen(words, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=cwd)


def status(port: int, path: str, **headers: str) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def ready(server: subprocess.Popen[str]) -> str:
    """The line that the command prints when the server answers."""
    assert server.stdout is not None
    return server.stdout.readline()


def ended(server: subprocess.Popen[str]) -> int:
    server.send_signal(signal.SIGINT)
    server.communicate(timeout=30)
    return server.returncode


@pytest.fixture(scope="module")
def plain() -> Iterator[int]:
    port = free_port()
    server = started(port)
    assert str(port) in ready(server)
    yield port
    assert ended(server) == 0


@pytest.fixture(scope="module")
def guarded() -> Iterator[int]:
    port = free_port()
    server = started(port, "--token", TOKEN)
    assert TOKEN in ready(server)
    yield port
    ended(server)


@pytest.fixture(scope="module")
def key() -> str:
    listed = Library([SAMPLE])
    listed.add(SAMPLE)
    return next(iter(listed.images))


def test_it_answers_health_pages_scripts_and_volumes(plain: int, key: str) -> None:
    paths = ["/_stcore/health", "/", "/review/static/viewer.js"]
    paths += [f"/review/volumes/{key}{end}" for end in (".nii", "/first.nii")]
    assert [status(plain, path) for path in paths] == [200] * 5


@pytest.mark.parametrize(
    "path",
    ["/review/volumes/0000000000000000.nii", "/review/static/__init__.py", "/review/static/..%2Fapp.py",
     "/review/volumes/..%2F..%2Fetc%2Fpasswd.nii"],
)  # fmt: skip
def test_it_answers_nothing_else(plain: int, path: str) -> None:
    assert status(plain, path) in (400, 403, 404)


def test_it_listens_on_loopback_alone(plain: int) -> None:
    """No other address of this machine takes a connection."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    here = [line.split()[1] for line in lines if line.split()[3] == "0A" and line.split()[1].endswith(f":{plain:04X}")]
    assert here == [f"0100007F:{plain:04X}"]


def test_a_page_of_another_name_does_not_reach_it(plain: int, key: str) -> None:
    """A web page whose name resolves to 127.0.0.1 names another host."""
    assert status(plain, f"/review/volumes/{key}.nii", Host="evil.example") == 400


def test_without_the_token_there_is_nothing(guarded: int, key: str) -> None:
    for path in ("/", f"/review/volumes/{key}.nii", "/review/static/viewer.js"):
        assert status(guarded, path) == 403
        assert status(guarded, f"{path}?token=wrong") == 403
    assert status(guarded, "/_stcore/health") == 200


def test_the_token_in_the_address_becomes_a_cookie(guarded: int, key: str) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{guarded}/?token={TOKEN}", timeout=10) as answer:
        cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert status(guarded, f"/review/volumes/{key}.nii", Cookie=cookie.split(";")[0]) == 200


def test_beyond_loopback_a_token_is_made() -> None:
    port = free_port()
    server = started(port, "--host", "0.0.0.0")
    try:
        assert "?token=" in ready(server)
        assert status(port, "/") == 403
    finally:
        ended(server)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["nowhere"], "no such file or folder"), ([str(SAMPLE), "--host", "192.0.2.1"], "cannot listen")],
)
def test_bad_requests_are_told_in_one_sentence(arguments: list[str], told: str) -> None:
    done = subprocess.run(command(*arguments, "--no-browser"), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_told(plain: int) -> None:
    done = subprocess.run(
        command(str(SAMPLE), "--no-browser", "--port", str(plain)), capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 2
    assert "choose another --port" in done.stderr


def test_a_folder_of_the_same_name_is_not_run(tmp_path: Path) -> None:
    """In the current folder lies somebody's own `dashboard`."""
    (tmp_path / "dashboard").mkdir()
    (tmp_path / "dashboard" / "__main__.py").write_text("raise SystemExit('the wrong one')")
    port = free_port()
    server = started(port, cwd=tmp_path)
    assert str(port) in ready(server)
    assert ended(server) == 0


def test_the_server_goes_with_the_command() -> None:
    """Terminated, as by a service manager, it leaves no process behind."""
    port = free_port()
    server = started(port)
    ready(server)
    os.kill(server.pid, signal.SIGTERM)
    server.communicate(timeout=30)
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return
        time.sleep(0.1)
    pytest.fail("the server still answers")
