"""The composition root of `lagar serve`: every concrete part is named and joined here."""

from __future__ import annotations

import asyncio
import resource
import ssl
import sys
from pathlib import Path

import msgspec

from lagar.errors import SettingsError
from lagar.logs import open_log
from lagar.registry.model import ModelInfo, ModelSource
from lagar.server import limits
from lagar.server.hosts import Hosts
from lagar.server.sockets import Listeners, open_listeners, open_unix_listener
from lagar.server.supervisor import Folders, Served, Supervisor
from lagar.settings import LoadedSettings, ServerSettings, catalog_url, child_environment, no_colour, require_auth

SPARE_FILES = 1024
"""Open files of a process beside its connections: libraries, models, sockets."""


class Asked(msgspec.Struct, frozen=True):
    """The models that the command line asks for."""

    paths: tuple[Path, ...]
    name: str | None = None
    code: tuple[Path, ...] = ()
    example: Path | None = None
    trust: bool = False


def serve(loaded: LoadedSettings, asked: Asked) -> int:
    """Run a server until a signal ends it; the exit code is that of `Supervisor.run`.

    Raises SetupError, one line, for everything that keeps it from starting: the models, the keys, the certificate,
    the address, the home.
    """
    # SQLAlchemy and the catalog are needed at the start only; the workers are told the keys
    from lagar.registry.catalog import open_catalog
    from lagar.registry.home import open_home
    from lagar.registry.keys import has_valid, list_keys
    from lagar.server.auth import key_rows

    settings = loaded.server
    served = find_served(asked)
    check_default_model(settings, served)
    check_tls(settings)
    home = open_home(loaded.home)
    with open_catalog(home, catalog_url()) as catalog:
        keys = list_keys(catalog)
    require_auth(settings, has_valid(keys))
    available = limits.cores()
    workers = limits.worker_count(settings.workers, available)
    threads = limits.thread_count(workers, available)
    log = open_log(settings.log_format, settings.log_level, no_colour=no_colour(), process="supervisor")
    allow_open_files(settings.max_connections + SPARE_FILES)
    environment = child_environment(limits.thread_variables(threads) | {"PYTHONUNBUFFERED": "1"})
    listeners = open_listeners(settings.host, settings.port, workers)
    try:
        with home.run_folder() as run_folder:
            folders = Folders(
                home=loaded.home, control_socket=run_folder / "control.sock", metrics=run_folder / "metrics"
            )
            folders.metrics.mkdir(mode=0o700)
            with open_unix_listener(folders.control_socket) as control_listener:
                supervisor = Supervisor(
                    settings=settings,
                    served=served,
                    folders=folders,
                    listeners=listeners,
                    control_listener=control_listener,
                    keys=key_rows(keys),
                    threads=threads,
                    environment=environment,
                    log=log,
                    announce=lambda models: write_ready_line(settings, listeners, models),
                    find_served=lambda: find_served(asked),
                    url=server_url(settings, listeners.port),
                )
                hosts = Hosts(run_folder, environment, settings.host_idle_s, log)
                return asyncio.run(_run(supervisor, hosts))
    finally:
        listeners.close()


async def _run(supervisor: Supervisor, hosts: Hosts) -> int:
    async with hosts:  # they end after the workers
        return await supervisor.run()


def find_served(asked: Asked) -> Served:
    """What the paths hold now, and every path whose change matters."""
    if not asked.paths:
        return Served((), {}, from_catalog=True)
    from lagar.intake.inspect import find_models

    found = find_models(
        list(asked.paths), name=asked.name, code=list(asked.code), example=asked.example, trust=asked.trust
    )
    given = [*asked.paths, *asked.code, *([asked.example] if asked.example else [])]
    watched = {path.expanduser().absolute() for path in given}
    for source in found.sources:
        watched.update(map(Path, _files_of(source)))
    return Served(found.sources, found.live, tuple(sorted(watched)), skipped=found.skipped)


def _files_of(source: ModelSource) -> list[str]:
    return [path for path in (source.path, source.folder, source.handlers, *source.code) if path is not None]


def check_default_model(settings: ServerSettings, served: Served) -> None:
    """Raise SettingsError when the default model is not among those served."""
    if settings.default_model and not served.from_catalog and settings.default_model not in served.live:
        raise SettingsError(
            f"default_model must be one of the models served ({', '.join(served.live)}), got {settings.default_model!r}"
        )


def check_tls(settings: ServerSettings) -> None:
    """Raise SettingsError when the certificate and the key cannot be used together."""
    if settings.tls_cert is None or settings.tls_key is None:
        return

    def no_password() -> str:
        raise SettingsError(
            f"tls_key {settings.tls_key} is protected by a password, which a server cannot type; "
            f"write it without one: openssl pkey -in {settings.tls_key} -out key.pem"
        )

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_cert, settings.tls_key, no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            rule = f"tls_key {settings.tls_key} does not belong to tls_cert {settings.tls_cert}"
        else:
            rule = f"tls_cert {settings.tls_cert} and tls_key {settings.tls_key} must be PEM files"
        raise SettingsError(
            f"{rule} ({error.reason or 'no PEM data'}); give the certificate chain and its own key"
        ) from None
    except OSError as error:
        raise SettingsError(f"{error.filename or settings.tls_cert} cannot be read: {error.strerror}") from None


def allow_open_files(count: int) -> None:
    """Let this process and its children open that many files, as far as the hard limit goes: shells give 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def server_url(settings: ServerSettings, port: int) -> str:
    """The address of the server: "https://[::1]:8443"."""
    host = settings.host.strip("[]")
    return f"{'https' if settings.tls_cert else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def write_ready_line(settings: ServerSettings, listeners: Listeners, models: tuple[ModelInfo, ...]) -> None:
    """The last line of the start, on stderr: what is served, and where."""
    url, names = server_url(settings, listeners.port), [f"{model.name}@{model.version}" for model in models]
    workers = len(listeners.sockets)
    if settings.log_format == "json":
        line = msgspec.json.encode(
            {"event": "ready", "url": url, "port": listeners.port, "models": names, "workers": workers}
        ).decode()
    else:
        line = f"lagar: ready at {url}  models: {' '.join(names) or 'none'}  workers: {workers}"
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
