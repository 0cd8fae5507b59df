"""The files behind `/static/`: read once, served from memory, with an address that changes with their content."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

STATIC = Path(__file__).parent / "static"
CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}


class Asset:
    """One static file; `digest` is in its address, so that it may be cached for ever."""

    __slots__ = ("_packed", "content_type", "data", "digest")

    def __init__(self, data: bytes, content_type: str) -> None:
        self.data = data
        self.content_type = content_type
        self.digest = hashlib.sha256(data).hexdigest()[:16]
        self._packed: bytes | None = None

    @property
    def packed(self) -> bytes:
        """The file in gzip, made when it is first asked for."""
        if self._packed is None:
            self._packed = gzip.compress(self.data, 6, mtime=0)
        return self._packed


class Assets:
    """Every servable file below the static folder, by its path there; nothing else can be asked for."""

    def __init__(self, folder: Path = STATIC) -> None:
        self._assets = {
            path.relative_to(folder).as_posix(): Asset(path.read_bytes(), CONTENT_TYPES[path.suffix])
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.suffix in CONTENT_TYPES
        }

    def get(self, name: str) -> Asset | None:
        return self._assets.get(name)

    def url(self, prefix: str, name: str) -> str:
        """Address of a file under the server's prefix; KeyError for a file that does not exist."""
        return f"{prefix}/static/{name}?v={self._assets[name].digest}"
