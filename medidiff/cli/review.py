"""`medidiff review`: the dashboard, in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer

from medidiff.errors import InputError, UsageError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEALTH = "/_stcore/health"
READY_SECONDS = 60.0


def review(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[PATH]...", help="Folders of scans and of results; default: the current folder."),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8501,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address.")] = False,
    root: Annotated[
        list[Path] | None,
        typer.Option(help="Folder that may be read, with all below it; may be repeated; default: the PATHs."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Beyond this computer a shared token is asked for.")
    ] = "127.0.0.1",
    token: Annotated[
        str | None,
        typer.Option(envvar="MEDIDIFF_TOKEN", help="Shared token; made anew where one is needed and none is given."),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Where reader studies are kept: sqlite:///FILE or postgresql://USER@HOST/NAME."
        ),
    ] = None,
) -> None:
    """Look at scans and reconstructions side by side in a browser.

    Nothing outside of the PATHs, or of the folders named with --root, is read; no file is changed. Stop with Ctrl-C.
    """
    places = paths or [Path()]
    for place in (*places, *(root or [])):
        if not place.exists():
            raise InputError(f"{place}: no such file or folder")
    if importlib.util.find_spec("dashboard") is None:
        raise UsageError("the dashboard is not installed: install medidiff from its wheel or its sources")
    if database is not None:
        from medidiff.results.database import open_database

        open_database(database)
    _free(host, port)
    shared = token or (None if host in LOOPBACK else secrets.token_urlsafe(16))
    settings = {"host": host, "port": port, "token": shared, "database": database}
    _serve(_command(), _environment(places, root or [], settings), _address(host, port, shared), no_browser)


def _command() -> list[str]:
    return [sys.executable, "-P", "-m", "dashboard"]  # -P: not a folder of that name in the current one


def _environment(paths: list[Path], roots: list[Path], settings: dict[str, Any]) -> dict[str, str]:
    """What was asked, as dashboard/settings.py reads it; nothing imports the dashboard, it is only started."""
    places = {"paths": [str(path) for path in paths], "roots": [str(root) for root in roots]}
    return {**os.environ, "MEDIDIFF_REVIEW": json.dumps({**places, **settings})}


def _address(host: str, port: int, token: str | None) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")


def _free(host: str, port: int) -> None:
    """Raises UsageError where the address cannot be listened on: Streamlit would say so in many lines."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise UsageError(f"cannot listen on {host} port {port} ({error.strerror}): choose another --port") from None


def _serve(command: list[str], environment: dict[str, str], address: str, no_browser: bool) -> None:
    """Until the server ends, or until Ctrl-C or a termination, with which the server ends as well."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as server:
        try:
            if _is_ready(server, address.split("?")[0].rstrip("/") + HEALTH):
                typer.echo(f"medidiff review: {address}")
                if not no_browser:
                    webbrowser.open(address)
            code = server.wait()
        except KeyboardInterrupt:
            server.send_signal(signal.SIGTERM)
            server.wait()
            typer.echo("stopped", err=True)
            return
    if code:
        raise UsageError(f"the dashboard stopped with exit code {code}: see the lines above")


def _is_ready(server: subprocess.Popen[bytes], health: str) -> bool:
    """Waits until it answers; False where it ended before."""
    wanted = health.replace("//0.0.0.0", "//127.0.0.1").replace("//[::]", "//[::1]")
    end = time.monotonic() + READY_SECONDS
    while server.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(wanted, timeout=2) as answer:
                return answer.status == 200
        except OSError:
            time.sleep(0.1)
    return False


def register(app: typer.Typer) -> None:
    app.command()(review)
