"""A prefix of a bucket as a folder on this machine, for paths that say `s3://BUCKET/PREFIX`."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
import time
from pathlib import Path, PurePosixPath
from typing import Any, Final

import msgspec

from lagar.errors import SettingsError, SetupError
from lagar.registry.home import explained
from lagar.registry.s3 import open_bucket, s3_errors
from lagar.registry.store import CHUNK

LOOK_S: Final = 5.0
"""A listing is a request that is paid for."""
MAX_OBJECTS: Final = 10_000
MAX_BYTES: Final = 16 * 1024**3
_SEEN: Final = ".objects.json"

Listing = dict[str, tuple[str, int]]
"""Path under the prefix → etag and size."""
_decoder: msgspec.json.Decoder[Listing] = msgspec.json.Decoder(Listing)


def is_url(path: str) -> bool:
    """Whether a path is an S3 one."""
    return path.startswith("s3://")


class Mirror:
    """The objects below a prefix, or one object, in a folder of the home; what is unchanged is not fetched again."""

    def __init__(self, url: str, cache: Path, endpoint: str | None) -> None:
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        prefix = prefix.strip("/")
        if not bucket:
            raise SettingsError(f"a path on S3 is s3://BUCKET/PREFIX, got {url!r}")
        self._url = url
        self._prefix = prefix
        key = hashlib.sha256(f"{endpoint}\0{bucket}/{prefix}".encode()).hexdigest()[:32]
        self._folder = cache / "mirrors" / key
        place = PurePosixPath(bucket) / prefix
        self.path = self._folder / "objects" / place.parent.name / place.name
        """The folder, or the file, that stands for the URL; where that is model.*, it is named by what it lies in."""
        self._bucket: Any = open_bucket(bucket, None, endpoint)
        self._listed: Listing | None = None
        self._next = 0.0

    def follow(self, *, at_once: bool) -> None:
        """Bring the folder up to what the bucket holds, when two looks have shown the same or `at_once`.

        Raises StoreAway, and SetupError for a prefix without objects or with too much in it.
        """
        if not at_once and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + LOOK_S
        with s3_errors(self._url):
            listing = self._list()
            still, self._listed = listing == self._listed, listing
            if still or at_once:
                self._fetch(listing)

    def _list(self) -> Listing:
        found: Listing = {}
        single = False
        import obstore

        for batch in obstore.list(self._bucket, self._prefix or None):
            for entry in batch:
                place = str(entry["path"])[len(self._prefix) :].lstrip("/")
                if place and not any(part[0] == "." for part in PurePosixPath(place).parts):
                    found[place] = (str(entry["e_tag"]), int(entry["size"]))
            if len(found) > MAX_OBJECTS:
                break
        if not found and self._prefix:
            try:
                head = obstore.head(self._bucket, self._prefix)
                found[""], single = (str(head["e_tag"]), int(head["size"])), True
            except FileNotFoundError:
                raise SetupError(f"{self._url}: there is no such object, and none below it") from None
        if not found:
            raise SetupError(f"{self._url}: the bucket is empty")
        size = sum(size for _, size in found.values())
        if len(found) > MAX_OBJECTS or size > MAX_BYTES:
            raise SetupError(
                f"{self._url} has more than {MAX_OBJECTS:,} objects or {MAX_BYTES / 1024**3:g} GiB; name a prefix that "
                "holds models only"
            )
        if not single and any(PurePosixPath(place).is_absolute() or ".." in place.split("/") for place in found):
            raise SetupError(f"{self._url} holds an object whose name leads out of its folder")
        return found

    def _fetch(self, listing: Listing) -> None:
        """Change the folder to what was listed, alone among the servers of this home."""
        with explained(self._folder, "cannot hold a copy of S3 objects"):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._change(self._seen(), listing)
            finally:
                os.close(lock)

    def _change(self, before: Listing, listing: Listing) -> None:
        if before == listing:
            return
        for place, entry in listing.items():
            if before.get(place) != entry:
                self._download(place)
        for place in before.keys() - listing.keys():
            gone = self.path / place
            gone.unlink(missing_ok=True)
            for folder in gone.parents:
                if not folder.is_relative_to(self.path) or any(folder.iterdir()):
                    break
                folder.rmdir()
        (self._folder / _SEEN).write_bytes(msgspec.json.encode(listing))

    def _download(self, place: str) -> None:
        import obstore

        target = self.path / place if place else self.path
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = "/".join(part for part in (self._prefix, place) if part)
        descriptor, name = tempfile.mkstemp(prefix=".", dir=target.parent)
        try:
            with open(descriptor, "wb") as file:
                for chunk in obstore.get(self._bucket, key).stream(min_chunk_size=CHUNK):
                    file.write(memoryview(chunk))
            os.replace(name, target)
        except BaseException:
            os.unlink(name)
            raise

    def _seen(self) -> Listing:
        """What the folder holds by its own record; of a copy that was killed, nothing."""
        try:
            seen = _decoder.decode((self._folder / _SEEN).read_bytes())
        except (OSError, msgspec.DecodeError):
            return {}
        return {place: entry for place, entry in seen.items() if (self.path / place if place else self.path).is_file()}
