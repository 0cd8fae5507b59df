"""The batcher's promises: what is joined, what is kept apart, who is answered when something goes wrong."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lagar.engine.batcher import Batcher, Call
from lagar.engine.deployment import Deployment
from lagar.errors import DeadlineExceeded, InvalidInput, ModelFailed, NotReady, Overloaded
from lagar.metrics import Registry
from lagar.registry.model import LoadedModel, ModelSource
from lagar.registry.signature import Field, Output, Signature
from lagar.types import Outputs, Rows

SIGNATURE = Signature(
    fields=(Field("x"),), outputs=(Output("predict"), Output("predict_proba")), native_outputs=("predict",)
)


class Doubler:
    """Answers 2·x, notes each call, and does what the test tells it: wait, raise on a value, lie about its rows."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[float], tuple[str, ...]]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.poison: float | None = None
        self.lose_a_row = False
        self.threads: set[int] = set()

    def predict(self, rows: Rows, outputs: tuple[str, ...]) -> Outputs:
        assert rows.matrix is not None
        values = rows.matrix[:, 0]
        self.calls.append((values.tolist(), outputs))
        self.threads.add(threading.get_ident())
        self.entered.set()
        assert self.gate.wait(60)
        if self.poison is not None and self.poison in values:
            raise ValueError("poison")
        answer = values * 2
        return dict.fromkeys(outputs, answer[1:] if self.lose_a_row else answer)

    def close(self) -> None:
        self.gate.set()


class Waiting:
    """A sink: an asyncio future per call."""

    def __init__(self) -> None:
        self.future: asyncio.Future[Call] = asyncio.get_running_loop().create_future()
        self.times = 0

    def answered(self, call: Call) -> None:
        self.times += 1
        self.future.set_result(call)


class Bench:
    """A batcher and its models on the running loop."""

    def __init__(self, folder: Path) -> None:
        self.metrics = Registry(folder, 0)
        self.stuck: asyncio.Queue[Deployment] = asyncio.Queue()
        self.batcher = Batcher(asyncio.get_running_loop(), self.stuck.put_nowait, request_timeout_s=0.05)

    def deploy(
        self, predictor: Doubler, *, name: str = "m", kind: Any = "sklearn", max_queue_rows: int = 1000
    ) -> Deployment:
        model = LoadedModel(ModelSource(name=name, version="1", path="-", kind=kind), predictor, SIGNATURE)
        return Deployment(model, self.metrics, max_queue_rows=max_queue_rows)

    def send(
        self,
        deployment: Deployment,
        *values: float,
        outputs: tuple[str, ...] = ("predict",),
        timeout_s: float = 30.0,
        **hooks: Any,
    ) -> tuple[Call, Waiting]:
        sink = Waiting()
        now = time.perf_counter()
        rows = Rows(len(values), matrix=np.array(values, dtype=float).reshape(-1, 1))
        call = Call(deployment, outputs, len(values), sink, rows=rows, received=now, deadline=now + timeout_s, **hooks)
        self.batcher.submit(call)
        return call, sink


async def answer(sent: tuple[Call, Waiting]) -> Call:
    async with asyncio.timeout(20):
        return await sent[1].future


async def reached(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 20)


def values_of(call: Call, output: str = "predict") -> list[float]:
    assert call.error is None
    assert call.result is not None
    return list(call.result[output])


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Callable[[Bench], Any]], None]:
    def go(test: Callable[[Bench], Any]) -> None:
        async def with_bench() -> None:
            await test(Bench(tmp_path))

        asyncio.run(with_bench())

    return go


def test_what_arrives_in_one_turn_is_one_call_and_each_gets_its_own_rows(run: Any) -> None:
    async def test(bench: Bench) -> None:
        model = Doubler()
        deployment = bench.deploy(model)
        sent = [bench.send(deployment, 1), bench.send(deployment, 2, 3), bench.send(deployment, 4)]
        assert [values_of(await answer(one)) for one in sent] == [[2], [4, 6], [8]]
        assert model.calls == [([1, 2, 3, 4], ("predict",))]
        assert model.threads == {threading.get_ident()}

    run(test)


def test_requests_for_other_outputs_are_not_joined(run: Any) -> None:
    async def test(bench: Bench) -> None:
        model = Doubler()
        deployment = bench.deploy(model)
        first = bench.send(deployment, 1)
        second = bench.send(deployment, 2, outputs=("predict_proba",))
        third = bench.send(deployment, 3)
        assert values_of(await answer(first)) == [2]
        assert values_of(await answer(second), "predict_proba") == [4]
        assert values_of(await answer(third)) == [6]
        assert [outputs for _, outputs in model.calls] == [("predict",), ("predict_proba",), ("predict",)]

    run(test)


