"""MLServer's `settings.json` and `MLSERVER_*` variables as settings of this server.

Every field of MLServer's is taken over, says nothing here for a reason that docs/mlserver.md gives, or is refused by
name. The file comes before the variables, as in MLServer; both come after Lagar's own flags and variables.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from lagar import settings
from lagar.errors import SettingsError, SetupError
from lagar.intake import mlserver
from lagar.intake.mlserver_fields import Fields, read_json, variables_of

NAME: Final = "settings.json"
Said = dict[str, tuple[Any, str]]
"""Setting of Lagar → value, and where it was said."""

_DEFAULTS: Final[dict[str, Any]] = {"metrics_port": 8082, "metrics_aliases": "mlserver", "grpc_port": 8081}
"""What is on where MLServer has it on, though Lagar has not."""
_REFUSED: Final = {
    "kafka_enabled": "requests come over HTTP and gRPC only; leave Kafka to a consumer that calls this server",
    "tracing_server": "no traces are sent; each answer and log line has an X-Request-Id to follow a request by",
    "model_repository_implementation": "models are found in folders, on S3 (lagar serve s3://…) and in the catalog "
    "(lagar push); remove the field and name one of these",
    "logging_settings": "say LAGAR_LOG_FORMAT (console or json) and LAGAR_LOG_LEVEL instead",
    "_custom_rest_server_settings": "the settings of `lagar config` are the whole of them",
    "_custom_metrics_server_settings": "the settings of `lagar config` are the whole of them",
    "_custom_grpc_server_settings": "the settings of `lagar config` are the whole of them",
}
_SILENT: Final = {
    "model_repository_implementation_args": "there is no other implementation",
    "server_name": "GET /v2 tells the truth",
    "server_version": "GET /v2 tells the truth",
    "extensions": "GET /v2 tells the truth",
    "environments_dir": "environments lie in the home",
    "metrics_dir": "counts are kept in the home's run folder",
    "cache_enabled": "every answer is computed",
}
_KNOWN: Final = (
    "debug", "parallel_workers", "parallel_workers_timeout", "environments_dir", "model_repository_implementation",
    "model_repository_root", "model_repository_implementation_args", "load_models_at_startup", "server_name",
    "server_version", "extensions", "host", "http_port", "root_path", "grpc_port", "grpc_max_message_length",
    "cors_settings", "metrics_endpoint", "metrics_port", "metrics_rest_server_prefix", "metrics_dir",
    "use_structured_logging", "logging_settings", "kafka_enabled", "kafka_servers", "kafka_topic_input",
    "kafka_topic_output", "tracing_server", "cache_enabled", "cache_size", "gzip_enabled",
    "_custom_rest_server_settings", "_custom_metrics_server_settings", "_custom_grpc_server_settings",
)  # fmt: skip
_CORS: Final[dict[str, str]] = {
    "allow_origins": "cors_origins", "allow_origin_regex": "cors_origin_regex", "allow_methods": "cors_methods",
    "allow_headers": "cors_headers", "expose_headers": "cors_expose", "allow_credentials": "cors_credentials",
    "max_age": "cors_max_age_s",
}  # fmt: skip
_SAFE_HEADERS: Final = ("accept", "accept-language", "content-language", "content-type")
"""What MLServer's framework lets pages send whatever else is set."""
_GZIP_FROM: Final = 500
"""Bytes from which MLServer compresses an answer."""


def is_folder(folder: Path) -> bool:
    """Whether MLServer would find a model in a folder, or where its settings say that models are; raises SetupError."""
    if mlserver.is_folder(folder):
        return True
    try:
        fields = _fields(folder)
    except SetupError:  # a settings.json that is no JSON may be anybody's
        return False
    return fields.given("model_repository_root") and mlserver.is_folder(root_of(folder))


def root_of(folder: Path) -> Path:
    """The folder in which models are looked for: `model_repository_root`, relative to the served one."""
    fields = _fields(folder)
    root = folder / fields.text("model_repository_root", ".")
    if not root.is_dir():
        raise SetupError(f"{fields.origin('model_repository_root')}: model_repository_root is no folder: {root}")
    return root.absolute() if root != folder else folder


