"""`make demo`: train the wine classifier, serve it, send it what the README sends, stay up until Ctrl-C.

The commands are read from the README's block under `<!-- demo -->`, so the two cannot differ. When port 8080 is taken
another one is used, and said. Without curl on the machine the same requests are sent from here. `--once` ends after the
answers.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "wine-batch"
HOME = ROOT / ".demo"
PORT = 8080
READY_WITHIN_S = 60.0


def main() -> int:
    """Exit code 0 when every request was answered with 2xx."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--once", action="store_true", help="end after the answers")
    once = parser.parse_args().once
    signal.signal(signal.SIGTERM, _interrupted)  # ended from outside: the server goes too
    requests = readme_commands((ROOT / "README.md").read_text())
    _say("Training the wine classifier")
    subprocess.run([sys.executable, str(EXAMPLE / "train.py")], check=True)
    server = Server(PORT if _is_free(PORT) else 0)
    try:
        port = server.wait_ready()
        if port != PORT:
            _say(f"Port {PORT} is taken: the demo uses {port}, and what the README says of {PORT} goes for {port}")
        failed = [command for command in requests if not send(command.replace(f":{PORT}", f":{port}"))]
        if failed:
            print(f"\n{len(failed)} of {len(requests)} requests were not answered with 2xx", file=sys.stderr)
            return 1
        if not once:
            _say(f"Serving at http://127.0.0.1:{port}, documentation at http://127.0.0.1:{port}/docs; Ctrl-C ends it")
            server.wait()
    except KeyboardInterrupt:
        print()
    finally:
        server.stop()
    return 0


def readme_commands(readme: str) -> list[str]:
    """The commands of the console block under `<!-- demo -->`, one shell line each."""
    block = re.search(r"^<!-- demo -->\n+```console\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    if block is None:
        sys.exit("README.md has no console block under <!-- demo -->")
    joined = block[1].replace("\\\n", " ")
    return [re.sub(r"\s+", " ", line[2:]) for line in joined.splitlines() if line.startswith("$ ")]


class Server:
    """`lagar serve` on the wine example; what it says goes to stderr as it comes."""

    def __init__(self, port: int) -> None:
        HOME.mkdir(exist_ok=True)
        lagar = str(Path(sys.executable).with_name("lagar"))
        command = ["lagar", "serve", str(EXAMPLE.relative_to(ROOT)), *(["--port", "0"] if port == 0 else [])]
        _say(f"$ {shlex.join(command)}")
        self._port: int | None = None
        self._news = threading.Event()
        self._process = subprocess.Popen(
            [lagar, *command[1:]],
            cwd=ROOT,
            env=os.environ | {"LAGAR_HOME": str(HOME)},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C reaches the demo, which then ends the server in order
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            sys.stderr.write(line)
            ready = re.match(r"lagar: ready at \S+:(\d+)", line)
            if ready:
                self._port = int(ready[1])
                self._news.set()
        self._news.set()

    def wait_ready(self) -> int:
        """The bound port; ends the demo when the server does not come up."""
        self._news.wait(READY_WITHIN_S)
        if self._port is None:
            sys.exit("the server did not start; what it said is above")
        return self._port

    def wait(self) -> None:
        """Until the server ends by itself."""
        self._process.wait()

    def stop(self) -> None:
        """Drain and end; at once when it does not."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._reader.join(5)


def send(command: str) -> bool:
    """Print a curl command and its answer; False when there was none or it was no 2xx."""
    _say(f"$ {command}")
    if shutil.which("curl"):
        mark = "\n%{http_code}"
        done = subprocess.run([*shlex.split(command), "--write-out", mark], cwd=ROOT, capture_output=True, text=True)
        answer, _, status = done.stdout.rpartition("\n")
    else:
        print("(curl is not installed: the same request is sent by Python)")
        answer, status = _send_by_python(shlex.split(command))
    print(answer.strip())
    return status.startswith("2")


def _send_by_python(words: list[str]) -> tuple[str, str]:
    """What `curl [-s] [-X METHOD] [-H HEADER] [-d DATA|@FILE] URL` would get: the body and the status."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    data: bytes | None = None
    url = method = ""
    rest = iter(words[1:])
    for word in rest:
        if word == "-H":
            name, _, value = next(rest).partition(":")
            headers[name.strip()] = value.strip()
        elif word == "-d":
            text = next(rest)
            data = (ROOT / text[1:]).read_bytes() if text.startswith("@") else text.encode()
        elif word == "-X":
            method = next(rest)
        elif not word.startswith("-"):
            url = word
    request = urllib.request.Request(url, data=data, headers=headers if data else {}, method=method or None)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read().decode(), str(answer.status)
    except urllib.error.HTTPError as error:
        return error.read().decode(), str(error.code)
    except OSError as error:
        return str(error), "0"


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def _say(text: str) -> None:
    print(f"\n{text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
