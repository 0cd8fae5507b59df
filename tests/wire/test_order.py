"""Pipelined requests are answered in their order, whatever lane each takes and however slow it is."""

from __future__ import annotations

import itertools
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from support.server import LagarServer
from support.wait import eventually
from support.wire import Answer, Wire, chunked, get, post
from wire.conftest import QUICK, QUICK_BODY, SLOW, gate_body


def request(kind: str, number: int, gate: Path) -> bytes:
    name = f"X-Request-Id: r{number}"
    return {
        "hot quick": lambda: post(QUICK, QUICK_BODY, name),
        "hot slow": lambda: post(SLOW, gate_body(number, gate), name),
        "hot wrong": lambda: post(QUICK, b'{"x0":"a"}', name),
        "cold quick": lambda: get("/healthz", name),
        "cold slow": lambda: chunked(SLOW, gate_body(number, gate)[:5], gate_body(number, gate)[5:], headers=(name,)),
        "cold csv": lambda: post(QUICK, b"x0,x1,x2,x3\n1,2,3,4\n", name, content_type="text/csv"),
        "control": lambda: get("/metrics", name),
    }[kind]()


KINDS = ("hot quick", "hot slow", "hot wrong", "cold quick", "cold slow", "cold csv", "control")


@pytest.mark.parametrize("kinds", list(itertools.permutations(KINDS, 2)), ids=" then ".join)
def test_two_pipelined_requests(server: LagarServer, tmp_path: Path, kinds: tuple[str, str]) -> None:
    gate = tmp_path / "gate"
    with Wire(server.port) as wire:
        wire.send(b"".join(request(kind, number, gate) for number, kind in enumerate(kinds)))
        if kinds[0].endswith("slow"):
            eventually(Path(f"{gate}.entered").exists, what="the model was called")
            assert wire.silent(0.05)
        gate.touch()
        assert [wire.read().headers["x-request-id"] for _ in kinds] == ["r0", "r1"]


