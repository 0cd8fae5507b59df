from __future__ import annotations

import io
import json
import logging
import os
import pty
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import lagar
from lagar.cli import main as cli
from lagar.cli.main import COMMANDS
from lagar.errors import HomeError, LoadFailed, SettingsError
from lagar.logs import Log, capture_standard_logging, open_log
from lagar.settings import ServerSettings
from support.server import LAGAR, clean_env
from support.server import lagar as run_lagar


def test_help_names_every_command(tmp_path: Path) -> None:
    done = run_lagar("--help", home=tmp_path)
    assert done.returncode == 0
    for name, what in COMMANDS.items():
        assert f"{name} " in done.stdout
        assert what in done.stdout
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_every_command_has_help(tmp_path: Path) -> None:
    for name in COMMANDS:
        done = run_lagar(name, "--help", home=tmp_path)
        assert done.returncode == 0, name
        assert f"Usage: lagar {name}" in done.stdout


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import sys; from lagar.cli.main import main; main(['--help'])\n"
        "print([m for m in sys.modules if '.' not in m], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=clean_env(tmp_path)
    )
    for module in ("numpy", "pandas", "sklearn", "rich", "sqlalchemy", "alembic", "fastapi", "pyarrow", "asyncio",
                   "uvicorn", "uvloop", "onnxruntime", "pydantic", "sqlite3"):  # fmt: skip
        assert f"'{module}'" not in done.stderr, module


def test_the_version_is_data(tmp_path: Path) -> None:
    done = run_lagar("--version", home=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"lagar {lagar.__version__}\n", "")


