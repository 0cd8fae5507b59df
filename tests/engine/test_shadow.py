"""The shadow check: which rows are put to the original, what counts as a difference, and what a violation does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lagar.engine.deployment import Deployment
from lagar.engine.host import HostFailed
from lagar.engine.shadow import WAITING, Sample, Shadow, violation_of
from lagar.errors import InvalidInput, LoadFailed, NotReady
from lagar.metrics import Registry, collect
from lagar.registry.model import FormSource, LoadedModel, ModelSource
from lagar.registry.proof import EXACT, Criterion, Violation
from lagar.registry.signature import Field, Output, Signature
from lagar.runtimes.sized import Part, Sized
from lagar.types import Outputs, Rows
from support.wait import eventually

SIGNATURE = Signature(fields=(Field("x"),), outputs=(Output("predict"),), native_outputs=("predict",), task="regressor")
SOURCE = ModelSource("wine", "1", "/nowhere", "sklearn", forms=(FormSource("trees", "/nowhere", None, EXACT),))


class Model:
    """Answers what a function makes of the column x, and notes the rows of each call."""

    def __init__(self, answer: Callable[[np.ndarray], np.ndarray] = lambda x: 2 * x) -> None:
        self.answer = answer
        self.asked: list[list[float]] = []
        self.closed = False
        self.gate = threading.Event()
        self.gate.set()

    def bind(self, signature: Signature) -> None:
        """Nothing to learn."""

    def predict(self, rows: Rows, outputs: tuple[str, ...]) -> Outputs:
        assert rows.matrix is not None
        assert self.gate.wait(60)
        self.asked.append(rows.matrix[:, 0].tolist())
        return {name: self.answer(rows.matrix[:, 0]) for name in outputs}

    def close(self) -> None:
        self.closed = True


def wrong_above_90(x: np.ndarray) -> np.ndarray:
    return np.where(x > 90, 2 * x + 1e-9, 2 * x)


def refuses_negative(x: np.ndarray) -> np.ndarray:
    if (x < 0).any():
        raise InvalidInput("x is negative", field="x")
    return 2 * x


def rows(*values: float) -> Rows:
    return Rows(len(values), matrix=np.array(values, dtype=np.float64).reshape(-1, 1))


class Bench:
    """A version whose form is watched."""

    def __init__(
        self, folder: Path, form: Model, original: Any, every: int = 1, criterion: Criterion | None = EXACT
    ) -> None:
        self.folder = folder
        self.original = original
        self.violations: list[Violation] = []
        model = LoadedModel(SOURCE, Sized([Part("trees", None, form, criterion)]), SIGNATURE, probe=rows(1.0))
        self.deployment = Deployment(model, Registry(folder, 0), max_queue_rows=1000)
        self.shadow = Shadow(1 / every, self._open)
        self.deployment.watch(self.shadow, self.violations.append)

    def _open(self, source: ModelSource) -> Any:
        if isinstance(self.original, Exception):
            raise self.original
        return self.original

    def predict(self, *values: float) -> list[float]:
        return self.deployment.predict(rows(*values), ("predict",))["predict"].tolist()

    def count(self, result: str) -> int:
        found = [one for one in collect(self.folder) if one.family.name == "lagar_shadow_rows"]
        return next(one.values[0] for one in found if one.labels == ("wine", "1", result))

    def checked(self, count: int) -> bool:
        return sum(self.count(result) for result in ("same", "different", "failed", "dropped")) == count


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(*args: Any, **options: Any) -> Bench:
        made.append(Bench(tmp_path, *args, **options))
        return made[-1]

    yield make
    for one in made:
        one.deployment.close()


@pytest.mark.parametrize("sizes", [[1] * 30, [7, 7, 7, 9], [30], [3, 1, 20, 6]])
def test_one_row_in_so_many_is_checked_however_they_are_sent(bench: Any, sizes: list[int]) -> None:
    one = bench(Model(), original := Model(), every=5)
    values = iter(range(30))
    for size in sizes:
        one.predict(*[next(values) for _ in range(size)])
    eventually(lambda: one.checked(6))
    assert original.asked == [[4.0], [9.0], [14.0], [19.0], [24.0], [29.0]]
    assert one.count("same") == 6


def test_a_row_on_which_the_form_is_wrong_is_told_once_with_both_answers(bench: Any) -> None:
    one = bench(Model(wrong_above_90), Model())
    for x in (1.0, 2.0, 91.0, 92.0):
        one.predict(x)
    (found,) = eventually(lambda: one.violations)
    assert (found.kind, found.row, found.output) == ("live", {"x": 91.0}, "predict")
    assert (found.original, found.candidate) == (182.0, 182.0 + 1e-9)
    assert "bit for bit" in found.words
    assert (one.count("same"), one.count("different")) == (2, 1)


def test_what_was_proved_within_a_tolerance_is_held_to_it(bench: Any) -> None:
    one = bench(Model(wrong_above_90), Model(), criterion=Criterion(absolute=1e-6))
    one.predict(91.0)
    eventually(lambda: one.checked(1))
    assert one.count("same") == 1


def test_a_row_that_only_the_form_refuses_is_a_violation(bench: Any) -> None:
    one = bench(Model(refuses_negative), Model())
    with pytest.raises(InvalidInput):
        one.predict(-1.0)
    (found,) = eventually(lambda: one.violations)
    assert (found.row, found.original, found.candidate) == ({"x": -1.0}, "an answer", "no (invalid_input)")


def test_a_row_that_both_refuse_is_none(bench: Any) -> None:
    one = bench(Model(refuses_negative), Model(refuses_negative))
    with pytest.raises(InvalidInput):
        one.predict(-1.0)
    eventually(lambda: one.checked(1))
    assert one.violations == []


def test_an_original_that_does_not_keep_to_its_own_answer_is_no_measure() -> None:
    unsteady = Model(lambda x: 2 * x + 1e-6 * len(x))
    sample = Sample(None, rows(1.0), 1, ("predict",), {"predict": np.array([2.0])}, "")  # type: ignore[arg-type]
    assert violation_of(sample, unsteady, EXACT, SIGNATURE) is None
    off = sample._replace(answer={"predict": np.array([2.1])})
    assert violation_of(off, unsteady, EXACT, SIGNATURE) is not None


@pytest.mark.parametrize(("share", "wrong"), [(0.5, False), (0.6, True)])
def test_a_label_may_fall_either_way_only_at_a_tie_of_a_model_that_rounds(share: float, wrong: bool) -> None:
    class Classifier(Model):
        def predict(self, rows: Rows, outputs: tuple[str, ...]) -> Outputs:
            answer = {"predict": np.full(rows.n, "a"), "predict_proba": np.tile([share, 1 - share], (rows.n, 1))}
            return {name: answer[name] for name in outputs}

    signature = Signature(
        fields=(Field("x"),),
        outputs=(Output("predict"), Output("predict_proba")),
        native_outputs=("predict",),
        task="classifier",
    )
    sample = Sample(None, rows(1.0), 1, ("predict",), {"predict": np.array(["b"])}, "")  # type: ignore[arg-type]
    assert (violation_of(sample, Classifier(), Criterion(absolute=1e-9), signature) is not None) == wrong
    assert violation_of(sample, Classifier(), EXACT, signature) is not None


def test_calls_that_the_original_answers_itself_are_not_checked(bench: Any) -> None:
    one = bench(Model(), original := Model(), criterion=None)
    one.predict(1.0)
    assert one.checked(0)
    assert original.asked == []


def test_an_original_that_takes_its_time_holds_nothing_up_and_what_is_too_much_is_counted(bench: Any) -> None:
    original = Model()
    original.gate.clear()
    one = bench(Model(), original)
    for x in range(WAITING + 20):
        assert one.predict(x) == [2 * x]
    assert one.count("dropped") >= 19
    original.gate.set()
    eventually(lambda: one.checked(WAITING + 20))


def test_an_original_that_cannot_be_asked_is_counted_and_asked_again(bench: Any) -> None:
    one = bench(Model(), HostFailed("it died"))
    one.predict(1.0)
    eventually(lambda: one.count("failed") == 1)
    one.original = Model()
    one.predict(1.0)
    eventually(lambda: one.count("same") == 1)


def test_an_original_that_does_not_load_ends_the_check(bench: Any) -> None:
    one = bench(Model(), LoadFailed("no such file"))
    one.predict(1.0)
    eventually(lambda: one.count("failed") == 1)
    one.original = Model()
    assert one.predict(1.0) == [2.0]
    assert one.count("dropped") == 1


def test_the_original_is_let_go_with_its_version(bench: Any) -> None:
    one = bench(Model(), original := Model())
    one.predict(1.0)
    eventually(lambda: one.checked(1))
    one.deployment.close()
    eventually(lambda: original.closed)


@pytest.mark.parametrize("keep", [False, True])
def test_a_form_that_is_given_up_answers_no_more_and_the_original_does_once_it_is_up(bench: Any, keep: bool) -> None:
    form, original = Model(wrong_above_90), Model()
    one = bench(form, Model())
    original.gate.clear()

    async def give_up() -> None:
        giving = asyncio.create_task(one.deployment.give_up_form("it was wrong", lambda: original, keep=keep))
        await asyncio.sleep(0)
        if keep:
            assert one.predict(91.0) == [182.0 + 1e-9]
        else:
            with pytest.raises(NotReady, match="wine@1: its compiled form was wrong"):
                one.predict(91.0)
        original.gate.set()
        await giving

    asyncio.run(give_up())
    assert one.predict(91.0) == [182.0]
    assert one.deployment.threaded
    info = one.deployment.info(live=True, loaded_at="now")
    assert (info.forms, info.warnings) == ((), ("it was wrong",))
    one.deployment.close()
    assert form.closed
