"""A PostgreSQL of the tests' own, from Debian's packages, that can be stopped and started again."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from support.wait import eventually


def find_programs() -> Path | None:
    """The folder with initdb and postgres; Debian keeps it off the path."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return debian[-1].parent if debian else None


class PostgresServer:
    """One server on a free port of 127.0.0.1; root runs it as the user postgres, since it refuses root."""

    def __init__(self) -> None:
        programs = find_programs()
        if programs is None:
            pytest.skip("no PostgreSQL is installed: apt-get install postgresql")
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="lagar-pg-", dir="/tmp"))
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            try:
                owner = pwd.getpwnam("postgres")
            except KeyError:
                pytest.skip("PostgreSQL refuses to run as root, and there is no user postgres")
            os.chown(self._folder, owner.pw_uid, owner.pw_gid)
            self._user = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._run("initdb", "-D", f"{self._folder}/data", "-U", "lagar", "-A", "trust", "-N", "--locale=C.UTF-8")
        self._server: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        options = ["-c", "fsync=off", "-c", "full_page_writes=off", "-c", f"unix_socket_directories={self._folder}"]
        self._server = subprocess.Popen(
            [self._programs / "postgres", "-D", f"{self._folder}/data", "-h127.0.0.1", "-p", str(self.port), *options],
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **self._user,
        )  # fmt: skip
        eventually(self._answers, what="PostgreSQL")

    def stop(self) -> None:
        """As a machine that fails: every connection is cut."""
        if self._server is not None:
            self._run("pg_ctl", "-D", f"{self._folder}/data", "stop", "-m", "immediate")
            self._server.wait()
            self._server = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"t{uuid4().hex}"
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self._url(name)

    def drop_database(self, url: str) -> None:
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{url.rpartition("/")[2]}" WITH (FORCE)')

    def _url(self, database: str) -> str:
        return f"postgresql://lagar:secret@127.0.0.1:{self.port}/{database}"

    def _answers(self) -> bool:
        psycopg.connect(self._url("postgres"), connect_timeout=5).close()
        return True

    def _run(self, program: str, *args: str) -> None:
        done = subprocess.run(
            [self._programs / program, *args],
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
            **self._user,
        )
        assert done.returncode == 0, done.stderr
