"""`lagar predict`: a file of rows scored in this process, with the validation and the answers of the server."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from lagar import settings
from lagar.cli.output import Progress, say
from lagar.cli.reading import FORMATS, SUFFIXES, Format, Piece, Source
from lagar.cli.writing import Target, Writer
from lagar.errors import ModelFailed, RequestError, SettingsError, SetupError

if TYPE_CHECKING:
    from lagar.protocols.base import Adapter, InferRequest
    from lagar.registry.model import LoadedModel
    from lagar.registry.signature import Signature
    from lagar.types import Handlers, Outputs

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_ACCEPT: dict[str, str] = {
    "json": "application/json",
    "csv": "text/csv",
    "ndjson": "application/vnd.apache.arrow.stream",
    "parquet": "application/vnd.apache.arrow.stream",
}
_NO_LIMIT = 1 << 62


class Served(NamedTuple):
    """A loaded model as the protocols see it."""

    name: str
    version: str
    signature: Signature
    handlers: Handlers | None
    native_outputs: tuple[str, ...]


class PreprocessOnly:
    """The user's handlers for an answer that is a table: a postprocess shapes JSON."""

    has_postprocess = False

    def __init__(self, handlers: Handlers) -> None:
        self.has_preprocess = handlers.has_preprocess
        self.preprocess = handlers.preprocess
        self.postprocess = handlers.postprocess


@app.command()
def predict(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The model: what `lagar serve` takes.")],
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="Rows as CSV, NDJSON, JSON or Parquet; - is stdin.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="OUT", help="Write here, once complete; default: stdout.")
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(metavar="FORMAT", help=f"{', '.join(FORMATS)}; default: as OUT's name says, else json."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    code: Annotated[
        list[Path] | None, typer.Option(help="File or folder with your own classes and functions; once or more.")
    ] = None,
    example: Annotated[Path | None, typer.Option(help="Rows that refine the signature: CSV, Parquet or JSON.")] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Open a pickle that names other code than ML libraries.")
    ] = False,
) -> None:
    """Score a file of rows with a model, in this process and without a server.

    What the server refuses is refused here, in the same words; row numbers are those of the file, from 0. CSV, NDJSON
    and Parquet are scored in pieces, however large they are; with a wrong row nothing is written to OUT.
    """
    chosen = _format_of(output, "json" if as_json and format is None else format)
    if output is not None and file != "-" and _is_same(Path(file), output):
        raise SetupError(f"{output} is the file of rows itself: give the answers another name")
    source = Source(file)
    try:
        with Target(output) as target:  # before the model, which may take long to load
            score(_load(path, code or [], example, trust), source, target, chosen)
    finally:
        source.close()


def score(loaded: LoadedModel, source: Source, target: Target, format: Format) -> None:
    """Every row of the source through the model into target.

    Raises RequestError, as the server would answer it, for the first row that is wrong.
    """
    from lagar.protocols.base import Limits
    from lagar.protocols.native import NativeAdapter

    handlers: Handlers | None = loaded.handlers
    if handlers is not None and format != "json":
        handlers = PreprocessOnly(handlers)
    signature = loaded.signature
    model = Served(loaded.source.name, loaded.source.version, signature, handlers, signature.native_outputs)
    adapter = NativeAdapter(model, Limits(max_rows=_NO_LIMIT, max_decoded_bytes=_NO_LIMIT))
    # what a postprocess makes of the rows cannot be joined: it gets all of them at once
    whole = handlers is not None and handlers.has_postprocess
    with Progress(f"lagar: {source.name}", source.total) as progress:
        writer = Writer(target, format)

        def work() -> Iterator[tuple[InferRequest, Outputs, Any]]:
            start = 0
            for piece in source.pieces(whole=whole):
                request, outputs, shaped = _scored(loaded, adapter, piece, source.name, format, start)
                progress.total = source.total
                progress.advance(piece.work, request.n)
                start += request.n
                yield request, outputs, shaped

        if format == "json":
            writer.add(_joined_answer(adapter, work()))
        else:
            for request, outputs, shaped in work():
                writer.add(adapter.encode(request, outputs, shaped)[0])
        writer.close()


