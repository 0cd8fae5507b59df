"""Rows near a tie of a form that leans on the original: they are its to answer, and nobody else waits for it."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lagar.engine.batcher import Batcher, Call
from lagar.engine.deployment import Deployment
from lagar.engine.host import HostFailed
from lagar.errors import InvalidInput, NotReady
from lagar.metrics import Registry, collect
from lagar.registry.model import FormSource, LoadedModel, ModelSource
from lagar.registry.proof import Criterion
from lagar.registry.signature import Field, Output, Signature
from lagar.runtimes.sized import Part, Sized
from lagar.types import Outputs, Rows

OUTPUTS = ("predict", "predict_proba")
SIGNATURE = Signature(
    fields=(Field("x"),), outputs=tuple(Output(name) for name in OUTPUTS), native_outputs=OUTPUTS, task="classifier"
)
MARGIN = 1e-4
FORM = FormSource("onnx-text", "/nowhere", None, Criterion(1e-5), margin=MARGIN)
SOURCE = ModelSource("wine", "1", "/nowhere", "sklearn", forms=(FORM,))


class Model:
    """The share of "b" is the row's number; who answers is told by the label."""

    def __init__(self, labels: tuple[str, str], failure: Exception | None = None) -> None:
        self.labels = np.array(labels)
        self.failure = failure
        self.asked: list[list[float]] = []
        self.threads: set[int] = set()
        self.closed = False

    def bind(self, signature: Signature) -> None:
        """Nothing to learn."""

    def predict(self, rows: Rows, outputs: tuple[str, ...]) -> Outputs:
        assert rows.matrix is not None
        if self.failure is not None:
            raise self.failure
        share = rows.matrix[:, 0]
        self.asked.append(share.tolist())
        self.threads.add(threading.get_ident())
        answer = {
            "predict": self.labels[(share > 0.5).astype(int)],
            "predict_proba": np.stack([1 - share, share], axis=1),
        }
        return {name: answer[name] for name in outputs}

    def close(self) -> None:
        self.closed = True


class Bench:
    """A version whose form leans on an original."""

    def __init__(self, folder: Path, failure: Exception | None = None, margin: float = MARGIN) -> None:
        self.form = Model(("a", "b"))
        self.original = Model(("original says a", "original says b"), failure)
        part = Part("onnx-text", None, self.form, Criterion(1e-5), margin)
        model = LoadedModel(SOURCE, Sized([part]), SIGNATURE, probe=rows(0.1))
        self.folder = folder
        self.deployment = Deployment(model, Registry(folder, 0), max_queue_rows=1000)
        self.deployment.lean(lambda source: self.original)

    def labels(self, *shares: float) -> list[str]:
        return self.deployment.predict(rows(*shares), ("predict",))["predict"].tolist()

    def ties(self) -> int:
        found = [one for one in collect(self.folder) if one.family.name == "lagar_shadow_rows"]
        return sum(one.values[0] for one in found if one.labels == ("wine", "1", "tie"))


def rows(*values: float) -> Rows:
    return Rows(len(values), matrix=np.array(values, dtype=np.float64).reshape(-1, 1))


@pytest.fixture
def bench(tmp_path: Path) -> Any:
    made: list[Bench] = []

    def make(**options: Any) -> Bench:
        made.append(Bench(tmp_path, **options))
        return made[-1]

    yield make
    for one in made:
        one.deployment.close()


def test_only_the_rows_near_a_tie_are_the_original_s(bench: Any) -> None:
    one = bench()
    assert one.labels(0.1, 0.50001, 0.9, 0.49999, 0.6) == ["a", "original says b", "b", "original says a", "b"]
    assert one.original.asked == [[0.50001, 0.49999]]
    assert one.ties() == 2


