"""Settings: read once, at the edge, into frozen typed objects.

Order of precedence: flag, `LAGAR_*` variable, `$LAGAR_HOME/server.toml`, default. `os.environ` appears here only.
A name that is no setting, a value of the wrong type and a contradiction refuse to start; nothing is repaired.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from lagar import platforms
from lagar.errors import SettingsError
from lagar.platforms import Container

Compile = Literal["background", "wait", "off"]
"""When versions get their faster forms."""


class ServerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a server runs with; the same object goes to every one of its processes."""

    host: str = "127.0.0.1"
    port: int = 8080
    """0 takes any free port; the ready line says which."""
    grpc_port: int | None = None
    """Where V2 gRPC is answered, on the same host; none: nowhere; 0 takes any free port."""
    metrics_port: int = 0
    """Where metrics are told besides `/metrics` of the server itself, on the same host; 0: nowhere."""
    metrics_endpoint: str = "/metrics"
    """The path of the metrics on that port."""
    metrics_aliases: Literal["none", "mlserver"] = "none"
    """The word "mlserver": every number is also told under MLServer's name for it."""
    metrics_rest_prefix: str = "rest_server"
    """What MLServer's names for requests over HTTP begin with."""
    workers: int | str = 0
    """0: as many as the cgroup quota gives cores; "MIN:MAX": more while requests wait."""
    workers_idle_s: float = 60.0
    """With MIN:MAX: so long nothing waits before an added worker is dropped."""
    max_memory: int = 0
    """Bytes that loaded versions may take, over all workers; 0: three quarters of the machine's or the cgroup's."""
    pin: tuple[str, ...] = ()
    """Models (NAME) and versions (NAME@VERSION) that stay loaded whatever others need."""
    root_path: str = ""
    """Prefix under which a proxy publishes the server: "/mlapi"; requests are answered with and without it."""
    predict_route: str = ""
    """A further path that is answered as /invocations: Vertex AI chooses its own."""
    health_route: str = ""
    """A further path that is answered as /ping."""
    tls_cert: str | None = None
    tls_key: str | None = None
    watch: bool = False
    """True: what changes at the paths that are served goes live."""
    compile: Compile = "background"
    """When versions get the faster forms that are proved to be the same model: docs/compile.md."""
    shadow_check: float = 0.0001
    """Share of the rows answered by a proved form that are put to the original too; 0: none."""
    on_violation: Literal["swap", "keep"] = "swap"
    """While the original of a form that was wrong starts: refuse with 503, or go on with the form."""
    debug: bool = False
    no_auth: bool = False
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks whose X-Forwarded-* headers are believed."""
    default_model: str = ""
    """The model that answers `POST /predict` when several are served; "" for the only one."""
    load_at_start: bool = True
    """False: models of paths are in service only once V2's repository is asked to load them."""
    fast_lane: bool = True
    """False: every request takes the ASGI lane."""
    max_body_bytes: int = 64 * 1024 * 1024
    max_upload_bytes: int = 4 * 1024 * 1024 * 1024
    """A pushed version with all its files, which goes to disk as it comes."""
    max_header_bytes: int = 32 * 1024
    max_rows: int = 100_000
    """Rows in one request."""
    queue_rows: int = 200_000
    """Rows that may wait per model, over all workers."""
    request_timeout_s: float = 30.0
    """Deadline of a prediction from its last byte to its answer; a caller may ask for less."""
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    write_timeout_s: float = 30.0
    keep_alive_timeout_s: float = 75.0
    drain_timeout_s: float = 30.0
    host_idle_s: float = 900.0
    """A process for a version in an environment of its own that was asked nothing for so long ends until it is."""
    max_connections: int = 10_000
    """Open connections per worker."""
    compress_answers_bytes: int = 0
    """Answers of at least so many bytes are compressed for clients that accept it; 0: none."""
    cors_origins: tuple[str, ...] = ()
    """Sites whose pages may read answers: "https://shop.example", or "*" for all; none: only this server's own."""
    cors_origin_regex: str = ""
    """The same as a regular expression for the whole of an origin."""
    cors_methods: tuple[str, ...] = ()
    """What such pages may ask; none: GET, HEAD and POST."""
    cors_headers: tuple[str, ...] = ()
    """Request headers that such pages may send; none: any."""
    cors_expose: tuple[str, ...] = ()
    """Answer headers that such pages may read."""
    cors_credentials: bool = False
    """True: such pages may send what the browser keeps for this server."""
    cors_max_age_s: int = 600
    """How long a browser remembers what it may send."""