def _scored(
    loaded: LoadedModel, adapter: Adapter, piece: Piece, name: str, format: Format, start: int
) -> tuple[InferRequest, Outputs, Any]:
    """One piece decoded and predicted; its rows are numbered from `start`."""
    from lagar.protocols.base import NOT_SHAPED, Envelope

    try:
        request = adapter.decode(piece.body, name, Envelope(piece.content_type, _ACCEPT[format]))
        if start and request.ids is None:
            request.ids = [f"{name}:{row}" for row in range(start, start + request.n)]
        handlers, records = loaded.handlers, request.records or []
        rows = request.rows
        if rows is None:
            assert handlers is not None
            assert request.rows_of is not None
            rows = request.rows_of(_run("preprocess", start, request.n, lambda: handlers.preprocess(records)))
        final = rows
        outputs = _run("model", start, request.n, lambda: loaded.predictor.predict(final, request.outputs))
        for output, array in outputs.items():
            if len(array) != final.n:
                raise ModelFailed(f"output {output!r} has {len(array)} rows for {final.n} rows of input")
        if not request.postprocess or handlers is None:
            return request, outputs, NOT_SHAPED
        lists = {output: array.tolist() for output, array in outputs.items()}
        shaped = _run("postprocess", start, request.n, lambda: handlers.postprocess(lists, records, request.single))
        return request, outputs, shaped
    except RequestError as error:
        error.message = error.message.removesuffix(f"; see GET /models/{loaded.source.name}")  # there is no server
        error.args = (error.message,)
        if start and error.row is not None:
            _renumber(error, start)
        raise


def _run(what: str, start: int, n: int, step: Callable[[], Any]) -> Any:
    """A step of the user's own; what it raises is told, since here the caller and the owner are one."""
    try:
        return step()
    except RequestError:
        raise
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split())[:500]
        raise ModelFailed(
            f"the {what} failed on rows {start} to {start + n - 1}: {type(error).__name__}: {text} "
            "(lagar --debug predict … shows where)"
        ) from error


_ROW = re.compile(r""""(?:[^"\\]|\\.)*"|'[^']*'|\brow (\d+)\b""")
"""A row's number in a message, or a quoted value that may look like one."""


def _renumber(error: RequestError, start: int) -> None:
    """Make the row that an error names the file's."""
    assert error.row is not None
    error.row += start
    error.message = _ROW.sub(lambda m: m[0] if m[1] is None else f"row {int(m[1]) + start}", error.message)
    error.args = (error.message,)


def _joined_answer(adapter: Adapter, parts: Iterator[tuple[InferRequest, Outputs, Any]]) -> bytes:
    """One native JSON answer for all pieces: only outputs and ids of earlier pieces are kept."""
    import numpy as np

    first: InferRequest | None = None
    kept: dict[str, list[Any]] = {}
    ids: list[str] = []
    n = 0
    shaped: Any = None
    for request, outputs, answer in parts:
        shaped = answer
        if first is None:
            first = request
        elif not ids:
            ids = _ids_of(first)
        n += request.n
        for name, array in outputs.items():
            kept.setdefault(name, []).append(array)
        if request is not first:
            ids.extend(_ids_of(request))
    assert first is not None
    if n == first.n:
        return adapter.encode(first, {name: arrays[0] for name, arrays in kept.items()}, shaped)[0]
    first.n, first.ids = n, ids
    return adapter.encode(first, {name: np.concatenate(arrays) for name, arrays in kept.items()}, shaped)[0]


def _ids_of(request: InferRequest) -> list[str]:
    return request.ids or [f"{request.request_id}:{row}" for row in range(request.n)]


def _load(path: Path, code: list[Path], example: Path | None, trust: bool) -> LoadedModel:
    from lagar.server import limits

    threads = limits.thread_count(1, limits.cores())
    settings.set_own_environment(limits.thread_variables(threads))  # before a library reads them
    from lagar import runtimes
    from lagar.intake.inspect import find_models

    found = find_models([path], code=code, example=example, trust=trust)
    if len(found.live) > 1:
        names = ", ".join(sorted(found.live))
        raise SetupError(f"{path} holds {len(found.live)} models ({names}): name the folder or the file of one")
    (source,) = (source for source in found.sources if found.live.get(source.name) == source.version)
    loaded = runtimes.load(source, threads=threads)
    for warning in loaded.warnings:
        say(warning)
    return loaded


def _is_same(rows: Path, output: Path) -> bool:
    try:
        return output.samefile(rows)
    except OSError:  # one of them is not there
        return False


def _format_of(output: Path | None, asked: str | None) -> Format:
    """The format to write: as asked, as OUT's name says, else JSON."""
    if asked is not None:
        for format in FORMATS:
            if asked == format:
                break
        else:
            raise SettingsError(f"--format must be one of {', '.join(FORMATS)}, got {asked!r}")
        chosen = format
    elif output is None or not output.suffix:
        chosen = "json"
    elif (by_name := SUFFIXES.get(output.suffix.lower())) is None:
        raise SettingsError(f"the name {output} does not say a format: add --format {'|'.join(FORMATS)}")
    else:
        chosen = by_name
    if chosen == "parquet" and output is None and sys.stdout.isatty():
        raise SettingsError("Parquet is not for a terminal: name a file with -o OUT.parquet")
    return chosen