def said(folder: Path) -> Said:
    """What a folder of MLServer's says of the server, {} for another folder; raises SettingsError."""
    try:
        return _said(folder)
    except SetupError as error:
        raise SettingsError(error.message) from None


def _said(folder: Path) -> Said:
    if not folder.is_dir() or not is_folder(folder):
        return {}
    fields = _fields(folder)
    for name, why in _REFUSED.items():
        fields.refuse(name, why)
    found: Said = {name: (value, f"MLServer's default beside {mlserver.NAME}") for name, value in _DEFAULTS.items()}
    for name, (setting, read) in _taken().items():
        if fields.given(name):
            found[setting] = (read(fields, name), fields.origin(name))
    if "metrics_endpoint" in _written(folder) and not fields.given("metrics_endpoint"):
        found["metrics_port"] = (0, str(folder / NAME))  # null: no metrics there
    return found | _cors(folder, fields)


def _taken() -> dict[str, tuple[str, Callable[[Fields, str], Any]]]:
    """Field → the setting that it becomes, and how it is read."""
    return {
        "debug": ("log_level", lambda fields, name: "debug" if fields.boolean(name) else "info"),
        "parallel_workers": ("workers", lambda fields, name: max(1, fields.whole(name))),
        "parallel_workers_timeout": ("drain_timeout_s", Fields.number),
        "host": ("host", Fields.text),
        "http_port": ("port", Fields.whole),
        "root_path": ("root_path", lambda fields, name: fields.text(name).rstrip("/")),
        "grpc_port": ("grpc_port", Fields.whole),
        "grpc_max_message_length": (
            "max_body_bytes", lambda fields, name: max(fields.whole(name), settings.ServerSettings().max_body_bytes),
        ),
        "metrics_port": ("metrics_port", Fields.whole),
        "metrics_endpoint": ("metrics_endpoint", Fields.text),
        "metrics_rest_server_prefix": ("metrics_rest_prefix", Fields.text),
        "load_models_at_startup": ("load_at_start", Fields.boolean),
        "use_structured_logging": (
            "log_format", lambda fields, name: "json" if fields.boolean(name) else "console",
        ),
        "gzip_enabled": (
            "compress_answers_bytes", lambda fields, name: _GZIP_FROM if fields.boolean(name) else 0,
        ),
    }  # fmt: skip


def _cors(folder: Path, fields: Fields) -> Said:
    """`cors_settings` of the file; its fields have variables of their own, without the word cors."""
    content = fields.table("cors_settings")
    cors = Fields(folder / NAME, content, _variables(folder), "mlserver_")
    found: Said = {}
    for name, setting in _CORS.items():
        if not cors.given(name):
            continue
        value: Any
        if name == "allow_origin_regex":
            value = cors.text(name)
        elif name == "allow_credentials":
            value = cors.boolean(name)
        elif name == "max_age":
            value = cors.whole(name)
        else:
            value = [str(item) for item in cors.listed(name)]
        found[setting] = (value, cors.origin(name))
    if found:
        origin = f"MLServer's default beside {mlserver.NAME}"
        found.setdefault("cors_methods", (["GET"], origin))
        headers, where = found.get("cors_headers", ([], origin))
        if "*" not in headers:
            found["cors_headers"] = ([*headers, *(name for name in _SAFE_HEADERS if name not in headers)], where)
    return found


def _fields(folder: Path) -> Fields:
    return Fields(folder / NAME, _written(folder), _variables(folder), "mlserver_")


def _written(folder: Path) -> dict[str, Any]:
    path = folder / NAME
    return read_json(path) if path.is_file() else {}


def _variables(folder: Path) -> dict[str, str]:
    return variables_of(folder, settings.mlserver_variables())


def unheard(folder: Path) -> list[str]:
    """A line for each key that says nothing here, because MLServer does not know it or because there is no need."""
    fields = _fields(folder)
    return fields.unknown(_KNOWN) + fields.silent(_SILENT)
