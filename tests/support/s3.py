"""An S3 server of the tests' own: moto's, in a process of its own."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3

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
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._server: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        program = Path(sys.executable).with_name("moto_server")
        self._server = subprocess.Popen(
            [program, "-H", "127.0.0.1", "-p", f"{self.port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
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
        )