class Setting(msgspec.Struct, frozen=True):
    """One setting, its value, and where that came from."""

    name: str
    value: Any
    origin: str
    """`flag --port`, `LAGAR_PORT`, `server.toml line 3` or `default`."""


class LoadedSettings(msgspec.Struct, frozen=True):
    """The settings of a server with their origins, and the home they were read from."""

    server: ServerSettings
    home: Path
    home_origin: str
    origins: dict[str, str]
    container: Container | None = None
    """What the platform says that runs this process as a container."""

    def table(self) -> tuple[Setting, ...]:
        """Every setting in the order of `ServerSettings`; there are no secrets among them."""
        return tuple(
            Setting(name, getattr(self.server, name), self.origins[name]) for name in ServerSettings.__struct_fields__
        )


PREFIX: Final = "LAGAR_"
SETTINGS_FILE: Final = "server.toml"
OTHER_VARIABLES: Final = ("LAGAR_HOME", "LAGAR_KEY", "LAGAR_CATALOG", "LAGAR_STORE", "LAGAR_URL")
"""Variables that are no server settings: the home, a client's key and server, and where catalog and artifacts lie."""
_PATHS: Final = ("tls_cert", "tls_key")
_LISTS: Final = {
    "trusted_proxies": "a list of addresses or networks", "pin": "a list of NAME or NAME@VERSION",
    "cors_origins": "a list of origins or *", "cors_methods": "a list of methods",
    "cors_headers": "a list of header names", "cors_expose": "a list of header names",
}  # fmt: skip
_UNITS: Final = {
    "": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30,
    "TIB": 2**40,
}  # fmt: skip
_POSITIVE: Final = (
    "workers_idle_s",
    "max_body_bytes", "max_upload_bytes", "max_header_bytes", "max_rows", "queue_rows", "max_connections",
    "request_timeout_s", "header_timeout_s", "body_timeout_s", "write_timeout_s", "keep_alive_timeout_s",
    "host_idle_s",
)  # fmt: skip
_HEADER_NAME: Final = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_LOOPBACK: Final = re.compile(r"localhost|\[?::1\]?|127(?:\.\d{1,3}){3}")
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def load(
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    beneath: Mapping[str, tuple[Any, str]] | None = None,
) -> LoadedSettings:
    """The settings of a server, each from the first place that has it: flag, variable, `beneath`, server.toml, the
    platform that runs this as a container, default.

    `flags` maps setting names to values, None for a flag that was not given; `beneath` to values and where they were
    said, by what is served. Raises SettingsError, one line that names the setting, its origin, the rule, the value
    seen.
    """
    variables = os.environ if environ is None else environ
    home, home_origin = home_path(variables)
    values: dict[str, Any] = {}
    origins = dict.fromkeys(ServerSettings.__struct_fields__, "default")
    container = platforms.container(variables)
    _take_container(container, values, origins)
    _take_file(home, values, origins)
    for name, (value, origin) in (beneath or {}).items():
        origins[name] = origin
        values[name] = _typed(name, value, origin)
    _take_variables(variables, values, origins)
    for name, value in (flags or {}).items():
        if value is not None:
            origins[name] = flag_of(name, value)
            given = _from_text(name, value) if name == "workers" and isinstance(value, str) else value
            values[name] = _typed(name, _absolute(name, given, Path.cwd()), origins[name])
    server = ServerSettings(**values)
    _check(server, origins)
    return LoadedSettings(server=server, home=home, home_origin=home_origin, origins=origins, container=container)


def home_path(environ: Mapping[str, str] | None = None) -> tuple[Path, str]:
    """The home folder (not created here) and where its place was said: `LAGAR_HOME` or `default`."""
    given = (os.environ if environ is None else environ).get("LAGAR_HOME")
    if given is None:
        return Path("~/.lagar").expanduser(), "default"
    if not given.strip():
        raise SettingsError("LAGAR_HOME is set but empty: name a folder, or unset it for ~/.lagar")
    return Path(given).expanduser().absolute(), "LAGAR_HOME"


def catalog_url(environ: Mapping[str, str] | None = None) -> str | None:
    """LAGAR_CATALOG: the URL of a catalog outside the home; None when not set."""
    return (os.environ if environ is None else environ).get("LAGAR_CATALOG") or None


def store_url(environ: Mapping[str, str] | None = None) -> str | None:
    """LAGAR_STORE: the URL of a store of artifacts outside the home; None when not set."""
    return (os.environ if environ is None else environ).get("LAGAR_STORE") or None


