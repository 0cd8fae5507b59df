"""One engine behind every protocol: the same rows are the same numbers and share the model's calls.

And the same mistake is the same class of error, in each protocol's own shape.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from contract.callers import CALLERS, Caller, Refused, Server
from contract.conftest import MAX_BODY_BYTES, QUEUE_ROWS, Houses
from support.wait import eventually


def test_numbers_are_the_model_s_own_to_the_last_bit(server: Server, caller: Caller, houses: Houses) -> None:
    assert caller.ask(server, "house", houses.records)["predict"] == houses.expected
    for record, expected in zip(houses.records[:3], houses.expected, strict=False):
        assert caller.ask(server, "house", [record])["predict"] == [expected]


def test_a_matrix_in_the_order_of_the_signature_is_the_same_rows(
    server: Server, caller: Caller, houses: Houses
) -> None:
    matrix = [[float(value) for value in record.values()] for record in houses.records]
    assert caller.ask(server, "house", matrix)["predict"] == houses.expected


def test_labels_and_probabilities_are_those_of_the_classifier(server: Server, named: Caller, wine: Any) -> None:
    wanted = ("predict", "predict_proba") if named.chooses_outputs else ()
    answer = named.ask(server, "wine", wine.records[:50], wanted=wanted)
    assert answer["predict"] == wine.model.predict(wine.rows.head(50)).tolist()
    if wanted:
        assert answer["predict_proba"] == wine.model.predict_proba(wine.rows.head(50)).tolist()


def test_text_goes_in_and_labels_come_out(server: Server, named: Caller, text: Any) -> None:
    records = [*text.records, {"text": ""}, {"text": "bonécä \N{HAMSTER FACE} " * 20}]
    answer = named.ask(server, "products", records)
    assert answer["predict"] == text.model.predict([record["text"] for record in records]).tolist()


def test_a_version_is_named_in_the_way_of_the_protocol(server: Server, named: Caller, houses: Houses) -> None:
    assert named.ask(server, "house", houses.records[:2], version="v2")["predict"] == houses.expected[:2]


def test_what_is_no_input_of_a_model_is_passed_over_unless_its_rules_refuse_it(
    server: Server, named: Caller, wine: Any
) -> None:
    records = [record | {"label": "a", "price": 2.5} for record in wine.records[:3]]
    assert named.ask(server, "wine", records)["predict"] == wine.model.predict(wine.rows.head(3)).tolist()


def total(server: Server, name: str, **labels: str) -> float:
    """What /metrics says of a metric, over all series with these labels."""
    found = 0.0
    for line in server.http.get("/metrics").text.splitlines():
        series, _, value = line.rpartition(" ")
        if re.match(rf"{name}[{{]", series) and all(f'{key}="{said}"' in series for key, said in labels.items()):
            found += float(value)
    return found


def test_requests_of_all_protocols_share_one_call_of_the_model(gated: Server, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    calls, rows = total(gated, "lagar_batches_total"), total(gated, "lagar_batch_rows_sum")
    counted = {caller.protocol: total(gated, "lagar_requests_total", protocol=caller.protocol) for caller in CALLERS}
    with ThreadPoolExecutor(len(CALLERS) + 1) as pool:
        first = pool.submit(CALLERS[0].ask, gated, "gated", [{"value": 0.5, "gate": str(gate)}])
        eventually(Path(f"{gate}.entered").exists, 60, "the model to be at work")
        others = [
            pool.submit(caller.ask, gated, "gated", [{"value": place + 0.25, "gate": ""}])
            for place, caller in enumerate(CALLERS)
        ]
        eventually(lambda: total(gated, "lagar_queue_rows") >= len(CALLERS), 60, "all of them in the queue")
        gate.touch()
        assert first.result()["predict"] == [1.0]
        assert [other.result()["predict"] for other in others] == [
            [2 * (place + 0.25)] for place in range(len(CALLERS))
        ]
    assert total(gated, "lagar_batches_total") - calls == 2
    assert total(gated, "lagar_batch_rows_sum") - rows == 1 + len(CALLERS)
    for caller in CALLERS:
        same = sum(other.protocol == caller.protocol for other in CALLERS) + (caller is CALLERS[0])
        assert total(gated, "lagar_requests_total", protocol=caller.protocol) - counted[caller.protocol] == same


# The same mistakes

GOOD = {"area": 80.0, "rooms": 3, "age of house": 12.5}


def refused(caller: Caller, *args: Any, **options: Any) -> tuple[int, str]:
    """Status and words of a refusal."""
    with pytest.raises(Refused) as caught:
        caller.ask(*args, **options)
    return caught.value.status, caught.value.message


def without(record: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != name}


MISTAKES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "a field is missing": ([without(GOOD, "rooms")] * 2, ("'rooms'", "missing")),
    "a field is not known": ([GOOD | {"garden": 1.0}], ("garden",)),
    "text for a number": ([GOOD, GOOD | {"area": "large"}], ("'area'",)),
    "no number": ([GOOD, GOOD | {"area": None}], ("'area'", "row 1")),
    "a fraction for a whole number": ([GOOD, GOOD, GOOD | {"rooms": 2.5}], ("'rooms'", "2.5", "row 2")),
    "out of the range": ([GOOD, GOOD | {"rooms": 21}], ("'rooms'", "21", "row 1")),
    "a matrix that is too narrow": ([[80.0, 3.0]] * 2, ("area, rooms, age of house",)),
    "a matrix that is too wide": ([[80.0, 3.0, 12.5, 1.0]], ("area, rooms, age of house",)),
    "a hole in a matrix": ([[80.0, 3.0, 12.5], [None, 3.0, 12.5]], ("'area'", "row 1")),
}
"""Rows, and what each protocol's words must say."""


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_rows_is_the_caller_s_and_is_named(server: Server, caller: Caller, mistake: str) -> None:
    rows, words = MISTAKES[mistake]
    status, message = refused(caller, server, "house", rows)
    assert status == 400, message
    for word in words:
        assert word in message, (word, message)


