from __future__ import annotations

import re
from pathlib import Path

import pytest

from lagar import settings
from lagar.errors import SettingsError
from lagar.settings import ServerSettings, require_auth

SOURCE = Path(settings.__file__).parent


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def load(
    home: Path, flags: dict[str, object] | None = None, toml: str = "", **variables: str
) -> settings.LoadedSettings:
    if toml:
        (home / "server.toml").write_text(toml)
    return settings.load(flags, {"LAGAR_HOME": str(home), "PATH": "/bin", **variables})


def test_a_flag_comes_before_a_variable_before_the_file_before_the_default(home: Path) -> None:
    toml = "# mine\n\nport = 1\nworkers = 1\nmax_rows = 1\n"
    loaded = load(home, {"port": 3, "host": None}, toml, LAGAR_PORT="2", LAGAR_WORKERS="2")
    assert (loaded.server.port, loaded.server.workers, loaded.server.max_rows) == (3, 2, 1)
    assert loaded.server.host == "127.0.0.1"
    assert loaded.origins["port"] == "flag --port"
    assert loaded.origins["workers"] == "LAGAR_WORKERS"
    assert loaded.origins["max_rows"] == "server.toml line 5"
    assert loaded.origins["host"] == "default"


def test_the_table_has_every_setting_once_in_order(home: Path) -> None:
    assert [row.name for row in load(home).table()] == list(ServerSettings.__struct_fields__)


def test_a_flag_that_says_no_is_named_so(home: Path) -> None:
    loaded = load(home, {"fast_lane": False})
    assert loaded.server.fast_lane is False
    assert loaded.origins["fast_lane"] == "flag --no-fast-lane"


def test_variables_are_read_as_the_type_of_their_setting(home: Path) -> None:
    server = load(
        home,
        LAGAR_NO_AUTH="yes",
        LAGAR_FAST_LANE="0",
        LAGAR_REQUEST_TIMEOUT_S="2.5",
        LAGAR_TRUSTED_PROXIES="10.0.0.0/8, ::1",
        LAGAR_LOG_FORMAT="json",
    ).server
    assert server.no_auth is True
    assert server.fast_lane is False
    assert server.request_timeout_s == 2.5
    assert server.trusted_proxies == ("10.0.0.0/8", "::1")
    assert server.log_format == "json"


def test_variables_that_are_no_settings_are_let_through(home: Path) -> None:
    load(home, LAGAR_KEY="lagar_x_y", LAGAR_CATALOG="x", LAGAR_STORE="y", LAGAR_URL="http://z")