def test_what_arrives_while_a_slow_model_runs_is_its_next_batch(run: Any) -> None:
    async def test(bench: Bench) -> None:
        model = Doubler()
        model.gate.clear()
        deployment = bench.deploy(model, kind="custom")
        first = bench.send(deployment, 1)
        await reached(model.entered)
        rest = [bench.send(deployment, value) for value in (2, 3, 4)]
        model.gate.set()
        assert values_of(await answer(first)) == [2]
        assert [values_of(await answer(one)) for one in rest] == [[4], [6], [8]]
        assert [values for values, _ in model.calls] == [[1], [2, 3, 4]]

    run(test)


def test_a_blocked_model_does_not_stop_the_loop_or_another_model(run: Any) -> None:
    async def test(bench: Bench) -> None:
        blocked, quick = Doubler(), Doubler()
        blocked.gate.clear()
        slow = bench.send(bench.deploy(blocked, kind="custom"), 1)
        await reached(blocked.entered)
        assert values_of(await answer(bench.send(bench.deploy(quick, name="quick"), 5))) == [10]
        blocked.gate.set()
        assert values_of(await answer(slow)) == [2]

    run(test)


def test_user_code_runs_in_a_thread_however_quick_it_is(run: Any) -> None:
    async def test(bench: Bench) -> None:
        model = Doubler()
        deployment = bench.deploy(model, kind="custom")
        for value in range(5):
            await answer(bench.send(deployment, value))
        assert threading.get_ident() not in model.threads

    run(test)


def test_a_model_known_to_be_slow_leaves_the_loop(run: Any) -> None:
    async def test(bench: Bench) -> None:
        model = Doubler()
        deployment = bench.deploy(model)
        for rows in (1, 32, 1, 32):
            deployment.cost.learn(rows, 0.003)
        await answer(bench.send(deployment, 1))
        assert threading.get_ident() not in model.threads

    run(test)


def test_batches_are_cut_by_rows_not_by_requests(run: Any) -> None:
    async def test(bench: Bench) -> None:
        model = Doubler()
        model.gate.clear()
        deployment = bench.deploy(model, kind="custom")
        first = bench.send(deployment, 0)
        await reached(model.entered)
        for rows in (1, 10, 1, 10) * 10:  # 1 ms a row: 25 rows fill one call of a thread
            deployment.cost.learn(rows, rows / 1000)
        sent = [bench.send(deployment, *range(10)) for _ in range(4)]
        model.gate.set()
        await answer(first)
        for one in sent:
            await answer(one)
        assert [len(values) for values, _ in model.calls] == [1, 20, 20]

    run(test)


def test_a_call_that_is_slow_whatever_its_size_takes_all_that_wait(run: Any) -> None:
    async def test(bench: Bench) -> None:
        model = Doubler()
        model.gate.clear()
        deployment = bench.deploy(model, kind="custom")
        first = bench.send(deployment, 0)
        await reached(model.entered)
        for rows in (1, 32) * 20:  # 100 ms a call: far more than a thread's call may take
            deployment.cost.learn(rows, 0.1)
        sent = [bench.send(deployment, value) for value in range(40)]
        model.gate.set()
        await answer(first)
        for one in sent:
            await answer(one)
        assert [len(values) for values, _ in model.calls] == [1, 40]

    run(test)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_would_end_a_thread_is_the_models_failure(run: Any, error: type[BaseException]) -> None:
    class Leaver(Doubler):
        def predict(self, rows: Rows, outputs: tuple[str, ...]) -> Outputs:
            if rows.matrix is not None and (rows.matrix == 13).any():
                raise error
            return super().predict(rows, outputs)

    async def test(bench: Bench) -> None:
        for kind in ("custom", "sklearn"):  # in the thread, and inline
            deployment = bench.deploy(Leaver(), kind=kind)
            sent = [bench.send(deployment, value) for value in (12, 13, 14)]
            calls = [await answer(one) for one in sent]
            assert [type(call.error) for call in calls] == [type(None), ModelFailed, type(None)]

    run(test)


def test_one_poisonous_request_fails_alone(run: Any) -> None:
    async def test(bench: Bench) -> None:
        model = Doubler()
        model.poison = 13.0
        deployment = bench.deploy(model)
        sent = [bench.send(deployment, value) for value in (11, 12, 13, 14, 15)]
        calls = [await answer(one) for one in sent]
        assert [type(call.error) for call in calls] == [type(None), type(None), ModelFailed, type(None), type(None)]
        assert [values_of(call) for call in calls if call.error is None] == [[22], [24], [28], [30]]

    run(test)


def test_a_models_exception_text_is_not_for_the_caller(run: Any) -> None:
    async def test(bench: Bench) -> None:
        model = Doubler()
        model.poison = 1.0
        call = await answer(bench.send(bench.deploy(model), 1))
        assert isinstance(call.error, ModelFailed)
        assert "poison" not in call.error.message

    run(test)


