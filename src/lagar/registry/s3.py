"""The store of artifacts on S3-compatible storage: objects `PREFIX/ab/ab12…`.

Credentials and region come from where AWS's own tools take them: AWS_ACCESS_KEY_ID and the like, or the machine's role.
A new object is put on condition that there is none (If-None-Match); one that is too large for a single put is not, and
whoever comes second writes the same bytes once more.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from lagar.errors import ChangedArtifact, MissingLibrary, StoreAway
from lagar.registry.store import CHUNK, Stored, changed_while_read, gone, is_sha256

SINGLE_PUT_BYTES: Final = 64 * 1024 * 1024
YOUNG_S: Final = 3600.0
"""An object that is older is written anew when it is pushed again, so that no gc takes it."""
_CLOCK: Final = "clock"


class S3Store:
    """A prefix of a bucket."""

    def __init__(self, bucket: str, prefix: str, endpoint: str | None = None) -> None:
        self._bucket: Any = open_bucket(bucket, prefix or None, endpoint)
        import obstore

        self._obstore: Any = obstore
        self.name = f"the store s3://{bucket}/{prefix}".rstrip("/") + (f" at {endpoint}" if endpoint else "")

    def put(self, file: Path, sha256: str) -> None:
        with self._explained():
            there = self.find(sha256)
            if there is not None and there.modified_at > self.now() - YOUNG_S:
                return
            if file.stat().st_size > SINGLE_PUT_BYTES:
                # one that turns out to be another file ends the upload before it is complete
                self._obstore.put(self._bucket, _key(sha256), _checked(file, sha256), use_multipart=True)
                return
            data = b"".join(_checked(file, sha256))
            mode = "create" if there is None else "overwrite"
            with contextlib.suppress(self._obstore.exceptions.AlreadyExistsError):
                self._obstore.put(self._bucket, _key(sha256), data, mode=mode, use_multipart=False)

    def find(self, sha256: str) -> Stored | None:
        return self._head(_key(sha256), sha256)

    def fetch(self, sha256: str, target: Path) -> None:
        digest = hashlib.sha256()
        with self._explained(sha256), target.open("xb") as file:
            for chunk in self._obstore.get(self._bucket, _key(sha256)).stream(min_chunk_size=CHUNK):
                data = memoryview(chunk)
                digest.update(data)
                file.write(data)
        if digest.hexdigest() != sha256:
            target.unlink()
            error = ChangedArtifact(
                f"the artifact {_key(sha256)} in {self.name} was changed: its SHA-256 is {digest.hexdigest()}, "
                f"committed was {sha256}; restore it from a backup"
            )
            error.sha256 = sha256
            raise error
        target.chmod(0o444)

    def delete(self, sha256: str) -> None:
        with self._explained():
            self._obstore.delete(self._bucket, _key(sha256))

    def objects(self) -> Iterator[Stored]:
        with self._explained():
            for batch in self._obstore.list(self._bucket):
                for found in batch:
                    sha256 = str(found["path"]).rpartition("/")[2]
                    if is_sha256(sha256):
                        yield Stored(sha256, int(found["size"]), found["last_modified"].timestamp())

    def now(self) -> float:
        with self._explained():
            self._obstore.put(self._bucket, _CLOCK, b"", use_multipart=False)
            found = self._head(_CLOCK, _CLOCK)
            if found is None:
                raise StoreAway(f"{self.name} does not show what was just written: look at its consistency")
            return found.modified_at

    def sweep(self, older_than_s: float) -> None:
        """Nothing is half written: an upload counts when it is complete; the bucket's own rules remove the parts."""

    def _head(self, key: str, sha256: str) -> Stored | None:
        with self._explained():
            try:
                found = self._obstore.head(self._bucket, key)
            except FileNotFoundError:
                return None
            return Stored(sha256, int(found["size"]), found["last_modified"].timestamp())

    @contextlib.contextmanager
    def _explained(self, sha256: str = "") -> Iterator[None]:
        with s3_errors(self.name, "LAGAR_STORE"):
            try:
                yield
            except FileNotFoundError:
                if not sha256:
                    raise
                raise gone(sha256, self.name) from None


def open_bucket(bucket: str, prefix: str | None, endpoint: str | None) -> Any:
    """The client of a bucket, below a prefix."""
    try:
        from obstore.store import S3Store as Bucket
    except ImportError:
        raise MissingLibrary(f"s3://{bucket} needs obstore: pip install 'lagar[s3]'") from None
    where: dict[str, Any] = {"endpoint": endpoint} if endpoint else {}
    return Bucket(
        bucket,
        prefix=prefix,
        virtual_hosted_style_request=endpoint is None,
        client_options={
            "allow_http": bool(endpoint and endpoint.startswith("http://")),
            "connect_timeout": "5s",
            "timeout": "300s",
        },
        retry_config={
            "max_retries": 3,
            "retry_timeout": timedelta(seconds=15),
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=2),
                "base": 2,
            },
        },
        **where,
    )


@contextlib.contextmanager
def s3_errors(name: str, setting: str = "the path") -> Iterator[None]:
    """What S3's client raises, as StoreAway that says what to look at."""
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError:
        raise StoreAway(f"{name} has no such bucket: make it, or mend {setting}") from None
    except BaseError as error:
        raise StoreAway(
            f"{name} cannot be used: {_cause(str(error))}; see that it runs, and that {setting}, AWS_ENDPOINT_URL and "
            "the credentials are right"
        ) from None


def _cause(text: str) -> str:
    """What the server said, or why there was none to say it."""
    said = re.search(r"<Code>(.*?)</Code>\s*<Message>(.*?)</Message>", text, re.DOTALL)
    if said is not None:
        return f"{said[1]}, {said[2]}"
    return text.strip().partition("\n")[0].rpartition(" - ")[2][:300]


def _key(sha256: str) -> str:
    return f"{sha256[:2]}/{sha256}"


def _checked(file: Path, sha256: str) -> Iterator[bytes]:
    """The file in chunks; raises ChangedArtifact before the last one when it is not the file that was hashed."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        held = b""
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
            if held:
                yield held
            held = chunk
    if digest.hexdigest() != sha256:
        raise changed_while_read(file, sha256, digest.hexdigest())
    yield held
