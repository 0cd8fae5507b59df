"""`lagar serve` at the command line: the ready line, and one clear line for everything that keeps it from starting."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest

from conftest import Serve, Trained
from lagar.settings import ServerSettings
from support.models import SCRIPTED, scripted_model
from support.server import LagarServer, clean_env, lagar


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def refusal(*args: str | Path, home: Path, code: int = 1) -> str:
    """The one line of a `lagar serve` that does not start."""
    result = lagar("serve", *args, home=home)
    lines = result.stderr.strip().splitlines()
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("lagar: ")
    return lines[0]


# The ready line


def test_the_ready_line_says_where_and_what(serve: Serve, wine: Trained) -> None:
    server = serve(wine.path, workers=2)
    last = server.stderr().strip().splitlines()[-1]
    assert last == f"lagar: ready at http://127.0.0.1:{server.port}  models: wine@{server.version('wine')}  workers: 2"
    assert re.fullmatch("[0-9a-f]{8,}", server.version("wine")), "the hash of what lay there"
    assert server.port > 0
    assert server.is_ready(), "it is ready when it says so"
    answer = httpx.post(f"{server.url}/predict", json=wine.records[0], timeout=90)
    assert answer.json()["predictions"] == wine.model.predict(wine.rows[:1]).tolist()


def test_the_ready_line_is_json_when_logs_are(serve: Serve, tmp_path: Path) -> None:
    server = serve(scripted_model(tmp_path / "m"), args=["--log-format", "json"])
    lines = [json.loads(line) for line in server.stderr().splitlines()]
    assert lines[-1] == {
        "event": "ready", "url": server.url, "port": server.port, "models": [f"scripted@{server.version('scripted')}"],
        "workers": 1,
    }  # fmt: skip


def test_name_and_several_models(serve: Serve, logistic: Trained, tmp_path: Path) -> None:
    server = serve(logistic.path, scripted_model(tmp_path / "m"))
    assert f"models: logistic@{server.version('logistic')} scripted@{server.version('scripted')}" in server.stderr()
    named = serve(logistic.path, args=["--name", "wine"])
    assert named.version("wine") == server.version("logistic"), "the same content"


def test_nothing_but_the_models_goes_to_stdout_or_leaves_a_trace_behind(serve: Serve, tmp_path: Path) -> None:
    serve(scripted_model(tmp_path / "m"))
    server = serve(tmp_path / "m")  # known by now: nothing is taken in
    assert server.stderr().splitlines()[0] == server.stderr().splitlines()[-1], "one line: the ready line"


# Addresses


def test_a_port_that_another_program_has_is_one_line(home: Path, logistic: Trained) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert refusal(logistic.path, "--port", str(port), home=home) == (
            f"lagar: port {port} on 127.0.0.1 is in use; choose another with --port, or 0 for any free one"
        )


def test_two_servers_of_one_user_do_not_share_a_port(serve: Serve, home: Path, tmp_path: Path) -> None:
    server = serve(scripted_model(tmp_path / "m"))
    assert "is in use" in refusal(tmp_path / "m", "--port", str(server.port), home=home)
    assert server.is_ready()


def test_a_host_that_is_not_ours_is_one_line(home: Path, logistic: Trained) -> None:
    line = refusal(logistic.path, "--host", "192.0.2.7", "--no-auth", "--port", "0", home=home)
    assert "host 192.0.2.7 is not an address of this machine" in line


def test_another_address_than_loopback_needs_keys(serve: Serve, home: Path, tmp_path: Path) -> None:
    model = scripted_model(tmp_path / "m")
    line = refusal(model, "--host", "0.0.0.0", "--port", "0", home=home, code=2)
    assert "`lagar keys create" in line
    assert "--no-auth" in line
    assert "0.0.0.0" in line
    body = {"seconds": 0.0, "tag": 1}
    opened = serve(model, args=["--host", "0.0.0.0", "--no-auth"])
    assert httpx.post(f"http://127.0.0.1:{opened.port}/predict", json=body, timeout=90).status_code == 200
    assert lagar("keys", "create", "--name", "app", "--scope", "infer", home=home).returncode == 0
    guarded = serve(model, args=["--host", "0.0.0.0"], home=home)
    assert httpx.post(f"http://127.0.0.1:{guarded.port}/predict", json=body, timeout=90).status_code == 401


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6")
def test_an_ipv6_host_is_in_brackets_on_the_ready_line(serve: Serve, tmp_path: Path) -> None:
    server = serve(scripted_model(tmp_path / "m"), args=["--host", "::1"])
    assert server.url == f"http://[::1]:{server.port}"
    assert server.is_ready()


# Models


def test_a_missing_path_is_named(home: Path, tmp_path: Path) -> None:
    assert str(tmp_path / "nope.joblib") in refusal(tmp_path / "nope.joblib", "--port", "0", home=home)


def test_a_place_that_is_not_read_is_named(home: Path) -> None:
    vertex = {"AIP_HTTP_PORT": "0", "AIP_STORAGE_URI": "gs://bucket/model", "LAGAR_NO_AUTH": "true"}
    for done in (lagar("serve", "gs://bucket/model", home=home), lagar("serve", home=home, env=vertex)):
        assert done.returncode == 2
        assert done.stderr.startswith("lagar: gs://bucket/model: models are read from this machine and from s3://")
        assert done.stderr.count("\n") == 1


def test_the_words_of_kserve_for_path_name_and_ports_are_understood(serve: Serve, logistic: Trained) -> None:
    words = [f"--model_dir={logistic.path}", "--model_name=flowers", "--http_port=0", "--grpc_port=0"]
    server = serve(args=words)
    assert re.search(r"ready at \S+  grpc: 127\.0\.0\.1:\d+  models: flowers@", server.stderr())


def test_a_file_that_is_no_model_is_named(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.joblib"
    path.write_bytes(b"this is no model at all")
    assert str(path) in refusal(path, "--port", "0", home=home)


def test_a_truncated_model_is_one_line(home: Path, wine: Trained, tmp_path: Path) -> None:
    path = tmp_path / "model.joblib"
    path.write_bytes(wine.path.read_bytes()[:-2000])
    assert "model" in refusal(path, "--port", "0", "--workers", "2", home=home)


def test_a_class_whose_load_raises_is_one_line(home: Path, tmp_path: Path) -> None:
    source = SCRIPTED.replace("        pass\n", "        raise ValueError('no weights here')\n", 1)
    result = lagar("serve", scripted_model(tmp_path / "m", source), "--port", "0", "--workers", "2", home=home)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("lagar: ")
    assert "no weights here" in last


@pytest.fixture
def as_nobody(tmp_path: Path) -> list[str]:
    """A prefix that runs a command without root's right to read everything; empty for an ordinary user."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("root reads every file, and there is no setpriv to become somebody else")
    return [setpriv, "--bounding-set", "-all", "--inh-caps", "-all"]