def test_no_command_is_wrong_use_and_shows_the_help(tmp_path: Path) -> None:
    done = run_lagar(home=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Commands:" in done.stderr


@pytest.mark.parametrize("args", [["frob"], ["--frob"], ["keys", "list", "--frob"], ["keys", "list", "extra"]])
def test_wrong_use_is_one_line_and_exit_code_2(tmp_path: Path, args: list[str]) -> None:
    done = run_lagar(*args, home=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("lagar: ")
    assert "--help" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_error_in_the_settings_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = run_lagar("config", home=tmp_path, env={"LAGAR_PORT": "x"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "lagar: port (LAGAR_PORT) must be a whole number, got 'x'\n"


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = run_lagar("--debug", "config", home=tmp_path, env={"LAGAR_PORT": "x"})
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("lagar: port")


def test_exit_codes_tell_settings_from_the_rest() -> None:
    assert cli.exit_code(SettingsError("x")) == 2
    assert cli.exit_code(HomeError("x")) == cli.exit_code(LoadFailed("x")) == cli.exit_code(RuntimeError()) == 1


def test_an_error_that_is_our_fault_says_so() -> None:
    assert cli.message_of(RuntimeError("boo")) == "RuntimeError: boo (this is a fault of Lagar; --debug shows where)"


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    done = subprocess.run(
        f"{LAGAR} config | true", shell=True, env=clean_env(tmp_path), capture_output=True, text=True, check=False
    )
    assert done.stderr == ""


def test_ctrl_c_is_quiet(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    os.mkfifo(rows)
    # between open(2) and its result there is no one yet who could close the file
    env = clean_env(tmp_path, {"PYTHONWARNINGS": "ignore"})
    with (
        subprocess.Popen(
            [LAGAR, "predict", "model.joblib", str(rows)], env=env, stderr=subprocess.PIPE, text=True
        ) as process,
        rows.open("w"),
    ):  # opened for writing once the command has opened it for reading
        process.send_signal(signal.SIGINT)
        _, words = process.communicate(timeout=120)
    assert process.returncode == 130
    assert words.strip() == ""


def test_config_says_every_setting_with_its_origin(tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_text("workers = 2\n")
    done = run_lagar("config", home=tmp_path, env={"LAGAR_PORT": "9"})
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["SETTING", "VALUE", "FROM"]
    assert ["home", str(tmp_path), "LAGAR_HOME"] in lines
    assert ["port", "9", "LAGAR_PORT"] in lines
    assert ["workers", "2", "server.toml", "line", "1"] in lines
    assert [line[0] for line in lines[2:]] == list(ServerSettings.__struct_fields__)


def test_config_writes_json(tmp_path: Path) -> None:
    done = run_lagar("config", "--json", home=tmp_path, env={"LAGAR_TRUSTED_PROXIES": "10.0.0.0/8,::1"})
    shown = json.loads(done.stdout)
    assert shown["home"] == {"path": str(tmp_path), "origin": "LAGAR_HOME"}
    rows = {row["name"]: row for row in shown["settings"]}
    assert rows["trusted_proxies"]["value"] == ["10.0.0.0/8", "::1"]
    assert rows["trusted_proxies"]["origin"] == "LAGAR_TRUSTED_PROXIES"
    assert rows["port"] == {"name": "port", "value": 8080, "origin": "default"}


def test_config_never_prints_a_secret(tmp_path: Path) -> None:
    env = {"LAGAR_KEY": "lagar_id_verysecret", "LAGAR_CATALOG": "postgresql://u:verysecret@h/d"}
    for args in (["config"], ["config", "--json"]):
        done = run_lagar(*args, home=tmp_path, env=env)
        assert done.returncode == 0
        assert "verysecret" not in done.stdout + done.stderr


# ---- logs


def one_event(format: str = "json", **fields: object) -> str:
    stream = io.StringIO()
    Log(format, stream=stream, clock=lambda: 1700000000.25).info("happened", **fields)  # type: ignore[arg-type]
    return stream.getvalue()


def test_an_event_is_one_json_line() -> None:
    line = one_event(request_id="r1", rows=3, path=Path("/x"), nothing=None)
    assert line.count("\n") == 1
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.250Z", "level": "info", "event": "happened", "request_id": "r1", "rows": 3,
        "path": "/x",
    }  # fmt: skip


def test_an_event_is_one_line_for_people() -> None:
    line = one_event("console", request_id="r1", text="two words", number=1.0)
    assert line.endswith(' info    happened  request_id=r1 text="two words" number=1\n')
    assert "\x1b" not in line


@pytest.mark.parametrize("format", ["json", "console"])
@pytest.mark.parametrize("hostile", ["a\nlagar: ready", "\x1b[2J", "\ud800", 'quo"te', "\r", "\u2028", b"\xff", {1: 2}])
def test_nothing_that_a_caller_sends_breaks_a_line(format: str, hostile: object) -> None:
    line = one_event(format, value=hostile)
    assert len(line.splitlines()) == 1 or format == "json"
    assert "\x1b" not in line
    assert line.count("\n") == 1
    line.encode()
    if format == "json":
        json.loads(line)


def test_fields_do_not_replace_the_events_own() -> None:
    event = json.loads(one_event(time="noon", level="high"))
    assert (event["level"], event["level_"], event["time_"]) == ("info", "high", "noon")


def test_levels_below_the_asked_one_are_not_written() -> None:
    stream = io.StringIO()
    log = Log("json", "warning", stream)
    log.debug("a")
    log.info("b")
    log.warning("c")
    log.error("d")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["c", "d"]
    assert not log.enabled("info")


def test_bound_fields_are_on_every_event() -> None:
    stream = io.StringIO()
    log = Log("json", stream=stream)
    log.bind(process="worker-1").bind(model="wine").info("x", rows=1)
    log.info("y")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["process"], first["model"], first["rows"]) == ("worker-1", "wine", 1)
    assert "process" not in second


def test_an_exception_keeps_its_traceback_in_one_json_line() -> None:
    stream = io.StringIO()
    try:
        raise ValueError("bad\nthing")
    except ValueError as error:
        Log("json", stream=stream).exception("failed", error, request_id="r")
    event = json.loads(stream.getvalue())
    assert stream.getvalue().count("\n") == 1
    assert event["error"] == "ValueError: bad\nthing"
    assert "Traceback" in event["traceback"]


def test_a_stderr_that_is_gone_does_not_hurt() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb", buffering=0) as pipe:
        log = Log("json", stream=io.TextIOWrapper(pipe, write_through=True))
        log.info("nobody reads")
    log.info("it is closed")


def test_colour_is_for_terminals_that_want_it() -> None:
    script = (
        "import os; from lagar import settings; from lagar.logs import open_log;"
        "open_log('console', 'info', no_colour=settings.no_colour()).info('x', a=1)"
    )
    plain = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "\x1b" not in plain.stderr
    assert "\x1b" in on_terminal(script, NO_COLOR="", TERM="xterm")
    assert "\x1b" not in on_terminal(script, NO_COLOR="1", TERM="xterm")
    assert "\x1b" not in on_terminal(script, NO_COLOR="", TERM="dumb")


def on_terminal(script: str, **variables: str) -> str:
    """What a script writes when its stderr is a terminal."""
    ours, theirs = pty.openpty()
    try:
        subprocess.run([sys.executable, "-c", script], stderr=theirs, check=True, env={**os.environ, **variables})
        return os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)


def test_the_standard_librarys_logs_and_warnings_come_in() -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    before = (root.handlers[:], root.level, warnings.showwarning)
    try:
        capture_standard_logging(Log("json", stream=stream))
        logging.getLogger("some.library").warning("look: %s", "here")
        logging.getLogger("some.library").warning("bad format %d", "x")
        logging.getLogger("lagar.engine").error("model wine@1 raised", extra={"request_id": "r7"})
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = warnings.showwarning
            warnings.warn("old thing", UserWarning, stacklevel=1)
    finally:
        root.handlers[:], warnings.showwarning = before[0], before[2]
        root.setLevel(before[1])
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert events[0]["event"] == "look: here"
    assert events[0]["logger"] == "some.library"
    assert events[1]["message"] == "'bad format %d'"
    assert events[2]["request_id"] == "r7"  # what a caller was told to look for
    assert events[3]["category"] == "UserWarning"


def test_importing_the_log_changes_nothing() -> None:
    script = (
        "import logging, warnings; before = (logging.getLogger().handlers[:], warnings.showwarning); import lagar.logs;"
        "assert before == (logging.getLogger().handlers, warnings.showwarning)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_log_of_a_process_writes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    open_log("json", "info", process="control").info("x")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert json.loads(shown.err)["process"] == "control"