def s3_endpoint(environ: Mapping[str, str] | None = None) -> str | None:
    """Where an S3-compatible store answers, by the variables that AWS's own tools read; None for AWS itself."""
    variables = os.environ if environ is None else environ
    return variables.get("AWS_ENDPOINT_URL_S3") or variables.get("AWS_ENDPOINT_URL") or None


def client_key(environ: Mapping[str, str] | None = None) -> str | None:
    """LAGAR_KEY: the API key that commands which talk to a server present."""
    return (os.environ if environ is None else environ).get("LAGAR_KEY") or None


def client_url(environ: Mapping[str, str] | None = None) -> str | None:
    """LAGAR_URL: the server that `lagar.Client` asks when it is given none."""
    return (os.environ if environ is None else environ).get("LAGAR_URL") or None


def mlserver_variables(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of MLServer, which stand for fields of its settings files."""
    variables = os.environ if environ is None else environ
    return {name: value for name, value in variables.items() if name.upper().startswith("MLSERVER_")}


def mlflow_tracking_uri(environ: Mapping[str, str] | None = None) -> str | None:
    """MLFLOW_TRACKING_URI: MLflow's server, by the variable that MLflow itself reads; None when not set."""
    return (os.environ if environ is None else environ).get("MLFLOW_TRACKING_URI") or None


def compiling(environ: Mapping[str, str] | None = None) -> Compile:
    """LAGAR_COMPILE: when the faster forms of a pushed version are built; "wait" when not set."""
    return compile_mode((os.environ if environ is None else environ).get("LAGAR_COMPILE") or "wait", "LAGAR_COMPILE")


def compile_mode(given: str, what: str) -> Compile:
    """When faster forms are built, as somebody said it; raises SettingsError that begins with `what`."""
    if given not in ("wait", "background", "off"):
        raise SettingsError(f"{what} must be wait, background or off, got {given[:80]!r}")
    return given  # type: ignore[return-value]


def no_colour(environ: Mapping[str, str] | None = None) -> bool:
    """Whether the person asked for output without colour, by NO_COLOR or a dumb terminal."""
    variables = os.environ if environ is None else environ
    return bool(variables.get("NO_COLOR")) or variables.get("TERM") == "dumb"


def child_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child process: this one's, with `extra` over it."""
    return {**os.environ, **extra}


def set_own_environment(variables: Mapping[str, str]) -> None:
    """Set variables of this process that libraries read when they are imported; what the person set is kept."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server on host."""
    return _LOOPBACK.fullmatch(host) is not None


def require_auth(settings: ServerSettings, has_keys: bool) -> None:
    """Refuse to serve on an address that others reach with neither keys nor the word that none are wanted."""
    if is_loopback(settings.host) or settings.no_auth or has_keys:
        return
    raise SettingsError(
        f"host {settings.host} can be reached by others and this home has no valid API key: create one with "
        "`lagar keys create --name NAME --scope infer`, or say --no-auth to serve without keys"
    )


def flag_of(name: str, value: Any = True) -> str:
    """How a setting was said on the command line: `flag --no-fast-lane`."""
    return f"flag --{'no-' if value is False else ''}{name.replace('_', '-')}"


def suggestion(word: str, known: tuple[str, ...]) -> str:
    """`; did you mean 'port'?` for a misspelt word, or nothing."""
    import difflib

    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _take_container(container: Container | None, values: dict[str, Any], origins: dict[str, str]) -> None:
    for name, said in ({} if container is None else container.settings).items():
        origins[name] = said.origin
        values[name] = _typed(name, _from_text(name, said.value), said.origin)


def _take_file(home: Path, values: dict[str, Any], origins: dict[str, str]) -> None:
    path = home / SETTINGS_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    import tomllib

    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from None
    known = ServerSettings.__struct_fields__
    for name, value in found.items():
        line = _line_of(name, text)
        if name not in known:
            raise SettingsError(
                f"{path}{f' line {line}' if line else ''}: {name!r} is not a setting"
                f"{suggestion(name, known) or '; `lagar config` lists them'}"
            )
        origins[name] = f"{SETTINGS_FILE} line {line}" if line else SETTINGS_FILE
        values[name] = _typed(name, _absolute(name, value, home), origins[name])


def _line_of(name: str, text: str) -> int | None:
    """The line of a top-level key; tomllib does not say it."""
    pattern = re.compile(rf"""^\s*\[?\s*["']?{re.escape(name)}["']?\s*[=\].]""")
    return next((number for number, line in enumerate(text.splitlines(), 1) if pattern.match(line)), None)


def _take_variables(environ: Mapping[str, str], values: dict[str, Any], origins: dict[str, str]) -> None:
    settings = {PREFIX + name.upper(): name for name in ServerSettings.__struct_fields__}
    for variable, text in environ.items():
        if not variable.startswith(PREFIX) or variable in OTHER_VARIABLES:
            continue
        name = settings.get(variable)
        if name is None:
            close = suggestion(variable, (*settings, *OTHER_VARIABLES))
            raise SettingsError(f"the variable {variable} is not a setting{close or '; `lagar config` lists them'}")
        origins[name] = variable
        values[name] = _typed(name, _absolute(name, _from_text(name, text), Path.cwd()), variable)


_TYPES: Final = {field.name: field.type for field in msgspec.structs.fields(ServerSettings)}


def _from_text(name: str, text: str) -> Any:
    """The text of a variable as the setting's type, or the text itself when it does not read as one."""
    kind = _TYPES[name]
    stripped = text.strip()
    if name == "workers" and stripped.isdecimal():
        return int(stripped)
    try:
        if name == "grpc_port" or (kind is int and name != "max_memory"):
            return int(stripped)
        if kind is float:
            return float(stripped)
    except ValueError:
        return text
    if kind is bool:
        word = stripped.lower()
        return True if word in _TRUE else False if word in _FALSE else text
    if name in _LISTS:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _absolute(name: str, value: Any, base: Path) -> Any:
    """Paths are kept absolute: relative ones of server.toml lie in the home, others in the current folder."""
    if name in _PATHS and isinstance(value, (str, Path)) and str(value):
        return str(base / Path(value).expanduser())
    return value


def _typed(name: str, value: Any, origin: str) -> Any:
    """The value as the type of its setting; raises SettingsError that says what was wanted and what was seen."""
    kind = _TYPES[name]
    if name == "max_memory" and isinstance(value, str):
        value = _bytes(value)
    if isinstance(value, bool) and kind is not bool:
        raise SettingsError(f"{name} ({origin}) must be {_wanted(name)}, got {_shown(value)}")
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        raise SettingsError(f"{name} ({origin}) must be {_wanted(name)}, got {_shown(value)}") from None


def _bytes(text: str) -> int | str:
    """A size like "2GB", "500 MiB" or "1073741824" in bytes; the text itself when it is none."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    unit = None if match is None else _UNITS.get(match[2].upper())
    return text if match is None or unit is None else int(float(match[1]) * unit)


def size_words(size: int) -> str:
    """Bytes as people read them: "1.5 GB"."""
    for unit in ("TB", "GB", "MB", "kB"):
        if size >= _UNITS[unit.upper()]:
            return f"{size / _UNITS[unit.upper()]:.3g} {unit}"
    return f"{size} bytes"


def worker_range(workers: int | str) -> tuple[int, int] | None:
    """Least and most workers of "2:8" or 4; None for what is neither."""
    if isinstance(workers, int):
        return workers, workers
    match = re.fullmatch(r"(\d{1,4}):(\d{1,4})", workers.strip())
    return None if match is None else (int(match[1]), int(match[2]))


def _wanted(name: str) -> str:
    kind = _TYPES[name]
    if name == "workers":
        return "a whole number, or MIN:MAX"
    if name == "max_memory":
        return "a size like 2GB or 500MiB"
    if kind is int or name == "grpc_port":
        return "a whole number"
    if kind is float:
        return "a number"
    if kind is bool:
        return "true or false"
    if name in _LISTS:
        return _LISTS[name]
    choices = getattr(kind, "__args__", ())
    if choices and all(isinstance(choice, str) for choice in choices):
        return " or ".join(repr(choice) for choice in choices)
    return "text"


def _shown(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _check(server: ServerSettings, origins: dict[str, str]) -> None:
    """Refuse what cannot be meant: ranges, and settings that contradict each other."""

    def refuse(name: str, rule: str) -> None:
        raise SettingsError(f"{name} ({origins[name]}) {rule}, got {_shown(getattr(server, name))}")

    if not server.host.strip() or any(c.isspace() or c in "/@" for c in server.host):
        refuse("host", "must be a host name or an address")
    if not 0 <= server.port <= 65535:
        refuse("port", "must be between 0 (any free port) and 65535")
    if server.grpc_port is not None and not 0 <= server.grpc_port <= 65535:
        refuse("grpc_port", "must be between 0 (any free port) and 65535")
    if server.grpc_port and server.grpc_port == server.port:
        refuse("grpc_port", "must not be that of HTTP")
    _check_metrics(server, refuse)
    workers = worker_range(server.workers)
    if workers is None or (isinstance(server.workers, str) and not 1 <= workers[0] <= workers[1]):
        refuse("workers", "must be a number, or MIN:MAX like 2:8 with MIN at least 1 and MAX not below it")
    elif not 0 <= workers[0] <= workers[1] <= 1024:
        refuse("workers", "must be between 0 (one per core) and 1024")
    if server.max_memory < 0 or 0 < server.max_memory < 1_000_000:
        refuse("max_memory", "must be 0 (three quarters of the machine's) or at least 1 MB")
    for pin in server.pin:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*(@[A-Za-z0-9][A-Za-z0-9._-]*)?", pin):
            refuse("pin", "must hold NAME or NAME@VERSION")
    if server.root_path and not re.fullmatch(r"(/[A-Za-z0-9._~-]*[A-Za-z0-9_~-])+", server.root_path):
        refuse("root_path", 'must be a plain path like "/mlapi": a slash first, none last')
    for name in ("predict_route", "health_route"):
        if not re.fullmatch(r"((/[A-Za-z0-9._~:@-]+)+)?", getattr(server, name)):
            refuse(name, "must be a plain path like /predictions: a slash first, none last")
    for name in _POSITIVE:
        if not 0 < getattr(server, name) < math.inf:
            refuse(name, "must be more than 0")
    if not 0 <= server.drain_timeout_s < math.inf:
        refuse("drain_timeout_s", "must not be less than 0")
    if not 0 <= server.shadow_check <= 1:
        refuse("shadow_check", "must be a share between 0 (no rows) and 1 (all)")
    if server.max_header_bytes < 1024:
        refuse("max_header_bytes", "must be at least 1024")
    if server.compress_answers_bytes < 0 or server.cors_max_age_s < 0:
        refuse(
            "compress_answers_bytes" if server.compress_answers_bytes < 0 else "cors_max_age_s", "must not be below 0"
        )
    _check_cors(server, refuse)
    _check_tls(server, origins)
    if server.trusted_proxies:
        _check_proxies(server, origins)


def _check_metrics(server: ServerSettings, refuse: Callable[[str, str], None]) -> None:
    if not 0 <= server.metrics_port <= 65535:
        refuse("metrics_port", "must be between 0 (none) and 65535")
    if server.metrics_port and server.metrics_port in (server.port, server.grpc_port):
        refuse("metrics_port", "must not be that of HTTP or gRPC")
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", server.metrics_endpoint):
        refuse("metrics_endpoint", 'must be a plain path like "/metrics"')
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", server.metrics_rest_prefix):
        refuse("metrics_rest_prefix", "must be letters, digits and _")


def _check_cors(server: ServerSettings, refuse: Callable[[str, str], None]) -> None:
    for origin in server.cors_origins:
        if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s?#]+|null", origin):
            refuse("cors_origins", 'must hold origins like "https://shop.example" without a path, or "*"')
    try:
        re.compile(server.cors_origin_regex)
    except re.error as error:
        refuse("cors_origin_regex", f"must be a regular expression ({error})")
    for name, pattern in (
        ("cors_methods", r"[A-Z]+|\*"),
        ("cors_headers", _HEADER_NAME),
        ("cors_expose", _HEADER_NAME),
    ):
        if not all(re.fullmatch(pattern, word) for word in getattr(server, name)):
            refuse(name, f"must be {_LISTS[name]}")
    if server.cors_credentials and "*" in server.cors_origins:
        refuse(
            "cors_origins", "must name the origins where cors_credentials is on: any site could act for its visitors"
        )


def _check_tls(server: ServerSettings, origins: dict[str, str]) -> None:
    if (server.tls_cert is None) != (server.tls_key is None):
        given, missing = ("tls_cert", "tls_key") if server.tls_key is None else ("tls_key", "tls_cert")
        raise SettingsError(
            f"{given} ({origins[given]}) is set but {missing} is not: TLS needs both, give {missing} too"
        )
    for name in _PATHS:
        path = getattr(server, name)
        if path is not None and not os.access(path, os.R_OK):
            reason = "cannot be read" if os.path.exists(path) else "does not exist"
            raise SettingsError(f"{name} ({origins[name]}): the file {path} {reason}")
        if path is not None and os.path.isdir(path):
            raise SettingsError(f"{name} ({origins[name]}): {path} is a folder, a PEM file is wanted")


def _check_proxies(server: ServerSettings, origins: dict[str, str]) -> None:
    import ipaddress

    for proxy in server.trusted_proxies:
        try:
            ipaddress.ip_network(proxy)
        except ValueError as error:
            raise SettingsError(
                f"trusted_proxies ({origins['trusted_proxies']}) must hold addresses or networks like 10.0.0.0/8, "
                f"got {proxy!r}: {error}"
            ) from None
