"""An S3 server of the tests' own: moto's, in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest
from botocore.config import Config

from support.wait import eventually

BUCKET = "artifacts"
VARIABLES = {
    "AWS_ACCESS_KEY_ID": "tests",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
}
"""What who uses the server needs in the environment, beside AWS_ENDPOINT_URL."""


class S3Server:
    """A server on a free port with one empty bucket; it can be stopped, and has forgotten everything then."""

    def __init__(self) -> None:
        self.port = 0  # the server takes one itself: it needs seconds to start, in which others may take a chosen one
        self._server: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        program = Path(sys.executable).with_name("moto_server")
        log = Path(tempfile.mkdtemp(prefix="s3-")) / "stderr"
        with log.open("w") as said:
            self._server = subprocess.Popen(
                [program, "-H", "127.0.0.1", "-p", f"{self.port}"], stdout=subprocess.DEVNULL, stderr=said
            )
        self.port = eventually(lambda: self._heard(log), 120, "the S3 server's port")
        eventually(self._make_bucket, what="the S3 server")

    def stop(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None

    def new_prefix(self) -> str:
        """The URL of an empty store."""
        return f"s3://{BUCKET}/{uuid4().hex}"

    def write(self, store: str, name: str, data: bytes) -> None:
        """Overwrite an object behind Lagar's back."""
        self._client().put_object(Bucket=BUCKET, Key=f"{store.rpartition('/')[2]}/{name}", Body=data)

    def names(self, store: str) -> list[str]:
        found = self._client().list_objects_v2(Bucket=BUCKET, Prefix=store.rpartition("/")[2])
        return [entry["Key"].rpartition("/")[2] for entry in found.get("Contents", [])]

    def _heard(self, log: Path) -> int:
        """The port that the server says it listens on; 0 while it says nothing."""
        text = log.read_text()
        found = re.search(r"Running on http://127\.0\.0\.1:(\d+)", text)
        if found is None and self._server is not None and self._server.poll() is not None:
            pytest.fail(f"the S3 server ended: {text}")
        return int(found[1]) if found else 0

    def _make_bucket(self) -> bool:
        self._client().create_bucket(Bucket=BUCKET)
        return True

    def _client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=VARIABLES["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=VARIABLES["AWS_SECRET_ACCESS_KEY"],
            config=Config(connect_timeout=10, read_timeout=30, retries={"total_max_attempts": 2}),
        )