def test_shares_are_looked_at_when_only_the_label_is_asked_for_and_not_the_other_way_round(bench: Any) -> None:
    one = bench()
    assert set(one.deployment.predict(rows(0.50001), ("predict",))) == {"predict"}
    one.deployment.predict(rows(0.50001), ("predict_proba",))
    assert len(one.original.asked) == 1, "of shares alone nothing can turn"
    answer = one.deployment.predict(rows(0.1, 0.50001), OUTPUTS)
    assert answer["predict_proba"].tolist() == [[0.9, 0.1], [1 - 0.50001, 0.50001]]


def test_a_row_of_which_single_precision_makes_nan_is_the_original_s_whatever_is_asked_for(bench: Any) -> None:
    one = bench()
    shares = one.form.predict

    def overflowing(rows: Rows, outputs: tuple[str, ...]) -> Outputs:
        answer = shares(rows, outputs)
        if "predict_proba" in answer:
            answer["predict_proba"][rows.matrix[:, 0] == 0.9] = np.nan
        return answer

    one.form.predict = overflowing
    assert one.labels(0.1, 0.9) == ["a", "original says b"]
    answer = one.deployment.predict(rows(0.1, 0.9, 0.50001), ("predict_proba",))
    assert answer["predict_proba"].tolist() == [[0.9, 0.1], [1 - 0.9, 0.9], [1 - 0.50001, 0.50001]]
    assert one.original.asked == [[0.9], [0.9]]


def test_a_form_that_knows_all_labels_asks_nobody(bench: Any) -> None:
    one = bench(margin=0.0)
    assert one.deployment.ties is None
    assert one.labels(0.5) == ["a"]


def test_an_original_that_cannot_be_asked_fails_these_rows_only(bench: Any) -> None:
    one = bench(failure=HostFailed("it died"))
    assert one.labels(0.1) == ["a"]
    with pytest.raises(NotReady, match="wine@1: a row lies so near a tie"):
        one.labels(0.1, 0.5)


def test_a_refusal_of_the_original_names_the_caller_s_row(bench: Any) -> None:
    one = bench(failure=InvalidInput("too odd", field="x", row=1))
    with pytest.raises(InvalidInput, match="too odd") as raised:
        one.labels(0.1, 0.5, 0.2, 0.5)
    assert (raised.value.field, raised.value.row) == ("x", 3)


def test_what_the_original_takes_is_no_cost_of_the_form(bench: Any) -> None:
    one = bench()
    for _ in range(30):
        one.labels(0.1)
    quick = one.deployment.cost.of(1)
    slow = one.original.predict

    def waiting(rows: Rows, outputs: tuple[str, ...]) -> Outputs:
        threading.Event().wait(0.05)
        return slow(rows, outputs)

    one.original.predict = waiting
    one.labels(0.5)
    assert one.deployment.cost.of(1) == quick


class Waiting:
    """Whoever waits for a call."""

    def __init__(self) -> None:
        self.done = asyncio.Event()

    def answered(self, call: Call) -> None:
        self.done.set()


def test_on_the_loop_nothing_waits_for_the_original(bench: Any) -> None:
    one = bench()
    for _ in range(30):
        one.labels(0.1)  # known to be quick: it runs on the loop
    one.form.threads.clear()

    async def ask(*shares: float) -> list[str]:
        batcher = Batcher(asyncio.get_running_loop(), lambda deployment: None, request_timeout_s=60.0)
        sink, now = Waiting(), time.perf_counter()
        call = Call(
            one.deployment, ("predict",), len(shares), sink, rows=rows(*shares), received=now, deadline=now + 60
        )  # fmt: skip
        batcher.submit(call)
        await sink.done.wait()
        assert call.error is None
        assert call.result is not None
        return call.result["predict"].tolist()

    assert asyncio.run(ask(0.1, 0.9)) == ["a", "b"]
    assert one.form.threads == {threading.get_ident()}
    assert asyncio.run(ask(0.1, 0.5)) == ["a", "original says a"]
    assert one.original.threads.isdisjoint({threading.get_ident()})
    assert one.deployment.may_wait


def test_the_original_is_let_go_with_its_version(bench: Any) -> None:
    one = bench()
    one.labels(0.5)
    one.deployment.close()
    assert one.original.closed
