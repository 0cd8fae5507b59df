"""Every command and block that README, docs and examples show does what the page says.

A page's blocks run in order in a folder of their own that holds a copy of `examples/`; an example's README runs in the
copy of its own folder. `lagar serve` is started in the background, the page goes on at its ready line, and its port is
exchanged for a free one in everything the page runs. `support.markdown` has the comments that steer this.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from support.markdown import ANY, Block, Command, blocks, commands, difference, headings, links
from support.server import clean_env, is_ready_line
from support.wait import eventually

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("README.md", "CHANGELOG.md", "docs/**/*.md", "examples/*/README.md")
    for path in ROOT.glob(pattern)
)
SHELL = ("console", "bash", "sh", "shell", "setup")
COMMAND_LIMIT_S = 180
_SERVE = re.compile(r"^(?:\w+=\S+\s+)*lagar\s+serve\b")


class Run:
    """One page being run: its folder, its shell's state, its servers and their exchanged ports."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self._folder = folder
        self._scratch = scratch
        self._ports: dict[str, str] = {}
        self._servers: dict[str, subprocess.Popen[bytes]] = {}
        home = scratch / "home"
        home.mkdir()
        bin_ = str(Path(sys.executable).parent)
        self._env = clean_env(home / ".lagar", {"PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}", "HOME": str(home)})
        self._env |= {"PWD": str(folder), "COLUMNS": "120"}
        del self._env["LAGAR_COMPILE"]  # a page shows what its reader sees

    def block(self, block: Block) -> None:
        """Run a block; an AssertionError says which line of the page did something else than it shows."""
        if "not run" in block.directives:
            return
        if "file" in block.directives:
            path = self._folder / block.directives["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self._exchanged(block.text))
        elif block.language == "python":
            self._python(block)
        elif block.language in SHELL:
            shown = commands(block)
            for command in shown:
                last = command is shown[-1]
                self._command(command, block.line, int(block.directives.get("exit", "0")) if last else 0)

    def _python(self, block: Block) -> None:
        script = self._scratch / "block.py"
        script.write_text(self._exchanged(block.text))
        code, said = self._shell(f"{sys.executable} {script}")
        assert code == 0, f"line {block.line}: the Python block failed:\n{said}"

    def _command(self, command: Command, line: int, code: int) -> None:
        if _SERVE.match(command.text) and code == 0:
            said = self._serve(command.text)
            missing = [
                shown
                for shown in command.output.splitlines()
                if all(difference(shown, real) for real in said.splitlines())
            ]
            assert not missing, f"line {line}: the server did not say {missing}, but\n{said}"
            return
        ended, said = self._shell(self._exchanged(command.text))
        assert ended == code, f"line {line}: `{command.text}` ended with {ended}, not {code}:\n{said}"
        different = difference(command.output, said)
        assert different is None, f"line {line}: {different}"

    def _shell(self, command: str) -> tuple[int, str]:
        """Exit code and output of a command; its folder and its exported variables last for the next one."""
        state = self._scratch / "state"
        script = f'set -o pipefail\n{command}\n_code=$?\nenv -0 > "{state}"\nexit $_code\n'
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self._env["PWD"],
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_LIMIT_S,
            check=False,
        )
        if state.exists():
            pairs = (entry.partition("=") for entry in state.read_text().split("\0") if entry)
            self._env = {name: value for name, _, value in pairs if name not in ("_", "SHLVL", "OLDPWD")}
            state.unlink()
        return done.returncode, self._restored(done.stdout.decode())

    def _serve(self, command: str) -> str:
        """Start a server on a free port in the place of the one the page names; what it said up to its ready line."""
        named = re.search(r"--port[ =](\d+)", command)
        port = named[1] if named else "8080"
        if port in self._servers:
            self._stop(port)
        self._ports[port] = _free_port()
        folder = Path(self._env["PWD"], command.split()[-1])
        if any(folder.glob("**/model-settings.json")):  # MLServer's folders have ports that nobody names
            command += " --grpc-port 8081 --metrics-port 8082"
        for flag, other in re.findall(r"--(grpc|metrics)-port[ =](\d+)", command):
            self._ports[other] = _free_port()
            command = command.replace(f"--{flag}-port {other}", f"--{flag}-port {self._ports[other]}")
        without = re.sub(r"\s--port[ =]\d+", "", command.rstrip(" &"))
        log = self._scratch / f"server-{port}.log"
        with log.open("wb") as out:
            server = subprocess.Popen(
                ["bash", "-c", f"exec {without} --port {self._ports[port]}"],
                cwd=self._env["PWD"],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._servers[port] = server

        def ready() -> bool:
            return server.poll() is not None or any(map(is_ready_line, log.read_text().splitlines()))

        eventually(ready, 90, f"the ready line of `{command}`")
        assert server.poll() is None, f"`{command}` ended with {server.returncode}:\n{log.read_text()}"
        return self._restored(log.read_text())

    def _exchanged(self, text: str) -> str:
        for shown, real in self._ports.items():
            text = re.sub(rf"(localhost|127\.0\.0\.1|0\.0\.0\.0):{shown}\b", rf"\1:{real}", text)
        return text

    def _restored(self, text: str) -> str:
        for shown, real in self._ports.items():
            text = re.sub(rf":{real}\b", f":{shown}", text)
        return text

    def _stop(self, port: str) -> None:
        server = self._servers.pop(port)
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(server.pid, number)
                server.wait(60)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        server.wait(60)

    def close(self) -> None:
        """End every server that the page has started."""
        for port in list(self._servers):
            self._stop(port)


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    path = tmp_path / "scratch"
    path.mkdir()
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a page runs: a folder with a copy of the examples, without what training them left there."""
    path = tmp_path / "page"
    left = shutil.ignore_patterns("__pycache__", "*.joblib", "*.pkl", "*.pickle", "*.bin", "*.onnx")
    shutil.copytree(ROOT / "examples", path / "examples", ignore=left)
    return path


@pytest.fixture
def run(folder: Path, scratch: Path) -> Iterator[Run]:
    running = Run(folder, scratch)
    yield running
    running.close()


LONG_PAGES = frozenset({
    "docs/lagar-toml.md", "docs/predict.md", "docs/operate.md", "docs/security.md", "docs/environments.md",
    "examples/your-model/README.md", "examples/wine-quality/README.md",
})  # fmt: skip
"""Pages that start many servers: the slow tests run their blocks."""


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.slow if page in LONG_PAGES else ()) for page in PAGES]
)
def test_every_block_of_a_page_does_what_the_page_says(page: str, folder: Path, scratch: Path) -> None:
    found = blocks((ROOT / page).read_text())
    where = folder / Path(page).parent if page.startswith("examples/") else folder
    run = Run(where, scratch)
    try:
        for block in found:
            run.block(block)
    finally:
        run.close()


@pytest.mark.parametrize("page", PAGES)
def test_every_json_and_toml_block_of_a_page_can_be_parsed(page: str) -> None:
    for block in blocks((ROOT / page).read_text()):
        if "not run" in block.directives or ANY in block.text:
            continue
        if block.language == "json":
            json.loads(block.text)
        elif block.language == "toml":
            tomllib.loads(block.text)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_names_its_language(page: str) -> None:
    nameless = [block.line for block in blocks((ROOT / page).read_text()) if not block.language]
    assert not nameless, f"{page}: blocks without a language on lines {nameless}; plain text is ```text"


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page: str) -> None:
    path = ROOT / page
    broken = []
    for target in links(path.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = unquote(target).partition("#")
        to = (path.parent / name).resolve() if name else path
        if not to.exists() or (anchor and to.suffix == ".md" and anchor not in headings(to.read_text())):
            broken.append(target)
    assert not broken, f"{page}: {broken}"


def test_a_command_that_prints_something_else_fails_its_page(run: Run) -> None:
    (block,) = blocks('```console\n$ echo \'{"a": 2}\'\n{"a": 1}\n```\n')
    with pytest.raises(AssertionError, match="line 1: the page shows"):
        run.block(block)


def test_a_command_that_fails_fails_its_page_unless_the_page_says_so(run: Run) -> None:
    silent, said = blocks("```bash\nfalse\n```\n\n<!-- exit: 1 -->\n```bash\nfalse\n```\n")
    with pytest.raises(AssertionError, match="ended with 1, not 0"):
        run.block(silent)
    run.block(said)


def test_a_page_keeps_its_folder_variables_and_files_from_block_to_block(run: Run) -> None:
    page = """
<!-- file: inner/words.txt -->
```text
one
```
<!-- setup: export WORD=two -->
```console
$ cd inner && cat words.txt
one
$ echo "$WORD" \\
>   three
two three
```
"""
    for block in blocks(page):
        run.block(block)


@pytest.mark.parametrize(
    ("shown", "real", "fits"),
    [
        ('{"a": 1}', '{"a":1}', True),
        ('{"a": 1}', '{"a": 1, "b": 2}', False),
        ('{"a": 1, …}', '{"a": 1, "b": 2}', True),
        ('{"a": …, "b": [1, …]}', '{"a": {"c": 3}, "b": [1, 2, 3]}', True),
        ('{"id": "…:0"}', '{"id": "x:0"}', True),
        ('{"id": "…:0"}', '{"id": "x:1"}', False),
        ("[0.3333333]", "[0.33333331]", True),
        ("[0.3333]", "[0.3334]", False),
        ("[1]", "[true]", False),
        ("a  b", "a b\n", True),
        ("first\n…\nlast", "first\nx\ny\nlast\n", True),
        ("first\n…\nlast", "first\nx\ny\n", False),
        ("took … ms", "took 12 ms", True),
        ("took … ms", "took 12 s", False),
    ],
)
def test_shown_output_is_compared_as_a_reader_would(shown: str, real: str, fits: bool) -> None:
    assert (difference(shown, real) is None) is fits
