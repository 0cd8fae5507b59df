"""The composition root of `lagar serve`: every concrete part is named and joined here."""

from __future__ import annotations

import asyncio
import resource
import ssl
import sys
from functools import partial

import msgspec

from lagar.errors import SettingsError
from lagar.logs import open_log
from lagar.registry.home import open_home
from lagar.registry.model import Asked, ModelInfo
from lagar.server import limits
from lagar.server.briefing import Facts, Folders
from lagar.server.hosts import Hosts
from lagar.server.sockets import Ports, open_listeners, open_ports, open_unix_listener
from lagar.server.supervisor import Supervisor
from lagar.settings import LoadedSettings, ServerSettings, child_environment, no_colour, worker_range

SPARE_FILES = 1024
"""Open files of a process beside its connections: libraries, models, sockets."""


def serve(loaded: LoadedSettings, asked: Asked) -> int:
    """Run a server until a signal ends it; the exit code is that of `Supervisor.run`.

    Raises SetupError, one line, for everything that keeps it from starting: the models, the keys, the certificate,
    the address, the home.
    """
    settings = loaded.server
    check_watch(settings, asked)
    check_tls(settings)
    home = open_home(loaded.home)
    available = limits.cores()
    workers, most_workers = limits.worker_counts(settings.workers, available)
    threads = limits.thread_count(most_workers, available)
    log = open_log(settings.log_format, settings.log_level, no_colour=no_colour(), process="supervisor")
    allow_open_files(settings.max_connections + SPARE_FILES)
    environment = child_environment(limits.thread_variables(threads) | {"PYTHONUNBUFFERED": "1"})
    asked_ports = {"http": settings.port} | ({} if settings.grpc_port is None else {"grpc": settings.grpc_port})
    ports = open_ports(settings.host, asked_ports, workers)
    metrics = None
    try:
        if settings.metrics_port:
            metrics = open_listeners(settings.host, settings.metrics_port, 1, flag="--metrics-port")
        with home.run_folder() as run_folder:
            folders = Folders(
                home=loaded.home, control_socket=run_folder / "control.sock", metrics=run_folder / "metrics"
            )
            folders.metrics.mkdir(mode=0o700)
            facts = Facts(
                settings=settings,
                asked=asked,
                cores=max(1, int(available)),
                folders=folders,
                port=ports.numbers["http"],
                url=server_url(settings, ports.numbers["http"]),
                threads=threads,
                memory_bytes=settings.max_memory or limits.memory_bytes() * 3 // 4,
                most_workers=most_workers,
            )
            with open_unix_listener(folders.control_socket) as control_listener:
                control = {"control": control_listener} | ({} if metrics is None else {"metrics": metrics.sockets[0]})
                announce = partial(write_ready_line, settings, ports)
                supervisor = Supervisor(facts, ports, control, environment, log, announce)
                hosts = Hosts(run_folder, environment, settings.host_idle_s, log)
                return asyncio.run(_run(supervisor, hosts))
    finally:
        ports.close()
        if metrics is not None:
            metrics.close()


async def _run(supervisor: Supervisor, hosts: Hosts) -> int:
    async with hosts:  # they end after the workers
        return await supervisor.run()


def check_watch(settings: ServerSettings, asked: Asked) -> None:
    """Raise SettingsError when there is nothing to watch."""
    if settings.watch and not asked.paths:
        raise SettingsError(
            "watch is for paths, and none was given: lagar serve FOLDER --watch; without paths the server follows "
            "the catalog anyway"
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


def write_ready_line(settings: ServerSettings, ports: Ports, models: tuple[ModelInfo, ...]) -> None:
    """The last line of the start, on stderr: what is served, and where."""
    port, workers = ports.numbers["http"], len(ports.sockets)
    url, names = server_url(settings, port), [f"{model.name}@{model.version}" for model in models]
    _, most = worker_range(settings.workers) or (0, 0)
    more = {"max_workers": most} if most > workers else {}
    grpc = "" if "grpc" not in ports.numbers else server_url(settings, ports.numbers["grpc"]).partition("://")[2]
    if settings.log_format == "json":
        line = msgspec.json.encode(
            {"event": "ready", "url": url, "port": port, "models": names, "workers": workers}
            | more
            | ({"grpc": grpc} if grpc else {})
        ).decode()
    else:
        more_words = f" (up to {most})" if more else ""
        grpc_words = f"  grpc: {grpc}" if grpc else ""
        line = f"lagar: ready at {url}{grpc_words}  models: {' '.join(names) or 'none'}  workers: {workers}{more_words}"
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