def test_many_in_one_segment_are_answered_in_order(server: LagarServer, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    kinds = [KINDS[number % len(KINDS)] for number in range(140)]
    with Wire(server.port) as wire:
        wire.send(b"".join(request(kind, number, gate) for number, kind in enumerate(kinds)))
        gate.touch()
        got = [wire.read().headers["x-request-id"] for _ in kinds]
    assert got == [f"r{number}" for number in range(140)]


def test_a_thousand_wrong_requests_in_one_segment_do_not_exhaust_the_stack(server: LagarServer) -> None:
    with Wire(server.port) as wire:
        wire.send(post(QUICK, b"[]") * 3000)
        assert {wire.read().status for _ in range(3000)} == {400}


def tensors(number: int) -> bytes:
    """A V2 request with its rows behind its JSON; odd ones name themselves."""
    rows = struct.pack("<8d", *(number + place / 8 for place in range(8)))
    size = {"binary_data_size": len(rows)}
    sent: dict[str, Any] = {"inputs": [{"name": "x", "shape": [2, 4], "datatype": "FP64", "parameters": size}]}
    sent["outputs"] = [{"name": "predict_proba", "parameters": {"binary_data": True}}]
    text = json.dumps(sent | ({"id": f"n{number}"} if number % 2 else {})).encode()
    length = f"Inference-Header-Content-Length: {len(text)}"
    return post("/v2/models/logistic/infer", text + rows, length, content_type="application/octet-stream")


@pytest.mark.parametrize("piece", [1 << 20, 97])
def test_tensors_that_arrive_together_are_answered_each_by_its_own(server: LagarServer, piece: int) -> None:
    def behind(answer: Answer) -> bytes:
        assert answer.status == 200, answer.body
        return answer.body[int(answer.headers["inference-header-content-length"]) :]

    alone = []
    for number in range(20):
        with Wire(server.port) as wire:
            wire.send(tensors(number))
            alone.append(behind(wire.read()))
    assert len(set(alone)) == 20
    together = b"".join(map(tensors, range(20)))
    with Wire(server.port) as wire:
        wire.send(*(together[start : start + piece] for start in range(0, len(together), piece)))
        assert [behind(wire.read()) for _ in range(20)] == alone


def test_byte_by_byte(server: LagarServer) -> None:
    data = post(QUICK, QUICK_BODY) + get("/healthz") + chunked(QUICK, QUICK_BODY[:7], QUICK_BODY[7:])
    with Wire(server.port) as wire:
        wire.send(*(data[i : i + 1] for i in range(len(data))))
        assert [wire.read().status for _ in range(3)] == [200, 200, 200]


@pytest.mark.parametrize("kind", ["hot slow", "cold slow"])
def test_nothing_is_written_before_the_answer_in_flight(server: LagarServer, tmp_path: Path, kind: str) -> None:
    gate = tmp_path / "gate"
    with Wire(server.port) as wire:
        wire.send(request(kind, 1, gate) + b"\x16\x03\x01 this is not HTTP\r\n\r\n")
        eventually(Path(f"{gate}.entered").exists, what="the model was called")
        assert wire.silent(0.1)
        gate.touch()
        assert wire.read().status == 200
        assert wire.read().status == 400
        assert wire.is_closed()


def test_a_caller_that_leaves_does_not_hurt_the_others_in_its_batch(server: LagarServer, tmp_path: Path) -> None:
    first = tmp_path / "first"
    with Wire(server.port) as one, Wire(server.port) as leaves, Wire(server.port) as stays:
        one.send(post(SLOW, gate_body(1, first)))
        eventually(Path(f"{first}.entered").exists, what="the model was called")
        leaves.send(post(SLOW, gate_body(2)))
        stays.send(post(SLOW, gate_body(3)))
        leaves.sock.close()
        first.touch()
        assert one.read().json["predictions"] == [1.0]
        assert stays.read().json["predictions"] == [3.0]


def test_a_blocked_model_leaves_health_and_other_models_alone(server: LagarServer, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with Wire(server.port) as slow, Wire(server.port) as wire:
        slow.send(post(SLOW, gate_body(1, gate)))
        eventually(Path(f"{gate}.entered").exists, what="the model was called")
        wire.send(get("/healthz") + get("/readyz") + post(QUICK, QUICK_BODY) + get("/v2/health/live"))
        assert [wire.read().status for _ in range(4)] == [200, 200, 200, 200]
        gate.touch()
        assert slow.read().status == 200


@pytest.mark.parametrize("timeout", ["0.05", "0.3"])
def test_a_deadline_is_504_in_both_protocols(server: LagarServer, tmp_path: Path, timeout: str) -> None:
    gate = tmp_path / "gate"
    v2 = {"inputs": [
        {"name": "value", "shape": [1], "datatype": "FP64", "data": [1]},
        {"name": "gate", "shape": [1], "datatype": "BYTES", "data": [str(gate)]},
    ]}  # fmt: skip
    with Wire(server.port) as native, Wire(server.port) as other:
        native.send(post(SLOW, gate_body(1, gate), f"timeout: {timeout}"))
        other.send(post("/v2/models/gate/infer", json.dumps(v2).encode(), f"timeout: {timeout}"))
        answer, answer_v2 = native.read(), other.read()
        gate.touch()
        assert (answer.status, answer_v2.status) == (504, 504)
        assert answer.json["error"]["code"] == "deadline_exceeded"
        assert isinstance(answer_v2.json["error"], str)
        native.send(post(SLOW, gate_body(5)))
        assert native.read().json["predictions"] == [5.0]


def test_a_full_queue_is_429_with_a_time_to_come_back(tmp_path: Path, logistic: Any, serve: Any) -> None:
    from wire.conftest import gate_model

    running = serve(gate_model(tmp_path / "gate"), env={"LAGAR_QUEUE_ROWS": "2"})
    gate = tmp_path / "open"
    with Wire(running.port) as first:
        first.send(post(SLOW, gate_body(0, gate)))
        eventually(Path(f"{gate}.entered").exists, what="the model was called")
        waiting = [Wire(running.port) for _ in range(3)]
        answers = []
        for wire in waiting:
            wire.send(post(SLOW, gate_body(1, gate)))
        refused = eventually(lambda: [w for w in waiting if not w.silent(0.05)], what="one is refused")
        answers = [wire.read() for wire in refused]
        assert [(a.status, a.json["error"]["code"], int(a.headers["retry-after"]) >= 1) for a in answers] == [
            (429, "overloaded", True)
        ]
        left, stays = (wire for wire in waiting if wire not in refused)
        left.finish()

        def place_was_given_away() -> bool:
            refused[0].send(post(SLOW, gate_body(1)))
            return not left.silent(0.05)

        eventually(place_was_given_away, what="who hung up is sent away for who did not")
        gate.touch()
        assert [wire.read().status for wire in (left, stays, first)] == [429, 200, 200]
        for wire in waiting:
            wire.sock.close()
