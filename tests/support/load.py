"""Requests without a pause over many connections, every answer compared with what its version must say.

Each connection has one request under way at all times. An answer must name a version and carry that version's own
label and probabilities; anything else, and every connection that ends without an answer, is a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from support.wait import eventually
from support.wire import post

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

MAX_REQUESTS = 200_000
MAX_S = 60.0
FAILURES_KEPT = 20


@dataclass(frozen=True)
class Said:
    """What one version answers for one row."""

    label: Any
    probabilities: tuple[float, ...]


@dataclass
class Report:
    """What came back."""

    answered: int = 0
    versions: Counter[str] = field(default_factory=Counter)
    reconnects: int = 0
    """Connections that the server closed with an answer's `connection: close`."""
    failures: list[str] = field(default_factory=list)
    failed: int = 0
    last_seen: dict[str, float] = field(default_factory=dict)
    """Version → time.monotonic() of its last answer."""
    per_second: Counter[int] = field(default_factory=Counter)

    def fail(self, why: str) -> None:
        self.failed += 1
        if len(self.failures) < FAILURES_KEPT:
            self.failures.append(why)


class Load:
    """A steady load in a thread of its own:

    with Load(server.port, "wine", rows, expected) as load:
        load.more(1000)            # until so many further answers are there
    load.check()                   # none failed
    """

    def __init__(
        self,
        port: int,
        model: str,
        rows: Sequence[Mapping[str, float]],
        expected: Mapping[str, Sequence[Said]],
        *,
        connections: int = 48,
        pause_s: float = 0.0,
    ) -> None:
        """`expected` is version → what it says for each row; every eighth connection sends its bodies in two pieces,
        and every second one speaks V2. `pause_s` is what a client thinks between two requests."""
        self.report = Report()
        self._port = port
        self._expected = expected
        self._connections = connections
        self._pause_s = pause_s
        self._rows = len(rows)
        native, v2 = f"/models/{model}/predict", f"/v2/models/{model}/infer"
        self._native = [post(native, json.dumps({"inputs": [row]}).encode()) for row in rows]
        self._v2 = [post(v2, json.dumps(_v2_body(row)).encode()) for row in rows]
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._stop = threading.Event()

    def __enter__(self) -> Load:
        self._began = time.monotonic()
        self._thread.start()
        self.more(self._connections)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(30)
        if kind is None:
            assert not self._thread.is_alive(), "connections that wait for ever"
            self.check()

    def more(self, count: int) -> None:
        """Wait until so many further requests are answered."""
        wanted = self.report.answered + count
        eventually(lambda: self.report.answered >= wanted or self.report.failed, 90, f"{count} further answers")
        self.check()

    def only(self, version: str, count: int = 200) -> None:
        """Wait until this version alone has answered that many in a row."""

        def alone() -> bool:
            before = dict(self.report.versions)
            self.more(count)
            after = self.report.versions
            return all(after[other] == before.get(other, 0) for other in after if other != version)

        eventually(alone, 90, f"answers of version {version} alone")

    def check(self) -> None:
        """Fail if any request was lost, refused, or answered wrongly."""
        report = self.report
        assert not report.failed, f"{report.failed} of {report.answered} failed:\n" + "\n".join(report.failures)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self._connections):
                group.create_task(self._client(number))

    async def _client(self, number: int) -> None:
        bodies = self._v2 if number % 2 else self._native
        turn = number
        connection: Streams | None = None
        while not self._done():
            row = turn % self._rows
            turn += 1
            try:
                if connection is None:
                    connection = await asyncio.open_connection("127.0.0.1", self._port)
                status, closes, body = await asyncio.wait_for(
                    _ask(*connection, bodies[row], in_two=number % 8 == 0), timeout=20
                )
                self._judge(status, body, row)
            except Exception as error:  # lost connections, answers that are none
                self.report.fail(f"connection {number}: {type(error).__name__}: {error}")
                connection = await _closed(connection)
                continue
            if closes:
                connection = await _closed(connection)
                self.report.reconnects += 1
            if self._pause_s:
                await asyncio.sleep(self._pause_s)
        await _closed(connection)

    def _done(self) -> bool:
        over = self.report.answered >= MAX_REQUESTS or time.monotonic() - self._began > MAX_S
        return self._stop.is_set() or over or self.report.failed > FAILURES_KEPT

    def _judge(self, status: int, body: bytes, row: int) -> None:
        report = self.report
        if status != 200:
            report.fail(f"status {status}: {body[:300].decode(errors='replace')}")
            return
        version, label, probabilities = _read(json.loads(body))
        wanted = self._expected.get(version)
        if wanted is None:
            report.fail(f"an answer of version {version!r}")
        elif label != wanted[row].label or not _close(probabilities, wanted[row].probabilities):
            report.fail(f"version {version}, row {row}: {label} {probabilities}, wanted {wanted[row]}")
        else:
            now = time.monotonic()
            report.answered += 1
            report.versions[version] += 1
            report.last_seen[version] = now
            report.per_second[int(now - self._began)] += 1


async def _closed(connection: Streams | None) -> None:
    if connection is not None:
        connection[1].close()
        with contextlib.suppress(OSError):
            await connection[1].wait_closed()


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes, *, in_two: bool
) -> tuple[int, bool, bytes]:
    """(status, whether the connection is to be closed, body)."""
    if in_two:
        writer.write(request[:-20])
        await asyncio.sleep(0.01)
        writer.write(request[-20:])
    else:
        writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0])
    return int(head[9:12]), b"\r\nconnection: close\r\n" in head, await reader.readexactly(length)


def _v2_body(row: Mapping[str, float]) -> dict[str, Any]:
    values = list(row.values())
    return {
        "inputs": [{"name": "rows", "shape": [1, len(values)], "datatype": "FP64", "data": values}],
        "outputs": [{"name": "predict"}, {"name": "predict_proba"}],
    }


def _read(answer: dict[str, Any]) -> tuple[str, Any, list[float]]:
    """(version, label, probabilities) of an answer in either protocol."""
    if "outputs" in answer:
        outputs = {output["name"]: output["data"] for output in answer["outputs"]}
        return answer["model_version"], outputs["predict"][0], outputs["predict_proba"]
    return answer["version"], answer["predictions"][0], answer["probabilities"][0]


def _close(got: Sequence[float], wanted: Sequence[float]) -> bool:
    return len(got) == len(wanted) and all(abs(a - b) < 1e-9 for a, b in zip(got, wanted, strict=True))