def test_nothing_at_all_is_a_mistake_too(server: Server, caller: Caller) -> None:
    assert refused(caller, server, "house", [[]])[0] == 400


def test_a_model_or_version_that_is_not_there_is_not_found(server: Server, named: Caller) -> None:
    assert refused(named, server, "castle", [GOOD]) == (404, "Model castle not found")
    status, message = refused(named, server, "house", [GOOD], version="v9")
    assert (status, message) == (404, "Model house with version v9 not found")


def test_a_body_over_the_limit_is_refused(server: Server, caller: Caller) -> None:
    status, message = refused(caller, server, "house", [[80.0, 3.0, 12.5]] * (MAX_BODY_BYTES // 12))
    assert status == 413
    assert str(MAX_BODY_BYTES) in message.replace(",", "")


def test_who_has_no_key_or_one_without_the_scope_is_refused(server: Server, caller: Caller, reader: str) -> None:
    for key, status in (("", 401), ("lgr_x_y", 401), (reader, 403)):
        assert refused(caller, server, "house", [GOOD], key=key)[0] == status


def test_a_model_that_fails_is_not_the_caller_s_fault_and_tells_nothing(gated: Server, caller: Caller) -> None:
    status, message = refused(caller, gated, "gated", [{"value": -1.0, "gate": ""}])
    assert status == 500
    assert "secret" not in message
    assert "Traceback" not in message


def test_a_deadline_and_a_full_queue_are_answered_while_the_model_works(
    gated: Server, caller: Caller, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    with ThreadPoolExecutor(2) as pool:
        try:
            first = pool.submit(caller.ask, gated, "gated", [{"value": 1.0, "gate": str(gate)}])
            eventually(Path(f"{gate}.entered").exists, 60, "the model to be at work")
            assert refused(caller, gated, "gated", [{"value": 2.0, "gate": ""}], timeout_s=0.05)[0] == 504
            many = pool.submit(caller.ask, gated, "gated", [{"value": 3.0, "gate": ""}] * QUEUE_ROWS)
            eventually(lambda: total(gated, "lagar_queue_rows") >= QUEUE_ROWS, 60, "a full queue")
            assert refused(caller, gated, "gated", [{"value": 4.0, "gate": ""}])[0] == 429
        finally:
            gate.touch()
        assert first.result()["predict"] == [2.0]
        assert many.result()["predict"] == [6.0] * QUEUE_ROWS


def test_a_deadline_in_the_past_is_refused(server: Server, caller: Caller) -> None:
    status, message = refused(caller, server, "house", [GOOD], timeout_s=-1.0)
    assert (status, "timeout" in message) == (400, True)
