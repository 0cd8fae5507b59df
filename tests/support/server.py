"""`lagar serve` as a real process: its own home, its own process group, killed whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType

import httpx

from support import known
from support.wait import eventually

LAGAR = str(Path(sys.executable).with_name("lagar"))
"""The console script of the environment that runs the tests."""


def clean_env(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for a lagar process: a home of its own, nothing compiled, no LAGAR_* setting of this one."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("LAGAR_", "COV_"))}
    env |= {"LAGAR_HOME": str(home), "LAGAR_COMPILE": "off", "NO_COLOR": "1", "PYTHONWARNINGS": "default"}
    return env | dict(extra or {})


def lagar(
    *args: str | Path, home: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout_s: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run one `lagar` command to its end."""
    return subprocess.run(
        [LAGAR, *map(str, args)],
        env=clean_env(home, env),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        start_new_session=True,
    )


class LagarServer:
    """A running `lagar serve`.

    with LagarServer(model_path, home=tmp_path / "home", workers=2) as server:
        httpx.post(server.url + "/predict", json=…)

    `url`, `port` and `pid` (the supervisor's) are known once the ready line was read. `wait=False` starts without
    waiting for it, for servers that are meant to fail or to be met half-started; the test then calls `wait_ready` or
    `wait_exit`. With `known_models` false it takes its models in, even if another server of the tests has done so.
    """

    def __init__(
        self,
        *paths: str | Path,
        home: Path,
        workers: int | None = 1,
        args: Iterable[str | Path] = (),
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        port: int = 0,
        wait: bool = True,
        timeout_s: float = 120.0,
        known_models: bool = True,
    ) -> None:
        self.home = home
        self._paths = paths if known_models and not {"LAGAR_CATALOG", "LAGAR_STORE"} & set(env or {}) else ()
        """What may be found in the home instead of being taken in."""
        self.command = [LAGAR, "serve", *map(str, paths), "--port", str(port)]
        if workers is not None:
            self.command += ["--workers", str(workers)]
        self.command += [str(arg) for arg in args]
        self.url = ""
        self.port = 0
        self._env = clean_env(home, env)
        self._cwd = cwd
        self._wait = wait
        self._timeout_s = timeout_s
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._ended = False

    def __enter__(self) -> LagarServer:
        known.give(self.home, self._paths)
        self.process = subprocess.Popen(
            self.command,
            env=self._env,
            cwd=self._cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # a group of its own: the whole tree can be killed, and sent Ctrl-C, at once
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if self._wait:
            try:
                self.wait_ready()
            except BaseException:
                self.kill()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        if kind is not None:
            sys.stderr.write("--- the server's stderr ---\n" + self.stderr())

    @property
    def pid(self) -> int:
        return self.process.pid

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self._lines.append(line)
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def stderr(self) -> str:
        """Everything that the server wrote so far."""
        with self._news:
            return "".join(self._lines)

    def wait_line(self, wanted: Callable[[str], bool] | str, timeout_s: float | None = None, start: int = 0) -> str:
        """The first line of stderr (from line `start` on) that is wanted; an AssertionError when none comes."""
        accepts = (lambda line: wanted in line) if isinstance(wanted, str) else wanted
        deadline = time.monotonic() + (timeout_s or self._timeout_s)
        with self._news:
            while True:
                for line in self._lines[start:]:
                    if accepts(line):
                        return line
                if self._ended:
                    raise AssertionError("the server ended without the line; stderr:\n" + "".join(self._lines))
                if not self._news.wait(max(deadline - time.monotonic(), 0)) and time.monotonic() >= deadline:
                    raise AssertionError("no such line in time; stderr:\n" + "".join(self._lines))

    def wait_ready(self, timeout_s: float | None = None) -> None:
        """Read the ready line; sets `url` and `port`."""
        line = self.wait_line(is_ready_line, timeout_s)
        if line.startswith("{"):
            self.url = json.loads(line)["url"]
        else:
            self.url = line.split(" ready at ", 1)[1].split()[0]
        self.port = int(self.url.rsplit(":", 1)[1].split("/")[0])
        if self._paths and "taken in" in self.stderr():
            known.learn(self.home)

    def version(self, model: str) -> str:
        """The version of a model that answers when none is named, once the server is ready."""
        line = self.wait_line(is_ready_line)
        names = (
            json.loads(line)["models"] if line.startswith("{") else line.split("  models: ")[1].split("  ")[0].split()
        )
        return next(name.partition("@")[2] for name in names if name.startswith(f"{model}@"))

    def is_ready(self) -> bool:
        return httpx.get(self.url + "/readyz", timeout=30).status_code == 200

    def children(self) -> dict[int, str]:
        """pid → command line of the supervisor's children that are alive."""
        return children_of(self.pid)

    def workers(self) -> list[int]:
        """Pids of the workers, lowest slot first as far as start order tells."""
        return sorted(pid for pid, command in self.children().items() if "lagar.server.worker" in command)

    def control(self) -> int:
        """Pid of the control process."""
        return next(pid for pid, command in self.children().items() if "lagar.control.main" in command)

    def signal(self, number: int, *, group: bool = False) -> None:
        """Send a signal to the supervisor, or as a terminal does to its whole process group."""
        (os.killpg if group else os.kill)(self.pid, number)

    def wait_exit(self, timeout_s: float = 120.0) -> int:
        """The exit code, once the supervisor has ended and stderr is read to its end."""
        code = self.process.wait(timeout_s)
        self._reader.join(10)
        return code

    def kill(self) -> None:
        """End the whole process group at once; idempotent."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        self._reader.join(10)
        assert self.process.stderr is not None
        self.process.stderr.close()


def is_ready_line(line: str) -> bool:
    return line.startswith("lagar: ready at ") or '"event":"ready"' in line


def children_of(pid: int) -> dict[int, str]:
    """pid → command line of the living (not zombie) children of a process."""
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, parent = entry.joinpath("stat").read_text().rsplit(")", 1)[1].split()[:2]
            if int(parent) == pid and state != "Z":
                found[int(entry.name)] = entry.joinpath("cmdline").read_text().replace("\0", " ").strip()
        except OSError:
            continue
    return found


def is_alive(pid: int) -> bool:
    """True while a process runs; a zombie that nobody has reaped yet has ended once its last thread has.

    Until then its sockets are open, and what is sent there is taken.
    """
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        return state != "Z" or len(os.listdir(f"/proc/{pid}/task")) > 1
    except OSError:
        return False


def wait_gone(pids: Iterable[int], timeout_s: float = 60.0) -> None:
    """Until none of the processes is alive."""
    waited = list(pids)
    eventually(lambda: not any(map(is_alive, waited)), timeout_s, f"the end of processes {waited}")
