"""The race: candidates in children of their own that may do anything, and who serves which sizes."""

from __future__ import annotations

import time
from pathlib import Path

import joblib
import pytest
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lagar.forms import race
from lagar.forms.apart import Caps
from lagar.intake import sandbox
from lagar.intake.trial import Proving
from lagar.registry.model import ModelSource
from lagar.registry.proof import Attempt, Proof, Served

CAPS = Caps(wall_s=6.0, memory_bytes=1024**3, cpu_s=60)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Proof, Path]:
    """The proof with every odd candidate, and the folder for forms."""
    folder = tmp_path_factory.mktemp("odd")
    path = folder / "model.joblib"
    joblib.dump(make_pipeline(StandardScaler(), LogisticRegression()).fit(*load_wine(return_X_y=True)), path)
    source = ModelSource(name="m", version="1", path=str(path), kind="sklearn", pickled=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        proof = sandbox.prove(source, folder / "forms", proving=Proving("odd:candidates", caps=CAPS))
    return proof, folder / "forms"


@pytest.mark.parametrize(
    ("name", "outcome", "words"),
    [
        ("hang", "failed", "building was not done after 6 s and was ended"),
        ("crash", "failed", "building crashed the process (SIGABRT)"),
        ("leave", "failed", "building failed: SystemExit"),
        ("eat", "failed", "building took more than 1 GiB of memory"),
        ("fail", "failed", "building failed: RuntimeError: Type Error"),
        ("refuse", "left out", "it is no forest"),
        ("need", "left out", "a_library_that_nobody_has is not installed: pip install 'lagar[convert]'"),
        ("forget", "failed", "building left no form.json"),
        ("garble", "failed", "loading failed: garble is no form"),
    ],
)
def test_a_candidate_costs_only_itself(odd: tuple[Proof, Path], name: str, outcome: str, words: str) -> None:
    attempt = next(attempt for attempt in odd[0].attempts if attempt.name == name)
    assert attempt.outcome == outcome
    assert words in attempt.words


def test_the_original_serves_when_nothing_is_proved(odd: tuple[Proof, Path]) -> None:
    proof, folder = odd
    assert proof.served == (Served("original", 1, None),)
    assert not folder.exists()
    assert sum(proof.rows.values()) > 500
    assert "pip install 'lagar[convert]'" in proof.words


# Who serves which sizes.

SLOW = {1: 200.0, 4: 200.0, 32: 210.0, 128: 240.0, 1000: 400.0}


def scaled(times: dict[int, float], **by: float) -> dict[int, float]:
    return {size: taken * by.get(f"at_{size}", by.get("all", 1.0)) for size, taken in times.items()}


def test_a_form_that_is_quicker_everywhere_serves_everything() -> None:
    assert race.chosen(SLOW, {"a": scaled(SLOW, all=0.1)}) == (Served("a", 1, None),)


def test_a_form_that_is_slower_at_one_size_leaves_that_to_the_original() -> None:
    found = race.chosen(SLOW, {"a": scaled(SLOW, all=0.1, at_1000=3.0)})
    assert [part.name for part in found] == ["a", "original"]
    assert 128 <= (found[0].max_rows or 0) < 1000
    assert found[1] == Served("original", (found[0].max_rows or 0) + 1, None)


def test_one_form_for_small_calls_and_one_for_large_ones() -> None:
    small = scaled(SLOW, all=0.05, at_1000=0.9)
    large = scaled(SLOW, all=0.5, at_1000=0.1)
    found = race.chosen(SLOW, {"small": small, "large": large})
    assert [part.name for part in found] == ["small", "large"]


def test_a_second_form_has_to_be_worth_its_memory() -> None:
    found = race.chosen(SLOW, {"a": scaled(SLOW, all=0.1), "b": scaled(SLOW, all=0.2, at_1000=0.098)})
    assert found == (Served("a", 1, None),)


@pytest.mark.parametrize("ratios", [[1.0, 1.0, 1.0, 1.0, 1.0], [1.01, 0.98, 0.99, 1.02, 1.0], [0.97] * 5])
def test_a_form_that_is_as_quick_as_the_original_but_for_chance_does_not_take_its_place(ratios: list[float]) -> None:
    times = {size: taken * ratio for (size, taken), ratio in zip(SLOW.items(), ratios, strict=True)}
    assert race.chosen(SLOW, {"a": times}) == (Served("original", 1, None),)


@pytest.mark.parametrize("first", [0.1, 0.098, 0.102])
def test_of_two_forms_that_are_as_quick_the_first_serves(first: float) -> None:
    found = race.chosen(SLOW, {"a": scaled(SLOW, all=first), "b": scaled(SLOW, all=0.1)})
    assert found == (Served("a", 1, None),)


def test_more_rounds_are_run_until_it_is_clear_whether_a_form_is_slower_than_allowed() -> None:
    assert race.decides([0.5, 0.6, 0.5, 0.4, 0.5, 0.5, 0.9])
    assert race.decides([1.5, 1.6, 1.5, 1.4, 1.5, 1.5, 1.2])
    assert not race.decides([1.0, 1.1, 1.0, 1.02, 1.06, 1.0, 1.04])
    assert race.decides([0.5, 0.6, 0.5, 3.0, 0.5, 0.5, 0.5, 0.4, 0.5, 0.6, 0.5])


@pytest.mark.parametrize("slower", [1.06, 2.0])
def test_a_form_that_is_not_quicker_does_not_serve(slower: float) -> None:
    assert race.chosen(SLOW, {"a": scaled(SLOW, all=slower)}) == (Served("original", 1, None),)


def test_times_count_by_their_ratio_to_the_original_beside_them() -> None:
    calm, busy = {1: 100.0, 32: 100.0}, {1: 400.0, 32: 100.0}
    original, times = race.levelled({"a": (calm, {1: 10.0, 32: 10.0}), "b": (busy, {1: 40.0, 32: 10.0})})
    assert original == {1: 250.0, 32: 100.0}
    assert times["a"] == times["b"] == {1: 25.0, 32: 10.0}


def test_what_is_proved_and_does_not_serve_says_why() -> None:
    attempts = [Attempt("a", "proved"), Attempt("b", "proved"), Attempt("c", "wrong", "row 3")]
    marked = race.verdict((Served("a", 1, None),), attempts)
    assert [(attempt.outcome, attempt.words) for attempt in marked] == [
        ("serves", ""), ("proved", "another is quicker"), ("wrong", "row 3"),
    ]  # fmt: skip


def test_computing_time_is_told_from_a_coarse_clock_although_the_process_may_stand_still_at_first() -> None:
    started = time.perf_counter_ns()

    def fine() -> int:
        return max(time.perf_counter_ns() - started - 1_000_000, 0)  # one millisecond in which others compute

    def coarse() -> int:
        return (time.perf_counter_ns() - started) // 400_000 * 20_011  # ticks, of which it had a part

    assert race.clock_of(fine) is fine
    assert race.clock_of(coarse) is time.perf_counter_ns


def test_times_are_measured_in_turns() -> None:
    class Slow:
        def __init__(self, seconds: float) -> None:
            self.seconds = seconds

        def predict(self, rows: object, outputs: object) -> dict[str, object]:
            until = time.perf_counter() + self.seconds
            while time.perf_counter() < until:
                pass
            return {}

        def close(self) -> None:
            """Nothing to close."""

    import numpy as np

    from lagar.types import Rows

    rows = Rows(4, matrix=np.zeros((4, 2)))
    original, candidate = race.measure(Slow(4e-3), Slow(1e-4), rows, (), sizes=(1, 8))  # type: ignore[arg-type]
    assert set(original) == set(candidate) == {1, 8}
    assert original[1] > candidate[1]