def test_a_file_that_may_not_be_read_is_one_line(home: Path, logistic: Trained, as_nobody: list[str]) -> None:
    path = home.parent / "model.joblib"
    shutil.copy(logistic.path, path)
    path.chmod(0)
    result = subprocess.run(
        [*as_nobody, *LagarServer(path, home=home).command],
        env=clean_env(home), capture_output=True, text=True, timeout=60, check=False, start_new_session=True,
    )  # fmt: skip
    lines = result.stderr.strip().splitlines()
    assert result.returncode == 1, result.stderr
    assert len(lines) == 1, result.stderr
    assert f"{path} cannot be read" in lines[0]


# Settings


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--port", "70000"], "port (flag --port) must be between 0 (any free port) and 65535, got 70000"),
        (["--workers", "-1"], "workers (flag --workers)"),
        (["--log-format", "xml"], "'console' or 'json'"),
        (["--trusted-proxies", "10.0.0.0/8,nonsense"], "'nonsense'"),
        (["--tls-cert", "cert.pem"], "TLS needs both"),
        (["--default-model", "wine"], "default_model must be one of the models served (logistic), got 'wine'"),
        (["--no-such-flag"], "--no-such-flag"),
    ],
)
def test_a_wrong_setting_is_one_line(home: Path, logistic: Trained, flags: list[str], words: str) -> None:
    assert words in refusal(logistic.path, *flags, home=home, code=2)


def test_a_home_that_is_a_file_is_one_line(home: Path, logistic: Trained) -> None:
    home.write_text("")
    assert str(home) in refusal(logistic.path, "--port", "0", home=home)


def test_help_names_every_setting(home: Path) -> None:
    text = lagar("serve", "--help", home=home).stdout
    for name in ServerSettings.__struct_fields__:
        assert f"--{name.replace('_', '-')}" in text
    for flag in ("--name", "--code", "--example", "--trust"):
        assert flag in text


def test_help_says_what_matters_on_its_first_screen(home: Path) -> None:
    lines = lagar("serve", "--help", home=home).stdout.splitlines()
    assert max(map(len, lines)) <= 100
    first = "\n".join(lines[:40])
    for words in ("What to serve:", "PATH...", "--watch", "--trust", "Where, and to whom:", "--host", "--no-auth"):
        assert words in first
    assert "--body-timeout-s" not in first


# TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """cert.pem and key.pem for 127.0.0.1, other.pem (a foreign key), locked.pem (a key with a password)."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is needed to make certificates")
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*args: str) -> None:
        subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-days", "2",
            "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")  # fmt: skip
    openssl("genpkey", "-algorithm", "RSA", "-out", "other.pem")
    openssl("pkey", "-in", "key.pem", "-aes256", "-passout", "pass:secret", "-out", "locked.pem")
    return folder


def test_https_is_served_with_a_certificate(serve: Serve, certificates: Path, tmp_path: Path) -> None:
    tls = ["--tls-cert", certificates / "cert.pem", "--tls-key", certificates / "key.pem"]
    server = serve(scripted_model(tmp_path / "m"), args=tls)
    assert server.url == f"https://127.0.0.1:{server.port}"
    context = ssl.create_default_context(cafile=str(certificates / "cert.pem"))
    answer = httpx.post(f"{server.url}/predict", json={"seconds": 0.0, "tag": 4}, verify=context, timeout=90)
    assert answer.json()["predictions"] == [4]


@pytest.mark.parametrize(
    ("cert", "key", "words"),
    [
        ("cert.pem", "other.pem", "does not belong to"),
        ("cert.pem", "locked.pem", "protected by a password"),
        ("cert.pem", "gone.pem", "does not exist"),
        ("cert.pem", "junk.pem", "must be PEM files"),
        ("junk.pem", "key.pem", "must be PEM files"),
    ],
)
def test_a_certificate_that_cannot_serve_is_one_line(
    home: Path, logistic: Trained, certificates: Path, cert: str, key: str, words: str
) -> None:
    (certificates / "junk.pem").write_text("this is no certificate\n")
    tls = ["--tls-cert", certificates / cert, "--tls-key", certificates / key]
    assert words in refusal(logistic.path, "--port", "0", *tls, home=home, code=2)
