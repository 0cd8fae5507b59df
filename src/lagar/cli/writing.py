"""Predictions into a file or stdout, piece by piece; a file appears only when it is complete."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import msgspec

from lagar.cli.reading import Format
from lagar.errors import SetupError


class Target:
    """Where the bytes go: stdout, or a file beside its final name until `__exit__` without an error.

    What anything else prints meanwhile, such as the user's own class, goes to stderr: stdout is for data alone.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._part = ""
        self._stdout = -1
        self.file: BinaryIO = sys.stdout.buffer

    def __enter__(self) -> Target:
        if self._path is not None:
            try:
                if self._path.is_dir():
                    raise IsADirectoryError(21, "it is a folder")
                descriptor, self._part = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
                self.file = os.fdopen(descriptor, "wb")
            except OSError as error:
                raise SetupError(f"{self._path} cannot be written: {error.strerror}") from None
        self._stdout = os.dup(1)
        os.dup2(2, 1)  # the descriptor, since libraries in C print past sys.stdout
        if self._path is None:
            self.file = os.fdopen(self._stdout, "wb", closefd=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            sys.stdout.flush()  # what was printed, while it still goes to stderr
        finally:
            os.dup2(self._stdout, 1)
        if self._path is None:
            if kind is None:
                self.file.flush()
            return
        try:
            self.file.close()
            if kind is None:
                mask = os.umask(0)
                os.umask(mask)
                os.chmod(self._part, 0o666 & ~mask)  # mkstemp's 0600 is not what a person expects of a result
                os.replace(self._part, self._path)
                return
        except OSError as failure:
            if kind is None:
                raise SetupError(f"{self._path} cannot be written: {failure.strerror}") from None
        finally:
            with contextlib.suppress(OSError):
                os.unlink(self._part)


class Writer:
    """Bodies that the native protocol encoded, joined into one document of the format."""

    def __init__(self, target: Target, format: Format) -> None:
        self._file = target.file
        self._format = format
        self._parquet: Any = None
        self._begun = False

    def add(self, body: bytes) -> None:
        """`body` is JSON or CSV as it is to be written, or an Arrow stream for NDJSON and Parquet."""
        if self._format == "json":
            self._file.write(body + b"\n")
        elif self._format == "csv":
            self._file.write(body if not self._begun else _without_header(body))
        else:
            self._add_batches(body)
        self._begun = True

    def _add_batches(self, body: bytes) -> None:
        import pyarrow as pa

        with pa.ipc.open_stream(pa.py_buffer(body)) as stream:
            if self._format == "ndjson":
                for batch in stream:
                    self._file.write(msgspec.json.Encoder().encode_lines(batch.to_pylist()))
                return
            import pyarrow.parquet as pq

            if self._parquet is None:
                self._parquet = pq.ParquetWriter(self._file, stream.schema)
            self._parquet.write_table(stream.read_all().cast(self._parquet.schema))

    def close(self) -> None:
        """Write what belongs at the end."""
        if self._parquet is not None:
            self._parquet.close()


def _without_header(body: bytes) -> bytes:
    """A CSV document after its first record, whose cells may hold line ends."""
    at = 0
    while True:
        at = body.find(b"\n", at) + 1
        if not at:
            return b""
        if not body.count(b'"', 0, at) & 1:
            return body[at:]