@pytest.mark.parametrize(
    ("toml", "variables", "message"),
    [
        ("prot = 1", {}, "server.toml line 1: 'prot' is not a setting; did you mean 'port'?"),
        ("[limits]\nx = 1", {}, "server.toml line 1: 'limits' is not a setting"),
        ("", {"LAGAR_PROT": "1"}, "LAGAR_PROT is not a setting; did you mean 'LAGAR_PORT'?"),
        ("", {"LAGAR_HOEM": "/x"}, "did you mean 'LAGAR_HOME'?"),
        ("port = ", {}, "is not valid TOML"),
        ('port = "8080"', {}, "port (server.toml line 1) must be a whole number, got '8080'"),
        ("port = true", {}, "port (server.toml line 1) must be a whole number, got true"),
        ("debug = 1", {}, "debug (server.toml line 1) must be true or false, got 1"),
        ('log_format = "xml"', {}, "must be 'console' or 'json', got 'xml'"),
        ("", {"LAGAR_PORT": "abc"}, "port (LAGAR_PORT) must be a whole number, got 'abc'"),
        ("", {"LAGAR_NO_AUTH": "maybe"}, "no_auth (LAGAR_NO_AUTH) must be true or false, got 'maybe'"),
        ("", {"LAGAR_PORT": "65536"}, "port (LAGAR_PORT) must be between 0 (any free port) and 65535, got 65536"),
        ("workers = -1", {}, "workers (server.toml line 1) must be between 0"),
        ("", {"LAGAR_MAX_ROWS": "0"}, "max_rows (LAGAR_MAX_ROWS) must be more than 0, got 0"),
        ("", {"LAGAR_REQUEST_TIMEOUT_S": "nan"}, "request_timeout_s (LAGAR_REQUEST_TIMEOUT_S) must be more than 0"),
        ("", {"LAGAR_REQUEST_TIMEOUT_S": "inf"}, "must be more than 0"),
        ("", {"LAGAR_ROOT_PATH": "mlapi"}, 'must be a plain path like "/mlapi"'),
        ("", {"LAGAR_ROOT_PATH": "/mlapi/"}, 'must be a plain path like "/mlapi"'),
        ("", {"LAGAR_ROOT_PATH": "/a//b"}, 'must be a plain path like "/mlapi"'),
        ("", {"LAGAR_ROOT_PATH": "/.."}, 'must be a plain path like "/mlapi"'),
        ("", {"LAGAR_HOST": "http://x/"}, "host (LAGAR_HOST) must be a host name or an address"),
        ("", {"LAGAR_TRUSTED_PROXIES": "10.0.0.1/8"}, "got '10.0.0.1/8'"),
        ("", {"LAGAR_TRUSTED_PROXIES": "*"}, "must hold addresses or networks like 10.0.0.0/8, got '*'"),
        ("", {"LAGAR_HOME": ""}, "LAGAR_HOME is set but empty"),
    ],
)
def test_what_cannot_be_meant_refuses_in_one_line(
    home: Path, toml: str, variables: dict[str, str], message: str
) -> None:
    if toml:
        (home / "server.toml").write_text(toml)
    with pytest.raises(SettingsError) as caught:
        settings.load(None, {"LAGAR_HOME": str(home), **variables})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tls_needs_both_files_and_both_readable(home: Path, tmp_path: Path) -> None:
    cert = tmp_path / "cert.pem"
    cert.write_text("x")
    with pytest.raises(SettingsError, match=r"tls_cert \(flag --tls-cert\) is set but tls_key is not"):
        load(home, {"tls_cert": str(cert)})
    with pytest.raises(SettingsError, match=r"tls_key \(LAGAR_TLS_KEY\) is set but tls_cert is not"):
        load(home, LAGAR_TLS_KEY=str(cert))
    with pytest.raises(SettingsError, match=r"tls_key .* does not exist"):
        load(home, {"tls_cert": str(cert), "tls_key": str(tmp_path / "no.pem")})
    with pytest.raises(SettingsError, match="is a folder"):
        load(home, {"tls_cert": str(cert), "tls_key": str(tmp_path)})


def test_paths_of_the_file_lie_beside_it(home: Path) -> None:
    for name in ("cert.pem", "key.pem"):
        (home / name).write_text("x")
    server = load(home, toml='tls_cert = "cert.pem"\ntls_key = "key.pem"').server
    assert server.tls_cert == str(home / "cert.pem")
    assert server.tls_key == str(home / "key.pem")


def test_a_home_that_is_not_there_has_no_file(tmp_path: Path) -> None:
    loaded = settings.load(None, {"LAGAR_HOME": str(tmp_path / "none")})
    assert loaded.home == tmp_path / "none"
    assert loaded.home_origin == "LAGAR_HOME"
    assert set(loaded.origins.values()) == {"default"}


def test_other_addresses_want_keys_or_the_word_that_none_are_wanted() -> None:
    for host in ("127.0.0.1", "127.8.9.10", "localhost", "::1", "[::1]"):
        require_auth(ServerSettings(host=host), has_keys=False)
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", "127.evil.org", "localhost.org"):
        with pytest.raises(SettingsError) as caught:
            require_auth(ServerSettings(host=host), has_keys=False)
        assert "lagar keys create" in str(caught.value)
        assert "--no-auth" in str(caught.value)
        require_auth(ServerSettings(host=host), has_keys=True)
        require_auth(ServerSettings(host=host, no_auth=True), has_keys=False)


def test_the_environment_is_read_in_one_module_only() -> None:
    readers = {
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        if re.search(r"\bos\.(environ|getenv|putenv)\b|import environ\b", path.read_text())
    }
    assert readers == {"settings.py"}
