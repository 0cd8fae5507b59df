"""`lagar serve`: model files in, an HTTP service out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lagar import settings

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def serve(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH...",
            help="Model files, folders with a lagar.toml, MLflow folders, or folders of them, also as "
            "s3://BUCKET/PREFIX: NAME/VERSION/ or NAME-VERSION/ inside gives versions, and the greatest answers.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", "--model_name", help="Name of the model, when one is served.")
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on [127.0.0.1]; any other one needs API keys or --no-auth."),
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on [8080]; 0 takes any free one, the ready line says which.")
    ] = None,
    grpc_port: Annotated[
        int | None, typer.Option(help="Port for V2 gRPC [none]; 0 takes any free one, the ready line says which.")
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(
            help="Processes that answer predictions [0: one per core that the cgroup grants]; MIN:MAX adds some while "
            "requests wait."
        ),
    ] = None,
    workers_idle_s: Annotated[
        float | None, typer.Option(help="With MIN:MAX, time without waiting requests before one is dropped [60].")
    ] = None,
    max_memory: Annotated[
        str | None,
        typer.Option(help="Memory that loaded versions may take, such as 2GB [three quarters of what there is]."),
    ] = None,
    pin: Annotated[
        list[str] | None,
        typer.Option(help="Model, or NAME@VERSION, that stays loaded; may be repeated."),
    ] = None,
    root_path: Annotated[
        str | None, typer.Option(help="Prefix under which a proxy publishes this server, such as /mlapi.")
    ] = None,
    predict_route: Annotated[
        str | None, typer.Option(help="A further path for what /invocations answers [none].")
    ] = None,
    health_route: Annotated[str | None, typer.Option(help="A further path for what /ping answers [none].")] = None,
    tls_cert: Annotated[str | None, typer.Option(help="PEM file with the certificate chain: serve HTTPS.")] = None,
    tls_key: Annotated[str | None, typer.Option(help="PEM file with the certificate's private key.")] = None,
    watch: Annotated[
        bool | None,
        typer.Option("--watch", help="Let what changes at the paths go live: files, folders, what is removed."),
    ] = None,
    compile: Annotated[
        str | None,
        typer.Option(
            metavar="background|wait|off",
            help="Serve at once and switch to the proved faster form when there is one, wait for it, or build none.",
        ),
    ] = None,
    shadow_check: Annotated[
        float | None,
        typer.Option(help="Share of rows answered by a proved form that the original answers too [0.0001]."),
    ] = None,
    on_violation: Annotated[
        str | None,
        typer.Option(
            metavar="swap|keep", help="While the original of a form that was wrong starts: answer 503, or go on [swap]."
        ),
    ] = None,
    debug: Annotated[
        bool | None,
        typer.Option("--debug", help="Watch the paths and their code, and log full tracebacks."),
    ] = None,
    code: Annotated[
        list[Path] | None,
        typer.Option(
            help="A .py file or a folder with classes and functions that the model needs; may be repeated.",
            readable=False,
        ),
    ] = None,
    example: Annotated[
        Path | None,
        typer.Option(
            help="A CSV, Parquet or JSON file of rows: names, types, ranges and an example are taken from it."
        ),
    ] = None,
    trust: Annotated[
        bool,
        typer.Option("--trust", help="Open pickles that name code outside the allow-list: it can do anything you can."),
    ] = False,
    no_auth: Annotated[
        bool | None, typer.Option("--no-auth", help="Ask for no API keys, whatever the address.")
    ] = None,
    default_model: Annotated[
        str | None, typer.Option(help="The model that /predict asks, when several are served [none].")
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="console or json [console].")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error [info].")] = None,
    trusted_proxies: Annotated[
        list[str] | None,
        typer.Option(help="Address or network whose X-Forwarded-* headers are believed; may be repeated."),
    ] = None,
    fast_lane: Annotated[
        bool | None,
        typer.Option("--fast-lane/--no-fast-lane", help="Answer plain predictions without the web framework [on]."),
    ] = None,
    compress_answers_bytes: Annotated[
        int | None, typer.Option(help="Size from which answers are compressed for clients that accept it [0: never].")
    ] = None,
    max_body_bytes: Annotated[int | None, typer.Option(help="Largest request body [64 MiB].")] = None,
    max_upload_bytes: Annotated[int | None, typer.Option(help="Largest version pushed over HTTP [4 GiB].")] = None,
    max_header_bytes: Annotated[int | None, typer.Option(help="Largest request line and headers [32 KiB].")] = None,
    max_rows: Annotated[int | None, typer.Option(help="Most rows in one request [100000].")] = None,
    queue_rows: Annotated[
        int | None, typer.Option(help="Most rows that wait per model, over all workers [200000].")
    ] = None,
    max_connections: Annotated[int | None, typer.Option(help="Most open connections per worker [10000].")] = None,
    request_timeout_s: Annotated[
        float | None, typer.Option(help="Deadline of a prediction; a caller may ask for less [30].")
    ] = None,
    header_timeout_s: Annotated[float | None, typer.Option(help="Time for a request's headers to arrive [10].")] = None,
    body_timeout_s: Annotated[float | None, typer.Option(help="Time for a request's body to arrive [30].")] = None,
    write_timeout_s: Annotated[float | None, typer.Option(help="Time for a client to take its answer [30].")] = None,
    keep_alive_timeout_s: Annotated[float | None, typer.Option(help="Time an idle connection is kept [75].")] = None,
    host_idle_s: Annotated[
        float | None, typer.Option(help="Time until the process of an environment that is asked nothing ends [900].")
    ] = None,
    drain_timeout_s: Annotated[
        float | None, typer.Option(help="After SIGTERM or Ctrl-C, time to answer what was accepted [30].")
    ] = None,
    cors_origins: Annotated[
        list[str] | None, typer.Option(help="Site whose pages may read answers, or *; may be repeated.")
    ] = None,
    cors_origin_regex: Annotated[str | None, typer.Option(help="The same as a regular expression.")] = None,
    cors_methods: Annotated[
        list[str] | None, typer.Option(help="What such pages may ask; may be repeated [GET, HEAD, POST].")
    ] = None,
    cors_headers: Annotated[
        list[str] | None, typer.Option(help="Header that such pages may send; may be repeated [any].")
    ] = None,
    cors_expose: Annotated[
        list[str] | None, typer.Option(help="Header that such pages may read; may be repeated.")
    ] = None,
    cors_credentials: Annotated[
        bool | None,
        typer.Option("--cors-credentials", help="Let such pages send what the browser keeps for this server."),
    ] = None,
    cors_max_age_s: Annotated[int | None, typer.Option(help="Time a browser remembers this [600].")] = None,
) -> int:
    """Serve model files over HTTP: predictions, forms, documentation and metrics on one port.

    \b
    lagar serve model.joblib
    lagar serve churn.bin --name churn --example customers.csv
    lagar serve models/ --watch --host 0.0.0.0 --workers 4
    lagar serve                                       (what is in production in this home; see `lagar push`)

    The model's name is --name, or the name in lagar.toml, or that of the file. Every setting can also be a LAGAR_*
    variable or a line of server.toml in $LAGAR_HOME; `lagar config` shows them.

    SIGTERM or Ctrl-C stops accepting connections, answers every request that was accepted, and exits 0; a second one
    stops at once.
    """
    given = dict(locals())
    asked_names = ("paths", "name", "code", "example", "trust")
    flags = {flag: _listed(value) for flag, value in given.items() if flag not in asked_names}
    loaded = settings.load(flags, beneath=_beneath(paths or []))

    from lagar.registry.model import Asked
    from lagar.server import main

    container = loaded.container
    if not paths and container is not None and container.path:
        paths, name = [container.path], name or container.name
    asked = Asked(
        paths=tuple(path if path.startswith("s3://") else _absolute(Path(path)) for path in paths or ()),
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


def _absolute(path: Path) -> str:
    return str(path.expanduser().absolute())


def _listed(value: Any) -> Any:
    """A repeatable flag's values, each of which may be a comma-separated list; none given is None."""
    if isinstance(value, (list, tuple)):
        return [part.strip() for item in value for part in item.split(",") if part.strip()] or None
    return value
