"""`lagar serve`: model files in, an HTTP service out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lagar import settings
from lagar.cli.panels import Panels
from lagar.errors import SettingsError

app = typer.Typer(add_completion=False, rich_markup_mode=None)

WHAT, WHERE, MACHINE, FORMS = "What to serve", "Where, and to whom", "The machine", "Faster forms"
ANSWERS, LIMITS, TIMES = "Answers and logs", "Limits", "Times in seconds"
PAGES = "Pages of other sites (CORS)"


def _option(panel: str, help: str, metavar: str | None = None, *flags: str, **more: Any) -> Any:
    return typer.Option(*flags, help=help, metavar=metavar, rich_help_panel=panel, **more)


@app.command(cls=Panels, context_settings={"max_content_width": 100})
def serve(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH...",
            help="Model files, folders with a lagar.toml, MLflow folders, or folders of them, also as "
            "s3://BUCKET/PREFIX; NAME/VERSION/ or NAME-vVERSION/ inside gives versions, and the greatest answers.",
            show_default=False,
            rich_help_panel=WHAT,
        ),
    ] = None,
    name: Annotated[
        str | None, _option(WHAT, "Name of the model, when one is served.", "NAME", "--name", "--model_name")
    ] = None,
    model_dir: Annotated[
        str | None, _option(WHAT, "KServe's way to say the one PATH.", "PATH", "--model-dir", "--model_dir")
    ] = None,
    watch: Annotated[bool | None, _option(WHAT, "Let what changes at the paths go live.", None, "--watch")] = None,
    example: Annotated[
        Path | None, _option(WHAT, "Rows (CSV, Parquet, JSON) that say names, types, ranges.", "FILE")
    ] = None,
    code: Annotated[
        list[Path] | None,
        _option(WHAT, "A .py file or folder that it needs; may be repeated.", "PATH", readable=False),
    ] = None,
    trust: Annotated[
        bool,
        _option(WHAT, "Open pickles that name other code than is allowed: it can do what you can.", None, "--trust"),
    ] = False,
    debug: Annotated[
        bool | None, _option(WHAT, "Watch paths and code, and log full tracebacks.", None, "--debug")
    ] = None,
    host: Annotated[
        str | None,
        _option(WHERE, "Address to listen on [127.0.0.1]; any other one needs API keys or --no-auth.", "ADDRESS"),
    ] = None,
    port: Annotated[
        int | None,
        _option(WHERE, "Port to listen on [8080]; 0 takes any free one.", "PORT", "--port", "--http_port"),
    ] = None,
    grpc_port: Annotated[
        int | None,
        _option(WHERE, "Port for V2 gRPC [none]; 0 takes any free one.", "PORT", "--grpc-port", "--grpc_port"),
    ] = None,
    metrics_port: Annotated[int | None, _option(WHERE, "Tell metrics on this port too [none].", "PORT")] = None,
    metrics_endpoint: Annotated[str | None, _option(WHERE, "Their path there [/metrics].", "PATH")] = None,
    no_auth: Annotated[
        bool | None, _option(WHERE, "Ask for no API keys, whatever the address.", None, "--no-auth")
    ] = None,
    tls_cert: Annotated[str | None, _option(WHERE, "PEM certificate chain: serve HTTPS.", "FILE")] = None,
    tls_key: Annotated[str | None, _option(WHERE, "PEM private key of the certificate.", "FILE")] = None,
    root_path: Annotated[
        str | None, _option(WHERE, "Prefix under which a proxy publishes this, such as /mlapi.", "PATH")
    ] = None,
    predict_route: Annotated[str | None, _option(WHERE, "A further path for /invocations [none].", "PATH")] = None,
    health_route: Annotated[str | None, _option(WHERE, "A further path for /ping [none].", "PATH")] = None,
    trusted_proxies: Annotated[
        list[str] | None, _option(WHERE, "Whose X-Forwarded-* headers are believed; may be repeated.", "ADDRESS")
    ] = None,
    workers: Annotated[
        str | None,
        _option(MACHINE, "Processes that predict [one per core]; MIN:MAX adds some under load.", "N|MIN:MAX"),
    ] = None,
    workers_idle_s: Annotated[
        float | None, _option(MACHINE, "With MIN:MAX, idle time that drops one [60].", "SECONDS")
    ] = None,
    max_memory: Annotated[
        str | None, _option(MACHINE, "For loaded versions, such as 2GB [3/4 of what there is].", "SIZE")
    ] = None,
    pin: Annotated[list[str] | None, _option(MACHINE, "What stays loaded; may be repeated.", "NAME[@VERSION]")] = None,
    compile: Annotated[
        str | None, _option(FORMS, "Build them beside [background], first, or not at all.", "background|wait|off")
    ] = None,
    shadow_check: Annotated[
        float | None, _option(FORMS, "Share of rows that the original answers too [0.0001].", "SHARE")
    ] = None,
    on_violation: Annotated[
        str | None, _option(FORMS, "While a wrong one is replaced, answer 503 or go on [swap].", "swap|keep")
    ] = None,
    default_model: Annotated[
        str | None, _option(ANSWERS, "Which one /predict asks, of several [none].", "NAME")
    ] = None,
    load_at_start: Annotated[
        bool | None,
        _option(
            ANSWERS,
            "Serve models of paths before V2's load asks for them [on].",
            None,
            "--load-at-start/--no-load-at-start",
        ),
    ] = None,
    metrics_aliases: Annotated[
        str | None, _option(ANSWERS, "Tell metrics under MLServer's names too [none].", "none|mlserver")
    ] = None,
    metrics_rest_prefix: Annotated[str | None, _option(ANSWERS, "Of those for HTTP [rest_server].", "NAME")] = None,
    log_format: Annotated[str | None, _option(ANSWERS, "How the log is written [console].", "console|json")] = None,
    log_level: Annotated[str | None, _option(ANSWERS, "debug, info, warning or error [info].", "LEVEL")] = None,
    fast_lane: Annotated[
        bool | None, _option(ANSWERS, "Predict without the web framework [on].", None, "--fast-lane/--no-fast-lane")
    ] = None,
    compress_answers_bytes: Annotated[
        int | None, _option(ANSWERS, "Compress larger ones for who accepts it [0: never].", "BYTES")
    ] = None,
    max_body_bytes: Annotated[int | None, _option(LIMITS, "Of a request's body [64 MiB].", "BYTES")] = None,
    max_upload_bytes: Annotated[int | None, _option(LIMITS, "Of a version pushed over HTTP [4 GiB].", "BYTES")] = None,
    max_header_bytes: Annotated[int | None, _option(LIMITS, "Of request line and headers [32 KiB].", "BYTES")] = None,
    max_rows: Annotated[int | None, _option(LIMITS, "In one request [100000].", "ROWS")] = None,
    queue_rows: Annotated[int | None, _option(LIMITS, "That wait per model [200000].", "ROWS")] = None,
    max_connections: Annotated[int | None, _option(LIMITS, "Open per worker [10000].", "COUNT")] = None,
    request_timeout_s: Annotated[
        float | None, _option(TIMES, "Of a prediction; a caller may ask for less [30].", "S")
    ] = None,
    header_timeout_s: Annotated[float | None, _option(TIMES, "For a request's headers to arrive [10].", "S")] = None,
    body_timeout_s: Annotated[float | None, _option(TIMES, "For a request's body to arrive [30].", "S")] = None,
    write_timeout_s: Annotated[float | None, _option(TIMES, "For a client to take its answer [30].", "S")] = None,
    keep_alive_timeout_s: Annotated[float | None, _option(TIMES, "That an idle connection is kept [75].", "S")] = None,
    host_idle_s: Annotated[float | None, _option(TIMES, "That an unused environment runs on [900].", "S")] = None,
    drain_timeout_s: Annotated[
        float | None, _option(TIMES, "To answer what was accepted, at the end [30].", "S")
    ] = None,
    cors_origins: Annotated[
        list[str] | None, _option(PAGES, "Whose may read answers, or *; may be repeated [none].", "ORIGIN")
    ] = None,
    cors_origin_regex: Annotated[str | None, _option(PAGES, "The same as a regular expression.", "REGEX")] = None,
    cors_methods: Annotated[
        list[str] | None, _option(PAGES, "What they may ask; may be repeated [GET, HEAD, POST].", "METHOD")
    ] = None,
    cors_headers: Annotated[
        list[str] | None, _option(PAGES, "Headers they may send; may be repeated [any].", "HEADER")
    ] = None,
    cors_expose: Annotated[
        list[str] | None, _option(PAGES, "Headers they may read; may be repeated [none].", "HEADER")
    ] = None,
    cors_credentials: Annotated[
        bool | None, _option(PAGES, "Let them send what the browser keeps for this server.", None, "--cors-credentials")
    ] = None,
    cors_max_age_s: Annotated[int | None, _option(PAGES, "That a browser remembers this [600].", "S")] = None,
) -> int:
    """Serve model files over HTTP: predictions, forms, documentation and metrics on one port.

    \b
    lagar serve model.joblib
    lagar serve churn.bin --name churn --example customers.csv
    lagar serve models/ --watch --host 0.0.0.0 --workers 4
    lagar serve                            (what is in production; see `lagar push`)

    The model's name is --name, or the name in lagar.toml, or that of the file. Every setting can also be a LAGAR_*
    variable or a line of server.toml in $LAGAR_HOME; `lagar config` shows them.

    SIGTERM or Ctrl-C stops accepting connections, answers every request that was accepted, and exits 0; a second one
    stops at once.
    """
    given = dict(locals())
    asked_names = ("paths", "name", "model_dir", "code", "example", "trust")
    flags = {flag: _listed(value) for flag, value in given.items() if flag not in asked_names}
    paths = [*(paths or []), *([model_dir] if model_dir else [])]
    loaded = settings.load(flags, beneath=_beneath(paths))

    from lagar.registry.model import Asked
    from lagar.server import main

    container = loaded.container
    if not paths and container is not None and container.path:
        paths, name = [container.path], name or container.name
        loaded = settings.load(flags, beneath=_beneath(paths))
    asked = Asked(
        paths=tuple(_place(path) for path in paths),
        name=name,
        code=tuple(_absolute(path) for path in code or ()),
        example=_absolute(example) if example is not None else None,
        trust=trust,
    )
    return main.serve(loaded, asked)


def _beneath(paths: list[str]) -> dict[str, tuple[Any, str]]:
    """What a folder of MLServer's says of its server, where one is served."""
    if len(paths) != 1 or "://" in paths[0]:
        return {}
    from lagar.intake import mlserver_server

    return mlserver_server.said(Path(_absolute(Path(paths[0]))))


def _place(path: str) -> str:
    """A path of S3, or an absolute one of this machine; raises SettingsError for a place that is not read."""
    if path.startswith("s3://"):
        return path
    if "://" in path:
        raise SettingsError(
            f"{path}: models are read from this machine and from s3://BUCKET/PREFIX; fetch it into the image, or onto "
            "the machine, and name its path"
        )
    return _absolute(Path(path))


def _absolute(path: Path) -> str:
    return str(path.expanduser().absolute())


def _listed(value: Any) -> Any:
    """A repeatable flag's values, each of which may be a comma-separated list; none given is None."""
    if isinstance(value, (list, tuple)):
        return [part.strip() for item in value for part in item.split(",") if part.strip()] or None
    return value
