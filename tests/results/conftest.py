"""A real PostgreSQL server for the tests: its own cluster in a temporary folder, reached by a socket in it only."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

USER, PASSWORD = "medidiff", "open-sesame"


class PostgreSQL:
    """A server that can be started, killed and started again."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self.binaries, self.folder = binaries, folder
        self.url = f"postgresql://{USER}:{PASSWORD}@/postgres?host={folder}"
        # postgres refuses to run as root, who may become its user
        self.who: dict[str, Any] = {}
        if os.geteuid() == 0:
            self.who = {"user": "postgres", "group": "postgres", "extra_groups": []}
            shutil.chown(folder, "postgres", "postgres")
        (folder / "password").write_text(PASSWORD)
        (folder / "password").chmod(0o644)
        options = ["--username", USER, "--auth=scram-sha-256", "--pwfile", str(folder / "password")]
        self._run("initdb", "--pgdata", str(folder / "data"), "--no-sync", "--encoding=UTF8", "--locale=C", *options)

    def _run(self, program: str, *options: str) -> None:
        done = subprocess.run(
            [self.binaries / program, *options], cwd=self.folder, capture_output=True, text=True, **self.who
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        settings = ("listen_addresses=", f"unix_socket_directories={self.folder}", "fsync=off")
        command = [self.binaries / "postgres", "-D", self.folder / "data", *(f"--{setting}" for setting in settings)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, **self.who)
        until = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.url).close()
                return
            except psycopg.OperationalError:
                assert self.process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < until, (self.folder / "log").read_text()
                time.sleep(0.05)

    def kill(self) -> None:
        """End it at once, without a word to its clients, as a crash or a pulled plug would."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(20)


@pytest.fixture(scope="session")
def postgresql(system_tool: Callable[[str], str]) -> Iterator[PostgreSQL]:
    """A running server; Debian keeps its programs out of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[4]))
    binaries = found[-1].parent if found else Path(system_tool("initdb")).parent
    folder = Path(tempfile.mkdtemp(prefix="medidiff-pg-"))  # not tmp_path: another user has to reach it
    try:
        server = PostgreSQL(binaries, folder)
        server.start()
        try:
            yield server
        finally:
            server.kill()
    finally:
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'results.sqlite'}"
    server: PostgreSQL = request.getfixturevalue("postgresql")
    with psycopg.connect(server.url) as connection:
        connection.execute("DROP TABLE IF EXISTS results, cases, studies")
    return server.url