def test_a_model_that_loses_a_row_shifts_nobodys_answer(run: Any) -> None:
    async def test(bench: Bench) -> None:
        model = Doubler()
        model.lose_a_row = True
        deployment = bench.deploy(model)
        sent = [bench.send(deployment, 1), bench.send(deployment, 2)]
        assert [type((await answer(one)).error) for one in sent] == [ModelFailed, ModelFailed]

    run(test)


def test_a_cancelled_caller_leaves_the_batch_before_the_model_sees_it(run: Any) -> None:
    async def test(bench: Bench) -> None:
        model = Doubler()
        deployment = bench.deploy(model)
        stays, leaves, also_stays = (bench.send(deployment, value) for value in (1, 2, 3))
        bench.batcher.cancel(leaves[0])
        assert values_of(await answer(stays)) == [2]
        assert values_of(await answer(also_stays)) == [6]
        assert model.calls == [([1, 3], ("predict",))]
        assert leaves[1].times == 0

    run(test)


def test_a_caller_that_leaves_while_the_model_runs_hurts_nobody(run: Any) -> None:
    async def test(bench: Bench) -> None:
        model = Doubler()
        model.gate.clear()
        deployment = bench.deploy(model, kind="custom")
        leaves, stays = bench.send(deployment, 1), bench.send(deployment, 2)
        await reached(model.entered)
        bench.batcher.cancel(leaves[0])
        model.gate.set()
        assert values_of(await answer(stays)) == [4]
        assert leaves[1].times == 0

    run(test)


def test_a_deadline_is_answered_while_the_model_still_runs_and_only_once(run: Any) -> None:
    async def test(bench: Bench) -> None:
        model = Doubler()
        model.gate.clear()
        deployment = bench.deploy(model, kind="custom")
        running = bench.send(deployment, 1, timeout_s=0.05)
        await reached(model.entered)
        waiting = bench.send(deployment, 2, timeout_s=0.05)
        patient = bench.send(deployment, 3)
        assert isinstance((await answer(running)).error, DeadlineExceeded)
        assert isinstance((await answer(waiting)).error, DeadlineExceeded)
        model.gate.set()
        assert values_of(await answer(patient)) == [6]
        assert [values for values, _ in model.calls] == [[1], [3]]
        assert (running[1].times, waiting[1].times) == (1, 1)

    run(test)


def test_a_model_that_does_not_return_for_three_deadlines_is_reported_once(run: Any) -> None:
    async def test(bench: Bench) -> None:
        model = Doubler()
        model.gate.clear()
        deployment = bench.deploy(model, kind="custom")
        await answer(bench.send(deployment, 1, timeout_s=0.001))
        async with asyncio.timeout(20):
            assert await bench.stuck.get() is deployment
            await answer(bench.send(deployment, 2, timeout_s=0.001))  # its deadline is looked at while the model hangs
        assert bench.stuck.empty()
        model.gate.set()

    run(test)


def test_a_full_queue_refuses_by_rows_and_says_when_to_come_back(run: Any) -> None:
    async def test(bench: Bench) -> None:
        model = Doubler()
        deployment = bench.deploy(model, max_queue_rows=3)
        sent = [bench.send(deployment, 1, 2), bench.send(deployment, 3)]
        with pytest.raises(Overloaded) as refused:
            bench.send(deployment, 4)
        assert refused.value.retry_after_s is not None
        assert refused.value.retry_after_s >= 1
        assert [values_of(await answer(one)) for one in sent] == [[2, 4], [6]]
        assert values_of(await answer(bench.send(deployment, 4))) == [8]

    run(test)


def test_rows_that_nobody_waits_for_any_more_leave_room_for_others(run: Any) -> None:
    async def scenario(bench: Bench) -> None:
        model = Doubler()
        model.gate.clear()
        deployment = bench.deploy(model, kind="custom", max_queue_rows=5)
        running = bench.send(deployment, 1)
        await reached(model.entered)
        cancelled = bench.send(deployment, 2, 3)
        expired = bench.send(deployment, 4, 5, 6, timeout_s=0.05)
        with pytest.raises(Overloaded):
            bench.send(deployment, 7)
        bench.batcher.cancel(cancelled[0])
        assert isinstance((await answer(expired)).error, DeadlineExceeded)
        assert not deployment.waiting
        later = bench.send(deployment, 7, 8, 9, 10, 11)
        model.gate.set()
        await answer(running)
        assert values_of(await answer(later)) == [14, 16, 18, 20, 22]
        assert deployment.waiting_rows == 0

    run(scenario)


def test_one_request_larger_than_the_queue_is_taken_when_nothing_waits(run: Any) -> None:
    async def test(bench: Bench) -> None:
        deployment = bench.deploy(Doubler(), max_queue_rows=2)
        assert values_of(await answer(bench.send(deployment, 1, 2, 3))) == [2, 4, 6]

    run(test)


def test_a_full_queue_gives_the_places_of_those_who_hung_up_to_others(run: Any) -> None:
    async def test(bench: Bench) -> None:
        model = Doubler()
        model.gate.clear()
        deployment = bench.deploy(model, kind="custom", max_queue_rows=5)
        running = bench.send(deployment, 1)
        await reached(model.entered)
        gone, waits, gone_too = bench.send(deployment, 2, 3), bench.send(deployment, 4), bench.send(deployment, 5, 6)
        for call, _ in (gone, gone_too):
            bench.batcher.left(call)
        with pytest.raises(Overloaded):  # all who left would not make room enough: nobody is sent away for it
            bench.send(deployment, 7, 8, 9, 10, 11)
        assert not gone[0].done
        later = bench.send(deployment, 7, 8)
        assert isinstance((await answer(gone)).error, Overloaded)
        model.gate.set()
        answers = [values_of(await answer(one)) for one in (running, waits, gone_too, later)]
        assert answers == [[2], [8], [10, 12], [14, 16]]

    run(test)


def test_a_closed_batcher_refuses(run: Any) -> None:
    async def test(bench: Bench) -> None:
        deployment = bench.deploy(Doubler())
        bench.batcher.closed = True
        with pytest.raises(NotReady):
            bench.send(deployment, 1)

    run(test)


def test_a_preprocess_that_refuses_its_records_hurts_only_its_own_request(run: Any) -> None:
    async def test(bench: Bench) -> None:
        def refuse() -> Rows:
            raise InvalidInput("'age' must be a number", field="age", row=0)

        model = Doubler()
        deployment = bench.deploy(model, kind="custom")
        bad = bench.send(deployment, 1, prepare=refuse)
        good = bench.send(deployment, 2, prepare=lambda: Rows(1, matrix=np.array([[7.0]])))
        error = (await answer(bad)).error
        assert isinstance(error, InvalidInput)
        assert (error.field, error.row) == ("age", 0)
        assert values_of(await answer(good)) == [14]

    run(test)


def test_a_postprocess_runs_per_request_and_its_failure_is_its_own(run: Any) -> None:
    async def test(bench: Bench) -> None:
        def shape(outputs: Outputs) -> Any:
            if outputs["predict"][0] == 4:
                raise RuntimeError("no")
            return {"Prediction": outputs["predict"].tolist()}

        deployment = bench.deploy(Doubler(), kind="custom")
        sent = [bench.send(deployment, value, shape=shape) for value in (1, 2, 3)]
        calls = [await answer(one) for one in sent]
        assert [call.shaped for call in calls] == [{"Prediction": [2]}, None, {"Prediction": [6]}]
        assert isinstance(calls[1].error, ModelFailed)

    run(test)


def test_two_models_share_a_turn(run: Any) -> None:
    async def test(bench: Bench) -> None:
        first, second = Doubler(), Doubler()
        one, other = bench.deploy(first, name="one"), bench.deploy(second, name="other")
        sent = [bench.send(one, 1), bench.send(other, 2), bench.send(one, 3), bench.send(other, 4)]
        assert [values_of(await answer(each)) for each in sent] == [[2], [4], [6], [8]]
        assert (len(first.calls), len(second.calls)) == (1, 1)

    run(test)


class Centred(Doubler):
    """Answers each row less the mean of all: what a caller gets depends on its neighbours."""

    def predict(self, rows: Rows, outputs: tuple[str, ...]) -> Outputs:
        assert rows.matrix is not None
        self.calls.append((rows.matrix[:, 0].tolist(), outputs))
        return dict.fromkeys(outputs, rows.matrix[:, 0] - rows.matrix[:, 0].mean())


def test_requests_to_a_model_that_mixes_rows_are_not_joined(run: Any) -> None:
    async def test(bench: Bench) -> None:
        model = Centred()
        deployment = bench.deploy(model)
        deployment.warm_up(Rows(1, matrix=np.array([[3.0]])))
        model.calls.clear()
        sent = [bench.send(deployment, 1), bench.send(deployment, 5), bench.send(deployment, 9)]
        assert [values_of(await answer(one)) for one in sent] == [[0], [0], [0]]
        assert [values for values, _ in model.calls] == [[1], [5], [9]]

    run(test)


def test_requests_to_a_model_that_keeps_rows_apart_are_joined_after_its_trial(run: Any) -> None:
    async def test(bench: Bench) -> None:
        model = Doubler()
        deployment = bench.deploy(model)
        deployment.warm_up(Rows(1, matrix=np.array([[3.0]])))
        model.calls.clear()
        for sent in [bench.send(deployment, 1), bench.send(deployment, 5)]:
            await answer(sent)
        assert [values for values, _ in model.calls] == [[1, 5]]

    run(test)
